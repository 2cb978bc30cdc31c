package smtpclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// newPool returns a pool whose packets must all be back when the test ends.
func newPool(t testing.TB, packets, payload int) *packetpool.Pool {
	t.Helper()
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: packets, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkAllFree(t, pool) })
	return pool
}

func checkAllFree(t testing.TB, pool *packetpool.Pool) {
	t.Helper()
	if s := pool.Stats(); s.Free != s.Total || s.Waiting != 0 || s.InvalidReleases != 0 {
		t.Errorf("pool: %+v, want all free; held: %v", s, pool.Held())
	}
}

// testConfig is a client's configuration for a server at the listener's address.
func testConfig(t testing.TB, dialer smtpclient.Dialer) smtpclient.Config {
	return smtpclient.Config{
		Dialer: dialer,
		Pool:   newPool(t, 4, 1514),
		Server: "192.0.2.25:25",
		Domain: "client.example",
		From:   "device@example.org",
		Now:    func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
		Rand:   zeros{},
	}
}

// zeros is no chance at all.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func newClient(t testing.TB, cfg smtpclient.Config) *smtpclient.Client {
	t.Helper()
	c, err := smtpclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mailOf is a raw mail to one recipient.
func mailOf(body string) smtpclient.Mail {
	return smtpclient.Mail{To: []string{"ops@example.net"}, Raw: true, Body: strings.NewReader(body)}
}

// asError returns the *Error in err, or fails.
func asError(t testing.TB, err error) *smtpclient.Error {
	t.Helper()
	e, ok := errors.AsType[*smtpclient.Error](err)
	if !ok {
		t.Fatalf("error %v (%T), want an *Error", err, err)
	}
	return e
}

// outcomes renders what became of each recipient: "delivered", "refused",
// "refused-temporary" or "unknown", and the code of the reply.
func outcomes(r smtpclient.Receipt) string {
	var all []string
	for _, rcpt := range r.Recipients {
		s := rcpt.Address + " " + rcpt.Outcome.String()
		if rcpt.Temporary {
			s += "-temporary"
		}
		if rcpt.Reply != nil {
			s += fmt.Sprintf(" %d", rcpt.Reply.Code)
		}
		all = append(all, s)
	}
	return strings.Join(all, "\n")
}

// checkReceipt holds the receipt against the error: whatever happened, they agree.
func checkReceipt(t testing.TB, m smtpclient.Mail, r smtpclient.Receipt, err error) {
	t.Helper()
	if len(r.Recipients) != len(m.To) {
		t.Errorf("%d recipients in the receipt, %d in the mail", len(r.Recipients), len(m.To))
	}
	if len(m.To) > 0 && r.Delivered() != (err == nil) {
		t.Errorf("receipt says %v, error %v", outcomes(r), err)
	}
	unknown := false
	for _, rcpt := range r.Recipients {
		if (rcpt.Outcome == smtpclient.Delivered) != (rcpt.Err == nil) {
			t.Errorf("%s is %v with error %v", rcpt.Address, rcpt.Outcome, rcpt.Err)
		}
		if rcpt.Temporary && rcpt.Outcome != smtpclient.Refused {
			t.Errorf("%s is %v and temporary", rcpt.Address, rcpt.Outcome)
		}
		unknown = unknown || rcpt.Outcome == smtpclient.Unknown
	}
	if unknown != errors.Is(err, smtpclient.ErrUnknownOutcome) {
		t.Errorf("receipt says %v, error %v", outcomes(r), err)
	}
}

// send sends m and checks what must hold after any outcome.
func send(t testing.TB, c *smtpclient.Client, ctx context.Context, m smtpclient.Mail) (smtpclient.Receipt, error) {
	t.Helper()
	r, err := c.Send(ctx, m)
	checkReceipt(t, m, r, err)
	return r, err
}

// recordingDialer keeps the connections that it made.
type recordingDialer struct {
	smtpclient.Dialer
	conns []*recordedConn
}

func (d *recordingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &recordedConn{Conn: conn}
	d.conns = append(d.conns, c)
	return c, nil
}

// recordedConn keeps what was written to it, and counts.
type recordedConn struct {
	net.Conn
	sent   bytes.Buffer
	closed int
	late   int // calls of SetDeadline after Close
}

func (c *recordedConn) SetDeadline(t time.Time) error {
	if c.closed > 0 {
		c.late++
	}
	return c.Conn.SetDeadline(t)
}

func (c *recordedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Write(b[:n])
	return n, err
}

func (c *recordedConn) Close() error {
	c.closed++
	return c.Conn.Close()
}

// dialFunc is a Dialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// serve runs dialogues in memory until the test ends, and fails it if the client
// didn't do what they expect.
func serve(t testing.TB, dialogues ...string) *smtptest.Listener {
	t.Helper()
	var parsed []*smtptest.Dialogue
	for _, d := range dialogues {
		p, err := smtptest.Parse(d)
		if err != nil {
			t.Fatal(err)
		}
		p.TLS = testTLS()
		parsed = append(parsed, p)
	}
	l := smtptest.Listen()
	s := smtptest.Serve(l, parsed...)
	t.Cleanup(func() {
		if _, err := s.Wait(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// serveStore runs a correct server in memory until the test ends.
func serveStore(t testing.TB, s *smtptest.Store) *smtptest.Listener {
	l := smtptest.Listen()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // net.ErrClosed
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		if err := s.Problems(); err != nil {
			t.Error(err)
		}
	})
	return l
}
