package pcapng_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
	"github.com/duotap/duotap/stack/link/pcapng"
)

func TestConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) {
		c := newCapture(t, pcapng.Config{})
		x, y := memlink.Pair(1500)
		t.Cleanup(func() { c.records(t) }) // what the suite did can be read
		return pcapng.Wrap(x, c.w), pcapng.Wrap(y, c.w)
	})
}

// end is one end of a cable that is ready when newCable returns; one of memlink is
// when it has been made to receive, and nobody can tell when that is.
type end struct {
	link.Device // what isn't below
	peer        *end
	deliver     func([]link.Frame)
	ready       chan struct{} // closed when deliver is set
}

func (e *end) Receive(_ link.Ring, deliver func([]link.Frame)) error {
	e.deliver = deliver
	close(e.ready)
	return e.Device.Receive(nil, func([]link.Frame) {})
}

func (e *end) Send(frames []link.Frame) (n int, err error) {
	for n < len(frames) && err == nil {
		if err = frames[n].Check(e.MTU(), e.Features().Takes); err == nil {
			n++
		}
	}
	if n > 0 {
		e.peer.deliver(frames[:n])
	}
	return n, err
}

// wire is a cable with both ends recorded and receiving. What a sends has arrived at
// b when Send returns.
type wire struct {
	a, b     link.Device
	mu       sync.Mutex
	received [][]byte // at b
	ended    sync.WaitGroup
}

func newWire(t *testing.T, c *capture) *wire {
	t.Helper()
	x, y := memlink.Pair(1500)
	left, right := &end{Device: x, ready: make(chan struct{})}, &end{Device: y, ready: make(chan struct{})}
	left.peer, right.peer = right, left
	w := &wire{a: c.w.Interface("a").Wrap(left), b: c.w.Interface("b").Wrap(right)}
	w.ended.Go(func() { w.a.Receive(nil, func([]link.Frame) {}) })
	w.ended.Go(func() { w.b.Receive(nil, w.arrive) })
	t.Cleanup(w.close)
	<-left.ready
	<-right.ready
	return w
}

func (w *wire) arrive(frames []link.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range frames {
		w.received = append(w.received, linktest.Bytes(&frames[i]))
	}
}

func (w *wire) close() {
	w.a.Close()
	w.b.Close()
	w.ended.Wait()
}

func TestRecords(t *testing.T) {
	file := newCapture(t, pcapng.Config{})
	w := newWire(t, file)
	want := [][]byte{flow4.Echo([]byte("one")), flow6.UDP([]byte("two")), flow4.TCP(7, linktest.ACK, nil)}
	for _, b := range want {
		if n, err := w.a.Send([]link.Frame{*plain(b)}); n != 1 || err != nil {
			t.Fatalf("Send: %d, %v", n, err)
		}
	}
	w.close()
	records := file.records(t)
	if got := len(records); got != 2*len(want) {
		t.Fatalf("%d records, want %d", got, 2*len(want))
	}
	for i, r := range records {
		if !bytes.Equal(r.data, want[i/2]) || r.info.Length != len(want[i/2]) {
			t.Errorf("record %d is %x, want %x", i, r.data, want[i/2])
		}
		name, direction := "a", pcapgo.NgEpbFlagDirectionOutbound
		if i%2 == 1 {
			name, direction = "b", pcapgo.NgEpbFlagDirectionInbound
		}
		if r.iface.Name != name || r.options.Flags.Direction != direction || len(r.options.Comments) != 0 {
			t.Errorf("record %d: interface %q, direction %d, comments %q", i, r.iface.Name, r.options.Flags.Direction, r.options.Comments)
		}
		if r.iface.LinkType != layers.LinkTypeEthernet || r.iface.SnapLength != link.MaxSuperFrame {
			t.Errorf("interface has link type %v and snap length %d", r.iface.LinkType, r.iface.SnapLength)
		}
		if at := epoch.Add(time.Duration(i)); !r.info.Timestamp.Equal(at) {
			t.Errorf("record %d at %v, want %v", i, r.info.Timestamp, at)
		}
	}
}

// TestSuperFrame: it is captured as one frame with its checksum complete, and passes
// as it is.
func TestSuperFrame(t *testing.T) {
	for name, flow := range families {
		t.Run(name, func(t *testing.T) {
			payload := make([]byte, 60001)
			rand.NewChaCha8([32]byte{}).Read(payload)
			tcp, udp := flow.TCP(1, linktest.ACK, payload), flow.UDP(payload[:3000])
			super, datagrams := flow.Super(tcp, 1400), flow.Super(udp, 1000)
			partial := linktest.Bytes(&super)
			super.Data = linktest.Scatter(slices.Clone(partial), 1001)

			file := newCapture(t, pcapng.Config{})
			w := newWire(t, file)
			if n, err := w.a.Send([]link.Frame{super, datagrams}); n != 2 || err != nil {
				t.Fatalf("Send: %d, %v", n, err)
			}
			if !bytes.Equal(linktest.Bytes(&super), partial) || !bytes.Equal(w.received[0], partial) {
				t.Error("the capture has changed the frame")
			}
			w.close()
			records := file.records(t)
			for i, want := range [][]byte{tcp, udp, tcp, udp} {
				if !bytes.Equal(records[i].data, want) {
					t.Errorf("record %d isn't the frame with its checksum complete", i)
				}
			}
		})
	}
}

// TestSection: the file itself says whether credentials are blanked.
func TestSection(t *testing.T) {
	for secrets, want := range map[bool]string{false: "SMTP credentials are overwritten with asterisks.", true: ""} {
		c := newCapture(t, pcapng.Config{Secrets: secrets})
		r, err := pcapgo.NewNgReader(c.file, pcapgo.NgReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := r.SectionInfo(); s.Application != "duotap" || s.Comment != want {
			t.Errorf("secrets %v: application %q, comment %q", secrets, s.Application, s.Comment)
		}
	}
}

func TestComments(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	f := plain(flow4.Echo(nil))
	c.Drop(pcapng.Inbound, f, "loss 5 %, seed 42")
	c.Record(pcapng.Outbound, f, "wörds")
	c.Record(pcapng.Outbound, f, "")
	c.Record(pcapng.Outbound, f, "a\xffb")
	c.Record(pcapng.Outbound, f, strings.Repeat("é", 1000)+"x")
	for i, want := range []string{"dropped: loss 5 %, seed 42", "wörds", "", "a\uFFFDb", strings.Repeat("é", 512)} {
		r := c.records(t)[i]
		if got := strings.Join(r.options.Comments, "|"); got != want {
			t.Errorf("record %d: comments %q, want %q", i, got, want)
		}
		if !bytes.Equal(r.data, f.Data[0]) {
			t.Errorf("record %d isn't the frame", i)
		}
	}
}

// TestNotSent: what the device refuses is recorded with the reason.
func TestNotSent(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	w := newWire(t, c)
	good, bad := *plain(flow4.Echo(nil)), *plain([]byte("short"))
	if n, err := w.a.Send([]link.Frame{good, bad, good}); n != 1 || !errors.Is(err, link.ErrFrame) {
		t.Fatalf("Send: %d, %v; want 1, ErrFrame", n, err)
	}
	w.close()
	records := c.records(t)
	if len(records) != 5 {
		t.Fatalf("%d records, want three before, one at b, and one after", len(records))
	}
	r := records[4]
	if string(r.data) != "short" || len(r.options.Comments) != 1 || !strings.HasPrefix(r.options.Comments[0], "not sent: ") {
		t.Errorf("%q with comments %q, want the frame that failed and why", r.data, r.options.Comments)
	}
}

func TestInterfaceNames(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	x, y := memlink.Pair(1500)
	named := c.w.Interface("cable").Wrap(x)
	pcapng.Wrap(y, c.w)
	pcapng.Wrap(named, c.w)
	last := c.w.Interface(strings.Repeat("n", 3000))
	last.Record(pcapng.Inbound, plain(flow4.Echo(nil)), "")
	if last.Name() != strings.Repeat("n", 3000) || c.Name() != "test0" {
		t.Errorf("names are %q, %q", last.Name(), c.Name())
	}
	if n := c.records(t)[0].iface.Name; n != strings.Repeat("n", 1024) {
		t.Errorf("a long name is %q", n)
	}
	r, err := pcapgo.NewNgReader(c.file, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadPacketData(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"test0", "cable", "link2", "cable"} {
		if got, err := r.Interface(i); err != nil || got.Name != want {
			t.Errorf("interface %d is %q, %v; want %q", i, got.Name, err, want)
		}
	}
	if named, ok := named.(interface{ Name() string }); !ok || named.Name() != "cable" {
		t.Error("a wrapped device has lost its name")
	}
}

func TestPassesThrough(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	x, _, err := memlink.New(memlink.Config{MTU: 4000, Offloads: link.Checksum})
	if err != nil {
		t.Fatal(err)
	}
	dev := pcapng.Wrap(lending{x}, c.w)
	if dev.MTU() != 4000 || dev.Features() != (lending{x}).Features() || !dev.Features().Lends {
		t.Errorf("MTU %d, features %+v", dev.MTU(), dev.Features())
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close has left the device open: %v", err)
	}
	c.Record(pcapng.Inbound, plain(flow4.Echo(nil)), "")
	if len(c.records(t)) != 1 {
		t.Error("Close of the device has closed the capture")
	}
}

// lending is a device that lends its memory.
type lending struct{ *memlink.Device }

func (l lending) Features() link.Features {
	f := l.Device.Features()
	f.Lends = true
	return f
}

func TestSnapLen(t *testing.T) {
	frame := flow6.UDP(make([]byte, 1000))
	for _, n := range []int{14, 15, 100, len(frame) - 1, len(frame), 262144} {
		c := newCapture(t, pcapng.Config{SnapLen: n})
		c.Record(pcapng.Inbound, plain(frame), "comment")
		r := c.records(t)[0]
		if !bytes.Equal(r.data, frame[:min(n, len(frame))]) || r.info.Length != len(frame) || r.iface.SnapLength != uint32(n) {
			t.Errorf("snap length %d: %d of %d bytes, %d in the interface", n, len(r.data), r.info.Length, r.iface.SnapLength)
		}
		if !slices.Equal(r.options.Comments, []string{"comment"}) {
			t.Errorf("snap length %d: comments %q", n, r.options.Comments)
		}
	}
	c := newCapture(t, pcapng.Config{SnapLen: 262144})
	c.Record(pcapng.Inbound, plain(make([]byte, 300000)), "")
	if r := c.records(t)[0]; len(r.data) != 262144 || r.info.Length != 300000 {
		t.Errorf("of a frame too long: %d of %d bytes", len(r.data), r.info.Length)
	}
	for _, n := range []int{-1, 1, 13, 262145} {
		if _, err := pcapng.NewWriter(io.Discard, pcapng.Config{SnapLen: n}); err == nil || !strings.Contains(err.Error(), "SnapLen") {
			t.Errorf("snap length %d: %v, want an error about it", n, err)
		}
	}
}

// TestSnapLenBlanks: what is cut off has been read before.
func TestSnapLenBlanks(t *testing.T) {
	c := newCapture(t, pcapng.Config{SnapLen: headersLen(flow4) + 20})
	c.Record(pcapng.Outbound, plain(flow4.TCP(1, linktest.ACK, []byte("NOOP this is a long line\r\nAUTH PLAIN\r\n"))), "")
	c.Record(pcapng.Outbound, plain(flow4.TCP(40, linktest.ACK, []byte("c2VjcmV0\r\n"))), "")
	if r := c.records(t)[1]; string(r.data[headersLen(flow4):]) != "********\r\n" {
		t.Errorf("the answer is captured as %q", r.data[headersLen(flow4):])
	}
}

func TestFlushedEachBatch(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	w := newWire(t, c)
	w.a.Send([]link.Frame{*plain(flow4.Echo(nil)), *plain(flow4.Echo(nil))})
	if got := len(read(t, c.file.Bytes())); got != 4 {
		t.Errorf("%d records are in the file after Send, want 2 of each end", got)
	}
}

// chunks notes the sizes of what is written.
type chunks []int

func (c *chunks) Write(b []byte) (int, error) {
	*c = append(*c, len(b))
	return len(b), nil
}

func TestBufferIsBounded(t *testing.T) {
	var sizes chunks
	w, err := pcapng.NewWriter(&sizes, pcapng.Config{})
	if err != nil {
		t.Fatal(err)
	}
	x, _ := memlink.Pair(1500)
	dev := pcapng.Wrap(x, w)
	frames := slices.Repeat([]link.Frame{*plain(flow4.Echo(make([]byte, 1400)))}, 200)
	sizes = nil
	if _, err := dev.Send(frames); err != nil {
		t.Fatal(err)
	}
	if len(sizes) < 4 || slices.Max(sizes) > 64<<10+2000 {
		t.Errorf("a batch of 200 frames is written as %v bytes, want pieces of about 64 KiB", sizes)
	}
}

// failing fails with every write that goes beyond so many bytes.
type failing struct {
	room   int
	err    error // nil: writes less, and doesn't say
	writes int
}

var errDisk = errors.New("disk on fire")

func (f *failing) Write(b []byte) (int, error) {
	f.writes++
	if f.room -= len(b); f.room < 0 {
		return max(0, f.room+len(b)), f.err
	}
	return len(b), nil
}

func TestWriteError(t *testing.T) {
	for name, c := range map[string]struct{ err, want error }{
		"error":       {errDisk, errDisk},
		"short write": {nil, io.ErrShortWrite},
	} {
		t.Run(name, func(t *testing.T) {
			disk := &failing{room: 1000, err: c.err}
			w, err := pcapng.NewWriter(disk, pcapng.Config{})
			if err != nil || w.Err() != nil {
				t.Fatal(err, w.Err())
			}
			cable := newWire(t, &capture{w: w})
			batch := slices.Repeat([]link.Frame{*plain(flow4.Echo(make([]byte, 1000)))}, 100)
			for range 3 {
				if n, err := cable.a.Send(batch); n != len(batch) || err != nil {
					t.Errorf("Send: %d, %v; want all to go on", n, err)
				}
			}
			if len(cable.received) != 300 {
				t.Errorf("%d frames arrived, want 300", len(cable.received))
			}
			writes := disk.writes
			w.Interface("late").Drop(pcapng.Inbound, &batch[0], "test")
			if disk.writes != writes {
				t.Error("written to after an error")
			}
			if err := w.Err(); !errors.Is(err, c.want) {
				t.Errorf("Err: %v, want %v", err, c.want)
			}
			for range 2 {
				if err := w.Close(); !errors.Is(err, c.want) {
					t.Errorf("Close: %v, want %v", err, c.want)
				}
			}
		})
	}
	if _, err := pcapng.NewWriter(&failing{err: errDisk}, pcapng.Config{}); !errors.Is(err, errDisk) {
		t.Errorf("NewWriter: %v, want %v", err, errDisk)
	}
}

func TestTrafficAfterClose(t *testing.T) {
	c := newCapture(t, pcapng.Config{})
	w := newWire(t, c)
	c.records(t)
	size := c.file.Len()
	if n, err := w.a.Send([]link.Frame{*plain(flow4.Echo(nil))}); n != 1 || err != nil {
		t.Errorf("Send: %d, %v", n, err)
	}
	c.w.Interface("late").Drop(pcapng.Inbound, plain(flow4.Echo(nil)), "test")
	if c.file.Len() != size || c.w.Close() != nil || c.w.Err() != nil {
		t.Errorf("%d bytes after Close, errors %v, %v", c.file.Len()-size, c.w.Close(), c.w.Err())
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.pcapng")
	w, err := pcapng.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w.Interface("").Record(pcapng.Inbound, plain(flow4.Echo(nil)), "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := read(t, content); len(r) != 1 || r[0].iface.Name != "link0" {
		t.Errorf("%d records, want the one of link0", len(r))
	}

	if _, err := pcapng.Create(path); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "never overwrites") {
		t.Errorf("over a file: %v; want ErrExist, and what to do", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
		t.Errorf("the file has been touched: %v", err)
	}
	if _, err := pcapng.CreateWith(path+"2", pcapng.Config{SnapLen: -1}); err == nil {
		t.Error("with a bad Config: no error")
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with a bad Config: a file is made: %v", err)
	}
	if _, err := pcapng.Create(filepath.Join(path, "below")); err == nil {
		t.Error("below a file: no error")
	}
	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink(path+"3", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := pcapng.Create(dangling); !errors.Is(err, fs.ErrExist) {
		t.Errorf("through a symbolic link: %v, want ErrExist", err)
	}
}

// TestConcurrent: every frame of every sender is whole and in the file.
func TestConcurrent(t *testing.T) {
	const senders, each = 4, 50
	c := newCapture(t, pcapng.Config{})
	w := newWire(t, c)
	var wg sync.WaitGroup
	for s := range senders {
		dev, i := w.a, c.w.Interface("")
		if s%2 == 1 {
			dev = w.b
		}
		wg.Go(func() {
			f := *plain(flow4.TCP(uint32(s), linktest.ACK, []byte("NOOP\r\n")))
			for range each {
				if _, err := dev.Send([]link.Frame{f}); err != nil {
					t.Errorf("Send: %v", err)
				}
				i.Drop(pcapng.Outbound, &f, "test")
				c.w.Err()
			}
		})
	}
	wg.Wait()
	w.close()
	records := c.records(t)
	if want := senders * each * 3; len(records) != want {
		t.Errorf("%d records, want %d", len(records), want)
	}
	for i, r := range records {
		if !verifies(r.data) {
			t.Fatalf("record %d is broken: %x", i, r.data)
		}
	}
}

// sink is a device that takes everything.
type sink struct{ link.Device }

func (sink) Send(frames []link.Frame) (int, error) { return len(frames), nil }

func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations can't be counted under the race detector")
	}
	w, err := pcapng.NewWriter(io.Discard, pcapng.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dev := pcapng.Wrap(sink{}, w)
	for name, payload := range map[string]string{
		"commands":    strings.Repeat("RCPT TO:<user@example.org>\r\n", 40),
		"credentials": strings.Repeat("AUTH PLAIN AGFsaWNlAGNhbmFyeQ==\r\n", 40),
		"no SMTP":     strings.Repeat("\x00\x01", 600),
	} {
		for family, flow := range families {
			super := flow.Super(flow.TCP(0, linktest.ACK, []byte(payload)), 500)
			seq := super.Data[0][headersLen(flow)-16:]
			frames := []link.Frame{super, *plain(flow.Echo([]byte(payload)))}
			batch := func() {
				dev.Send(frames)
				binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)+uint32(len(payload)))
			}
			if n := testing.AllocsPerRun(100, batch); n != 0 {
				t.Errorf("%s, %s: %v heap allocations a batch, want 0", name, family, n)
			}
		}
	}
}

// BenchmarkSend sends a super-frame after the other of one connection.
func BenchmarkSend(b *testing.B) {
	for name, first := range map[string]string{"message": "DATA\r\n", "commands": "NOOP\r\n", "bulk": strings.Repeat("\x00", 100)} {
		for _, n := range []int{64, 1400, 64000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				w, err := pcapng.NewWriter(io.Discard, pcapng.Config{})
				if err != nil {
					b.Fatal(err)
				}
				dev := pcapng.Wrap(sink{}, w)
				payload := bytes.Repeat([]byte("a line of text with 64 bytes in it, and its end, which is here\r\n"), n/64)
				if name == "bulk" {
					clear(payload)
				}
				next := uint32(1 + len(first))
				dev.Send([]link.Frame{*plain(flow4.TCP(0, linktest.SYN, nil)), *plain(flow4.TCP(1, linktest.ACK, []byte(first)))})
				frames := []link.Frame{flow4.Super(flow4.TCP(next, linktest.ACK, payload), 1400)}
				seq := frames[0].Data[0][headersLen(flow4)-16:]
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				for b.Loop() {
					dev.Send(frames)
					next += uint32(len(payload))
					binary.BigEndian.PutUint32(seq, next)
				}
			})
		}
	}
}
