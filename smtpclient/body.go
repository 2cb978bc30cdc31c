package smtpclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// stageSize is how much of the message is read before it is sent on, in bytes: a
// little less than a chain may hold, because line ends and dots make it grow.
const stageSize = 60 << 10

// stage is where the body is read to. While Read blocks no packet is held, and what
// was read goes out in one piece if the pool has the packets.
type stage [stageSize]byte

var (
	crlf   = []byte("\r\n")
	dot    = []byte(".")
	dotEnd = []byte(".\r\n")
)

// textWriter turns any bytes into the lines of a message as DATA wants them (RFC 5321
// §4.5.2, §2.3.8): each line ends with CRLF, whatever ended it before, and a dot that
// begins a line is doubled. So there is no CR or LF on the wire but in CRLF, and no
// parser, strict or lenient, finds an end but the one that Close writes.
//
// A new one stands at the beginning of a line.
type textWriter struct {
	w      io.Writer
	inLine bool // bytes of a line have been written, its end hasn't
	cr     bool // the last byte was a CR, of which nothing has been written
}

// Write passes p on, in pieces as long as they can be.
func (t *textWriter) Write(p []byte) (int, error) {
	done := 0 // p[:done] has been passed on
	if t.cr && len(p) > 0 {
		t.cr = false
		if err := t.endLine(); err != nil {
			return 0, err
		}
		if p[0] == '\n' {
			done = 1
		}
	}
	lf := -1 // the next one, found once, or many bare CRs would take quadratic time
	for at := done; at < len(p); {
		if !t.inLine && p[at] == '.' {
			if err := t.pass(p[done:at], dot); err != nil {
				return 0, err
			}
			done = at
		}
		if lf < at {
			lf = index(p, at, '\n')
		}
		end := index(p[:lf], at, '\r')
		t.inLine = end == len(p)
		switch {
		case t.inLine:
			at = end
		case end+1 == lf && lf < len(p): // CRLF
			at = lf + 1
		case p[end] == '\r' && end+1 == len(p): // perhaps half of a CRLF
			t.cr = true
			return len(p), t.pass(p[done:end], nil)
		default: // a bare CR or LF
			if err := t.pass(p[done:end], crlf); err != nil {
				return 0, err
			}
			at, done = end+1, end+1
		}
	}
	return len(p), t.pass(p[done:], nil)
}

// index is where the first c in p[from:] is, in p; len(p) without one.
func index(p []byte, from int, c byte) int {
	if i := bytes.IndexByte(p[from:], c); i >= 0 {
		return from + i
	}
	return len(p)
}

func (t *textWriter) pass(b, then []byte) error {
	for _, b := range [...][]byte{b, then} {
		if len(b) == 0 {
			continue
		}
		if _, err := t.w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (t *textWriter) endLine() error {
	t.inLine = false
	return t.pass(nil, crlf)
}

// finish ends a last line that has no end. What is left to write is dotEnd.
func (t *textWriter) finish() error {
	if t.inLine || t.cr {
		t.cr = false
		return t.endLine()
	}
	return nil
}

// bodyReader reads a body and tells its errors from all others.
type bodyReader struct {
	r    io.Reader
	held []byte // bytes of the stage that were read and are not to be passed on yet
}

// fill reads on until the stage is full or the body ends, and returns what is in the
// stage.
func (r *bodyReader) fill(s *stage) (b []byte, last bool, err error) {
	n := copy(s[:], r.held)
	r.held = nil
	for idle := 0; n < len(s); {
		m, err := r.r.Read(s[n:])
		if m < 0 || m > len(s)-n {
			return nil, false, fmt.Errorf("%w: its Read returned %d for a buffer of %d bytes", ErrBody, m, len(s)-n)
		}
		n += m
		if err == io.EOF {
			return s[:n], true, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrBody, err)
		}
		if idle++; m > 0 {
			idle = 0
		}
		if idle == 100 {
			return nil, false, fmt.Errorf("%w: %w", ErrBody, io.ErrNoProgress)
		}
	}
	return s[:n], false, nil
}

// keepLine holds back the unfinished line at the end of b, which is what fill returned,
// so that no part of a line goes out before it was seen to be 7-bit. Only a line longer
// than the stage can't wait.
func (r *bodyReader) keepLine(b []byte) []byte {
	end := bytes.LastIndexAny(b, "\r\n") + 1
	if end == 0 {
		return b
	}
	r.held = b[end:] // the next fill moves it, once b[:end] is sent
	return b[:end]
}

// checkSevenBit refuses b if it holds a byte above 127.
func checkSevenBit(b []byte) error {
	for i, c := range b {
		if c >= 0x80 {
			return fmt.Errorf("%w: byte %#02x, %d bytes into this part", ErrNo8BitMIME, c, i)
		}
	}
	return nil
}

// isBodyError reports whether err is about what is to be sent, rather than about the
// sending.
func isBodyError(err error) bool {
	return errors.Is(err, ErrBody) || errors.Is(err, ErrNo8BitMIME)
}
