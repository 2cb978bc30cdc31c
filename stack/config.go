package stack

import (
	"cmp"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack/link"
)

// Config describes an Instance with one link. AttachLink adds more.
type Config struct {
	// Name appears in errors and logs. Default: "duotap".
	Name string

	// Link is the first link. Required. The instance owns it once New has returned
	// nil: Close closes it.
	Link link.Device

	// LinkName is the first link's name and the zone of its link-local addresses.
	// Default: "eth0".
	LinkName string

	// Pool is where the instance takes its own packets from: the receive ring, all of
	// it at Start. Required, and best not shared with an application: a pool emptied by
	// data to send must not stop acknowledgements from being received. RingBytes says
	// how much is needed.
	Pool *packetpool.Pool

	// HardwareAddr is the first link's MAC address. Default: random, locally
	// administered.
	HardwareAddr net.HardwareAddr

	// Addresses are the first link's own addresses with their prefix lengths, of both
	// families. IPv6 ones need EnableIPv6, which adds a link-local address too.
	Addresses []netip.Prefix

	// Gateways are default routers on the first link, at most one of each family.
	Gateways []netip.Addr

	// DNS are the name servers that LookupHost asks, in order.
	DNS []netip.Addr

	// TCP bounds the memory of connections.
	TCP TCPConfig

	// Clock is the time the whole instance lives in. Default: the machine's.
	Clock Clock

	// Rand is the source of all that has to be unpredictable: ports, initial sequence
	// numbers, MAC addresses. Default: crypto/rand. A seeded source makes a test
	// repeatable, and an instance that anyone can spoof.
	Rand io.Reader

	// Logger gets what happens without anyone asking: a duplicate address, a link gone
	// down. Default: none.
	Logger *slog.Logger
}

// TCPConfig bounds TCP's memory, which is outside the packet pools.
type TCPConfig struct {
	// SendBuffer is the most a connection holds of unacknowledged and unsent data, in
	// bytes, 4 KiB to 64 MiB. Default: 4 MiB.
	SendBuffer int

	// ReceiveBuffer is the most a connection's receive window grows to, in bytes, 4 KiB
	// to 64 MiB. Default: 8 MiB.
	ReceiveBuffer int
}

// LinkConfig describes a further link of an Instance; its fields are those of Config.
type LinkConfig struct {
	Link         link.Device
	Name         string // default: "eth1" for the second link, and so on
	HardwareAddr net.HardwareAddr
	Addresses    []netip.Prefix
	Gateways     []netip.Addr
}

const (
	minBuffer            = 4 << 10
	maxBuffer            = 64 << 20
	defaultSendBuffer    = 4 << 20
	defaultReceiveBuffer = 8 << 20
)

// withDefaults fills in the zero fields.
func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, "duotap")
	c.TCP.SendBuffer = cmp.Or(c.TCP.SendBuffer, defaultSendBuffer)
	c.TCP.ReceiveBuffer = cmp.Or(c.TCP.ReceiveBuffer, defaultReceiveBuffer)
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.Rand == nil {
		c.Rand = crand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) validate() error {
	var errs []error
	if c.Pool == nil {
		errs = append(errs, errors.New("no Pool is given; it is required"))
	}
	for _, b := range []struct {
		name string
		n    int
	}{{"TCP.SendBuffer", c.TCP.SendBuffer}, {"TCP.ReceiveBuffer", c.TCP.ReceiveBuffer}} {
		if b.n < minBuffer || b.n > maxBuffer {
			errs = append(errs, fmt.Errorf("%s is %d bytes, want %d to %d", b.name, b.n, minBuffer, maxBuffer))
		}
	}
	for _, a := range c.DNS {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			errs = append(errs, fmt.Errorf("DNS server %v is not a unicast address", a))
		}
	}
	return errors.Join(errs...)
}

func (c *LinkConfig) validate() error {
	var errs []error
	if c.Link == nil {
		errs = append(errs, errors.New("no Link is given; it is required"))
	}
	if h := c.HardwareAddr; h != nil && (len(h) != 6 || h[0]&1 != 0 || [6]byte(h) == [6]byte{}) {
		errs = append(errs, fmt.Errorf("HardwareAddr %v is not a unicast MAC address of 6 bytes", h))
	}
	seen := map[netip.Addr]bool{}
	for _, p := range c.Addresses {
		if err := checkPrefix(p); err != nil {
			errs = append(errs, err)
		} else if seen[p.Addr()] {
			errs = append(errs, fmt.Errorf("address %v is given twice", p.Addr()))
		}
		seen[p.Addr()] = true
	}
	families := map[bool]netip.Addr{}
	for _, g := range c.Gateways {
		if other, twice := families[g.Is4()]; twice {
			errs = append(errs, fmt.Errorf("gateways %v and %v are of one family; one default route is possible", other, g))
		}
		families[g.Is4()] = g
		switch {
		case g.Zone() != "" && g.Zone() != c.Name:
			errs = append(errs, fmt.Errorf("gateway %v is in the zone of another link than %q", g, c.Name))
		case !c.onLink(g):
			errs = append(errs, fmt.Errorf("gateway %v is in none of the link's subnets %v", g, c.Addresses))
		}
	}
	return errors.Join(errs...)
}

// onLink reports whether a can be reached without a router.
func (c *LinkConfig) onLink(a netip.Addr) bool {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range c.Addresses {
		if p.Contains(a) && p.Addr() != a && !namesSubnet(netip.PrefixFrom(a, p.Bits())) {
			return true
		}
	}
	return false
}

// broadcast is the address of all hosts on a link (RFC 919).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func checkPrefix(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return errors.New("address is the zero Prefix; use netip.ParsePrefix")
	case a.Is4In6():
		return fmt.Errorf("address %v is an IPv4-mapped one; give it as IPv4", p)
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == broadcast:
		return fmt.Errorf("address %v can't be a host's own: it is unspecified, loopback, multicast or broadcast", p)
	case namesSubnet(p):
		return fmt.Errorf("address %v is that of the whole subnet, or its broadcast address; want one in between", p)
	case a.Zone() != "":
		return fmt.Errorf("address %v has a zone; the link it is given to is its zone", p)
	case p.Bits() == 0:
		return fmt.Errorf("address %v makes the whole Internet one subnet; want a prefix length of at least 1", p)
	}
	return nil
}

// namesSubnet reports whether the host part of an IPv4 address is all zeros or all ones
// (RFC 1122 §3.2.1.3). With a prefix length of 31 that has no meaning (RFC 3021).
func namesSubnet(p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return false
	}
	b := p.Addr().As4()
	host := binary.BigEndian.Uint32(b[:]) << p.Bits()
	return host == 0 || host == ^uint32(0)<<p.Bits()
}

// Clock is a source of time. The default is the machine's; a test harness brings its
// own. It must be safe for concurrent use.
type Clock interface {
	// Now returns the time. Differences between two results have to make sense even if
	// the wall clock is set in between, as they do with time.Now.
	Now() time.Time

	// AfterFunc calls f in a goroutine of its own once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is one call that a Clock will make. *time.Timer is one.
type Timer interface {
	// Stop prevents the call, and reports whether it did.
	Stop() bool

	// Reset makes a stopped or expired timer call after d again, and reports whether it
	// had been active.
	Reset(d time.Duration) bool
}

type systemClock struct{}

func (systemClock) Now() time.Time                            { return time.Now() }
func (systemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
