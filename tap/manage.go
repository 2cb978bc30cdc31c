//go:build linux

package tap

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CreateConfig describes a persistent TAP.
type CreateConfig struct {
	// Name is the interface, up to 15 bytes. Empty, or one such as "tap%d", lets the
	// kernel choose.
	Name string

	// Owner is the id of the user who may open the TAP without CAP_NET_ADMIN. Zero is
	// root. (The kernel would also have a TAP without owner, which anybody may open.)
	Owner int

	// Group is the id of a group that a user has to be in as well. Zero is no
	// condition.
	Group int

	// MTU, MAC and Up are for the host's end, as in Config.
	MTU int
	MAC net.HardwareAddr
	Up  bool
}

func (c *CreateConfig) validate() error {
	var errs []error
	for what, id := range map[string]int{"Owner": c.Owner, "Group": c.Group} {
		if id < 0 || int64(id) >= 1<<32-1 {
			errs = append(errs, fmt.Errorf("tap: CreateConfig.%s is %d, which is no id", what, id))
		}
	}
	return errors.Join(append(errs, validateName(c.Name), validateMTU(c.MTU), validateMAC(c.MAC))...)
}

// Create makes a TAP that stays until Delete or the next boot, and returns its name.
// It takes CAP_NET_ADMIN. The error wraps fs.ErrExist if there is an interface of that
// name.
func Create(cfg CreateConfig) (name string, err error) {
	if err := cfg.validate(); err != nil {
		return "", err
	}
	if _, err := find(cfg.Name); err == nil {
		return "", fmt.Errorf("tap: create %s: %w", cfg.Name, os.NewSyscallError("ioctl TUNSETIFF", unix.EEXIST))
	}
	q, err := attach(cfg.Name, unix.IFF_TUN_EXCL)
	if err != nil {
		return "", fmt.Errorf("tap: create %s: %w", cfg.Name, err)
	}
	defer q.close() // which takes the interface with it, unless it is persistent by then
	if err := q.establish(&cfg); err != nil {
		return "", fmt.Errorf("tap: create %s: %w", q.name, err)
	}
	return q.name, nil
}

func (q *queue) establish(cfg *CreateConfig) error {
	err := ioctlInt(q.fd, unix.TUNSETOWNER, uintptr(cfg.Owner), "TUNSETOWNER")
	if err == nil && cfg.Group != 0 {
		err = ioctlInt(q.fd, unix.TUNSETGROUP, uintptr(cfg.Group), "TUNSETGROUP")
	}
	if err != nil {
		return fmt.Errorf("%w: the id has to exist in this user namespace", err)
	}
	d := &Device{name: q.name}
	if err := d.configure(&Config{MTU: cfg.MTU, MAC: cfg.MAC, Up: cfg.Up}, q); err != nil {
		return err
	}
	return ioctlInt(q.fd, unix.TUNSETPERSIST, 1, "TUNSETPERSIST")
}

// Delete removes a persistent TAP. The error wraps syscall.ENODEV if there is none
// of that name, and syscall.EBUSY if a program has it open.
func Delete(name string) error {
	info, err := find(name)
	if err != nil {
		return fmt.Errorf("tap: delete %s: %w: there is no such interface", name, err)
	}
	if info.kind != "tun" || !info.tap || !info.Persistent {
		return fmt.Errorf("tap: delete %s: it is no persistent TAP", name)
	}
	q, err := attach(name, 0)
	if err != nil {
		return fmt.Errorf("tap: delete %s: %w", name, err)
	}
	defer q.close()
	if err := ioctlInt(q.fd, unix.TUNSETPERSIST, 0, "TUNSETPERSIST"); err != nil {
		return fmt.Errorf("tap: delete %s: %w", name, err)
	}
	return nil
}

// Info is what the kernel tells about a TAP.
type Info struct {
	Name         string
	Index        int // as in net.Interface
	MTU          int // bytes
	MAC          net.HardwareAddr
	Up           bool
	Persistent   bool
	InUse        bool // some program has it open
	Owner, Group int  // ids, -1 if anybody may open it
	MultiQueue   bool

	kind              string
	tap               bool
	packetInformation bool // IFF_NO_PI isn't set
}

// List returns the TAPs of this network namespace in order of their names. It takes
// no permission.
func List() ([]Info, error) {
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("tap: list: %w", err)
	}
	taps := slices.DeleteFunc(links, func(i Info) bool { return i.kind != "tun" || !i.tap })
	slices.SortFunc(taps, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return taps, nil
}

// find looks for an interface of any kind. The error wraps syscall.ENODEV if there is
// none.
func find(name string) (Info, error) {
	links, err := listLinks()
	if err != nil {
		return Info{}, err
	}
	for _, l := range links {
		if l.Name == name {
			return l, nil
		}
	}
	return Info{}, os.NewSyscallError("netlink RTM_GETLINK", unix.ENODEV)
}

// listLinks asks by netlink and not in /sys, which may show another namespace.
func listLinks() ([]Info, error) {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("netlink RTM_GETLINK", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, os.NewSyscallError("netlink RTM_GETLINK", err)
	}
	var links []Info
	for i := range messages {
		if messages[i].Header.Type == unix.RTM_NEWLINK && len(messages[i].Data) >= unix.SizeofIfInfomsg {
			links = append(links, parseLink(messages[i].Data))
		}
	}
	return links, nil
}

func parseLink(b []byte) Info {
	info := Info{
		Index: int(binary.NativeEndian.Uint32(b[4:])),
		Up:    binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0,
		Owner: -1, Group: -1,
	}
	for kind, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			info.Name = text(v)
		case unix.IFLA_MTU:
			info.MTU = number(v)
		case unix.IFLA_ADDRESS:
			info.MAC = slices.Clone(v)
		case unix.IFLA_CARRIER: // a TAP has it from the program that has it open
			info.InUse = number(v) != 0
		case unix.IFLA_LINKINFO:
			info.parseKind(v)
		}
	}
	return info
}

func (info *Info) parseKind(b []byte) {
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			info.kind = text(v)
		case unix.IFLA_INFO_DATA:
			if info.kind == "tun" {
				info.parseTun(v)
			}
		}
	}
}

func (info *Info) parseTun(b []byte) {
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_TUN_TYPE:
			info.tap = number(v) == unix.IFF_TAP
		case unix.IFLA_TUN_OWNER:
			info.Owner = number(v)
		case unix.IFLA_TUN_GROUP:
			info.Group = number(v)
		case unix.IFLA_TUN_PERSIST:
			info.Persistent = number(v) != 0
		case unix.IFLA_TUN_MULTI_QUEUE:
			info.MultiQueue = number(v) != 0
		case unix.IFLA_TUN_PI:
			info.packetInformation = number(v) != 0
		}
	}
}

// attributes walks along netlink attributes: a length, a kind, a value, padding.
func attributes(b []byte) func(yield func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if size < 4 || size > len(b) || !yield(kind, b[4:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func number(b []byte) int {
	switch len(b) {
	case 1:
		return int(b[0])
	case 4:
		return int(binary.NativeEndian.Uint32(b))
	}
	return 0
}
