package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
)

// demoCommand is duotap demo.
type demoCommand struct {
	Link        string `enum:"auto,tap,tap-plain,memory" default:"auto" help:"What to run on (${enum}); auto: a TAP with offloads where this machine lets us have one, else memory." placeholder:"KIND"`
	Size        int64  `default:"1048576" help:"Bytes of the message's body." placeholder:"BYTES"`
	PoolPackets int    `default:"16" help:"Packets in the client's pool, 1 or more." placeholder:"N"`
	PoolPayload int    `default:"1514" help:"Bytes in each, headers included." placeholder:"BYTES"`
	Pcap        string `help:"Capture the traffic into a new pcapng file." placeholder:"FILE"`
	JSON        bool   `name:"json" help:"Print the result as one JSON object."`

	InNamespace bool `hidden:""`
}

// demoReport is the result, and what --json prints.
type demoReport struct {
	Link         string         `json:"link"` // tap, tap-plain or memory
	Why          string         `json:"why_not_tap,omitempty"`
	Offload      bool           `json:"offload"`
	MTU          int            `json:"mtu"`
	Transfers    []demoTransfer `json:"transfers"`
	ClientPool   poolReport     `json:"client_pool"`
	InstancePool poolReport     `json:"instance_pool"`
	PeakResident int64          `json:"peak_resident_bytes"` // VmHWM of this process
}

// demoTransfer is one message.
type demoTransfer struct {
	Family  string  `json:"family"`
	Server  string  `json:"server"`
	Bytes   int64   `json:"bytes"`   // of the body that arrived, and equalled what was sent
	Packets int64   `json:"packets"` // of the client's pool that carried it
	Seconds float64 `json:"seconds"`
	Frames  uint64  `json:"frames_sent"`
	MBPerS  float64 `json:"mb_per_s"` // 10⁶ bytes
}

// Run is called by kong.
func (c *demoCommand) Run(p *program) error {
	if c.Size < 2 {
		return usageError(errors.New("--size is the number of bytes to send, 2 or more, because text ends in CRLF"))
	}
	if c.InNamespace {
		return c.onTAP(p)
	}
	if c.Link == "memory" {
		return c.inMemory(p, "")
	}
	noTAP, err := c.inNamespace(p)
	switch {
	case noTAP == nil:
		return err
	case c.Link != "auto":
		return &exitError{code: exitPermission, err: fmt.Errorf("%w; a TAP needs user namespaces and a usable /dev/net/tun, or try --link memory", noTAP)}
	}
	return c.inMemory(p, noTAP.Error())
}

// inNamespace runs the demo in namespaces of its own. noTAP is why there can't be a TAP.
func (c *demoCommand) inNamespace(p *program) (noTAP, err error) {
	var said bytes.Buffer // on stderr; no more than an error
	child := *p
	child.stderr = &said
	code, err := inNamespace(&child, c.childArgs()...)
	switch {
	case errors.Is(err, errNoNamespace):
		return err, nil
	case err == nil && code == exitNoTAP:
		return errors.New(strings.TrimPrefix(strings.TrimSpace(said.String()), "duotap: ")), nil
	}
	if _, writeErr := said.WriteTo(p.stderr); err == nil {
		err = writeErr
	}
	if err == nil && code != exitOK {
		err = &exitError{code: code, err: errors.New("the demo failed"), silent: true}
	}
	return nil, err
}

// exitNoTAP is how the demo in the namespace says that it can't have a TAP.
const exitNoTAP = 40

func (c *demoCommand) childArgs() []string {
	kind := c.Link
	if kind == "auto" {
		kind = "tap"
	}
	args := []string{"demo", "--in-namespace", "--link", kind, fmt.Sprintf("--size=%d", c.Size),
		fmt.Sprintf("--pool-packets=%d", c.PoolPackets), fmt.Sprintf("--pool-payload=%d", c.PoolPayload), "--pcap", c.Pcap}
	if c.JSON {
		args = append(args, "--json")
	}
	return args
}

// The demo's two hosts: documentation addresses (RFC 5737, RFC 4193).
var (
	applianceAddrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("fd99::2/64")}
	serverAddrs    = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd99::1/64")}
)

const demoPort = 25

// exchange sends the message to each of the server's addresses, and reports.
func (c *demoCommand) exchange(p *program, n *network, server *demoServer, r *demoReport) error {
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: c.PoolPackets, Payload: c.PoolPayload})
	if err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	for _, addr := range serverAddrs {
		// Over IPv6 a connection would wait for duplicate address detection, which would
		// count as transfer time.
		if addr.Addr().Is6() {
			if err := n.ip.Ready(p.ctx); err != nil {
				return err
			}
		}
		t, err := c.transfer(p, n, server, pool, netip.AddrPortFrom(addr.Addr(), demoPort))
		if err != nil {
			return err
		}
		r.Transfers = append(r.Transfers, t)
	}
	r.ClientPool = newPoolReport(pool)
	if r.ClientPool.Free != r.ClientPool.Total {
		return fmt.Errorf("%d of %d packets did not come back to the client's pool", r.ClientPool.Total-r.ClientPool.Free, r.ClientPool.Total)
	}
	return nil
}

func (c *demoCommand) transfer(p *program, n *network, server *demoServer, pool *packetpool.Pool, addr netip.AddrPort) (demoTransfer, error) {
	t := demoTransfer{Family: "IPv6", Server: addr.String()}
	if addr.Addr().Is4() {
		t.Family = "IPv4"
	}
	client, err := smtpclient.New(smtpclient.Config{
		Dialer: n.dialer, Pool: pool, Server: addr.String(), Domain: "appliance.example", From: "appliance@example.org", Logger: p.log})
	if err != nil {
		return t, &exitError{code: exitConfig, err: err}
	}
	frames := n.ip.Stats().Links[0].FramesSent
	start := time.Now()
	receipt, err := client.Send(p.ctx, smtpclient.Mail{
		To: []string{"operator@example.org"}, Subject: "duotap demo over " + t.Family, Body: newDemoText(c.Size)})
	took := time.Since(start)
	if err != nil {
		return t, fmt.Errorf("%s: %w", t.Family, err)
	}
	if err := server.arrived(c.Size); err != nil {
		return t, fmt.Errorf("%s: %w", t.Family, err)
	}
	t.Bytes, t.Packets, t.Seconds = c.Size, receipt.Packets, took.Seconds()
	t.MBPerS = float64(c.Size) / 1e6 / took.Seconds()
	t.Frames = n.ip.Stats().Links[0].FramesSent - frames
	return t, nil
}

// finish closes the network and prints the report.
func (c *demoCommand) finish(p *program, n *network, r *demoReport) error {
	instance := n.pool
	if err := n.close(); err != nil {
		return err
	}
	r.InstancePool = newPoolReport(instance)
	if r.InstancePool.Free != r.InstancePool.Total {
		return fmt.Errorf("%d of %d packets did not come back to the instance's pool", r.InstancePool.Total-r.InstancePool.Free, r.InstancePool.Total)
	}
	var err error
	if r.PeakResident, err = peakResident(); err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	r.print(p.stdout)
	return nil
}

func (r *demoReport) print(w io.Writer) {
	if r.Why != "" {
		fmt.Fprintf(w, "No TAP (%s), so an in-memory link instead.\n", r.Why)
	}
	fmt.Fprintf(w, "link         %s, MTU %d, segmentation offload %v\n", r.Link, r.MTU, r.Offload)
	for _, t := range r.Transfers {
		fmt.Fprintf(w, "%s         %d bytes to %s arrived byte for byte: %d packets, %d frames, %.3f s, %.1f MB/s\n",
			t.Family, t.Bytes, t.Server, t.Packets, t.Frames, t.Seconds, t.MBPerS)
	}
	for _, s := range []struct {
		name string
		poolReport
	}{{"client pool  ", r.ClientPool}, {"instance pool", r.InstancePool}} {
		fmt.Fprintf(w, "%s %d packets, %d free at the end, at least %d free all the time, waited for one %d times\n",
			s.name, s.Total, s.Free, s.LowestFree, s.EmptySuspensions)
	}
	fmt.Fprintf(w, "memory        at most %.1f MiB resident (VmHWM), server included\n", float64(r.PeakResident)/(1<<20))
}
