package stack

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	dnsTimeout  = 5 * time.Second // for one answer of one server
	dnsAttempts = 2               // rounds over all servers
	dnsUDPSize  = 1232            // fits any link without fragments
)

// LookupHost resolves host to addresses, by asking Config.DNS over the instance itself:
// the host's files and resolver are never consulted. It has the signature and the
// errors (*net.DNSError) of net.Resolver's method. An address resolves to itself, and
// localhost to the loopback addresses (RFC 6761 §6.3). IPv6 addresses are only looked for
// with EnableIPv6. There is no cache.
func (i *Instance) LookupHost(ctx context.Context, host string) ([]string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []string{a.String()}, nil
	}
	if !isHostName(host) {
		return nil, dnsError(host, "", "not a host name")
	}
	if dns.CanonicalName(host) == "localhost." {
		return i.localhost(), nil
	}
	if len(i.cfg.DNS) == 0 {
		return nil, dnsError(host, "", "no name server is configured; give one, or use an address instead of a name")
	}
	types := []uint16{dns.TypeA}
	if i.has(serviceIPv6) {
		types = append(types, dns.TypeAAAA)
	}
	var addrs []string
	var failure error
	for _, t := range types {
		found, err := i.lookup(ctx, host, t)
		addrs = append(addrs, found...)
		failure = cmp.Or(failure, err)
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case failure != nil:
		return nil, failure
	default:
		e := dnsError(host, "", "no such host")
		e.IsNotFound = true
		return nil, e
	}
}

// isHostName reports whether host is one, as RFC 1123 §2.1 has it, or one with an
// underscore: those are in use. It may end with a dot.
func isHostName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, isNoHostRune) {
			return false
		}
	}
	return true
}

func isNoHostRune(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

func (i *Instance) localhost() []string {
	var addrs []string
	for _, p := range i.loopbackPrefixes() {
		addrs = append(addrs, p.Addr().String())
	}
	return addrs
}

func dnsError(name, server, text string) *net.DNSError {
	return &net.DNSError{Err: text, Name: name, Server: server}
}

// lookup asks the servers in turn until one gives an answer, be it that there is none.
func (i *Instance) lookup(ctx context.Context, host string, t uint16) ([]string, error) {
	name := dns.Fqdn(host)
	var failure error
	for range dnsAttempts {
		for _, server := range i.cfg.DNS {
			addr := netip.AddrPortFrom(server, 53).String()
			m, err := i.exchange(ctx, "udp", addr, name, t)
			if err == nil && m.Truncated {
				m, err = i.exchange(ctx, "tcp", addr, name, t)
			}
			switch {
			case err != nil:
				e := dnsError(host, addr, err.Error())
				e.UnwrapErr, e.IsTemporary = err, true
				var ne net.Error
				e.IsTimeout = errors.As(err, &ne) && ne.Timeout()
				failure = e
			case m.Rcode == dns.RcodeSuccess, m.Rcode == dns.RcodeNameError:
				return addresses(m, name, t), nil
			default:
				e := dnsError(host, addr, "server answers "+dns.RcodeToString[m.Rcode])
				e.IsTemporary = m.Rcode == dns.RcodeServerFailure
				failure = e
			}
			if ctx.Err() != nil {
				return nil, failure
			}
		}
	}
	return nil, failure
}

// exchange sends one question to one server and waits for its answer, no longer than
// dnsTimeout.
func (i *Instance) exchange(ctx context.Context, network, server, name string, t uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := i.cfg.Clock.AfterFunc(dnsTimeout, func() { cancel(timeoutError{}) })
	defer timer.Stop()
	answer, err := i.ask(ctx, network, server, name, t)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return answer, err
}

func (i *Instance) ask(ctx context.Context, network, server, name string, t uint16) (*dns.Msg, error) {
	conn, err := i.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	question := new(dns.Msg).SetQuestion(name, t)
	question.SetEdns0(dnsUDPSize, false)
	if question.Id, err = i.randomUint16(); err != nil {
		return nil, err
	}
	wire := &dns.Conn{Conn: conn, UDPSize: dnsUDPSize}
	if err := wire.WriteMsg(question); err != nil {
		return nil, fmt.Errorf("sending the question: %w", err)
	}
	for {
		answer, err := wire.ReadMsg()
		if err != nil && answer == nil && !(network == "udp" && errors.Is(err, dns.ErrShortRead)) {
			return nil, fmt.Errorf("waiting for the answer: %w", err)
		}
		if err == nil && answers(answer, question) {
			return answer, nil
		}
		if network == "tcp" {
			return nil, errors.New("the answer is to another question")
		}
	}
}

// answers reports whether a is the answer to q, and not a stray or forged message.
func answers(a, q *dns.Msg) bool {
	return a.Response && a.Id == q.Id && len(a.Question) == 1 && a.Question[0].Qclass == dns.ClassINET &&
		a.Question[0].Qtype == q.Question[0].Qtype && strings.EqualFold(a.Question[0].Name, q.Question[0].Name)
}

func (i *Instance) randomUint16() (uint16, error) {
	var b [2]byte
	_, err := i.rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:]), err
}

// addresses takes those of name out of an answer, along its aliases.
func addresses(m *dns.Msg, name string, t uint16) []string {
	var found []string
	for _, rr := range m.Answer {
		if !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		switch rr := rr.(type) {
		case *dns.CNAME:
			name = rr.Target
		case *dns.A:
			if t == dns.TypeA {
				found = append(found, rr.A.String())
			}
		case *dns.AAAA:
			if t == dns.TypeAAAA {
				found = append(found, rr.AAAA.String())
			}
		}
	}
	return found
}
