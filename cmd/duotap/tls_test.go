package main

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/smtpclient/smtptest"
)

// tlsServer is how a test's server speaks TLS.
func tlsServer(c tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}}
}

// TestTLS sends over a TAP to a server with STARTTLS and to one with TLS at once.
func TestTLS(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		ca := smtptest.NewCA("Test CA")
		config := tlsServer(ca.Issue("mx.example", f.server.String()))
		authorities := writeTemp(t, "ca.pem", string(ca.PEM()), 0o644)
		password := writeTemp(t, "password", secretPassword, 0o600)
		startTLS := serveMail(t, f.listen(t), &mailServer{user: secretUser, password: secretPassword, tls: config})
		implicit := serveMail(t, listenImplicit(t, f, config), &mailServer{user: secretUser, password: secretPassword, tls: config})
		host := f.server.String()
		auth := []string{"--to", "ops@example.org", "--user", secretUser, "--password-file", password, "--json", "--trace"}

		for _, c := range []struct {
			name   string
			server string
			args   []string
			stored *mailServer
		}{
			{"default", f.smtp(), []string{"--tls-ca", authorities}, startTLS},
			{"required", f.smtp(), []string{"--tls", "require-starttls", "--tls-ca", authorities, "--tls-name", "mx.example"}, startTLS},
			{"insecure", f.smtp(), []string{"--tls-insecure"}, startTLS},
			{"token", f.smtp(), []string{"--tls-ca", authorities, "--auth", "oauthbearer"}, startTLS},
			{"implicit", host, []string{"--tls", "implicit", "--tls-ca", authorities}, implicit},
		} {
			c.stored.mails = nil
			r := duotap(t, strings.NewReader("the pump is hot\n"), append(append(sendArgs(c.server), auth...), c.args...)...)
			if r.code != exitOK || leaks(r.stdout+r.stderr) != nil {
				t.Errorf("%s: leaks %q\n%s", c.name, leaks(r.stdout+r.stderr), r.output())
				continue
			}
			var got struct {
				Receipt struct {
					Auth string
					TLS  struct{ Version, Verified string }
				}
			}
			if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
				t.Fatal(err)
			}
			verified, mechanism := "chain", "PLAIN"
			if c.name == "token" {
				mechanism = "OAUTHBEARER"
			}
			if c.name == "insecure" {
				verified = "no"
			}
			if got.Receipt.TLS.Version != "TLS 1.3" || got.Receipt.TLS.Verified != verified || got.Receipt.Auth != mechanism {
				t.Errorf("%s: %+v", c.name, got)
			}
			if body := c.stored.only(t).body(); body != "the pump is hot\r\n" {
				t.Errorf("%s: stored %q", c.name, body)
			}
		}

		r := duotap(t, nil, checkArgs(f.smtp(), "--tls-ca", authorities, "--user", secretUser, "--password-file", password, "--auth", "scram-sha-256")...)
		if r.code != exitPermission || !strings.Contains(r.stdout, "SCRAM-SHA-256 is wanted, and the server offers PLAIN OAUTHBEARER") {
			t.Errorf("exit code %d\n%s", r.code, r.output())
		}
		r = duotap(t, nil, checkArgs(f.smtp(), "--tls-ca", authorities)...)
		r.mustSucceed(t)
		if want := "TLS 1.3 with TLS_AES_128_GCM_SHA256, certificate verified for " + host +
			": CN=mx.example (valid to 2099-12-31), issued by CN=Test CA (valid to 2099-12-31)"; !strings.Contains(r.stdout, want) {
			t.Errorf("%q isn't in\n%s", want, r.output())
		}
	})
}

// listenImplicit listens on the port of RFC 8314, on the kernel's side.
func listenImplicit(t *testing.T, f family, config *tls.Config) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(f.server, 465).String())
	if err != nil {
		t.Fatal(err)
	}
	return tls.NewListener(l, config)
}

// TestTLSTroubles: each ends with one sentence that says what is wrong, and without a
// mail.
func TestTLSTroubles(t *testing.T) {
	requireTAP(t)
	f := families[0]
	host := f.server.String()
	ca := smtptest.NewCA("Test CA")
	authorities := writeTemp(t, "ca.pem", string(ca.PEM()), 0o644)
	expired := ca.IssueFor(time.Now().AddDate(-1, 0, 0), time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), host)
	good := ca.Issue(host)
	for _, c := range []struct {
		name     string
		tls      *tls.Config
		implicit bool
		args     []string
		code     int
		text     string
	}{
		{"expired", tlsServer(expired), false, nil, exitTemporary, "it expired on 2026-01-31 12:00 UTC"},
		{"another name", tlsServer(ca.Issue("mx.example")), false, nil, exitTemporary, `for mx\.example.*it isn't for \\?"192\.0\.2\.1`},
		{"unknown authority", tlsServer(smtptest.NewCA("Foreign CA").Issue(host)), false, nil, exitTemporary, "Foreign CA.*no trusted authority"},
		{"not offered", nil, false, []string{"--tls", "require-starttls"}, exitTemporary, "doesn't offer STARTTLS"},
		{"implicit to a STARTTLS port", tlsServer(good), false, []string{"--tls", "implicit"}, exitProtocol, "220 mx.example.*wants STARTTLS: use TLS mode require-starttls"},
		{"STARTTLS to an implicit port", tlsServer(good), true, []string{"--timeout", "1s"}, exitTemporary, "then use TLS mode implicit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNetwork(t)
			l := f.listen(t)
			if c.implicit {
				l = tls.NewListener(l, c.tls)
			}
			server := serveMail(t, l, &mailServer{tls: c.tls})
			args := append([]string{"--tls-ca", authorities}, c.args...)
			if r := duotap(t, nil, checkArgs(f.smtp(), args...)...); r.code != c.code || !regexp.MustCompile("FAIL .*"+c.text).MatchString(r.stdout) {
				t.Errorf("exit code %d, want %d; or no %q\n%s", r.code, c.code, c.text, r.output())
			}
			duotap(t, strings.NewReader("x"), sendArgs(f.smtp(), append(args, "--to", "ops@example.org")...)...).
				mustFail(t, c.code, c.text)
			server.none(t)
		})
	}
}
