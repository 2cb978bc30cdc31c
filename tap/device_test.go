//go:build linux

package tap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/tap"
)

const patience = 10 * time.Second

// flow is from the device to the host, whose MAC the tests set.
var flow = linktest.Flow{
	SrcMAC: [6]byte{2, 'd', 't', 0, 0, 1}, DstMAC: [6]byte{2, 'd', 't', 0, 0, 2},
	Src: netip.MustParseAddrPort("198.51.100.1:40000"), Dst: netip.MustParseAddrPort("198.51.100.2:9"),
}

// kinds are the two kinds of device.
var kinds = map[string]bool{"plain": false, "offload": true}

// receiver runs Receive and hands out copies of the frames that want accepts.
type receiver struct {
	t      *testing.T
	frames chan link.Frame
	ended  chan error
}

func receive(t *testing.T, d *tap.Device, want func(link.Headers) bool) *receiver {
	r := &receiver{t, make(chan link.Frame, 1000), make(chan error, 1)}
	go func() {
		r.ended <- d.Receive(linktest.Ring(d, 4, 4096), func(frames []link.Frame) {
			for i := range frames {
				if h, _ := frames[i].Headers(); want(h) {
					r.frames <- link.Frame{Data: [][]byte{linktest.Bytes(&frames[i])}, Offload: frames[i].Offload}
				}
			}
		})
	}()
	return r
}

func (r *receiver) next() link.Frame {
	r.t.Helper()
	select {
	case f := <-r.frames:
		return f
	case err := <-r.ended:
		r.t.Fatalf("Receive ended: %v", err)
	case <-time.After(patience):
		r.t.Fatal("no frame arrived")
	}
	panic("unreachable")
}

func (r *receiver) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("Receive doesn't end")
	}
	panic("unreachable")
}

func tcpOnly(h link.Headers) bool { return h.Version == 4 && h.Protocol == 6 }
func udpOnly(h link.Headers) bool { return h.Version == 4 && h.Protocol == 17 }

// TestSuperFramesArriveWhole: nobody cuts them on the way from one offloading TAP to
// another.
func TestSuperFramesArriveWhole(t *testing.T) {
	requireTAP(t)
	a, b := joined(t, true, true)
	all := link.Checksum | link.TSO4 | link.TSO6 | link.USO4 | link.USO6
	if want := (link.Features{Takes: all, Gives: all}); a.Features() != want {
		t.Fatalf("Features are %+v, want %+v on Linux 6.2 and later", a.Features(), want)
	}
	r := receive(t, b, func(h link.Headers) bool { return tcpOnly(h) || udpOnly(h) })
	payload := bytes.Repeat([]byte("payload "), 8000)
	for _, f := range []link.Frame{
		flow.Super(flow.TCP(1, linktest.ACK|linktest.PSH, payload), 1448),
		flow.Super(flow.TCP(1, linktest.ACK|linktest.PSH, payload[:9000]), 1448),
		flow.Super(flow.UDP(payload), 1400),
		flow.Partial(flow.TCP(1, linktest.ACK, payload[:100])),
	} {
		if _, err := a.Send([]link.Frame{f}); err != nil {
			t.Fatal(err)
		}
		got := r.next()
		if got.Offload != f.Offload || !bytes.Equal(linktest.Bytes(&got), linktest.Bytes(&f)) {
			t.Errorf("%d bytes, %+v arrived; sent were %d, %+v", got.Len(), got.Offload, f.Len(), f.Offload)
		}
	}
}

// TestManyPieces: more pieces than writev takes.
func TestManyPieces(t *testing.T) {
	requireTAP(t)
	a, b := joined(t, true, true)
	r := receive(t, b, tcpOnly)
	want := flow.Super(flow.TCP(1, linktest.ACK, make([]byte, 60000)), 1448)
	f := link.Frame{Data: linktest.Scatter(want.Data[0], 50), Offload: want.Offload}
	if _, err := a.Send([]link.Frame{f}); err != nil {
		t.Fatal(err)
	}
	if got := r.next(); got.Offload != want.Offload || !bytes.Equal(got.Data[0], want.Data[0]) {
		t.Errorf("%d bytes, %+v arrived; want %d, %+v", got.Len(), got.Offload, want.Len(), want.Offload)
	}
}

// hostSide gives the host's end an address and a static neighbour: the device.
func hostSide(t *testing.T, d *tap.Device) {
	t.Helper()
	l, err := netlink.LinkByName(d.Name())
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr(flow.Dst.Addr().String() + "/24")
	if err := netlink.AddrAdd(l, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: flow.Src.Addr().AsSlice(), HardwareAddr: flow.SrcMAC[:],
	}); err != nil {
		t.Fatal(err)
	}
}

// TestKernelUDPSegmentation: the super-frames that the kernel makes of a socket's
// datagrams are what link.Frame.Check expects.
func TestKernelUDPSegmentation(t *testing.T) {
	requireTAP(t)
	d := open(t, tap.Config{Offload: true, Up: true, MAC: flow.DstMAC[:]})
	hostSide(t, d)
	r := receive(t, d, udpOnly)
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(flow.Dst), net.UDPAddrFromAddrPort(flow.Src))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := conn.SyscallConn()
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1000) })
	if err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte("datagram "), 1000)
	if _, err := conn.Write(payload); err != nil {
		t.Fatal(err)
	}
	got := r.next()
	if got.Offload.Segment != link.SegmentUDP || got.Offload.SegmentSize != 1000 {
		t.Errorf("offload is %+v, want UDP segments of 1000", got.Offload)
	}
	var all []byte
	err = link.Split(&got, new(link.Scratch), func(f link.Frame) error {
		if !link.VerifyChecksum(&f) {
			t.Error("a datagram has a wrong checksum")
		}
		all = append(all, linktest.Bytes(&f)[42:]...)
		return nil
	})
	if err != nil || !bytes.Equal(all, payload) {
		t.Errorf("%d bytes of payload, %v; want %d", len(all), err, len(payload))
	}
}

// TestPlainAfterOffload: the kernel remembers what the last program offered.
func TestPlainAfterOffload(t *testing.T) {
	requireTAP(t)
	name := create(t, tap.CreateConfig{Up: true, MAC: flow.DstMAC[:]})
	open(t, tap.Config{Name: name, Offload: true}).Close()
	d := open(t, tap.Config{Name: name})
	hostSide(t, d)
	r := receive(t, d, tcpOnly)
	go func() {
		conn, err := net.DialTimeout("tcp4", flow.Src.String(), patience)
		if err == nil {
			conn.Close()
		}
	}()
	syn := r.next()
	if syn.Offload != (link.Offload{}) || !link.VerifyChecksum(&syn) {
		t.Errorf("the host's SYN has %+v, checksum right: %v", syn.Offload, link.VerifyChecksum(&syn))
	}
}

// TestLongFramesDropped: the host's MTU may grow after Open.
func TestLongFramesDropped(t *testing.T) {
	requireTAP(t)
	for name, offload := range kinds {
		t.Run(name, func(t *testing.T) {
			a := open(t, tap.Config{Up: true, MTU: 9000})
			b := open(t, tap.Config{Up: true, Offload: offload})
			redirect(t, a, b)
			r := receive(t, b, udpOnly)
			long, longer, short := flow.UDP(make([]byte, 1473)), flow.UDP(make([]byte, 8000)), flow.UDP([]byte("short"))
			if _, err := a.Send([]link.Frame{{Data: [][]byte{long}}, {Data: [][]byte{longer}}, {Data: [][]byte{short}}}); err != nil {
				t.Fatal(err)
			}
			if got := r.next(); !bytes.Equal(got.Data[0], short) {
				t.Errorf("%d bytes arrived, want the short frame of %d only", got.Len(), len(short))
			}
			if got := b.Stats().Dropped; got != 2 {
				t.Errorf("Stats.Dropped is %d, want 2", got)
			}
		})
	}
}

// watch returns a channel with what the watcher is told.
func watch(d *tap.Device) chan bool {
	told := make(chan bool, 100)
	d.Watch(func(up bool) { told <- up })
	return told
}

func await(t *testing.T, told chan bool, want bool) {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case up := <-told:
			if up == want {
				return
			}
		case <-timeout:
			t.Fatalf("the watcher isn't told %v", want)
		}
	}
}

func TestDownAndUp(t *testing.T) {
	requireTAP(t)
	for name, offload := range kinds {
		t.Run(name, func(t *testing.T) {
			d := open(t, tap.Config{Offload: offload})
			told := watch(d)
			await(t, told, false)
			frame := []link.Frame{{Data: [][]byte{flow.UDP(nil)}}}
			if n, err := d.Send(frame); n != 0 || !errors.Is(err, link.ErrDown) {
				t.Errorf("Send while down: %d, %v; want link.ErrDown", n, err)
			}
			l, _ := netlink.LinkByName(d.Name())
			netlink.LinkSetUp(l)
			await(t, told, true)
			if _, err := d.Send(frame); err != nil {
				t.Errorf("Send while up: %v", err)
			}
			netlink.LinkSetDown(l)
			await(t, told, false)
		})
	}
}

// TestBridgePort: a TAP that leaves a bridge isn't down, though the bridge says that
// its port is gone.
func TestBridgePort(t *testing.T) {
	requireTAP(t)
	d := open(t, tap.Config{Up: true})
	told := watch(d)
	await(t, told, true)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-test"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(bridge) })
	l, _ := netlink.LinkByName(d.Name())
	if err := errors.Join(netlink.LinkSetMaster(l, bridge), netlink.LinkSetNoMaster(l)); err != nil {
		t.Fatal(err)
	}
	netlink.LinkSetDown(l) // an event that comes last
	if up := <-told; up {
		t.Error("told up twice")
	}
	netlink.LinkSetUp(l)
	await(t, told, true)
	if len(told) != 0 {
		t.Errorf("told %d times more than there were changes", len(told))
	}
}

func TestRemoved(t *testing.T) {
	requireTAP(t)
	for name, offload := range kinds {
		t.Run(name, func(t *testing.T) {
			d := open(t, tap.Config{Offload: offload, Up: true})
			told := watch(d)
			await(t, told, true)
			r := receive(t, d, tcpOnly)
			l, _ := netlink.LinkByName(d.Name())
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
			if err := r.end(); !errors.Is(err, link.ErrRemoved) {
				t.Errorf("Receive: %v, want link.ErrRemoved", err)
			}
			await(t, told, false)
			if n, err := d.Send([]link.Frame{{Data: [][]byte{flow.UDP(nil)}}}); n != 0 || !errors.Is(err, link.ErrRemoved) {
				t.Errorf("Send: %d, %v; want link.ErrRemoved", n, err)
			}
			if err := d.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

func TestConfigured(t *testing.T) {
	requireTAP(t)
	for name, offload := range kinds {
		t.Run(name, func(t *testing.T) {
			mac := net.HardwareAddr{2, 1, 2, 3, 4, 5}
			d := open(t, tap.Config{Name: "conf%d", Offload: offload, MTU: 9000, MAC: mac, Up: true})
			l, err := netlink.LinkByName(d.Name())
			if err != nil {
				t.Fatal(err)
			}
			a := l.Attrs()
			if d.Name() != "conf0" || d.MTU() != 9000 || a.MTU != 9000 || !bytes.Equal(a.HardwareAddr, mac) || a.Flags&net.FlagUp == 0 {
				t.Errorf("%s with MTU %d; the host's end has MTU %d, MAC %v, %v", d.Name(), d.MTU(), a.MTU, a.HardwareAddr, a.Flags)
			}
			d.Close()
			if _, err := netlink.LinkByName("conf0"); err == nil {
				t.Error("the interface is still there after Close")
			}
		})
	}
}

// TestNoDescriptorLeft: neither success nor failure leaves one open.
func TestNoDescriptorLeft(t *testing.T) {
	requireTAP(t)
	busy := open(t, tap.Config{})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for _, offload := range kinds {
		for range 3 {
			if _, err := tap.Open(tap.Config{Name: busy.Name(), Offload: offload}); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("Open of an open TAP: %v, want EBUSY", err)
			}
			d, err := tap.Open(tap.Config{Offload: offload})
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			tap.Open(tap.Config{Name: "lo", Offload: offload})
			tap.Open(tap.Config{Name: "absent", MustExist: true, Offload: offload})
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors open, and %d before", after, before)
	}
}

// TestNoAllocations counts on both sides: what is sent on a arrives on b.
func TestNoAllocations(t *testing.T) {
	requireTAP(t)
	if raceDetector {
		t.Skip("allocations can't be counted under the race detector")
	}
	for name, offload := range kinds {
		t.Run(name, func(t *testing.T) {
			a, b := joined(t, offload, offload)
			arrived := make(chan struct{}, 100)
			go b.Receive(linktest.Ring(b, 4, 1514), func(frames []link.Frame) {
				for i := range frames {
					if h, _ := frames[i].Headers(); udpOnly(h) {
						arrived <- struct{}{}
					}
				}
			})
			frame := flow.UDP(make([]byte, 1000))
			batch := []link.Frame{{Data: linktest.Scatter(frame, 300)}, {Data: [][]byte{frame}}}
			if offload {
				batch[0] = flow.Super(flow.UDP(make([]byte, 30000)), 1000)
				batch[0].Data = linktest.Scatter(batch[0].Data[0], 1514)
			}
			exchange := func() {
				if _, err := a.Send(batch); err != nil {
					t.Error(err)
				}
				<-arrived
				<-arrived
			}
			if n := testing.AllocsPerRun(200, exchange); n != 0 {
				t.Errorf("%v heap allocations to send and receive %d frames, want 0", n, len(batch))
			}
		})
	}
}

func BenchmarkSend(b *testing.B) {
	if os.Getenv(inside) == "" {
		b.Skipf("needs a real TAP; run with %s=1 (no root needed)", wantTAP)
	}
	d, err := tap.Open(tap.Config{Offload: true, Up: true})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	dropped := flow.UDP(make([]byte, 1000))
	binary.BigEndian.PutUint16(dropped[12:], 0x88b5)
	for name, f := range map[string]link.Frame{
		"1000 bytes": {Data: [][]byte{dropped}},
		"64 KB":      flow.Super(flow.TCP(1, linktest.ACK, make([]byte, 65000)), 1448),
	} {
		b.Run(fmt.Sprint(name), func(b *testing.B) {
			b.SetBytes(int64(f.Len()))
			b.ReportAllocs()
			batch := []link.Frame{f}
			for b.Loop() {
				d.Send(batch)
			}
		})
	}
}

// TestFullDevice: with a bounded send buffer, and frames that wait for a slow link, Send
// blocks until there is room or the device is closed.
func TestFullDevice(t *testing.T) {
	requireTAP(t)
	f := openFile(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR, 0)
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.TUNSETSNDBUF, 10000); err != nil {
		t.Fatal(err)
	}
	a := open(t, tap.Config{File: f, Offload: true, Up: true})
	b := open(t, tap.Config{Up: true})
	redirect(t, a, b)
	if err := netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index(t, b), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       100_000, Buffer: netlink.Xmittime(100_000, 4000), Limit: 1 << 20, // bytes a second, a time, bytes
	}); err != nil {
		t.Fatal(err)
	}
	batch := make([]link.Frame, 20)
	for i := range batch {
		batch[i] = link.Frame{Data: [][]byte{flow.UDP(make([]byte, 1000))}}
	}
	r := receive(t, b, udpOnly)
	if n, err := a.Send(batch); n != len(batch) || err != nil { // 200 ms at that rate
		t.Errorf("Send of more than fits: %d, %v; want it to wait", n, err)
	}
	if got := b.Stats().Received; got < 8 {
		t.Errorf("Send returned when %d of 20 frames had left, of which 10,000 bytes hold 10 at most", got)
	}
	for range 20 {
		r.next()
	}
	sent := make(chan error, 1)
	go func() {
		for {
			if _, err := a.Send(batch); err != nil {
				sent <- err
				return
			}
		}
	}()
	r.next()
	a.Close()
	select {
	case err := <-sent:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send: %v, want net.ErrClosed", err)
		}
	case <-time.After(patience):
		t.Error("Close doesn't unblock Send")
	}
}
