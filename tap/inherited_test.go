//go:build linux

package tap_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/tap"
)

// openFile opens a TAP the way another program would, with a blocking descriptor.
func openFile(t *testing.T, flags uint16, headerLen int) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := unix.NewIfreq("inherited%d")
	r.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		t.Fatal(err)
	}
	if headerLen != 0 {
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerLen); err != nil {
			t.Fatal(err)
		}
	}
	f := os.NewFile(uintptr(fd), "inherited")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestInherited(t *testing.T) {
	requireTAP(t)
	const basic = unix.IFF_TAP | unix.IFF_NO_PI
	for name, c := range map[string]struct {
		flags     uint16
		headerLen int
		offload   bool
		gives     bool // super-frames
	}{
		"plain":                   {basic, 0, false, false},
		"plain, offload wanted":   {basic, 0, true, false},
		"header":                  {basic | unix.IFF_VNET_HDR, 0, true, true},
		"header of 12 bytes":      {basic | unix.IFF_VNET_HDR, 12, true, true},
		"header, offload refused": {basic | unix.IFF_VNET_HDR, 12, false, false},
		"one queue of several":    {basic | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			f := openFile(t, c.flags, c.headerLen)
			d := open(t, tap.Config{File: f, Offload: c.offload, Up: true, Logger: textLogger(&log)})
			if gives := d.Features().Gives.Has(link.TSO4); gives != c.gives {
				t.Errorf("gives %#x, want TSO4 %v", d.Features().Gives, c.gives)
			}
			if said := log.Len() > 0; said != (c.offload && !c.gives) {
				t.Errorf("log: %q", log.String())
			}
			if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Config.File after Open: %v, want it closed", err)
			}
			peer := open(t, tap.Config{Up: true})
			redirect(t, d, peer)
			redirect(t, peer, d)
			frame := flow.UDP([]byte("there and back"))
			there, back := receive(t, peer, udpOnly), receive(t, d, udpOnly)
			if _, err := d.Send([]link.Frame{{Data: [][]byte{frame}}}); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Send([]link.Frame{there.next()}); err != nil {
				t.Fatal(err)
			}
			if got := back.next(); !bytes.Equal(got.Data[0], frame) {
				t.Errorf("%x came back, want %x", got.Data[0], frame)
			}
			d.Close()
			if err := back.end(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Receive: %v, want net.ErrClosed", err)
			}
		})
	}
}

func TestInheritedRefused(t *testing.T) {
	requireTAP(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, f := range map[string]*os.File{
		"not a TAP":          null,
		"a TUN":              openFile(t, unix.IFF_TUN|unix.IFF_NO_PI, 0),
		"packet information": openFile(t, unix.IFF_TAP, 0),
	} {
		if _, err := tap.Open(tap.Config{File: f}); err == nil {
			t.Errorf("%s: opened", name)
		}
		if _, err := f.Stat(); err != nil {
			t.Errorf("%s: the file after a failure: %v, want it open", name, err)
		}
	}
}

func TestMultiQueueInterface(t *testing.T) {
	requireTAP(t)
	other := openFile(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_MULTI_QUEUE, 0)
	name := interfaceName(t, other)
	for kind, offload := range kinds {
		d, err := tap.Open(tap.Config{Name: name, Offload: offload})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		d.Close()
	}
}

func interfaceName(t *testing.T, f *os.File) string {
	t.Helper()
	r, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, r); err != nil {
		t.Fatal(err)
	}
	return r.Name()
}

// TestInterfaceElsewhere: a descriptor whose interface is in another network
// namespace.
func TestInterfaceElsewhere(t *testing.T) {
	requireTAP(t)
	f := openFile(t, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR, 0)
	l, err := netlink.LinkByName(interfaceName(t, f))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := newNamespace(t)
	if err := netlink.LinkSetNsFd(l, int(elsewhere)); err != nil {
		t.Fatal(err)
	}
	if _, err := tap.Open(tap.Config{File: f, Up: true}); err == nil {
		t.Error("opened, and brought up what can't be reached")
	}
	d := open(t, tap.Config{File: f, Offload: true, MTU: 1400})
	await(t, watch(d), true)
	if d.MTU() != 1400 || !d.Features().Gives.Has(link.TSO4) {
		t.Errorf("MTU %d, features %+v; want 1400 and offloads", d.MTU(), d.Features())
	}
	h, err := netlink.NewHandleAt(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	frame := []link.Frame{{Data: [][]byte{flow.UDP(nil)}}}
	if _, err := d.Send(frame); !errors.Is(err, link.ErrDown) {
		t.Errorf("Send while it is down over there: %v, want link.ErrDown", err)
	}
	if err := h.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Send(frame); err != nil {
		t.Errorf("Send: %v", err)
	}
}

// newNamespace makes a network namespace, in a thread that ends with it.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := netns.New()
		if err != nil {
			t.Error(err)
		}
		made <- ns
	}()
	ns := <-made
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}
