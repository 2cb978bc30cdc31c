package smtptest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Dialogue is a script for the server's side of one connection.
//
//	S: text        send the text and CRLF
//	S" text        send exactly the text, a Go string without its quotes
//	S* n text      send the text and CRLF n times
//	C: text        expect this line
//	C~ regexp      expect a line that the whole regular expression matches
//	C.             expect a message, up to its final dot, and keep it
//	C$             expect the end of the connection, and nothing before it
//	! tls          make a TLS handshake, and go on encrypted
//	! tls refused  make a TLS handshake that the client breaks off
//	! split n      from here on, send n bytes at a time, and each after the last was
//	               read, if the connection is a Conn; 0 ends that
//	! sleep d      wait, a Go duration
//	! quiet d      wait that long, and expect to hear nothing meanwhile
//	! read n       read n bytes, whatever they are
//	! silent       say nothing any more; read until the client closes
//	! stall        neither say nor read anything any more
//	! close        close the connection
//	! reset        reset it
//
// Empty lines and lines that begin with # mean nothing. At its end the connection is
// closed.
type Dialogue struct {
	// TLS is the server's configuration for "! tls", without which that fails.
	TLS *tls.Config

	lines []line
}

type line struct {
	number int // in the text, from 1
	verb   string
	text   string
}

// Parse reads a dialogue.
func Parse(text string) (*Dialogue, error) {
	d := new(Dialogue)
	n := 0
	for s := range strings.Lines(text) {
		n++
		s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
		if s == "" || s[0] == '#' {
			continue
		}
		verb, rest := s[:min(2, len(s))], strings.TrimPrefix(s[min(2, len(s)):], " ")
		if verb == "! " {
			verb, rest, _ = strings.Cut(s[2:], " ")
		}
		l := line{n, verb, rest}
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", n, s, err)
		}
		d.lines = append(d.lines, l)
	}
	return d, nil
}

// MustParse is Parse for a text that is known to be right.
func MustParse(text string) *Dialogue {
	d, err := Parse(text)
	if err != nil {
		panic("smtptest: " + err.Error())
	}
	return d
}

func (l line) check() error {
	var err error
	switch l.verb {
	case `S"`:
		_, err = l.unquoted()
	case "S*":
		_, _, err = l.repeated()
	case "C~":
		_, err = l.pattern()
	case "split", "read":
		_, err = strconv.Atoi(l.text)
	case "sleep", "quiet":
		_, err = time.ParseDuration(l.text)
	case "S:", "C:":
	case "tls":
		if l.text != "" && l.text != "refused" {
			err = errors.New("refused or nothing may follow")
		}
	case "C.", "C$", "silent", "stall", "close", "reset":
		if l.text != "" {
			err = errors.New("nothing may follow")
		}
	default:
		err = errors.New("unknown kind of line")
	}
	return err
}

func (l line) unquoted() (string, error) { return strconv.Unquote(`"` + l.text + `"`) }

func (l line) repeated() (string, int, error) {
	count, text, _ := strings.Cut(l.text, " ")
	n, err := strconv.Atoi(count)
	return text + "\r\n", n, err
}

func (l line) pattern() (*regexp.Regexp, error) { return regexp.Compile("^(?:" + l.text + ")$") }

// Run speaks d on conn and closes it. The error says which line of d the client didn't
// fulfil. message is what C. kept, dots halved and final dot cut off; nil if there was
// none.
func (d *Dialogue) Run(conn net.Conn) (message []byte, err error) {
	return d.run(conn, nil)
}

// run is Run that stalls until stop is closed.
func (d *Dialogue) run(conn net.Conn, stop <-chan struct{}) (message []byte, err error) {
	defer conn.Close()
	s := speaker{conn: conn, raw: conn, tls: d.TLS, in: bufio.NewReaderSize(conn, 64<<10), stop: stop}
	for _, l := range d.lines {
		err := s.speak(l)
		switch {
		case err == errOver:
			return s.message, nil
		case err != nil:
			return s.message, fmt.Errorf("dialogue line %d: %w", l.number, err)
		}
	}
	return s.message, nil
}

// errOver ends a dialogue without being one.
var errOver = errors.New("the dialogue is over")

// speaker runs one dialogue.
type speaker struct {
	conn    net.Conn
	raw     net.Conn // conn, or what is below its TLS
	tls     *tls.Config
	in      *bufio.Reader
	split   int
	message []byte
	stop    <-chan struct{} // may be nil
}

func (s *speaker) speak(l line) error {
	switch l.verb {
	case "S:":
		return s.send(l.text + "\r\n")
	case `S"`:
		text, _ := l.unquoted()
		return s.send(text)
	case "S*":
		text, n, _ := l.repeated()
		return s.send(strings.Repeat(text, n))
	case "C:":
		return s.expect(func(got string) bool { return got == l.text }, l.text)
	case "C~":
		re, _ := l.pattern()
		return s.expect(re.MatchString, l.text)
	case "C.":
		var err error
		s.message, err = readMessage(s.in)
		return err
	case "C$":
		return s.expectEnd()
	}
	return s.direct(l)
}

func (s *speaker) direct(l line) error {
	switch l.verb {
	case "split":
		s.split, _ = strconv.Atoi(l.text)
	case "sleep":
		d, _ := time.ParseDuration(l.text)
		time.Sleep(d)
	case "quiet":
		d, _ := time.ParseDuration(l.text)
		return s.expectQuiet(d)
	case "read":
		n, _ := strconv.Atoi(l.text)
		_, err := s.in.Discard(n)
		return err
	case "tls":
		return s.handshake(l.text == "refused")
	case "silent":
		_, _ = io.Copy(io.Discard, s.in)
		return errOver
	case "stall":
		return s.stall()
	case "reset":
		s.reset()
		return errOver
	case "close":
		return errOver
	}
	return nil
}

// handshake goes on encrypted, unless the client is to refuse that.
func (s *speaker) handshake(refused bool) error {
	if s.tls == nil {
		return errors.New("! tls needs Dialogue.TLS")
	}
	conn := tls.Server(behind{s.conn, s.in}, s.tls)
	err := conn.Handshake()
	if err == nil && refused { // a client of TLS 1.3 says so afterwards
		_, err = conn.Read(make([]byte, 1))
	}
	switch {
	case refused && err != nil:
		return errOver
	case refused:
		return errors.New("the client went on after the handshake")
	case err != nil:
		return fmt.Errorf("handshake: %w", err)
	}
	s.conn, s.in = conn, bufio.NewReaderSize(conn, 64<<10)
	return nil
}

// behind is a connection of which in has read something already.
type behind struct {
	net.Conn
	in *bufio.Reader
}

func (b behind) Read(p []byte) (int, error) { return b.in.Read(p) }

// send sends text, in pieces if that was ordered.
func (s *speaker) send(text string) error {
	size := s.split
	if size <= 0 {
		size = len(text)
	}
	for len(text) > 0 {
		n := min(size, len(text))
		if _, err := io.WriteString(s.conn, text[:n]); err != nil {
			return fmt.Errorf("send %.80q: %w", text, err)
		}
		if c, ok := s.raw.(*Conn); ok && s.split > 0 {
			c.Drain()
		}
		text = text[n:]
	}
	return nil
}

func (s *speaker) expect(match func(string) bool, want string) error {
	got, err := s.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("want %q, got %q: %w", want, got, err)
	}
	text, ok := strings.CutSuffix(got, "\r\n")
	if !ok || !match(text) {
		return fmt.Errorf("want %q, got %q", want, got)
	}
	return nil
}

// expectEnd reads until the connection ends, in whatever way.
func (s *speaker) expectEnd() error {
	rest, _ := io.ReadAll(io.LimitReader(s.in, 1<<20))
	if len(rest) > 0 {
		return fmt.Errorf("want the end of the connection, got %.80q", rest)
	}
	return errOver
}

// expectQuiet waits for d, in which nothing may come.
func (s *speaker) expectQuiet(d time.Duration) error {
	if err := s.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	_, err := s.in.Peek(1)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		rest, _ := s.in.Peek(s.in.Buffered())
		return fmt.Errorf("want nothing for %v, got %.80q (%v)", d, rest, err)
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// stall waits for the end of the connection without reading what the client sends, and
// so without noticing its end on a connection that isn't a Conn.
func (s *speaker) stall() error {
	if c, ok := s.raw.(*Conn); ok {
		c.in.waitEnd()
		return errOver
	}
	if s.stop == nil {
		return errors.New("stall needs a Conn, or a Server whose Close ends it")
	}
	<-s.stop
	return errOver
}

// waitEnd waits until one side is gone.
func (f *flow) waitEnd() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.writerGone && !f.readerGone && !f.reset {
		f.changed.Wait()
	}
}

func (s *speaker) reset() {
	switch c := s.raw.(type) {
	case interface{ Reset() }:
		c.Reset()
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0) // makes Close a reset
	}
}

// readMessage reads lines up to the final dot, and halves the dots at their beginning.
// It demands CRLF.
func readMessage(r *bufio.Reader) ([]byte, error) {
	var message []byte
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("in a message after %d bytes: %w", len(message), err)
		}
		if err := checkLine(line); err != nil {
			return nil, fmt.Errorf("in a message after %d bytes: %w", len(message), err)
		}
		if string(line) == ".\r\n" {
			if message == nil {
				message = []byte{}
			}
			return message, nil
		}
		message = append(message, bytes.TrimPrefix(line, []byte("."))...)
	}
}

// checkLine refuses a line that has CR or LF anywhere but in the CRLF at its end.
func checkLine(line []byte) error {
	body, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return errors.New("bare LF")
	}
	if bytes.IndexByte(body, '\r') >= 0 {
		return errors.New("bare CR")
	}
	return nil
}

// Server runs a dialogue for each connection.
type Server struct {
	l    net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	stop chan struct{} // closed by Close
	once sync.Once
	open map[net.Conn]bool
	msgs [][]byte
	errs []error
	n    int
}

// Serve runs the dialogues on connections that l accepts: the first on the first, and
// so on; the last one on all that come after. Close ends it.
func Serve(l net.Listener, dialogues ...*Dialogue) *Server {
	s := &Server{l: l, stop: make(chan struct{}), open: make(map[net.Conn]bool)}
	s.wg.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d := dialogues[min(i, len(dialogues)-1)]
			s.track(conn)
			s.wg.Go(func() { s.run(d, conn, i+1) })
		}
	})
	return s
}

func (s *Server) track(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.open[conn] = true
	if s.stopped() {
		_ = conn.Close()
	}
}

func (s *Server) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *Server) run(d *Dialogue, conn net.Conn, n int) {
	msg, err := d.run(conn, s.stop)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	if msg != nil {
		s.msgs = append(s.msgs, msg)
	}
	if err != nil && !s.stopped() {
		s.errs = append(s.errs, fmt.Errorf("connection %d: %w", n, err))
	}
}

// Connections is how many connections were accepted.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// Wait closes the listener and waits for the dialogues to end. It returns what clients
// didn't fulfil, and the messages that were kept, in the order in which their dialogues
// ended.
func (s *Server) Wait() ([][]byte, error) {
	_ = s.l.Close()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.msgs, errors.Join(s.errs...)
}

// Close ends the dialogues where they are, and then does what Wait does.
func (s *Server) Close() ([][]byte, error) {
	s.once.Do(func() { close(s.stop) })
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	return s.Wait()
}
