package smtpclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
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

	"github.com/emersion/go-smtp"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// testCA is the authority that the tests' clients trust.
var testCA = sync.OnceValue(func() *smtptest.CA { return smtptest.NewCA("Test CA") })

var testCertificate = sync.OnceValue(func() tls.Certificate { return testCA().Issue("mx.example", "192.0.2.25") })

// testTLS is the configuration of the tests' servers.
func testTLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{testCertificate()},
		Time:         func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
	}
}

func tlsMode(t *testing.T, name string) smtpclient.TLSMode {
	for m := smtpclient.TLSStartTLS; m <= smtpclient.TLSImplicit; m++ {
		if m.String() == name {
			return m
		}
	}
	t.Fatalf("no TLS mode %q", name)
	return 0
}

// What servers that speak TLS at once say in it.
const (
	tlsSession = "! tls\nS: 220 mx\nC: EHLO client.example\nS: 250 mx\nC: MAIL FROM:<device@example.org>\nS: 250 ok\n" +
		"C: RCPT TO:<ops@example.net>\nS: 250 ok\nC: DATA\nS: 354 go\nC.\nS: 250 done\nC: QUIT\nS: 221 bye"
	tlsRefused = "! tls refused"
)

// tlsTest is a client's and a server's idea of TLS.
type tlsTest struct {
	name   string
	server func(*tls.Config)
	client func(*smtpclient.Config)
	script string
	is     error  // that the error has to be; nil for none
	want   string // in the error, or in the receipt's TLS
}

func sum(c tls.Certificate) string {
	s := sha256.Sum256(c.Certificate[0])
	return hex.EncodeToString(s[:])
}

// pin makes the client trust c alone.
func pin(c tls.Certificate) func(*smtpclient.Config) {
	return func(cfg *smtpclient.Config) {
		cfg.TLS.RootCAs = nil
		cfg.TLS.Fingerprints = []string{strings.Repeat("0", 64), sum(c)}
	}
}

func serverWith(c tls.Certificate) func(*tls.Config) {
	return func(cfg *tls.Config) { cfg.Certificates = []tls.Certificate{c} }
}

func day(year int, month time.Month, d int) time.Time {
	return time.Date(year, month, d, 0, 0, 0, 0, time.UTC)
}

func tlsTests() []tlsTest {
	ca := testCA()
	expired := ca.IssueFor(day(2026, 1, 1), day(2026, 11, 1), "192.0.2.25")
	future := ca.IssueFor(day(2026, 12, 1), day(2027, 11, 1), "192.0.2.25")
	foreign := smtptest.NewCA("Foreign CA").Issue("192.0.2.25")
	hostile := smtptest.NewCA("\x1b[2J\nS: 250 ok").Issue("192.0.2.25")
	client := ca.Issue("client.example")
	demand := func(cfg *tls.Config) {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, ca.Roots()
	}
	insecure := func(cfg *smtpclient.Config) { cfg.TLS.RootCAs, cfg.TLS.InsecureSkipVerify = nil, true }
	return []tlsTest{
		{"good", nil, nil, tlsSession, nil, "verified for 192.0.2.25"},
		{"expired", serverWith(expired), nil, tlsRefused, smtpclient.ErrCertificate,
			`certificate "CN=192.0.2.25" for 192.0.2.25, issued by "CN=Test CA", valid from 2026-01-01 to 2026-11-01: it expired on 2026-11-01 00:00 UTC, and the clock says 2026-11-23 12:00 UTC`},
		{"not yet valid", serverWith(future), nil, tlsRefused, smtpclient.ErrCertificate, "it is valid from 2026-12-01 00:00 UTC on, and the clock says 2026-11-23"},
		{"foreign authority", serverWith(foreign), nil, tlsRefused, smtpclient.ErrCertificate, `issued by "CN=Foreign CA", valid from 2000-01-01 to 2099-12-31: no trusted authority has issued it`},
		{"hostile words", serverWith(hostile), nil, tlsRefused, smtpclient.ErrCertificate, "no trusted authority"},
		{"insecure", serverWith(expired), insecure, tlsSession, nil, "certificate NOT verified: CN=192.0.2.25"},
		{"pinned", serverWith(foreign), pin(foreign), tlsSession, nil, "certificate known by its fingerprint"},
		{"pinned and expired", serverWith(expired), pin(expired), tlsSession, nil, "by its fingerprint"},
		{"another pinned", nil, pin(foreign), tlsRefused, smtpclient.ErrCertificate, "its fingerprint is none of Config.TLS.Fingerprints"},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, nil, tlsSession, nil, "TLS 1.2"},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, nil, tlsRefused, errAny, "version"},
		{"TLS 1.1 permitted", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			func(c *smtpclient.Config) { c.TLS.MinVersion = tls.VersionTLS10 }, tlsSession, nil, "TLS 1.1"},
		{"TLS 1.3 demanded", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
			func(c *smtpclient.Config) { c.TLS.MinVersion = tls.VersionTLS13 }, tlsRefused, errAny, "version"},
		{"client certificate", demand, func(c *smtpclient.Config) { c.TLS.Certificate = &client }, tlsSession, nil, "verified"},
		{"no client certificate", demand, nil, tlsRefused, errAny, "it may want a client certificate"},
	}
}

// errAny stands for every error.
var errAny = errors.New("any")

func TestTLS(t *testing.T) {
	for _, tt := range tlsTests() {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.run(t) })
		})
	}
}

func (tt tlsTest) run(t *testing.T) {
	d := smtptest.MustParse(tt.script)
	d.TLS = testTLS()
	if tt.server != nil {
		tt.server(d.TLS)
	}
	l := smtptest.Listen()
	server := smtptest.Serve(l, d)
	cfg := testConfig(t, l)
	cfg.TLS.Mode, cfg.TLS.RootCAs = smtpclient.TLSImplicit, testCA().Roots()
	if tt.client != nil {
		tt.client(&cfg)
	}
	var trace bytes.Buffer
	cfg.Trace = smtpclient.TraceTo(&trace)
	r, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\r\n"))
	if _, problem := server.Wait(); problem != nil {
		t.Error(problem)
	}
	if tt.is == nil {
		if err != nil || r.TLS == nil || !strings.Contains(r.TLS.String(), tt.want) {
			t.Errorf("TLS %v, error %v; want %q", r.TLS, err, tt.want)
		}
		return
	}
	if e := asError(t, err); tt.is != errAny && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) || !e.Temporary() {
		t.Errorf("error %v\nwant one with %q", err, tt.want)
	}
	if strings.ContainsAny(err.Error(), "\x1b\n") || strings.ContainsRune(trace.String(), '\x1b') {
		t.Errorf("unprintable: %q\n%q", err, trace.String())
	}
}

// TestTLSHandshakeIsBounded: a server that says nothing, and a context that ends.
func TestTLSHandshakeIsBounded(t *testing.T) {
	for _, mode := range []smtpclient.TLSMode{smtpclient.TLSImplicit, smtpclient.TLSRequireStartTLS} {
		script := "! silent"
		if mode == smtpclient.TLSRequireStartTLS {
			script = "S: 220 mx\nC: EHLO client.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n! silent"
		}
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig(t, serve(t, script))
			cfg.TLS.Mode = mode
			begin := time.Now()
			_, err := send(t, newClient(t, cfg), t.Context(), mailOf(""))
			if e := asError(t, err); e.Step != smtpclient.StepTLS || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			if took := time.Since(begin).Truncate(time.Second); took != 2*time.Minute {
				t.Errorf("%v: %v", mode, took)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig(t, serve(t, script))
			cfg.TLS.Mode = mode
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			begin := time.Now()
			_, err := send(t, newClient(t, cfg), ctx, mailOf(""))
			if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != 3*time.Second {
				t.Errorf("%v: %v after %v", mode, err, took)
			}
		})
	}
}

// TestTLSGreeting: the usual mistake the other way round.
func TestTLSGreeting(t *testing.T) {
	for _, script := range []string{"! silent", "! close"} {
		synctest.Test(t, func(t *testing.T) {
			_, err := send(t, newClient(t, testConfig(t, serve(t, script))), t.Context(), mailOf(""))
			if err == nil || !strings.Contains(err.Error(), "use TLS mode implicit") {
				t.Errorf("%s: %v", script, err)
			}
		})
	}
}

// TestTLSBroken: a server that goes away in the middle, without TLS's farewell.
func TestTLSBroken(t *testing.T) {
	lines := strings.Split(tlsSession, "\n")
	for n := 1; n < len(lines); n++ {
		for _, end := range []string{"! close", "! reset"} {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig(t, serve(t, strings.Join(lines[:n], "\n")+"\n"+end))
				cfg.TLS.Mode, cfg.TLS.RootCAs = smtpclient.TLSImplicit, testCA().Roots()
				r, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\r\n"))
				want := smtpclient.Refused
				switch last := lines[n-1]; {
				case last == "C.":
					want = smtpclient.Unknown
				case last == "S: 250 done", last == "C: QUIT":
					want = smtpclient.Delivered
				}
				// A reset may take with it what came before; and what is lost on its way
				// may have been the final dot.
				certain := end == "! close" && lines[n-1] != "S: 354 go"
				if got := r.Recipients[0].Outcome; got != want && (certain || got == smtpclient.Delivered) {
					t.Errorf("%s after %q: %v, want %v; %v", end, lines[n-1], got, want, err)
				}
			})
		}
	}
}

// TestTLSInterop: every byte arrives at a server that somebody else wrote, through
// pools of any size, after STARTTLS and with TLS from the first byte.
func TestTLSInterop(t *testing.T) {
	body := boundaryBody(1400) + strings.Repeat("a line\r\n", 50000)
	for _, mode := range []smtpclient.TLSMode{smtpclient.TLSStartTLS, smtpclient.TLSRequireStartTLS, smtpclient.TLSImplicit} {
		for _, packets := range []int{1, 4, 64} {
			b := new(backend)
			server := smtp.NewServer(b)
			server.Domain = "go-smtp.example"
			server.MaxLineLength = 1 << 20
			memory := smtptest.Listen()
			var l net.Listener = memory
			if mode == smtpclient.TLSImplicit {
				l = tls.NewListener(l, testTLS())
			} else {
				server.TLSConfig = testTLS()
			}
			done := make(chan struct{})
			go func() { defer close(done); _ = server.Serve(l) }() // ended by Close
			cfg := authConfig(t, memory)
			cfg.AllowPlaintextAuth = false
			cfg.TLS.Mode, cfg.TLS.RootCAs = mode, testCA().Roots()
			cfg.Pool = newPool(t, packets, 1514)
			r, err := send(t, newClient(t, cfg), t.Context(), mailOf(body))
			if err != nil || r.Auth != "PLAIN" || r.TLS == nil || r.TLS.Verified != smtpclient.VerifiedByChain {
				t.Errorf("%v, %d packets: %v, %+v", mode, packets, err, r.TLS)
			} else if string(b.mail[0].data) != body {
				t.Errorf("%v, %d packets: %d bytes arrived, %d were sent", mode, packets, len(b.mail[0].data), len(body))
			}
			_ = server.Close()
			<-done
		}
	}
}

// TestTLSSendsNothingInClear: what a listener sees of a session with STARTTLS.
func TestTLSSendsNothingInClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := smtptest.MustParse("S: 220 mx\nC: EHLO client.example\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n" +
			strings.Replace(strings.Replace(tlsSession, "S: 220 mx\n", "", 1), "S: 250 mx\n",
				"S: 250-mx\nS: 250 AUTH PLAIN\nC: AUTH PLAIN\nS: 334 \nC~ .*\nS: 235 ok\n", 1))
		d.TLS = testTLS()
		l := smtptest.Listen()
		server := smtptest.Serve(l, d)
		recorder := &recordingDialer{Dialer: l}
		cfg := testConfig(t, recorder)
		cfg.TLS.Mode, cfg.TLS.RootCAs = smtpclient.TLSRequireStartTLS, testCA().Roots()
		cfg.Username, cfg.Password = "user", smtpclient.NewSecret(canary)
		var trace bytes.Buffer
		cfg.Trace = smtpclient.TraceTo(&trace)
		r, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\r\n"))
		if _, problem := server.Wait(); problem != nil || err != nil {
			t.Fatal(err, problem)
		}
		sent := recorder.conns[0].sent.String()
		clear, hidden, _ := strings.Cut(sent, "STARTTLS\r\n")
		if clear != "EHLO client.example\r\n" || strings.Contains(hidden, "MAIL") || strings.Contains(hidden, "body") {
			t.Errorf("in clear: %q", sent)
		}
		checkNoSecret(t, "wire", sent)
		checkNoSecret(t, "trace", trace.String())
		checkNoSecret(t, "receipt", fmt.Sprintf("%+v", r))
		if !strings.Contains(trace.String(), "certificate verified for 192.0.2.25") {
			t.Errorf("the trace doesn't show TLS:\n%s", trace.String())
		}
	})
}

func TestTLSReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, serve(t, tlsSession))
		cfg.TLS.Mode, cfg.TLS.RootCAs = smtpclient.TLSImplicit, testCA().Roots()
		r, err := send(t, newClient(t, cfg), t.Context(), mailOf(""))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(r.TLS)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"version":"TLS 1.3"`, `"cipher":"TLS_`, `"name":"192.0.2.25"`, `"verified":"chain"`,
			`"names":["mx.example","192.0.2.25"]`, `"not_after":"2099-12-31T00:00:00Z"`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s isn't in %s", want, b)
			}
		}
		pin := strings.ReplaceAll(r.TLS.Chain[0].SHA256, ":", "")
		if !strings.EqualFold(pin, sum(testCertificate())) || len(r.TLS.Chain) != 2 {
			t.Errorf("%+v", r.TLS)
		}
	})
}

// TestTLSDefaultPort: that of RFC 8314 with TLS from the first byte.
func TestTLSDefaultPort(t *testing.T) {
	for mode, want := range map[smtpclient.TLSMode]string{smtpclient.TLSImplicit: "192.0.2.25:465", smtpclient.TLSStartTLS: "192.0.2.25:25"} {
		dialed := ""
		cfg := testConfig(t, dialFunc(func(_ context.Context, _, address string) (net.Conn, error) {
			dialed = address
			return nil, io.EOF
		}))
		cfg.Server, cfg.TLS.Mode = "192.0.2.25", mode
		_, _ = newClient(t, cfg).Send(t.Context(), mailOf(""))
		if dialed != want {
			t.Errorf("%v: %q, want %q", mode, dialed, want)
		}
	}
}

// TestTLSOfDialer: a connection that is encrypted already needs no more.
func TestTLSOfDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, "! tls\nS: 220 mx\nC: EHLO client.example\nS: 250-mx\nS: 250 STARTTLS\nC: QUIT\nS: 221 bye")
		cfg := testConfig(t, dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := l.DialContext(ctx, network, address)
			return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), err
		}))
		cfg.TLS.Mode = smtpclient.TLSRequireStartTLS
		if _, err := newClient(t, cfg).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTLSConfigIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*smtpclient.TLSConfig)
		want   string
	}{
		"mode":      {func(c *smtpclient.TLSConfig) { c.Mode = 4 }, "TLS.Mode: TLSMode(4)"},
		"name":      {func(c *smtpclient.TLSConfig) { c.ServerName = "mx example" }, "TLS.ServerName"},
		"literal":   {func(c *smtpclient.TLSConfig) { c.ServerName = "[192.0.2.1]" }, "TLS.ServerName"},
		"short sum": {func(c *smtpclient.TLSConfig) { c.Fingerprints = []string{"00:11"} }, "64 hexadecimal digits"},
		"no sum":    {func(c *smtpclient.TLSConfig) { c.Fingerprints = []string{strings.Repeat("g", 64)} }, "TLS.Fingerprints"},
		"version":   {func(c *smtpclient.TLSConfig) { c.MinVersion = 0x300 }, "TLS.MinVersion"},
		"insecure pin": {func(c *smtpclient.TLSConfig) {
			c.InsecureSkipVerify, c.Fingerprints = true, []string{strings.Repeat("0", 64)}
		}, "leave one out"},
		"insecure CA": {func(c *smtpclient.TLSConfig) { c.InsecureSkipVerify, c.RootCAs = true, testCA().Roots() }, "leave one out"},
	} {
		cfg := testConfig(t, smtptest.Listen())
		c.change(&cfg.TLS)
		if _, err := smtpclient.New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
