package stack_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/duotap/duotap/stack"
)

// TestConn runs the suite for connections of the Go project. It is for streams only;
// TestUDPConcurrently stands in for it with datagrams.
func TestConn(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr()} {
		t.Run(addr.String(), func(t *testing.T) { nettest.TestConn(t, pipes(alice, bob, addr)) })
	}
}

// pipes makes connections for nettest.
func pipes(from, to hostNet, addr netip.Addr) nettest.MakePipe {
	return func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := to.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		if c1, err = from.DialContext(context.Background(), "tcp", l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	}
}

// TestUDPConcurrently calls everything at once. The results may be any; but buffers are the
// caller's again when a call returns, and Close ends it all.
func TestUDPConcurrently(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr()} {
		t.Run(addr.String(), func(t *testing.T) {
			l, err := bob.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
			must(t, err)
			d, err := alice.DialContext(patient(t), "udp", l.LocalAddr().String())
			must(t, err)
			var calls, readers sync.WaitGroup
			for _, c := range []*stack.UDPConn{l.(*stack.UDPConn), d.(*stack.UDPConn)} {
				callEverything(&calls, &readers, c, d.LocalAddr())
			}
			calls.Wait()
			must(t, d.Close())
			must(t, l.Close())
			readers.Wait()
		})
	}
}

// callEverything calls what ends by itself in calls, and what Close ends in readers.
func callEverything(calls, readers *sync.WaitGroup, c *stack.UDPConn, to net.Addr) {
	for range 4 {
		readers.Go(func() {
			b := make([]byte, 100)
			for err := error(nil); !errors.Is(err, net.ErrClosed); _, _, err = c.ReadFrom(b) {
				clear(b)
			}
		})
		calls.Go(func() {
			b := make([]byte, 1000)
			for range 100 {
				c.Write(b)
				c.WriteTo(b, to)
				b[0]++
			}
		})
		calls.Go(func() {
			for range 100 {
				c.SetReadDeadline(time.Now().Add(time.Millisecond))
				c.SetWriteDeadline(past)
				c.SetDeadline(time.Time{})
				c.SetReadBuffer(1 << 16)
				c.SetWriteBuffer(1 << 16)
				c.LocalAddr()
				c.RemoteAddr()
			}
		})
	}
}
