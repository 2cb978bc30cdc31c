package pcapng_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// play captures the turns of a session as they are, without the segments that open
// the connection if joined late, and checks them.
func play(t *testing.T, s session, late bool) {
	t.Helper()
	for family, flow := range families {
		t.Run(family, func(t *testing.T) {
			packets, turns := s.turns()
			if late {
				packets = nil
			}
			for _, turn := range turns {
				packets = append(packets, turn.packet)
			}
			check(t, flow, packets)
		})
	}
}

// TestConnectionsJoinedLate: connections that were open before the capture.
func TestConnectionsJoinedLate(t *testing.T) {
	for name, s := range sessions {
		t.Run(name, func(t *testing.T) { play(t, slices.Concat(s, mail, quit), true) })
		t.Run(name+", server first", func(t *testing.T) { play(t, whole(s), true) })
	}
}

// TestLateAnswer: the server gives up while the client's answer is on its way.
func TestLateAnswer(t *testing.T) {
	s := slices.Concat(greeting, session{"C:AUTH PLAIN\r\n", "S:334 \r\n", "S:421 too slow\r\n", "C:«" + plainBase64 + "»\r\n", "C:QUIT\r\n"})
	packets := s.deliver(asOne)
	gaveUp, answer := &packets[len(packets)-3], &packets[len(packets)-2]
	answer.ack -= uint32(len(gaveUp.payload))
	for _, n := range []int{1, 1000} {
		last := len(packets) - 2
		check(t, flow4, slices.Concat(packets[:last], pieces(*answer, n), pieces(packets[last+1], n)))
	}
}

// TestAcknowledgmentsMissing: a harness that makes frames by hand may not bother.
func TestAcknowledgmentsMissing(t *testing.T) {
	for name, s := range sessions {
		t.Run(name, func(t *testing.T) {
			packets := whole(s).deliver(asOne)
			for i := range packets {
				packets[i].ack = meaningless
			}
			check(t, flow4, packets)
		})
	}
}

// tlsRecord begins a TLS handshake, and goes on with what would be a command.
const tlsRecord = "\x16\x03\x01\x02\x00\x01\r\nAUTH PLAIN visible\r\n"

// TestNotSMTP: what isn't SMTP in clear is exact, also out of order.
func TestNotSMTP(t *testing.T) {
	for name, s := range map[string]session{
		"STARTTLS":            slices.Concat(greeting, session{"C:STARTTLS\r\n", "S:220 go\r\n", "C:" + tlsRecord, "S:\x16\x03\x03", "C:\r\nAUTH PLAIN visible\r\n"}),
		"server's TLS first":  slices.Concat(greeting, session{"C:STARTTLS\r\n", "S:220 go\r\n", "S:" + tlsRecord, "C:\r\nAUTH PLAIN visible\r\n"}),
		"TLS":                 {"C:" + tlsRecord, "S:\x16\x03\x03", "C:\r\nAUTH PLAIN visible\r\n"},
		"TLS instead of AUTH": slices.Concat(greeting, session{"C:AUTH PLAIN\r\n", "C:" + tlsRecord}),
		"HTTP":                {"C:POST / HTTP/1.1\r\n\r\n", "S:HTTP/1.1 100 go on\r\n\r\n", "C:AUTH PLAIN visible\r\nAUTH x y\r\n"},
		"POP3":                {"S:+OK hello\r\n", "C:RETR 1\r\n", "S:+OK\r\n\r\nAUTH PLAIN visible\r\n.\r\n"},
		"server says AUTH":    slices.Concat(greeting, session{"C:NOOP\r\n", "S:AUTH PLAIN visible\r\nvisible\r\n250 ok\r\n"}),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, s, false)
			packets := s.deliver(asOne)
			last := packets[len(packets)-1]
			if name == "TLS instead of AUTH" {
				return // out of order it is in doubt
			}
			half := len(last.payload) / 2
			check(t, flow4, append(packets[:len(packets)-1], last.part(half, len(last.payload)), last.part(0, half)))
		})
	}
}

// TestBulkOutOfOrder: a transfer that isn't SMTP is exact, with gaps in it.
func TestBulkOutOfOrder(t *testing.T) {
	packets, turns := session{"C:" + string(make([]byte, 5000))}.turns()
	parts := pieces(turns[0].packet, 1000)
	parts[1], parts[3] = parts[3], parts[1]
	check(t, flow4, append(packets, parts...))
}

// TestChunksOutOfOrder: chunks are exact with gaps in them, and what follows is read.
func TestChunksOutOfOrder(t *testing.T) {
	chunk := "AUTH PLAIN text\r\n.\r\n"
	command := fmt.Sprintf("BDAT %d LAST\r\n", len(chunk))
	s := slices.Concat(greeting, session{"C:" + command + chunk, "S:250 ok\r\n"}, sessions["LOGIN"], mail)
	for from := len(command); from < len(command)+len(chunk)-1; from++ {
		check(t, flow4, s.deliver(func(_ int, p packet) []packet {
			if !bytes.HasPrefix(p.payload, []byte("BDAT")) {
				return []packet{p}
			}
			return []packet{p.part(0, from), p.part(from+1, len(p.payload)), p.part(from, from+1)}
		}))
	}
	s[3] = "C:BDAT 99999999999999999999999999999 LAST\r\n" + chunk
	check(t, flow4, s[:4].deliver(asOne))
}

// TestManyConnections: they don't get into each other's way, nor into those of
// another interface.
func TestManyConnections(t *testing.T) {
	s := whole(sessions["LOGIN"])
	packets := s.deliver(asOne)
	c := newCapture(t, pcapng.Config{})
	other := c.w.Interface("other")
	flows := []linktest.Flow{flow4, flow6}
	for i := range uint16(20) {
		flow := flow4
		flow.Src = netip.AddrPortFrom(flow.Src.Addr(), 2000+i)
		flows = append(flows, flow, flow6)
		flow6 := flow6
		flow6.Src = netip.AddrPortFrom(flow6.Src.Addr(), 2000+i)
		flows[len(flows)-1] = flow6
	}
	for i := range packets {
		for _, flow := range flows {
			c.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
			other.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
		}
	}
	for i, r := range c.records(t) {
		p := packets[i/2/len(flows)]
		p.check(t, flows[i/2%len(flows)], &r)
	}
	checkCanary(t, c.file.Bytes())
}

// TestTableOverflow: more connections than are followed.
func TestTableOverflow(t *testing.T) {
	// port makes the i-th connection.
	port := func(i int) linktest.Flow {
		flow := flow4
		flow.Src = netip.AddrPortFrom(flow.Src.Addr(), uint16(1000+i))
		return flow
	}
	record := func(t *testing.T, c *capture, flow linktest.Flow, packets []packet) {
		for i := range packets {
			c.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
		}
	}
	s := whole(sessions["LOGIN"])
	packets := s.deliver(asOne)
	const answer = 8 // of the packets: the user's name
	if !bytes.HasPrefix(packets[answer-1].payload, []byte("334")) {
		t.Fatalf("%q is no challenge", packets[answer-1].payload)
	}
	t.Run("idle ones go first", func(t *testing.T) {
		c := newCapture(t, pcapng.Config{})
		c.w.SetMaxFlows(5)
		record(t, c, port(0), packets[:answer])
		for i := range 50 {
			record(t, c, port(1+i), packets[:3])
		}
		record(t, c, port(0), packets[answer:])
		records := c.records(t)
		records = slices.Delete(records, answer, answer+150)
		for i := range packets {
			packets[i].check(t, port(0), &records[i])
		}
	})
	t.Run("all in an exchange", func(t *testing.T) {
		c := newCapture(t, pcapng.Config{})
		c.w.SetMaxFlows(5)
		for i := range 20 {
			record(t, c, port(i), packets[:answer])
		}
		for i := range 20 {
			record(t, c, port(i), packets[answer:answer+4])
		}
		for i, r := range c.records(t)[20*answer:] {
			p := packets[answer+i%4]
			if secret, _ := p.visible(r.data[headersLen(flow4):]); secret {
				t.Errorf("%q shows", r.data[headersLen(flow4):])
			}
			if p.server && !bytes.Equal(r.data[headersLen(flow4):], p.payload) {
				t.Errorf("a reply is captured as %q", r.data[headersLen(flow4):])
			}
		}
		checkCanary(t, c.file.Bytes())
	})
}

// TestConnectionAnew: the same addresses and ports once more.
func TestConnectionAnew(t *testing.T) {
	first := whole(sessions["LOGIN"]).deliver(asOne)
	again := whole(sessions["two steps"]).deliver(asOne)
	for i := range again {
		again[i].seq += 1 << 30
		again[i].ack += 1 << 30
	}
	command, reply := first[4], first[5] // retransmitted in the next connection
	command.want = stars(command.payload)
	check(t, flow6, slices.Concat(first[:9], again[:3], []packet{command, reply, first[8]}, again[3:]))

	// A SYN once more changes nothing.
	check(t, flow6, slices.Concat(first[:12], first[:2], first[12:]))
}

// damage flips a bit of a frame, and leaves its checksum.
func damage(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 0x01
	return b
}

// TestDamaged: segments with a wrong checksum show no credentials and change
// nothing, wherever the bit is.
func TestDamaged(t *testing.T) {
	for name, flow := range families {
		t.Run(name, func(t *testing.T) {
			packets := whole(sessions["LOGIN"]).deliver(asOne)
			for which := range packets {
				size := len(packets[which].payload)
				for at := 14; at < headersLen(flow)+size; at++ {
					if at == 14 || at == 20 && flow == flow6 || at == 23 && flow == flow4 {
						continue // IP version and protocol: it isn't TCP any more
					}
					testDamaged(t, flow, packets, which, at)
				}
			}
		})
	}
}

func testDamaged(t *testing.T, flow linktest.Flow, packets []packet, which, at int) {
	c := newCapture(t, pcapng.Config{})
	var broken []byte
	for i := range packets {
		if i == which {
			broken = damage(packets[i].frame(flow), at)
			c.Record(pcapng.Outbound, plain(broken), "")
		}
		c.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
	}
	records := c.records(t)
	got := records[which].data
	p := &packets[which]
	n := headersLen(flow)
	if secret, _ := p.visible(got[n:]); secret {
		t.Fatalf("with bit %d flipped, %q shows in %q", at*8, p.payload, got[n:])
	}
	if isMessage(p) && at >= n && !bytes.Equal(got, broken) {
		t.Fatalf("with bit %d flipped, a message is captured as %q", at*8, got[n:])
	}
	if verifies(got) != verifies(broken) {
		t.Fatalf("with bit %d flipped, the checksum is right: %v", at*8, verifies(got))
	}
	for i, r := range slices.Delete(records, which, which+1) {
		packets[i].check(t, flow, &r)
	}
	checkCanary(t, c.file.Bytes())
}

// blanked captures a frame alone and returns the record, which has to differ, with a
// comment.
func blanked(t *testing.T, b []byte) record {
	t.Helper()
	c := newCapture(t, pcapng.Config{})
	before := slices.Clone(b)
	c.Record(pcapng.Inbound, plain(b), "")
	if !bytes.Equal(b, before) {
		t.Error("the capture has changed the frame")
	}
	r := c.records(t)[0]
	checkCanary(t, c.file.Bytes())
	if bytes.Equal(r.data, b) || len(r.options.Comments) != 1 {
		t.Errorf("captured as %q with comments %q", r.data, r.options.Comments)
	}
	return r
}

var secretLine = []byte("QUIT " + canaryBase64 + "\r\n" + canary + "\r\n")

// TestFragments: TCP in fragments is blanked up to its headers.
func TestFragments(t *testing.T) {
	frame4 := flow4.TCP(1, linktest.ACK, secretLine)
	for offset, header := range map[uint16]int{0: headersLen(flow4), 100: 34} {
		b := slices.Clone(frame4)
		binary.BigEndian.PutUint16(b[20:], 0x2000|offset)
		if got := blanked(t, b).data; !bytes.Equal(got, append(b[:header:header], stars(b[header:])...)) {
			t.Errorf("IPv4, offset %d: %q", offset, got)
		}
	}
	frame6 := flow6.TCP(1, linktest.ACK, secretLine)
	for offset, header := range map[uint16]int{0: headersLen(flow6) + 8, 100: 54 + 8} {
		b := slices.Concat(frame6[:54], []byte{6, 0, 0, 0, 1, 2, 3, 4}, frame6[54:])
		b[20] = 44
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
		binary.BigEndian.PutUint16(b[56:], offset<<3|1)
		if got := blanked(t, b).data; !bytes.Equal(got, append(b[:header:header], stars(b[header:])...)) {
			t.Errorf("IPv6, offset %d: %q", offset, got)
		}
	}
}

// TestMalformed: IP packets that contradict themselves are blanked, unless they say
// that they aren't TCP.
func TestMalformed(t *testing.T) {
	for name, flow := range families {
		tcp, udp := flow.TCP(1, linktest.ACK, secretLine), flow.UDP(secretLine)
		n := headersLen(flow)
		cut := tcp[:len(tcp)-1]
		if got := blanked(t, cut).data; !bytes.Equal(got, append(cut[:n:n], stars(cut[n:])...)) {
			t.Errorf("%s, cut short: %q", name, got)
		}
		header := slices.Clone(tcp)
		header[n-8] = 0x10 // a TCP header of four bytes
		if got := blanked(t, header).data; !bytes.Equal(got[:n], header[:n]) {
			t.Errorf("%s, bad TCP header: %q", name, got)
		}
		c := newCapture(t, pcapng.Config{})
		c.Record(pcapng.Inbound, plain(udp[:len(udp)-1]), "")
		if got := c.records(t)[0]; !bytes.Equal(got.data, udp[:len(udp)-1]) {
			t.Errorf("%s, UDP: %q", name, got.data)
		}
	}
}

// TestQuoted: ICMP errors quote segments that show credentials.
func TestQuoted(t *testing.T) {
	echo4 := flow4.Reverse().Echo(flow4.TCP(1, linktest.ACK, secretLine)[14:])
	echo6 := flow6.Reverse().Echo(flow6.TCP(1, linktest.ACK, secretLine)[14:])
	behind6 := slices.Clone(flow6.TCP(1, linktest.ACK, secretLine)[14:])
	behind6[6] = 60 // destination options
	fragment4 := slices.Clone(flow4.TCP(1, linktest.ACK, secretLine)[14:])
	fragment4[7] = 8
	for name, c := range map[string]struct {
		frame    []byte
		icmpType byte
		keep     int
	}{
		"unreachable":         {echo4, 3, 42 + 40},
		"time exceeded":       {echo4, 11, 42 + 40},
		"fragment":            {flow4.Reverse().Echo(fragment4), 3, 42 + 20},
		"packet too big":      {echo6, 2, 62 + 60},
		"parameter problem":   {echo6, 4, 62 + 60},
		"behind other header": {flow6.Reverse().Echo(behind6), 1, 62 + 40},
	} {
		b := retype(c.frame, c.icmpType)
		if !verifies(b) {
			t.Fatalf("%s: the test's frame has a wrong checksum", name)
		}
		got := blanked(t, b).data
		if !bytes.Equal(got[c.keep:], stars(b[c.keep:])) || !verifies(got) {
			t.Errorf("%s: %q, checksum right: %v", name, got[c.keep:], verifies(got))
		}
	}
	for name, b := range map[string][]byte{
		"echo":       echo4,
		"UDP":        retype(flow4.Reverse().Echo(flow4.UDP(secretLine)[14:]), 3),
		"UDP6":       retype(flow6.Reverse().Echo(flow6.UDP(secretLine)[14:]), 1),
		"nothing":    retype(flow4.Echo(nil), 3),
		"few bytes":  retype(flow4.Echo([]byte{0x45}), 3),
		"only a TCP": retype(flow4.Echo(flow4.TCP(1, 0, nil)[14:42]), 3),
	} {
		c := newCapture(t, pcapng.Config{})
		c.Record(pcapng.Inbound, plain(b), "")
		if r := c.records(t)[0]; !bytes.Equal(r.data, b) || len(r.options.Comments) != 0 {
			t.Errorf("%s: %q, %q", name, r.data, r.options.Comments)
		}
	}
}

// retype makes an echo request another ICMP message.
func retype(echo []byte, icmpType byte) []byte {
	b := slices.Clone(echo)
	at := 34
	if b[12] == 0x86 {
		at = 54
	}
	delta := int(icmpType) - int(b[at])
	b[at] = icmpType
	sum := int(^binary.BigEndian.Uint16(b[at+2:])) + delta<<8
	for sum < 0 {
		sum += 0xffff
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[at+2:], ^uint16(sum))
	return b
}

// TestVLAN: credentials behind VLAN tags.
func TestVLAN(t *testing.T) {
	line := []byte("AUTH PLAIN " + plainBase64 + "\r\n")
	b := flow6.TCP(1, linktest.ACK, line)
	b = slices.Concat(b[:12], []byte{0x88, 0xa8, 0, 1, 0x81, 0, 0, 2}, b[12:])
	got := blanked(t, b).data
	if want := "AUTH PLAIN " + string(stars([]byte(plainBase64))) + "\r\n"; string(got[headersLen(flow6)+8:]) != want || !verifies(got) {
		t.Errorf("%q", got)
	}
}

// TestOtherFrames: what isn't TCP is exact, canary or not.
func TestOtherFrames(t *testing.T) {
	line := []byte("AUTH PLAIN x\r\n")
	for name, b := range map[string][]byte{
		"UDP":     flow4.UDP(line),
		"echo":    flow6.Echo(line),
		"not IP":  slices.Concat(make([]byte, 12), []byte{0x88, 0xb5}, line),
		"nothing": {},
		"runt":    []byte("AUTH PLAIN"),
	} {
		c := newCapture(t, pcapng.Config{})
		c.Record(pcapng.Inbound, plain(b), "")
		if r := c.records(t)[0]; !bytes.Equal(r.data, b) || len(r.options.Comments) != 0 {
			t.Errorf("%s: %q, %q", name, r.data, r.options.Comments)
		}
	}
}

// TestChecksumZero: the checksum after blanking is the one that a sender computes,
// also where that is 0, of which there are two in one's complement.
func TestChecksumZero(t *testing.T) {
	payload, blanked := mark("AUTH PLAIN «" + plainBase64 + "»\r\n")
	zeros := 0
	for seq := range uint32(1 << 16) {
		want := flow4.TCP(seq, linktest.ACK, blanked)
		if want[50] != 0 || want[51] != 0 {
			continue
		}
		zeros++
		c := newCapture(t, pcapng.Config{})
		c.Record(pcapng.Outbound, plain(flow4.TCP(seq, linktest.ACK, payload)), "")
		if got := c.records(t)[0].data; !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	}
	if zeros == 0 {
		t.Error("no segment with a checksum of 0")
	}
}
