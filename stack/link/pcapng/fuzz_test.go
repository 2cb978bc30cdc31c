package pcapng_test

import (
	"slices"
	"testing"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// FuzzFrames: any frame keeps its length, its line ends and its headers; what changes
// becomes an asterisk, and the checksum remains as right as it was.
func FuzzFrames(f *testing.F) {
	for _, flow := range families {
		f.Add(flow.TCP(1, linktest.SYN, nil), flow.TCP(2, linktest.ACK, []byte("AUTH PLAIN\r\n")), flow.TCP(14, linktest.ACK, secretLine))
		f.Add(flow.Echo(flow.TCP(1, linktest.ACK, secretLine)[14:]), flow.UDP(nil), []byte{})
	}
	fragment := flow4.TCP(1, linktest.ACK, secretLine)
	fragment[20] = 0x20
	f.Add(fragment, fragment[:50], fragment[:33])
	f.Fuzz(func(t *testing.T, a, b, d []byte) {
		c := newCapture(t, pcapng.Config{})
		frames := [][]byte{a, b, d, a}
		for _, b := range frames {
			c.Record(pcapng.Inbound, plain(b), "")
		}
		for i, r := range c.records(t) {
			checkBlanked(t, frames[i], &r)
		}
	})
}

func checkBlanked(t *testing.T, b []byte, r *record) {
	t.Helper()
	if len(r.data) != min(len(b), link.MaxSuperFrame) {
		t.Fatalf("%d bytes are captured as %d", len(b), len(r.data))
	}
	changed, other := 0, 0
	for i, c := range r.data {
		switch {
		case c == b[i]:
		case c == '*' && b[i] != '\r' && b[i] != '\n':
			changed++
		default:
			other++
		}
	}
	if other > 2 {
		t.Errorf("%x\nis captured as\n%x", b, r.data)
	}
	if changed+other > 0 && len(r.options.Comments) == 0 {
		t.Error("blanked without a comment")
	}
	f := plain(b)
	if h, ok := f.Headers(); ok && !h.Fragment && verifies(b) != verifies(r.data) {
		t.Errorf("checksum right before: %v, and after: %v", verifies(b), verifies(r.data))
	}
}

// FuzzSession plays a session in segments of random sizes, some of them again, late,
// or not at all. Nothing secret may show; and with all in order everything else is
// exact.
func FuzzSession(f *testing.F) {
	names := make([]string, 0, len(sessions))
	for name, s := range sessions {
		if !slices.ContainsFunc(s, func(turn string) bool { _, turns := session{turn}.turns(); return isAmbiguous(&turns[0].packet) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i := range names {
		f.Add(uint8(i), true, []byte{})
		f.Add(uint8(i), false, []byte{0x03, 0x11, 0x05, 0x20, 0x08})
		f.Add(uint8(i), true, []byte{0x01, 0x41, 0x82, 0xc3, 0x04, 0x45})
	}
	// A refusal out of order, and then credentials that are cut or out of order, too.
	refused := uint8(slices.Index(names, "after DATA refused"))
	f.Add(refused, true, []byte("0000\x85A0A"))
	f.Add(refused, false, []byte("0000\x8a0\x8a"))
	f.Fuzz(func(t *testing.T, which uint8, v6 bool, plan []byte) {
		flow := flow4
		if v6 {
			flow = flow6
		}
		p := planner{plan: plan}
		packets := whole(sessions[names[int(which)%len(names)]]).deliver(p.send)
		if p.disorder {
			checkSecret(t, flow, packets)
		} else {
			check(t, flow, packets)
		}
	})
}

// planner cuts and shuffles turns as the bytes of a plan say: six bits for a size,
// two for what happens to the segment.
type planner struct {
	plan     []byte
	sent     []packet
	disorder bool
}

func (p *planner) send(_ int, turn packet) (packets []packet) {
	var late []packet
	for from := 0; from < len(turn.payload); {
		size, fate := len(turn.payload)-from, byte(0)
		if len(p.plan) > 0 {
			size, fate = min(size, 1+int(p.plan[0]&0x3f)), p.plan[0]>>6
			p.plan = p.plan[1:]
		}
		part := turn.part(from, from+size)
		from += size
		switch fate {
		case 1: // again, with the one before
			packets = append(packets, part, part)
			if len(p.sent) > 0 {
				packets = append(packets, p.sent[len(p.sent)-1])
			}
		case 2: // late
			late = append(late, part)
			p.disorder = true
		case 3: // not before the turn's end, and the rest of it neither
			packets = append(packets, turn.part(from-size, len(turn.payload)))
			from = len(turn.payload)
		default:
			packets = append(packets, part)
		}
		p.sent = append(p.sent, part)
	}
	return append(packets, late...)
}
