package main

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// checkArgs is a duotap check of server, on the TAP of newNetwork.
func checkArgs(server string, more ...string) []string {
	return append(append(append([]string{"check"}, linkArgs...), "--server", server), more...)
}

// jsonCheck is what check --json prints.
type jsonCheck struct {
	OK    bool `json:"ok"`
	Steps []struct {
		Step string  `json:"step"`
		OK   bool    `json:"ok"`
		Text string  `json:"text"`
		MS   float64 `json:"ms"`
	} `json:"steps"`
}

// summary is the steps in order, the one that failed with a mark.
func (c jsonCheck) summary() string {
	var b strings.Builder
	for _, s := range c.Steps {
		if b.WriteString(s.Step); !s.OK {
			b.WriteString("!")
		}
		b.WriteString(" ")
	}
	return strings.TrimSpace(b.String())
}

func TestCheck(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		server := serveMail(t, f.listen(t), &mailServer{user: secretUser, password: secretPassword})
		file := writeTemp(t, "password", secretPassword, 0o600)
		args := checkArgs(f.smtp(), "--user", secretUser, "--password-file", file, "--allow-plaintext-auth", "--trace", "-v")

		r := duotap(t, nil, args...)
		if r.code != exitOK || leaks(r.stdout+r.stderr) != nil {
			t.Fatalf("exit code %d, leaks %q\n%s", r.code, leaks(r.stdout+r.stderr), r.output())
		}
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		want := []string{
			`^ok +link .* tap duotap0 is up, our addresses \[192\.0\.2\.2/24 fd99::2/64\]$`,
			`^ok +name .* ` + regexp.QuoteMeta(f.server.String()),
			`^ok +neighbour .* ` + regexp.QuoteMeta(f.server.String()) + ` has MAC address `,
			`^ok +connect .* TCP connection from .* to ` + regexp.QuoteMeta(f.smtp()) + `$`,
			`^ok +greeting .* 220 mx\.example`,
			`^ok +EHLO .* 8BITMIME`,
			`^ok +AUTH .* authenticated with PLAIN$`,
		}
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d\n%s", len(lines), len(want), r.output())
		}
		for k, re := range want {
			if !regexp.MustCompile(re).MatchString(lines[k]) {
				t.Errorf("line %d: %q doesn't match %q", k+1, lines[k], re)
			}
		}

		r = duotap(t, nil, append(args, "--json")...)
		var got jsonCheck
		parseJSON(t, r, &got)
		if !got.OK || got.summary() != "link name neighbour connect greeting EHLO AUTH" {
			t.Errorf("%s", r.stdout)
		}
		server.none(t)
	})
}

// The step that fails is the last, and the only one to say so.
func TestCheckTroubles(t *testing.T) {
	requireTAP(t)
	t.Parallel()
	wrongPassword := writeTemp(t, "password", "something else", 0o600)
	for _, c := range []struct {
		name   string
		script string // of the server; "" for none
		host   func(f family) string
		args   []string
		code   int
		steps  string
		text   string
	}{
		{"no neighbour", "", func(f family) string { return f.silent.String() }, nil, exitTemporary, "link name neighbour!", "no route to host|does not answer|no answer"},
		{"no route", "", func(f family) string { return f.remote.String() }, nil, exitTemporary, "link name neighbour!", "unreachable|no route"},
		{"refused", "", nil, nil, exitTemporary, "link name neighbour connect!", "refused"},
		{"silent", "! silent", nil, []string{"--timeout", "1500ms"}, exitTemporary, "link name neighbour connect greeting!", "timeout.*TLS"},
		{"deadline", "! silent", nil, []string{"--deadline", "2s"}, exitTemporary, "link name neighbour connect greeting!", "--deadline 2s is over"},
		{"not for us", "S: 554 5.7.1 go away\n! close", nil, nil, exitPermanent, "link name neighbour connect greeting!", "554 5.7.1 go away"},
		{"no SMTP", "S: SSH-2.0-OpenSSH_9.2\n! close", nil, nil, exitProtocol, "link name neighbour connect greeting!", "not an SMTP reply"},
		{"refused hello", "S: 220 mx.example\nC~ EHLO .*\nS: 550 5.7.1 who are you\nC~ HELO .*\nS: 550 5.7.1 who are you\nC: QUIT\nS: 221 bye", nil, nil, exitPermanent, "link name neighbour connect greeting EHLO HELO!", "who are you"},
		{"wrong password", "S: 220 mx.example\nC~ EHLO .*\nS: 250-mx.example\nS: 250 AUTH PLAIN\nC: AUTH PLAIN\nS: 334 \nC~ .*\nS: 535 5.7.8 no\nC: QUIT\nS: 221 bye",
			nil, []string{"--user", "u", "--password-file", wrongPassword, "--allow-plaintext-auth"}, exitPermission, "link name neighbour connect greeting EHLO AUTH!", "535 5.7.8 no"},
	} {
		for _, f := range families {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				newNetwork(t)
				server := f.smtp()
				if c.host != nil {
					server = net.JoinHostPort(c.host(f), "25")
				}
				if c.script != "" {
					serveDialogue(t, f.listen(t), c.script)
				}
				r := duotap(t, nil, checkArgs(server, append(c.args, "--json")...)...)
				var got jsonCheck
				parseJSON(t, r, &got)
				if diff := cmp.Diff(c.steps, got.summary()); diff != "" || got.OK || r.code != c.code {
					t.Fatalf("exit code %d, want %d; steps (-want +got):\n%s\n%s", r.code, c.code, diff, r.output())
				}
				last := got.Steps[len(got.Steps)-1].Text
				if !regexp.MustCompile(c.text).MatchString(last) {
					t.Errorf("%q doesn't match %q", last, c.text)
				}
				if r.stderr != "" || r.took > soon {
					t.Errorf("after %v\n%s", r.took, r.output())
				}
			})
		}
	}
}

func TestCheckLinkTroubles(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	absent := []string{"check", "--tap", "absent0", "--address", "192.0.2.2/24", "--server", "192.0.2.1"}
	r := duotap(t, nil, absent...)
	if r.code != exitIO || !regexp.MustCompile(`^FAIL +link .*no interface "absent0"`).MatchString(r.stdout) {
		t.Errorf("absent: exit code %d\n%s", r.code, r.output())
	}
	if err := netlink.LinkSetDown(kernelLink(t, tapName)); err != nil {
		t.Fatal(err)
	}
	r = duotap(t, nil, checkArgs("192.0.2.1")...)
	if r.code != exitTemporary || !regexp.MustCompile(`^FAIL +link .*ip link set duotap0 up`).MatchString(r.stdout) {
		t.Errorf("down: exit code %d\n%s", r.code, r.output())
	}
}

// serveNames answers DNS queries on the kernel's side: mx.example is both addresses of
// the server, anything else isn't there.
func serveNames(t *testing.T) {
	t.Helper()
	for _, f := range families {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(f.server.String(), "53"))
		if err != nil {
			t.Fatal(err)
		}
		s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answerName)}
		served := make(chan error, 1)
		go func() { served <- s.ActivateAndServe() }()
		t.Cleanup(func() {
			conn.Close()
			<-served
		})
	}
}

func answerName(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	switch name := strings.ToLower(q.Question[0].Name); {
	case name != "mx.example.":
		m.Rcode = dns.RcodeNameError
	default:
		for _, f := range families {
			kind := dns.TypeAAAA
			if f.server.Is4() {
				kind = dns.TypeA
			}
			if rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN %s %s", name, dns.TypeToString[kind], f.server)); err == nil && kind == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	_ = w.WriteMsg(m) // the client asks again, or shows what is wrong
}

func TestSendToName(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		serveNames(t)
		server := serveMail(t, f.listen(t), &mailServer{}) // on one of the two addresses
		args := func(name string) []string {
			return sendArgs(name+":25", "--dns", f.server.String(), "--to", "ops@example.org")
		}
		duotap(t, strings.NewReader("x"), args("mx.example")...).mustSucceed(t)
		server.only(t)
		duotap(t, strings.NewReader("x"), args("nowhere.example")...).mustFail(t, exitNoHost, "nowhere.example.*no such host")
	})
}

// A name server that isn't there is no reason to give the mail up.
func TestSendNameServerSilent(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	r := duotap(t, nil, sendArgs("mx.example:25", "--dns", families[0].silent.String(), "--timeout", "3s", "--to", "ops@example.org")...)
	r.mustFail(t, exitTemporary, "mx.example")
}

func TestCheckNames(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	serveNames(t)
	r := duotap(t, nil, checkArgs("nowhere.example", "--dns", "192.0.2.1")...)
	if r.code != exitNoHost || !regexp.MustCompile(`(?m)^FAIL +name .*nowhere\.example`).MatchString(r.stdout) {
		t.Errorf("exit code %d\n%s", r.code, r.output())
	}
	serveMail(t, families[1].listen(t), &mailServer{})
	r = duotap(t, nil, checkArgs("mx.example", "--dns", "fd99::1")...)
	if r.code != exitOK || !regexp.MustCompile(`(?m)^ok +name .*mx\.example is .*fd99::1`).MatchString(r.stdout) {
		t.Errorf("exit code %d\n%s", r.code, r.output())
	}
}

func TestCheckReadablePasswordFile(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	file := writeTemp(t, "password", secretPassword, 0o600)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	r := duotap(t, nil, checkArgs("192.0.2.1", "--user", "u", "--password-file", file)...)
	r.mustFail(t, exitPermission, "chmod 600")
}
