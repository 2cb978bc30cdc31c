package stack

import (
	"context"
	"io"
	"net/netip"
	"runtime/debug"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/duotap/duotap/packetpool"
)

// reluctant is an endpoint that allocates nothing. It wants each call twice: at the first
// it would block, and at once it wouldn't any more.
type reluctant struct {
	tcpip.Endpoint
	opts    tcpip.SocketOptions
	queue   waiter.Queue
	scratch [maxPiece]byte
	ready   bool
}

var block tcpip.Error = &tcpip.ErrWouldBlock{}

func (e *reluctant) blocks(events waiter.EventMask) bool {
	e.ready = !e.ready
	if e.ready {
		e.queue.Notify(events)
	}
	return e.ready
}

func (e *reluctant) Read(dst io.Writer, _ tcpip.ReadOptions) (tcpip.ReadResult, tcpip.Error) {
	if e.blocks(waiter.ReadableEvents) {
		return tcpip.ReadResult{}, block
	}
	n, _ := dst.Write(e.scratch[:100])
	return tcpip.ReadResult{Count: n, Total: n, RemoteAddr: tcpip.FullAddress{Addr: tcpip.AddrFrom4([4]byte{192, 0, 2, 1}), Port: 1}}, nil
}

func (e *reluctant) Write(p tcpip.Payloader, _ tcpip.WriteOptions) (int64, tcpip.Error) {
	if e.blocks(waiter.WritableEvents) {
		return 0, block
	}
	n, _ := io.ReadFull(p, e.scratch[:p.Len()])
	return int64(n), nil
}

func (e *reluctant) SocketOptions() *tcpip.SocketOptions               { return &e.opts }
func (e *reluctant) SetSockOpt(tcpip.SettableSocketOption) tcpip.Error { return nil }
func (e *reluctant) SetSockOptInt(tcpip.SockOptInt, int) tcpip.Error   { return nil }
func (e *reluctant) ModerateRecvBuf(int)                               {}
func (e *reluctant) Close()                                            {}

// TestAllocations: the connections themselves take no memory for a call, even if it has to
// wait.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates memory of its own")
	}
	i := &Instance{cfg: Config{}.withDefaults()}
	newSocket := func() *socket {
		e := new(reluctant)
		e.opts.InitHandler(new(tcpip.DefaultSocketOptionsHandler), nil, nil, nil)
		s, err := i.newSocket("tcp", e, &e.queue)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tcp, udp := newTCPConn(newSocket()), newUDPConn(newSocket())
	pool, err := packetpool.New(packetpool.Config{Packets: 100, Payload: 1514})
	if err != nil {
		t.Fatal(err)
	}
	small, large := make([]byte, 100), make([]byte, 3*maxPiece)
	to := netip.MustParseAddrPort("192.0.2.1:1")
	deadline := time.Now().Add(time.Hour)
	for name, call := range map[string]func() error{
		"TCP Read":        func() error { _, err := tcp.Read(small); return err },
		"TCP Write":       func() error { _, err := tcp.Write(small); return err },
		"TCP Write large": func() error { _, err := tcp.Write(large); return err },
		"SendPacket": func() error {
			pkt, err := pool.Allocate(context.Background(), packetpool.HeadroomTCP4)
			if err == nil {
				err = pkt.Append(large[:80_000])
			}
			if err == nil {
				err = tcp.SendPacket(pkt)
			}
			return err
		},
		"SetDeadline": func() error { return tcp.SetDeadline(deadline) },
		"UDP Read":    func() error { _, err := udp.Read(small); return err },
		"UDP Write":   func() error { _, err := udp.Write(small); return err },
		"ReadFromUDPAddrPort": func() error {
			_, _, err := udp.ReadFromUDPAddrPort(small)
			return err
		},
		"WriteToUDPAddrPort": func() error { _, err := udp.WriteToUDPAddrPort(small, to); return err },
	} {
		t.Run(name, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // sync.Pools stay filled
			n := testing.AllocsPerRun(100, func() {
				if err := call(); err != nil {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%v allocations for a call, want 0", n)
			}
		})
	}
}
