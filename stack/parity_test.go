//go:build linux

package stack_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link/memlink"
)

// kernel is package net.
type kernel struct{ net.Dialer }

func (*kernel) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

func (*kernel) ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

// side is a host's network and its own addresses, by family.
type side struct {
	hostNet
	addrs map[int]netip.Addr
}

// lab is where a behaviour is looked at: a client and a server that reach each other, which
// may be the same network, and for each family an address that doesn't answer the client's
// connections.
type lab struct {
	client, server side
	silent         map[int]netip.AddrPort
}

// kernelLab is a lab of the kernel alone.
func kernelLab(t *testing.T) lab {
	s := side{new(kernel), map[int]netip.Addr{4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), 6: netip.IPv6Loopback()}}
	return lab{client: s, server: s, silent: map[int]netip.AddrPort{
		4: fullListener(t, &syscall.SockaddrInet4{Addr: s.addrs[4].As4()}),
		6: fullListener(t, &syscall.SockaddrInet6{Addr: s.addrs[6].As16()}),
	}}
}

// fullListener listens on addr, and has no room left for connections: Linux doesn't answer
// another.
func fullListener(t *testing.T, addr syscall.Sockaddr) netip.AddrPort {
	t.Helper()
	domain := syscall.AF_INET
	if _, six := addr.(*syscall.SockaddrInet6); six {
		domain = syscall.AF_INET6
	}
	fd, err := syscall.Socket(domain, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), "listener")
	t.Cleanup(func() { f.Close() })
	must(t, syscall.Bind(fd, addr))
	must(t, syscall.Listen(fd, 0))
	l, err := net.FileListener(f)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// instanceLab is a lab of two instances on one cable.
func instanceLab(client, server *stack.Instance) lab {
	return lab{
		client: side{client, map[int]netip.Addr{4: alice4.Addr(), 6: alice6.Addr()}},
		server: side{server, map[int]netip.Addr{4: bob4.Addr(), 6: bob6.Addr()}},
		silent: map[int]netip.AddrPort{
			4: netip.MustParseAddrPort("192.0.2.99:9"),
			6: netip.MustParseAddrPort("[2001:db8::99]:9"),
		},
	}
}

// TestParity looks at everything that a program can notice, with the kernel's connections
// and with ours, and wants the same text of both.
func TestParity(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	must(t, alice.Ready(patient(t)))
	must(t, bob.Ready(patient(t)))
	runParity(t, instanceLab(alice, bob))
}

// TestParityAlone does so within one instance.
func TestParityAlone(t *testing.T) {
	alice, bob := couple(t, withAll, memlink.Config{})
	must(t, alice.Ready(patient(t)))
	l := instanceLab(alice, bob)
	l.client.addrs = kernelLab(t).client.addrs
	l.server = l.client
	runParity(t, l)
}

// behaviour is one thing that a program can notice.
type behaviour struct {
	name string
	run  func(r *run)
}

// runParity compares ours, of which at least one side is an instance, with the kernel.
func runParity(t *testing.T, ours lab) {
	theirs := kernelLab(t)
	for _, family := range []int{4, 6} {
		for _, table := range []struct {
			network string
			rows    []behaviour
		}{{"tcp", tcpBehaviours}, {"udp", udpBehaviours}} {
			for _, row := range table.rows {
				t.Run(fmt.Sprintf("%s%d/%s", table.network, family, row.name), func(t *testing.T) {
					want := observe(t, theirs, family, row)
					got := observe(t, ours, family, row)
					if got != want {
						t.Errorf("the kernel's (-) and ours (+) differ:\n%s", cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
					}
				})
			}
		}
	}
}

func observe(t *testing.T, l lab, family int, row behaviour) string {
	t.Helper()
	r := &run{T: t, lab: l, family: family}
	defer r.cleanup()
	row.run(r)
	if r.log.Len() == 0 {
		t.Fatal("nothing was observed")
	}
	return r.log.String()
}

// run is one observation of a behaviour.
type run struct {
	*testing.T
	lab
	family int
	log    strings.Builder
	closes []io.Closer
}

func (r *run) cleanup() {
	for _, c := range r.closes {
		c.Close()
	}
}

// later closes c at the end.
func (r *run) later(c io.Closer) { r.closes = append(r.closes, c) }

// note writes down values and errors.
func (r *run) note(what string, values ...any) {
	fmt.Fprintf(&r.log, "  %s:", what)
	for _, v := range values {
		if err, ok := v.(error); ok {
			v = describe(err)
		}
		r.log.WriteString(" " + r.withoutAddrs(fmt.Sprint(v)))
	}
	r.log.WriteString("\n")
}

// on is an address of a side for Listen and Dial.
func (r *run) on(s side, port int) string {
	return netip.AddrPortFrom(s.addrs[r.family], uint16(port)).String()
}

// tcp is the network of the family.
func (r *run) tcp() string { return fmt.Sprintf("tcp%d", r.family) }

func (r *run) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	r.closes = append(r.closes, closer(cancel))
	return ctx
}

type closer func()

func (c closer) Close() error { c(); return nil }

func (r *run) listen() net.Listener {
	l, err := r.server.Listen("tcp", r.on(r.server, 0))
	must(r, err)
	r.later(l)
	return l
}

// tcpConn is what *net.TCPConn and *stack.TCPConn have in common.
type tcpConn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(int) error
	SetNoDelay(bool) error
	SetKeepAlive(bool) error
	SetKeepAlivePeriod(time.Duration) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

// udpConn is what *net.UDPConn and *stack.UDPConn have in common.
type udpConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDP([]byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP([]byte, *net.UDPAddr) (int, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

var (
	_ tcpConn = (*net.TCPConn)(nil)
	_ tcpConn = (*stack.TCPConn)(nil)
	_ udpConn = (*net.UDPConn)(nil)
	_ udpConn = (*stack.UDPConn)(nil)
)

// connect makes a connection.
func (r *run) connect() (client, server tcpConn) {
	l := r.listen()
	c, err := r.client.DialContext(r.ctx(), "tcp", l.Addr().String())
	must(r, err)
	r.later(c)
	s, err := l.Accept()
	must(r, err)
	r.later(s)
	for _, c := range []net.Conn{c, s} {
		must(r, c.SetDeadline(time.Now().Add(patience)))
	}
	return c.(tcpConn), s.(tcpConn)
}

func (r *run) packet(s side) udpConn {
	c, err := s.ListenPacket("udp", r.on(s, 0))
	must(r, err)
	r.later(c)
	must(r, c.SetDeadline(time.Now().Add(patience)))
	return c.(udpConn)
}

// dialUDP makes a connected socket to the server's address.
func (r *run) dialUDP(to net.Addr) udpConn {
	c, err := r.client.DialContext(r.ctx(), "udp", to.String())
	must(r, err)
	r.later(c)
	must(r, c.SetDeadline(time.Now().Add(patience)))
	return c.(udpConn)
}

// blocked runs f in a goroutine, and returns once that waits for something. wait waits
// until f has returned, and then adds what f noted.
func (r *run) blocked(f func(r *run)) (wait func()) {
	meanwhile := &run{T: r.T, lab: r.lab, family: r.family}
	done := make(chan struct{})
	go inBlocked(done, func() { f(meanwhile) })
	for !waits("stack_test.inBlocked") && !isClosed(done) {
		runtime.Gosched()
	}
	return func() {
		select {
		case <-done:
			r.log.WriteString(meanwhile.log.String())
		case <-time.After(patience):
			r.Fatal("still blocked")
		}
	}
}

func inBlocked(done chan<- struct{}, f func()) {
	defer close(done)
	f()
}

// waiting matches the states in which a goroutine waits for another, or for the kernel.
var waiting = regexp.MustCompile(`\[(IO wait|chan receive|select|semacquire)`)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// waits reports whether the goroutine that runs function waits for something.
func waits(function string) bool {
	for _, g := range goroutines() {
		state, stack, _ := strings.Cut(g, "\n")
		if strings.Contains(stack, function+"(") && waiting.MatchString(state) {
			return true
		}
	}
	return false
}

// goroutines are the stacks of all.
func goroutines() []string {
	b := make([]byte, 1<<20)
	return strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n")
}

var identities = []struct {
	name string
	err  error
}{
	{"io.EOF", io.EOF}, {"net.ErrClosed", net.ErrClosed}, {"os.ErrDeadlineExceeded", os.ErrDeadlineExceeded},
	{"context.Canceled", context.Canceled}, {"context.DeadlineExceeded", context.DeadlineExceeded},
	{"net.ErrWriteToConnected", net.ErrWriteToConnected},
	{"EADDRINUSE", syscall.EADDRINUSE}, {"EADDRNOTAVAIL", syscall.EADDRNOTAVAIL}, {"EAFNOSUPPORT", syscall.EAFNOSUPPORT},
	{"ECONNABORTED", syscall.ECONNABORTED}, {"ECONNREFUSED", syscall.ECONNREFUSED}, {"ECONNRESET", syscall.ECONNRESET},
	{"EDESTADDRREQ", syscall.EDESTADDRREQ}, {"EHOSTUNREACH", syscall.EHOSTUNREACH}, {"EINVAL", syscall.EINVAL},
	{"EMSGSIZE", syscall.EMSGSIZE}, {"ENETUNREACH", syscall.ENETUNREACH}, {"ENOTCONN", syscall.ENOTCONN},
	{"EPIPE", syscall.EPIPE}, {"ETIMEDOUT", syscall.ETIMEDOUT}, {"EACCES", syscall.EACCES},
}

// describe is an error with all that a program can find out about it.
func describe(err error) string {
	text := fmt.Sprintf("%T(%v", err, err)
	for _, id := range identities {
		if errors.Is(err, id.err) {
			text += ", is " + id.name
		}
	}
	var ne net.Error
	if errors.As(err, &ne) {
		text += fmt.Sprintf(", timeout=%v", ne.Timeout())
	}
	var op *net.OpError
	if errors.As(err, &op) {
		text += fmt.Sprintf(", op=%s net=%s source=%v addr=%v err=%s", op.Op, op.Net, op.Source, op.Addr, exported(op.Err))
	}
	return text + ")"
}

// exported is the type of err, if it has one that a program can name.
func exported(err error) string {
	name := reflect.TypeOf(err).String()
	switch last := name[strings.LastIndex(name, ".")+1:]; {
	case last[0] < 'A' || last[0] > 'Z', strings.HasPrefix(strings.TrimLeft(name, "*"), "poll."):
		return "unexported"
	}
	return name
}

var addrPort = regexp.MustCompile(`(\[[0-9a-fA-F:.%a-z]*\]|\d+\.\d+\.\d+\.\d+|[ =]):\d+`)

// withoutAddrs replaces what has to differ: addresses, but not the unspecified ones, and
// ports, but not 0.
func (r *run) withoutAddrs(text string) string {
	text = addrPort.ReplaceAllStringFunc(text, func(s string) string {
		a, err := netip.ParseAddrPort(strings.NewReplacer(" :", "0.0.0.0:", "=:", "0.0.0.0:").Replace(s))
		if err != nil {
			return s
		}
		host, port := "HOST", ":PORT"
		if a.Addr().Is4In6() {
			host = "MAPPED"
		}
		if a.Addr().Unmap().IsUnspecified() {
			host, _, _ = strings.Cut(s, fmt.Sprint(":", a.Port()))
		}
		if a.Port() == 0 {
			port = ":0"
		}
		return host + port
	})
	for _, a := range []netip.Addr{r.client.addrs[r.family], r.server.addrs[r.family], netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		text = strings.ReplaceAll(text, "address "+a.String(), "address HOST")
	}
	return text
}
