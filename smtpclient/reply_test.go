package smtpclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
)

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", MaxReplyLine-len("250 \r\n"))
	tests := []struct {
		name  string
		in    string
		code  int
		lines []string
		err   error
	}{
		{"one line", "220 mx.example ESMTP\r\n", 220, []string{"mx.example ESMTP"}, nil},
		{"several lines", "250-mx\r\n250-SIZE 1\r\n250 HELP\r\n", 250, []string{"mx", "SIZE 1", "HELP"}, nil},
		{"no text", "250\r\n", 250, []string{""}, nil},
		{"empty text", "334 \r\n", 334, []string{""}, nil},
		{"last line without text", "250-mx\r\n250\r\n", 250, []string{"mx", ""}, nil},
		{"indented last line", "250-mx\r\n 250 SIZE\r\n", 250, []string{"mx", "SIZE"}, nil},
		{"text in UTF-8", "550 n\u00e3o\r\n", 550, []string{"n\u00e3o"}, nil},
		{"longest line", "250 " + long + "\r\n", 250, []string{long}, nil},
		{"line too long", "250 x" + long + "\r\n", 0, nil, ErrReplyTooLong},
		{"endless line", strings.Repeat("2", 1<<20), 0, nil, ErrReplyTooLong},
		{"a megabyte in one line", "250 " + strings.Repeat("x", 1<<20) + "\r\n", 0, nil, ErrReplyTooLong},
		{"a megabyte in many lines", strings.Repeat("250-"+long[:1000]+"\r\n", 1<<10) + "250 x\r\n", 0, nil, ErrReplyTooLong},
		{"ten thousand lines", strings.Repeat("250-\r\n", 10000) + "250 \r\n", 250, slices.Repeat([]string{""}, 10001), nil},
		{"ten thousand longer lines", strings.Repeat("250-xx\r\n", 10000) + "250 \r\n", 0, nil, ErrReplyTooLong},
		{"code changes", "250-mx\r\n550 no\r\n", 0, nil, ErrBadReply},
		{"two digits", "25 ok\r\n", 0, nil, ErrBadReply},
		{"four digits", "2500 ok\r\n", 0, nil, ErrBadReply},
		{"eight digits", "22222220-express\r\n", 0, nil, ErrBadReply},
		{"class 0", "050 ok\r\n", 0, nil, ErrBadReply},
		{"class 1", "150 ok\r\n", 0, nil, ErrBadReply},
		{"class 6", "650 ok\r\n", 0, nil, ErrBadReply},
		{"letter in the code", "25O ok\r\n", 0, nil, ErrBadReply},
		{"words first", "hello 220 hi\r\n", 0, nil, ErrBadReply},
		{"empty line", "\r\n", 0, nil, ErrBadReply},
		{"odd separator", "250_ok\r\n", 0, nil, ErrBadReply},
		{"tab for separator", "250\tok\r\n", 0, nil, ErrBadReply},
		{"bare LF", "250 ok\n250 ok\r\n", 0, nil, ErrBadReply},
		{"bare LF first", "\n", 0, nil, ErrBadReply},
		{"bare CR", "250 ok\r250 ok\r\n", 0, nil, ErrBadReply},
		{"two CRs", "250 ok\r\r\n", 0, nil, ErrBadReply},
		{"NUL", "250 o\x00k\r\n", 0, nil, ErrBadReply},
		{"only NULs", "\x00\x00\x00\x00", 0, nil, ErrBadReply},
		{"nothing", "", 0, nil, io.ErrUnexpectedEOF},
		{"no line end", "250", 0, nil, io.ErrUnexpectedEOF},
		{"CR and no LF", "250 ok\r", 0, nil, io.ErrUnexpectedEOF},
		{"no last line", "250-mx\r\n", 0, nil, io.ErrUnexpectedEOF},
		{"half a last line", "250-mx\r\n250", 0, nil, io.ErrUnexpectedEOF},
		{"TLS", "\x16\x03\x01\x00\xa5\x01", 0, nil, ErrBadReply},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", 0, nil, ErrBadReply},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for size := range chunkings(len(tt.in)) {
				r := replyReader{r: &chunkReader{[]byte(tt.in), size}}
				got, err := r.read()
				if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Fatalf("%d bytes at a time: error %v, want %v", size, err, tt.err)
				}
				if err == nil && (got.code != tt.code || !slices.Equal(got.lines, tt.lines)) {
					t.Fatalf("%d bytes at a time: %v", size, got)
				}
				if err == nil && r.buffered() != 0 {
					t.Fatalf("%d bytes at a time: %d bytes left over", size, r.buffered())
				}
			}
		})
	}
}

// chunkings yields sizes of reads to try on n bytes of input: all, if it is short.
func chunkings(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for size := 1; size <= n || size == 1; size++ {
			if size > 40 {
				size *= 2
			}
			if !yield(size) {
				return
			}
		}
	}
}

// chunkReader returns at most n bytes at a time.
type chunkReader struct {
	b []byte
	n int
}

func (r *chunkReader) Read(b []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), r.n)], r.b)
	r.b = r.b[n:]
	return n, nil
}

func TestReadRepliesInARow(t *testing.T) {
	r := replyReader{r: iotest.OneByteReader(strings.NewReader("220 a\r\n250-b\r\n250 c\r\n354\r\n"))}
	for _, want := range []int{220, 250, 354} {
		if got, err := r.read(); err != nil || got.code != want {
			t.Fatalf("got %v, %v; want %d", got, err, want)
		}
	}
}

func TestReplyReaderKeepsWhatComesNext(t *testing.T) {
	r := replyReader{r: strings.NewReader("250 a\r\n421 b\r\n")}
	if _, err := r.read(); err != nil {
		t.Fatal(err)
	}
	if got := r.buffered(); got != len("421 b\r\n") {
		t.Errorf("buffered %d bytes", got)
	}
}

func TestReplyReaderWithoutProgress(t *testing.T) {
	r := replyReader{r: readerFunc(func([]byte) (int, error) { return 0, nil })}
	if _, err := r.read(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestEnhancedCode(t *testing.T) {
	tests := []struct {
		code int
		text string
		want string
	}{
		{250, "2.1.5 ok", "2.1.5"},
		{550, "5.7.1", "5.7.1"},
		{452, "4.22.333 x", "4.22.333"},
		{250, "5.1.5 of another class", ""},
		{250, "2.1 x", ""},
		{250, "2.1.5.1 x", ""},
		{250, "2.1234.5 x", ""},
		{250, "2..5 x", ""},
		{250, "2.a.5 x", ""},
		{250, "", ""},
	}
	for _, tt := range tests {
		if got := enhancedCode(tt.code, tt.text); got != tt.want {
			t.Errorf("enhancedCode(%d, %q) = %q, want %q", tt.code, tt.text, got, tt.want)
		}
	}
}

func TestReplyTextCanBeShown(t *testing.T) {
	for _, hostile := range []string{"\x1b[2J\x1b]0;gone\x07", "a\u009b31m", "\u202egnp.exe", "\xff\xfe", "tab\there"} {
		got := rawReply{code: 550, lines: []string{"5.1.1 " + hostile}}.reply()
		for _, r := range got.Text {
			if !unicode.IsPrint(r) {
				t.Errorf("%q: text %q holds %q", hostile, got.Text, r)
			}
		}
		if !strings.HasPrefix(got.Text, "5.1.1 ") || got.Enhanced != "5.1.1" {
			t.Errorf("%q: %+v", hostile, got)
		}
	}
}

func TestReplyTextIsBounded(t *testing.T) {
	r := rawReply{code: 250, lines: slices.Repeat([]string{strings.Repeat("\u00e9", 100)}, 300)}
	got := r.reply().Text
	if len(got) > keptText || len(got) < keptText-4 || !strings.HasPrefix(got, r.lines[0]+"\n"+r.lines[1]) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// FuzzReply checks that a reply is the same however it arrives, that it is made of the
// bytes that were read and no more, and that nothing unbounded or unprintable comes out.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"220 mx.example ESMTP\r\n",
		"250-mx\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 1000\r\nrest",
		"250\r\n", "334 VXNlcm5hbWU6\r\n", " 250 indented\r\n",
		"250-a\r\n251 b\r\n", "250 a\n", "250 \x00\r\n", "250 a\rb\r\n", "22222220-x\r\n", "25",
	} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		whole := replyReader{r: bytes.NewReader(in)}
		want, wantErr := whole.read()
		parts := replyReader{r: &chunkReader{in, 1 + (size&0x7fffffff)%100}}
		got, err := parts.read()
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || got.code != want.code || !slices.Equal(got.lines, want.lines) {
			t.Fatalf("at once: %v, %v; in parts: %v, %v", want, wantErr, got, err)
		}
		if wantErr != nil {
			return
		}
		var again bytes.Buffer
		for i, line := range want.lines {
			rest := in[again.Len():]
			for rest[0] == ' ' {
				again.WriteByte(' ')
				rest = rest[1:]
			}
			switch {
			case i < len(want.lines)-1:
				fmt.Fprintf(&again, "%d-%s\r\n", want.code, line)
			case line == "" && bytes.HasPrefix(rest[3:], []byte("\r")):
				fmt.Fprintf(&again, "%d\r\n", want.code)
			default:
				fmt.Fprintf(&again, "%d %s\r\n", want.code, line)
			}
		}
		if !bytes.HasPrefix(in, again.Bytes()) || again.Len() > MaxReply+len(in) {
			t.Fatalf("%q was read from %q", again.Bytes(), in)
		}
		if want.code < 200 || want.code > 599 {
			t.Fatalf("code %d", want.code)
		}
		for _, r := range want.reply().Text {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("text %q", want.reply().Text)
			}
		}
	})
}
