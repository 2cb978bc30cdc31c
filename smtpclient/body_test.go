package smtpclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// encode runs body through a textWriter, size bytes at a time.
func encode(t testing.TB, body []byte, size int) []byte {
	t.Helper()
	var wire bytes.Buffer
	w := textWriter{w: &wire}
	for len(body) > 0 {
		n := min(size, len(body))
		if m, err := w.Write(body[:n]); m != n || err != nil {
			t.Fatalf("Write of %d: %d, %v", n, m, err)
		}
		body = body[n:]
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	wire.Write(dotEnd)
	return wire.Bytes()
}

func TestTextWriter(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"empty", "", ".\r\n"},
		{"one line", "a\r\n", "a\r\n.\r\n"},
		{"no final newline", "a", "a\r\n.\r\n"},
		{"only a newline", "\n", "\r\n.\r\n"},
		{"bare LF", "a\nb\n", "a\r\nb\r\n.\r\n"},
		{"bare CR", "a\rb\r", "a\r\nb\r\n.\r\n"},
		{"two CRs and LF", "a\r\r\nb", "a\r\n\r\nb\r\n.\r\n"},
		{"LF and CR", "a\n\rb", "a\r\n\r\nb\r\n.\r\n"},
		{"lone dot", ".", "..\r\n.\r\n"},
		{"lone dots", ".\r\n.\r\n", "..\r\n..\r\n.\r\n"},
		{"dot after bare LF", "a\n.\n", "a\r\n..\r\n.\r\n"},
		{"dot after bare CR", "a\r.\r", "a\r\n..\r\n.\r\n"},
		{"dots in a line", "a.b..\r\n", "a.b..\r\n.\r\n"},
		{"two dots", "..\r\n", "...\r\n.\r\n"},
		{"smuggling", "a\r\n.\r\nMAIL FROM:<x@y>\r\n", "a\r\n..\r\nMAIL FROM:<x@y>\r\n.\r\n"},
		{"smuggling with CR", "a\r.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"},
		{"smuggling with LF", "a\n.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"},
		{"NUL and 8-bit", "\x00\xff\n\x00.", "\x00\xff\r\n\x00.\r\n.\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.body)+1; size++ {
				if got := encode(t, []byte(tt.body), size); string(got) != tt.want {
					t.Errorf("%d bytes at a time: %q, want %q", size, got, tt.want)
				}
			}
		})
	}
}

// normal is what a body says once its line ends are agreed on: the model that the
// textWriter is held against.
func normal(body []byte) []byte {
	s := strings.ReplaceAll(string(body), "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return []byte(strings.ReplaceAll(s, "\n", "\r\n"))
}

// receive is a server's view of what follows 354: the message, and what is taken for
// commands after it. eol says where a line ends: it returns its length with and without
// the line end, or 0.
func receive(wire []byte, eol func([]byte) (with, without int)) (message, rest []byte, ok bool) {
	for len(wire) > 0 {
		with, without := eol(wire)
		if with == 0 {
			return message, nil, false
		}
		line := wire[:without]
		wire = wire[with:]
		if string(line) == "." {
			return message, wire, true
		}
		message = append(append(message, bytes.TrimPrefix(line, dot)...), crlf...)
	}
	return message, nil, false
}

func strictEOL(b []byte) (with, without int) {
	if i := bytes.Index(b, crlf); i >= 0 {
		return i + 2, i
	}
	return 0, 0
}

func lenientEOL(b []byte) (with, without int) {
	i := bytes.IndexAny(b, "\r\n")
	switch {
	case i < 0:
		return 0, 0
	case bytes.HasPrefix(b[i:], crlf):
		return i + 2, i
	}
	return i + 1, i
}

// checkWire holds the wire against what it was made from.
func checkWire(t *testing.T, wire, body []byte) {
	t.Helper()
	want := normal(body)
	for name, eol := range map[string]func([]byte) (int, int){"strict": strictEOL, "lenient": lenientEOL} {
		got, rest, ok := receive(wire, eol)
		if !ok || len(rest) > 0 || !bytes.Equal(got, want) {
			t.Fatalf("a %s server sees the message %.200q and then %.200q (end seen: %v), want %.200q", name, got, rest, ok, want)
		}
	}
	bare := bytes.ReplaceAll(wire, crlf, nil)
	if i := bytes.IndexAny(bare, "\r\n"); i >= 0 {
		t.Fatalf("bare %q on the wire", bare[i])
	}
	if n := bytes.Count(append([]byte("\r\n"), wire...), []byte("\r\n.\r\n")); n != 1 {
		t.Fatalf("%d terminators", n)
	}
}

// FuzzBody checks for any body, given in any pieces, that every server sees one message,
// the same, with nothing behind it.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		"", ".", "\r", "\n", "a\r\n.\r\nQUIT\r\n", "a\r.\r\nMAIL", "a\n.\nMAIL", "a\r\n.\rMAIL", "a\r\n\x00.\r\n", "\r\r\n\n\r.",
		"..", "\n..\n", "\r\n.", strings.Repeat("x", 200) + "\n",
	} {
		f.Add([]byte(s), int64(1))
		f.Add([]byte(s), int64(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, seed int64) {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		var wire bytes.Buffer
		w := textWriter{w: &wire}
		for rest := body; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		wire.Write(dotEnd)
		checkWire(t, wire.Bytes(), body)
	})
}

// TestTextWriterAlphabet tries all short bodies of the bytes that matter, in all pieces
// of one size.
func TestTextWriterAlphabet(t *testing.T) {
	const alphabet = "\r\n.a\x00"
	longest := 6
	if RaceEnabled {
		longest = 5
	}
	var body []byte
	var try func()
	try = func() {
		for size := 1; size <= max(1, len(body)); size++ {
			checkWire(t, encode(t, body, size), body)
		}
		if len(body) == longest {
			return
		}
		for i := range len(alphabet) {
			body = append(body, alphabet[i])
			try()
			body = body[:len(body)-1]
		}
	}
	try()
}

func TestTextWriterTakesLinearTime(t *testing.T) {
	// A quadratic search takes minutes here, a linear one milliseconds.
	for _, s := range []string{"\r", "\n", "\r\n", ".", "\r.", "\n."} {
		body := bytes.Repeat([]byte(s), 4<<20/len(s))
		var n countingWriter
		w := textWriter{w: &n}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if n < 4<<20-2 {
			t.Errorf("%q: %d bytes written", s, n)
		}
	}
}

type countingWriter int

func (n *countingWriter) Write(b []byte) (int, error) {
	*n += countingWriter(len(b))
	return len(b), nil
}

func TestTextWriterPassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	for n := range 12 {
		w := textWriter{w: &failingWriter{n, boom}}
		_, err := w.Write([]byte("a\n.b\r"))
		if err == nil {
			_, err = w.Write([]byte("\nc"))
		}
		if err == nil {
			err = w.finish()
		}
		if wrote := len("a\r\n..b\r\nc\r\n"); (err != nil) != (n < wrote) {
			t.Errorf("after %d bytes: error %v", n, err)
		}
	}
}

// failingWriter takes n bytes.
type failingWriter struct {
	n   int
	err error
}

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, w.err
	}
	return len(b), nil
}

func TestBodyReader(t *testing.T) {
	boom := errors.New("boom")
	big := strings.Repeat("0123456789", 2*stageSize/10)
	tests := []struct {
		name string
		r    io.Reader
		want string
		err  error
	}{
		{"empty", strings.NewReader(""), "", nil},
		{"short", strings.NewReader("abc"), "abc", nil},
		{"one byte at a time", iotest.OneByteReader(strings.NewReader("abc")), "abc", nil},
		{"data with EOF", iotest.DataErrReader(strings.NewReader("abc")), "abc", nil},
		{"longer than the stage", strings.NewReader(big), big, nil},
		{"fails", iotest.ErrReader(boom), "", boom},
		{"fails with data", iotest.DataErrReader(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(boom))), "", boom},
		{"no progress", readerFunc(func([]byte) (int, error) { return 0, nil }), "", io.ErrNoProgress},
		{"count too large", readerFunc(func(b []byte) (int, error) { return len(b) + 1, nil }), "", ErrBody},
		{"negative count", readerFunc(func(b []byte) (int, error) { return -1, nil }), "", ErrBody},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			var s stage
			r := bodyReader{r: tt.r}
			for {
				b, last, err := r.fill(&s)
				if err != nil {
					if tt.err == nil || !errors.Is(err, tt.err) || !errors.Is(err, ErrBody) {
						t.Fatalf("error %v, want %v", err, tt.err)
					}
					return
				}
				got.Write(b)
				if last {
					break
				}
			}
			if tt.err != nil || got.String() != tt.want {
				t.Errorf("%d bytes, want %d; no error, want %v", got.Len(), len(tt.want), tt.err)
			}
		})
	}
}

func TestKeepLineHoldsBackUnfinishedLines(t *testing.T) {
	for _, eol := range []string{"\n", "\r", "\r\n"} {
		var lines strings.Builder
		for i := range 3000 {
			fmt.Fprintf(&lines, "line %d of many%s", i, eol)
		}
		text := lines.String() + strings.Repeat("a long one", 5000) + eol + strings.Repeat("a longer one", 10000)
		r := bodyReader{r: strings.NewReader(text)}
		var s stage
		var got bytes.Buffer
		for {
			b, last, err := r.fill(&s)
			if err != nil {
				t.Fatal(err)
			}
			if !last {
				b = r.keepLine(b)
				// Half of a CRLF does no harm: it holds no text.
				if end := b[len(b)-1]; end != '\n' && end != '\r' && len(b) < stageSize {
					t.Fatalf("%q: a part ends in the middle of a line", eol)
				}
			}
			got.Write(b)
			if last {
				break
			}
		}
		if got.String() != text {
			t.Errorf("%q: %d bytes came out of %d", eol, got.Len(), len(text))
		}
	}
}

func BenchmarkTextWriter(b *testing.B) {
	line := strings.Repeat("x", 74)
	bodies := map[string]string{
		"crlf":     strings.Repeat(line+"\r\n", 1000),
		"lf":       strings.Repeat(line+"\n", 1000),
		"dots":     strings.Repeat("."+line[1:]+"\r\n", 1000),
		"longline": strings.Repeat(line, 1000),
	}
	for _, name := range []string{"crlf", "lf", "dots", "longline"} {
		body := []byte(bodies[name])
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			w := textWriter{w: io.Discard}
			for b.Loop() {
				_, _ = w.Write(body)
			}
		})
	}
}
