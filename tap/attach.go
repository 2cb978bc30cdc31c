//go:build linux

package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const devicePath = "/dev/net/tun"

// queue is a descriptor that is attached to a TAP.
type queue struct {
	fd    int
	name  string
	flags uint16 // IFF_VNET_HDR, IFF_PERSIST and so on, as the kernel has them
}

// openClone opens the file that a queue is made of, nonblocking for Go's poller.
func openClone() (int, error) {
	for {
		fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR):
			continue
		}
		err = os.NewSyscallError("open "+devicePath, err)
		if errors.Is(err, fs.ErrPermission) {
			return 0, fmt.Errorf("%w: run as root, or give this user access to the file", err)
		}
		return 0, fmt.Errorf("%w: the kernel lacks TAP support here; try modprobe tun", err)
	}
}

// attach opens a queue of the named TAP, which it creates if there is none.
func attach(name string, flags uint16) (*queue, error) {
	fd, err := openClone()
	if err != nil {
		return nil, err
	}
	q := &queue{fd: fd, name: name}
	if err := q.setInterface(flags | unix.IFF_TAP | unix.IFF_NO_PI); err != nil {
		q.close()
		return nil, err
	}
	if err := q.inspect(); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// setInterface makes q a queue of its TAP. An interface that was created for several
// queues refuses one that doesn't say so.
func (q *queue) setInterface(flags uint16) error {
	err := q.tunSetIff(flags)
	if errors.Is(err, unix.EINVAL) {
		if q.tunSetIff(flags|unix.IFF_MULTI_QUEUE) == nil {
			return nil
		}
	}
	return explainSetIff(q.name, err)
}

func (q *queue) tunSetIff(flags uint16) error {
	r := newIfreq(q.name)
	*r.uint16() = flags
	return r.do(q.fd, unix.TUNSETIFF, "TUNSETIFF")
}

func explainSetIff(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		if _, missing := find(name); missing != nil {
			return fmt.Errorf("%w: there is no interface %q, and creating it takes CAP_NET_ADMIN: have root create it for this user", err, name)
		}
		return fmt.Errorf("%w: interface %q belongs to another user", err, name)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program has interface %q open", err, name)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: interface %q exists and is no TAP, or its name is not allowed", err, name)
	}
	return err
}

// inspect asks the kernel for q's name and flags.
func (q *queue) inspect() error {
	r := new(ifreq)
	if err := r.do(q.fd, unix.TUNGETIFF, "TUNGETIFF"); err != nil {
		return err
	}
	q.name, q.flags = r.interfaceName(), *r.uint16()
	return nil
}

func (q *queue) persistent() bool { return q.flags&unix.IFF_PERSIST != 0 }

// setOffload tells the kernel what it may leave undone in frames it gives. A
// persistent interface remembers it, also from the program before.
func (q *queue) setOffload(bits uintptr) error {
	return ioctlInt(q.fd, unix.TUNSETOFFLOAD, bits, "TUNSETOFFLOAD")
}

func (q *queue) setVnetHeaderLen(n int32) error {
	return ioctl(q.fd, unix.TUNSETVNETHDRSZ, unsafe.Pointer(&n), "TUNSETVNETHDRSZ")
}

func (q *queue) close() { unix.Close(q.fd) }
