package smtpclient

import (
	"bytes"
	"errors"
	"net/mail"
	"net/netip"
	"strings"
	"testing"
)

func TestParseMailbox(t *testing.T) {
	local64 := strings.Repeat("l", 64)
	label := strings.Repeat("d", 63)
	tests := []struct {
		in   string
		want string // empty if refused
	}{
		{"ops@example.org", "ops@example.org"},
		{"<ops@example.org>", "ops@example.org"},
		{"o'brien+tag=x/y@sub.example.org", "o'brien+tag=x/y@sub.example.org"},
		{"a..b.@example.org", "a..b.@example.org"},
		{"user%other@example.org", "user%other@example.org"},
		{`"a b"@example.org`, `"a b"@example.org`},
		{`"a@b>c"@example.org`, `"a@b>c"@example.org`},
		{`"a\"b"@example.org`, `"a\"b"@example.org`},
		{`"a@evil.example"@example.org`, `"a@evil.example"@example.org`},
		{"x@[192.0.2.1]", "x@[192.0.2.1]"},
		{"x@[IPv6:2001:db8::1]", "x@[IPv6:2001:db8::1]"},
		{"x@host_name", "x@host_name"},
		{local64 + "@example.org", local64 + "@example.org"},
		{"-oX@example.org", "-oX@example.org"}, // no argument of a program here

		{"", ""},
		{"<>", ""},
		{"ops", ""},
		{"@example.org", ""},
		{"ops@", ""},
		{"a@b@c", ""},
		{"<<a@b>>", ""},
		{"<a@b", ""},
		{"a@b>", ""},
		{"a@x> SIZE=1 X=<", ""},
		{"a@x>", ""},
		{"a b@example.org", ""},
		{"a@exam ple.org", ""},
		{"a@example.org ", ""},
		{" a@example.org", ""},
		{"a@example.org\r\nRCPT TO:<evil@x", ""},
		{"a@example.org\n", ""},
		{"a\x00@example.org", ""},
		{"a\x7f@example.org", ""},
		{"\"a\x1b\"@example.org", ""},
		{"\"a\x7f\"@example.org", ""},
		{"\"a\r\nb\"@example.org", ""},
		{"\u00fc@example.org", ""},
		{"u@ex\u00e4mple.org", ""},
		{`"unfinished@example.org`, ""},
		{`"ends in backslash\"@example.org`, ""},
		{`"two"words@example.org`, ""},
		{`"a"@b"@example.org`, ""},
		{"@a.example,@b.example:c@d.example", ""},
		{"Ops <ops@example.org>", ""},
		{"a,b@example.org", ""},
		{"a(comment)@example.org", ""},
		{"a@example..org", ""},
		{"a@.example.org", ""},
		{"a@example.org.", ""},
		{"a@-example.org", ""},
		{"a@[192.0.2.256]", ""},
		{"a@[192.0.2.1", ""},
		{"a@[2001:db8::1]", ""},
		{"a@[IPv6:192.0.2.1]", ""},
		{"a@[IPv6:fe80::1%eth0]", ""},
		{local64 + "l@example.org", ""},
		{"a@" + label + "d.org", ""},
		{"a@" + strings.Repeat(label+".", 4) + "org", ""},
		{"a@" + strings.Repeat("d.", 126) + "org", ""}, // path of 257
	}
	for _, tt := range tests {
		got, err := parseMailbox(tt.in)
		if string(got) != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("parseMailbox(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestLongestPath(t *testing.T) {
	a := "a@" + strings.Repeat("d.", 125) + "de"
	if len(a) != 254 {
		t.Fatal(len(a))
	}
	if _, err := parseMailbox(a); err != nil {
		t.Error(err)
	}
	if _, err := parseMailbox("a" + a); err == nil {
		t.Error("a path of 257 octets was accepted")
	}
}

func TestParseSender(t *testing.T) {
	for in, want := range map[string]bool{"<>": true, "": false, "a@b": true, "postmaster": false} {
		if _, err := parseSender(in); (err == nil) != want {
			t.Errorf("parseSender(%q): %v", in, err)
		}
	}
}

func TestParseRecipient(t *testing.T) {
	for in, want := range map[string]bool{"<>": false, "": false, "a@b": true, "postmaster": true, "<Postmaster>": true, "root": false} {
		if _, err := parseRecipient(in); (err == nil) != want {
			t.Errorf("parseRecipient(%q): %v", in, err)
		}
	}
}

func TestCheckHelloName(t *testing.T) {
	for in, want := range map[string]bool{
		"device.example": true, "localhost": true, "[192.0.2.1]": true, "[IPv6:::1]": true,
		"": false, "a b": false, "a\r\nMAIL": false, "a\x00": false, "a>": false, "\u00e4.example": false,
		"[192.0.2.1] x": false, "[x]": false, "a..b": false,
	} {
		err := checkHelloName(in)
		if (err == nil) != want || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("checkHelloName(%q): %v", in, err)
		}
	}
}

func TestAddressLiteral(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "[192.0.2.1]", "2001:db8::1": "[IPv6:2001:db8::1]",
		"::ffff:192.0.2.1": "[192.0.2.1]", "fe80::1%tap0": "[IPv6:fe80::1]",
	} {
		got := addressLiteral(netip.MustParseAddr(in))
		if got != want {
			t.Errorf("addressLiteral(%s) = %s, want %s", in, got, want)
		}
		if err := checkHelloName(got); err != nil {
			t.Error(err)
		}
	}
}

func TestParseServer(t *testing.T) {
	tests := []struct {
		in, want string // empty if refused
		headroom int
	}{
		{"192.0.2.25", "192.0.2.25:25", 94},
		{"192.0.2.25:587", "192.0.2.25:587", 94},
		{"[fd99::1]:25", "[fd99::1]:25", 114},
		{"[fd99::1]", "[fd99::1]:25", 114},
		{"fd99::1", "[fd99::1]:25", 114},
		{"[fe80::1%tap0]:25", "[fe80::1%tap0]:25", 114},
		{"mail.example", "mail.example:25", 114},
		{"mail.example.:2525", "mail.example.:2525", 114},
		{"", "", 0},
		{":25", "", 0},
		{"mail.example:", "", 0},
		{"mail.example:0", "", 0},
		{"mail.example:65536", "", 0},
		{"mail.example:smtp", "", 0},
		{"mail example:25", "", 0},
		{"mail.example\r\n:25", "", 0},
		{"[192.0.2.25", "", 0},
		{"[[::1]]:25", "", 0},
	}
	for _, tt := range tests {
		got, err := parseServer(tt.in, defaultPort)
		if (err == nil) != (tt.want != "") || err == nil && (got.address() != tt.want || got.headroom() != tt.headroom) {
			t.Errorf("parseServer(%q) = %v, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

// command takes a command line apart as a server does that trusts nobody.
func pathOf(line, verb string) (path, rest string, ok bool) {
	inner, ok := strings.CutPrefix(line, verb+":<")
	if !ok || strings.ContainsAny(line, "\r\n\x00") {
		return "", "", false
	}
	quoted := false
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return inner[:i], inner[i+1:], true
		}
	}
	return "", "", false
}

// FuzzCommandStrings checks that a string either is refused or is, in the line that it
// gets into, what it was before and nothing else.
func FuzzCommandStrings(f *testing.F) {
	for _, s := range []string{
		"a@b", "<a@b>", "<>", "a@x> SIZE=1 X=<", "a\r\nQUIT", `"a>b"@c`, `"a\"@c`, "a@[1.2.3.4]", "\x00", "\u00fc@b", "postmaster",
		"hot", "=?utf-8?q?x?=", " hot ", "two  spaces", strings.Repeat("w", 2000), strings.Repeat("w ", 200), "Gr\u00fc\u00dfe", "a\tb", "x\r\nBcc: y",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := parseSender(s); err == nil {
			path, rest, ok := pathOf((&session{}).mailCommand(envelope{from: a}), "MAIL FROM")
			if !ok || rest != "" || path != trimBrackets(s) {
				t.Errorf("sender %q became %q and %q", s, path, rest)
			}
		}
		if a, err := parseRecipient(s); err == nil {
			path, rest, ok := pathOf("RCPT TO:<"+string(a)+">", "RCPT TO")
			if !ok || rest != "" || path != trimBrackets(s) || path == "" {
				t.Errorf("recipient %q became %q and %q", s, path, rest)
			}
		}
		checkSameRecipient(t, s)
		if err := checkHelloName(s); err == nil {
			if strings.ContainsAny(s, " \r\n\x00<>") || s == "" || len(s) > maxDomain {
				t.Errorf("EHLO %q", s)
			}
		}
		checkHeaderOf(t, Mail{Subject: s, To: []string{"x@example.org"}})
	})
}

// checkSameRecipient checks that who reads the To field sees the address that RCPT got.
func checkSameRecipient(t *testing.T, to string) {
	t.Helper()
	m := Mail{To: []string{to, "second@example.org"}}
	e, err := m.envelope("device@example.org")
	if err != nil {
		return
	}
	msg, err := mail.ReadMessage(bytes.NewReader(m.header(e, testFacts)))
	if err != nil {
		t.Errorf("%q: %v", to, err)
		return
	}
	list, err := msg.Header.AddressList("To")
	if err != nil {
		return // net/mail doesn't know postmaster, nor address literals, nor a..b@c
	}
	at := strings.LastIndex(string(e.to[0]), "@")
	local, domain := string(e.to[0])[:at], string(e.to[0])[at+1:]
	if strings.HasPrefix(local, `"`) {
		local = unquote(local)
	}
	if len(list) != 2 || list[0].Address != local+"@"+domain {
		t.Errorf("RCPT TO:<%s>, To: %v", e.to[0], list)
	}
}

// unquote is what a quoted string stands for.
func unquote(s string) string {
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
