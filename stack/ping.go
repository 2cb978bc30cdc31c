package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// MaxPing is the largest payload of a Ping, in bytes: an IPv4 packet of 65,535.
const MaxPing = 65535 - header.IPv4MinimumSize - header.ICMPv4MinimumSize

// PingReply is the answer to an echo request.
type PingReply struct {
	From netip.Addr
	Size int // bytes of payload
	RTT  time.Duration
}

// Ping sends one ICMP echo request (RFC 792, RFC 4443 §4.1) with size bytes of payload,
// 0 to MaxPing, and waits for its answer until ctx ends: give it a deadline. It needs
// EnableICMP.
func (i *Instance) Ping(ctx context.Context, addr netip.Addr, size int) (PingReply, error) {
	ctx, cancel := i.untilClose(ctx)
	defer cancel()
	reply, err := i.ping(ctx, addr, size)
	if err != nil {
		return PingReply{}, fmt.Errorf("stack: pinging %v: %w", addr, i.unlessClosed(err))
	}
	return reply, nil
}

func (i *Instance) ping(ctx context.Context, addr netip.Addr, size int) (PingReply, error) {
	if size < 0 || size > MaxPing {
		return PingReply{}, fmt.Errorf("payload of %d bytes, want 0 to %d", size, MaxPing)
	}
	if !i.has(serviceICMP) {
		return PingReply{}, fmt.Errorf("ICMP: %w; call EnableICMP before Start", ErrNotEnabled)
	}
	// A neighbour that isn't there would leave the endpoint without an error to tell.
	if _, err := i.neighbor(ctx, addr); err != nil {
		return PingReply{}, err
	}
	p, err := i.newPinger(addr, size)
	if err != nil {
		return PingReply{}, err
	}
	defer p.close()
	return p.exchange(ctx)
}

// pinger is one echo request.
type pinger struct {
	i       *Instance
	addr    netip.Addr
	payload []byte
	ep      tcpip.Endpoint
	queue   waiter.Queue
	entry   waiter.Entry
	ready   chan struct{}
}

func (i *Instance) newPinger(addr netip.Addr, size int) (*pinger, error) {
	ns, err := i.running()
	if err != nil {
		return nil, err
	}
	to, err := i.fullAddress(netip.AddrPortFrom(addr, 0))
	if err != nil {
		return nil, err
	}
	addr = addr.Unmap()
	if own := i.addrs.find(addr); own != nil {
		to.NIC = own.link.nic // over loopback, gVisor doesn't answer for an IPv4 address of another link
	}
	trans, proto := icmp.ProtocolNumber4, header.IPv4ProtocolNumber
	if addr.Is6() {
		trans, proto = icmp.ProtocolNumber6, header.IPv6ProtocolNumber
	}
	p := &pinger{i: i, addr: addr, payload: make([]byte, size)}
	if _, err := i.rand.Read(p.payload); err != nil {
		return nil, fmt.Errorf("making its payload: %w", err)
	}
	ep, terr := ns.NewEndpoint(trans, proto, &p.queue)
	if terr != nil {
		return nil, fmt.Errorf("opening an ICMP endpoint: %s", terr)
	}
	p.ep = ep
	p.entry, p.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	p.queue.EventRegister(&p.entry)
	if terr := ep.Connect(to); terr != nil {
		p.close()
		return nil, fmt.Errorf("opening an ICMP endpoint: %s", terr)
	}
	return p, nil
}

func (p *pinger) close() {
	p.queue.EventUnregister(&p.entry)
	p.ep.Close()
}

// exchange sends the request and waits for the answer with the same payload.
func (p *pinger) exchange(ctx context.Context) (PingReply, error) {
	request := p.request()
	sent := p.i.cfg.Clock.Now()
	if _, terr := p.ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); terr != nil {
		return PingReply{}, fmt.Errorf("sending the request: %s", terr)
	}
	var answer bytes.Buffer
	for {
		answer.Reset()
		_, terr := p.ep.Read(&answer, tcpip.ReadOptions{})
		rtt := p.i.cfg.Clock.Now().Sub(sent)
		switch {
		case terr == nil && bytes.Equal(answer.Bytes()[min(answer.Len(), header.ICMPv4MinimumSize):], p.payload):
			return PingReply{From: p.addr, Size: len(p.payload), RTT: rtt}, nil
		case terr == nil:
			continue // a late answer to somebody else
		}
		if _, wait := terr.(*tcpip.ErrWouldBlock); !wait {
			return PingReply{}, fmt.Errorf("waiting for the answer: %s", terr)
		}
		if !p.i.gate.wait(p.ready, ctx.Done()) {
			return PingReply{}, fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}

// request makes the ICMP message; the endpoint fills in identifier and checksum.
func (p *pinger) request() []byte {
	b := make([]byte, header.ICMPv4MinimumSize, header.ICMPv4MinimumSize+len(p.payload))
	b[0] = byte(header.ICMPv4Echo)
	if p.addr.Is6() {
		b[0] = byte(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[6:], 1) // sequence number
	b = append(b, p.payload...)
	header.ICMPv4(b).SetChecksum(^checksum.Checksum(b, 0))
	return b
}
