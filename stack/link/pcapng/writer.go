package pcapng

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/duotap/duotap/stack/link"
)

const (
	// flushSize is how many bytes may be collected before they are written.
	flushSize = 64 << 10

	// maxSnapLen is the longest frame that Wireshark reads, in bytes.
	maxSnapLen = 256 << 10
)

// Config describes a capture. The zero value captures whole frames, credentials
// blanked.
type Config struct {
	// SnapLen is how much of each frame is recorded, in bytes: 14 to 262,144; if zero
	// 65,560 (link.MaxSuperFrame), which is all of it.
	SnapLen int

	// Secrets leaves credentials in the capture. See the package's documentation for
	// what is blanked otherwise.
	Secrets bool

	// Now tells the time of a frame. Default: time.Now.
	Now func() time.Time
}

func (c *Config) validate() error {
	if c.SnapLen == 0 {
		c.SnapLen = link.MaxSuperFrame
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.SnapLen < link.EthernetHeaderLen || c.SnapLen > maxSnapLen {
		return fmt.Errorf("pcapng: Config.SnapLen is %d, and has to be %d to %d", c.SnapLen, link.EthernetHeaderLen, maxSnapLen)
	}
	return nil
}

// Writer writes a capture. Its methods, and those of its Interfaces, may be called
// from several goroutines.
type Writer struct {
	out  io.Writer
	file *os.File // what Close closes; nil if that is the caller's
	cfg  Config

	mu         sync.Mutex
	err        error
	closed     bool
	buf        []byte // what is to be written
	interfaces uint32
	scratch    link.Scratch
	blanker    *blanker // nil if secrets stay
}

// NewWriter starts a capture in out, which remains the caller's: Close doesn't close
// it. An error is about cfg, or came from out.
func NewWriter(out io.Writer, cfg Config) (*Writer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	w := &Writer{out: out, cfg: cfg}
	if !cfg.Secrets {
		w.blanker = newBlanker(maxFlows)
	}
	w.buf = appendSection(w.buf, !cfg.Secrets)
	w.flush()
	return w, w.err
}

// Create starts a capture with the zero Config in a new file. See [CreateWith].
func Create(path string) (*Writer, error) { return CreateWith(path, Config{}) }

// CreateWith starts a capture in a new file that its owner alone can read and write
// (mode 0600). It never overwrites: if there is a file, the error wraps fs.ErrExist.
// Other errors are about cfg, or wrap those of the file system. Close closes the file.
func CreateWith(path string, cfg Config) (*Writer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("pcapng: create capture: %w; a capture never overwrites, so remove the file or choose another name", err)
	}
	if err != nil {
		return nil, fmt.Errorf("pcapng: create capture: %w", err)
	}
	w, err := NewWriter(file, cfg)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	w.file = file
	return w, nil
}

// Err is the error that has ended the capture, and nil while it goes on.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the capture, and returns the error that had ended it before, if any.
// Devices that are still open work on, unrecorded. Another Close does nothing and
// returns the same.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.err
	}
	w.closed, w.buf, w.blanker = true, nil, nil
	if w.file != nil {
		if err := w.file.Close(); err != nil {
			w.err = errors.Join(w.err, fmt.Errorf("pcapng: close capture: %w", err))
		}
	}
	return w.err
}

// flush writes what has been collected. After an error there is no more to come,
// for it may have cut a block short.
func (w *Writer) flush() {
	n, err := w.out.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("pcapng: write capture, which ends here: %w", err)
	}
	w.buf = w.buf[:0]
}

// begin locks w to add blocks, and reports whether to. Whether or not, the caller
// calls end.
func (w *Writer) begin() bool {
	w.mu.Lock()
	return w.err == nil && !w.closed
}

func (w *Writer) end() {
	if len(w.buf) > 0 {
		w.flush()
	}
	w.mu.Unlock()
}

// add records one frame.
func (w *Writer) add(iface uint32, dir Direction, f *link.Frame, comment string) {
	complete, err := f.Complete(&w.scratch)
	if err != nil {
		complete = *f // a bad frame: as it is
	}
	packet := len(w.buf)
	w.buf = appendPacketHeader(w.buf, iface, w.cfg.Now())
	data := len(w.buf)
	w.buf = appendFrame(w.buf, &complete)
	notice := ""
	if w.blanker != nil {
		verified := f.Offload.NeedsChecksum || f.Offload.ChecksumValid
		notice = w.blanker.blank(iface, w.buf[data:], verified)
	}
	w.buf = w.buf[:min(len(w.buf), data+w.cfg.SnapLen)]
	w.buf = finishPacket(w.buf, packet, f.Len(), dir, comment, notice)
	if len(w.buf) >= flushSize {
		w.flush()
	}
}

// appendFrame appends the bytes of f, which are no more than any reader takes.
func appendFrame(b []byte, f *link.Frame) []byte {
	room := maxSnapLen
	for _, piece := range f.Data {
		piece = piece[:min(len(piece), room)]
		b = append(b, piece...)
		room -= len(piece)
	}
	return b
}
