package stack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// TestNotEnabled: what isn't enabled fails, and says what to do.
func TestNotEnabled(t *testing.T) {
	a, b := memlink.Pair(1500)
	udp := launch(t, withUDP, aliceOn(withUDP, a))
	tcp := launch(t, withTCP, bobOn(withTCP, b))
	for what, c := range map[string]struct {
		call  func() error
		errno error
		words string
	}{
		"TCP dial":        {func() error { _, err := udp.Dial("tcp", "192.0.2.2:1"); return err }, syscall.EPROTONOSUPPORT, "EnableTCP"},
		"TCP listen":      {func() error { _, err := udp.Listen("tcp", ":1"); return err }, syscall.EPROTONOSUPPORT, "EnableTCP"},
		"UDP dial":        {func() error { _, err := tcp.Dial("udp", "192.0.2.1:1"); return err }, syscall.EPROTONOSUPPORT, "EnableUDP"},
		"UDP listen":      {func() error { _, err := tcp.ListenPacket("udp", ":1"); return err }, syscall.EPROTONOSUPPORT, "EnableUDP"},
		"IPv6 dial":       {func() error { _, err := tcp.Dial("tcp", "[2001:db8::1]:1"); return err }, syscall.EAFNOSUPPORT, "EnableIPv6"},
		"IPv6 listen":     {func() error { _, err := tcp.Listen("tcp6", ":1"); return err }, syscall.EAFNOSUPPORT, "EnableIPv6"},
		"IPv6 UDP listen": {func() error { _, err := udp.ListenPacket("udp", "[::1]:1"); return err }, syscall.EAFNOSUPPORT, "EnableIPv6"},
	} {
		err := c.call()
		wantErr(t, what, err, stack.ErrNotEnabled, c.words)
		wantErr(t, what, err, c.errno)
	}
}

// TestWithoutIPv6: all addresses are those of IPv4.
func TestWithoutIPv6(t *testing.T) {
	alice, _ := couple(t, withTCP|withUDP, memlink.Config{})
	l, err := alice.Listen("tcp", ":80")
	must(t, err)
	defer l.Close()
	if got := l.Addr().String(); got != "0.0.0.0:80" {
		t.Errorf("TCP listens on %s, want 0.0.0.0:80", got)
	}
	c, err := alice.ListenPacket("udp", "[::]:53")
	must(t, err)
	defer c.Close()
	if got := c.LocalAddr().String(); got != "0.0.0.0:53" {
		t.Errorf("UDP listens on %s, want 0.0.0.0:53", got)
	}
}

// TestUnreachable: the errors of what can't be reached are the kernel's words.
func TestUnreachable(t *testing.T) {
	alice, _ := couple(t, withAll, memlink.Config{})
	must(t, alice.Ready(patient(t)))
	udp, err := alice.ListenPacket("udp", ":0")
	must(t, err)
	defer udp.Close()
	for _, addr := range []string{"198.51.100.1:25", "[2001:db8:9::1]:25"} {
		for _, network := range []string{"tcp", "udp"} {
			_, err := alice.DialContext(patient(t), network, addr)
			wantErr(t, "no route", err, syscall.ENETUNREACH)
			if want := fmt.Sprintf("dial %s %s: connect: network is unreachable", network, addr); err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
		}
		_, err := udp.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		wantErr(t, "no route", err, syscall.ENETUNREACH, "sendto: network is unreachable")
	}
	for _, addr := range []string{"192.0.2.77:25", "[2001:db8::77]:25"} {
		_, err := alice.DialContext(patient(t), "tcp", addr)
		wantErr(t, "no neighbour", err, syscall.EHOSTUNREACH)
		if want := fmt.Sprintf("dial tcp %s: connect: no route to host", addr); err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}

// TestZones: link-local addresses come and go with the name of their link.
func TestZones(t *testing.T) {
	a, b := memlink.Pair(1500)
	cfgA, cfgB := aliceOn(withAll, a), bobOn(withAll, b)
	cfgA.LinkName, cfgB.LinkName = "left", "right"
	alice, bob := launch(t, withAll, cfgA), launch(t, withAll, cfgB)
	const (
		aliceLocal = "fe80::ff:fe00:a"
		bobLocal   = "fe80::ff:fe00:b"
	)
	l, err := bob.Listen("tcp", "["+bobLocal+"%right]:25")
	must(t, err)
	defer l.Close()
	if got, want := l.Addr().String(), "["+bobLocal+"%right]:25"; got != want {
		t.Errorf("listening on %s, want %s", got, want)
	}
	d, err := alice.DialContext(patient(t), "tcp", "["+bobLocal+"%left]:25")
	must(t, err)
	defer d.Close()
	s, err := l.Accept()
	must(t, err)
	defer s.Close()
	for _, c := range []struct {
		what string
		addr net.Addr
		want string
	}{
		{"dialed, local", d.LocalAddr(), aliceLocal + "%left"},
		{"dialed, remote", d.RemoteAddr(), bobLocal + "%left"},
		{"accepted, local", s.LocalAddr(), bobLocal + "%right"},
		{"accepted, remote", s.RemoteAddr(), aliceLocal + "%right"},
	} {
		if got := c.addr.(*net.TCPAddr).AddrPort().Addr().String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	for _, listen := range []string{":53", "[" + bobLocal + "%right]:53"} {
		u, err := bob.ListenPacket("udp", listen)
		must(t, err)
		c, err := alice.DialContext(patient(t), "udp", "["+bobLocal+"%left]:53")
		must(t, err)
		checkEcho(t, u, c)
		must(t, errors.Join(c.Close(), u.Close()))
	}
}

// checkEcho sends a datagram from c to u and back.
func checkEcho(t *testing.T, u net.PacketConn, c net.Conn) {
	t.Helper()
	must(t, u.SetDeadline(time.Now().Add(patience)))
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := c.Write([]byte("there"))
	must(t, err)
	b := make([]byte, 10)
	n, from, err := u.ReadFrom(b)
	must(t, err)
	_, err = u.WriteTo(b[:n], from)
	must(t, err)
	n, err = c.Read(b)
	if string(b[:n]) != "there" || err != nil {
		t.Errorf("%q came back, %v", b[:n], err)
	}
}

func TestBadZones(t *testing.T) {
	alice, _ := couple(t, withAll, memlink.Config{})
	for what, c := range map[string]struct {
		network, address string
		errno            error
		words            string
	}{
		"no zone":      {"tcp", "[fe80::1]:25", syscall.EINVAL, "%eth0"},
		"no zone, UDP": {"udp", "[fe80::1]:25", syscall.EINVAL, "%eth0"},
		"unknown":      {"tcp", "[fe80::1%eth7]:25", syscall.ENODEV, `zone "eth7"`},
		"multicast":    {"udp", "[ff02::1]:25", syscall.EINVAL, "%eth0"},
	} {
		_, err := alice.DialContext(patient(t), c.network, c.address)
		wantErr(t, what, err, c.errno, c.words, "dial "+c.network)
	}
	_, err := alice.Listen("tcp", "[fe80::ff:fe00:a]:25")
	wantErr(t, "listen", err, syscall.EINVAL, "%eth0")
	_, err = alice.Listen("tcp", "[fe80::ff:fe00:a%eth7]:25")
	wantErr(t, "listen", err, syscall.ENODEV, `zone "eth7"`)
}

// TestDialTriesAll: the addresses of a name in order, until one answers; else the first
// error counts.
func TestDialTriesAll(t *testing.T) {
	alice, _ := couple(t, withAll, memlink.Config{})
	l, err := alice.Listen("tcp6", "[::1]:25")
	must(t, err)
	c, err := alice.DialContext(patient(t), "tcp", "localhost:25")
	must(t, err)
	if got := c.RemoteAddr().String(); got != "[::1]:25" {
		t.Errorf("connected to %s, want [::1]:25", got)
	}
	must(t, errors.Join(c.Close(), l.Close()))
	_, err = alice.DialContext(patient(t), "tcp", "localhost:25")
	wantErr(t, "nobody there", err, syscall.ECONNREFUSED, "dial tcp 127.0.0.1:25: connect: connection refused")
	_, err = alice.DialContext(patient(t), "tcp", "nowhere.invalid:25")
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		t.Errorf("name without a server: %v, want a *net.DNSError", err)
	}
	wantErr(t, "name without a server", err, nil, "dial tcp: ", "nowhere.invalid")
	_, err = alice.DialContext(patient(t), "tcp", "127.0.0.1:smtp")
	wantErr(t, "port by name", err, nil, "smtp", "want a number")
}

// TestClockOfDeadlines: time is that of Config.Clock.
func TestClockOfDeadlines(t *testing.T) {
	clock := newFakeClock()
	a, b := memlink.Pair(1500)
	cfg := aliceOn(withTCP|withUDP, a)
	cfg.Clock = clock
	alice, bob := launch(t, withTCP|withUDP, cfg), launch(t, withTCP|withUDP, bobOn(withTCP|withUDP, b))
	d, _ := connect(t, alice, bob, bob4.Addr())
	l, err := alice.Listen("tcp", ":0")
	must(t, err)
	defer l.Close()
	u, err := alice.ListenPacket("udp", ":0")
	must(t, err)
	defer u.Close()

	at := clock.Now().Add(time.Minute)
	must(t, errors.Join(d.SetReadDeadline(at), l.(*stack.TCPListener).SetDeadline(at), u.SetReadDeadline(at)))
	calls := map[string]<-chan error{
		"Read":     background(func() error { _, err := d.Read(make([]byte, 1)); return err }),
		"Accept":   background(func() error { _, err := l.Accept(); return err }),
		"ReadFrom": background(func() error { _, _, err := u.ReadFrom(make([]byte, 1)); return err }),
	}
	clock.advance(time.Minute - 1)
	for name, c := range calls {
		select {
		case err := <-c:
			t.Errorf("%s returned %v before its deadline", name, err)
		default:
		}
	}
	clock.advance(1)
	for name, c := range calls {
		wantErr(t, name, receive(t, name, c), os.ErrDeadlineExceeded)
	}
	must(t, d.SetReadDeadline(clock.Now().Add(time.Hour)))
	must(t, d.Close())
	clock.advance(2 * time.Hour) // whatever timers are left find nobody
}

// cutter is a device that can lose all IPv4 packets it is given to send. Without ARP the
// neighbour would be gone too, which is another error.
type cutter struct {
	link.Device
	cut atomic.Bool
}

func (c *cutter) Send(frames []link.Frame) (int, error) {
	if frames[0].Data[0][12] == 8 && frames[0].Data[0][13] == 0 && c.cut.Load() {
		return len(frames), nil
	}
	return c.Device.Send(frames)
}

// TestKeepAlive: a peer that is gone is noticed after 15 s of silence and nine questions,
// 15 s apart.
func TestKeepAlive(t *testing.T) {
	clock := newFakeClock()
	a, b := memlink.Pair(1500)
	wire := &cutter{Device: a}
	cfg := aliceOn(withTCP, wire)
	cfg.Clock = clock
	alice, bob := launch(t, withTCP, cfg), launch(t, withTCP, bobOn(withTCP, b))
	d, _ := connect(t, alice, bob, bob4.Addr())
	must(t, d.SetDeadline(time.Time{}))
	read := background(func() error { _, err := d.Read(make([]byte, 1)); return err })
	wire.cut.Store(true)
	clock.advance((15 + 9*15 - 1) * time.Second)
	select {
	case err := <-read:
		t.Errorf("given up early: %v", err)
	default:
	}
	clock.advance(2 * time.Second)
	wantErr(t, "Read", receive(t, "Read", read), syscall.ETIMEDOUT, "read: connection timed out")
}

// TestBroadcast: as with package net, nothing has to be set first.
func TestBroadcast(t *testing.T) {
	alice, bob := couple(t, withUDP, memlink.Config{})
	_, err := alice.Neighbor(patient(t), bob4.Addr()) // bob is there
	must(t, err)
	u, err := bob.ListenPacket("udp", ":67")
	must(t, err)
	defer u.Close()
	must(t, u.SetDeadline(time.Now().Add(patience)))
	c, err := alice.ListenPacket("udp", ":68")
	must(t, err)
	defer c.Close()
	_, err = c.WriteTo([]byte("all"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 255), Port: 67})
	must(t, err)
	b := make([]byte, 100)
	n, from, err := u.ReadFrom(b)
	if string(b[:n]) != "all" || from.String() != "192.0.2.1:68" || err != nil {
		t.Errorf("%q from %v, %v; want all from 192.0.2.1:68", b[:n], from, err)
	}
}

func TestInfo(t *testing.T) {
	alice, bob := couple(t, withTCP, fullOffload)
	d, a := connect(t, alice, bob, bob4.Addr())
	const size = 1 << 20
	sent := background(func() error { _, err := d.Write(make([]byte, size)); return err })
	_, err := io.CopyN(io.Discard, a, size-1)
	must(t, err)
	must(t, receive(t, "Write", sent))
	eventually(t, "the last byte", func() bool { return a.Info().UnreadBytes == 1 })
	info := d.Info()
	if info.State != "ESTABLISHED" || info.RTT <= 0 || info.RTO < info.RTT || info.CongestionWindow < 10 ||
		info.SegmentsSent < size/65375 || info.SegmentsReceived == 0 || info.UnreadBytes != 0 {
		t.Errorf("sender: %+v", info)
	}
	must(t, d.CloseWrite())
	eventually(t, "CLOSE-WAIT", func() bool { return a.Info().State == "CLOSE-WAIT" })
	must(t, a.SetLinger(0))
	must(t, a.Close())
	eventually(t, "the reset", func() bool { return d.Info().State == "CLOSED" })
}

// TestConnOutlivesInstance: after the instance is closed, its connections can be closed
// once more, as if they were files.
func TestConnOutlivesInstance(t *testing.T) {
	alice, bob := couple(t, withTCP|withUDP, fullOffload)
	d, a := connect(t, alice, bob, bob4.Addr())
	l, err := alice.Listen("tcp", ":0")
	must(t, err)
	u, err := alice.ListenPacket("udp", ":0")
	must(t, err)
	must(t, alice.Close())
	for name, c := range map[string]io.Closer{"TCPConn": d, "TCPListener": l, "UDPConn": u} {
		if err := c.Close(); err != nil {
			t.Errorf("%s: first Close: %v", name, err)
		}
		wantErr(t, name+": second Close", c.Close(), net.ErrClosed)
	}
	wantErr(t, "SetDeadline", d.SetDeadline(time.Time{}), net.ErrClosed)
	if d.Info().State == "" {
		t.Error("Info says nothing")
	}
	_, err = a.Read(make([]byte, 1))
	wantErr(t, "the other side's Read", err, syscall.ECONNRESET)
	for _, call := range []func() error{
		func() error { _, err := alice.Dial("tcp", "192.0.2.2:1"); return err },
		func() error { _, err := alice.Listen("tcp", ":1"); return err },
		func() error { _, err := alice.ListenPacket("udp", ":1"); return err },
	} {
		err := call()
		wantErr(t, "after Close", err, net.ErrClosed)
		if _, ok := err.(*net.OpError); !ok || strings.Contains(err.Error(), "stack:") {
			t.Errorf("after Close: %T %v, want a plain *net.OpError", err, err)
		}
	}
}

// TestHTTP: programs written for package net run, and end as they do there.
func TestHTTP(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	must(t, alice.Ready(patient(t)))
	l, err := bob.Listen("tcp", ":80")
	must(t, err)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // if short, the client notices
		w.Write(b)
	})}
	served := background(func() error { return server.Serve(l) })
	transport := &http.Transport{DialContext: alice.DialContext}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: patience}
	for _, host := range []string{"192.0.2.2", "[2001:db8::2]"} {
		answer, err := client.Post("http://"+host+"/", "", bytes.NewReader(pattern(100_000)))
		must(t, err)
		must(t, wantBytes(answer.Body, pattern(100_000)))
		must(t, answer.Body.Close())
	}
	must(t, server.Close())
	if err := receive(t, "Serve", served); err != http.ErrServerClosed {
		t.Errorf("Serve: %v, want %v", err, http.ErrServerClosed)
	}
}
