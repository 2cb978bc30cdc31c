package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

var (
	// ErrStarted is returned by what has to be done before Start.
	ErrStarted = errors.New("instance is started already")

	// ErrNotStarted is returned by what needs a started instance.
	ErrNotStarted = errors.New("instance is not started")

	// ErrNotEnabled is wrapped by errors about a service that was not enabled.
	ErrNotEnabled = errors.New("service is not enabled")

	// ErrDuplicateAddress is wrapped by errors about an address of ours that another
	// host on the link has.
	ErrDuplicateAddress = errors.New("address is in use by another host")
)

// Instance is one IP stack on one or more links. Its methods may be called from
// several goroutines at once.
type Instance struct {
	cfg   Config
	life  context.Context // ends with Close
	end   context.CancelFunc
	log   *slog.Logger
	clock *tcpipClock
	rand  *lockedReader
	gate  gate

	mu      sync.Mutex
	phase   phase
	links   []*netLink
	enabled map[service]bool

	ns    *gstack.Stack // built by Start
	addrs *addressTable

	sockets socketTable

	routesMu sync.Mutex // one updateRoutes at a time
}

type phase int

const (
	building phase = iota
	started
	closed
)

type service string

const (
	serviceTCP        service = "TCP"
	serviceUDP        service = "UDP"
	serviceICMP       service = "ICMP"
	serviceIPv6       service = "IPv6"
	serviceForwarding service = "forwarding"
)

// New returns an instance with all services off and nothing on the wire yet. It fails
// with everything that is wrong with cfg at once, and has then taken nothing over.
func New(cfg Config) (*Instance, error) {
	cfg = cfg.withDefaults()
	i := &Instance{
		cfg:     cfg,
		clock:   newTCPIPClock(cfg.Clock),
		rand:    &lockedReader{r: cfg.Rand},
		enabled: map[service]bool{},
	}
	i.life, i.end = context.WithCancel(context.Background())
	i.log = cfg.Logger.With("instance", cfg.Name)
	i.addrs = newAddressTable()
	first := LinkConfig{Link: cfg.Link, Name: cfg.LinkName, HardwareAddr: cfg.HardwareAddr,
		Addresses: cfg.Addresses, Gateways: cfg.Gateways}
	if err := errors.Join(cfg.validate(), i.attach(first)); err != nil {
		return nil, fmt.Errorf("stack: creating instance %q: %w", cfg.Name, err)
	}
	return i, nil
}

// Name returns Config.Name.
func (i *Instance) Name() string { return i.cfg.Name }

// AttachLink adds a link. It is an error after Start.
func (i *Instance) AttachLink(cfg LinkConfig) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase != building {
		return fmt.Errorf("stack: attaching a link to %q: %w", i.cfg.Name, i.phaseError())
	}
	if err := i.attach(cfg); err != nil {
		return fmt.Errorf("stack: attaching a link to %q: %w", i.cfg.Name, err)
	}
	return nil
}

func (i *Instance) attach(cfg LinkConfig) error {
	if cfg.Name == "" {
		cfg.Name = fmt.Sprintf("eth%d", len(i.links))
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	for _, l := range i.links {
		if err := l.checkOther(&cfg); err != nil {
			return err
		}
	}
	if cfg.HardwareAddr == nil {
		mac := make(net.HardwareAddr, 6)
		if _, err := i.rand.Read(mac); err != nil {
			return fmt.Errorf("choosing a MAC address: %w", err)
		}
		mac[0] = mac[0]&^1 | 2 // unicast, locally administered
		cfg.HardwareAddr = mac
	}
	i.links = append(i.links, newNetLink(i, cfg, tcpip.NICID(len(i.links)+firstNIC)))
	return nil
}

// checkOther reports whether cfg can be a link beside l. The same link-local address on
// both is two addresses (RFC 4007).
func (l *netLink) checkOther(cfg *LinkConfig) error {
	switch {
	case l.name == cfg.Name:
		return fmt.Errorf("link name %q is taken", cfg.Name)
	case l.dev == cfg.Link:
		return fmt.Errorf("the device of link %q can't be a second link %q", l.name, cfg.Name)
	}
	for _, p := range cfg.Addresses {
		if l.owns(p.Addr()) && !p.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("address %v is that of link %q already", p.Addr(), l.name)
		}
	}
	return nil
}

// EnableTCP turns on TCP. Like every Enable, it is an error after Start and when called
// twice.
func (i *Instance) EnableTCP() error { return i.enable(serviceTCP) }

// EnableUDP turns on UDP, which LookupHost needs.
func (i *Instance) EnableUDP() error { return i.enable(serviceUDP) }

// EnableICMP turns on Ping and the answers to other hosts' echo requests, in both
// families. ICMP errors, path MTU discovery and neighbour discovery work without it.
func (i *Instance) EnableICMP() error { return i.enable(serviceICMP) }

// EnableIPv6 turns on IPv6 with neighbour discovery, and gives every link a link-local
// address made from its MAC address (RFC 4291 appendix A).
func (i *Instance) EnableIPv6() error { return i.enable(serviceIPv6) }

// EnableForwarding makes the instance a router between its links.
func (i *Instance) EnableForwarding() error { return i.enable(serviceForwarding) }

func (i *Instance) enable(s service) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.phase != building:
		return fmt.Errorf("stack: enabling %s on %q: %w", s, i.cfg.Name, i.phaseError())
	case i.enabled[s]:
		return fmt.Errorf("stack: enabling %s on %q: it is enabled already", s, i.cfg.Name)
	}
	i.enabled[s] = true
	return nil
}

// TCPEnabled reports whether EnableTCP has been called.
func (i *Instance) TCPEnabled() bool { return i.has(serviceTCP) }

func (i *Instance) has(s service) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.enabled[s]
}

// Start builds the stack and brings the links up. It returns at once: addresses may
// still be under duplicate address detection, which Ready waits for. When it fails the
// instance is closed.
func (i *Instance) Start(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase != building {
		return fmt.Errorf("stack: starting %q: %w", i.cfg.Name, i.phaseError())
	}
	err := ctx.Err()
	if err == nil {
		err = i.build()
	}
	if err != nil {
		i.phase = closed
		i.shutdown()
		return fmt.Errorf("stack: starting %q: %w", i.cfg.Name, err)
	}
	i.phase = started
	return nil
}

// phaseError says why the instance can't do what needs it to be in another phase.
func (i *Instance) phaseError() error {
	switch i.phase {
	case building:
		return ErrNotStarted
	case closed:
		return net.ErrClosed
	default:
		return ErrStarted
	}
}

func (i *Instance) build() error {
	for _, l := range i.links {
		if err := l.check(); err != nil {
			return fmt.Errorf("link %q: %w", l.name, err)
		}
	}
	for _, l := range i.links {
		if err := l.takeRing(i.cfg.Pool); err != nil {
			return err
		}
	}
	i.ns = gstack.New(i.options())
	if err := i.setOptions(); err != nil {
		return err
	}
	if err := i.addLoopback(); err != nil {
		return err
	}
	for _, l := range i.links {
		if err := l.up(); err != nil {
			return err
		}
	}
	for _, l := range i.links {
		l.begin()
	}
	i.updateRoutes()
	return nil
}

func (i *Instance) options() gstack.Options {
	o := gstack.Options{
		Clock:       i.clock,
		HandleLocal: true,
		RandSource:  randSource{i.rand},
		SecureRNG:   i.rand,
		NetworkProtocols: []gstack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			arp.NewProtocolWithOptions(arp.Options{DADConfigs: gstack.DefaultDADConfigurations()}),
		},
	}
	if i.enabled[serviceIPv6] {
		o.NetworkProtocols = append(o.NetworkProtocols, ipv6.NewProtocolWithOptions(ipv6.Options{
			DADConfigs: gstack.DefaultDADConfigurations(),
		}))
	}
	if i.enabled[serviceTCP] {
		o.TransportProtocols = append(o.TransportProtocols, tcp.NewProtocol)
	}
	if i.enabled[serviceUDP] {
		o.TransportProtocols = append(o.TransportProtocols, udp.NewProtocol)
	}
	if i.enabled[serviceICMP] {
		o.TransportProtocols = append(o.TransportProtocols, icmp.NewProtocol4, icmp.NewProtocol6)
	}
	return o
}

// setOptions sets what gVisor leaves small or off by default.
func (i *Instance) setOptions() error {
	buffer := i.cfg.TCP
	if err := i.ns.SetOption(tcpip.ReceiveBufferSizeOption{Min: minBuffer, Default: 1 << 20, Max: defaultReceiveBuffer}); err != nil {
		return fmt.Errorf("setting UDP buffers: %s", err)
	}
	if i.enabled[serviceTCP] {
		for _, o := range []tcpip.SettableTransportProtocolOption{
			ptr(tcpip.TCPSACKEnabled(true)),
			&tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: buffer.SendBuffer, Max: buffer.SendBuffer},
			&tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: min(1<<20, buffer.ReceiveBuffer), Max: buffer.ReceiveBuffer},
			ptr(tcpip.TCPModerateReceiveBufferOption(true)),
		} {
			if err := i.ns.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
				return fmt.Errorf("setting TCP option %T: %s", o, err)
			}
		}
	}
	if i.enabled[serviceForwarding] {
		for _, proto := range i.protocols() {
			if err := i.ns.SetForwardingDefaultAndAllNICs(proto, true); err != nil {
				return fmt.Errorf("enabling forwarding: %s", err)
			}
		}
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

func (i *Instance) protocols() []tcpip.NetworkProtocolNumber {
	if i.enabled[serviceIPv6] {
		return []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber}
	}
	return []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber}
}

const (
	loopbackNIC = 1
	firstNIC    = 2
)

// addLoopback gives the instance 127.0.0.1 and ::1, for itself only.
func (i *Instance) addLoopback() error {
	if err := i.ns.CreateNICWithOptions(loopbackNIC, loopback.New(), gstack.NICOptions{Name: "lo"}); err != nil {
		return fmt.Errorf("creating the loopback interface: %s", err)
	}
	ep, _ := i.ns.GetNetworkEndpoint(loopbackNIC, header.IPv6ProtocolNumber)
	if dad, ok := ep.(gstack.DuplicateAddressDetector); ok {
		dad.SetDADConfigurations(gstack.DADConfigurations{}) // none: the probes would come back
	}
	for _, p := range i.loopbackPrefixes() {
		if err := i.ns.AddProtocolAddress(loopbackNIC, protocolAddress(p), gstack.AddressProperties{}); err != nil {
			return fmt.Errorf("adding %v: %s", p, err)
		}
	}
	return nil
}

func (i *Instance) loopbackPrefixes() []netip.Prefix {
	prefixes := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}
	if i.enabled[serviceIPv6] {
		prefixes = append(prefixes, netip.MustParsePrefix("::1/128"))
	}
	return prefixes
}

func (i *Instance) loopbackRoutes() []tcpip.Route {
	var routes []tcpip.Route
	for _, p := range i.loopbackPrefixes() {
		routes = append(routes, tcpip.Route{Destination: subnet(p), NIC: loopbackNIC})
	}
	return routes
}

// Close ends all connections with a reset, closes the links, gives the ring back to
// the pool and ends every goroutine of the instance. A second Close returns an error
// that wraps net.ErrClosed.
func (i *Instance) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase == closed {
		return fmt.Errorf("stack: closing %q: %w", i.cfg.Name, net.ErrClosed)
	}
	i.phase = closed
	return i.shutdown()
}

// shutdown takes down whatever there is. gVisor waits for link endpoints while it
// holds a lock that delivering a packet needs, so the links end first.
func (i *Instance) shutdown() error {
	i.end()
	i.addrs.close()
	i.reset()
	var errs []error
	for _, l := range i.links {
		errs = append(errs, l.close())
	}
	if i.ns != nil {
		i.ns.Wait()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stack: closing the links of %q: %w", i.cfg.Name, err)
	}
	return nil
}

// hears reports whether the instance takes packets to dst for itself.
func (i *Instance) hears(dst netip.Addr) bool {
	if dst.IsMulticast() || dst == broadcast {
		return true
	}
	for _, l := range i.links {
		for _, p := range l.cfg.Addresses {
			if p.Addr() == dst || p.Contains(dst) && namesSubnet(netip.PrefixFrom(dst, p.Bits())) {
				return true
			}
		}
		if dst == l.linkLocal().Addr() {
			return true
		}
	}
	return false
}

// untilClose is ctx that ends with the instance, too.
func (i *Instance) untilClose(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(i.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// unlessClosed is err, or net.ErrClosed if that is why there is an error.
func (i *Instance) unlessClosed(err error) error {
	if err != nil && i.life.Err() != nil {
		return net.ErrClosed
	}
	return err
}

// resetLimit is how long Close waits for resets to be sent, on a device that is full.
const resetLimit = time.Second

// reset ends all connections with a reset. If the device blocks, resets are the less
// important thing: closing it, which comes next, unblocks them.
func (i *Instance) reset() {
	done, late := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		i.sockets.close()
		if i.ns != nil {
			i.ns.Resume() // a paused protocol would never finish
			i.ns.Close()
		}
	}()
	timer := i.cfg.Clock.AfterFunc(resetLimit, func() { close(late) })
	defer timer.Stop()
	select {
	case <-done:
	case <-late:
	}
}

// running returns the stack, or why there is none.
func (i *Instance) running() (*gstack.Stack, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase != started {
		return nil, i.phaseError()
	}
	return i.ns, nil
}

// updateRoutes makes the routing table anew, over the links that are up.
func (i *Instance) updateRoutes() {
	i.routesMu.Lock()
	defer i.routesMu.Unlock()
	table := i.loopbackRoutes()
	for _, l := range i.links {
		if l.isUp.Load() {
			table = append(table, l.routes()...)
		}
	}
	i.ns.SetRouteTable(table)
}

func protocolAddress(p netip.Prefix) tcpip.ProtocolAddress {
	proto := ipv4.ProtocolNumber
	if p.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	return tcpip.ProtocolAddress{
		Protocol:          proto,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: fromAddr(p.Addr()), PrefixLen: p.Bits()},
	}
}

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: fromAddr(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}

func fromAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func toAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
