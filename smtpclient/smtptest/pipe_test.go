package smtptest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/duotap/duotap/smtpclient/smtptest"
)

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := smtptest.Pipe()
		return a, b, func() { _ = a.Close(); _ = b.Close() }, nil
	})
}

func TestCloseLeavesWhatWasWritten(t *testing.T) {
	a, b := smtptest.Pipe()
	if _, err := io.WriteString(a, "last words"); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	got, err := io.ReadAll(b)
	if string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to one that has closed: %v", err)
	}
	if _, err := a.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

func TestReset(t *testing.T) {
	a, b := smtptest.Pipe()
	if _, err := io.WriteString(a, "never read"); err != nil {
		t.Fatal(err)
	}
	a.Reset()
	if n, err := b.Read(make([]byte, 9)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

func TestWriteWaitsForAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := smtptest.Pipe()
		done := false
		go func() {
			_, _ = a.Write(make([]byte, 64<<10+1))
			done = true
		}()
		synctest.Wait()
		if done {
			t.Error("64 KiB and a byte were taken")
		}
		_, _ = b.Read(make([]byte, 1))
		synctest.Wait()
		if !done {
			t.Error("the write goes on waiting")
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := smtptest.Pipe()
		_, _ = a.Write([]byte("xy"))
		done := false
		go func() { a.Drain(); done = true }()
		_, _ = b.Read(make([]byte, 1))
		synctest.Wait()
		if done {
			t.Error("a byte is unread")
		}
		_, _ = b.Read(make([]byte, 1))
		synctest.Wait()
		if !done {
			t.Error("all is read")
		}
	})
}

func TestListener(t *testing.T) {
	l := smtptest.Listen()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	c, err := l.DialContext(t.Context(), "tcp", "192.0.2.25:25")
	if err != nil || c.RemoteAddr().String() != "192.0.2.25:25" {
		t.Fatal(c, err)
	}
	if _, err := l.DialContext(t.Context(), "tcp", "192.0.2.26:25"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("another address: %v", err)
	}
	_ = l.Close()
	_ = l.Close()
	if _, err := l.DialContext(t.Context(), "tcp", "192.0.2.25:25"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := smtptest.Listen().DialContext(ctx, "tcp", "192.0.2.25:25"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody accepts: %v", err)
		}
	})
}

// talk is a client that says lines and returns all that it heard.
func talk(t *testing.T, conn net.Conn, lines ...string) string {
	t.Helper()
	defer conn.Close()
	for _, line := range lines {
		if _, err := io.WriteString(conn, line); err != nil {
			t.Fatal(err)
		}
	}
	heard, _ := io.ReadAll(conn) // a reset ends it, too
	return string(heard)
}

func TestDialogue(t *testing.T) {
	tests := []struct {
		name, dialogue, client string
		heard                  string
		problem                string // empty if none
	}{
		{"sends", "S: 220 mx\nS\" a\\x00\\nb\nS* 2 x", "", "220 mx\r\na\x00\nbx\r\nx\r\n", ""},
		{"expects", "C: EHLO x\nC~ MAIL FROM:<.*>\nS: 250 ok", "EHLO x\r\nMAIL FROM:<a@b>\r\n", "250 ok\r\n", ""},
		{"another line", "C: EHLO x", "EHLO y\r\n", "", `dialogue line 1: want "EHLO x", got "EHLO y\r\n"`},
		{"no match", "\n# comment\nC~ A+", "AAB\r\n", "", `dialogue line 3: want "A+", got "AAB\r\n"`},
		{"bare LF", "C: EHLO x", "EHLO x\n", "", `got "EHLO x\n"`},
		{"message", "C.\nS: 250 ok", "..a\r\n.\r\n", "250 ok\r\n", ""},
		{"bare CR in a message", "C.", "a\rb\r\n.\r\n", "", "bare CR"},
		{"bare LF in a message", "C.", "a\n.\r\n", "", "bare LF"},
		{"end that doesn't come", "C$", "QUIT\r\n", "", `want the end of the connection, got "QUIT\r\n"`},
		{"split", "! split 1\nS: 220 mx", "", "220 mx\r\n", ""},
		{"read", "! read 3\nC: d", "abcd\r\n", "", ""},
		{"close", "S: 220 mx\n! close\nC: never", "", "220 mx\r\n", ""},
		{"sleep", "! sleep 1h\nS: 220 mx", "", "220 mx\r\n", ""},
		{"quiet", "! quiet 1h\nS: 220 mx", "", "220 mx\r\n", ""},
		{"not quiet", "! quiet 1h", "x", "", `dialogue line 1: want nothing for 1h0m0s, got "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := smtptest.Listen()
				server := smtptest.Serve(l, smtptest.MustParse(tt.dialogue))
				conn, err := l.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				lines := []string{}
				if tt.client != "" {
					lines = append(lines, tt.client)
				}
				heard := make(chan string)
				go func() { heard <- talk(t, conn, lines...) }()
				if strings.Contains(tt.problem, "end of the connection") {
					time.Sleep(time.Second)
					_ = conn.Close()
				}
				if got := <-heard; got != tt.heard {
					t.Errorf("heard %q, want %q", got, tt.heard)
				}
				_, err = server.Wait()
				if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("problem %v, want %q", err, tt.problem)
				}
			})
		})
	}
}

func TestDialogueKeepsMessages(t *testing.T) {
	l := smtptest.Listen()
	server := smtptest.Serve(l, smtptest.MustParse("C."), smtptest.MustParse("C.\nS: 250 ok"))
	for _, m := range []string{".\r\n", "..\r\n...x\r\n.\r\n"} {
		conn, err := l.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		talk(t, conn, m)
	}
	messages, err := server.Wait()
	if err != nil || len(messages) != 2 || server.Connections() != 2 {
		t.Fatal(messages, err)
	}
	if a, b := string(messages[0]), string(messages[1]); a+"|"+b != "|.\r\n..x\r\n" && b+"|"+a != "|.\r\n..x\r\n" {
		t.Errorf("%q", messages)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{"X: y", "S", "! dance", "! split x", "! sleep 5", "! close now", "C$ x", `S" "`, "S* x y", "C~ ("} {
		if d, err := smtptest.Parse("S: ok\n" + bad); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") || d != nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestStallOnASocket: it ends when the server is closed.
func TestStallOnASocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	server := smtptest.Serve(l, smtptest.MustParse("S: 220 mx\n! stall"))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len("220 mx\r\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Close(); err != nil {
		t.Error(err)
	}
}
