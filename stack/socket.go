package stack

import (
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is what connections and listeners have in common: a gVisor endpoint, and the
// means to wait for it. A call tries, and waits for a signal while the endpoint would
// block; so nothing is allocated or registered for a call.
type socket struct {
	i       *Instance
	network string // as given to Dial or Listen, for errors
	six     bool   // of IPv6, and perhaps of IPv4 too
	ep      tcpip.Endpoint
	queue   *waiter.Queue
	entry   waiter.Entry
	bound   *binding // of a listener, or an unconnected UDP socket; guarded by the table
	local   net.Addr
	remote  net.Addr // nil if not connected

	in, out direction

	over     atomic.Bool           // closed, by its user or with the instance, or lost with its link
	lost     atomic.Pointer[error] // why it is lost; nil otherwise
	released atomic.Bool           // Close has been called
}

// newSocket opens a socket over ep. It fails if the instance has been closed since it
// made ep, which is then closed too.
func (i *Instance) newSocket(network string, ep tcpip.Endpoint, queue *waiter.Queue) (*socket, error) {
	s := &socket{i: i, network: network, ep: ep, queue: queue}
	s.in.init(i.cfg.Clock)
	s.out.init(i.cfg.Clock)
	s.entry.Init(s, waiter.AllEvents)
	queue.EventRegister(&s.entry)
	if !i.sockets.add(s) {
		queue.EventUnregister(&s.entry)
		ep.Abort()
		return nil, net.ErrClosed
	}
	return s, nil
}

// NotifyEvent implements waiter.EventListener: the stack calls it, under its locks.
func (s *socket) NotifyEvent(mask waiter.EventMask) {
	const both = waiter.EventHUp | waiter.EventErr
	if mask&(waiter.ReadableEvents|both) != 0 {
		s.in.signal()
	}
	if mask&(waiter.WritableEvents|both) != 0 {
		s.out.signal()
	}
}

// begin waits for the caller's turn to use d, and reports why it can't. Unless it does,
// the caller calls d.end when done.
func (s *socket) begin(d *direction) error {
	s.i.gate.wait(d.turn, nil)
	err := s.usable(d)
	if err != nil {
		d.end()
	}
	return err
}

// wait waits until another try makes sense, or reports why it never will.
func (s *socket) wait(d *direction) error {
	s.i.gate.wait(d.wake, nil)
	return s.usable(d)
}

func (s *socket) usable(d *direction) error {
	switch {
	case s.over.Load():
		return s.overError()
	case d.late.Load():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// failed turns an error of the endpoint into that of the system call of this name, or
// into net.ErrClosed if it came from closing the socket.
func (s *socket) failed(call string, terr tcpip.Error) error {
	if s.over.Load() {
		return s.overError()
	}
	return syscallError(call, terr)
}

// overError is why calls fail once the socket is over.
func (s *socket) overError() error {
	if err := s.lost.Load(); err != nil && !s.released.Load() {
		return *err
	}
	return net.ErrClosed
}

// lose ends the socket because its link is gone for good. Without this, a connection would
// retransmit until it gives up, and say no more than that it has.
func (s *socket) lose(err error) {
	s.lost.Store(&err)
	s.abort()
}

// close closes the socket for its user. What is still to be sent is sent in the
// background.
func (s *socket) close() error {
	if s.released.Swap(true) {
		return net.ErrClosed
	}
	s.shut()
	s.ep.Close()
	s.queue.EventUnregister(&s.entry) // the endpoint may live on for minutes
	s.i.sockets.remove(s)
	return nil
}

// abort ends the socket with a reset, because the instance is closed.
func (s *socket) abort() {
	s.shut()
	s.ep.Abort()
}

// shut makes every call of the socket return, and fail from now on.
func (s *socket) shut() {
	s.over.Store(true)
	s.in.shut()
	s.out.shut()
}

func wouldBlock(terr tcpip.Error) bool {
	_, is := terr.(*tcpip.ErrWouldBlock)
	return is
}

// opError is err as package net reports it of a connection.
func (s *socket) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: s.network, Source: s.local, Addr: s.remote, Err: err}
}

// setError is opError for those options that package net reports so.
func (s *socket) setError(err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: "set", Net: s.network, Addr: s.local, Err: err}
}

func (s *socket) setDeadline(t time.Time, directions ...*direction) error {
	for _, d := range directions {
		if !d.setDeadline(t) {
			return s.overError()
		}
	}
	return nil
}

// direction is one of the two halves of a socket. One call at a time has its turn to use
// it, the others queue; so a Write isn't interleaved with another, however often it has
// to wait.
type direction struct {
	turn chan struct{} // holds something while it is nobody's turn
	wake chan struct{} // holds something once another try makes sense
	late atomic.Bool   // the deadline has passed

	clock Clock
	mu    sync.Mutex
	timer Timer     // made by the first deadline
	due   time.Time // when late becomes true; zero for never
	over  bool
}

func (d *direction) init(clock Clock) {
	d.clock = clock
	d.turn = make(chan struct{}, 1)
	d.wake = make(chan struct{}, 1)
	d.turn <- struct{}{}
}

func (d *direction) end() { d.turn <- struct{}{} }

func (d *direction) signal() {
	select {
	case d.wake <- struct{}{}:
	default: // it is still to be seen that the last signal came
	}
}

// setDeadline sets the deadline; a zero t is none. It reports false after shut.
func (d *direction) setDeadline(t time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return false
	}
	d.disarm()
	d.late.Store(false)
	if t.IsZero() {
		return true
	}
	now := d.clock.Now()
	left := t.Sub(now)
	if left <= 0 {
		d.late.Store(true)
		d.signal()
		return true
	}
	d.due = now.Add(left) // not t, which may lack the monotonic reading that Now has
	if d.timer == nil {
		d.timer = d.clock.AfterFunc(left, d.expire)
	} else {
		d.timer.Reset(left)
	}
	return true
}

// expire is what the timer calls, possibly after the deadline has been changed.
func (d *direction) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due.IsZero() || d.clock.Now().Before(d.due) {
		return
	}
	d.late.Store(true)
	d.signal()
}

func (d *direction) disarm() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.due = time.Time{}
}

// shut wakes whoever waits, and ends the timer.
func (d *direction) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	d.disarm()
	d.signal()
}

// socketTable is the open sockets of an instance, so that Close finds those who wait. The
// zero value is an empty one.
type socketTable struct {
	mu     sync.Mutex
	open   map[*socket]struct{}
	closed bool
}

// add reports false once the table is closed.
func (t *socketTable) add(s *socket) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.open == nil {
		t.open = map[*socket]struct{}{}
	}
	t.open[s] = struct{}{}
	return true
}

func (t *socketTable) remove(s *socket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, s)
}

// lose ends the connections whose own address is one of those that owns knows.
func (t *socketTable) lose(owns func(netip.Addr) bool, err error) {
	t.mu.Lock()
	open := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, s := range open {
		if a, ok := s.source(); ok && owns(a) {
			s.lose(err)
		}
	}
}

// source is the address that a connection's packets come from; ok is false for what isn't
// connected. It asks the endpoint, because the socket may be in a dial that knows it only
// later.
func (s *socket) source() (a netip.Addr, ok bool) {
	if _, terr := s.ep.GetRemoteAddress(); terr != nil {
		return a, false
	}
	own, terr := s.ep.GetLocalAddress()
	return toAddr(own.Addr).Unmap(), terr == nil
}

// close aborts all sockets, and lets no more be opened.
func (t *socketTable) close() {
	t.mu.Lock()
	t.closed = true
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for s := range open {
		s.abort()
	}
}
