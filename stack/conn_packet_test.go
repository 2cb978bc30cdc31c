package stack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// chain makes a packet chain of pattern(size), that pool has to have room for.
func chain(t testing.TB, pool *packetpool.Pool, size int) *packetpool.Packet {
	t.Helper()
	pkt, err := pool.TryAllocate(packetpool.HeadroomTCP6)
	must(t, err)
	if err := pkt.Append(pattern(size)); err != nil {
		pkt.Release()
		t.Fatal(err)
	}
	return pkt
}

// pattern is size bytes in which no two places look alike.
func pattern(size int) []byte {
	b := make([]byte, size)
	for k := range b {
		b[k] = byte(k ^ k>>8 ^ k>>16)
	}
	return b
}

// checkIntact checks that all of pkt can be read, from its first byte on, and releases it.
func checkIntact(t testing.TB, pkt *packetpool.Packet, size int) {
	t.Helper()
	b, err := io.ReadAll(pkt)
	if err != nil || !bytes.Equal(b, pattern(size)) {
		t.Errorf("the packet has %d bytes, %v; want the %d that were in it", len(b), err, size)
	}
	pkt.Release()
}

// smallBuffers launches two hosts whose connections hold as little as possible.
func smallBuffers(t *testing.T) (alice, bob *stack.Instance) {
	t.Helper()
	a, b := memlink.Pair(1500)
	cfgA, cfgB := aliceOn(withTCP, a), bobOn(withTCP, b)
	cfgA.TCP = stack.TCPConfig{SendBuffer: 4096, ReceiveBuffer: 4096}
	cfgB.TCP = cfgA.TCP
	return launch(t, withTCP, cfgA), launch(t, withTCP, cfgB)
}

// TestSendPacket sends chains of all sizes, through send buffers larger and smaller than
// they are. Each is released when SendPacket returns, and arrives.
func TestSendPacket(t *testing.T) {
	for _, buffer := range []int{4096, 4 << 20} {
		a, b := memlink.Pair(1500)
		cfg := aliceOn(withAll, a)
		cfg.TCP.SendBuffer = buffer
		alice, bob := launch(t, withAll, cfg), launch(t, withAll, bobOn(withAll, b))
		for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr()} {
			for _, payload := range []int{packetpool.HeadroomTCP6 + 1, 1514, 16384} {
				for _, size := range []int{0, 1, 1399, 1400, 1401, 4096, 65375, 65376, 300_000} {
					n := size/(payload-packetpool.HeadroomTCP6) + 1
					if n > 5000 {
						continue // slow, and nothing new
					}
					t.Run(fmt.Sprintf("%v/%d/%d/%d", addr, buffer, payload, size), func(t *testing.T) {
						pool := packets(t, n, payload)
						d, a := connect(t, alice, bob, addr)
						got := background(func() error { return wantBytes(a, pattern(size)) })
						must(t, d.SendPacket(chain(t, pool, size)))
						checkFull(t, pool)
						must(t, d.CloseWrite())
						must(t, receive(t, "the bytes", got))
					})
				}
			}
		}
	}
}

// wantBytes reads all of r, and reports whether that is want.
func wantBytes(r io.Reader, want []byte) error {
	b, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(b, want) {
		err = fmt.Errorf("%d bytes arrived, and they aren't the %d that were sent", len(b), len(want))
	}
	return err
}

// TestSendPacketUnreadPart sends what has not been read of a packet yet.
func TestSendPacketUnreadPart(t *testing.T) {
	alice, bob := couple(t, withTCP, fullOffload)
	d, a := connect(t, alice, bob, bob4.Addr())
	pkt := chain(t, packets(t, 4, 1514), 3000)
	_, err := io.ReadFull(pkt, make([]byte, 1000))
	must(t, err)
	must(t, d.SendPacket(pkt))
	must(t, d.CloseWrite())
	must(t, wantBytes(a, pattern(3000)[1000:]))
}

// TestSendPacketNothingSent: when it fails before the first byte is on its way, the packet
// is the caller's with all of its bytes, and the connection is as it was.
func TestSendPacketNothingSent(t *testing.T) {
	const size = 3000
	alice, bob := couple(t, withTCP, fullOffload)
	pool := packets(t, 4, 1514)

	t.Run("late", func(t *testing.T) {
		d, a := connect(t, alice, bob, bob4.Addr())
		pkt := chain(t, pool, size)
		must(t, d.SetWriteDeadline(past))
		wantErr(t, "SendPacket", d.SendPacket(pkt), os.ErrDeadlineExceeded, "write tcp")
		must(t, d.SetWriteDeadline(time.Now().Add(patience)))
		must(t, d.SendPacket(pkt))
		must(t, d.CloseWrite())
		must(t, wantBytes(a, pattern(size)))
	})
	t.Run("closed", func(t *testing.T) {
		d, _ := connect(t, alice, bob, bob4.Addr())
		must(t, d.Close())
		pkt := chain(t, pool, size)
		wantErr(t, "SendPacket", d.SendPacket(pkt), net.ErrClosed, "write tcp")
		checkIntact(t, pkt, size)
	})
	t.Run("write side closed", func(t *testing.T) {
		d, _ := connect(t, alice, bob, bob4.Addr())
		must(t, d.CloseWrite())
		pkt := chain(t, pool, size)
		wantErr(t, "SendPacket", d.SendPacket(pkt), syscall.EPIPE)
		checkIntact(t, pkt, size)
	})
	t.Run("reset", func(t *testing.T) {
		d, a := connect(t, alice, bob, bob4.Addr())
		must(t, a.SetLinger(0))
		must(t, a.Close())
		_, err := d.Read(make([]byte, 1))
		wantErr(t, "Read", err, syscall.ECONNRESET)
		pkt := chain(t, pool, size)
		err = d.SendPacket(pkt)
		wantErr(t, "SendPacket", err, syscall.EPIPE)
		if errors.Is(err, stack.ErrPartialPacket) {
			t.Errorf("%v, but nothing was sent", err)
		}
		checkIntact(t, pkt, size)
	})
}

// TestSendPacketCutOff: when it fails with a part of the packet on its way, the packet is
// the caller's with all of its bytes, and nothing can be written any more.
func TestSendPacketCutOff(t *testing.T) {
	const size = 100_000
	for name, c := range map[string]struct {
		end  func(d, a *stack.TCPConn, alice *stack.Instance) error
		want error
	}{
		"deadline": {func(d, _ *stack.TCPConn, _ *stack.Instance) error { return d.SetWriteDeadline(past) }, os.ErrDeadlineExceeded},
		"reset": {func(_, a *stack.TCPConn, _ *stack.Instance) error {
			return errors.Join(a.SetLinger(0), a.Close())
		}, syscall.ECONNRESET},
		"close":          {func(d, _ *stack.TCPConn, _ *stack.Instance) error { return d.Close() }, net.ErrClosed},
		"CloseWrite":     {func(d, _ *stack.TCPConn, _ *stack.Instance) error { return d.CloseWrite() }, syscall.EPIPE},
		"instance close": {func(_, _ *stack.TCPConn, alice *stack.Instance) error { return alice.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			alice, bob := smallBuffers(t)
			pool := packets(t, 80, 1514)
			d, a := connect(t, alice, bob, bob4.Addr())
			pkt := chain(t, pool, size)
			sent := background(func() error { return d.SendPacket(pkt) })
			_, err := io.ReadFull(a, make([]byte, 2000)) // so some of it is on its way
			must(t, err)
			must(t, c.end(d, a, alice))
			err = receive(t, "SendPacket", sent)
			wantErr(t, "SendPacket", err, c.want, "of 100000 bytes are sent")
			wantErr(t, "SendPacket", err, stack.ErrPartialPacket)
			checkIntact(t, pkt, size)
			if name == "close" || name == "instance close" {
				return
			}
			must(t, d.SetWriteDeadline(time.Time{}))
			_, err = d.Write([]byte("more"))
			wantErr(t, "Write afterwards", err, stack.ErrPartialPacket)
			_, err = d.ReadFrom(bytes.NewReader([]byte("more")))
			wantErr(t, "ReadFrom afterwards", err, stack.ErrPartialPacket)
			pkt = chain(t, pool, 10)
			wantErr(t, "SendPacket afterwards", d.SendPacket(pkt), stack.ErrPartialPacket)
			checkIntact(t, pkt, 10)
		})
	}
}

// TestSendPacketsAndWritesInTurn: none comes between the bytes of another, though each has
// to wait many times.
func TestSendPacketsAndWritesInTurn(t *testing.T) {
	const size = 50_000
	alice, bob := smallBuffers(t)
	pool := packets(t, 160, 1514)
	d, a := connect(t, alice, bob, bob4.Addr())
	var writers sync.WaitGroup
	for k := range byte(4) {
		b := bytes.Repeat([]byte{'a' + k}, size)
		writers.Go(func() {
			if k%2 == 0 {
				if n, err := d.Write(b); n != size || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				return
			}
			pkt, err := pool.Allocate(patient(t), 0)
			if err == nil {
				err = errors.Join(pkt.Append(b), d.SendPacket(pkt))
			}
			if err != nil {
				t.Errorf("SendPacket: %v", err)
			}
		})
	}
	got := make([]byte, 4*size)
	_, err := io.ReadFull(a, got)
	must(t, err)
	writers.Wait()
	if blocks := len(slices.Compact(got)); blocks != 4 {
		t.Errorf("%d blocks of one byte arrived, want 4", blocks)
	}
}

// TestSegments: the bytes that a packet of 1,514 has beside the headers go out as one
// segment, and 65,375 as one super-frame.
func TestSegments(t *testing.T) {
	for _, c := range []struct {
		addr netip.Addr
		size int
	}{
		{bob4.Addr(), 1514 - packetpool.HeadroomTCP4},
		{bob6.Addr(), 1514 - packetpool.HeadroomTCP6},
		{bob4.Addr(), 65375},
		{bob6.Addr(), 65375},
	} {
		t.Run(fmt.Sprint(c.addr, c.size), func(t *testing.T) {
			left, right := memlink.Pair(1500)
			var mu sync.Mutex
			var frames []int
			look := func(sent bool, f *link.Frame) {
				if n := f.Len(); sent && n > 200 {
					mu.Lock()
					defer mu.Unlock()
					frames = append(frames, n)
				}
			}
			alice := launch(t, withAll, aliceOn(withAll, &spy{left, look}))
			bob := launch(t, withAll, bobOn(withAll, right))
			d, a := connect(t, alice, bob, c.addr)
			sent, arrived := warmUp(t, d, a)
			pool := packets(t, 1, packetpool.HeadroomTCP6+c.size)
			eventually(t, "one frame", func() bool { // the receiver may be short of buffer for once
				mu.Lock()
				frames = nil
				mu.Unlock()
				must(t, d.SendPacket(chain(t, pool, c.size)))
				sent += int64(c.size)
				eventually(t, "arrival", func() bool { return arrived.Load() == sent })
				mu.Lock()
				defer mu.Unlock()
				return len(frames) == 1 && frames[0] >= c.size
			})
		})
	}
}

// warmUp sends until the congestion window has opened for a super-frame, and all has
// arrived. It goes on counting what arrives.
func warmUp(t *testing.T, d, a *stack.TCPConn) (sent int64, arrived *atomic.Int64) {
	t.Helper()
	arrived = new(atomic.Int64)
	go func() {
		b := make([]byte, 1<<20)
		for {
			n, err := a.Read(b)
			if err != nil {
				return
			}
			arrived.Add(int64(n))
		}
	}()
	eventually(t, "an open congestion window", func() bool {
		n, err := d.Write(make([]byte, 1<<20))
		must(t, err)
		sent += int64(n)
		return d.Info().CongestionWindow > 65375/1400+1
	})
	eventually(t, "arrival", func() bool { return arrived.Load() == sent })
	return sent, arrived
}
