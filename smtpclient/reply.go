package smtpclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxReplyLine is the longest line of a reply that is read, in bytes with its
	// CRLF. RFC 5321 §4.5.3.1.5 allows servers 512.
	MaxReplyLine = 4 << 10

	// MaxReply is the longest reply that is read, in bytes.
	MaxReply = 64 << 10

	// keptText is how much text of each reply a Receipt keeps, in bytes, so that a
	// mail to many can't be made to fill the memory.
	keptText = 1 << 10
)

// Reply is a server's answer (RFC 5321 §4.2).
type Reply struct {
	Code     int    `json:"code"`               // 200 to 599
	Enhanced string `json:"enhanced,omitempty"` // "2.1.5" (RFC 3463), if the text begins with one

	// Text is what the server says, lines separated by "\n". Characters that aren't
	// printable are replaced by U+FFFD, so it can be shown on a terminal, and beyond
	// 1,024 bytes it is cut.
	Text string `json:"text"`
}

// String returns the reply as one line.
func (r Reply) String() string {
	return fmt.Sprintf("%d %s", r.Code, strings.ReplaceAll(r.Text, "\n", " / "))
}

// rawReply is a reply as it was read.
type rawReply struct {
	code  int
	lines []string
	kept  *Reply // made once, and shared by all who keep it
}

// last is the text of the last line, which in a challenge is all there is.
func (r rawReply) last() string { return r.lines[len(r.lines)-1] }

// reply makes r fit to be kept and shown.
func (r rawReply) reply() *Reply {
	out := &Reply{Code: r.code, Enhanced: enhancedCode(r.code, r.lines[0])}
	var b strings.Builder
	for i, line := range r.lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(printable(line))
		if b.Len() > keptText {
			break
		}
	}
	out.Text = cut(b.String(), keptText)
	return out
}

// cut shortens s to at most n bytes, at a character's border.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// printable replaces what could deceive the reader of a terminal or a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// enhancedCode returns the status code that text begins with (RFC 2034 §4): class,
// subject and detail, where the class is the reply's.
func enhancedCode(code int, text string) string {
	word, _, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != string(rune('0'+code/100)) {
		return ""
	}
	for _, p := range parts {
		if len(p) < 1 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return ""
		}
	}
	return word
}

// replyReader reads replies, however their bytes arrive, and in bounded memory.
type replyReader struct {
	r          io.Reader
	scrub      scrubber
	buf        [MaxReplyLine]byte
	start, end int // buf[start:end] is read and not yet used
}

// buffered is how many bytes have arrived that no reply has used.
func (r *replyReader) buffered() int { return r.end - r.start }

// read reads one whole reply. Its text and the error hold no secrets.
func (r *replyReader) read() (rawReply, error) {
	var reply rawReply
	for total := 0; ; {
		line, err := r.line()
		if err != nil {
			return rawReply{}, r.brokenOff(err, reply)
		}
		if total += len(line) + len("\r\n"); total > MaxReply {
			return rawReply{}, fmt.Errorf("%w: more than %d bytes", ErrReplyTooLong, MaxReply)
		}
		code, more, text, ok := parseReplyLine(line)
		switch {
		case !ok:
			return rawReply{}, fmt.Errorf("%w: %s", ErrBadReply, r.quote(line))
		case reply.code != 0 && code != reply.code:
			return rawReply{}, fmt.Errorf("%w: its code changes from %d to %d", ErrBadReply, reply.code, code)
		}
		reply.code = code
		reply.lines = append(reply.lines, r.scrub.hide(string(text)))
		if !more {
			reply.kept = reply.reply()
			return reply, nil
		}
	}
}

// quote shows the beginning of what the server sent.
func (r *replyReader) quote(b []byte) string {
	return fmt.Sprintf("%q", cut(r.scrub.hide(string(b)), 80))
}

// brokenOff completes the error of a reply that has no end.
func (r *replyReader) brokenOff(err error, reply rawReply) error {
	if !isEnd(err) {
		return err
	}
	const closed = "the server closed the connection"
	switch rest := r.buf[r.start:r.end]; {
	case len(rest) > 0:
		return fmt.Errorf("%s after %s: %w", closed, r.quote(rest), io.ErrUnexpectedEOF)
	case reply.code != 0:
		return fmt.Errorf("%s in the middle of a reply with code %d: %w", closed, reply.code, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%s instead of answering: %w", closed, io.ErrUnexpectedEOF)
}

// isEnd reports whether err is that of a Read from a connection that the server has
// closed, under TLS also without saying so.
func isEnd(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// line returns the next line without its CRLF, valid until the next call.
func (r *replyReader) line() ([]byte, error) {
	for seen := 0; ; {
		have := r.buf[r.start:r.end]
		n, wrong := lineEnd(have, seen)
		if wrong != "" {
			return nil, fmt.Errorf("%w: %s after %s", ErrBadReply, wrong, r.quote(have[:n]))
		}
		if n >= 0 {
			r.start += n + len("\r\n")
			return have[:n], nil
		}
		seen = max(0, len(have)-1) // the last byte may be the CR of a CRLF
		if err := r.more(); err != nil {
			return nil, err
		}
	}
}

// lineEnd returns the index of the CRLF in b, or -1 if more is to be read; or the
// index of what is wrong. The first from bytes are known to hold none of this.
func lineEnd(b []byte, from int) (at int, wrong string) {
	i := bytes.IndexAny(b[from:], "\r\n\x00")
	if i < 0 {
		return -1, ""
	}
	i += from
	switch {
	case b[i] == 0:
		return i, "a NUL"
	case b[i] == '\n':
		return i, "a bare LF"
	case i+1 == len(b):
		return -1, ""
	case b[i+1] != '\n':
		return i, "a bare CR"
	}
	return i, ""
}

// more reads more bytes behind those not yet used.
func (r *replyReader) more() error {
	if r.start > 0 {
		r.end = copy(r.buf[:], r.buf[r.start:r.end])
		r.start = 0
	}
	if r.end == len(r.buf) {
		return fmt.Errorf("%w: a line of more than %d bytes", ErrReplyTooLong, MaxReplyLine)
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			return nil // an error with it comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// parseReplyLine takes a line apart: three digits, then a hyphen if more lines follow,
// or a space, or nothing. Spaces in front are skipped, since there are servers that
// indent the last line of their EHLO reply.
func parseReplyLine(line []byte) (code int, more bool, text []byte, ok bool) {
	line = bytes.TrimLeft(line, " ")
	if len(line) < 3 || !isReplyCode(line[:3]) || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, nil, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, false, nil, true
	}
	return code, line[3] == '-', line[4:], true
}

// isReplyCode reports whether b is a reply code: the first digit 2 to 5, as RFC 5321
// §4.2.1 has no 1yz for SMTP.
func isReplyCode(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return b[0] >= '2' && b[0] <= '5'
}

// isReplyError reports whether err is about what the server said, rather than about the
// connection.
func isReplyError(err error) bool {
	return errors.Is(err, ErrBadReply) || errors.Is(err, ErrReplyTooLong) || errors.Is(err, ErrUnexpectedReply)
}
