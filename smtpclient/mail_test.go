package smtpclient

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"strings"
	"testing"
	"time"
)

var testFacts = headerFacts{
	date:      time.Date(2026, 11, 23, 12, 34, 56, 0, time.FixedZone("", 3600)),
	messageID: "id@device.example", domain: "device.example", eightBit: true,
}

// checkHeaderOf makes a header of m and reads it again: what m says must be there, and
// nothing else. A mail that is refused is not looked at.
func checkHeaderOf(t *testing.T, m Mail) {
	t.Helper()
	e, err := m.envelope("device@example.org")
	if err != nil {
		if !errors.Is(err, ErrAddress) && !errors.Is(err, ErrSubject) {
			t.Errorf("error %v", err)
		}
		return
	}
	raw := m.header(e, testFacts)
	for line := range strings.SplitSeq(string(raw), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\r\n\x00") || strings.TrimSpace(line) == "" && line != "" {
			t.Errorf("header line %q", line)
		}
	}
	if n := bytes.Count(raw, []byte("\r\n\r\n")); n != 1 || !bytes.HasSuffix(raw, []byte("\r\n\r\n")) {
		t.Errorf("the header doesn't end where it should: %q", raw)
	}
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Errorf("%v: %q", err, raw)
		return
	}
	want := 8
	if m.Priority != PriorityNormal {
		want += 3
	}
	if len(msg.Header) != want {
		t.Errorf("%d header fields, want %d: %v", len(msg.Header), want, msg.Header)
	}
	if got, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil || got != m.Subject {
		t.Errorf("subject %q became %q (%v): %q", m.Subject, got, err, raw)
	}
}

func TestHeader(t *testing.T) {
	m := Mail{To: []string{"ops@example.org", "<b@example.net>"}, Subject: "hot", Priority: PriorityHigh}
	e, err := m.envelope("device@example.org")
	if err != nil {
		t.Fatal(err)
	}
	const want = "Date: Mon, 23 Nov 2026 12:34:56 +0100\r\n" +
		"Message-ID: <id@device.example>\r\n" +
		"From: device@example.org\r\n" +
		"To: ops@example.org,\r\n b@example.net\r\n" +
		"Subject: hot\r\n" +
		"X-Priority: 1 (Highest)\r\nPriority: urgent\r\nImportance: high\r\n" +
		"MIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"Content-Transfer-Encoding: 8bit\r\n\r\n"
	if got := string(m.header(e, testFacts)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHeaderOfNullSender(t *testing.T) {
	m := Mail{From: "<>", To: []string{"a@b"}, Priority: PriorityLow}
	e, err := m.envelope("device@example.org")
	if err != nil {
		t.Fatal(err)
	}
	facts := testFacts
	facts.eightBit = false
	got := string(m.header(e, facts))
	for _, want := range []string{"From: MAILER-DAEMON@device.example\r\n", "Priority: non-urgent\r\n", "Encoding: 7bit\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, s := range []string{
		"", "hot", "two words", " leading", "trailing ", "two  spaces", "tab\there", "=?utf-8?q?looks=20encoded?=", "?=", "a =? b",
		"Gr\u00fc\u00dfe", strings.Repeat("\u00fc", 500), strings.Repeat("long words here ", 30) + "x", strings.Repeat("w", 997), strings.Repeat("w", 5000),
		strings.Repeat("w", 100) + " " + strings.Repeat("v", 100), "\U0001f525 hot", "e\u0301", "a: b", ": ", ",;<>\"",
	} {
		checkHeaderOf(t, Mail{Subject: s, To: []string{"x@example.org"}})
	}
}

func TestShortLinesInFoldedSubject(t *testing.T) {
	for _, s := range []string{strings.Repeat("word ", 60) + "end", strings.Repeat("\u00fc\u00df ", 60) + "end"} {
		for line := range strings.SplitSeq("Subject: "+encodeSubject(s), "\r\n") {
			if len(line) > 78 {
				t.Errorf("line of %d: %q", len(line), line)
			}
		}
	}
}

func TestRefusedMail(t *testing.T) {
	to := []string{"ops@example.org"}
	tests := []struct {
		name string
		mail Mail
		err  error
	}{
		{"CR in subject", Mail{To: to, Subject: "a\rb"}, ErrSubject},
		{"LF in subject", Mail{To: to, Subject: "a\nBcc: x@y"}, ErrSubject},
		{"NUL in subject", Mail{To: to, Subject: "a\x00b"}, ErrSubject},
		{"ESC in subject", Mail{To: to, Subject: "a\x1b[0m"}, ErrSubject},
		{"C1 control in subject", Mail{To: to, Subject: "a\u0085b"}, ErrSubject},
		{"Latin-1 subject", Mail{To: to, Subject: "Gr\xfc\xdfe"}, ErrSubject},
		{"no recipient", Mail{}, ErrAddress},
		{"one bad recipient", Mail{To: []string{"ops@example.org", "x y@z"}}, ErrAddress},
		{"bad sender", Mail{To: to, From: "a@b>"}, ErrAddress},
		{"priority", Mail{To: to, Priority: 2}, ErrPriority},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.mail.envelope("device@example.org"); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
		})
	}
	raw := Mail{To: to, Subject: "ignored\r\n", Raw: true}
	if _, err := raw.envelope("device@example.org"); err != nil {
		t.Errorf("the subject of a raw mail was looked at: %v", err)
	}
}

func TestNewMessageID(t *testing.T) {
	id, err := newMessageID(testFacts.date, bytes.NewReader([]byte("0123456789")), "device.example")
	if want := "dn2k4laq3ri8.30313233343536373839@device.example"; err != nil || id != want {
		t.Errorf("got %q, %v; want %q", id, err, want)
	}
	if _, err := newMessageID(testFacts.date, bytes.NewReader([]byte("012")), "x"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with too few random bytes: %v", err)
	}
}

func TestMTPriority(t *testing.T) {
	for p, want := range map[Priority]string{PriorityLow: "-4", PriorityNormal: "0", PriorityHigh: "4"} {
		if got := p.mtPriority(); got != want {
			t.Errorf("%v: %q, want %q", p, got, want)
		}
	}
}
