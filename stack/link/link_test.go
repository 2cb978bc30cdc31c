package link_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
)

var (
	flow4 = linktest.Flow{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 1}, DstMAC: [6]byte{2, 0, 0, 0, 0, 2},
		Src: netip.MustParseAddrPort("192.0.2.1:1000"), Dst: netip.MustParseAddrPort("192.0.2.2:25"),
	}
	flow6 = linktest.Flow{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 1}, DstMAC: [6]byte{2, 0, 0, 0, 0, 2},
		Src: netip.MustParseAddrPort("[2001:db8::1]:1000"), Dst: netip.MustParseAddrPort("[2001:db8::2]:25"),
	}
	flows = map[string]linktest.Flow{"IPv4": flow4, "IPv6": flow6}
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func plain(b []byte) *link.Frame { return &link.Frame{Data: [][]byte{b}} }

// insert returns b with more put in at off.
func insert(b []byte, off int, more ...byte) []byte {
	return slices.Insert(slices.Clone(b), off, more...)
}

func TestFrameCopyAt(t *testing.T) {
	want := random(100)
	f := link.Frame{Data: [][]byte{{}, want[:1], want[1:40], {}, want[40:]}}
	if f.Len() != 100 {
		t.Errorf("Len: %d, want 100", f.Len())
	}
	for off := range 102 {
		b := make([]byte, 30)
		n := f.CopyAt(b, off)
		if w := want[min(off, 100):min(off+30, 100)]; !bytes.Equal(b[:n], w) {
			t.Errorf("CopyAt %d: %x, want %x", off, b[:n], w)
		}
	}
}

// headersCases are frames whose headers are found, and where.
func headersCases() map[string]struct {
	frame []byte
	want  link.Headers
} {
	type c = struct {
		frame []byte
		want  link.Headers
	}
	tcp4, tcp6, udp6 := flow4.TCP(1, linktest.ACK, []byte("hi")), flow6.TCP(1, linktest.ACK, []byte("hi")), flow6.UDP([]byte("hi"))
	tagged := insert(tcp4, 12, 0x88, 0xa8, 0, 1, 0x81, 0, 0, 2)

	fragment4 := slices.Clone(tcp4)
	fragment4[20] = 0x20 // more fragments
	extended := insert(udp6, 54, 17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	extended[19] += 16
	extended[20] = 60
	fragment6 := insert(udp6, 54, 17, 0, 0, 1, 0, 0, 0, 7)
	fragment6[19] += 8
	fragment6[20] = 44
	atomic6 := slices.Clone(fragment6)
	atomic6[57] = 0
	routed := insert(udp6, 54, 17, 0, 4, 1, 0, 0, 0, 0)
	routed[19] += 8
	routed[20] = 43

	return map[string]c{
		"tcp4":                    {tcp4, link.Headers{Version: 4, Protocol: 6, Network: 14, Transport: 34, Payload: 54, End: 56}},
		"tcp4 with padding":       {append(slices.Clone(tcp4), 0, 0, 0, 0), link.Headers{Version: 4, Protocol: 6, Network: 14, Transport: 34, Payload: 54, End: 56}},
		"tcp4 behind two tags":    {tagged, link.Headers{Version: 4, Protocol: 6, Network: 22, Transport: 42, Payload: 62, End: 64}},
		"tcp6":                    {tcp6, link.Headers{Version: 6, Protocol: 6, Network: 14, Transport: 54, Payload: 74, End: 76}},
		"udp6":                    {udp6, link.Headers{Version: 6, Protocol: 17, Network: 14, Transport: 54, Payload: 62, End: 64}},
		"udp6 behind an option":   {extended, link.Headers{Version: 6, Protocol: 17, Network: 14, Transport: 70, Payload: 78, End: 80}},
		"first fragment over 4":   {fragment4, link.Headers{Version: 4, Protocol: 6, Fragment: true, Network: 14, Transport: 34, Payload: 34, End: 56}},
		"first fragment over 6":   {fragment6, link.Headers{Version: 6, Protocol: 17, Fragment: true, Network: 14, Transport: 62, Payload: 62, End: 72}},
		"atomic fragment":         {atomic6, link.Headers{Version: 6, Protocol: 17, Network: 14, Transport: 62, Payload: 70, End: 72}},
		"route with a stop to go": {routed, link.Headers{Version: 6, Protocol: 43, Network: 14, Transport: 54, Payload: 54, End: 72}},
		"echo":                    {flow4.Echo(nil), link.Headers{Version: 4, Protocol: 1, Network: 14, Transport: 34, Payload: 34, End: 42}},
	}
}

func TestHeaders(t *testing.T) {
	for name, c := range headersCases() {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{len(c.frame), 1, 3, 20} {
				f := link.Frame{Data: linktest.Scatter(c.frame, size)}
				if h, ok := f.Headers(); !ok || h != c.want {
					t.Errorf("in pieces of %d: %+v, %v; want %+v", size, h, ok, c.want)
				}
			}
			for n := range c.want.End {
				if h, ok := plain(c.frame[:n]).Headers(); ok {
					t.Errorf("cut to %d bytes: %+v, want none", n, h)
				}
			}
		})
	}
}

func TestHeadersRefused(t *testing.T) {
	change := func(b []byte, off int, v byte) []byte {
		b = slices.Clone(b)
		b[off] = v
		return b
	}
	tcp4, tcp6 := flow4.TCP(1, linktest.ACK, []byte("hi")), flow6.TCP(1, linktest.ACK, []byte("hi"))
	chain := slices.Clone(tcp6[:54])
	chain[20] = 60
	for range 9 {
		chain = append(chain, 60, 0, 1, 4, 0, 0, 0, 0)
	}
	chain[19] = 9 * 8
	for name, c := range map[string]struct {
		frame   []byte
		version uint8
	}{
		"empty":                     {nil, 0},
		"ARP":                       {change(tcp4, 13, 6), 0},
		"three tags":                {insert(tcp4, 12, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1), 0},
		"version 6 in IPv4":         {change(tcp4, 14, 0x65), 4},
		"version 4 in IPv6":         {change(tcp6, 14, 0x45), 6},
		"IPv4 header of 16 bytes":   {change(tcp4, 14, 0x44), 4},
		"total length < header":     {change(tcp4, 17, 19), 4},
		"total length > frame":      {change(tcp4, 17, 43), 4},
		"payload length > frame":    {change(tcp6, 19, 23), 6},
		"TCP offset 4":              {change(tcp4, 46, 0x40), 4},
		"TCP offset behind the end": {change(tcp4, 46, 0x60), 4},
		"option longer than packet": {change(tcp6, 20, 60), 6},
		"nine extension headers":    {chain, 6},
	} {
		if h, ok := plain(c.frame).Headers(); ok || h.Version != c.version {
			t.Errorf("%s: %+v, %v; want version %d, not ok", name, h, ok, c.version)
		}
	}
}

// TestChecksums takes the frames of linktest, which sums word by word, as correct.
func TestChecksums(t *testing.T) {
	for name, flow := range flows {
		for n := range 300 {
			payload := random(n)
			for protocol, frame := range map[string][]byte{
				"TCP": flow.TCP(uint32(n), linktest.ACK, payload), "UDP": flow.UDP(payload), "echo": flow.Echo(payload),
			} {
				f := link.Frame{Data: linktest.Scatter(frame, n%17+1)}
				if !link.VerifyChecksum(&f) {
					t.Fatalf("%s over %s, %d bytes: taken for wrong", protocol, name, n)
				}
				padded := plain(append(slices.Clone(frame), 1, 2, 3))
				if !link.VerifyChecksum(padded) {
					t.Fatalf("%s over %s, %d bytes with padding: taken for wrong", protocol, name, n)
				}
				frame[len(frame)-1-n/2] ^= 0x10
				if link.VerifyChecksum(&f) {
					t.Fatalf("%s over %s, %d bytes, one bit changed: taken for right", protocol, name, n)
				}
			}
		}
	}
}

func TestVerifyChecksumSpecial(t *testing.T) {
	change := func(b []byte, off int, v ...byte) []byte {
		b = slices.Clone(b)
		copy(b[off:], v)
		return b
	}
	udp4, udp6 := flow4.UDP([]byte("hello")), flow6.UDP([]byte("hello"))
	fragment := change(flow6.UDP([]byte("hello")), 20, 44)
	fragment = insert(fragment, 54, 17, 0, 0, 1, 0, 0, 0, 7)
	fragment[19] += 8
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"ARP":                           {change(udp4, 12, 8, 6), true},
		"UDP without checksum, IPv4":    {change(udp4, 40, 0, 0), true},
		"UDP without checksum, IPv6":    {change(udp6, 60, 0, 0), false},
		"UDP longer than packet":        {change(udp6, 59, 14), false},
		"UDP of 7 bytes":                {change(udp6, 59, 7), false},
		"fragment":                      {fragment, true},
		"wrong IPv4 header checksum":    {change(udp4, 22, 7), false},
		"fragment, wrong IPv4 checksum": {change(udp4, 20, 0x20), false},
		"IPv6, other protocol":          {change(udp6, 20, 132), true},
		"IPv6 cut short":                {udp6[:60], false},
		"IPv4 cut short":                {udp4[:20], false},
	} {
		if got := link.VerifyChecksum(plain(c.frame)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestComplete(t *testing.T) {
	var s link.Scratch
	for name, flow := range flows {
		for _, want := range [][]byte{flow.TCP(7, linktest.ACK, random(1001)), flow.UDP(random(1001)), flow.UDP(nil)} {
			for _, size := range []int{1, 33, 60, 4096} {
				f := flow.Partial(want)
				f.Data = linktest.Scatter(f.Data[0], size)
				before := linktest.Bytes(&f)
				got, err := f.Complete(&s)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(linktest.Bytes(&got), want) || got.Offload != (link.Offload{}) {
					t.Errorf("%s in pieces of %d: %x, %+v; want %x", name, size, linktest.Bytes(&got), got.Offload, want)
				}
				if !bytes.Equal(before, linktest.Bytes(&f)) {
					t.Errorf("%s in pieces of %d: the frame itself was changed", name, size)
				}
			}
		}
	}
}

// TestCompleteZero: a UDP checksum that comes out as zero is sent as 0xffff (RFC 768).
func TestCompleteZero(t *testing.T) {
	want := flow4.UDP([]byte{0, 0})
	sum := binary.BigEndian.Uint16(want[40:])
	want = flow4.UDP(binary.BigEndian.AppendUint16(nil, sum))
	if !bytes.Equal(want[40:42], []byte{0xff, 0xff}) {
		t.Fatalf("test frame has checksum %x, want ffff", want[40:42])
	}
	f := flow4.Partial(want)
	got, err := f.Complete(new(link.Scratch))
	if err != nil || !bytes.Equal(linktest.Bytes(&got), want) {
		t.Errorf("%x, %v; want %x", linktest.Bytes(&got), err, want)
	}
}

func TestSplit(t *testing.T) {
	const flags = linktest.ACK | linktest.PSH | linktest.FIN | linktest.CWR
	for name, flow := range flows {
		for _, total := range []int{1, 2, 999, 1000, 1001, 2500, 65000} {
			for _, size := range []int{1000, 1448, 65000} {
				t.Run(fmt.Sprintf("%s/%d in %d", name, total, size), func(t *testing.T) {
					payload := random(total)
					tcp := flow.Super(flow.TCP(0xffffff00, flags, payload), size)
					udp := flow.Super(flow.UDP(payload), size)
					checkSplit(t, tcp, 777, wantTCP(flow, 0xffffff00, flags, payload, size))
					checkSplit(t, udp, 20, wantUDP(flow, payload, size))
				})
			}
		}
	}
}

// wantTCP makes the segments that a super-frame is to become.
func wantTCP(flow linktest.Flow, seq uint32, flags uint8, payload []byte, size int) (want [][]byte) {
	for off := 0; off < len(payload); off += size {
		own, end := flags, min(off+size, len(payload))
		if off > 0 {
			own &^= linktest.CWR
		}
		if end < len(payload) {
			own &^= linktest.FIN | linktest.PSH
		}
		want = append(want, numbered(flow.TCP(seq+uint32(off), own, payload[off:end]), off/size))
	}
	return want
}

func wantUDP(flow linktest.Flow, payload []byte, size int) (want [][]byte) {
	for b := range slices.Chunk(payload, size) {
		want = append(want, numbered(flow.UDP(b), len(want)))
	}
	return want
}

// numbered adds n to the identification of an IPv4 packet. It mends the checksum
// with equation 3 of RFC 1624.
func numbered(b []byte, n int) []byte {
	if b[12] != 0x08 {
		return b
	}
	id := binary.BigEndian.Uint16(b[18:])
	sum := uint32(^binary.BigEndian.Uint16(b[24:])) + uint32(^id) + uint32(id+uint16(n))
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[18:], id+uint16(n))
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum))
	return b
}

func checkSplit(t *testing.T, f link.Frame, piece int, want [][]byte) {
	t.Helper()
	before := linktest.Bytes(&f)
	f.Data = linktest.Scatter(before, piece)
	var got [][]byte
	err := link.Split(&f, new(link.Scratch), func(segment link.Frame) error {
		if segment.Offload != (link.Offload{}) {
			t.Errorf("a segment has offload %+v", segment.Offload)
		}
		got = append(got, linktest.Bytes(&segment))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, linktest.Bytes(&f)) {
		t.Error("the super-frame itself was changed")
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d segments, want %d:", len(got), len(want))
		for i := range min(len(got), len(want)) {
			if n := min(len(got[i]), 80); !bytes.Equal(got[i], want[i]) {
				t.Errorf("segment %d begins\n%x, want\n%x", i, got[i][:n], want[i][:min(len(want[i]), 80)])
			}
		}
	}
}

func TestSplitPlain(t *testing.T) {
	want := flow6.UDP(random(100))
	checkSplit(t, *plain(want), 7, [][]byte{want})
	checkSplit(t, flow6.Partial(want), 7, [][]byte{want})
}

func TestSplitStops(t *testing.T) {
	enough := errors.New("enough")
	f := flow4.Super(flow4.UDP(random(1000)), 100)
	n := 0
	err := link.Split(&f, new(link.Scratch), func(link.Frame) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if err != enough || n != 3 {
		t.Errorf("%v after %d segments; want %v after 3", err, n, enough)
	}
}

func TestCheck(t *testing.T) {
	const all = link.Checksum | link.TSO4 | link.TSO6 | link.USO4 | link.USO6
	tcp4, udp6 := flow4.TCP(1, linktest.ACK, random(3000)), flow6.UDP(random(3000))
	with := func(f link.Frame, change func(f *link.Frame)) link.Frame {
		change(&f)
		return f
	}
	super4, super6 := flow4.Super(tcp4, 1446), flow6.Super(udp6, 1000)
	for name, c := range map[string]struct {
		f     link.Frame
		takes link.Offloads
		ok    bool
	}{
		"nothing":                        {link.Frame{}, all, false},
		"shorter than a header":          {*plain(random(13)), all, false},
		"a header":                       {*plain(random(14)), 0, true},
		"as long as the MTU allows":      {*plain(random(1514)), 0, true},
		"longer":                         {*plain(random(1515)), all, false},
		"verified":                       {with(*plain(random(60)), func(f *link.Frame) { f.Offload.ChecksumValid = true }), 0, true},
		"partial":                        {flow4.Partial(flow4.UDP(nil)), link.Checksum, true},
		"partial, not taken":             {flow4.Partial(flow4.UDP(nil)), 0, false},
		"partial in the Ethernet header": {with(flow4.Partial(flow4.UDP(nil)), func(f *link.Frame) { f.Offload.ChecksumStart = 13 }), all, false},
		"partial, last bytes":            {with(flow4.Partial(flow4.UDP(nil)), func(f *link.Frame) { f.Offload.ChecksumStart = 34 }), all, true},
		"partial, one byte too far":      {with(flow4.Partial(flow4.UDP(nil)), func(f *link.Frame) { f.Offload.ChecksumStart = 35 }), all, false},
		"partial, at the very end":       {with(flow4.Partial(flow4.UDP(nil)), func(f *link.Frame) { f.Offload.ChecksumStart, f.Offload.ChecksumOffset = 65535, 65535 }), all, false},
		"TCP super-frame":                {super4, link.Checksum | link.TSO4, true},
		"UDP super-frame":                {super6, link.Checksum | link.USO6, true},
		"super-frame, other kind":        {super6, link.Checksum | link.TSO4 | link.TSO6 | link.USO4, false},
		"super-frame without checksum":   {super4, link.TSO4, false},
		"super-frame of one segment":     {flow4.Super(flow4.UDP(random(9)), 60000), all, true},
		"segments too long":              {flow4.Super(tcp4, 1461), all, false},
		"segments as long as allowed":    {flow4.Super(tcp4, 1460), all, true},
		"segments of no size":            {with(super4, func(f *link.Frame) { f.Offload.SegmentSize = 0 }), all, false},
		"unknown segmentation":           {with(super4, func(f *link.Frame) { f.Offload.Segment = 200 }), all, false},
		"TCP over IPv6, it says":         {with(super4, func(f *link.Frame) { f.Offload.Segment = link.SegmentTCP6 }), all, false},
		"UDP, it says":                   {with(super4, func(f *link.Frame) { f.Offload.Segment = link.SegmentUDP }), all, false},
		"complete checksum":              {with(super4, func(f *link.Frame) { f.Offload.NeedsChecksum = false }), all, false},
		"checksum elsewhere":             {with(super4, func(f *link.Frame) { f.Offload.ChecksumStart++ }), all, false},
		"checksum field elsewhere":       {with(super4, func(f *link.Frame) { f.Offload.ChecksumOffset = 6 }), all, false},
		"headers shorter":                {with(super4, func(f *link.Frame) { f.Offload.HeaderLen-- }), all, false},
		"headers longer than the frame":  {with(super4, func(f *link.Frame) { f.Offload.HeaderLen = 65535 }), all, false},
		"no payload":                     {flow4.Super(flow4.TCP(1, linktest.ACK, nil), 1000), all, false},
		"cut short":                      {with(super4, func(f *link.Frame) { f.Data = [][]byte{f.Data[0][:2000]} }), all, false},
		"padding":                        {with(super4, func(f *link.Frame) { f.Data = [][]byte{f.Data[0], {0}} }), all, false},
		"fragment": {with(super4, func(f *link.Frame) {
			f.Data = [][]byte{slices.Clone(f.Data[0])}
			f.Data[0][20] |= 0x20
		}), all, false},
		"UDP length of one segment": {with(super6, func(f *link.Frame) {
			f.Data = [][]byte{slices.Clone(f.Data[0])}
			binary.BigEndian.PutUint16(f.Data[0][58:], 1008)
		}), all, false},
	} {
		err := c.f.Check(1500, c.takes)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, link.ErrFrame) {
			t.Errorf("%s: %v, want ok %v", name, err, c.ok)
		}
	}
}

func TestFrameSize(t *testing.T) {
	if got := link.FrameSize(1500, link.Checksum); got != 1514 {
		t.Errorf("without segmentation: %d, want 1514", got)
	}
	if got := link.FrameSize(1500, link.Checksum|link.USO4); got != link.MaxSuperFrame {
		t.Errorf("with segmentation: %d, want %d", got, link.MaxSuperFrame)
	}
}

func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations can't be counted under the race detector")
	}
	super := flow4.Super(flow4.TCP(1, linktest.ACK, random(60000)), 1448)
	super.Data = linktest.Scatter(super.Data[0], 1000)
	partial := flow6.Partial(flow6.UDP(random(1000)))
	segment := plain(flow6.TCP(1, linktest.ACK, random(1000)))
	var s link.Scratch
	emit := func(link.Frame) error { return nil }
	for name, f := range map[string]func(){
		"Split":          func() { link.Split(&super, &s, emit) },
		"Complete":       func() { partial.Complete(&s) },
		"Check":          func() { super.Check(1500, link.Checksum|link.TSO4) },
		"VerifyChecksum": func() { link.VerifyChecksum(segment) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v heap allocations, want 0", name, n)
		}
	}
}

func TestCarrier(t *testing.T) {
	var c link.Carrier
	var told []bool
	c.Set(true)
	c.Watch(func(up bool) { told = append(told, up) })
	c.Set(true)
	c.Set(false)
	if c.Up() {
		t.Error("up after Set(false)")
	}
	c.Watch(func(up bool) {
		told = append(told, up)
		if !up {
			c.Set(true) // from within: told afterwards
			told = append(told, false)
		}
	})
	c.Close()
	c.Set(false)
	c.Watch(func(up bool) { t.Error("told after Close") })
	if want := []bool{true, false, false, false, true}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func FuzzFrameCheck(f *testing.F) {
	for _, c := range headersCases() {
		f.Add(c.frame, uint8(0), uint16(1), uint16(54), uint16(34), uint16(16), uint8(5))
	}
	f.Add(flow4.TCP(1, linktest.ACK, random(200)), uint8(1), uint16(100), uint16(54), uint16(34), uint16(16), uint8(200))
	f.Add(flow6.TCP(1, linktest.ACK, random(200)), uint8(2), uint16(100), uint16(74), uint16(54), uint16(16), uint8(7))
	f.Add(flow6.UDP(random(200)), uint8(3), uint16(100), uint16(62), uint16(54), uint16(6), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, segment uint8, size, headerLen, start, offset uint16, piece uint8) {
		frame := link.Frame{Data: linktest.Scatter(data, int(piece)+1), Offload: link.Offload{
			NeedsChecksum: segment&0x80 == 0, Segment: link.Segmentation(segment & 7), SegmentSize: size,
			HeaderLen: headerLen, ChecksumStart: start, ChecksumOffset: offset,
		}}
		link.VerifyChecksum(&frame)
		err := frame.Check(1500, 0xff)
		if err != nil && !errors.Is(err, link.ErrFrame) {
			t.Errorf("Check: %v, which isn't ErrFrame", err)
		}
		if err == nil {
			checkAccepted(t, &frame)
		}
	})
}

// checkAccepted: what Check lets through, Split makes frames of that need nothing more.
func checkAccepted(t *testing.T, f *link.Frame) {
	rest := f.Len()
	if f.Offload.Segment != link.NoSegmentation {
		rest -= int(f.Offload.HeaderLen)
	}
	err := link.Split(f, new(link.Scratch), func(s link.Frame) error {
		if err := s.Check(1500, 0); err != nil {
			t.Errorf("a segment: %v", err)
		}
		if f.Offload.Segment == link.NoSegmentation {
			rest -= s.Len()
			return nil
		}
		rest -= s.Len() - int(f.Offload.HeaderLen)
		if !link.VerifyChecksum(&s) {
			t.Error("a segment has a wrong checksum")
		}
		return nil
	})
	if err != nil || rest != 0 {
		t.Errorf("Split: %v, and %d bytes missing", err, rest)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(uint8(0), uint16(3000), uint16(1000), uint8(1))
	f.Add(uint8(1), uint16(65000), uint16(1448), uint8(255))
	f.Add(uint8(2), uint16(1), uint16(1), uint8(0))
	f.Add(uint8(3), uint16(2000), uint16(1), uint8(9))
	f.Fuzz(func(t *testing.T, kind uint8, total, size uint16, piece uint8) {
		flow := flow4
		if kind&1 != 0 {
			flow = flow6
		}
		payload := random(min(int(total), 65400))
		b, want := flow.TCP(1, linktest.ACK, payload), wantTCP
		if kind&2 != 0 {
			b = flow.UDP(payload)
			want = func(flow linktest.Flow, _ uint32, _ uint8, payload []byte, size int) [][]byte {
				return wantUDP(flow, payload, size)
			}
		}
		if size == 0 || total == 0 || total/size > 2000 {
			return
		}
		checkSplit(t, flow.Super(b, int(size)), int(piece)+1, want(flow, 1, linktest.ACK, payload, int(size)))
	})
}

func BenchmarkVerifyChecksum(b *testing.B) {
	for _, n := range []int{64, 1460, 65000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := plain(flow4.TCP(1, linktest.ACK, random(n)))
			b.SetBytes(int64(n))
			for b.Loop() {
				link.VerifyChecksum(f)
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	f := flow4.Super(flow4.TCP(1, linktest.ACK, random(65000)), 1448)
	var s link.Scratch
	b.SetBytes(65000)
	for b.Loop() {
		link.Split(&f, &s, func(link.Frame) error { return nil })
	}
}

func BenchmarkCheckSuper(b *testing.B) {
	f := flow4.Super(flow4.TCP(1, linktest.ACK, random(65000)), 1448)
	for b.Loop() {
		f.Check(1500, 0xff)
	}
}
