//go:build linux

package stack_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/tap"
)

// Tests on a real TAP run as root of a user and network namespace of their own, which
// takes no root. TestMain runs the test binary again in there.
const (
	wantTAP = "DUOTAP_TEST_TAP"       // set it to 1 to run those tests
	inside  = "DUOTAP_TEST_NAMESPACE" // set for the second run
)

func TestMain(m *testing.M) {
	if os.Getenv(wantTAP) == "1" && os.Getenv(inside) == "" {
		os.Exit(runInside())
	}
	if os.Getenv(inside) != "" { // where the kernel has nothing up, not even 127.0.0.1
		if err := raise("lo"); err != nil {
			fmt.Fprintln(os.Stderr, "stack tests:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintf(os.Stderr, "stack tests: can't make a user and network namespace: %v\n", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// tapLab is an instance on a TAP, as the client, and the kernel behind it.
func tapLab(t *testing.T, offload bool) lab {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skipf("needs a real TAP; run with %s=1 (no root needed)", wantTAP)
	}
	dev, err := tap.Open(tap.Config{Offload: offload})
	must(t, err)
	for _, family := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} { // every datagram to nobody is answered
		must(t, os.WriteFile("/proc/sys/net/"+family, []byte("0"), 0))
	}
	must(t, raise(dev.Name(), bob4, bob6))
	alice := launch(t, withAll, aliceOn(withAll, dev))
	must(t, alice.Ready(patient(t)))
	l := instanceLab(alice, nil)
	l.server.hostNet = new(kernel)
	return l
}

// raise gives an interface of the kernel's its addresses and brings it up.
func raise(name string, addrs ...netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("bringing up %s: %w", name, err)
	}
	for _, a := range addrs {
		ipnet := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("giving %s the address %v: %w", name, a, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// TestParityTAP looks at what TestParity and TestConn do, with the kernel at the other end
// of a TAP.
func TestParityTAP(t *testing.T) {
	for _, kind := range []string{"offload", "plain"} {
		t.Run(kind, func(t *testing.T) {
			l := tapLab(t, kind == "offload")
			t.Run("client", func(t *testing.T) { runSuites(t, l) })
			l.client, l.server = l.server, l.client
			t.Run("server", func(t *testing.T) { runSuites(t, l) })
		})
	}
}

func runSuites(t *testing.T, l lab) {
	runParity(t, l)
	for family, addr := range l.server.addrs {
		t.Run(fmt.Sprintf("TestConn%d", family), func(t *testing.T) {
			nettest.TestConn(t, pipes(l.client, l.server, addr))
		})
	}
}
