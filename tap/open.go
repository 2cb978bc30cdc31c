//go:build linux

package tap

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
)

const (
	defaultMTU = 1500
	minMTU     = 68
	maxMTU     = 65535 - link.EthernetHeaderLen // the kernel's own limit for a TAP
)

// Config says which TAP to open, and how.
type Config struct {
	// Name is the interface, up to 15 bytes. If there is none of that name, Open creates
	// it, and it vanishes with Close. A name such as "tap%d" lets the kernel choose a
	// number; empty is "tap%d".
	Name string

	// MustExist makes it an error that wraps syscall.ENODEV if there is no such
	// interface.
	MustExist bool

	// File is an open TAP, such as one that was inherited from the parent process, to
	// be used in place of Name; its IFF_NO_PI has to be set. Open takes ownership if
	// and only if it returns no error. nil is none.
	File *os.File

	// Offload lets the kernel give super-frames and partial checksums, and take them.
	Offload bool

	// MTU is the largest IP packet, in bytes, 68 to 65,521. Open sets it on the host's
	// interface if it is another there. Zero leaves the interface as it is, which is
	// 1,500 for a new one.
	MTU int

	// MAC is the address of the host's end, not that of the stack on the device. nil
	// leaves it as it is, which is a random one for a new interface.
	MAC net.HardwareAddr

	// Up brings the host's end up.
	Up bool

	// Logger is told, once, when the device can do less than was asked for. nil
	// discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	var errs []error
	if c.Name == "" && c.MustExist && c.File == nil {
		errs = append(errs, errors.New("tap: Config.MustExist needs a Config.Name"))
	}
	errs = append(errs, validateName(c.Name), validateMTU(c.MTU), validateMAC(c.MAC))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

func validateName(name string) error {
	if len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("tap: interface name %q is longer than %d bytes", name, unix.IFNAMSIZ-1)
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/: \t\r\n\v\f\x00") {
		return fmt.Errorf("tap: interface name %q: the kernel allows no slash, colon or space", name)
	}
	return nil
}

func validateMTU(mtu int) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return fmt.Errorf("tap: MTU %d is not in the range %d to %d", mtu, minMTU, maxMTU)
	}
	return nil
}

func validateMAC(mac net.HardwareAddr) error {
	if mac == nil {
		return nil
	}
	if len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return fmt.Errorf("tap: MAC %v is not the Ethernet address of one station", mac)
	}
	return nil
}

// Open opens a TAP. See the package's comment for permissions and errors.
func Open(cfg Config) (*Device, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var d *Device
	var err error
	switch {
	case cfg.File != nil:
		d, err = openInherited(&cfg)
	default:
		d, err = openNamed(&cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("tap: open %s: %w", cfg.describe(), err)
	}
	if cfg.File != nil {
		cfg.File.Close() // d has a duplicate
	}
	return d, nil
}

func (c *Config) describe() string {
	switch {
	case c.File != nil:
		return c.File.Name()
	case c.Name == "":
		return "a new interface"
	}
	return c.Name
}

func openNamed(cfg *Config) (*Device, error) {
	if cfg.MustExist {
		if _, err := find(cfg.Name); err != nil {
			return nil, fmt.Errorf("%w: there is no interface %q", err, cfg.Name)
		}
	}
	if cfg.Offload {
		q, err := attach(cfg.Name, unix.IFF_VNET_HDR)
		if err != nil {
			return nil, err
		}
		return newDevice(cfg, q)
	}
	q, err := openWater(cfg.Name)
	if err != nil {
		return nil, err
	}
	return newDevice(cfg, q)
}

// openInherited makes a device of a duplicate of Config.File, which is the caller's
// if something fails.
func openInherited(cfg *Config) (*Device, error) {
	fd, err := duplicate(cfg.File)
	if err != nil {
		return nil, err
	}
	q := &queue{fd: fd}
	if err := q.adopt(); err != nil {
		q.close()
		return nil, err
	}
	return newDevice(cfg, q)
}

// adopt makes sure that q, which came from elsewhere, is a TAP that can be used.
func (q *queue) adopt() error {
	if err := q.inspect(); err != nil {
		return fmt.Errorf("%w: the descriptor is not an open TAP", err)
	}
	// The flags of TUNGETIFF don't tell: its IFF_NOFILTER is the same bit as IFF_NO_PI.
	info, err := find(q.name)
	if q.flags&unix.IFF_TAP == 0 || err == nil && info.packetInformation {
		return fmt.Errorf("interface %s has to be opened with IFF_TAP and IFF_NO_PI", q.name)
	}
	return os.NewSyscallError("fcntl O_NONBLOCK", unix.SetNonblock(q.fd, true))
}
