//go:build linux

package stack_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tcpBehaviours are what a program can notice of TCP. No row depends on who wins a race.
var tcpBehaviours = []behaviour{
	{"dial refused", func(r *run) {
		l := r.listen()
		l.Close()
		_, err := r.client.DialContext(r.ctx(), "tcp", l.Addr().String())
		r.note("dial", err)
		_, err = r.client.DialContext(r.ctx(), r.tcp(), l.Addr().String())
		r.note("dial one family", err)
	}},
	{"dial with a context that is done", func(r *run) {
		l := r.listen()
		ctx, cancel := context.WithCancel(r.ctx())
		cancel()
		_, err := r.client.DialContext(ctx, "tcp", l.Addr().String())
		r.note("canceled", err)
		ctx, cancel = context.WithDeadline(r.ctx(), past)
		defer cancel()
		_, err = r.client.DialContext(ctx, "tcp", l.Addr().String())
		r.note("late", err)
	}},
	{"dial with a context that ends meanwhile", func(r *run) {
		ctx, cancel := context.WithCancel(r.ctx())
		wait := r.blocked(func(r *run) {
			_, err := r.client.DialContext(ctx, "tcp", r.silent[r.family].String())
			r.note("canceled", err)
		})
		cancel()
		wait()
		ctx, cancel = context.WithTimeout(r.ctx(), 10*time.Millisecond)
		defer cancel()
		_, err := r.client.DialContext(ctx, "tcp", r.silent[r.family].String())
		var ne net.Error // which of two timeouts it is depends on a race, within package net
		r.note("late", errors.As(err, &ne) && ne.Timeout(), err.(*net.OpError).Op, strings.HasSuffix(err.Error(), ": i/o timeout"))
	}},
	{"dial nonsense", func(r *run) {
		for _, network := range []string{"", "tcp5", "sctp", "TCP", "udp46"} {
			_, err := r.client.DialContext(r.ctx(), network, r.on(r.server, 1))
			r.note("network "+network, err)
		}
		for _, address := range []string{"", "127.0.0.1", "[::1]", "[::1", "::1:80:", "1.2.3.4:5:6", "127.0.0.1:65536", "127.0.0.1:-1x"} {
			_, err := r.client.DialContext(r.ctx(), "tcp", address)
			var dns *net.DNSError
			if errors.As(err, &dns) {
				r.note("port "+address, dns.IsNotFound)
				continue
			}
			r.note("address "+address, err)
		}
		_, err := r.client.DialContext(r.ctx(), "tcp4", "[::1]:1")
		r.note("other family", err)
		_, err = r.client.DialContext(r.ctx(), "tcp6", "127.0.0.1:1")
		r.note("other family", err)
		_, err = r.client.DialContext(r.ctx(), "tcp6", "[::ffff:127.0.0.1]:1")
		r.note("mapped", err)
		_, err = r.client.DialContext(r.ctx(), "tcp", "[fe80::1]:1")
		r.note("link-local without zone", errors.Is(err, syscall.EINVAL))
	}},
	{"dial ourselves", func(r *run) {
		l, err := r.client.Listen(r.tcp(), ":0")
		must(r, err)
		r.later(l)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, host := range []string{"", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost"} {
			if host == "localhost" && r.family == 6 {
				continue // the kernel's host may not have it in its files
			}
			c, err := r.client.DialContext(r.ctx(), r.tcp(), host+":"+port)
			if err == nil {
				defer c.Close()
				r.note("to "+host, c.RemoteAddr().(*net.TCPAddr).IP, c.LocalAddr().(*net.TCPAddr).IP)
			} else {
				r.note("to "+host, err)
			}
		}
	}},
	{"listen", func(r *run) {
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			for _, address := range []string{"", ":0", ":", "0.0.0.0:0", "[::]:0"} {
				l, err := r.server.Listen(network, address)
				if err != nil {
					r.note(network+" "+address, err)
					continue
				}
				r.note(network+" "+address, l.Addr().Network(), l.Addr(), l.Close())
			}
		}
	}},
	{"listen nonsense", func(r *run) {
		for _, network := range []string{"", "tcp5", "udp", "udp6"} {
			_, err := r.server.Listen(network, r.on(r.server, 0))
			r.note("network "+network, err)
		}
		for _, address := range []string{"127.0.0.1", "127.0.0.1:65536", "192.0.2.99:0", "[2001:db8::99]:0"} {
			_, err := r.server.Listen("tcp", address)
			r.note("address "+address, err)
		}
	}},
	{"listen twice", func(r *run) {
		l := r.listen()
		_, err := r.server.Listen("tcp", l.Addr().String())
		r.note("same", err)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		_, err = r.server.Listen("tcp", ":"+port)
		r.note("all", err)
		r.note("close", l.Close())
		l, err = r.server.Listen("tcp", l.Addr().String())
		r.note("after close", err)
		l.Close()
	}},
	{"listen again after an active close", func(r *run) {
		c, s := r.connect()
		addr := s.LocalAddr().String()
		must(r, s.Close())
		_, err := io.ReadAll(c)
		r.note("end", err, c.Close())
		r.cleanup() // the listener
		l, err := r.server.Listen("tcp", addr)
		r.note("listen", err)
		l.Close()
	}},
	{"both families on one listener", func(r *run) {
		l, err := r.server.Listen("tcp", ":0")
		must(r, err)
		r.later(l)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := r.client.DialContext(r.ctx(), "tcp", net.JoinHostPort(r.server.addrs[r.family].String(), port))
		must(r, err)
		r.later(c)
		s, err := l.Accept()
		must(r, err)
		r.later(s)
		r.note("same addresses", s.RemoteAddr().String() == c.LocalAddr().String(), s.LocalAddr().String() == c.RemoteAddr().String())
	}},
	{"addresses", func(r *run) {
		c, s := r.connect()
		r.note("same", s.RemoteAddr().String() == c.LocalAddr().String(), s.LocalAddr().String() == c.RemoteAddr().String())
		r.note("network", c.LocalAddr().Network(), c.RemoteAddr().Network())
		must(r, c.Close())
		r.note("after close", c.LocalAddr(), c.RemoteAddr())
	}},
	{"listener closed", func(r *run) {
		l := r.listen()
		wait := r.blocked(func(r *run) {
			_, err := l.Accept()
			r.note("accept meanwhile", err)
		})
		r.note("close", l.Close())
		wait()
		_, err := l.Accept()
		r.note("accept", err)
		r.note("close again", l.Close())
		r.note("deadline", l.(interface{ SetDeadline(time.Time) error }).SetDeadline(past))
		r.note("address", l.Addr())
	}},
	{"listener with a deadline", func(r *run) {
		l := r.listen()
		d := l.(interface{ SetDeadline(time.Time) error })
		r.note("set", d.SetDeadline(past))
		_, err := l.Accept()
		r.note("accept", err)
		r.note("clear", d.SetDeadline(time.Time{}))
		wait := r.blocked(func(r *run) {
			_, err := l.Accept()
			r.note("accept meanwhile", err)
		})
		r.note("set", d.SetDeadline(time.Now().Add(10*time.Millisecond)))
		wait()
	}},
	{"connections nobody accepted", func(r *run) {
		l := r.listen()
		c, err := r.client.DialContext(r.ctx(), "tcp", l.Addr().String())
		must(r, err)
		r.later(c)
		r.note("close", l.Close())
		must(r, c.SetDeadline(time.Now().Add(patience)))
		_, err = c.Read(make([]byte, 1))
		r.note("read", err)
	}},
	{"empty buffer", func(r *run) {
		c, s := r.connect()
		n, err := c.Read(nil)
		r.note("read", n, err)
		n, err = c.Write(nil)
		r.note("write", n, err)
		must(r, c.SetDeadline(past))
		n, err = c.Read([]byte{})
		r.note("read late", n, err)
		n, err = c.Write([]byte{})
		r.note("write late", n, err)
		must(r, c.SetDeadline(time.Time{}))
		must(r, s.Close())
		_, err = c.Read(make([]byte, 1))
		r.note("end", err)
		n, err = c.Read(nil)
		r.note("read at the end", n, err)
		must(r, c.CloseWrite())
		n, err = c.Write(nil)
		r.note("write after CloseWrite", n, err)
		must(r, c.Close())
		n, err = c.Read(nil)
		r.note("read after Close", n, err)
		n, err = c.Write(nil)
		r.note("write after Close", n, err)
	}},
	{"deadline passed", func(r *run) {
		c, s := r.connect()
		_, err := s.Write([]byte("x"))
		must(r, err)
		r.note("set", c.SetDeadline(past))
		for range 2 {
			n, err := c.Read(make([]byte, 1))
			r.note("read", n, err)
			n, err = c.Write([]byte("x"))
			r.note("write", n, err)
		}
		r.note("set one", c.SetReadDeadline(time.Now().Add(patience)))
		n, err := c.Read(make([]byte, 1))
		r.note("read", n, err)
		n, err = c.Write([]byte("x"))
		r.note("write", n, err)
		r.note("clear the other", c.SetWriteDeadline(time.Time{}))
		n, err = c.Write([]byte("x"))
		r.note("write", n, err)
	}},
	{"deadline while reading", func(r *run) {
		c, _ := r.connect()
		for _, d := range []time.Time{past, time.Now().Add(10 * time.Millisecond), {}} {
			must(r, c.SetReadDeadline(time.Now().Add(patience)))
			wait := r.blocked(func(r *run) {
				n, err := c.Read(make([]byte, 1))
				r.note("read", n, err)
			})
			if d.IsZero() {
				must(r, c.SetReadDeadline(d))
				d = past
			}
			must(r, c.SetReadDeadline(d))
			wait()
		}
	}},
	{"deadline while writing", func(r *run) {
		c, s := r.connect()
		big := make([]byte, 32<<20)
		wait := r.blocked(func(r *run) {
			n, err := c.Write(big)
			r.note("write", n > 0 && n < len(big), err)
		})
		must(r, c.SetWriteDeadline(past))
		wait()
		n, err := s.Read(make([]byte, 1))
		r.note("read", n, err)
	}},
	{"close while reading", func(r *run) {
		c, s := r.connect()
		wait := r.blocked(func(r *run) {
			n, err := c.Read(make([]byte, 1))
			r.note("read", n, err)
		})
		r.note("close", c.Close())
		wait()
		n, err := s.Read(make([]byte, 1))
		r.note("other side", n, err)
	}},
	{"close while writing", func(r *run) {
		c, _ := r.connect()
		big := make([]byte, 32<<20)
		wait := r.blocked(func(r *run) {
			n, err := c.Write(big)
			r.note("write", n > 0 && n < len(big), err)
		})
		r.note("close", c.Close())
		wait()
	}},
	{"everything after close", func(r *run) {
		c, _ := r.connect()
		r.note("close", c.Close())
		r.note("close again", c.Close())
		n, err := c.Read(make([]byte, 1))
		r.note("read", n, err)
		n, err = c.Write([]byte("x"))
		r.note("write", n, err)
		m, err := c.ReadFrom(onlyReader{strings.NewReader("x")})
		r.note("ReadFrom", m, err)
		m, err = c.WriteTo(io.Discard)
		r.note("WriteTo", m, err)
		r.note("deadline", c.SetDeadline(time.Time{}), c.SetReadDeadline(past), c.SetWriteDeadline(past))
		r.note("CloseRead", c.CloseRead())
		r.note("CloseWrite", c.CloseWrite())
		r.note("options", c.SetLinger(1), c.SetNoDelay(true), c.SetKeepAlive(true), c.SetKeepAlivePeriod(time.Second),
			c.SetKeepAliveConfig(net.KeepAliveConfig{}), c.SetReadBuffer(1), c.SetWriteBuffer(1))
	}},
	{"options", func(r *run) {
		c, _ := r.connect()
		r.note("options", c.SetLinger(-1), c.SetLinger(5), c.SetNoDelay(true), c.SetNoDelay(false), c.SetKeepAlive(false), c.SetKeepAlive(true),
			c.SetKeepAlivePeriod(time.Minute), c.SetKeepAlivePeriod(-1), c.SetKeepAlivePeriod(0),
			c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: time.Second, Count: -1}),
			c.SetReadBuffer(1), c.SetReadBuffer(1<<20), c.SetWriteBuffer(1), c.SetWriteBuffer(1<<20))
	}},
	{"the other side closes", func(r *run) {
		c, s := r.connect()
		_, err := s.Write([]byte("last words"))
		must(r, err)
		must(r, s.Close())
		b, err := io.ReadAll(c)
		r.note("read", string(b), err)
		for range 2 {
			n, err := c.Read(make([]byte, 1))
			r.note("read", n, err)
		}
		n, err := c.Write([]byte("x")) // answered by a reset
		r.note("write", n, err)
		for err == nil {
			_, err = c.Write([]byte("x"))
		}
		r.note("write", err)
		n, err = c.Read(make([]byte, 1))
		r.note("read", n, err)
		r.note("CloseWrite", c.CloseWrite())
		r.note("CloseRead", c.CloseRead())
		r.note("close", c.Close())
	}},
	{"reset while reading", func(r *run) {
		c, s := r.connect()
		must(r, s.SetLinger(0))
		wait := r.blocked(func(r *run) {
			n, err := c.Read(make([]byte, 1))
			r.note("read", n, err)
		})
		r.note("close", s.Close())
		wait()
		n, err := c.Read(make([]byte, 1))
		r.note("read", n, err)
		for range 2 {
			n, err = c.Write([]byte("x"))
			r.note("write", n, err)
		}
		r.note("CloseWrite", c.CloseWrite())
		r.note("CloseRead", c.CloseRead())
		r.note("deadline", c.SetDeadline(past))
		r.note("close", c.Close())
	}},
	{"reset while writing", func(r *run) {
		c, s := r.connect()
		must(r, s.SetLinger(0))
		wait := r.blocked(func(r *run) {
			_, err := c.Write(make([]byte, 32<<20))
			r.note("write", err)
		})
		r.note("close", s.Close())
		wait()
		n, err := c.Write([]byte("x"))
		r.note("write", n, err)
		n, err = c.Read(make([]byte, 1))
		r.note("read", n, err)
		r.note("close", c.Close())
	}},
	{"reset behind data", func(r *run) {
		c, s := r.connect()
		_, err := s.Write([]byte("last words"))
		must(r, err)
		b := make([]byte, 4)
		_, err = io.ReadFull(c, b)
		must(r, err)
		must(r, s.SetLinger(0))
		must(r, s.Close())
		for err == nil { // until the reset has arrived
			_, err = c.Write([]byte("x"))
		}
		r.note("write", err)
		n, err := c.Read(b)
		r.note("read", string(b[:n]), err)
	}},
	{"close with data unread", func(r *run) {
		c, s := r.connect()
		_, err := c.Write([]byte("never read"))
		must(r, err)
		_, err = s.Read(make([]byte, 1))
		must(r, err)
		r.note("close", s.Close())
		n, err := c.Read(make([]byte, 1))
		r.note("read", n, err)
	}},
	{"CloseWrite", func(r *run) {
		c, s := r.connect()
		_, err := c.Write([]byte("request"))
		must(r, err)
		r.note("CloseWrite", c.CloseWrite())
		r.note("CloseWrite", c.CloseWrite())
		n, err := c.Write([]byte("more"))
		r.note("write", n, err)
		b, err := io.ReadAll(s)
		r.note("other side", string(b), err)
		_, err = s.Write([]byte("answer"))
		r.note("other side", err, s.CloseWrite())
		b, err = io.ReadAll(c)
		r.note("read", string(b), err)
		n, err = s.Write([]byte("more"))
		r.note("other side", n, err)
		r.note("close", c.Close(), s.Close())
	}},
	{"CloseWrite while writing", func(r *run) {
		c, _ := r.connect()
		wait := r.blocked(func(r *run) {
			_, err := c.Write(make([]byte, 32<<20))
			r.note("write", err)
		})
		r.note("CloseWrite", c.CloseWrite())
		wait()
	}},
	{"CloseRead", func(r *run) {
		c, s := r.connect()
		wait := r.blocked(func(r *run) {
			n, err := c.Read(make([]byte, 1))
			r.note("read", n, err)
		})
		r.note("CloseRead", c.CloseRead())
		wait()
		r.note("CloseRead", c.CloseRead())
		n, err := c.Read(make([]byte, 1))
		r.note("read", n, err)
		_, err = c.Write([]byte("still writing"))
		r.note("write", err, c.CloseWrite())
		b, err := io.ReadAll(s)
		r.note("other side", string(b), err)
		n, err = s.Write([]byte("to nobody"))
		r.note("other side", n, err)
	}},
	{"CloseRead with data unread", func(r *run) {
		c, s := r.connect()
		_, err := s.Write([]byte("data"))
		must(r, err)
		_, err = c.Read(make([]byte, 1))
		must(r, err)
		r.note("CloseRead", c.CloseRead())
		b := make([]byte, 10)
		n, err := c.Read(b)
		r.note("read", string(b[:n]), err)
		n, err = c.Read(b)
		r.note("read", string(b[:n]), err)
	}},
	{"writes of two goroutines", func(r *run) {
		c, s := r.connect()
		const size = 2 << 20
		var group sync.WaitGroup
		for _, b := range []string{"a", "b"} {
			group.Go(func() {
				n, err := c.Write(bytes.Repeat([]byte(b), size))
				if n != size || err != nil {
					r.Errorf("write: %d, %v", n, err)
				}
			})
		}
		b := make([]byte, 2*size)
		_, err := io.ReadFull(s, b)
		must(r, err)
		group.Wait()
		changes := 0
		for k := range b[1:] {
			if b[k] != b[k+1] {
				changes++
			}
		}
		r.note("changes", changes)
	}},
	{"a lot in both directions", func(r *run) {
		c, s := r.connect()
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var group sync.WaitGroup
		for _, c := range []tcpConn{c, s} {
			group.Go(func() {
				_, err := c.Write(data)
				if err == nil {
					err = c.CloseWrite()
				}
				if err != nil {
					r.Error(err)
				}
			})
		}
		notes := [2]*run{{T: r.T, lab: r.lab}, {T: r.T, lab: r.lab}}
		for k, c := range []tcpConn{c, s} {
			group.Go(func() {
				b, err := io.ReadAll(c)
				notes[k].note("read", len(b), bytes.Equal(b, data), err)
			})
		}
		group.Wait()
		r.log.WriteString(notes[0].log.String() + notes[1].log.String())
	}},
	{"io.Copy", func(r *run) {
		c, s := r.connect()
		n, err := c.ReadFrom(onlyReader{strings.NewReader(strings.Repeat("x", 100_000))})
		r.note("ReadFrom", n, err)
		n, err = c.ReadFrom(onlyReader{io.MultiReader(strings.NewReader("y"), brokenReader{})})
		r.note("ReadFrom", n, err)
		must(r, c.CloseWrite())
		var got strings.Builder
		n, err = s.WriteTo(&got)
		r.note("WriteTo", n, got.String() == strings.Repeat("x", 100_000)+"y", err)
		n, err = s.WriteTo(brokenWriter{})
		r.note("WriteTo", n, err)
		_, err = s.Write([]byte("x"))
		must(r, err)
		n, err = c.WriteTo(brokenWriter{})
		r.note("WriteTo", n, err)
		n, err = c.ReadFrom(onlyReader{strings.NewReader("x")})
		r.note("ReadFrom", n, err)
	}},
}

type onlyReader struct{ io.Reader }

var errTest = errors.New("test")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errTest }

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errTest }
