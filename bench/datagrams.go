package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// datagrams sends and receives datagrams of one size as fast as a socket can. Its two
// methods may be called from a goroutine each.
type datagrams interface {
	send() (packets int, err error)
	receive() (packets, bytes int, err error)
	Close() error
}

const (
	udpBatch    = 64      // messages in one sendmmsg or recvmmsg
	udpSegments = 64      // datagrams in one write with UDP_SEGMENT (UDP_MAX_SEGMENTS of older kernels)
	udpMaxBytes = 65_000  // of such a write
	udpBuffer   = 4 << 20 // receive buffer, in bytes
)

// newDatagrams prepares a socket that talks to remote. Offload has the kernel cut and
// join datagrams (UDP_SEGMENT, UDP_GRO); an instance does that by itself.
func newDatagrams(c net.PacketConn, remote netip.AddrPort, size int, offload bool) (datagrams, error) {
	if b, ok := c.(interface{ SetReadBuffer(int) error }); ok {
		if err := b.SetReadBuffer(udpBuffer); err != nil {
			return nil, err
		}
	}
	if k, ok := c.(*net.UDPConn); ok {
		return newKernelDatagrams(k, remote, size, offload)
	}
	p, ok := c.(addrPortConn)
	if !ok {
		return nil, fmt.Errorf("a socket of type %T can't be measured", c)
	}
	return &instanceDatagrams{p, remote, make([]byte, size), make([]byte, 2048)}, nil
}

// addrPortConn is what the socket of an instance has beside net.PacketConn.
type addrPortConn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	Close() error
}

// instanceDatagrams is one datagram a call.
type instanceDatagrams struct {
	addrPortConn
	remote  netip.AddrPort
	out, in []byte
}

func (d *instanceDatagrams) send() (int, error) {
	if _, err := d.WriteToUDPAddrPort(d.out, d.remote); err != nil {
		return 0, err
	}
	return 1, nil
}

func (d *instanceDatagrams) receive() (packets, bytes int, err error) {
	n, _, err := d.ReadFromUDPAddrPort(d.in)
	if err != nil {
		return 0, 0, err
	}
	return 1, n, nil
}

// kernelDatagrams is a batch a call.
type kernelDatagrams struct {
	*net.UDPConn
	batch interface {
		ReadBatch(ms []ipv4.Message, flags int) (int, error)
		WriteBatch(ms []ipv4.Message, flags int) (int, error)
	}
	size    int
	perSend int // datagrams in each message out
	out, in []ipv4.Message
}

func newKernelDatagrams(c *net.UDPConn, remote netip.AddrPort, size int, offload bool) (*kernelDatagrams, error) {
	d := &kernelDatagrams{UDPConn: c, size: size, perSend: 1}
	d.batch = ipv4.NewPacketConn(c)
	if remote.Addr().Is6() {
		d.batch = ipv6.NewPacketConn(c)
	}
	room, messages := 2048, udpBatch
	if offload {
		d.perSend, room, messages = min(udpSegments, udpMaxBytes/size), 1<<16, 1
	}
	payload := make([]byte, size*d.perSend)
	for range messages {
		d.out = append(d.out, ipv4.Message{Buffers: [][]byte{payload}})
	}
	for range udpBatch {
		d.in = append(d.in, ipv4.Message{Buffers: [][]byte{make([]byte, room)}})
	}
	return d, d.configure(remote, offload)
}

// configure connects the socket, so that its datagrams need no address.
func (d *kernelDatagrams) configure(remote netip.AddrPort, offload bool) error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	err = raw.Control(func(fd uintptr) {
		errs = append(errs, os.NewSyscallError("connect", unix.Connect(int(fd), sockaddr(remote))))
		if offload {
			errs = append(errs, os.NewSyscallError("setsockopt UDP_SEGMENT", unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, d.size)),
				os.NewSyscallError("setsockopt UDP_GRO", unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)))
		}
	})
	return errors.Join(append(errs, err)...)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (d *kernelDatagrams) send() (int, error) {
	n, err := d.batch.WriteBatch(d.out, 0)
	return max(n, 0) * d.perSend, err
}

func (d *kernelDatagrams) receive() (packets, bytes int, err error) {
	n, err := d.batch.ReadBatch(d.in, 0)
	for k := range max(n, 0) {
		packets += (d.in[k].N + d.size - 1) / d.size
		bytes += d.in[k].N
	}
	return packets, bytes, err
}

// sendAll sends until the socket is closed. A full queue is no reason to stop.
func sendAll(d datagrams, t *traffic) error {
	for {
		n, err := d.send()
		t.sent.Add(int64(n))
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
}

// receiveAll receives until the socket is closed.
func receiveAll(d datagrams, t *traffic) error {
	for {
		packets, bytes, err := d.receive()
		t.packets.Add(int64(packets))
		t.bytes.Add(int64(bytes))
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
}
