package smtpclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// Scenarios that NetX Duo's SMTP client was tried with, by their numbers there. Those
// that are a dialogue are in testdata/session, as netx-2b-…; 1, 17 and 18 are
// TestTrouble and TestRepliesSplitAtEveryByte.

// wire is what arrives of a body.
func wire(body string) string {
	s := strings.ReplaceAll(strings.ReplaceAll(body, "\r\n", "\n"), "\r", "\n")
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return strings.ReplaceAll(s, "\n", "\r\n")
}

// bodies are those that other clients spoil.
var bodies = map[string]string{
	"empty":               "",
	"one line":            "one line\r\n",
	"no final newline":    "no final newline",
	"lone dot":            ".",
	"lone dots":           ".\r\n..\r\n.\r\n\r\n.",
	"end and commands":    "end\r\n.\r\nMAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\n",
	"bare LF":             "a\nb\n\n.\n.c\n",
	"bare CR":             "a\rb\r\r.\r.c\r",
	"mixed line ends":     "a\r\r\nb\n\rc\r\n\n.\r.\n.",
	"smuggling":           "a\r.\r\nMAIL FROM:<x@y>\n.\r\nDATA\r\n\x00.\r\n.\r\r\n",
	"8-bit":               "Gr\u00fc\u00dfe \xff\xfe\r\n",
	"NUL":                 "\x00\r\n\x00.\x00",
	"lines of 10,000":     strings.Repeat(strings.Repeat("0123456789", 1000)+"\r\n", 2),
	"a line of 10,000":    strings.Repeat(".", 10000),
	"longer than a stage": strings.Repeat("a line with dots ...\n.and one in front\r\n", 3000),
}

// boundaryBody puts a lone dot, its stuffing and its line ends across each border
// between packets, in every position.
func boundaryBody(dataPart int) string {
	const sequence, sent = "\r\n.\r\n", len("\r\n..\r\n")
	var b strings.Builder
	wire := 0
	for before := range sent + 1 {
		fill := (dataPart - (wire+before)%dataPart) % dataPart
		b.WriteString(strings.Repeat("x", fill) + sequence)
		wire += fill + sent
	}
	return b.String()
}

func TestNetX_11_14_BodiesThroughPoolsOfAnySize(t *testing.T) {
	dataParts := []int{1, 2, 3, 4, 56, 1400, 1420, 1500, 16384}
	for n := 1300; n <= 1500; n++ {
		if n%25 == 0 || !testing.Short() {
			dataParts = append(dataParts, n)
		}
	}
	store := new(smtptest.Store)
	l := serveStore(t, store)
	sent := 0
	for _, n := range dataParts {
		for _, packets := range []int{1, 3} {
			if packets == 1 && n >= 1300 && n%50 != 0 {
				continue
			}
			pool, err := packetpool.New(packetpool.Config{Packets: packets, Payload: packetpool.HeadroomTCP4 + n})
			if err != nil {
				t.Fatal(err)
			}
			cfg := testConfig(t, l)
			cfg.Pool = pool
			c := newClient(t, cfg)
			check := func(name, body string) {
				r, err := send(t, c, t.Context(), mailOf(body))
				if err != nil {
					t.Fatalf("data part %d, %d packets, %s: %v", n, packets, name, err)
				}
				got := store.Messages()[sent]
				sent++
				if string(got.Data) != wire(body) {
					t.Fatalf("data part %d, %d packets, %s: got %.200q, want %.200q", n, packets, name, got.Data, wire(body))
				}
				if r.MessageBytes < got.Size || r.Bytes <= r.MessageBytes || r.Packets < r.Bytes/int64(n) {
					t.Errorf("data part %d, %s: receipt %+v for %d bytes", n, name, r, got.Size)
				}
			}
			check("dots at borders", boundaryBody(n))
			for _, size := range []int{n - 1, n, n + 1, 2 * n} {
				check(fmt.Sprint(size, " bytes"), strings.Repeat("y", size))
			}
			if n < 1300 || n%50 == 0 {
				for name, body := range bodies {
					check(name, body)
				}
			}
			checkAllFree(t, pool)
		}
	}
}

func TestNetX_12_Injection(t *testing.T) {
	evil := []string{"\r", "\n", "\x00", "\r\n", ">", "> SIZE=1 X=<", "\r\nDATA\r\n"}
	nobody := dialFunc(func(context.Context, string, string) (net.Conn, error) {
		t.Error("it was dialled")
		return nil, net.ErrClosed
	})
	c := newClient(t, testConfig(t, nobody))
	for _, e := range evil {
		for name, m := range map[string]smtpclient.Mail{
			"from":      {From: "a@b" + e, To: []string{"ops@example.net"}},
			"from 2":    {From: "a" + e + "@b", To: []string{"ops@example.net"}},
			"recipient": {To: []string{"ops@example.net" + e}},
			"second":    {To: []string{"ops@example.net", "o" + e + "ps@example.net"}},
		} {
			r, err := send(t, c, t.Context(), m)
			if e := asError(t, err); !errors.Is(err, smtpclient.ErrAddress) || e.Temporary() || e.Step != smtpclient.StepPrepare || r.Recipients[0].Temporary {
				t.Errorf("%s with %q: %v", name, e, err)
			}
		}
		if !strings.Contains(e, ">") { // which a subject may have
			_, err := send(t, c, t.Context(), smtpclient.Mail{To: []string{"ops@example.net"}, Subject: "a" + e})
			if !errors.Is(err, smtpclient.ErrSubject) || asError(t, err).Temporary() {
				t.Errorf("subject with %q: %v", e, err)
			}
		}
		cfg := testConfig(t, nobody)
		cfg.Domain = "client.example" + e
		if _, err := smtpclient.New(cfg); !errors.Is(err, smtpclient.ErrAddress) {
			t.Errorf("domain with %q: %v", e, err)
		}
		cfg = testConfig(t, nobody)
		cfg.From = "a@b" + e
		if _, err := smtpclient.New(cfg); !errors.Is(err, smtpclient.ErrAddress) {
			t.Errorf("default sender with %q: %v", e, err)
		}
		cfg = testConfig(t, nobody)
		cfg.Server = "mx.example" + e + ":25"
		if _, err := smtpclient.New(cfg); err == nil {
			t.Errorf("server with %q was accepted", e)
		}
	}
}

func TestNetX_13_BareLineFeeds(t *testing.T) {
	store := new(smtptest.Store)
	c := newClient(t, testConfig(t, serveStore(t, store)))
	if _, err := send(t, c, t.Context(), mailOf("a\nb\n")); err != nil {
		t.Fatal(err)
	}
	if got := string(store.Messages()[0].Data); got != "a\r\nb\r\n" {
		t.Errorf("got %q", got)
	}
}

// takeAll takes every packet of a pool.
func takeAll(t *testing.T, pool *packetpool.Pool) (release func()) {
	t.Helper()
	var held []*packetpool.Packet
	for {
		pkt, err := pool.TryAllocate(0)
		if err != nil {
			break
		}
		held = append(held, pkt)
	}
	if len(held) == 0 {
		t.Error("there was no packet to take")
	}
	return func() {
		for _, pkt := range held {
			pkt.Release()
		}
	}
}

// TestNetX_15_EmptyPool holds the pool empty while each step begins: shorter than the
// client waits, and longer.
func TestNetX_15_EmptyPool(t *testing.T) {
	// What the server hears when the packets are taken, and the step that then has none.
	moments := []struct {
		heard string
		step  smtpclient.Step
	}{
		{"EHLO client.example", smtpclient.StepAuth},
		{"MAIL FROM:<device@example.org> BODY=8BITMIME", smtpclient.StepRcpt},
		{"RCPT TO:<ops@example.net>", smtpclient.StepData},
		{"DATA", smtpclient.StepMessage},
		{".", smtpclient.StepQuit},
	}
	for _, packets := range []int{1, 2, 3} {
		for _, m := range moments {
			for _, short := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d packets, %s, released in time %v", packets, m.step, short), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { checkEmptyPool(t, packets, m.heard, m.step, short) })
				})
			}
		}
	}
}

func checkEmptyPool(t *testing.T, packets int, heard string, step smtpclient.Step, short bool) {
	pool := newPool(t, packets, 1514)
	hold := 10 * time.Second
	if short {
		hold = time.Second
	}
	first := true
	store := &smtptest.Store{Username: "u", Password: "pwd", Refuse: func(command string) string {
		if command == heard && first {
			first = false
			synctest.Wait() // for the client to release the command's packets
			time.AfterFunc(hold, takeAll(t, pool))
		}
		return ""
	}}
	cfg := authConfig(t, serveStore(t, store))
	cfg.Pool = pool
	c := newClient(t, cfg)
	start := time.Now()
	receipt, err := send(t, c, t.Context(), mailOf("body\n"))
	took := time.Since(start)
	switch {
	case short:
		if err != nil || took != time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	case step == smtpclient.StepQuit:
		if err != nil || took != 2*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	default:
		if e := asError(t, err); !errors.Is(err, packetpool.ErrNoPacket) || e.Step != step || !e.Temporary() || took != 2*time.Second ||
			receipt.Recipients[0].Outcome != smtpclient.Refused {
			t.Errorf("after %v: %v", took, err)
		}
	}
	time.Sleep(hold)
	if _, err := send(t, c, t.Context(), mailOf("body\n")); err != nil {
		t.Errorf("the next mail: %v", err)
	}
}

// TestNetX_15_EmptyPoolInTheMessage takes the packets while the client reads the body,
// when it holds none, so that header, body or final dot find no packet.
func TestNetX_15_EmptyPoolInTheMessage(t *testing.T) {
	part := strings.Repeat("x", 100<<10)
	for name, parts := range map[string][2]string{
		"header": {"", "body"},
		"body":   {part, part},
		"dot":    {part, ""},
	} {
		for _, short := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				hold := 10 * time.Second
				if short {
					hold = time.Second
				}
				store := new(smtptest.Store)
				cfg := testConfig(t, serveStore(t, store))
				body := io.MultiReader(strings.NewReader(parts[0]), readFunc(func([]byte) (int, error) {
					time.AfterFunc(hold, takeAll(t, cfg.Pool))
					return 0, io.EOF
				}), strings.NewReader(parts[1]))
				m := smtpclient.Mail{To: []string{"ops@example.net"}, Body: body}
				_, err := send(t, newClient(t, cfg), t.Context(), m)
				if short != (err == nil) || !short && (!errors.Is(err, packetpool.ErrNoPacket) || errors.Is(err, smtpclient.ErrUnknownOutcome)) {
					t.Errorf("%s, released in time %v: %v", name, short, err)
				}
				if n := len(store.Messages()); short != (n == 1) {
					t.Errorf("%s, released in time %v: %d messages arrived", name, short, n)
				}
				time.Sleep(hold)
			})
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func TestNetX_15_EmptyPoolBeforeConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, serveStore(t, new(smtptest.Store)))
		release := takeAll(t, cfg.Pool)
		_, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\n"))
		if e := asError(t, err); e.Step != smtpclient.StepEHLO || !errors.Is(err, packetpool.ErrNoPacket) {
			t.Error(err)
		}
		release()
	})
}

func TestNetX_15_PoolOfOnePacketSendsTenMegabytes(t *testing.T) {
	size := 10 << 20
	if smtpclient.RaceEnabled {
		size = 1 << 20
	}
	body := bytes.Repeat([]byte("seventy-six bytes of text, which is what lines of mail have on the average\r\n"), size/76+1)[:size]
	store := new(smtptest.Store)
	cfg := testConfig(t, serveStore(t, store))
	cfg.Pool = newPool(t, 1, 1514)
	r, err := send(t, newClient(t, cfg), t.Context(), mailOf(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	if got := store.Messages()[0].Data; string(got) != wire(string(body)) {
		t.Errorf("%d bytes arrived, %d were sent", len(got), len(body))
	}
	if s := cfg.Pool.Stats(); s.LowestFree != 0 || s.EmptySuspensions != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d packets for %d bytes", r.Packets, r.Bytes)
}

// TestNetX_16_TwoHundredSends alternates success with every failure.
func TestNetX_16_TwoHundredSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialogues []*smtptest.Dialogue
		fails := 0
		for len(dialogues) < 200 {
			dialogues = append(dialogues, smtptest.MustParse(dialogue(-1, "")))
			k, tr := fails%(len(turns)-1), troubles[fails%len(troubles)]
			dialogues = append(dialogues, smtptest.MustParse(dialogue(k, tr.server)))
			fails++
		}
		l := smtptest.Listen()
		server := smtptest.Serve(l, dialogues...)
		cfg := authConfig(t, l)
		c := newClient(t, cfg)
		for i := range dialogues {
			_, err := send(t, c, t.Context(), mailOf("body\n"))
			if (err == nil) != (i%2 == 0) {
				t.Errorf("mail %d: %v", i, err)
			}
			checkAllFree(t, cfg.Pool)
		}
		if _, err := server.Close(); err != nil {
			t.Log(err) // TestTrouble looks at these
		}
	})
}

func TestNetX_19_ZeroWindow(t *testing.T) {
	body := strings.Repeat("x", 1<<20)
	until354 := dialogue(6, "S: 354 go")
	t.Run("too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := serve(t, until354+"! stall")
			start := time.Now()
			r, err := send(t, newClient(t, authConfig(t, l)), t.Context(), mailOf(body))
			if e := asError(t, err); e.Step != smtpclient.StepMessage || !errors.Is(err, os.ErrDeadlineExceeded) ||
				r.Recipients[0].Outcome != smtpclient.Refused || !e.Temporary() {
				t.Error(err)
			}
			if took := time.Since(start); took < 3*time.Minute || took > 3*time.Minute+2*time.Second {
				t.Errorf("after %v", took)
			}
		})
	})
	t.Run("and a reason", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := serve(t, until354+"! sleep 1m\nS: 421 4.3.1 disk full\n! stall")
			r, err := send(t, newClient(t, authConfig(t, l)), t.Context(), mailOf(body))
			if e := asError(t, err); e.Code != 421 || e.Step != smtpclient.StepMessage || r.Recipients[0].Outcome != smtpclient.Refused {
				t.Error(err)
			}
		})
	})
	t.Run("not too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := serve(t, until354+"! sleep 2m\nC.\nS: 250 done\nC: QUIT\nS: 221 bye")
			if _, err := send(t, newClient(t, authConfig(t, l)), t.Context(), mailOf(body)); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestNetX_20_LengthLimits: the limits are those of RFC 5321 and RFC 4954, not of
// buffers.
func TestNetX_20_LengthLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	store := &smtptest.Store{Username: long(4096), Password: long(4096)}
	l := serveStore(t, store)
	cfg := authConfig(t, l)
	cfg.Username, cfg.Password = long(4096), smtpclient.NewSecret(long(4096))
	m := smtpclient.Mail{From: long(64) + "@example.org", To: []string{"x@" + strings.Repeat("d.", 125) + "de"}, Subject: long(100000)}
	if _, err := send(t, newClient(t, cfg), t.Context(), m); err != nil {
		t.Error(err)
	}
	for _, m := range []smtpclient.Mail{
		{From: long(65) + "@example.org", To: m.To},
		{From: m.From, To: []string{"xx@" + strings.Repeat("d.", 125) + "de"}},
	} {
		if _, err := send(t, newClient(t, cfg), t.Context(), m); !errors.Is(err, smtpclient.ErrAddress) {
			t.Errorf("error %v", err)
		}
	}
	for _, edit := range []func(*smtpclient.Config){
		func(c *smtpclient.Config) { c.Username = long(4097) },
		func(c *smtpclient.Config) { c.Password = smtpclient.NewSecret(long(4097)) },
		func(c *smtpclient.Config) { c.Domain = long(64) + ".example" },
	} {
		cfg := cfg
		edit(&cfg)
		if _, err := smtpclient.New(cfg); err == nil {
			t.Error("too long a name was accepted")
		}
	}
}

func TestNetX_21_TwoClientsOnePool(t *testing.T) {
	store := new(smtptest.Store)
	l := serveStore(t, store)
	pool := newPool(t, 2, 300)
	const mails = 20
	var wg sync.WaitGroup
	for i := range 4 {
		cfg := testConfig(t, l)
		cfg.Pool = pool
		cfg.PacketTimeout = time.Minute // others may have all packets for a while
		cfg.From = fmt.Sprintf("client%d@example.org", i)
		clients := []*smtpclient.Client{newClient(t, cfg), newClient(t, cfg)}
		for j, c := range clients {
			wg.Go(func() {
				for k := range mails / 2 {
					m := mailOf(strings.Repeat(cfg.From+"\r\n", 1000*(k%2)+j+1))
					if _, err := send(t, c, t.Context(), m); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	messages := store.Messages()
	if len(messages) != 4*mails {
		t.Errorf("%d messages arrived", len(messages))
	}
	for _, m := range messages {
		if rest := strings.ReplaceAll(string(m.Data), m.From+"\r\n", ""); rest != "" || len(m.Data) == 0 {
			t.Errorf("a mail from %s holds %.80q", m.From, rest)
		}
	}
}

// TestNetX_22_IPv6Server: the rest of this scenario needs a network, see package stack.
func TestNetX_22_IPv6Server(t *testing.T) {
	l := serveStore(t, new(smtptest.Store))
	for _, server := range []string{"[fd99::25]:25", "[fe80::25%tap0]:25"} {
		asked := ""
		cfg := testConfig(t, dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			asked = network + " " + address
			return l.DialContext(ctx, network, l.Addr().String())
		}))
		cfg.Server = server
		if _, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\n")); err != nil || asked != "tcp "+server {
			t.Errorf("dialled %q: %v", asked, err)
		}
	}
}

func TestNetX_24_SwitchOfMechanismDoesNotPersist(t *testing.T) {
	const loginOnly = "S: 220 mx\nC: EHLO client.example\nS\" 250-mx\\r\\n250 AUTH LOGIN\\r\\n\nC: AUTH LOGIN\nS: 535 no\nC: QUIT\nS: 221 bye"
	l := serve(t, loginOnly, dialogue(-1, ""))
	c := newClient(t, authConfig(t, l))
	if _, err := send(t, c, t.Context(), mailOf("")); asError(t, err).Step != smtpclient.StepAuth {
		t.Error(err)
	}
	if r, err := send(t, c, t.Context(), mailOf("")); err != nil || r.Auth != "PLAIN" {
		t.Errorf("authenticated with %q: %v", r.Auth, err)
	}
}

// tcpDialer is a Dialer that can say whether it has TCP.
type tcpDialer struct {
	smtpclient.Dialer
	enabled bool
}

func (d tcpDialer) TCPEnabled() bool { return d.enabled }

// TestNetX_27_TCPNotEnabled: that the instance answers is tested in package stack.
func TestNetX_27_TCPNotEnabled(t *testing.T) {
	l := smtptest.Listen()
	if _, err := smtpclient.New(testConfig(t, tcpDialer{l, false})); !errors.Is(err, smtpclient.ErrTCPNotEnabled) {
		t.Errorf("error %v", err)
	}
	if _, err := smtpclient.New(testConfig(t, tcpDialer{l, true})); err != nil {
		t.Error(err)
	}
}
