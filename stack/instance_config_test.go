package stack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link/memlink"
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func addresses(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

// badConfigs are mistakes in a configuration, one each, with words of their errors. NetX
// Duo's scenarios ip_create and ip_nxe_api are among them.
var badConfigs = []struct {
	name  string
	spoil func(*stack.Config)
	words []string
}{
	{"no link", func(c *stack.Config) { c.Link = nil }, []string{"no Link"}},
	{"no pool", func(c *stack.Config) { c.Pool = nil }, []string{"no Pool"}},
	{"MAC of a group", func(c *stack.Config) { c.HardwareAddr = net.HardwareAddr{1, 0, 0x5e, 0, 0, 1} }, []string{"HardwareAddr", "01:00:5e"}},
	{"MAC of all", func(c *stack.Config) { c.HardwareAddr = broadcastMAC }, []string{"HardwareAddr"}},
	{"MAC of nobody", func(c *stack.Config) { c.HardwareAddr = make(net.HardwareAddr, 6) }, []string{"HardwareAddr"}},
	{"MAC too short", func(c *stack.Config) { c.HardwareAddr = aliceMAC[:5] }, []string{"HardwareAddr"}},
	{"MAC too long", func(c *stack.Config) { c.HardwareAddr = make(net.HardwareAddr, 8) }, []string{"HardwareAddr"}},
	{"MAC empty", func(c *stack.Config) { c.HardwareAddr = net.HardwareAddr{} }, []string{"HardwareAddr"}},

	{"zero prefix", func(c *stack.Config) { c.Addresses = make([]netip.Prefix, 1) }, []string{"zero Prefix"}},
	{"bad prefix length", func(c *stack.Config) {
		c.Addresses = []netip.Prefix{netip.PrefixFrom(alice4.Addr(), 33)}
	}, []string{"Prefix"}},
	{"unspecified address", func(c *stack.Config) { c.Addresses = prefixes("0.0.0.0/8") }, []string{"0.0.0.0/8"}},
	{"unspecified IPv6 address", func(c *stack.Config) { c.Addresses = prefixes("::/64") }, []string{"::/64"}},
	{"broadcast address", func(c *stack.Config) { c.Addresses = prefixes("255.255.255.255/32") }, []string{"255.255.255.255"}},
	{"subnet's own address", func(c *stack.Config) { c.Addresses = prefixes("192.0.2.0/24") }, []string{"192.0.2.0/24", "subnet"}},
	{"subnet's broadcast address", func(c *stack.Config) { c.Addresses = prefixes("192.0.2.255/24") }, []string{"192.0.2.255/24", "subnet"}},
	{"group address", func(c *stack.Config) { c.Addresses = prefixes("224.0.0.1/4") }, []string{"224.0.0.1"}},
	{"IPv6 group address", func(c *stack.Config) { c.Addresses = prefixes("ff02::1/64") }, []string{"ff02::1"}},
	{"loopback address", func(c *stack.Config) { c.Addresses = prefixes("127.0.0.2/8") }, []string{"127.0.0.2"}},
	{"IPv4-mapped address", func(c *stack.Config) { c.Addresses = prefixes("::ffff:192.0.2.1/120") }, []string{"IPv4"}},
	{"no subnet at all", func(c *stack.Config) { c.Addresses = prefixes("192.0.2.1/0") }, []string{"prefix length"}},
	{"same address twice", func(c *stack.Config) { c.Addresses = prefixes("192.0.2.1/24", "192.0.2.1/25") }, []string{"192.0.2.1", "twice"}},
	{"same IPv6 address twice", func(c *stack.Config) { c.Addresses = prefixes("fe80::1/64", "fe80::1/64") }, []string{"fe80::1", "twice"}},

	{"gateway off the link", func(c *stack.Config) { c.Gateways = addresses("198.51.100.1") }, []string{"198.51.100.1", "subnets"}},
	{"IPv6 gateway off the link", func(c *stack.Config) { c.Gateways = addresses("2001:db8:1::1") }, []string{"2001:db8:1::1"}},
	{"gateway is unset", func(c *stack.Config) { c.Gateways = make([]netip.Addr, 1) }, []string{"gateway"}},
	{"gateway is unspecified", func(c *stack.Config) { c.Gateways = addresses("0.0.0.0") }, []string{"0.0.0.0"}},
	{"gateway is ourselves", func(c *stack.Config) { c.Gateways = addresses("192.0.2.1") }, []string{"192.0.2.1"}},
	{"gateway is the broadcast address", func(c *stack.Config) { c.Gateways = addresses("192.0.2.255") }, []string{"192.0.2.255"}},
	{"gateway of another link", func(c *stack.Config) { c.Gateways = addresses("fe80::1%eth7") }, []string{"eth7"}},
	{"two gateways", func(c *stack.Config) { c.Gateways = addresses("192.0.2.3", "192.0.2.4") }, []string{"192.0.2.3", "192.0.2.4"}},
	{"two IPv6 gateways", func(c *stack.Config) { c.Gateways = addresses("2001:db8::3", "fe80::4") }, []string{"fe80::4"}},

	{"send buffer too small", func(c *stack.Config) { c.TCP.SendBuffer = 4095 }, []string{"TCP.SendBuffer", "4095", "4096"}},
	{"send buffer too large", func(c *stack.Config) { c.TCP.SendBuffer = 64<<20 + 1 }, []string{"TCP.SendBuffer", "67108864"}},
	{"send buffer negative", func(c *stack.Config) { c.TCP.SendBuffer = -1 }, []string{"TCP.SendBuffer"}},
	{"receive buffer too small", func(c *stack.Config) { c.TCP.ReceiveBuffer = 1 }, []string{"TCP.ReceiveBuffer"}},
	{"receive buffer too large", func(c *stack.Config) { c.TCP.ReceiveBuffer = 1 << 30 }, []string{"TCP.ReceiveBuffer"}},
	{"name server is unset", func(c *stack.Config) { c.DNS = make([]netip.Addr, 1) }, []string{"DNS"}},
	{"name server is a group", func(c *stack.Config) { c.DNS = addresses("224.0.0.251") }, []string{"DNS", "224.0.0.251"}},
	{"name server is unspecified", func(c *stack.Config) { c.DNS = addresses("::") }, []string{"DNS"}},
	{"no randomness", func(c *stack.Config) { c.Rand, c.HardwareAddr = strings.NewReader("12345"), nil }, []string{"MAC address"}},
}

// goodConfig is one that New takes, on a device of its own.
func goodConfig(t *testing.T) (stack.Config, *station) {
	s := newStation(t)
	return stack.Config{Name: "alice", Link: s, Pool: packets(t, 100, 1514), HardwareAddr: aliceMAC,
		Addresses: []netip.Prefix{alice4, alice6}, Gateways: addresses("192.0.2.254", "fe80::254"), DNS: addresses("192.0.2.53")}, s
}

func TestNewRefuses(t *testing.T) {
	for _, bad := range badConfigs {
		t.Run(bad.name, func(t *testing.T) {
			cfg, dev := goodConfig(t)
			bad.spoil(&cfg)
			ip, err := stack.New(cfg)
			if ip != nil {
				t.Error("New returns an instance too")
			}
			wantErr(t, "New", err, nil, append(bad.words, "alice")...)
			if dev.gone {
				t.Error("New has closed a device that it didn't take over")
			}
		})
	}
}

// TestNewTakesNothingOverOnFailure uses link and pool for another instance afterwards.
func TestNewTakesNothingOverOnFailure(t *testing.T) {
	cfg, dev := goodConfig(t)
	bad := cfg
	bad.TCP.SendBuffer = 1
	if _, err := stack.New(bad); err == nil {
		t.Fatal("New has taken a send buffer of one byte")
	}
	checkFull(t, cfg.Pool)
	ip := launch(t, withAll, cfg)
	dev.expect("announcement", isARP(1))
	must(t, ip.Close())
}

// TestNewReportsEverythingAtOnce makes all mistakes that can be made together.
func TestNewReportsEverythingAtOnce(t *testing.T) {
	_, err := stack.New(stack.Config{
		Name:         "alice",
		HardwareAddr: broadcastMAC,
		Addresses:    prefixes("224.0.0.1/4", "192.0.2.1/24", "192.0.2.1/24"),
		Gateways:     addresses("198.51.100.1", "198.51.100.2"),
		TCP:          stack.TCPConfig{SendBuffer: 1, ReceiveBuffer: 2},
		DNS:          addresses("224.0.0.251"),
	})
	wantErr(t, "New", err, nil, "alice", "no Link", "no Pool", "HardwareAddr", "224.0.0.1/4", "twice",
		"198.51.100.1", "of one family", "TCP.SendBuffer", "TCP.ReceiveBuffer", "DNS")
}

func TestNewTakes(t *testing.T) {
	for name, change := range map[string]func(*stack.Config){
		"nothing but link and pool": func(c *stack.Config) { *c = stack.Config{Link: c.Link, Pool: c.Pool} },
		"both addresses of a /31":   func(c *stack.Config) { c.Addresses, c.Gateways = prefixes("192.0.2.0/31"), addresses("192.0.2.1") },
		"a /32":                     func(c *stack.Config) { c.Addresses, c.Gateways = prefixes("192.0.2.255/32"), nil },
		"several of a family":       func(c *stack.Config) { c.Addresses = append(c.Addresses, prefixes("198.51.100.7/25", "fd00::7/48")...) },
		"gateway with its zone":     func(c *stack.Config) { c.Gateways = addresses("fe80::1%eth0") },
		"smallest buffers":          func(c *stack.Config) { c.TCP = stack.TCPConfig{SendBuffer: 4 << 10, ReceiveBuffer: 4 << 10} },
		"largest buffers":           func(c *stack.Config) { c.TCP = stack.TCPConfig{SendBuffer: 64 << 20, ReceiveBuffer: 64 << 20} },
		"link-local address":        func(c *stack.Config) { c.Addresses = append(c.Addresses, prefixes("fe80::77/64")...) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := goodConfig(t)
			change(&cfg)
			launch(t, withAll, cfg)
		})
	}
}

func TestNameDefaultsToDuotap(t *testing.T) {
	dev, _ := memlink.Pair(1500)
	ip := build(t, 0, stack.Config{Link: dev})
	if ip.Name() != "duotap" {
		t.Errorf("Name is %q", ip.Name())
	}
	if links := ip.Stats().Links; len(links) != 1 || links[0].Name != "eth0" {
		t.Errorf("links are %+v, want one of the name eth0", links)
	}
}

// TestRandomHardwareAddr: unicast, locally administered, and not always the same.
func TestRandomHardwareAddr(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		dev := newStation(t)
		launch(t, 0, stack.Config{Link: dev, Addresses: prefixes("192.0.2.1/24")})
		mac := net.HardwareAddr(dev.expect("announcement", isARP(1)).bytes[6:12])
		if mac[0]&3 != 2 {
			t.Errorf("MAC address %v is not a locally administered unicast one", mac)
		}
		seen[mac.String()] = true
	}
	if len(seen) != 20 {
		t.Errorf("20 instances have %d MAC addresses", len(seen))
	}
}

func TestAttachLinkRefuses(t *testing.T) {
	for _, bad := range []struct {
		name string
		cfg  func(own, first *station) stack.LinkConfig
		word string
	}{
		{"no link", func(own, first *station) stack.LinkConfig { return stack.LinkConfig{} }, "no Link"},
		{"a name that is taken", func(own, first *station) stack.LinkConfig { return stack.LinkConfig{Link: own, Name: "eth0"} }, "eth0"},
		{"a device that is taken", func(own, first *station) stack.LinkConfig { return stack.LinkConfig{Link: first} }, "device"},
		{"a bad address", func(own, first *station) stack.LinkConfig {
			return stack.LinkConfig{Link: own, Addresses: prefixes("224.0.0.1/24")}
		}, "224.0.0.1"},
		{"an address of another link", func(own, first *station) stack.LinkConfig {
			return stack.LinkConfig{Link: own, Addresses: prefixes("192.0.2.1/32")}
		}, "192.0.2.1"},
		{"a second default router", func(own, first *station) stack.LinkConfig {
			return stack.LinkConfig{Link: own, Addresses: prefixes("10.0.0.1/8"), Gateways: addresses("10.0.0.2", "10.0.0.3")}
		}, "10.0.0.3"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			cfg, first := goodConfig(t)
			own := newStation(t)
			ip := build(t, withAll, cfg)
			wantErr(t, "AttachLink", ip.AttachLink(bad.cfg(own, first)), nil, "alice", bad.word)
			must(t, ip.Start(t.Context()))
			must(t, ip.Close())
			if own.gone {
				t.Error("the instance has closed a device that it refused")
			}
		})
	}
}

// TestAttachLinkTakesSameLinkLocalAddress: it is another one on each link (RFC 4007).
func TestAttachLinkTakesSameLinkLocalAddress(t *testing.T) {
	cfg, _ := goodConfig(t)
	cfg.Addresses = append(cfg.Addresses, netip.MustParsePrefix("fe80::1/64"))
	ip := build(t, withAll, cfg)
	must(t, ip.AttachLink(stack.LinkConfig{Link: newStation(t), Addresses: prefixes("fe80::1/64")}))
	must(t, ip.Start(t.Context()))
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("entropy is out") }

var _ io.Reader = failingReader{}

func TestNewNamesTheFailureOfRand(t *testing.T) {
	cfg, _ := goodConfig(t)
	cfg.Rand, cfg.HardwareAddr = failingReader{}, nil
	_, err := stack.New(cfg)
	wantErr(t, "New", err, nil, "MAC address", "entropy is out")
}
