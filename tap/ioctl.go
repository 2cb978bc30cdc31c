//go:build linux

package tap

import (
	"bytes"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifreq is struct ifreq of <net/if.h>: a name, and a value of a kind that depends on
// the request.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	value [24]byte
}

func newIfreq(name string) *ifreq {
	r := new(ifreq)
	copy(r.name[:unix.IFNAMSIZ-1], name)
	return r
}

func (r *ifreq) interfaceName() string {
	name, _, _ := bytes.Cut(r.name[:], []byte{0})
	return string(name)
}

func (r *ifreq) uint16() *uint16 { return (*uint16)(unsafe.Pointer(&r.value)) }
func (r *ifreq) int32() *int32   { return (*int32)(unsafe.Pointer(&r.value)) }

// hardwareAddr is where a struct sockaddr has an Ethernet address.
func (r *ifreq) hardwareAddr() []byte { return r.value[2:8] }

func (r *ifreq) do(fd int, request uintptr, what string) error {
	return ioctl(fd, request, unsafe.Pointer(r), what)
}

// ioctl reports errors as *os.SyscallError, with what as its system call.
func ioctl(fd int, request uintptr, arg unsafe.Pointer, what string) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return os.NewSyscallError("ioctl "+what, errno)
	}
	return nil
}

// ioctlInt is for requests whose argument is a number and not a pointer to one.
func ioctlInt(fd int, request, arg uintptr, what string) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return os.NewSyscallError("ioctl "+what, errno)
	}
	return nil
}

// host is a socket for requests about an interface of the host.
type host struct {
	fd   int
	name string
}

func openHost(name string) (*host, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &host{fd, name}, nil
}

func (h *host) close() { unix.Close(h.fd) }

func (h *host) mtu() (int, error) {
	r := newIfreq(h.name)
	err := r.do(h.fd, unix.SIOCGIFMTU, "SIOCGIFMTU")
	return int(*r.int32()), err
}

// setMTU, setMAC and setUp ask for what isn't so already, because only that takes
// a permission.

func (h *host) setMTU(mtu int) error {
	if now, err := h.mtu(); err != nil || now == mtu {
		return err
	}
	r := newIfreq(h.name)
	*r.int32() = int32(mtu)
	return r.do(h.fd, unix.SIOCSIFMTU, "SIOCSIFMTU")
}

func (h *host) setMAC(mac net.HardwareAddr) error {
	r := newIfreq(h.name)
	if err := r.do(h.fd, unix.SIOCGIFHWADDR, "SIOCGIFHWADDR"); err != nil || bytes.Equal(r.hardwareAddr(), mac) {
		return err
	}
	*r.uint16() = unix.ARPHRD_ETHER
	copy(r.hardwareAddr(), mac)
	return r.do(h.fd, unix.SIOCSIFHWADDR, "SIOCSIFHWADDR")
}

func (h *host) isUp() (bool, error) {
	r := newIfreq(h.name)
	err := r.do(h.fd, unix.SIOCGIFFLAGS, "SIOCGIFFLAGS")
	return *r.uint16()&unix.IFF_UP != 0, err
}

func (h *host) setUp() error {
	r := newIfreq(h.name)
	if err := r.do(h.fd, unix.SIOCGIFFLAGS, "SIOCGIFFLAGS"); err != nil || *r.uint16()&unix.IFF_UP != 0 {
		return err
	}
	*r.uint16() |= unix.IFF_UP
	return r.do(h.fd, unix.SIOCSIFFLAGS, "SIOCSIFFLAGS")
}
