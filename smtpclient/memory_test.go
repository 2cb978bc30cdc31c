package smtpclient_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// TestMemoryOfOneGiB sends 1 GiB through 16 packets, in a process of its own, whose
// memory at its peak has to stay below 64 MiB; the server is in it too.
func TestMemoryOfOneGiB(t *testing.T) {
	const peakLimit = 64 << 10 // KiB
	if smtpclient.RaceEnabled || testing.Short() {
		t.Skip("not with the race detector, which needs memory itself, and not in a hurry")
	}
	if os.Getenv("SMTPCLIENT_ONE_GIB") != "" {
		sendOneGiB(t)
		return
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !bytes.Contains(status, []byte("VmHWM")) {
		t.Skip("the kernel doesn't tell the peak of memory")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestMemoryOfOneGiB$", "-test.v")
	cmd.Env = append(os.Environ(), "SMTPCLIENT_ONE_GIB=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no peak in %s", out)
	}
	peak, err := strconv.Atoi(string(m[1]))
	t.Logf("peak of resident memory: %d KiB", peak)
	if err != nil || peak > peakLimit {
		t.Errorf("%d KiB are more than %d KiB: %v", peak, peakLimit, err)
	}
}

func sendOneGiB(t *testing.T) {
	const total = 1 << 30
	line := []byte("A line of 64 bytes, which are repeated until there is a GiB...\r\n")
	store := &smtptest.Store{Digest: true}
	cfg := testConfig(t, serveStore(t, store))
	cfg.Pool = newPool(t, 16, 1514)
	m := smtpclient.Mail{To: []string{"ops@example.net"}, Raw: true, Body: io.LimitReader(repeat(line), total)}
	if _, err := send(t, newClient(t, cfg), t.Context(), m); err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	_, _ = io.Copy(want, io.LimitReader(repeat(line), total))
	if got := store.Messages()[0]; got.Size != total || !bytes.Equal(got.SHA256[:], want.Sum(nil)) {
		t.Errorf("%d bytes arrived", got.Size)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", status)
}

// repeat reads b again and again.
func repeat(b []byte) io.Reader {
	at := 0
	return readFunc(func(p []byte) (int, error) {
		n := 0
		for n < len(p) {
			m := copy(p[n:], b[at:])
			n += m
			at = (at + m) % len(b)
		}
		return n, nil
	})
}
