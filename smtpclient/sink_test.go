package smtpclient_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/smtpclient"
)

// startSink runs postfix's smtp-sink, which writes each message into a file of dir.
func startSink(t *testing.T, dir string) (address string) {
	t.Helper()
	path, err := exec.LookPath("smtp-sink")
	if err != nil {
		t.Skip("smtp-sink isn't installed")
	}
	l := listenTCP(t, "127.0.0.1:0")
	address = l.Addr().String()
	_ = l.Close() // for smtp-sink
	args := []string{"-d", filepath.Join(dir, "mail"), address, "10"}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "root"}, args...) // it insists on a name
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() }) // it is killed
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestInteropSMTPSink(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, new(net.Dialer))
	cfg.Server = startSink(t, dir)
	c := newClient(t, cfg)
	sent := 0
	for name, body := range bodies {
		m := mailOf(body)
		m.Body = strings.NewReader("Subject: " + name + "\r\n\r\n" + body)
		if _, err := send(t, c, t.Context(), m); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sent++
		files, err := filepath.Glob(filepath.Join(dir, "mail*"))
		if err != nil || len(files) != sent {
			t.Fatalf("%d messages arrived of %d: %v", len(files), sent, err)
		}
		got := ""
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte("Subject: "+name+"\n")) {
				got = string(b)
			}
		}
		_, got, _ = strings.Cut(got, "Subject: "+name+"\n\n")
		// It writes LF for CRLF, and an empty line behind each message.
		if want := strings.ReplaceAll(wire(body), "\r\n", "\n") + "\n"; got != want {
			t.Errorf("%s: got %.200q, want %.200q", name, got, want)
		}
	}
	// It offers AUTH, and answers 250.
	cfg.Username, cfg.Password, cfg.AllowPlaintextAuth = "u", smtpclient.NewSecret("pwd"), true
	_, err := send(t, newClient(t, cfg), t.Context(), mailOf(""))
	if e := asError(t, err); e.Step != smtpclient.StepAuth || !errors.Is(err, smtpclient.ErrUnexpectedReply) {
		t.Error(err)
	}
}
