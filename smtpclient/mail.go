package smtpclient

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Priority of a mail. It becomes the parameter MT-PRIORITY of MAIL where the server
// offers that (RFC 6710), and the header fields X-Priority, Priority and Importance.
type Priority int8

// The priorities. A mail of PriorityNormal says nothing about it.
const (
	PriorityLow    Priority = -1
	PriorityNormal Priority = 0
	PriorityHigh   Priority = 1
)

// String returns the name that the program's flag has.
func (p Priority) String() string {
	switch p {
	case PriorityLow:
		return "low"
	case PriorityNormal:
		return "normal"
	case PriorityHigh:
		return "high"
	}
	return fmt.Sprintf("Priority(%d)", int8(p))
}

// mtPriority is p on the scale of RFC 6710 §3, -9 to 9, as the mapping of X.400's
// three levels in its appendix has it.
func (p Priority) mtPriority() string { return strconv.Itoa(int(p) * 4) }

// fields are the header fields that say p.
func (p Priority) fields() string {
	switch p {
	case PriorityLow:
		return "X-Priority: 5 (Lowest)\r\nPriority: non-urgent\r\nImportance: low\r\n"
	case PriorityHigh:
		return "X-Priority: 1 (Highest)\r\nPriority: urgent\r\nImportance: high\r\n"
	}
	return ""
}

// Mail is a message and whom it goes to.
type Mail struct {
	// From is the sender. "<>" is the null reverse-path. Default: Config.From.
	From string

	// To are the recipients, one or more, "local@domain" with or without angle
	// brackets. They are in the To field of a generated header, so all can see all.
	To []string

	// Subject is text in UTF-8 for the generated header. Ignored with Raw.
	Subject string

	// Priority goes to the envelope and into the generated header. Default:
	// PriorityNormal.
	Priority Priority

	// Body is the text of the message, or with Raw all of it. It is read once, and
	// only after the server has asked for it; so a body whose mail was refused before
	// that can be used again. Send can't interrupt a Read that blocks.
	//
	// Any bytes may be in it. A line end, be it CRLF, a bare LF or a bare CR, goes out
	// as CRLF, and one is added at the end if it is missing; all else arrives as it
	// is, lines of any length included. Default: empty.
	Body io.Reader

	// Raw says that Body is a complete message, header and all (RFC 5322), to which
	// nothing is added.
	Raw bool
}

// envelope is a Mail that was found to be in order.
type envelope struct {
	from     address
	to       []address
	priority Priority
}

// envelope checks m. The error wraps ErrAddress, ErrSubject or ErrPriority.
func (m *Mail) envelope(defaultFrom string) (envelope, error) {
	from := m.From
	if from == "" {
		from = defaultFrom
	}
	var errs []error
	sender, err := parseSender(from)
	if err != nil {
		errs = append(errs, fmt.Errorf("sender: %w", err))
	}
	e := envelope{from: sender, priority: m.Priority}
	if len(m.To) == 0 {
		errs = append(errs, fmt.Errorf("%w: no recipient; set Mail.To", ErrAddress))
	}
	for _, to := range m.To {
		a, err := parseRecipient(to)
		if err != nil {
			errs = append(errs, fmt.Errorf("recipient: %w", err))
		}
		e.to = append(e.to, a)
	}
	if !m.Raw {
		errs = append(errs, checkSubject(m.Subject))
	}
	if m.Priority < PriorityLow || m.Priority > PriorityHigh {
		errs = append(errs, fmt.Errorf("%w: %v is none of PriorityLow, PriorityNormal, PriorityHigh", ErrPriority, m.Priority))
	}
	return e, errors.Join(errs...)
}

func checkSubject(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: it isn't UTF-8: %q", ErrSubject, cut(s, 80))
	}
	for i, r := range s {
		if unicode.IsControl(r) && r != '\t' {
			return fmt.Errorf("%w: control character %#02x at byte %d", ErrSubject, r, i+1)
		}
	}
	return nil
}

// headerFacts is what a generated header is made from, beside the Mail.
type headerFacts struct {
	date      time.Time
	messageID string // without angle brackets
	domain    string // the client's
	eightBit  bool   // the server takes 8-bit messages
}

// header makes the header of m, with the empty line that ends it.
func (m *Mail) header(e envelope, f headerFacts) []byte {
	from := string(e.from)
	if from == "" { // RFC 5322 §3.6 demands the field
		from = "MAILER-DAEMON@" + f.domain
	}
	encoding := "7bit"
	if f.eightBit {
		encoding = "8bit"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Date: %s\r\n", f.date.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	fmt.Fprintf(&b, "Message-ID: <%s>\r\n", f.messageID)
	fmt.Fprintf(&b, "From: %s\r\n", from)
	b.WriteString("To: ")
	for i, to := range e.to {
		if i > 0 {
			b.WriteString(",\r\n ")
		}
		b.WriteString(string(to))
	}
	fmt.Fprintf(&b, "\r\nSubject: %s\r\n", encodeSubject(m.Subject))
	b.WriteString(m.Priority.fields())
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n")
	fmt.Fprintf(&b, "Content-Transfer-Encoding: %s\r\n\r\n", encoding)
	return []byte(b.String())
}

// newMessageID makes an identifier that no other message has: the time, and 80 bits of
// chance.
func newMessageID(now time.Time, random io.Reader, domain string) (string, error) {
	var b [10]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("read random bytes for the Message-ID: %w", err)
	}
	return strconv.FormatInt(now.UnixNano(), 36) + "." + hex.EncodeToString(b[:]) + "@" + domain, nil
}

const (
	foldAt        = 76  // RFC 5322 §2.1.1 recommends lines of no more than 78
	longestWord   = 900 // and demands no more than 998
	encodedPerRow = 42  // bytes that give an encoded-word below RFC 2047's 75
)

// encodeSubject makes a field body of s, folded: the text itself where a reader would
// see the same, encoded-words (RFC 2047) where not.
func encodeSubject(s string) string {
	if isPlainSubject(s) {
		return fold(s, len("Subject: "))
	}
	var words []string
	for s != "" {
		part := cut(s, encodedPerRow)
		s = s[len(part):]
		words = append(words, "=?utf-8?B?"+base64.StdEncoding.EncodeToString([]byte(part))+"?=")
	}
	return strings.Join(words, "\r\n ")
}

// isPlainSubject reports whether s can stand in a header as it is: readers drop white
// space at the ends, may change it at a fold, and decode what looks encoded.
func isPlainSubject(s string) bool {
	for word := range strings.SplitSeq(s, " ") {
		if word == "" && s != "" || len(word) > longestWord {
			return false
		}
		for i := range len(word) {
			if word[i] <= ' ' || word[i] >= 0x7f {
				return false
			}
		}
	}
	return !strings.Contains(s, "=?")
}

// fold breaks s at spaces, so that its lines stay short where they can. The first line
// begins at column.
func fold(s string, column int) string {
	var b strings.Builder
	for i, word := range strings.Split(s, " ") {
		if i > 0 {
			if column+1+len(word) > foldAt {
				b.WriteString("\r\n")
				column = 0
			}
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
