package bench

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// host is one end of a link: an instance of package stack, or the kernel.
type host interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// CongestionControl is the algorithm that every TCP socket of the kernel is set to.
const CongestionControl = "cubic"

// kernelHost is the kernel, in the network namespace of this process.
type kernelHost struct{}

func (kernelHost) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: useCongestionControl}
	return d.DialContext(ctx, network, address)
}

// Listen makes a listener whose connections inherit the algorithm. Multipath TCP, which
// is Go's default here, would be something else to measure.
func (kernelHost) Listen(network, address string) (net.Listener, error) {
	l := net.ListenConfig{Control: useCongestionControl}
	l.SetMultipathTCP(false)
	return l.Listen(context.Background(), network, address)
}

func (kernelHost) ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

// useCongestionControl sets the algorithm, and makes sure that it is set.
func useCongestionControl(network, _ string, raw syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return nil
	}
	var setErr error
	err := raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, CongestionControl)
	})
	if err == nil {
		err = setErr
	}
	if err != nil {
		return fmt.Errorf("setting TCP_CONGESTION to %s: %w", CongestionControl, err)
	}
	return nil
}
