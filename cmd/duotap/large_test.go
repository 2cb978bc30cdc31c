package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duotap/duotap/smtpclient/smtptest"
)

// sendLarge sends size bytes of text to a server that keeps only their sum, and
// compares. It returns the most memory that the program has had, in bytes.
func sendLarge(t *testing.T, f family, program string, size int64, args ...string) int64 {
	t.Helper()
	var pid atomic.Int64
	peak := make(chan string, 1)
	store := &smtptest.Store{Digest: true, Refuse: func(command string) string {
		if command == "QUIT" { // all is done, and the process is still there to be asked
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid.Load())) // what is missing shows below
			peak <- string(status)
		}
		return ""
	}}
	l := f.listen(t)
	served := make(chan error, 1)
	go func() { served <- store.Serve(l) }()

	sum := sha256.New()
	message := io.TeeReader(io.MultiReader(strings.NewReader("Subject: large\r\n\r\n"), newDemoText(size)), sum)
	p := start(t, 5*time.Minute, message, program, sendArgs(f.smtp(), append(args, "--raw", "--to", "ops@example.org")...)...)
	pid.Store(int64(p.cmd.Process.Pid))
	r := p.wait()
	r.mustSucceed(t)
	l.Close()
	<-served

	mails := store.Messages()
	if err := store.Problems(); err != nil || len(mails) != 1 {
		t.Fatalf("%d messages arrived, want 1: %v", len(mails), err)
	}
	if mails[0].SHA256 != [32]byte(sum.Sum(nil)) {
		t.Errorf("of %d bytes sent, %d arrived, and not the same", size, mails[0].Size)
	}
	resident, err := vmHWM(<-peak)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes in %.1f s, %.0f MB/s; VmHWM %.1f MiB; %s", size, r.took.Seconds(),
		float64(size)/1e6/r.took.Seconds(), float64(resident)/(1<<20), strings.TrimSpace(r.stdout))
	return resident
}

// buildProgram builds the program as users have it: the test binary may have the race
// detector in it, which takes several times the memory.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/duotap"
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	return path
}

func TestSendThroughOnePacket(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		sendLarge(t, f, programFile(t, "duotap"), 10<<20, "--pool-packets", "1")
	})
}

// A mail of any size takes no more memory than the pool and TCP's buffers.
func TestSendGigabyte(t *testing.T) {
	if testing.Short() {
		t.Skip("sends a gigabyte")
	}
	requireTAP(t)
	program := buildProgram(t)
	for k, f := range families {
		t.Run(f.name, func(t *testing.T) {
			newNetwork(t)
			size := int64(1<<30) >> (2 * k) // IPv6 has nothing to add but its headers
			if peak := sendLarge(t, f, program, size, "--pool-packets", "16"); peak >= 64<<20 {
				t.Errorf("it took %d bytes of memory, want less than 64 MiB", peak)
			}
		})
	}
}
