package pcapng

import "bytes"

// lineStart is the beginning of a line that comes in pieces, as much of it as is
// needed to tell what it is. The zero value is an empty line.
type lineStart struct {
	buf  [40]byte
	size int64 // of the line so far
}

func (l *lineStart) add(b []byte) {
	if l.size < int64(len(l.buf)) {
		copy(l.buf[l.size:], b)
	}
	l.size += int64(len(b))
}

func (l *lineStart) bytes() []byte { return l.buf[:min(l.size, int64(len(l.buf)))] }
func (l *lineStart) isEmpty() bool { return l.size == 0 }
func (l *lineStart) isFull() bool  { return l.size >= int64(len(l.buf)) }
func (l *lineStart) reset()        { l.size = 0 }

// spoil makes it the middle of a line whose beginning wasn't seen.
func (l *lineStart) spoil() {
	l.buf[0] = '?'
	l.size = 1
}

// cutLine returns the first line of b with its end, or all of b if it has none.
func cutLine(b []byte) (line []byte, whole bool) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i+1], true
	}
	return b, false
}

// maxMechanism is the longest name of a SASL mechanism (RFC 4422, section 3.1).
const maxMechanism = 20

// credentials reports whether the line is AUTH (RFC 4954, section 4), and from which
// byte on it is secret, as far as there is one.
func (l *lineStart) credentials() (from int, ok bool) {
	b := l.bytes()
	if len(b) < 5 || !bytes.EqualFold(b[:4], []byte("AUTH")) || !isSpace(b[4]) {
		return 0, false
	}
	i := skip(b, 5, len(b), isSpace)
	i = skip(b, i, i+maxMechanism, isMechanism)
	return skip(b, i, len(b), isSpace), true
}

// skip returns the first offset from i on, and at most limit, of a byte that isn't
// one of the kind.
func skip(b []byte, i, limit int, kind func(byte) bool) int {
	for i < min(limit, len(b)) && kind(b[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isMechanism(c byte) bool {
	return isDigit(c) || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '-' || c == '_'
}

// chunkSize is the size in a command BDAT (RFC 3030, section 2).
func chunkSize(line []byte) (size int64, ok bool) {
	if len(line) < 6 || !bytes.EqualFold(line[:5], []byte("BDAT ")) {
		return 0, false
	}
	for _, c := range line[5:] {
		if !isDigit(c) || size > 1<<48 {
			break
		}
		size = size*10 + int64(c-'0')
		ok = true
	}
	return size, ok
}

// verbs begin the lines of an SMTP or LMTP client.
var verbs = [][]byte{
	[]byte("EHLO"), []byte("HELO"), []byte("LHLO"), []byte("MAIL"), []byte("RCPT"), []byte("DATA"),
	[]byte("BDAT"), []byte("RSET"), []byte("NOOP"), []byte("QUIT"), []byte("AUTH"), []byte("VRFY"),
	[]byte("EXPN"), []byte("HELP"), []byte("ETRN"), []byte("STARTTLS"),
}

// isCommand reports whether b clearly begins with a command.
func isCommand(b []byte) bool {
	for _, v := range verbs {
		if len(b) > len(v) && bytes.EqualFold(b[:len(v)], v) {
			end := b[len(v)]
			return isSpace(end) || end == '\r' || end == '\n'
		}
	}
	return false
}

// mayBeCommand reports whether b is a command, or becomes one with what follows.
func mayBeCommand(b []byte) bool {
	for _, v := range verbs {
		if len(b) <= len(v) && bytes.EqualFold(b, v[:len(b)]) {
			return true
		}
	}
	return isCommand(b)
}

// isTLS reports whether b, at the beginning of a line, is the beginning of a TLS
// handshake (RFC 8446, section 5.1).
func isTLS(b []byte) bool { return b[0] == 22 }

// isReply reports whether b may be the beginning of a reply.
func isReply(b []byte) bool {
	i := skip(b, 0, len(b), isSpace)
	return i == len(b) || isDigit(b[i])
}

// isReplyLine reports whether b clearly begins with a line of a reply.
func isReplyLine(b []byte) bool {
	_, ok := replyCode(b)
	return ok && (isSpace(b[3]) || b[3] == '-')
}

// reply is the code of a line that ends a reply (RFC 5321, section 4.2). Spaces
// before it are tolerated.
func (l *lineStart) reply() (code int, ok bool) {
	b := bytes.TrimLeft(l.bytes(), " \t")
	code, ok = replyCode(b)
	return code, ok && b[3] != '-'
}

// replyCode is the code that b begins with, and something after it.
func replyCode(b []byte) (code int, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:3] {
		if !isDigit(c) {
			return 0, false
		}
		code = code*10 + int(c-'0')
	}
	return code, true
}
