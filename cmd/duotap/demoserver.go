package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// demoServer is an SMTP server that compares each message with the demo's text while
// it arrives, and keeps nothing of it.
type demoServer struct {
	smtp    *smtp.Server
	size    int64
	results chan demoArrival
	serving sync.WaitGroup
}

type demoArrival struct {
	bytes int64
	err   error
}

func newDemoServer(size int64, log *slog.Logger) *demoServer {
	s := &demoServer{size: size, results: make(chan demoArrival, 1)}
	s.smtp = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &demoSession{s}, nil }))
	s.smtp.Domain = "server.example"
	s.smtp.ReadTimeout = time.Minute + time.Duration(size>>20)*time.Second // for a whole message, at 1 MiB/s or more
	s.smtp.WriteTimeout = time.Minute
	s.smtp.MaxRecipients = 1
	s.smtp.MaxMessageBytes = size + 64<<10 // and the header
	s.smtp.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	return s
}

// serve begins to serve l, which close ends.
func (s *demoServer) serve(l net.Listener) {
	s.serving.Go(func() {
		_ = s.smtp.Serve(l) // close is what ends it; a failure before shows in the client
	})
}

func (s *demoServer) close() error {
	err := s.smtp.Close()
	s.serving.Wait()
	return err
}

// arrived reports what is wrong with the message that arrived last, if anything.
func (s *demoServer) arrived(size int64) error {
	select {
	case a := <-s.results:
		if a.err != nil {
			return fmt.Errorf("what arrived differs from what was sent after %d bytes: %w", a.bytes, a.err)
		}
		if a.bytes != size {
			return fmt.Errorf("%d bytes arrived of %d", a.bytes, size)
		}
		return nil
	default:
		return errors.New("the server has no message")
	}
}

type demoSession struct{ server *demoServer }

func (*demoSession) Reset()                               {}
func (*demoSession) Logout() error                        { return nil }
func (*demoSession) Mail(string, *smtp.MailOptions) error { return nil }
func (*demoSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data compares a message, its header left out, with the text.
func (s *demoSession) Data(r io.Reader) error {
	a := demoArrival{}
	a.bytes, a.err = compare(r, newDemoText(s.server.size))
	select {
	case s.server.results <- a:
		return a.err
	default:
		return errors.New("the message before this one was not looked at")
	}
}

// compare reads a message, skips its header, and returns how many bytes of its body
// equal those of want.
func compare(message, want io.Reader) (int64, error) {
	r := bufio.NewReaderSize(message, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, fmt.Errorf("reading the header: %w", err)
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	got, expected := make([]byte, 32<<10), make([]byte, 32<<10)
	var equal int64
	for {
		n, err := io.ReadFull(r, got)
		m, _ := io.ReadFull(want, expected[:max(n, 1)])
		for k := range n {
			if k >= m || got[k] != expected[k] {
				return equal + int64(k), errors.New("another byte than was sent")
			}
		}
		equal += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			if more, _ := want.Read(expected[:1]); m > n || more > 0 {
				return equal, io.ErrUnexpectedEOF
			}
			return equal, nil
		case err != nil:
			return equal, err
		}
	}
}

// demoText is text of a given length in lines, the same each time. Some lines begin
// with a dot, which is what SMTP has to be careful about.
type demoText struct {
	left int64
	rand *rand.PCG
	line []byte // what is left of the present line
}

// demoLines are what the text is made of.
var demoLines = sync.OnceValue(func() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	lines := make([][]byte, 256)
	for k := range lines {
		line := bytes.Repeat([]byte("."), r.IntN(3))
		for range 30 + r.IntN(60) {
			line = append(line, byte('!'+r.IntN(94)))
		}
		lines[k] = append(line, "\r\n"...)
	}
	return lines
})

// demoLastLine is longer than any line, and the end of every text is cut from it.
var demoLastLine = append(bytes.Repeat([]byte("z"), 126), "\r\n"...)

func newDemoText(size int64) *demoText { return &demoText{left: size, rand: rand.NewPCG(3, 4)} }

func (t *demoText) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) && t.left > 0 {
		if len(t.line) == 0 {
			t.line = t.next()
		}
		k := copy(b[n:], t.line)
		t.line = t.line[k:]
		t.left -= int64(k)
		n += k
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// next is the next line; the last one ends where the text does.
func (t *demoText) next() []byte {
	if last := int64(len(demoLastLine)); t.left <= last {
		return demoLastLine[last-t.left:]
	}
	return demoLines()[t.rand.Uint64()%256]
}

// peakResident reads VmHWM: the most memory that this process has had.
func peakResident() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading the peak of resident memory: %w", err)
	}
	return vmHWM(string(status))
}

// vmHWM finds the peak, in bytes, in the status of a process.
func vmHWM(status string) (int64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the status of the process has no VmHWM")
}
