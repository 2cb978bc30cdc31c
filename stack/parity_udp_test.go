//go:build linux

package stack_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// udpBehaviours are what a program can notice of UDP.
var udpBehaviours = []behaviour{
	{"listen", func(r *run) {
		for _, network := range []string{"udp", "udp4", "udp6"} {
			for _, address := range []string{"", ":0", "0.0.0.0:0", "[::]:0"} {
				c, err := r.server.ListenPacket(network, address)
				if err != nil {
					r.note(network+" "+address, err)
					continue
				}
				r.note(network+" "+address, c.LocalAddr().Network(), c.LocalAddr(), c.(net.Conn).RemoteAddr(), c.Close())
			}
		}
	}},
	{"listen nonsense", func(r *run) {
		for _, network := range []string{"", "udp5", "tcp", "tcp6"} {
			_, err := r.server.ListenPacket(network, r.on(r.server, 0))
			r.note("network "+network, err)
		}
		for _, address := range []string{"127.0.0.1", "127.0.0.1:65536", "192.0.2.99:0", "[2001:db8::99]:0"} {
			_, err := r.server.ListenPacket("udp", address)
			r.note("address "+address, err)
		}
		_, err := r.server.ListenPacket("udp", r.packet(r.server).LocalAddr().String())
		r.note("in use", err)
	}},
	{"dial nonsense", func(r *run) {
		for _, address := range []string{"", "127.0.0.1", "127.0.0.1:65536"} {
			_, err := r.client.DialContext(r.ctx(), "udp", address)
			r.note("address "+address, err)
		}
		_, err := r.client.DialContext(r.ctx(), "udp6", "127.0.0.1:1")
		r.note("other family", err)
		_, err = r.client.DialContext(r.ctx(), "udp", "[fe80::1]:1")
		r.note("link-local without zone", errors.Is(err, syscall.EINVAL))
	}},
	{"connected", func(r *run) {
		s := r.packet(r.server)
		c := r.dialUDP(s.LocalAddr())
		n, err := c.Write([]byte("ping"))
		r.note("write", n, err)
		b := make([]byte, 10)
		n, from, err := s.ReadFrom(b)
		r.note("read", string(b[:n]), from.String() == c.LocalAddr().String(), err)
		n, err = s.WriteTo([]byte("pong"), from)
		r.note("write", n, err)
		n, err = c.Read(b)
		r.note("read", string(b[:n]), err)
		n, err = c.Write(nil)
		r.note("write nothing", n, err)
		n, _, err = s.ReadFrom(b)
		r.note("read nothing", n, err)
		r.note("addresses", c.RemoteAddr().String() == s.LocalAddr().String(), c.LocalAddr().Network(), s.RemoteAddr())

		stranger := r.packet(r.server)
		_, err = stranger.WriteTo([]byte("hey"), c.LocalAddr())
		r.note("a stranger", err)
		must(r, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		n, err = c.Read(b)
		r.note("read", n, err)
	}},
	{"every way to read and write", func(r *run) {
		c, s := r.packet(r.client), r.packet(r.server)
		to := s.LocalAddr().(*net.UDPAddr)
		b := make([]byte, 3)
		writes := []func() (int, error){
			func() (int, error) { return c.WriteTo([]byte("one"), to) },
			func() (int, error) { return c.WriteToUDP([]byte("two"), to) },
			func() (int, error) { return c.WriteToUDPAddrPort([]byte("three"), to.AddrPort()) },
			func() (int, error) {
				n, _, err := c.WriteMsgUDP([]byte("four"), nil, to)
				return n, err
			},
			func() (int, error) {
				n, _, err := c.WriteMsgUDPAddrPort([]byte("five"), nil, to.AddrPort())
				return n, err
			},
			func() (int, error) { return c.WriteTo([]byte("six"), to) },
		}
		reads := []func() (int, string, int, error){
			func() (int, string, int, error) {
				n, from, err := s.ReadFrom(b)
				return n, from.String(), 0, err
			},
			func() (int, string, int, error) {
				n, from, err := s.ReadFromUDP(b)
				return n, from.String(), 0, err
			},
			func() (int, string, int, error) {
				n, from, err := s.ReadFromUDPAddrPort(b)
				return n, from.String(), 0, err
			},
			func() (int, string, int, error) {
				n, _, flags, from, err := s.ReadMsgUDP(b, nil)
				return n, from.String(), flags &^ syscall.MSG_CMSG_CLOEXEC, err
			},
			func() (int, string, int, error) {
				n, _, flags, from, err := s.ReadMsgUDPAddrPort(b, make([]byte, 100))
				return n, from.String(), flags &^ syscall.MSG_CMSG_CLOEXEC, err
			},
			func() (int, string, int, error) {
				n, from, err := s.ReadFrom(b[:0])
				return n, from.String(), 0, err
			},
		}
		for k, write := range writes {
			n, err := write()
			r.note("write", n, err)
			n, from, flags, err := reads[k]()
			r.note("read", string(b[:n]), from == c.LocalAddr().String(), flags, err)
		}
		must(r, s.SetReadDeadline(past))
		n, from, err := s.ReadFrom(b)
		r.note("read late", n, from, err)
		n, _, err = s.ReadFromUDPAddrPort(b)
		r.note("read late", n, err)
		n, err = s.Read(nil)
		r.note("read nothing late", n, err)
		_, _, _, _, err = s.ReadMsgUDP(b, nil)
		r.note("read late", err)
		must(r, c.SetWriteDeadline(past))
		n, err = c.WriteTo([]byte("x"), to)
		r.note("write late", n, err)
	}},
	{"write to the wrong address", func(r *run) {
		c, s := r.packet(r.client), r.packet(r.server)
		n, err := c.WriteTo([]byte("x"), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
		r.note("not UDP", n, err)
		n, err = c.WriteTo([]byte("x"), nil)
		r.note("nil", n, err)
		n, err = c.WriteTo([]byte("x"), (*net.UDPAddr)(nil))
		r.note("nil pointer", n, err)
		n, err = c.WriteToUDP([]byte("x"), nil)
		r.note("nil pointer", n, err)
		n, err = c.WriteToUDPAddrPort([]byte("x"), netip.AddrPort{})
		r.note("invalid", n, err)
		n, _, err = c.WriteMsgUDP([]byte("x"), nil, nil)
		r.note("nil pointer", n, err)
		n, err = c.Write([]byte("x"))
		r.note("none", n, err)
		n, err = c.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(r.on(r.server, 0)))
		r.note("port 0", n, err)
		d := r.dialUDP(s.LocalAddr())
		n, err = d.WriteTo([]byte("x"), s.LocalAddr())
		r.note("connected", n, err)
		n, err = d.WriteToUDPAddrPort([]byte("x"), s.LocalAddr().(*net.UDPAddr).AddrPort())
		r.note("connected", n, err)
		n, _, err = d.WriteMsgUDP([]byte("x"), nil, s.LocalAddr().(*net.UDPAddr))
		r.note("connected", n, err)
		n, _, err = d.WriteMsgUDP([]byte("x"), nil, nil)
		r.note("connected", n, err)
	}},
	{"write to the other family", func(r *run) {
		four, err := r.client.ListenPacket("udp4", ":0")
		must(r, err)
		r.later(four)
		six, err := r.client.ListenPacket("udp6", ":0")
		must(r, err)
		r.later(six)
		n, err := four.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv6loopback, Port: 9})
		r.note("udp4", n, err)
		n, err = four.(udpConn).WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("[::1]:9"))
		r.note("udp4", n, err)
		n, err = six.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
		r.note("udp6", n, err)
		n, err = six.(udpConn).WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("127.0.0.1:9"))
		r.note("udp6", n, err)
	}},
	{"both families on one socket", func(r *run) {
		s, err := r.server.ListenPacket("udp", ":0")
		must(r, err)
		r.later(s)
		to := netip.AddrPortFrom(r.server.addrs[r.family], uint16(s.LocalAddr().(*net.UDPAddr).Port))
		c := r.dialUDP(net.UDPAddrFromAddrPort(to))
		for range 2 {
			_, err = c.Write([]byte("x"))
			must(r, err)
		}
		b := make([]byte, 10)
		n, from, err := s.ReadFrom(b)
		r.note("read", n, from.String() == c.LocalAddr().String(), len(from.(*net.UDPAddr).IP), err)
		n, port, err := s.(udpConn).ReadFromUDPAddrPort(b)
		r.note("read", n, port, err)
		n, err = s.WriteTo([]byte("x"), from)
		r.note("answer", n, err)
		n, err = s.(udpConn).WriteToUDPAddrPort([]byte("x"), port)
		r.note("answer", n, err)
		n, err = s.(udpConn).WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(port.Addr().Unmap(), port.Port()))
		r.note("answer", n, err)
		for range 3 {
			n, err = c.Read(b)
			r.note("read", n, err)
		}
	}},
	{"nobody there", func(r *run) {
		s := r.packet(r.server)
		c := r.dialUDP(s.LocalAddr())
		must(r, s.Close())
		b := make([]byte, 1)

		_, err := c.Write([]byte("x"))
		r.note("write", err)
		n, err := c.Read(b)
		r.note("read", n, err)

		wait := r.blocked(func(r *run) {
			n, err := c.Read(b)
			r.note("read", n, err)
		})
		_, err = c.Write([]byte("x"))
		r.note("write", err)
		wait()

		_, err = c.Write([]byte("x"))
		r.note("write", err)
		n, _, err = c.ReadFrom(b)
		r.note("ReadFrom", n, err)
		must(r, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		n, err = c.Read(b)
		r.note("read", n, err)

		u := r.packet(r.client)
		_, err = u.WriteTo([]byte("x"), s.LocalAddr())
		r.note("not connected", err)
		must(r, u.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		_, _, err = u.ReadFrom(b)
		r.note("not connected", err)
	}},
	{"nobody there for the second write", func(r *run) {
		s := r.packet(r.server)
		c := r.dialUDP(s.LocalAddr())
		must(r, s.Close())
		_, err := c.Write([]byte("x"))
		must(r, err)
		for err == nil { // until the answer has arrived
			time.Sleep(time.Millisecond) // Linux limits the rate of answers
			_, err = c.Write([]byte("x"))
		}
		r.note("write", err)
	}},
	{"size", func(r *run) {
		c, s := r.packet(r.client), r.packet(r.server)
		d := r.dialUDP(s.LocalAddr())
		most := map[int]int{4: 65507, 6: 65527}[r.family]
		must(r, s.SetReadBuffer(1<<20))
		b := make([]byte, 70000)
		for _, size := range []int{most, most + 1, most + 20, most + 28, 65536, 70000} {
			n, err := c.WriteTo(b[:size], s.LocalAddr())
			r.note("WriteTo", size, n, err)
			n, err = d.Write(b[:size])
			r.note("Write", size, n, err)
		}
		for range 2 {
			n, _, err := s.ReadFrom(b)
			r.note("read", n, err)
		}
	}},
	{"close while reading", func(r *run) {
		c := r.packet(r.client)
		wait := r.blocked(func(r *run) {
			n, from, err := c.ReadFrom(make([]byte, 1))
			r.note("read", n, from, err)
		})
		r.note("close", c.Close())
		wait()
	}},
	{"deadline while reading", func(r *run) {
		c := r.packet(r.client)
		wait := r.blocked(func(r *run) {
			n, from, err := c.ReadFrom(make([]byte, 1))
			r.note("read", n, from, err)
		})
		r.note("set", c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		wait()
	}},
	{"everything after close", func(r *run) {
		s := r.packet(r.server)
		for _, c := range []udpConn{r.packet(r.client), r.dialUDP(s.LocalAddr())} {
			r.note("close", c.Close())
			r.note("close again", c.Close())
			b := make([]byte, 1)
			n, err := c.Read(b)
			r.note("read", n, err)
			n, err = c.Read(nil)
			r.note("read nothing", n, err)
			n, from, err := c.ReadFrom(b)
			r.note("ReadFrom", n, from, err)
			_, udp, err := c.ReadFromUDP(b)
			r.note("ReadFromUDP", udp, err)
			_, port, err := c.ReadFromUDPAddrPort(b)
			r.note("ReadFromUDPAddrPort", port, err)
			_, _, _, _, err = c.ReadMsgUDP(b, nil)
			r.note("ReadMsgUDP", err)
			n, err = c.Write(b)
			r.note("write", n, err)
			n, err = c.WriteTo(b, s.LocalAddr())
			r.note("WriteTo", n, err)
			r.note("set", c.SetDeadline(past), c.SetReadBuffer(1), c.SetWriteBuffer(1))
			r.note("addresses", c.LocalAddr(), c.RemoteAddr())
		}
	}},
}
