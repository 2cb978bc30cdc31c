package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
)

// UDP sends datagrams as fast as the sender can, and counts those that arrive. The
// kernel's sockets send and receive in batches (sendmmsg, recvmmsg); in the cases with
// "-gso" they also leave segmentation to the link (UDP_SEGMENT, UDP_GRO). All ratios are to the
// kernel without that.
type UDP struct {
	// Directions are out of "send" and "receive", seen from the stack under test.
	// Default: both.
	Directions []string

	// Sizes of the payload in bytes, 1 to 1,452. Default: 64 and 1,400.
	Sizes []int
}

// MaxDatagram is the largest payload that UDP can measure, in bytes: what fits the MTU
// of 1500 behind the headers of IPv6.
const MaxDatagram = 1452

// Name implements Scenario.
func (*UDP) Name() string { return "udp" }

// Cases implements Scenario.
func (s *UDP) Cases(families []int) []Case {
	directions, sizes := s.Directions, s.Sizes
	if len(directions) == 0 {
		directions = []string{"send", "receive"}
	}
	if len(sizes) == 0 {
		sizes = []int{64, 1400}
	}
	var cases []Case
	for _, f := range families {
		for _, size := range sizes {
			for _, d := range directions {
				cases = append(cases, Case{Name: d, Family: f, Size: size, Count: 1},
					Case{Name: d + "-gso", Family: f, Size: size, Count: 1, Against: d})
			}
		}
	}
	return cases
}

// Runs implements Scenario. There is no kernel in memory, and a TAP for plain frames has no
// segmentation.
func (*UDP) Runs(c Case, l Link) bool {
	return !strings.HasSuffix(c.Name, "-gso") || l == TAP || l == Kernel
}

func (*UDP) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	if c.Size < 1 || c.Size > MaxDatagram {
		return nil, fmt.Errorf("datagrams of %d bytes, want 1 to %d", c.Size, MaxDatagram)
	}
	direction, offload := strings.CutSuffix(c.Name, "-gso")
	r := request{Op: opUDPSink, Offload: offload, Size: uint32(c.Size)}
	work := sendAll
	if direction == "receive" {
		r.Op, work = opUDPSource, receiveAll
	}
	control, d, err := l.openUDP(ctx, c.Family, r)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- work(d, &l.own) }()
	m, err := l.watch(ctx, w)
	err = errors.Join(err, l.peer.hangUp(), control.Close(), l.idle(ctx), d.Close())
	if why := <-ended; !errors.Is(why, net.ErrClosed) {
		err = errors.Join(err, why)
	}
	if err != nil {
		return nil, err
	}
	return udpMetrics(&m), nil
}

func udpMetrics(m *measured) []Metric {
	sent := m.own.perSecond(m.own.Sent) + m.peer.perSecond(m.peer.Sent)
	received := m.own.perSecond(m.own.Packets) + m.peer.perSecond(m.peer.Packets)
	packets := float64(m.own.Packets + m.peer.Packets)
	return []Metric{
		{"received", "packets/s", received},
		{"sent", "packets/s", sent},
		{"lost", "%", max(0, 100*(1-received/sent))},
		{"CPU", "us each", (m.own.CPU + m.peer.CPU).Seconds() * 1e6 / packets},
		m.allocsPerFrame(),
		m.others(),
	}
}

// openUDP makes a socket at either end, joined, and has the peer do its part until
// control is closed. The two tell each other their ports over control.
func (l *testLink) openUDP(ctx context.Context, family int, r request) (control net.Conn, d datagrams, err error) {
	control, err = l.dialCommand(ctx, family, r)
	if err != nil {
		return nil, nil, err
	}
	c, err := l.host.ListenPacket(fmt.Sprintf("udp%d", family), ":0")
	if err != nil {
		return nil, nil, errors.Join(err, control.Close())
	}
	port, err := tellPort(control, c)
	if err == nil {
		d, err = newDatagrams(c, netip.AddrPortFrom(l.remote(family), port), int(r.Size), r.Offload)
	}
	if err != nil {
		return nil, nil, errors.Join(err, c.Close(), control.Close())
	}
	return control, d, nil
}

// tellPort sends the port of c over control, and returns the other side's.
func tellPort(control net.Conn, c net.PacketConn) (uint16, error) {
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	if err := binary.Write(control, binary.BigEndian, local.Port()); err != nil {
		return 0, fmt.Errorf("telling the port: %w", err)
	}
	var port uint16
	if err := binary.Read(control, binary.BigEndian, &port); err != nil {
		return 0, fmt.Errorf("waiting for the port: %w", err)
	}
	return port, nil
}

// udp is the peer's part of openUDP.
func (p *peer) udp(control net.Conn, r request) error {
	remote, err := netip.ParseAddrPort(control.RemoteAddr().String())
	if err != nil {
		return err
	}
	network := "udp6"
	if remote.Addr().Unmap().Is4() {
		network = "udp4"
	}
	c, err := p.host.ListenPacket(network, ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	port, err := tellPort(control, c)
	if err != nil {
		return err
	}
	d, err := newDatagrams(c, netip.AddrPortFrom(remote.Addr().Unmap(), port), int(r.Size), r.Offload)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		if r.Op == opUDPSource {
			ended <- sendAll(d, &p.traffic)
		} else {
			ended <- receiveAll(d, &p.traffic)
		}
	}()
	_, _ = io.Copy(io.Discard, control) // it ends, whether in order or not
	err = d.Close()
	<-ended
	return err
}
