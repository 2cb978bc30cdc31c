package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// addressTable follows our own addresses through duplicate address detection.
type addressTable struct {
	mu        sync.Mutex
	list      []*ownAddress
	conflicts map[conflictKey]Conflict
}

// Conflict is an address of ours that another host claims.
type Conflict struct {
	Link    string
	Address netip.Addr
	Holder  net.HardwareAddr // the other host
	Count   int              // how often it was seen
}

type conflictKey struct {
	addr   netip.Addr
	holder tcpip.LinkAddress
}

// maxConflicts bounds what a liar on the link can make us remember.
const maxConflicts = 64

// ownAddress is one address of ours. It is a gstack.AddressDispatcher.
type ownAddress struct {
	table  *addressTable
	link   *netLink
	prefix netip.Prefix

	settled chan struct{} // closed once the address can be used or never will be
	err     error         // why it never will be; set before settled is closed
	once    sync.Once
}

func newAddressTable() *addressTable {
	return &addressTable{conflicts: map[conflictKey]Conflict{}}
}

func (t *addressTable) add(l *netLink, p netip.Prefix) *ownAddress {
	a := &ownAddress{table: t, link: l, prefix: p, settled: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, a)
	return a
}

// OnChanged implements gstack.AddressDispatcher.
func (a *ownAddress) OnChanged(_ gstack.AddressLifetimes, state gstack.AddressAssignmentState) {
	if state == gstack.AddressAssigned {
		a.settle(nil)
	}
}

// OnRemoved implements gstack.AddressDispatcher.
func (a *ownAddress) OnRemoved(reason gstack.AddressRemovalReason) {
	if reason != gstack.AddressRemovalDADFailed {
		a.settle(net.ErrClosed)
		return
	}
	err := fmt.Errorf("%v on link %q: %w", a.prefix.Addr(), a.link.name, ErrDuplicateAddress)
	if holder := a.table.holder(a.prefix.Addr()); holder != nil {
		err = fmt.Errorf("%w (%v); give one of them another address", err, holder)
	}
	a.settle(err)
	a.link.i.log.Error("address is not used", "link", a.link.name, "address", a.prefix.Addr(), "error", err)
}

func (a *ownAddress) settle(err error) {
	a.once.Do(func() {
		a.err = err
		close(a.settled)
	})
}

// close settles what is still tentative, so that nobody waits for it.
func (t *addressTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.list {
		a.settle(net.ErrClosed)
	}
}

func (t *addressTable) all() []*ownAddress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*ownAddress(nil), t.list...)
}

// conflict notes that holder claims addr, and logs it the first time.
func (t *addressTable) conflict(l *netLink, addr netip.Addr, holder tcpip.LinkAddress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := conflictKey{addr, holder}
	c, known := t.conflicts[key]
	if !known {
		if len(t.conflicts) == maxConflicts {
			return
		}
		c = Conflict{Link: l.name, Address: addr, Holder: net.HardwareAddr(holder)}
		l.i.log.Error("another host claims our address", "link", l.name, "address", addr, "holder", c.Holder.String())
	}
	c.Count++
	t.conflicts[key] = c
}

func (t *addressTable) holder(addr netip.Addr) net.HardwareAddr {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, c := range t.conflicts {
		if key.addr == addr {
			return c.Holder
		}
	}
	return nil
}

// Conflicts lists the hosts seen to claim an address of ours, at most 64.
func (i *Instance) Conflicts() []Conflict {
	i.addrs.mu.Lock()
	defer i.addrs.mu.Unlock()
	list := make([]Conflict, 0, len(i.addrs.conflicts))
	for _, c := range i.addrs.conflicts {
		list = append(list, c)
	}
	return list
}

// Ready waits until every address has passed duplicate address detection, which takes
// a second for IPv6 from when its link is up. Dial and Listen wait by themselves for the address they need. The
// error wraps ErrDuplicateAddress for each address that another host has.
func (i *Instance) Ready(ctx context.Context) error {
	if _, err := i.running(); err != nil {
		return fmt.Errorf("stack: waiting for the addresses of %q: %w", i.cfg.Name, err)
	}
	var errs []error
	for _, a := range i.addrs.all() {
		errs = append(errs, a.wait(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stack: waiting for the addresses of %q: %w", i.cfg.Name, err)
	}
	return nil
}

func (a *ownAddress) wait(ctx context.Context) error {
	if a.link.i.gate.wait(a.settled, ctx.Done()) {
		return a.err
	}
	return fmt.Errorf("duplicate address detection for %v: %w", a.prefix.Addr(), context.Cause(ctx))
}

// waitForSource waits until the address that a packet to remote will come from is
// usable. Only IPv6 addresses are ever not.
func (i *Instance) waitForSource(ctx context.Context, remote netip.Addr) error {
	if !remote.Is6() || remote.Is4In6() || remote.IsLoopback() {
		return nil
	}
	if a := i.addrs.source(remote); a != nil {
		return a.wait(ctx)
	}
	return nil
}

// waitForLocal waits until our own address local can be listened on. One of IPv4 always
// can.
func (i *Instance) waitForLocal(ctx context.Context, local netip.Addr) error {
	if a := i.addrs.find(local); a != nil && local.Is6() {
		return a.wait(ctx)
	}
	return nil
}

// find returns our own address addr, or nil if it isn't one.
func (t *addressTable) find(addr netip.Addr) *ownAddress {
	for _, a := range t.all() {
		if a.prefix.Addr() == addr.WithZone("") && (addr.Zone() == "" || addr.Zone() == a.link.name) {
			return a
		}
	}
	return nil
}

// source is the address of ours that a packet to remote would come from. It is nil if no
// link that is up has one.
func (t *addressTable) source(remote netip.Addr) *ownAddress {
	var best, duplicate *ownAddress
	for _, a := range t.all() {
		own := a.prefix.Addr()
		switch {
		case !a.link.isUp.Load(), !own.Is6(), own.IsLinkLocalUnicast() != (remote.IsLinkLocalUnicast() || remote.IsLinkLocalMulticast()):
			continue
		case remote.Zone() != "" && remote.Zone() != a.link.name:
			continue
		case a.failed():
			duplicate = a
		case a.prefix.Contains(remote.WithZone("")):
			return a
		case best == nil:
			best = a
		}
	}
	return cmp.Or(best, duplicate)
}

// failed reports whether the address will never be used.
func (a *ownAddress) failed() bool {
	select {
	case <-a.settled:
		return a.err != nil
	default:
		return false
	}
}
