package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// What the tests do beyond running the program is asked for in the environment. Tests
// on real TAPs run in a network namespace where they are root, which takes no root:
// TestMain runs the test binary again in there. Only the tests against other programs
// have to be run by root, because postfix changes its user.
const (
	wantTAP   = "DUOTAP_TEST_TAP"       // 1: run the tests that need a TAP
	wantPeers = "DUOTAP_TEST_PEERS"     // 1: run those against other programs, too
	inside    = "DUOTAP_TEST_NAMESPACE" // set for the second run
)

// The commands that tests and scripts run are this test binary under another name, in
// a directory that is in PATH.
var commandsInPath = map[string]func(){
	"duotap":   main,
	"confined": func() { os.Exit(confined(os.Args[1:])) },
}

func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=10") // and not a second for each run of duotap
	}
	testscript.Main(testRun{m}, commandsInPath)
}

// testRun is a testing.M that runs in a network namespace, if one is wanted.
type testRun struct{ m *testing.M }

func (r testRun) Run() int {
	switch {
	case os.Getenv(inside) != "":
		if err := checkInside(); err != nil {
			fmt.Fprintln(os.Stderr, "duotap tests:", err)
			return 1
		}
	case os.Getenv(wantTAP) == "1" || os.Getenv(wantPeers) == "1":
		os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") // where the mail programs are
		return runInside()
	}
	return r.m.Run()
}

func runInside() int {
	// Most tests wait: for duplicate address detection, for a timeout. Several do so at
	// a time, unless the command line says something else.
	args := append([]string{"-test.parallel=6"}, os.Args[1:]...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getenv(wantPeers) != "1" || os.Getuid() != 0 {
		mapSelf(cmd.SysProcAttr)
	}
	code, err := exitStatus(cmd.Run())
	if err != nil {
		fmt.Fprintf(os.Stderr, "duotap tests: can't make a user and network namespace: %v\n", err)
		return 1
	}
	return code
}

// mapSelf adds a user namespace, in which whoever runs this is root.
func mapSelf(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
}

// exitStatus takes the error of a command that ran to its end apart.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func checkInside() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%s=1 demands a usable TAP device file: %w", wantTAP, err)
	}
	return f.Close()
}

// haveTAP reports whether tests may make TAPs.
func haveTAP() bool { return os.Getenv(inside) != "" }

// requireTAP skips the test outside of the namespace.
func requireTAP(t *testing.T) {
	t.Helper()
	if !haveTAP() {
		t.Skipf("needs a real TAP; run with %s=1 (no root needed)", wantTAP)
	}
}

// requirePeer skips the test unless tests against other programs are wanted, and fails
// it if the program isn't there.
func requirePeer(t *testing.T, program string) {
	t.Helper()
	if os.Getenv(wantPeers) != "1" {
		t.Skipf("needs %s; run make test-peers, or install it and run with %s=1", program, wantPeers)
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%v; testdata/install-peers installs it", err)
	}
}

// requireRoot skips the test unless tests against other programs are wanted, and fails
// it if this isn't the real root, who can become any user.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Getenv(wantPeers) != "1" {
		t.Skipf("needs root; run make test-peers, or with %s=1", wantPeers)
	}
	if users, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.HasSuffix(strings.TrimSpace(string(users)), "4294967295") {
		t.Fatalf("needs root, who can become any user; this is user %d with the users %q (%v)", os.Getuid(), users, err)
	}
}

// restrictions are what confined does before it becomes another program.
var restrictions = map[string]func() error{
	// No right over the network: its namespace belongs to the user namespace above.
	"no-rights": func() error { return nil },
	// No device file that a TAP is made with.
	"no-tun": func() error { return syscall.Mount("none", "/dev/net", "tmpfs", 0, "") },
	// No user namespace below this one.
	"no-namespaces": func() error {
		return os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	},
}

// confined runs a program with a restriction, in a user and mount namespace of its
// own: confined no-rights duotap send … The first of its two rounds makes these.
func confined(args []string) int {
	const second = "DUOTAP_TEST_CONFINED"
	if len(args) < 2 || restrictions[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: confined no-rights|no-tun|no-namespaces program [argument ...]")
		return 125
	}
	var err error
	if os.Getenv(second) == "" {
		self, _ := os.Executable()
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), second+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		mapSelf(cmd.SysProcAttr)
		var code int
		if code, err = exitStatus(cmd.Run()); err == nil {
			return code
		}
	} else if err = restrictions[args[0]](); err == nil {
		os.Unsetenv(second)
		if args[1], err = exec.LookPath(args[1]); err == nil {
			err = syscall.Exec(args[1], args[1:], os.Environ())
		}
	}
	fmt.Fprintf(os.Stderr, "confined %s: %v\n", args[0], err)
	return 125
}

// programFile is where a command of this test binary is.
func programFile(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Clean(path)
}
