package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
	"github.com/duotap/duotap/tap"
)

// onTAP runs the demo on a TAP, with the server on the kernel's side. It expects to be
// root in a network namespace of its own.
func (c *demoCommand) onTAP(p *program) error {
	const name = "duotap0"
	// Up at once: what happens to the link later is noticed later.
	dev, err := tap.Open(tap.Config{Name: name, Offload: c.Link == "tap", Up: true, Logger: p.log})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return &exitError{code: exitNoTAP, err: err}
	}
	if err != nil {
		return err
	}
	if err := configureKernel(name, serverAddrs); err != nil {
		return errors.Join(err, dev.Close())
	}
	r := &demoReport{Link: c.Link, MTU: dev.MTU(), Offload: dev.Features().Takes.Has(link.TSO4 | link.TSO6)}
	return c.run(p, r, dev, func(addr netip.AddrPort) (net.Listener, error) {
		return net.Listen("tcp", addr.String())
	})
}

// inMemory runs the demo between two instances in this process.
func (c *demoCommand) inMemory(p *program, why string) error {
	ours, theirs := memlink.Pair(1500)
	server := &network{}
	if err := server.start(p.ctx, stack.Config{Name: "server", Addresses: serverAddrs, Logger: p.log}, theirs); err != nil {
		return errors.Join(err, ours.Close())
	}
	r := &demoReport{Link: "memory", Why: why, MTU: ours.MTU(), Offload: true}
	err := c.run(p, r, ours, func(addr netip.AddrPort) (net.Listener, error) {
		return server.ip.Listen("tcp", addr.String())
	})
	return errors.Join(err, server.close())
}

// run starts the server with listen and the appliance on dev, and sends.
func (c *demoCommand) run(p *program, r *demoReport, dev link.Device, listen func(netip.AddrPort) (net.Listener, error)) error {
	server := newDemoServer(c.Size, p.log)
	defer server.close()
	n := &network{}
	dev, err := (&linkFlags{Pcap: c.Pcap}).wrap(n, dev)
	if err != nil {
		return err
	}
	if err := n.start(p.ctx, stack.Config{Name: "appliance", Addresses: applianceAddrs, Logger: p.log}, dev); err != nil {
		return errors.Join(err, n.closeCapture())
	}
	for _, a := range serverAddrs {
		l, err := listen(netip.AddrPortFrom(a.Addr(), demoPort))
		if err != nil {
			return errors.Join(err, n.close())
		}
		server.serve(l)
	}
	if err := c.exchange(p, n, server, r); err != nil {
		return errors.Join(err, n.close())
	}
	return c.finish(p, n, r)
}

// configureKernel gives the kernel's side of a TAP its addresses and brings it up.
func configureKernel(name string, addrs []netip.Prefix) error {
	for _, l := range []string{"lo", name} {
		dev, err := netlink.LinkByName(l)
		if err == nil {
			err = netlink.LinkSetUp(dev)
		}
		if err != nil {
			return fmt.Errorf("bringing up the kernel's interface %s: %w", l, err)
		}
	}
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the kernel's interface %s: %w", name, err)
	}
	for _, a := range addrs {
		ipnet := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		// The namespace is new and has no other host, so there is no duplicate to detect.
		if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("giving the kernel's interface %s the address %v: %w", name, a, err)
		}
	}
	return nil
}
