package smtpclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// Defects that were measured in other clients, and holes that are known. Dots, line
// ends and injection are in FuzzBody, FuzzCommandStrings and the NetX scenarios.

// TestPeers_TruncatedMessage: a body that fails half-way must not become a message. The
// server never sees the final dot, whatever the client is told to do next.
func TestPeers_TruncatedMessage(t *testing.T) {
	boom := errors.New("disk failed")
	body := "first line\r\n.\r\nsecond line\r\n"
	for _, shift := range []int{0, 60<<10 - 5, 200 << 10} { // around the borders of a stage
		lead := strings.Repeat(strings.Repeat("x", 98)+"\r\n", shift/100)
		for offset := 0; offset <= len(body); offset++ {
			synctest.Test(t, func(t *testing.T) {
				store := new(smtptest.Store)
				d := &recordingDialer{Dialer: serveStore(t, store)}
				c := newClient(t, testConfig(t, d))
				m := smtpclient.Mail{To: []string{"ops@example.net"},
					Body: io.MultiReader(strings.NewReader(lead+body[:offset]), iotest.ErrReader(boom))}
				r, err := send(t, c, t.Context(), m)
				if e := asError(t, err); !errors.Is(err, boom) || !errors.Is(err, smtpclient.ErrBody) || e.Step != smtpclient.StepMessage || !e.Temporary() {
					t.Errorf("offset %d: %v", offset, err)
				}
				if got := r.Recipients[0]; got.Outcome != smtpclient.Refused || !got.Temporary {
					t.Errorf("offset %d: %+v", offset, got)
				}
				sent := d.conns[0].sent.String()
				if _, message, _ := strings.Cut(sent, "DATA\r\n"); strings.Contains("\r\n"+message, "\r\n.\r\n") || strings.Contains(message, "QUIT") {
					t.Errorf("offset %d: sent %q", offset, sent)
				}
				if d.conns[0].closed != 1 {
					t.Errorf("offset %d: the connection was closed %d times", offset, d.conns[0].closed)
				}
				if _, err := send(t, c, t.Context(), mailOf("whole\r\n")); err != nil {
					t.Errorf("the next mail: %v", err)
				}
				if got := store.Messages(); len(got) != 1 || string(got[0].Data) != "whole\r\n" {
					t.Errorf("offset %d: %d messages arrived", offset, len(got))
				}
			})
		}
	}
}

// TestPeers_PanickingBody: nothing is left behind by a body that panics.
func TestPeers_PanickingBody(t *testing.T) {
	store := new(smtptest.Store)
	d := &recordingDialer{Dialer: serveStore(t, store)}
	c := newClient(t, testConfig(t, d))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		m := smtpclient.Mail{To: []string{"ops@example.net"}, Body: readFunc(func([]byte) (int, error) { panic("boom") })}
		_, _ = c.Send(t.Context(), m)
	}()
	if sent := d.conns[0].sent.String(); d.conns[0].closed != 1 || strings.Contains(sent, "\r\n.\r\n") || strings.Contains(sent, "QUIT") {
		t.Errorf("closed %d times, sent %q", d.conns[0].closed, sent)
	}
	if _, err := send(t, c, t.Context(), mailOf("")); err != nil {
		t.Error(err)
	}
	if n := len(store.Messages()); n != 1 {
		t.Errorf("%d messages arrived", n)
	}
}

// TestPeers_AddressWithBracket: no address adds a parameter.
func TestPeers_AddressWithBracket(t *testing.T) {
	c := newClient(t, testConfig(t, smtptest.Listen()))
	_, err := send(t, c, t.Context(), smtpclient.Mail{To: []string{"a@x> SIZE=1 X=<"}})
	if !errors.Is(err, smtpclient.ErrAddress) {
		t.Error(err)
	}
}

// TestPeers_ReplyBombs: however much a server says, it is read in little memory.
func TestPeers_ReplyBombs(t *testing.T) {
	text := strings.Repeat("x", 1000)
	for name, d := range map[string]string{
		"16 MiB in 16,000 lines": "S: 220 mx\nC: EHLO client.example\nS* 16000 250-" + text,
		"8 MiB in one line":      "S: 220 mx\nC: EHLO client.example\nS\" 250-" + strings.Repeat("x", 8<<20),
		"endless greeting":       "S* 16000 220-" + text,
	} {
		t.Run(name, func(t *testing.T) {
			dialogue := smtptest.MustParse(d)
			l := smtptest.Listen()
			server := smtptest.Serve(l, dialogue)
			cfg := testConfig(t, &smallReads{Dialer: l})
			c := newClient(t, cfg)
			before := allocated()
			_, err := send(t, c, t.Context(), mailOf(""))
			if !errors.Is(err, smtpclient.ErrReplyTooLong) {
				t.Error(err)
			}
			if got := cfg.Dialer.(*smallReads).read.Load(); got > smtpclient.MaxReply+smtpclient.MaxReplyLine+100 {
				t.Errorf("%d bytes were read", got)
			}
			after := allocated()
			_, _ = server.Wait() // it didn't get rid of all
			// What the server holds is in the same memory: it has made up its text
			// once before it could send.
			t.Logf("%d KiB were allocated, by both sides", (after-before)>>10)
		})
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// smallReads counts what the client reads.
type smallReads struct {
	smtpclient.Dialer
	read atomic.Int64
}

type countingConn struct {
	net.Conn
	d *smallReads
}

func (d *smallReads) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return countingConn{conn, d}, nil
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.d.read.Add(int64(n))
	return n, err
}

// TestPeers_LateReply: the answer that comes after its time is nobody's answer.
func TestPeers_LateReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.Listen()
		server := smtptest.Serve(l, smtptest.MustParse(dialogue(4, "! sleep 5m1s\nS: 250 late")),
			smtptest.MustParse(dialogue(4, "S: 550 no\nC: QUIT\nS: 221 bye")))
		d := &recordingDialer{Dialer: l}
		c := newClient(t, authConfig(t, d))
		if _, err := send(t, c, t.Context(), mailOf("")); asError(t, err).Step != smtpclient.StepMail {
			t.Error(err)
		}
		if sent := d.conns[0].sent.String(); !strings.HasSuffix(sent, "MAIL FROM:<device@example.org>\r\n") {
			t.Errorf("something was sent after MAIL: %q", sent)
		}
		time.Sleep(time.Minute)
		if _, err := send(t, c, t.Context(), mailOf("")); asError(t, err).Code != 550 {
			t.Errorf("the next mail: %v", err)
		}
		if _, err := server.Wait(); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the late reply still found the client: %v", err)
		}
	})
}

// TestPeers_Context: the context ends any phase at once, and the error says why.
func TestPeers_Context(t *testing.T) {
	because := errors.New("the operator said so")
	for k, turn := range turns {
		t.Run(fmt.Sprintf("%d %s", k, turn.step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serve(t, dialogue(k, "C$"))
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(3*time.Second, func() { cancel(because) })
				start := time.Now()
				r, err := send(t, newClient(t, authConfig(t, l)), ctx, mailOf("body\n"))
				if took := time.Since(start); took != 3*time.Second {
					t.Errorf("took %v", took)
				}
				switch turn.step {
				case smtpclient.StepQuit:
					if err != nil {
						t.Error(err)
					}
				case smtpclient.StepMessage:
					if r.Recipients[0].Outcome != smtpclient.Unknown || !errors.Is(err, because) {
						t.Error(err)
					}
				default:
					if e := asError(t, err); e.Step != turn.step || !errors.Is(err, because) {
						t.Error(err)
					}
				}
			})
		})
	}
}

func TestPeers_ContextDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, dialogue(4, "C$"))
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		_, err := send(t, newClient(t, authConfig(t, l)), ctx, mailOf(""))
		if took := time.Since(start); took != 7*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestPeers_ContextWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, dialogue(6, "S: 354 go\n! stall"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		r, err := send(t, newClient(t, authConfig(t, l)), ctx, mailOf(strings.Repeat("x", 1<<20)))
		if took := time.Since(start); took != time.Second || !errors.Is(err, context.Canceled) || r.Recipients[0].Outcome != smtpclient.Refused {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestPeers_ContextWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.Listen() // nobody accepts
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := send(t, newClient(t, testConfig(t, l)), ctx, mailOf(""))
		if e := asError(t, err); e.Step != smtpclient.StepConnect || !errors.Is(err, context.Canceled) || !e.Temporary() {
			t.Error(err)
		}
		start := time.Now()
		_, err = send(t, newClient(t, testConfig(t, l)), t.Context(), mailOf(""))
		if e := asError(t, err); e.Step != smtpclient.StepConnect || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
			t.Error(err)
		}
	})
}

func TestPeers_ContextDoneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, "C$")
		// A dialer that doesn't heed the context.
		d := dialFunc(func(_ context.Context, network, address string) (net.Conn, error) {
			return l.DialContext(context.Background(), network, address)
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := send(t, newClient(t, testConfig(t, d)), ctx, mailOf(""))
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestPeers_ContextAfterwards: once Send has returned, its context does nothing more.
func TestPeers_ContextAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &recordingDialer{Dialer: serveStore(t, new(smtptest.Store))}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := send(t, newClient(t, testConfig(t, d)), ctx, mailOf("")); err != nil {
			t.Error(err)
		}
		cancel()
		synctest.Wait()
		if c := d.conns[0]; c.closed != 1 || c.late != 0 {
			t.Errorf("closed %d times, then used %d times", c.closed, c.late)
		}
	})
}

// TestPeers_EightBit: a message that the server can't take isn't given to it.
func TestPeers_EightBit(t *testing.T) {
	seven := strings.Repeat(strings.Repeat("x", 98)+"\r\n", 2000) // more than a stage
	longLine := strings.Repeat("y", 50<<10)
	tests := []struct{ name, body, lastSent string }{
		{"at once", "Gr\u00fc\u00dfe\r\n", ""},
		{"in a later line", "one\r\ntwo \xff\r\n", ""},
		{"much later", seven + "Gr\u00fc\u00dfe\r\n", "x\r\n"},
		{"at the end of a line across the border", seven[:40000] + longLine + "\xff", "x\r\n"},
		{"without line end", seven + longLine + "\xff", "x\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := &smtptest.Store{Extensions: []string{}}
			d := &recordingDialer{Dialer: serveStore(t, store)}
			c := newClient(t, testConfig(t, d))
			_, err := send(t, c, t.Context(), mailOf(tt.body))
			if e := asError(t, err); !errors.Is(err, smtpclient.ErrNo8BitMIME) || e.Temporary() || e.Step != smtpclient.StepMessage {
				t.Error(err)
			}
			_, message, _ := strings.Cut(d.conns[0].sent.String(), "DATA\r\n")
			if !strings.HasSuffix(message, tt.lastSent) || tt.lastSent == "" && message != "" || strings.Contains(message, "y") || strings.Contains(message, "\xff") {
				t.Errorf("sent %d bytes: %.100q", len(message), message)
			}
			if len(store.Messages()) != 0 {
				t.Error("a message arrived")
			}
			if _, err := send(t, c, t.Context(), mailOf(seven+longLine)); err != nil || string(store.Messages()[0].Data) != seven+longLine+"\r\n" {
				t.Errorf("a 7-bit message: %v", err)
			}
		})
	}
}

func TestPeers_EightBitOffered(t *testing.T) {
	store := new(smtptest.Store)
	c := newClient(t, testConfig(t, serveStore(t, store)))
	const body = "Gr\u00fc\u00dfe \xff\r\n"
	if _, err := send(t, c, t.Context(), mailOf(body)); err != nil {
		t.Fatal(err)
	}
	if m := store.Messages()[0]; string(m.Data) != body || len(m.Params) != 1 || m.Params[0] != "BODY=8BITMIME" {
		t.Errorf("%+v", m)
	}
}

// TestPeers_BodyIsReadOnlyWhenWanted: a mail that was refused before DATA can be sent
// again with the same body.
func TestPeers_BodyIsReadOnlyWhenWanted(t *testing.T) {
	store := &smtptest.Store{}
	refuse := true
	store.Refuse = func(command string) string {
		if refuse && strings.HasPrefix(command, "RCPT") {
			return "450 4.2.1 later"
		}
		return ""
	}
	c := newClient(t, testConfig(t, serveStore(t, store)))
	m := mailOf("body\r\n")
	if _, err := send(t, c, t.Context(), m); !asError(t, err).Temporary() {
		t.Error(err)
	}
	refuse = false
	if _, err := send(t, c, t.Context(), m); err != nil || string(store.Messages()[0].Data) != "body\r\n" {
		t.Error(err)
	}
}

// TestPeers_FinalDot: what is known about the message when a write fails, by how much
// of the end of it was on its way.
func TestPeers_FinalDot(t *testing.T) {
	const body = "body\r\n"
	message := len(body)
	for allowed := 0; allowed <= message+len(".\r\n"); allowed++ {
		synctest.Test(t, func(t *testing.T) {
			l := smtptest.Listen()
			server := smtptest.Serve(l, smtptest.MustParse(dialogue(6, "S: 354 go\nC$")))
			d := &failingDialer{Dialer: l, after: "DATA\r\n", allowed: allowed}
			cfg := authConfig(t, d)
			cfg.Pool = newPool(t, 1, 95) // a write for each byte
			r, err := send(t, newClient(t, cfg), t.Context(), mailOf(body))
			want := smtpclient.Refused
			if allowed >= message { // the write that fails carries the dot, or CR or LF behind it
				want = smtpclient.Unknown
			}
			if got := r.Recipients[0].Outcome; got != want || err == nil {
				t.Errorf("failed after %d bytes of the message: %v: %v", allowed, got, err)
			}
			_, _ = server.Close() // the dialogue can't know where it ends
		})
	}
}

// failingDialer makes connections whose Write fails once some bytes were written after
// a given line.
type failingDialer struct {
	smtpclient.Dialer
	after   string
	allowed int
}

func (d *failingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	return &failingConn{Conn: conn, d: d}, err
}

type failingConn struct {
	net.Conn
	d     *failingDialer
	all   strings.Builder
	since int
}

func (c *failingConn) Write(b []byte) (int, error) {
	if strings.HasSuffix(c.all.String(), c.d.after) || c.since > 0 {
		if c.since+len(b) > c.d.allowed {
			return 0, io.ErrClosedPipe
		}
		c.since += len(b)
	}
	c.all.Write(b)
	return c.Conn.Write(b)
}

// TestPeers_RefusalInTheMiddleOfTheMessage: a server that doesn't want to read on says
// why and closes; that is the news, not the failed write.
func TestPeers_RefusalInTheMiddleOfTheMessage(t *testing.T) {
	for name, end := range map[string]string{"stops reading": "! stall", "closes": "! sleep 1s\n! close"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := serve(t, dialogue(6, "S: 354 go\n! read 1000\nS: 552 5.3.4 too big\n"+end))
				r, err := send(t, newClient(t, authConfig(t, l)), t.Context(), mailOf(strings.Repeat("x", 1<<20)))
				if e := asError(t, err); e.Code != 552 || e.Step != smtpclient.StepMessage || e.Temporary() || r.Recipients[0].Outcome != smtpclient.Refused {
					t.Error(err)
				}
			})
		})
	}
}

// TestPeers_AnswerBeforeTheEnd: a server that refuses a message before it has all of it
// needn't get the rest; and whatever else it says then is not the answer to the
// message.
func TestPeers_AnswerBeforeTheEnd(t *testing.T) {
	tests := []struct {
		name, server string
		check        func(e *smtpclient.Error) bool
	}{
		{"refuses", "S: 552 5.3.4 too big\n! silent", func(e *smtpclient.Error) bool { return e.Code == 552 && !e.Temporary() }},
		{"accepts", "S: 250 done\n! silent", func(e *smtpclient.Error) bool { return errors.Is(e, smtpclient.ErrUnexpectedReply) }},
		{"says half a reply", "S\" 25\n! silent", func(e *smtpclient.Error) bool { return errors.Is(e, smtpclient.ErrUnexpectedReply) }},
		{"closes", "! close", func(e *smtpclient.Error) bool {
			return errors.Is(e, io.ErrUnexpectedEOF) || errors.Is(e, syscall.EPIPE)
		}},
		{"resets", "! reset", func(e *smtpclient.Error) bool { return errors.Is(e, syscall.ECONNRESET) }},
	}
	for _, tt := range tests {
		for _, total := range []int{64 << 10, 1 << 30} {
			t.Run(fmt.Sprintf("%s/%d bytes", tt.name, total), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := serve(t, dialogue(6, "S: 354 go\n! sleep 20ms\n"+tt.server))
					body := &slowReader{left: total}
					r, err := send(t, newClient(t, authConfig(t, l)), t.Context(), smtpclient.Mail{To: []string{"ops@example.net"}, Body: body})
					if e := asError(t, err); !tt.check(e) || e.Step != smtpclient.StepMessage || r.Recipients[0].Outcome != smtpclient.Refused {
						t.Error(err)
					}
					if total > 1<<20 && body.left < total-2<<20 {
						t.Errorf("%d bytes of the body were left", body.left)
					}
				})
			})
		}
	}
}

// slowReader has so many bytes left, of which it gives 1 KiB in 1 ms.
type slowReader struct{ left int }

func (r *slowReader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Millisecond)
	n := min(len(b), r.left, 1024)
	copy(b[:n], bytes.Repeat([]byte("x"), n))
	r.left -= n
	return n, nil
}

// TestPeers_HostileTextIsPrintable: what a server says can be shown on a terminal and
// be a line of a log.
func TestPeers_HostileTextIsPrintable(t *testing.T) {
	var trace strings.Builder
	l := serve(t, `S" 554 5.0.0 \x1b[2Jgone\x07 \xc2\x9b31m\r\n`+"\nC: QUIT\nS: 221 bye")
	cfg := testConfig(t, l)
	cfg.Trace = smtpclient.TraceTo(&trace)
	r, err := send(t, newClient(t, cfg), t.Context(), mailOf(""))
	for _, s := range []string{err.Error(), r.Recipients[0].Reply.String(), trace.String()} {
		if strings.ContainsAny(s, "\x1b\x07\u009b") || !strings.Contains(s, "gone") {
			t.Errorf("%q", s)
		}
	}
}
