package pcapng_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// A session is a script of turns, in order. C is the client and S the server; what
// is secret is in angle quotes.
type session []string

// The canary and its traces: none of them may be in a capture.
const (
	canary       = "canary-2Gm#9"
	canaryBase64 = "Y2FuYXJ5LTJHbSM5"
	plainBase64  = "AGFsaWNlAGNhbmFyeS0yR20jOQ=="
	aliceBase64  = "YWxpY2U="
)

const body = "Subject: x\r\n\r\nAUTH PLAIN this is text\r\nauth login\r\n.. dots\r\n.\n\r\n. \r\n.\r.\r\n..\r\n334 5\r\nDATA\r\n\r\n.\r\n"

var (
	greeting = session{"S:220 mx ESMTP\r\n", "C:EHLO me.example\r\n", "S:250-mx\r\n250-AUTH PLAIN LOGIN\r\n250 PIPELINING\r\n"}
	mail     = session{"C:MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n", "S:250 ok\r\n250 ok\r\n354 go\r\n", "C:" + body, "S:250 queued\r\n"}
	quit     = session{"C:QUIT\r\n", "S:221 bye\r\n"}
)

var sessions = map[string]session{
	"initial response": {"C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:235 welcome\r\n"},
	"two steps":        {"C:AUTH PLAIN\r\n", "S:334 \r\n", "C:«" + plainBase64 + "»\r\n", "S:235 2.7.0 welcome\r\n"},
	"LOGIN": {"C:AUTH LOGIN\r\n", "S:334 VXNlcm5hbWU6\r\n", "C:«" + aliceBase64 + "»\r\n", "S:334 UGFzc3dvcmQ6\r\n",
		"C:«" + canaryBase64 + "»\r\n", "S:235 welcome\r\n"},
	"cancelled": {"C:AUTH LOGIN\r\n", "S:334 VXNlcm5hbWU6\r\n", "C:«" + aliceBase64 + "»\r\n", "S:334 UGFzc3dvcmQ6\r\n",
		"C:*\r\n", "S:501 cancelled\r\n"},
	"failed, then retried": {"C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:535-no\r\n535 really not\r\n", "C:AUTH LOGIN\r\n", "S:334 VXNlcm5hbWU6\r\n",
		"C:«" + aliceBase64 + "»\r\n", "S:334 UGFzc3dvcmQ6\r\n", "C:«" + canaryBase64 + "»\r\n", "S:235 welcome\r\n"},
	"temporary failure":       {"C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:454 later\r\n"},
	"refused mechanism":       {"C:AUTH PLAIN\r\n", "S:504 unknown\r\n"},
	"odd case and spaces":     {"C:aUtH  PlAiN   «" + plainBase64 + "»\r\n", "S:235 welcome\r\n"},
	"spaces within":           {"C:AUTH PLAIN «" + plainBase64 + " " + canary + "»\r\n", "S:501 what\r\n"},
	"no mechanism":            {"C:AUTH «=" + canaryBase64 + "»\r\n", "S:501 what\r\n"},
	"mechanism too long":      {"C:AUTH ABCDEFGHIJKLMNOPQRST«" + canaryBase64 + "»\r\n", "S:504 unknown\r\n"},
	"bare line feeds":         {"C:AUTH PLAIN\n", "S:334 \n", "C:«" + plainBase64 + "»\n", "S:235 welcome\n"},
	"space before code":       {"C:AUTH PLAIN\r\n", "S: 334 \r\n", "C:«" + plainBase64 + "»\r\n", "S: 235 welcome\r\n"},
	"command before, refused": {"C:VRFY x\r\nAUTH PLAIN\r\n", "S:502 no\r\n334 \r\n", "C:«" + plainBase64 + "»\r\n", "S:235 welcome\r\n"},
	"after a chunk": {"C:BDAT 14 LAST\r\nAUTH PLAIN x\r\nAUTH PLAIN «" + plainBase64 + "»\r\n", "S:503 what\r\n",
		"S:235 welcome\r\n"},
	"after empty chunks": {"C:BDAT 0\r\nBDAT 0 LAST\r\nAUTH PLAIN «" + plainBase64 + "»\r\n", "S:250 ok\r\n250 ok\r\n", "S:235 welcome\r\n"},
	"after DATA refused": {"C:DATA\r\n", "S:503 no recipients\r\n", "C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:235 welcome\r\n"},
	"with a message": {"C:DATA\r\n", "S:354 go\r\n", "C:" + body + "AUTH PLAIN «" + plainBase64 + "»\r\n", "S:250 queued\r\n",
		"S:235 welcome\r\n"},
	"recipient refused, DATA not": {"C:RCPT TO:<x>\r\nDATA\r\n", "S:550 no\r\n354 go\r\n", "C:" + body, "S:250 queued\r\n",
		"C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:235 welcome\r\n"},
	"many failures": slices.Repeat(session{"C:AUTH PLAIN «" + plainBase64 + "»\r\n", "S:535 no\r\n"}, 12),
	"SCRAM": {"C:AUTH SCRAM-SHA-256 «biws" + canaryBase64 + "»\r\n", "S:334 cj1meQ==\r\n", "C:«" + canaryBase64 + "»\r\n",
		"S:334 dj1y\r\n", "C:\r\n", "S:235 welcome\r\n"},
}

func whole(s session) session { return slices.Concat(greeting, s, mail, quit) }

// packet is a segment of a session, and what has to be left of it.
type packet struct {
	server   bool
	seq, ack uint32
	flags    uint8
	payload  []byte
	want     []byte // what may be captured
}

// turn is a turn of a session, with its place in the streams.
type turn struct{ packet }

// meaningless is an acknowledgment of what was never sent.
const meaningless = isn - 1000

// isn is where both streams begin: not far from where sequence numbers wrap around.
const isn = 1<<32 - 100

// turns lays out a session, behind the three segments that open it.
func (s session) turns() (open []packet, turns []turn) {
	next := [2]uint32{isn, isn + 7} // of the client and of the server
	open = []packet{
		{seq: next[0], flags: linktest.SYN},
		{server: true, seq: next[1], ack: next[0] + 1, flags: linktest.SYN | linktest.ACK},
		{seq: next[0] + 1, ack: next[1] + 1, flags: linktest.ACK},
	}
	next[0]++
	next[1]++
	for _, line := range s {
		server := strings.HasPrefix(line, "S:")
		payload, want := mark(line[2:])
		us, them := 0, 1
		if server {
			us, them = 1, 0
		}
		turns = append(turns, turn{packet{server, next[us], next[them], linktest.ACK | linktest.PSH, payload, want}})
		next[us] += uint32(len(payload))
	}
	return open, turns
}

// mark takes the quotes out of a turn, and returns it as sent and as captured.
func mark(text string) (payload, want []byte) {
	for text != "" {
		open, rest, found := strings.Cut(text, "«")
		payload, want = append(payload, open...), append(want, open...)
		if !found {
			break
		}
		secret, after, _ := strings.Cut(rest, "»")
		payload, want = append(payload, secret...), append(want, stars([]byte(secret))...)
		text = after
	}
	return payload, want
}

// part is the bytes of p from one to another, as a segment of their own.
func (p packet) part(from, to int) packet {
	p.seq += uint32(from)
	p.payload, p.want = p.payload[from:to], p.want[from:to]
	return p
}

// frame makes the frame of p.
func (p *packet) frame(flow linktest.Flow) []byte {
	if p.server {
		flow = flow.Reverse()
	}
	return tcp(flow, p.seq, p.ack, p.flags, p.payload)
}

// deliver turns a session into segments, with the function send for each turn.
func (s session) deliver(send func(i int, p packet) []packet) []packet {
	packets, turns := s.turns()
	for i, t := range turns {
		packets = append(packets, send(i, t.packet)...)
	}
	return packets
}

func asOne(_ int, p packet) []packet { return []packet{p} }

// check captures segments, and holds the capture to what they want.
func check(t *testing.T, flow linktest.Flow, packets []packet) {
	t.Helper()
	c := newCapture(t, pcapng.Config{})
	for i := range packets {
		p := &packets[i]
		dir := pcapng.Outbound
		if p.server {
			dir = pcapng.Inbound
		}
		c.Record(dir, plain(p.frame(flow)), "")
	}
	records := c.records(t)
	if len(records) != len(packets) {
		t.Fatalf("%d records of %d segments", len(records), len(packets))
	}
	for i := range packets {
		packets[i].check(t, flow, &records[i])
	}
	checkCanary(t, c.file.Bytes())
}

func (p *packet) check(t *testing.T, flow linktest.Flow, r *record) {
	t.Helper()
	q := *p
	q.payload = p.want
	if want := q.frame(flow); !bytes.Equal(r.data, want) {
		n := headersLen(flow)
		t.Fatalf("%q at %d\nis captured as %q,\n        want %q (headers equal: %v)", p.payload, p.seq-isn, r.data[n:], p.want,
			bytes.Equal(r.data[:n], want[:n]))
	}
	notice := !bytes.Equal(p.payload, p.want)
	if got := len(r.options.Comments) > 0; notice && !got {
		t.Fatalf("%q is captured without a comment", p.want)
	}
}

func checkCanary(t *testing.T, file []byte) {
	t.Helper()
	for _, trace := range []string{canary, canaryBase64, plainBase64, plainBase64[8:20], canaryBase64[:8]} {
		if bytes.Contains(file, []byte(trace)) {
			t.Fatalf("%q is in the capture", trace)
		}
	}
}

// forEach runs a test for all sessions in both families.
func forEach(t *testing.T, test func(t *testing.T, flow linktest.Flow, s session)) {
	for family, flow := range families {
		for name, s := range sessions {
			t.Run(family+"/"+name, func(t *testing.T) { test(t, flow, whole(s)) })
		}
	}
}

func TestCredentials(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		check(t, flow, s.deliver(asOne))
	})
}

// worthCutting is false for turns that are the same in another session.
func worthCutting(s session, i int) bool {
	own := i >= len(greeting) && i < len(s)-len(mail)-len(quit)
	return own && i < 15 || s[len(greeting)] == "C:AUTH LOGIN\r\n"
}

// TestCredentialsCut cuts one turn after the other in two, at every position.
func TestCredentialsCut(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		_, turns := s.turns()
		for i := range turns {
			for at := 1; worthCutting(s, i) && at < len(turns[i].payload); at++ {
				check(t, flow, s.deliver(func(j int, p packet) []packet {
					if i != j {
						return []packet{p}
					}
					return []packet{p.part(0, at), p.part(at, len(p.payload))}
				}))
			}
		}
	})
}

func pieces(p packet, n int) (parts []packet) {
	for from := 0; from < len(p.payload); from += n {
		parts = append(parts, p.part(from, min(from+n, len(p.payload))))
	}
	return parts
}

func TestCredentialsInPieces(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		for _, n := range []int{1, 2, 3, 7} {
			check(t, flow, s.deliver(func(_ int, p packet) []packet { return pieces(p, n) }))
		}
	})
}

// TestCredentialsRetransmitted sends each turn of the client again in other segments,
// and then all that it has sent.
func TestCredentialsRetransmitted(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		if len(s) > 30 {
			t.Skip("remembers no more than eight exchanges; see TestCredentialsForgotten")
		}
		for _, n := range []int{1, 2, 5, 11, 1000} {
			var sent packet
			again := s.deliver(func(_ int, p packet) []packet {
				packets := pieces(p, 9)
				if p.server {
					return append(packets, p)
				}
				if sent.payload == nil {
					sent = p
				} else {
					sent.payload = append(sent.payload, p.payload...)
					sent.want = append(sent.want, p.want...)
				}
				packets = append(packets, pieces(p, n)...)
				from := max(0, len(sent.payload)-200)
				return append(packets, pieces(sent.part(from, len(sent.payload)), n)...)
			})
			check(t, flow, again)
		}
	})
}

// TestCredentialsOverlapping sends segments that begin with bytes that have been sent.
func TestCredentialsOverlapping(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		for _, n := range []int{1, 4, 10} {
			check(t, flow, s.deliver(func(_ int, p packet) (packets []packet) {
				for from := 0; from < len(p.payload); from += n {
					packets = append(packets, p.part(max(0, from-3*n), min(from+n, len(p.payload))))
				}
				return packets
			}))
		}
	})
}

// TestCredentialsSuperFrame sends a whole exchange in one frame, as a client does
// that waits for nothing.
func TestCredentialsSuperFrame(t *testing.T) {
	for name, flow := range families {
		t.Run(name, func(t *testing.T) {
			payload, want := mark("EHLO x\r\nAUTH LOGIN\r\n«" + strings.Repeat(aliceBase64, 500) + "»\r\n«" + strings.Repeat(canaryBase64, 200) + "»\r\n")
			f := flow.Super(flow.TCP(1, linktest.ACK, payload), 100)
			f.Data = linktest.Scatter(f.Data[0], 77)
			before := linktest.Bytes(&f)
			c := newCapture(t, pcapng.Config{})
			c.Record(pcapng.Outbound, &f, "")
			if !bytes.Equal(linktest.Bytes(&f), before) {
				t.Error("the capture has changed the frame")
			}
			if got := c.records(t)[0].data; !bytes.Equal(got, flow.TCP(1, linktest.ACK, want)) {
				t.Errorf("captured as %q", got[headersLen(flow):])
			}
			checkCanary(t, c.file.Bytes())
		})
	}
}

// TestCredentialsForgotten: of more exchanges than are remembered, retransmissions
// are blanked whatever they are.
func TestCredentialsForgotten(t *testing.T) {
	s := whole(sessions["many failures"])
	_, turns := s.turns()
	packets := s.deliver(asOne)
	again := turns[3].packet // the first exchange
	if !bytes.HasPrefix(again.payload, []byte("AUTH")) {
		t.Fatalf("%q is no exchange", again.payload)
	}
	again.want = stars(again.payload)
	check(t, flow4, append(packets, again))
}

func TestSecretsLeft(t *testing.T) {
	c := newCapture(t, pcapng.Config{Secrets: true})
	packets := whole(sessions["LOGIN"]).deliver(asOne)
	for i := range packets {
		c.Record(pcapng.Outbound, plain(packets[i].frame(flow4)), "")
	}
	for i, r := range c.records(t) {
		if !bytes.Equal(r.data, packets[i].frame(flow4)) || len(r.options.Comments) != 0 {
			t.Errorf("record %d isn't the frame: %q %q", i, r.data, r.options.Comments)
		}
	}
	if !bytes.Contains(c.file.Bytes(), []byte(canaryBase64)) {
		t.Error("the canary isn't in the file; so the other tests may not look where it would be")
	}
}

// visible reports whether a capture of p shows what is secret, and whether it is
// exact.
func (p *packet) visible(payload []byte) (secret, exact bool) {
	for i := range payload {
		if p.want[i] != p.payload[i] && payload[i] == p.payload[i] {
			secret = true
		}
	}
	return secret, bytes.Equal(payload, p.want)
}

// isAmbiguous: p is a message with credentials behind it. Without its final dot, they
// are text; the documentation says so.
func isAmbiguous(p *packet) bool {
	return isMessage(p) && !bytes.Equal(p.payload, p.want)
}

func isMessage(p *packet) bool { return bytes.HasPrefix(p.payload, []byte("Subject:")) }

// TestCredentialsOutOfOrder swaps the two parts of each turn of the client. Nothing
// secret may show, and the message has to be exact.
func TestCredentialsOutOfOrder(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		_, turns := s.turns()
		for i := range turns {
			if isAmbiguous(&turns[i].packet) || !worthCutting(s, i) {
				continue
			}
			for at := 1; !turns[i].server && at < len(turns[i].payload); at++ {
				packets := s.deliver(func(j int, p packet) []packet {
					if i != j {
						return []packet{p}
					}
					return []packet{p.part(at, len(p.payload)), p.part(0, at)}
				})
				checkLoosely(t, flow, packets, turns[i].packet)
			}
		}
	})
}

// checkLoosely is check, but tolerates too much blanking in some turn of a session,
// if that isn't a message.
func checkLoosely(t *testing.T, flow linktest.Flow, packets []packet, where packet) {
	t.Helper()
	c := newCapture(t, pcapng.Config{})
	for i := range packets {
		c.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
	}
	for i, r := range c.records(t) {
		p := &packets[i]
		got := r.data[headersLen(flow):]
		secret, exact := p.visible(got)
		if secret {
			t.Fatalf("%q at %d shows in %q", p.payload, p.seq-isn, got)
		}
		within := !p.server && p.seq-where.seq < uint32(len(where.payload))
		if !exact && (!within || isMessage(p) || isMessage(&where)) {
			t.Fatalf("%q at %d is captured as %q, want %q\n(out of order: %q)", p.payload, p.seq-isn, got, p.want, where.payload)
		}
		if !verifies(r.data) {
			t.Fatalf("%q has a wrong checksum", got)
		}
	}
	checkCanary(t, c.file.Bytes())
}

// TestOutOfOrderWithoutAcknowledgments: frames made by hand, again.
func TestOutOfOrderWithoutAcknowledgments(t *testing.T) {
	s := whole(sessions["failed, then retried"])
	_, turns := s.turns()
	for i := range turns {
		packets := s.deliver(func(j int, p packet) []packet {
			p.ack = meaningless
			if i != j || p.server {
				return []packet{p}
			}
			return []packet{p.part(3, len(p.payload)), p.part(0, 3)}
		})
		checkLoosely(t, flow4, packets, turns[i].packet)
	}
}

// TestEndMissing leaves out the end of a turn of the client. The next turn may be
// blanked, unless it is a message; then everything is clear again.
func TestEndMissing(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		_, turns := s.turns()
		for i := range turns {
			if turns[i].server || isAmbiguous(&turns[i].packet) || !worthCutting(s, i) {
				continue
			}
			for at := range turns[i].payload {
				packets := s.deliver(func(j int, p packet) []packet {
					if i == j {
						p = p.part(0, at)
					}
					return []packet{p}
				})
				where := turns[i].packet
				for _, next := range turns[i+1:] {
					if !next.server {
						where.payload = slices.Concat(where.payload, next.payload)
						break
					}
				}
				checkLoosely(t, flow, packets, where)
			}
		}
	})
}

// TestStraySegment: a segment far ahead, of an old connection perhaps, does no lasting
// harm.
func TestStraySegment(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		_, turns := s.turns()
		for i := range turns {
			if turns[i].server || isAmbiguous(&turns[i].packet) {
				continue
			}
			packets := s.deliver(func(j int, p packet) []packet {
				if i != j {
					return []packet{p}
				}
				stray := p
				stray.seq += 1 << 20
				stray.payload = []byte("***\r\n")
				stray.want = stray.payload
				return []packet{stray, p}
			})
			checkLoosely(t, flow, packets, turns[i].packet)
		}
	})
}

// TestMissingComesLate: of an answer the middle and the end are missing, and come after
// the server's reply, or not at all.
func TestMissingComesLate(t *testing.T) {
	for _, comes := range []bool{true, false} {
		s := whole(sessions["LOGIN"])
		var late []packet
		check(t, flow6, s.deliver(func(_ int, p packet) []packet {
			switch {
			case bytes.HasPrefix(p.payload, []byte(canaryBase64)):
				late = pieces(p, 4)
				return []packet{late[0], late[2]}
			case bytes.HasPrefix(p.payload, []byte("235")) && comes:
				return append([]packet{p}, late...)
			}
			return []packet{p}
		}))
	}
}

// TestUnknownCommand: a message that was refused doesn't begin.
func TestUnknownCommand(t *testing.T) {
	s := slices.Concat(greeting, session{"C:DATA\r\n", "S:503 no recipients\r\n", "C:XFOO\r\nAUTH PLAIN «" + plainBase64 + "»\r\n"})
	check(t, flow6, s.deliver(asOne))
}

// TestChallengeMissing: the client knows a challenge that the capture hasn't seen. The
// reply to its answer isn't recognised then, and what follows blanked up to a message.
func TestChallengeMissing(t *testing.T) {
	s := whole(sessions["command before, refused"])
	var blanked packet
	packets := s.deliver(func(_ int, p packet) []packet {
		refusal := []byte("502 no\r\n")
		switch {
		case bytes.HasPrefix(p.payload, refusal):
			p = p.part(0, len(refusal))
		case bytes.HasPrefix(p.payload, []byte("MAIL")):
			blanked = p
		}
		return []packet{p}
	})
	checkLoosely(t, flow6, packets, blanked)
}

// TestCredentialsMissing leaves one part of a turn out: a capture that hasn't seen
// all of what the server got.
func TestCredentialsMissing(t *testing.T) {
	forEach(t, func(t *testing.T, flow linktest.Flow, s session) {
		_, turns := s.turns()
		for i := range turns {
			if isAmbiguous(&turns[i].packet) || !worthCutting(s, i) {
				continue
			}
			for at := 1; at < len(turns[i].payload)-1; at++ {
				packets := s.deliver(func(j int, p packet) []packet {
					if i != j {
						return []packet{p}
					}
					return []packet{p.part(0, at), p.part(at+1, len(p.payload))}
				})
				checkSecret(t, flow, packets)
			}
		}
	})
}

// checkSecret checks that nothing secret shows.
func checkSecret(t *testing.T, flow linktest.Flow, packets []packet) {
	t.Helper()
	c := newCapture(t, pcapng.Config{})
	for i := range packets {
		c.Record(pcapng.Outbound, plain(packets[i].frame(flow)), "")
	}
	for i, r := range c.records(t) {
		if secret, _ := packets[i].visible(r.data[headersLen(flow):]); secret {
			t.Fatalf("%q at %d shows in %q", packets[i].payload, packets[i].seq-isn, r.data[headersLen(flow):])
		}
		if !verifies(r.data) {
			t.Fatalf("%q has a wrong checksum", r.data)
		}
	}
	checkCanary(t, c.file.Bytes())
}
