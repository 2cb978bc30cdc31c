package memlink

import (
	"errors"
	"fmt"
	"sync"

	"github.com/duotap/duotap/stack/link"
)

const (
	defaultMTU = 1500
	minMTU     = 68    // the smallest that IPv4 allows (RFC 791)
	maxMTU     = 65535 // the largest IPv4 packet

	allOffloads = link.Checksum | link.TSO4 | link.TSO6 | link.USO4 | link.USO6
)

// Config describes a cable.
type Config struct {
	// MTU is the largest IP packet, in bytes, 68 to 65,535; 1,500 if zero.
	MTU int

	// Offloads is what both ends take and give: what their users may leave undone.
	// Zero is a cable for plain frames.
	Offloads link.Offloads
}

func (c *Config) validate() error {
	var errs []error
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		errs = append(errs, fmt.Errorf("memlink: Config.MTU is %d, and has to be %d to %d", c.MTU, minMTU, maxMTU))
	}
	if c.Offloads&^allOffloads != 0 {
		errs = append(errs, fmt.Errorf("memlink: Config.Offloads has unknown bits: %#x", c.Offloads))
	}
	if c.Offloads&^link.Checksum != 0 && !c.Offloads.Has(link.Checksum) {
		errs = append(errs, errors.New("memlink: Config.Offloads has segmentation, which needs link.Checksum too"))
	}
	return errors.Join(errs...)
}

// New makes a cable and returns its ends.
func New(cfg Config) (a, b *Device, err error) {
	if err := cfg.validate(); err != nil {
		return nil, nil, err
	}
	c := &cable{plugged: true}
	for i := range c.ends {
		c.ends[i] = newDevice(cfg.MTU, cfg.Offloads, c)
		c.ends[i].carrier.Set(true)
	}
	return c.ends[0], c.ends[1], nil
}

// Pair makes a cable with all offloads and returns its ends. It panics if mtu, in
// bytes, is not in the range of Config.MTU.
func Pair(mtu int) (a, b *Device) {
	a, b, err := New(Config{MTU: mtu, Offloads: allOffloads})
	if err != nil {
		panic(err)
	}
	return a, b
}

func newDevice(mtu int, offloads link.Offloads, w wire) *Device {
	d := &Device{mtu: mtu, offloads: offloads, wire: w}
	d.in.closed = make(chan struct{})
	return d
}

// cable is the wire between two devices.
type cable struct {
	ends [2]*Device

	mu      sync.Mutex
	plugged bool
	cut     bool // one end is closed
}

func (c *cable) forward(from *Device, frames []link.Frame) {
	to := c.ends[0]
	if from == to {
		to = c.ends[1]
	}
	to.receive(frames)
}

func (c *cable) setUp(_ *Device, up bool) { c.update(func() { c.plugged = up }) }

func (c *cable) remove(*Device) { c.update(func() { c.cut = true }) }

// update changes the state of the cable and tells both ends, without the lock: their
// watchers may call SetUp.
func (c *cable) update(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	for _, d := range c.ends {
		d.carrier.Update(c.up)
	}
}

func (c *cable) up() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plugged && !c.cut
}
