//go:build linux

package tap_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Tests on real TAPs run as root of a user and network namespace of their own, which
// takes no root. TestMain runs the test binary again in there.
const (
	wantTAP = "DUOTAP_TEST_TAP"       // set it to 1 to run those tests
	inside  = "DUOTAP_TEST_NAMESPACE" // set for the second run
)

func TestMain(m *testing.M) {
	if os.Getenv(wantTAP) == "1" && os.Getenv(inside) == "" {
		os.Exit(runInside())
	}
	if os.Getenv(inside) != "" {
		if err := checkInside(); err != nil {
			fmt.Fprintln(os.Stderr, "tap tests:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func runInside() (code int) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "tap tests: can't make a user and network namespace: %v\n", err)
		return 1
	}
	return 0
}

func checkInside() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%s=1 demands a usable TAP device file: %w", wantTAP, err)
	}
	return f.Close()
}

// requireTAP skips the test outside of the namespace.
func requireTAP(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skipf("needs a real TAP; run with %s=1 (no root needed)", wantTAP)
	}
}
