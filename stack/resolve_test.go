package stack_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// nameServer answers questions to one address of an instance. answer returns the messages
// to send for one that came over "udp" or "tcp".
type nameServer struct {
	answer func(network string, q *dns.Msg) [][]byte

	mu        sync.Mutex
	questions []question
}

type question struct {
	network string
	from    net.Addr
	msg     *dns.Msg
}

func (s *nameServer) ask(network string, from net.Addr, b []byte) [][]byte {
	q := new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		panic(fmt.Sprintf("a bad question: %v", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.questions = append(s.questions, question{network, from, q})
	return s.answer(network, q)
}

func (s *nameServer) asked() []question {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.questions)
}

// serveNames starts a name server, which runs until ip is closed.
func serveNames(t *testing.T, ip *stack.Instance, addr netip.Addr, answer func(network string, q *dns.Msg) [][]byte) *nameServer {
	t.Helper()
	s := &nameServer{answer: answer}
	address := netip.AddrPortFrom(addr, 53).String()
	udp, err := ip.ListenPacket("udp", address)
	must(t, err)
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			for _, m := range s.ask("udp", from, b[:n]) {
				udp.WriteTo(m, from)
			}
		}
	}()
	if !ip.TCPEnabled() {
		return s
	}
	tcp, err := ip.Listen("tcp", address)
	must(t, err)
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *nameServer) serve(conn net.Conn) {
	defer conn.Close()
	wire := &dns.Conn{Conn: conn}
	b, err := wire.ReadMsgHeader(nil)
	if err != nil {
		return
	}
	for _, m := range s.ask("tcp", conn.RemoteAddr(), b) {
		wire.Write(m)
	}
}

// reply makes the answer to q of these records, in the format of zone files.
func reply(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// only1 is the answer of a server that sends one message.
func only1(f func(network string, q *dns.Msg) *dns.Msg) func(string, *dns.Msg) [][]byte {
	return func(network string, q *dns.Msg) [][]byte { return [][]byte{pack(f(network, q))} }
}

// zone answers from these records, as a resolver does: with the whole chain of aliases.
func zone(records ...string) func(string, *dns.Msg) [][]byte {
	return only1(func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		name, known := q.Question[0].Name, false
		for _, rr := range reply(q, records...).Answer {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			known = true
			if alias, ok := rr.(*dns.CNAME); ok {
				name = alias.Target
			}
			if t := rr.Header().Rrtype; t == dns.TypeCNAME || t == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if !known {
			m.Rcode = dns.RcodeNameError
		}
		return m
	})
}

func silence(string, *dns.Msg) [][]byte { return nil }

// resolvers are alice, who asks two servers of bob's. alice has IPv6 if s has.
func resolvers(t *testing.T, s services) (alice, bob *stack.Instance, servers [2]netip.Addr) {
	t.Helper()
	servers = [2]netip.Addr{bob4.Addr(), netip.MustParseAddr("192.0.2.3")}
	a, b, err := memlink.New(fullOffload)
	must(t, err)
	cfg := aliceOn(s, a)
	cfg.DNS = servers[:]
	alice = launch(t, s|withUDP, cfg)
	bob = launch(t, s|withUDP, stack.Config{Name: "bob", Link: b, HardwareAddr: bobMAC, Addresses: prefixes("192.0.2.2/24", "192.0.2.3/24")})
	return alice, bob, servers
}

var testZone = zone(
	"alias.example. 60 IN CNAME alias2.example.",
	"alias2.example. 60 IN CNAME mail.example.",
	"mail.example. 60 IN A 192.0.2.25",
	"mail.example. 60 IN A 192.0.2.26",
	"mail.example. 60 IN AAAA 2001:db8::25",
	"six.example. 60 IN AAAA 2001:db8::66",
	"text.example. 60 IN TXT hello",
)

func TestLookupHost(t *testing.T) {
	for _, c := range []struct {
		host string
		s    services
		want []string
	}{
		{"mail.example", withIPv6, []string{"192.0.2.25", "192.0.2.26", "2001:db8::25"}},
		{"mail.example", 0, []string{"192.0.2.25", "192.0.2.26"}},
		{"mail.example.", 0, []string{"192.0.2.25", "192.0.2.26"}},
		{"MAIL.Example", 0, []string{"192.0.2.25", "192.0.2.26"}},
		{"six.example", withIPv6, []string{"2001:db8::66"}},
		{"alias.example", withIPv6, []string{"192.0.2.25", "192.0.2.26", "2001:db8::25"}},
		{"192.0.2.9", 0, []string{"192.0.2.9"}},
		{"2001:db8::9", 0, []string{"2001:db8::9"}},
		{"fe80::9%eth0", 0, []string{"fe80::9%eth0"}},
		{"localhost", 0, []string{"127.0.0.1"}},
		{"LocalHost.", withIPv6, []string{"127.0.0.1", "::1"}},
	} {
		t.Run(fmt.Sprint(c.host, c.s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice, bob, servers := resolvers(t, c.s)
				serveNames(t, bob, servers[0], testZone)
				got, err := alice.LookupHost(t.Context(), c.host)
				if err != nil || !slices.Equal(got, c.want) {
					t.Errorf("LookupHost(%q) = %v, %v, want %v", c.host, got, err, c.want)
				}
			})
		})
	}
}

// TestLookupHostNotFound: there is no such name, or none with an address.
func TestLookupHostNotFound(t *testing.T) {
	for host, s := range map[string]services{"nobody.example": withIPv6, "text.example": withIPv6, "six.example": 0} {
		synctest.Test(t, func(t *testing.T) {
			alice, bob, servers := resolvers(t, s)
			asked := serveNames(t, bob, servers[0], testZone)
			_, err := alice.LookupHost(t.Context(), host)
			e := wantDNSError(t, err, host)
			if !e.IsNotFound || e.IsTimeout || e.IsTemporary || e.Err != "no such host" {
				t.Errorf("%s: %+v", host, e)
			}
			if n := len(asked.asked()); n > 2 {
				t.Errorf("%s: %d questions are asked for two types", host, n)
			}
		})
	}
}

func wantDNSError(t *testing.T, err error, host string) *net.DNSError {
	t.Helper()
	var e *net.DNSError
	if !errors.As(err, &e) {
		t.Fatalf("%s: error %v (%T), want a *net.DNSError", host, err, err)
	}
	if e.Name != host {
		t.Errorf("the error is about %q, and the question was about %q", e.Name, host)
	}
	return e
}

// TestLookupHostAsksTheNext server, whatever is the matter with the first. delay is what
// that costs.
func TestLookupHostAsksTheNext(t *testing.T) {
	refuse := func(rcode int) func(string, *dns.Msg) [][]byte {
		return only1(func(_ string, q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, rcode) })
	}
	for name, first := range map[string]struct {
		answer func(string, *dns.Msg) [][]byte
		delay  time.Duration
	}{
		"broken":          {refuse(dns.RcodeServerFailure), 0},
		"refusing":        {refuse(dns.RcodeRefused), 0},
		"not implemented": {refuse(dns.RcodeNotImplemented), 0},
		"silent":          {silence, 5 * time.Second},
		"not there":       {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice, bob, servers := resolvers(t, 0)
				if first.answer != nil {
					serveNames(t, bob, servers[0], first.answer)
				}
				serveNames(t, bob, servers[1], testZone)
				start := time.Now()
				got, err := alice.LookupHost(t.Context(), "mail.example")
				if err != nil || len(got) != 2 {
					t.Errorf("LookupHost: %v, %v", got, err)
				}
				if took := time.Since(start); took != first.delay {
					t.Errorf("it took %v, want %v", took, first.delay)
				}
			})
		})
	}
}

// TestLookupHostFails if no server answers: each is asked twice.
func TestLookupHostFails(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			alice, bob, servers := resolvers(t, 0)
			first, second := serveNames(t, bob, servers[0], silence), serveNames(t, bob, servers[1], silence)
			start := time.Now()
			_, err := alice.LookupHost(t.Context(), "mail.example")
			e := wantDNSError(t, err, "mail.example")
			if !e.IsTimeout || !e.IsTemporary || e.IsNotFound || e.Server != "192.0.2.3:53" {
				t.Errorf("the error is %+v", e)
			}
			if took := time.Since(start); took != 20*time.Second {
				t.Errorf("it took %v, want twice 5 s for each of two", took)
			}
			if len(first.asked()) != 2 || len(second.asked()) != 2 {
				t.Errorf("asked %d and %d times, want twice", len(first.asked()), len(second.asked()))
			}
		})
	})
	t.Run("broken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			alice, bob, servers := resolvers(t, withIPv6)
			for _, s := range servers {
				serveNames(t, bob, s, only1(func(_ string, q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) }))
			}
			_, err := alice.LookupHost(t.Context(), "mail.example")
			e := wantDNSError(t, err, "mail.example")
			if e.IsTimeout || !e.IsTemporary || e.IsNotFound || !strings.Contains(e.Err, "SERVFAIL") {
				t.Errorf("the error is %+v", e)
			}
		})
	})
	t.Run("not there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			alice, _, _ := resolvers(t, 0)
			_, err := alice.LookupHost(t.Context(), "mail.example")
			wantErr(t, "LookupHost", err, syscall.ECONNREFUSED)
			wantDNSError(t, err, "mail.example")
		})
	})
	t.Run("no route", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := aliceOn(0, newStation(t))
			cfg.DNS = addresses("198.51.100.53")
			_, err := launch(t, withUDP, cfg).LookupHost(t.Context(), "mail.example")
			wantErr(t, "LookupHost", err, syscall.ENETUNREACH, "mail.example")
		})
	})
}

// TestLookupHostIgnores messages that aren't the answer, and waits on for that.
func TestLookupHostIgnores(t *testing.T) {
	edit := func(f func(m *dns.Msg)) func(*dns.Msg) []byte {
		return func(q *dns.Msg) []byte {
			m := reply(q.Copy(), "mail.example. 60 IN A 203.0.113.66")
			f(m)
			return pack(m)
		}
	}
	for name, forge := range map[string]func(q *dns.Msg) []byte{
		"forged ID":        edit(func(m *dns.Msg) { m.Id++ }),
		"another question": edit(func(m *dns.Msg) { m.Question[0].Name = "evil.example." }),
		"another type":     edit(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }),
		"another class":    edit(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"two questions":    edit(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"no question":      edit(func(m *dns.Msg) { m.Question = nil }),
		"a question":       edit(func(m *dns.Msg) { m.Response = false }),
		"nothing":          func(*dns.Msg) []byte { return nil },
		"one byte":         func(*dns.Msg) []byte { return []byte{1} },
		"half a header":    func(q *dns.Msg) []byte { return pack(reply(q))[:11] },
		"half an answer": func(q *dns.Msg) []byte {
			b := pack(reply(q, "mail.example. 60 IN A 203.0.113.66"))
			return b[:len(b)-3]
		},
		"a name that never ends": func(q *dns.Msg) []byte {
			b := pack(reply(q, "mail.example. 60 IN A 203.0.113.66"))
			return append(b[:12], 0xc0, 12, 0, 1, 0, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice, bob, servers := resolvers(t, 0)
				serveNames(t, bob, servers[0], func(network string, q *dns.Msg) [][]byte {
					return append([][]byte{forge(q)}, testZone(network, q)...)
				})
				start := time.Now()
				got, err := alice.LookupHost(t.Context(), "mail.example")
				if want := []string{"192.0.2.25", "192.0.2.26"}; err != nil || !slices.Equal(got, want) {
					t.Errorf("LookupHost: %v, %v, want %v", got, err, want)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestLookupHostIgnoresStrangers: an answer that comes from elsewhere never arrives.
func TestLookupHostIgnoresStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, 0)
		stranger, err := bob.ListenPacket("udp", "192.0.2.3:53")
		must(t, err)
		otherPort, err := bob.ListenPacket("udp", "192.0.2.2:54")
		must(t, err)
		var s *nameServer
		s = serveNames(t, bob, servers[0], func(network string, q *dns.Msg) [][]byte {
			forged := pack(reply(q, "mail.example. 60 IN A 203.0.113.66"))
			for _, c := range []net.PacketConn{stranger, otherPort} {
				if _, err := c.WriteTo(forged, s.questions[len(s.questions)-1].from); err != nil {
					t.Error(err)
				}
			}
			return testZone(network, q)
		})
		got, err := alice.LookupHost(t.Context(), "mail.example")
		if want := []string{"192.0.2.25", "192.0.2.26"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("LookupHost: %v, %v, want %v", got, err, want)
		}
	})
}

// TestLookupHostTakesOnlyItsName out of an answer that has more in it.
func TestLookupHostTakesOnlyItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, withIPv6)
		serveNames(t, bob, servers[0], only1(func(_ string, q *dns.Msg) *dns.Msg {
			return reply(q, "other.example. 60 IN A 203.0.113.1", "loop.example. 60 IN CNAME loop.example.",
				"mail.example. 60 IN A 192.0.2.25", "mail.example. 60 IN AAAA 2001:db8::25", "mail.example. 60 IN CNAME end.example.",
				"end.example. 60 IN A 192.0.2.27")
		}))
		got, err := alice.LookupHost(t.Context(), "mail.example")
		if want := []string{"192.0.2.25", "192.0.2.27", "2001:db8::25"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("LookupHost: %v, %v, want %v", got, err, want)
		}
		_, err = alice.LookupHost(t.Context(), "loop.example")
		if e := wantDNSError(t, err, "loop.example"); !e.IsNotFound {
			t.Errorf("a name that is its own alias: %+v", e)
		}
	})
}

// TestLookupHostOverTCP when the answer doesn't fit into a datagram (RFC 7766).
func TestLookupHostOverTCP(t *testing.T) {
	var many []string
	for n := range 200 {
		many = append(many, fmt.Sprintf("many.example. 60 IN A 10.0.0.%d", n))
	}
	alice, bob, servers := resolvers(t, withTCP)
	s := serveNames(t, bob, servers[0], only1(func(network string, q *dns.Msg) *dns.Msg {
		m := reply(q, many...)
		if network == "udp" {
			m.Answer, m.Truncated = m.Answer[:1], true
		}
		return m
	}))
	got, err := alice.LookupHost(patient(t), "many.example")
	if err != nil || len(got) != 200 {
		t.Errorf("LookupHost: %d addresses, %v, want 200", len(got), err)
	}
	if q := s.asked(); len(q) != 2 || q[0].network != "udp" || q[1].network != "tcp" {
		t.Errorf("asked %+v", q)
	}
}

// TestLookupHostOverBadTCP: what TCP says there is no second try for, at that server.
func TestLookupHostOverBadTCP(t *testing.T) {
	for name, answer := range map[string]func(q *dns.Msg) [][]byte{
		"nothing":   func(*dns.Msg) [][]byte { return nil },
		"forged ID": func(q *dns.Msg) [][]byte { m := reply(q); m.Id++; return [][]byte{pack(m)} },
		"too short": func(q *dns.Msg) [][]byte { return [][]byte{{1, 2, 3}} },
		"garbage":   func(q *dns.Msg) [][]byte { return [][]byte{[]byte("220 mail.example ESMTP ready")} },
		"truncated": func(q *dns.Msg) [][]byte {
			m := reply(q)
			m.Truncated = true
			m.Rcode = dns.RcodeServerFailure
			return [][]byte{pack(m)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			alice, bob, servers := resolvers(t, withTCP)
			serveNames(t, bob, servers[0], func(network string, q *dns.Msg) [][]byte {
				if network == "tcp" {
					return answer(q)
				}
				m := reply(q)
				m.Truncated = true
				return [][]byte{pack(m)}
			})
			serveNames(t, bob, servers[1], testZone)
			got, err := alice.LookupHost(patient(t), "mail.example")
			if err != nil || len(got) != 2 {
				t.Errorf("LookupHost: %v, %v", got, err)
			}
		})
	}
}

// TestLookupHostOverSilentTCP: a server that doesn't take the connection, or says nothing
// on it, is given up after five seconds.
func TestLookupHostOverSilentTCP(t *testing.T) {
	for _, accepts := range []bool{true, false} {
		t.Run(fmt.Sprintf("accepts %v", accepts), func(t *testing.T) {
			clock := newFakeClock()
			waiting := make(chan struct{}, 100)
			a, b, err := memlink.New(fullOffload)
			must(t, err)
			cfg := aliceOn(0, &sieve{a, func(f *link.Frame) bool {
				if isSYN := isTCP(linktest.SYN)(linktest.Bytes(f)); isSYN && !accepts {
					waiting <- struct{}{}
					return true
				}
				return false
			}})
			cfg.DNS, cfg.Clock = addresses("192.0.2.2", "192.0.2.3"), clock
			alice := launch(t, withTCP|withUDP, cfg)
			bob := launch(t, withTCP|withUDP, stack.Config{Name: "bob", Link: b, Addresses: prefixes("192.0.2.2/24", "192.0.2.3/24"), Clock: clock})
			serveNames(t, bob, cfg.DNS[0], func(network string, q *dns.Msg) [][]byte {
				if network == "tcp" {
					waiting <- struct{}{}
					<-t.Context().Done()
					return nil
				}
				m := reply(q)
				m.Truncated = true
				return [][]byte{pack(m)}
			})
			serveNames(t, bob, cfg.DNS[1], testZone)
			looking := background(func() error { _, err := alice.LookupHost(t.Context(), "mail.example"); return err })
			receive(t, "the connection", waiting)
			clock.advance(5 * time.Second)
			must(t, receive(t, "LookupHost", looking))
		})
	}
}

// TestLookupHostRefuses what is no name, without asking anybody.
func TestLookupHostRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, withIPv6)
		s := serveNames(t, bob, servers[0], testZone)
		for _, host := range []string{
			"", ".", "..", "a..b", ".example", "mail example", "mail.example\n", "mail\x00.example", "mail.example\r\nRCPT", "\tmail",
			strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "example", "192.0.2.1:25", "[2001:db8::1]", "mäil.example", "mail.ex\\097mple",
			"<script>", "a,b", "fe80::1%", "user@mail.example",
		} {
			got, err := alice.LookupHost(t.Context(), host)
			if err == nil {
				t.Errorf("LookupHost(%q) = %v", host, got)
				continue
			}
			if e := wantDNSError(t, err, host); e.IsTemporary || e.IsTimeout {
				t.Errorf("LookupHost(%q): %+v", host, e)
			}
		}
		if q := s.asked(); len(q) != 0 {
			t.Errorf("asked about %q", q[0].msg.Question[0].Name)
		}
	})
}

// TestLookupHostTakesOddNames that are in use all the same.
func TestLookupHostTakesOddNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, 0)
		serveNames(t, bob, servers[0], only1(func(_ string, q *dns.Msg) *dns.Msg {
			return reply(q, q.Question[0].Name+" 60 IN A 192.0.2.25")
		}))
		long := strings.Repeat("a", 63)
		for _, host := range []string{"mail", "a", "1", "3com.example", "_smtp.example", "x--y.example", "xn--mil-jla.example",
			long + "." + long + "." + long + "." + long[:61], "mail.example."} {
			if got, err := alice.LookupHost(t.Context(), host); err != nil || len(got) != 1 {
				t.Errorf("LookupHost(%q) = %v, %v", host, got, err)
			}
		}
	})
}

func TestLookupHostNeedsAServer(t *testing.T) {
	alice := launch(t, withUDP, aliceOn(0, newStation(t)))
	_, err := alice.LookupHost(t.Context(), "mail.example")
	if e := wantDNSError(t, err, "mail.example"); e.IsTemporary || !strings.Contains(e.Err, "name server") {
		t.Errorf("the error is %+v", e)
	}
}

func TestLookupHostNeedsUDP(t *testing.T) {
	cfg := aliceOn(0, newStation(t))
	cfg.DNS = addresses("192.0.2.53")
	alice := launch(t, withTCP, cfg)
	_, err := alice.LookupHost(t.Context(), "mail.example")
	wantErr(t, "LookupHost", err, stack.ErrNotEnabled, "mail.example", "EnableUDP")
}

func TestLookupHostEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, withIPv6)
		for _, s := range servers {
			serveNames(t, bob, s, silence)
		}
		for name, want := range map[string]error{"cancel": context.Canceled, "deadline": context.DeadlineExceeded} {
			ctx, cancel := context.WithCancel(t.Context())
			if name == "deadline" {
				ctx, cancel = context.WithTimeout(ctx, 7*time.Second)
			}
			if name == "cancel" {
				time.AfterFunc(7*time.Second, cancel)
			}
			start := time.Now()
			_, err := alice.LookupHost(ctx, "mail.example")
			if took := time.Since(start); took != 7*time.Second {
				t.Errorf("%s: it took %v, want 7s", name, took)
			}
			e := wantDNSError(t, err, "mail.example")
			if e.IsTimeout != (name == "deadline") {
				t.Errorf("%s: %+v", name, e)
			}
			if name == "cancel" {
				wantErr(t, name, err, want)
			}
			cancel()
		}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := alice.LookupHost(done, "mail.example")
		wantErr(t, "LookupHost", err, context.Canceled)
	})
}

// TestLookupHostEndsWithClose of the instance.
func TestLookupHostEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, withIPv6)
		serveNames(t, bob, servers[0], silence)
		looking := background(func() error { _, err := alice.LookupHost(t.Context(), "mail.example"); return err })
		synctest.Wait()
		start := time.Now()
		must(t, alice.Close())
		wantErr(t, "LookupHost", receive(t, "LookupHost", looking), net.ErrClosed)
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// TestQuestions: what is asked is hard to guess (RFC 5452), and as it should be.
func TestQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob, servers := resolvers(t, withIPv6)
		s := serveNames(t, bob, servers[0], testZone)
		for range 50 {
			_, err := alice.LookupHost(t.Context(), "mail.example")
			must(t, err)
		}
		ids, ports := map[uint16]bool{}, map[string]bool{}
		for _, q := range s.asked() {
			ids[q.msg.Id], ports[q.from.String()] = true, true
			if o := q.msg.IsEdns0(); !q.msg.RecursionDesired || o == nil || o.UDPSize() != 1232 || len(q.msg.Question) != 1 {
				t.Errorf("the question is %v", q.msg)
			}
		}
		if len(ids) < 95 || len(ports) < 95 {
			t.Errorf("100 questions have %d IDs and come from %d ports", len(ids), len(ports))
		}
	})
}

// TestDialByName resolves over the instance, and tries the addresses.
func TestDialByName(t *testing.T) {
	alice, bob, servers := resolvers(t, withTCP|withIPv6)
	serveNames(t, bob, servers[0], zone("bob.example. 60 IN A 192.0.2.3", "bob.example. 60 IN A 192.0.2.2"))
	l, err := bob.Listen("tcp", "192.0.2.2:25")
	must(t, err)
	conn, err := alice.DialContext(patient(t), "tcp", "bob.example:25")
	must(t, err)
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != l.Addr().String() {
		t.Errorf("connected to %s", got)
	}
	_, err = alice.DialContext(patient(t), "tcp", "nobody.example:25")
	if e := wantDNSError(t, err, "nobody.example"); !e.IsNotFound {
		t.Errorf("the error is %+v", e)
	}
}
