package smtpclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

func TestNewComplainsAboutEverythingAtOnce(t *testing.T) {
	_, err := smtpclient.New(smtpclient.Config{
		Server: "nowhere at all", Domain: "a b", From: "x", Auth: 99, Password: smtpclient.NewSecret("\x00"),
		Timeouts: smtpclient.Timeouts{Rcpt: -1}, PacketTimeout: -1,
	})
	for _, want := range []string{"Dialer", "Pool", "Server", "Domain", "From", "Auth:", "Username", "Password", "Timeouts"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+want) {
			t.Errorf("no complaint about %s in %v", want, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name string
		edit func(*smtpclient.Config)
	}{
		{"no dialer", func(c *smtpclient.Config) { c.Dialer = nil }},
		{"no pool", func(c *smtpclient.Config) { c.Pool = nil }},
		{"no server", func(c *smtpclient.Config) { c.Server = "" }},
		{"PLAIN without user", func(c *smtpclient.Config) { c.Auth = smtpclient.AuthPlain }},
		{"LOGIN without user", func(c *smtpclient.Config) { c.Auth = smtpclient.AuthLogin }},
		{"password without user", func(c *smtpclient.Config) { c.Password = smtpclient.NewSecret("x") }},
		{"NUL in user", func(c *smtpclient.Config) { c.Username = "a\x00b" }},
		{"negative packet timeout", func(c *smtpclient.Config) { c.PacketTimeout = -1 }},
	}
	for _, tt := range tests {
		cfg := testConfig(t, smtptest.Listen())
		tt.edit(&cfg)
		if c, err := smtpclient.New(cfg); err == nil || c != nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

// TestPayload: a packet must hold the headers and a byte of data, and the error says
// how much that is.
func TestPayload(t *testing.T) {
	for server, need := range map[string]int{
		"192.0.2.25:25": 95, "[fd99::25]:25": 115, "mx.example:25": 115, "[::ffff:192.0.2.25]:25": 115,
	} {
		cfg := testConfig(t, smtptest.Listen())
		cfg.Server = server
		cfg.Pool = newPool(t, 1, need-1)
		_, err := smtpclient.New(cfg)
		if !errors.Is(err, packetpool.ErrHeadroom) || !strings.Contains(err.Error(), fmt.Sprintf("need %d", need)) {
			t.Errorf("%s with payload %d: %v", server, need-1, err)
		}
		cfg.Pool = newPool(t, 1, need)
		if _, err := smtpclient.New(cfg); err != nil {
			t.Errorf("%s with payload %d: %v", server, need, err)
		}
	}
}

// TestDefaults: an address literal for a name, and no sender without one.
func TestDefaults(t *testing.T) {
	store := new(smtptest.Store)
	cfg := testConfig(t, serveStore(t, store))
	cfg.Domain, cfg.From, cfg.Server, cfg.Now, cfg.Rand = "", "", "192.0.2.25", nil, nil
	c := newClient(t, cfg)
	if _, err := send(t, c, t.Context(), mailOf("")); !errors.Is(err, smtpclient.ErrAddress) {
		t.Errorf("without a sender: %v", err)
	}
	m := smtpclient.Mail{From: "a@b", To: []string{"ops@example.net"}}
	first, err := send(t, c, t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if got := store.Messages()[0]; got.Hello != "EHLO [192.0.2.1]" || !strings.HasSuffix(first.MessageID, "@[192.0.2.1]") {
		t.Errorf("%s, %s", got.Hello, first.MessageID)
	}
	if second, err := send(t, c, t.Context(), m); err != nil || second.MessageID == first.MessageID {
		t.Errorf("twice the same Message-ID %s: %v", second.MessageID, err)
	}
}

func TestUniform(t *testing.T) {
	got := smtpclient.Uniform(time.Minute)
	if got.Connect != time.Minute || got.FinalDot != time.Minute || got.Quit != 5*time.Second {
		t.Errorf("%+v", got)
	}
}

// TestReceipt: what a mail leaves behind, as JSON too.
func TestReceipt(t *testing.T) {
	l := serve(t, `S: 220 mx
C: EHLO client.example
S" 250-mx\r\n250-8BITMIME\r\n250 SIZE 1000\r\n
C: MAIL FROM:<device@example.org> BODY=8BITMIME
S: 250 2.1.0 ok
C: RCPT TO:<a@example.net>
S: 250 2.1.5 ok
C: RCPT TO:<b@example.net>
S: 550 5.1.1 unknown
C: DATA
S: 354 go
C.
S: 250 2.0.0 queued as 4711
C: QUIT
S: 221 bye
`)
	c := newClient(t, testConfig(t, l))
	m := smtpclient.Mail{To: []string{"a@example.net", "b@example.net"}, Raw: true, Body: strings.NewReader("one\n.two")}
	r, err := send(t, c, t.Context(), m)
	if e := asError(t, err); e.Recipient != "b@example.net" || e.Code != 550 || e.Enhanced != "5.1.1" || e.Text != "unknown" || e.Temporary() {
		t.Errorf("%#v", e)
	}
	if r.MessageBytes != int64(len("one\r\n..two\r\n")) || r.Packets != 7 || r.Server != "192.0.2.25:25" ||
		r.Local != "192.0.2.1:49152" || r.Remote != "192.0.2.25:25" || !slices.Equal(r.Extensions, []string{"8BITMIME", "SIZE 1000"}) {
		t.Errorf("%+v", r)
	}
	var steps []smtpclient.Step
	for _, p := range r.Phases {
		steps = append(steps, p.Step)
	}
	if want := []smtpclient.Step{"connect", "greeting", "EHLO", "MAIL", "RCPT", "DATA", "message", "QUIT"}; !slices.Equal(steps, want) {
		t.Errorf("phases %v, want %v", steps, want)
	}
	if n := len(r.Exchanges); n != 8 || r.Exchanges[6].Reply.Text != "2.0.0 queued as 4711" || r.Exchanges[4].Command != "RCPT TO:<b@example.net>" {
		t.Errorf("%d exchanges: %+v", n, r.Exchanges)
	}
	b, jsonErr := json.Marshal(r)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	for _, want := range []string{
		`{"address":"a@example.net","outcome":"delivered","reply":{"code":250,"enhanced":"2.0.0","text":"2.0.0 queued as 4711"}}`,
		`"outcome":"refused"`, `"error":{"step":"RCPT","code":550,"enhanced":"5.1.1","text":"unknown","temporary":false,"message":"smtp server`,
		`"extensions":["8BITMIME","SIZE 1000"]`, `"left_out":[]`, `{"step":"connect","ms":`, `"message_bytes":12`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
}

func TestErrorForSeveralRecipients(t *testing.T) {
	l := serve(t, dialogue(4, `S: 250 ok
C: RCPT TO:<a@example.net>
S: 550 5.1.1 unknown
C: RCPT TO:<b@example.net>
S: 450 4.2.0 busy
C: QUIT
S: 221 bye`))
	m := smtpclient.Mail{To: []string{"a@example.net", "b@example.net"}}
	_, err := send(t, newClient(t, authConfig(t, l)), t.Context(), m)
	all, ok := err.(interface{ Unwrap() []error })
	if !ok || len(all.Unwrap()) != 2 || asError(t, all.Unwrap()[1]).Recipient != "b@example.net" {
		t.Errorf("%#v", err)
	}
	if !strings.Contains(err.Error(), "<a@example.net>: 550 5.1.1 unknown (sending it again unchanged won't help); errors for further recipients: 1") {
		t.Error(err)
	}
}

func TestErrorTexts(t *testing.T) {
	tests := []struct {
		err  smtpclient.Error
		want string
	}{
		{smtpclient.Error{Step: "connect", Server: "mx:25", Err: syscall.ECONNREFUSED},
			"smtp server mx:25: connect: connection refused (check the address and port, and that the server is up and reachable)"},
		{smtpclient.Error{Step: "RCPT", Recipient: "a@b", Code: 550, Enhanced: "5.1.1", Text: "no"}, "smtp: RCPT <a@b>: 550 5.1.1 no (sending it again unchanged won't help)"},
		{smtpclient.Error{Step: "MAIL", Code: 451}, "smtp: MAIL: 451 (try again later)"},
		{smtpclient.Error{Step: "message", Err: context.Canceled}, "smtp: message: context canceled"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestTemporary(t *testing.T) {
	tests := []struct {
		err  smtpclient.Error
		want bool
	}{
		{smtpclient.Error{Step: "MAIL", Code: 451}, true},
		{smtpclient.Error{Step: "MAIL", Code: 552}, false},
		{smtpclient.Error{Step: "RCPT", Code: 552}, true},
		{smtpclient.Error{Step: "RCPT", Code: 550}, false},
		{smtpclient.Error{Step: "connect", Err: syscall.ECONNREFUSED}, true},
		{smtpclient.Error{Step: "EHLO", Err: smtpclient.ErrBadReply}, true},
		{smtpclient.Error{Step: "AUTH", Err: fmt.Errorf("x: %w", smtpclient.ErrPlaintextAuth)}, false},
		{smtpclient.Error{Step: "message", Err: errors.Join(smtpclient.ErrBody, syscall.EIO)}, true},
		{smtpclient.Error{Step: "message", Err: smtpclient.ErrNo8BitMIME}, false},
	}
	for _, tt := range tests {
		if got := tt.err.Temporary(); got != tt.want {
			t.Errorf("%v: %v", &tt.err, got)
		}
	}
}

func TestConnectFails(t *testing.T) {
	l := smtptest.Listen()
	_ = l.Close()
	r, err := send(t, newClient(t, testConfig(t, l)), t.Context(), mailOf(""))
	if e := asError(t, err); !errors.Is(err, syscall.ECONNREFUSED) || e.Step != smtpclient.StepConnect || !e.Temporary() || !r.Recipients[0].Temporary {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestNoRecipient(t *testing.T) {
	r, err := send(t, newClient(t, testConfig(t, smtptest.Listen())), t.Context(), smtpclient.Mail{})
	if !errors.Is(err, smtpclient.ErrAddress) || r.Delivered() {
		t.Errorf("%v, %+v", err, r)
	}
}

// TestTrace: the dialogue, without the message and without secrets.
func TestTrace(t *testing.T) {
	var got []string
	cfg := authConfig(t, serve(t, dialogue(-1, "")))
	cfg.Trace = func(e smtpclient.TraceEvent) { got = append(got, string(e.From)+": "+e.Line) }
	if _, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\n")); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"*: connected to 192.0.2.25:25 at 192.0.2.25:25",
		"S: 220 mx", "C: EHLO client.example", "S: 250-mx", "S: 250 AUTH PLAIN",
		"C: AUTH PLAIN", "S: 334 ", "C: ****", "S: 235 ok",
		"C: MAIL FROM:<device@example.org>", "S: 250 ok", "C: RCPT TO:<ops@example.net>", "S: 250 ok",
		"C: DATA", "S: 354 go", "C: (6 bytes)", "C: .", "S: 250 done", "C: QUIT", "S: 221 bye",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLog: one record for a mail, a warning if it wasn't delivered.
func TestLog(t *testing.T) {
	var b strings.Builder
	logger := slog.New(slog.NewTextHandler(&b, nil))
	cfg := testConfig(t, serve(t, "S: 554 no\n! close", strings.ReplaceAll(dialogue(-1, ""), "C: AUTH PLAIN\nS: 334 \nC: AHUAcHdk\nS: 235 ok\n", "")))
	cfg.Logger = logger
	c := newClient(t, cfg)
	_, _ = send(t, c, t.Context(), mailOf(""))
	_, _ = send(t, c, t.Context(), mailOf(""))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "554 no") || !strings.Contains(lines[1], "level=INFO") {
		t.Errorf("%q", lines)
	}
}

// TestCheck: all that comes before a mail, and nothing of it.
func TestCheck(t *testing.T) {
	store := &smtptest.Store{Username: "u", Password: "pwd"}
	l := serveStore(t, store)
	d := &recordingDialer{Dialer: l}
	r, err := newClient(t, authConfig(t, d)).Check(t.Context())
	if err != nil || r.Auth != "PLAIN" || len(r.Exchanges) != 5 || len(r.Recipients) != 0 || r.Delivered() {
		t.Errorf("%v: %+v", err, r)
	}
	if sent := d.conns[0].sent.String(); !strings.HasSuffix(sent, "QUIT\r\n") || strings.Contains(sent, "MAIL") || d.conns[0].closed != 1 {
		t.Errorf("sent %q", sent)
	}
	cfg := authConfig(t, l)
	cfg.Password = smtpclient.NewSecret("wrong")
	if _, err := newClient(t, cfg).Check(t.Context()); asError(t, err).Step != smtpclient.StepAuth {
		t.Error(err)
	}
	_ = l.Close()
	if _, err := newClient(t, cfg).Check(t.Context()); asError(t, err).Step != smtpclient.StepConnect {
		t.Error(err)
	}
}

// TestPanickingTrace: the connection is closed all the same.
func TestPanickingTrace(t *testing.T) {
	for line := range 6 {
		d := &recordingDialer{Dialer: serveStore(t, new(smtptest.Store))}
		cfg := testConfig(t, d)
		n := 0
		cfg.Trace = func(smtpclient.TraceEvent) {
			if n++; n > line {
				panic("boom")
			}
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = newClient(t, cfg).Send(t.Context(), mailOf(""))
		}()
		if d.conns[0].closed != 1 {
			t.Errorf("trace line %d: the connection was closed %d times", line, d.conns[0].closed)
		}
	}
}

// packetDialer makes connections that take packets as they are, as those of package
// stack do.
type packetDialer struct {
	smtpclient.Dialer
	refuseAfter int // packets; the SendPacket after them fails
	packets     int
}

type packetConn struct {
	net.Conn
	d *packetDialer
}

var errRefused = errors.New("no packet any more")

func (d *packetDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	return &packetConn{conn, d}, err
}

func (c *packetConn) Write([]byte) (int, error) {
	panic("bytes were copied to a connection that takes packets")
}

func (c *packetConn) SendPacket(pkt *packetpool.Packet) error {
	if c.d.packets == c.d.refuseAfter {
		return errRefused
	}
	c.d.packets++
	for b := range pkt.Segments() {
		if _, err := c.Conn.Write(b); err != nil {
			return err
		}
	}
	pkt.Release()
	return nil
}

// TestSendPacket: all data goes by packets where they are taken, and each is back in
// the pool wherever the connection refuses one.
func TestSendPacket(t *testing.T) {
	body := strings.Repeat("line\r\n", 50000)
	store := new(smtptest.Store)
	l := serveStore(t, store)
	d := &packetDialer{Dialer: l, refuseAfter: -1}
	if _, err := send(t, newClient(t, testConfig(t, d)), t.Context(), mailOf(body)); err != nil {
		t.Fatal(err)
	}
	if got := store.Messages(); len(got) != 1 || string(got[0].Data) != body {
		t.Error("the message is not what was sent")
	}
	total := d.packets
	for n := range total {
		synctest.Test(t, func(t *testing.T) {
			d := &packetDialer{Dialer: serveStore(t, new(smtptest.Store)), refuseAfter: n}
			r, err := send(t, newClient(t, testConfig(t, d)), t.Context(), mailOf(body))
			switch {
			case n == total-1: // QUIT
				if err != nil {
					t.Error(err)
				}
			case !errors.Is(err, errRefused):
				t.Errorf("packet %d: %v", n, err)
			case (r.Recipients[0].Outcome == smtpclient.Unknown) != (n == total-2):
				t.Errorf("packet %d of %d: %v", n, total, r.Recipients[0].Outcome)
			}
		})
	}
}
