//go:build linux

package tap_test

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/tap"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// create makes a persistent TAP for the time of the test.
func create(t *testing.T, cfg tap.CreateConfig) string {
	t.Helper()
	name, err := tap.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tap.Delete(name); err != nil && !errors.Is(err, syscall.ENODEV) {
			t.Errorf("delete: %v", err)
		}
	})
	return name
}

// listed finds a TAP in List.
func listed(t *testing.T, name string) (tap.Info, bool) {
	t.Helper()
	all, err := tap.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Name == name {
			return i, true
		}
	}
	return tap.Info{}, false
}

func TestCreateListDelete(t *testing.T) {
	requireTAP(t)
	mac := net.HardwareAddr{2, 9, 8, 7, 6, 5}
	name := create(t, tap.CreateConfig{Name: "keep%d", MTU: 1400, MAC: mac, Up: true})
	i, ok := listed(t, name)
	if !ok || name != "keep0" || i.MTU != 1400 || i.MAC.String() != mac.String() || !i.Up || !i.Persistent || i.InUse || i.Owner != 0 || i.Group != -1 {
		t.Errorf("%s is listed as %+v", name, i)
	}
	if _, err := tap.Create(tap.CreateConfig{Name: name}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want fs.ErrExist", err)
	}
	for kind, offload := range kinds {
		d := open(t, tap.Config{Name: name, Offload: offload, MustExist: true})
		if d.MTU() != 1400 {
			t.Errorf("%s: MTU %d, want 1400", kind, d.MTU())
		}
		if i, _ := listed(t, name); !i.InUse || !i.Persistent {
			t.Errorf("%s: while open it is listed as %+v", kind, i)
		}
		if err := tap.Delete(name); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("%s: Delete while open: %v, want EBUSY", kind, err)
		}
		d.Close()
		if i, ok := listed(t, name); !ok || !i.Persistent || i.InUse {
			t.Errorf("%s: after Close it is listed as %+v, %v", kind, i, ok)
		}
	}
	if err := tap.Delete(name); err != nil {
		t.Error(err)
	}
	if _, ok := listed(t, name); ok {
		t.Error("listed after Delete")
	}
	if err := tap.Delete(name); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("second Delete: %v, want ENODEV", err)
	}
}

// TestListOnlyTAPs has other interfaces around.
func TestListOnlyTAPs(t *testing.T) {
	requireTAP(t)
	openFile(t, unix.IFF_TUN|unix.IFF_NO_PI, 0)
	d := open(t, tap.Config{})
	all, err := tap.List()
	if err != nil || len(all) != 1 || all[0].Name != d.Name() {
		t.Errorf("%+v, %v; want %s alone", all, err, d.Name())
	}
	for _, i := range []string{"lo", "absent"} {
		if err := tap.Delete(i); err == nil {
			t.Errorf("Delete of %s succeeded", i)
		}
	}
	if err := tap.Delete(d.Name()); err == nil || errors.Is(err, syscall.ENODEV) {
		t.Errorf("Delete of a TAP that isn't persistent: %v", err)
	}
}

// TestOpenErrors: what is wrong can be told by errors.Is, and what to do by a person.
func TestOpenErrors(t *testing.T) {
	requireTAP(t)
	busy := open(t, tap.Config{})
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-err"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(bridge) })
	for name, c := range map[string]struct {
		cfg  tap.Config
		is   error
		text string
	}{
		"busy":     {tap.Config{Name: busy.Name()}, syscall.EBUSY, "another program"},
		"absent":   {tap.Config{Name: "absent0", MustExist: true}, syscall.ENODEV, "no interface"},
		"a bridge": {tap.Config{Name: "br-err"}, syscall.EINVAL, "no TAP"},
	} {
		for kind, offload := range kinds {
			c.cfg.Offload = offload
			_, err := tap.Open(c.cfg)
			var call *os.SyscallError
			if !errors.Is(err, c.is) || !errors.As(err, &call) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s, %s: %v; want %v in an *os.SyscallError, and the words %q", name, kind, err, c.is, c.text)
			}
		}
	}
	if _, ok := listed(t, "absent0"); ok {
		t.Error("MustExist has created an interface")
	}
}

// unprivileged runs f in a thread without capabilities, which ends with it.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread isn't used again
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPermissions(t *testing.T) {
	requireTAP(t)
	own := create(t, tap.CreateConfig{MTU: 1300})
	unprivileged(t, func() {
		for kind, offload := range kinds {
			_, err := tap.Open(tap.Config{Name: "absent0", Offload: offload})
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "have root create it") {
				t.Errorf("%s: Open of an absent TAP: %v; want fs.ErrPermission and advice", kind, err)
			}
			d, err := tap.Open(tap.Config{Name: own, Offload: offload, MTU: 1300})
			if err != nil {
				t.Errorf("%s: Open of its owner's TAP: %v", kind, err)
				continue
			}
			d.Close()
			if _, err := tap.Open(tap.Config{Name: own, Offload: offload, MTU: 1301}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("%s: to change the MTU: %v; want fs.ErrPermission and advice", kind, err)
			}
		}
		if _, err := tap.Create(tap.CreateConfig{}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Create: %v, want fs.ErrPermission", err)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	for name, cfg := range map[string]tap.Config{
		"long name":       {Name: "sixteen-bytes-00"},
		"slash":           {Name: "a/b"},
		"NUL":             {Name: "a\x00b"},
		"dots":            {Name: ".."},
		"exists, no name": {MustExist: true},
		"small MTU":       {MTU: 67},
		"large MTU":       {MTU: 65522},
		"negative MTU":    {MTU: -1},
		"short MAC":       {MAC: net.HardwareAddr{2, 0, 0}},
		"group MAC":       {MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}},
		"zero MAC":        {MAC: make(net.HardwareAddr, 6)},
		"all at once":     {Name: "a b", MTU: 1, MAC: net.HardwareAddr{}},
	} {
		_, err := tap.Open(cfg)
		if err == nil || !strings.Contains(err.Error(), "tap: ") {
			t.Errorf("%s: %v, want an error", name, err)
		}
		if name == "all at once" && strings.Count(err.Error(), "\n") != 2 {
			t.Errorf("%s: %v, want three complaints", name, err)
		}
	}
	for name, cfg := range map[string]tap.CreateConfig{
		"owner": {Owner: -1}, "group": {Group: 1 << 40}, "MTU": {MTU: 1}, "name": {Name: "a:b"},
	} {
		if _, err := tap.Create(cfg); err == nil {
			t.Errorf("Create with a bad %s succeeded", name)
		}
	}
}
