package pcapng_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// epoch is when the first frame of a test's capture passes; each later one passes a
// nanosecond after the one before.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func ticking() func() time.Time {
	now := epoch.Add(-1)
	return func() time.Time {
		now = now.Add(1)
		return now
	}
}

var (
	flow4 = linktest.Flow{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 1}, DstMAC: [6]byte{2, 0, 0, 0, 0, 2},
		Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("192.0.2.25:2525"),
	}
	flow6 = linktest.Flow{
		SrcMAC: flow4.SrcMAC, DstMAC: flow4.DstMAC,
		Src: netip.MustParseAddrPort("[2001:db8::99]:40000"), Dst: netip.MustParseAddrPort("[2001:db8::25]:25"),
	}
	families = map[string]linktest.Flow{"IPv4": flow4, "IPv6": flow6}
)

// capture is a Writer into memory with one interface.
type capture struct {
	*pcapng.Interface
	w    *pcapng.Writer
	file *bytes.Buffer
}

func newCapture(t testing.TB, cfg pcapng.Config) *capture {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = ticking()
	}
	file := new(bytes.Buffer)
	w, err := pcapng.NewWriter(file, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &capture{w.Interface("test0"), w, file}
}

// records closes the capture and reads it back.
func (c *capture) records(t testing.TB) []record {
	t.Helper()
	if err := c.w.Close(); err != nil {
		t.Fatal(err)
	}
	return read(t, c.file.Bytes())
}

// record is a packet as gopacket reads it.
type record struct {
	data    []byte
	info    gopacket.CaptureInfo
	options pcapgo.NgPacketOptions
	iface   pcapgo.NgInterface
}

func read(t testing.TB, file []byte) (records []record) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return records
		}
		if err != nil {
			t.Fatalf("record %d: %v", len(records), err)
		}
		iface, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, record{data, info, options, iface})
	}
}

// tcp makes the frame of a segment, with the acknowledgment that linktest's lack.
func tcp(flow linktest.Flow, seq, ack uint32, flags uint8, payload []byte) []byte {
	b := flow.TCP(seq, flags, payload)
	binary.BigEndian.PutUint32(b[headersLen(flow)-12:], ack)
	return complete(flow.Partial(b))
}

// headersLen is where the payload begins in frames that linktest makes.
func headersLen(flow linktest.Flow) int {
	if flow.Src.Addr().Is4() {
		return link.EthernetHeaderLen + 20 + 20
	}
	return link.EthernetHeaderLen + 40 + 20
}

// complete returns the bytes of f with its checksum complete.
func complete(f link.Frame) []byte {
	c, err := f.Complete(new(link.Scratch))
	if err != nil {
		panic(err)
	}
	return linktest.Bytes(&c)
}

func plain(b []byte) *link.Frame { return &link.Frame{Data: [][]byte{b}} }

func verifies(b []byte) bool { return link.VerifyChecksum(plain(b)) }

// stars is b overwritten, as the capture does it.
func stars(b []byte) []byte {
	b = slices.Clone(b)
	for i, c := range b {
		if c != '\r' && c != '\n' {
			b[i] = '*'
		}
	}
	return b
}
