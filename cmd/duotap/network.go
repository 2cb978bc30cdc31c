package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/pcapng"
	"github.com/duotap/duotap/tap"
)

// linkFlags say how to reach the network.
type linkFlags struct {
	Link        string         `enum:"tap,tap-plain,kernel" default:"tap" help:"What to run on: a TAP with offloads, a TAP with plain frames, or the kernel's own TCP/IP (${enum})." placeholder:"KIND"`
	Tap         string         `help:"TAP interface; duotap tap create makes one." placeholder:"NAME" default:"duotap0"`
	Address     []netip.Prefix `help:"An address of ours with its prefix length, as 192.0.2.2/24 or fd99::2/64. Repeatable." placeholder:"PREFIX"`
	Gateway     []netip.Addr   `help:"Default router, one of each family. Repeatable." placeholder:"ADDR"`
	MAC         string         `name:"mac" help:"Our MAC address. Default: made from the TAP's name and the first address, so that it stays the same."`
	MTU         int            `name:"mtu" help:"Largest IP packet; set on the host's side of the TAP, too. Default: that of the TAP." placeholder:"BYTES"`
	DNS         []netip.Addr   `name:"dns" help:"Name server. Repeatable." placeholder:"ADDR"`
	Pcap        string         `help:"Capture the traffic into a new pcapng file, credentials blanked." placeholder:"FILE"`
	PcapSecrets bool           `help:"Leave credentials in the capture."`
}

// network is what a command sends through: an instance on a TAP, or the kernel.
type network struct {
	dialer  smtpclient.Dialer
	ip      *stack.Instance  // nil for the kernel
	pool    *packetpool.Pool // the instance's
	capture *pcapng.Writer
}

// open brings the network up, with the services that every command needs.
func (f *linkFlags) open(p *program) (*network, error) {
	if f.Link == "kernel" {
		return f.openKernel()
	}
	mac, err := f.hardwareAddr()
	if err != nil {
		return nil, usageError(err)
	}
	if len(f.Address) == 0 {
		return nil, usageError(errors.New("--address is missing: our own address on the TAP, such as --address 192.0.2.2/24"))
	}
	opened, err := tap.Open(tap.Config{Name: f.Tap, MustExist: true, Offload: f.Link == "tap", MTU: f.MTU, Logger: p.log})
	if err != nil {
		return nil, err
	}
	n := &network{}
	dev, err := f.wrap(n, opened)
	if err == nil {
		err = n.start(p.ctx, stack.Config{Name: f.Tap, HardwareAddr: mac, Addresses: f.Address, Gateways: f.Gateway, DNS: f.DNS, Logger: p.log}, dev)
	}
	if err != nil {
		return nil, errors.Join(err, n.closeCapture())
	}
	// Nothing gets through, and IPv6 would wait for its addresses until the timeout.
	if !n.ip.Stats().Links[0].Up {
		return nil, errors.Join(fmt.Errorf("%w: bring the kernel's side of %s up: ip link set %s up", link.ErrDown, f.Tap, f.Tap), n.close())
	}
	return n, nil
}

func (f *linkFlags) openKernel() (*network, error) {
	if len(f.Address)+len(f.Gateway)+len(f.DNS) > 0 || f.MAC != "" || f.MTU != 0 || f.Pcap != "" {
		return nil, usageError(errors.New("--link kernel uses the kernel's configuration; --address, --gateway, --dns, --mac, --mtu and --pcap need a TAP"))
	}
	return &network{dialer: &net.Dialer{}}, nil
}

// checkName refuses a server that is known by its name only, if nobody can be asked
// for its address.
func (f *linkFlags) checkName(server string) error {
	host := serverHost(server)
	if _, err := netip.ParseAddr(host); err == nil || f.Link == "kernel" || len(f.DNS) > 0 || host == "localhost" {
		return nil
	}
	return usageError(fmt.Errorf("--server %s is a name; give a name server too with --dns, or an address in its place", server))
}

// serverHost is a server without its port.
func serverHost(server string) string {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		host = strings.Trim(server, "[]")
	}
	return host
}

// hardwareAddr returns --mac, or an address that is the same in each run, so that the
// caches of our neighbours stay right.
func (f *linkFlags) hardwareAddr() (net.HardwareAddr, error) {
	if f.MAC != "" {
		mac, err := net.ParseMAC(f.MAC)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("--mac %q is not a MAC address such as 02:00:00:00:00:02", f.MAC)
		}
		return mac, nil
	}
	h := sha256.New()
	fmt.Fprint(h, f.Tap, f.Address)
	mac := net.HardwareAddr(h.Sum(nil)[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac, nil
}

// wrap adds the capture. Closing the result closes dev, also if wrap fails.
func (f *linkFlags) wrap(n *network, dev link.Device) (link.Device, error) {
	if f.Pcap == "" {
		return dev, nil
	}
	w, err := pcapng.CreateWith(f.Pcap, pcapng.Config{Secrets: f.PcapSecrets})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	n.capture = w
	return pcapng.Wrap(dev, w), nil
}

const instancePayload = 2048

// start makes an instance on dev, which it owns from here on.
func (n *network) start(ctx context.Context, cfg stack.Config, dev link.Device) error {
	pool, err := packetpool.New(packetpool.Config{
		Name: "instance", Payload: instancePayload, Packets: 8 + (stack.RingBytes(dev)+2*link.MaxSuperFrame)/instancePayload})
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	cfg.Link, cfg.Pool = dev, pool
	ip, err := stack.New(cfg)
	if err != nil {
		return errors.Join(&exitError{code: exitConfig, err: err}, dev.Close())
	}
	if err := errors.Join(ip.EnableTCP(), ip.EnableUDP(), ip.EnableICMP(), ip.EnableIPv6(), ip.Start(ctx)); err != nil {
		return err
	}
	n.dialer, n.ip, n.pool = ip, ip, pool
	return nil
}

// close takes the network down. It returns what a capture has failed with.
func (n *network) close() error {
	var err error
	if n.ip != nil {
		err = n.ip.Close()
	}
	return errors.Join(err, n.closeCapture())
}

// reportConflicts says which of our addresses another host has: the likeliest mistake of
// all, and seldom what an error looks like.
func (n *network) reportConflicts(p *program) {
	if n.ip == nil {
		return
	}
	for _, c := range n.ip.Conflicts() {
		fmt.Fprintf(p.stderr, "duotap: our address %v is in use by another host, %v; give us another with --address\n", c.Address, c.Holder)
	}
}

func (n *network) closeCapture() error {
	if n.capture == nil {
		return nil
	}
	return n.capture.Close()
}
