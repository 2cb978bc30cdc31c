//go:build linux

package tap

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
)

// monitor follows the state of an interface, in a goroutine that close ends.
type monitor struct {
	host    *host
	index   int32
	carrier *link.Carrier
	events  *os.File // a netlink socket
	done    chan struct{}
}

func startMonitor(name string, carrier *link.Carrier) (*monitor, error) {
	h, err := openHost(name)
	if err != nil {
		return nil, err
	}
	m := &monitor{host: h, carrier: carrier, done: make(chan struct{})}
	if err := m.subscribe(); err != nil {
		h.close()
		return nil, err
	}
	go m.run()
	return m, nil
}

// subscribe opens the socket and reads the state, in this order, so that no change
// is missed.
func (m *monitor) subscribe() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket AF_NETLINK", err)
	}
	m.events = os.NewFile(uintptr(fd), "netlink")
	err = os.NewSyscallError("bind AF_NETLINK", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}))
	if err == nil {
		r := newIfreq(m.host.name)
		err = r.do(m.host.fd, unix.SIOCGIFINDEX, "SIOCGIFINDEX")
		m.index = *r.int32()
	}
	if err == nil {
		err = m.refresh()
	}
	if err != nil {
		m.events.Close()
	}
	return err
}

func (m *monitor) refresh() error {
	up, err := m.host.isUp()
	if err == nil {
		m.carrier.Set(up)
	}
	return err
}

// run ends when close closes the socket.
func (m *monitor) run() {
	defer close(m.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := m.events.Read(buf)
		switch {
		case err == nil:
			m.handle(buf[:n])
		case errors.Is(err, unix.ENOBUFS): // events were lost
			if m.refresh() != nil {
				m.carrier.Set(false) // the interface is gone
			}
		default:
			return
		}
	}
}

// handle looks through netlink messages (RFC 3549, section 2.3.2) for those about the
// interface itself; a bridge sends some about its ports, with its own family.
func (m *monitor) handle(b []byte) {
	const infoLen = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	for len(b) >= infoLen {
		size := int(binary.NativeEndian.Uint32(b))
		if size < infoLen || size > len(b) {
			return
		}
		kind, info := binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:]
		index, flags := int32(binary.NativeEndian.Uint32(info[4:])), binary.NativeEndian.Uint32(info[8:])
		if info[0] == unix.AF_UNSPEC && index == m.index {
			switch kind {
			case unix.RTM_NEWLINK:
				m.carrier.Set(flags&unix.IFF_UP != 0)
			case unix.RTM_DELLINK:
				m.carrier.Set(false)
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
}

// close waits for the goroutine to end.
func (m *monitor) close() {
	m.events.Close()
	<-m.done
	m.host.close()
}
