//go:build linux

package tap_test

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/tap"
)

func TestOffloadConforms(t *testing.T) {
	requireTAP(t)
	linktest.Run(t, func(t *testing.T) (a, b link.Device) { return joined(t, true, true) })
}

func TestPlainConforms(t *testing.T) {
	requireTAP(t)
	linktest.Run(t, func(t *testing.T) (a, b link.Device) { return joined(t, false, false) })
}

// TestMixedConforms has the kernel cut super-frames and complete checksums.
func TestMixedConforms(t *testing.T) {
	requireTAP(t)
	linktest.Run(t, func(t *testing.T) (a, b link.Device) { return joined(t, true, false) })
}

func open(t *testing.T, cfg tap.Config) *tap.Device {
	t.Helper()
	d, err := tap.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// joined opens two TAPs and joins them with a wire within the kernel.
func joined(t *testing.T, offloadA, offloadB bool) (a, b *tap.Device) {
	t.Helper()
	a = open(t, tap.Config{Offload: offloadA, Up: true})
	b = open(t, tap.Config{Offload: offloadB, Up: true})
	redirect(t, a, b)
	redirect(t, b, a)
	return a, b
}

// redirect makes the kernel pass what it receives on one interface on to the other,
// super-frames as such.
func redirect(t *testing.T, from, to *tap.Device) {
	t.Helper()
	src, dst := index(t, from), index(t, to)
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: src, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil {
		t.Fatalf("clsact: %v", err)
	}
	if err := netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: src, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Sel: &netlink.TcU32Sel{ // any frame: its first bytes, which lie before the offset, under a mask of zero
			Flags: netlink.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{{Off: -link.EthernetHeaderLen}},
		},
		Actions: []netlink.Action{netlink.NewMirredAction(dst)},
	}); err != nil {
		t.Fatalf("u32 and mirred: %v", err)
	}
}

func index(t *testing.T, d *tap.Device) int {
	t.Helper()
	l, err := netlink.LinkByName(d.Name())
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}
