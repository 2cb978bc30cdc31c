package memlink

import (
	"slices"
	"sync"
	"time"

	"github.com/duotap/duotap/stack/link"
)

const (
	// MaxAddresses is how many MAC addresses a Switch remembers. Frames to others
	// are flooded, as those to unknown addresses are.
	MaxAddresses = 1024

	// AddressAge is how long a Switch remembers an address that it doesn't see (IEEE
	// 802.1Q, table 8-3).
	AddressAge = 5 * time.Minute
)

// Switch is an Ethernet switch without spanning tree. It learns behind which of its
// ports an address is, from the source of frames, and sends frames for an address
// that it doesn't know, and those for a group, to all other ports. Its methods may
// be called from several goroutines.
type Switch struct {
	mtu int

	mu        sync.Mutex
	ports     []*Device // replaced as a whole, so that a sender can walk it unlocked
	addresses map[mac]station
	swept     time.Time // when old addresses were last looked for
}

type mac [6]byte

func (m mac) group() bool { return m[0]&1 != 0 }

// station is what a Switch knows about an address.
type station struct {
	port *Device
	seen time.Time
}

// NewSwitch makes a switch without ports, for IP packets of up to mtu bytes. It
// panics if mtu is not in the range of Config.MTU.
func NewSwitch(mtu int) *Switch {
	cfg := Config{MTU: mtu}
	if err := cfg.validate(); err != nil {
		panic(err)
	}
	return &Switch{mtu: cfg.MTU, addresses: make(map[mac]station)}
}

// Port adds a port, with all offloads. Closing the Device removes it.
func (s *Switch) Port() *Device {
	d := newDevice(s.mtu, allOffloads, s)
	d.carrier.Set(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(slices.Clone(s.ports), d)
	return d
}

// Addresses is how many MAC addresses the switch remembers, those included whose age
// it hasn't noticed yet.
func (s *Switch) Addresses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.addresses)
}

// forward hands on frames that go the same way together, so that batches remain
// batches.
func (s *Switch) forward(from *Device, frames []link.Frame) {
	for len(frames) > 0 {
		to, others := s.route(from, &frames[0])
		n := 1
		for n < len(frames) && s.sameWay(from, to, &frames[n]) {
			n++
		}
		switch {
		case to == from: // the other station has heard it already
		case to != nil:
			deliverTo(to, frames[:n])
		default:
			for _, port := range others {
				if port != from {
					deliverTo(port, frames[:n])
				}
			}
		}
		frames = frames[n:]
	}
}

func deliverTo(port *Device, frames []link.Frame) {
	if port.carrier.Up() {
		port.receive(frames)
	} else {
		port.dropped.Add(uint64(len(frames)))
	}
}

func (s *Switch) sameWay(from, to *Device, f *link.Frame) bool {
	next, _ := s.route(from, f)
	return next == to
}

// route learns where f came from, and returns the port that it goes to, or nil and
// the ports to flood.
func (s *Switch) route(from *Device, f *link.Frame) (to *Device, all []*Device) {
	var addresses [12]byte
	f.CopyAt(addresses[:], 0)
	dst, src := mac(addresses[:6]), mac(addresses[6:])
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !src.group() {
		s.learn(src, station{port: from, seen: now})
	}
	if known, ok := s.addresses[dst]; ok && now.Sub(known.seen) < AddressAge {
		return known.port, nil
	}
	return nil, s.ports
}

// learn remembers where m is, if there is room or some can be made. It looks for
// room once a second at most, lest a flood of made-up addresses slows everybody down.
func (s *Switch) learn(m mac, where station) {
	if where.port.in.isClosed() {
		return
	}
	_, known := s.addresses[m]
	full := len(s.addresses) >= MaxAddresses
	if !known && full && where.seen.Sub(s.swept) >= time.Second {
		s.swept = where.seen
		s.forget(func(old station) bool { return where.seen.Sub(old.seen) >= AddressAge })
		full = len(s.addresses) >= MaxAddresses
	}
	if known || !full {
		s.addresses[m] = where
	}
}

func (s *Switch) forget(which func(station) bool) {
	for m, st := range s.addresses {
		if which(st) {
			delete(s.addresses, m)
		}
	}
}

func (s *Switch) setUp(from *Device, up bool) {
	s.mu.Lock()
	s.forget(func(st station) bool { return st.port == from })
	s.mu.Unlock()
	from.carrier.Set(up)
}

func (s *Switch) remove(from *Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(func(st station) bool { return st.port == from })
	s.ports = slices.DeleteFunc(slices.Clone(s.ports), func(d *Device) bool { return d == from })
}
