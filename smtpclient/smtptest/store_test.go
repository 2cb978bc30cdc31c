package smtptest_test

import (
	"crypto/sha256"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/duotap/duotap/smtpclient/smtptest"
)

// converse runs a session in which each line is said after the reply to the one
// before, and returns the codes of the replies.
func converse(t *testing.T, s *smtptest.Store, lines ...string) string {
	t.Helper()
	client, server := smtptest.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.ServeConn(server) }()
	defer func() { <-done }()
	defer client.Close()
	var codes []string
	codes = append(codes, replyCode(t, client))
	for _, line := range lines {
		_, _ = io.WriteString(client, line+"\r\n") // the server may have closed, and said why
		codes = append(codes, replyCode(t, client))
	}
	return strings.Join(codes, " ")
}

// replyCode reads a reply and returns its code; "" at the end of the connection.
func replyCode(t *testing.T, conn net.Conn) string {
	t.Helper()
	var reply []byte
	b := make([]byte, 1)
	for {
		if _, err := conn.Read(b); err != nil {
			return ""
		}
		reply = append(reply, b[0])
		if b[0] == '\n' {
			if reply[3] == ' ' {
				return string(reply[:3])
			}
			reply = reply[:0]
		}
	}
}

func TestStore(t *testing.T) {
	tests := []struct {
		name  string
		store *smtptest.Store
		lines []string
		codes string
	}{
		{"a mail", new(smtptest.Store),
			[]string{"EHLO x", "MAIL FROM:<a@b> BODY=8BITMIME", "RCPT TO:<c@d>", "DATA", "x\r\n..y\r\n.", "QUIT"}, "220 250 250 250 354 250 221"},
		{"two mails", new(smtptest.Store),
			[]string{"HELO x", "MAIL FROM:<>", "RCPT TO:<c@d>", "DATA", ".", "mail from:<a@b>", "RSET", "NOOP", "QUIT"}, "220 250 250 250 354 250 250 250 250 221"},
		{"out of order", new(smtptest.Store),
			[]string{"MAIL FROM:<a@b>", "EHLO x", "RCPT TO:<c@d>", "DATA", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>", "DATA"}, "220 503 250 503 503 250 503 503"},
		{"syntax", new(smtptest.Store),
			[]string{"EHLO x", "MAIL FROM:a@b", "MAIL FROM:<a@b>X", "MAIL TO:<a@b>", `MAIL FROM:<"a>b"@c>`, "RCPT TO:<>", "DANCE"}, "220 250 501 501 501 250 501 500"},
		{"plain", &smtptest.Store{Username: "u", Password: "pwd"},
			[]string{"EHLO x", "MAIL FROM:<a@b>", "AUTH PLAIN", "AHUAcHdk", "MAIL FROM:<a@b>"}, "220 250 530 334 235 250"},
		{"plain at once", &smtptest.Store{Username: "u", Password: "pwd"}, []string{"EHLO x", "AUTH PLAIN AHUAcHdk"}, "220 250 235"},
		{"login", &smtptest.Store{Username: "u", Password: "pwd"}, []string{"EHLO x", "AUTH LOGIN", "dQ==", "cHdk"}, "220 250 334 334 235"},
		{"wrong password", &smtptest.Store{Username: "u", Password: "pwd"},
			[]string{"EHLO x", "AUTH PLAIN AHUAcHdl", "AUTH PLAIN !", "AUTH LOGIN", "dQ==", "!", "AUTH GSSAPI"}, "220 250 535 501 334 334 535 504"},
		{"nobody is welcome", new(smtptest.Store), []string{"EHLO x", "AUTH PLAIN AAA="}, "220 250 535"},
		{"refuses", &smtptest.Store{Refuse: func(c string) string {
			return map[string]string{"RCPT TO:<c@d>": "450 later", ".": "554 no"}[c]
		}}, []string{"EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>", "DATA", "x\r\n.", "DATA"}, "220 250 250 450 250 354 554 503"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := converse(t, tt.store, tt.lines...); got != tt.codes {
				t.Errorf("replies %s, want %s", got, tt.codes)
			}
			if err := tt.store.Problems(); err != nil {
				t.Error(err)
			}
		})
	}
	got := tests[0].store.Messages()
	if len(got) != 1 || string(got[0].Data) != "x\r\n.y\r\n" || got[0].From != "a@b" || got[0].Hello != "EHLO x" ||
		!slices.Equal(got[0].To, []string{"c@d"}) || !slices.Equal(got[0].Params, []string{"BODY=8BITMIME"}) {
		t.Errorf("%+v", got)
	}
	if got := tests[1].store.Messages(); len(got) != 1 || len(got[0].Data) != 0 || got[0].Data == nil {
		t.Errorf("%+v", got)
	}
}

// TestStoreSeesBadLineEnds: those that a lenient server takes for line ends.
func TestStoreSeesBadLineEnds(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for _, body := range []string{"a\n.\r\n", "a\r.\r\n.", "\r\n.\n.\r\n", long + "\r" + long + "\r\n.\r\n", long + "\n.\r\n"} {
		s := new(smtptest.Store)
		got := converse(t, s, "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", body)
		if got != "220 250 250 250 354 500" || s.Problems() == nil || len(s.Messages()) != 0 {
			t.Errorf("%.20q: replies %s, problems %v", body, got, s.Problems())
		}
	}
	s := new(smtptest.Store)
	if got := converse(t, s, "EHLO x\nMAIL"); got != "220 500" || s.Problems() == nil {
		t.Errorf("bare LF in a command: %s", got)
	}
}

// TestStoreTakesLongLines: also where the CRLF lies across the border of its buffer.
func TestStoreTakesLongLines(t *testing.T) {
	for n := 64<<10 - 4; n < 64<<10+4; n++ {
		s := &smtptest.Store{Digest: true}
		body := strings.Repeat("x", n) + "\r\n"
		if got := converse(t, s, "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", body+"."); got != "220 250 250 250 354 250" {
			t.Errorf("%d: %s, %v", n, got, s.Problems())
			continue
		}
		if m := s.Messages()[0]; m.Size != int64(len(body)) || m.SHA256 != sha256.Sum256([]byte(body)) || m.Data != nil {
			t.Errorf("%d: %+v", n, m)
		}
	}
}

func TestStoreDropsUnfinishedMessages(t *testing.T) {
	client, server := smtptest.Pipe()
	s := new(smtptest.Store)
	_, _ = io.WriteString(client, "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhalf a mess")
	_ = client.Close()
	s.ServeConn(server)
	if len(s.Messages()) != 0 || s.Problems() != nil {
		t.Errorf("%v, %v", s.Messages(), s.Problems())
	}
}
