package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/tap"
)

// tapName is the TAP of tests that need only one.
const tapName = "duotap0"

// family is one of the two ways to the kernel's side of a TAP.
type family struct {
	name     string
	server   netip.Addr // the kernel's
	silent   netip.Addr // on the same link, and nobody's
	remote   netip.Addr // on no link
	headroom int        // of a packet, in bytes
}

var families = []family{
	{"IPv4", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("198.51.100.1"), 94},
	{"IPv6", netip.MustParseAddr("fd99::1"), netip.MustParseAddr("fd99::99"), netip.MustParseAddr("2001:db8::1"), 114},
}

// linkArgs are the link flags of an appliance on the TAP of newNetwork.
var linkArgs = []string{"--tap", tapName, "--address", "192.0.2.2/24", "--address", "fd99::2/64"}

// enterNetwork puts the calling goroutine, and the processes and sockets that it
// makes, into a new network namespace, which vanishes with the last of them. A subtest
// is another goroutine.
func enterNetwork(t *testing.T) {
	t.Helper()
	requireTAP(t)
	runtime.LockOSThread() // for good, so the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
}

// newNetwork is enterNetwork with a persistent TAP that has the kernel's addresses.
func newNetwork(t *testing.T) {
	t.Helper()
	enterNetwork(t)
	createTAP(t, tapName, serverAddrs)
}

func createTAP(t *testing.T, name string, addrs []netip.Prefix) {
	t.Helper()
	if _, err := tap.Create(tap.CreateConfig{Name: name}); err != nil {
		t.Fatal(err)
	}
	if err := configureKernel(name, addrs); err != nil {
		t.Fatal(err)
	}
}

// kernelLink finds an interface of the kernel.
func kernelLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listen opens port 25 on the kernel's side.
func (f family) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", f.smtp())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// smtp is the address of that port.
func (f family) smtp() string { return netip.AddrPortFrom(f.server, 25).String() }

// eachFamily runs a subtest for IPv4 and one for IPv6, each in a network of its own,
// and at the same time as other tests.
func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	requireTAP(t)
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			newNetwork(t)
			test(t, f)
		})
	}
}

// result is what a run of the program left.
type result struct {
	args           []string
	code           int
	stdout, stderr string
	took           time.Duration
}

const (
	// runLimit is how long a run of the program may take if its test says nothing else.
	runLimit = 30 * time.Second
	// acceptTimeout is how long a test waits for something that has to happen.
	acceptTimeout = 10 * time.Second
	// soon is how long it may take to fail: less than any of the default timeouts, and
	// enough for the ones that tests set, duplicate address detection and a busy machine.
	soon = 15 * time.Second
)

// process is a run of the program that goes on.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	start          time.Time
}

// output is what a process has printed until now.
type output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed by the next Write; nil if nobody waits
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return len(b), nil
}

// read returns the text, and a channel that is closed when there is more.
func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return string(o.text), o.changed
}

func (o *output) String() string {
	text, _ := o.read()
	return text
}

// await waits until text has been printed n times.
func (o *output) await(t *testing.T, text string, n int) {
	t.Helper()
	giveUp := time.After(acceptTimeout)
	for {
		got, changed := o.read()
		if strings.Count(got, text) >= n {
			return
		}
		select {
		case <-changed:
		case <-giveUp:
			t.Fatalf("waited in vain for %d times %q in\n%s", n, text, got)
		}
	}
}

// start runs a program, and kills it at the end of the test or after limit.
func start(t *testing.T, limit time.Duration, stdin io.Reader, program string, args ...string) *process {
	t.Helper()
	return startIn(t, 0, limit, stdin, program, args...)
}

// startIn is start in new namespaces, given as flags of clone.
func startIn(t *testing.T, namespaces uintptr, limit time.Duration, stdin io.Reader, program string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	p := &process{t: t, cmd: exec.CommandContext(ctx, program, args...)}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second // for a stdin that gives nothing and doesn't end
	p.start = time.Now()
	if err := p.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cancel(); p.cmd.ProcessState == nil {
			_ = p.cmd.Wait()
		}
	})
	return p
}

// wait returns what the program left.
func (p *process) wait() result {
	p.t.Helper()
	code, err := exitStatus(p.cmd.Wait())
	r := result{args: p.cmd.Args, code: code, stdout: p.stdout.String(), stderr: p.stderr.String(), took: time.Since(p.start)}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) || code < 0 {
		p.t.Fatalf("%v after %v: %v\n%s", r.args, r.took, err, r.output())
	}
	if strings.Contains(r.stderr, "DATA RACE") || strings.Contains(r.stderr, "goroutine ") {
		p.t.Fatalf("%v:\n%s", r.args, r.output())
	}
	return r
}

// duotap runs the program to its end.
func duotap(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	return start(t, runLimit, stdin, programFile(t, "duotap"), args...).wait()
}

// duotapWithoutRights runs it as one who may not make a TAP.
func duotapWithoutRights(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	return start(t, runLimit, stdin, programFile(t, "confined"), append([]string{"no-rights", "duotap"}, args...)...).wait()
}

// sendArgs is a duotap send to server, on the TAP of newNetwork.
func sendArgs(server string, more ...string) []string {
	args := append([]string{"send"}, linkArgs...)
	return append(append(args, "--server", server, "--from", "device@example.org"), more...)
}

func (r result) output() string {
	return fmt.Sprintf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
}

// mustSucceed fails the test unless the run has gone well and said nothing about
// trouble.
func (r result) mustSucceed(t *testing.T) {
	t.Helper()
	if r.code != exitOK || r.stderr != "" {
		t.Fatalf("%v: exit code %d, want 0 and an empty stderr\n%s", r.args, r.code, r.output())
	}
}

// mustFail fails the test unless the run ended soon, with code and with one line of
// error that the regular expressions match.
func (r result) mustFail(t *testing.T, code int, patterns ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if r.took > soon {
		t.Errorf("it took %v, want %v at most", r.took, soon)
	}
	if !strings.HasPrefix(r.stderr, "duotap: ") || strings.Count(r.stderr, "\n") != 1 {
		t.Error("stderr isn't one line that begins with duotap:")
	}
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(r.stderr) {
			t.Errorf("the error doesn't match %q", p)
		}
	}
	if t.Failed() {
		t.Fatalf("%v\n%s", r.args, r.output())
	}
}

// writeTemp makes a file that vanishes with the test, and returns its name.
func writeTemp(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}
