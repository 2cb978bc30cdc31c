package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/bench"
)

// benchCommand is duotap bench.
type benchCommand struct {
	TCP     benchTCP     `cmd:"" name:"tcp" help:"Bulk transfer over TCP."`
	Latency benchLatency `cmd:"" name:"latency" help:"Request and response, one at a time."`
	Connect benchConnect `cmd:"" name:"connect" help:"Opening and closing TCP connections, one after the other."`
	UDP     benchUDP     `cmd:"" name:"udp" help:"Datagrams per second, and how many are lost."`
	SMTP    benchSMTP    `cmd:"" name:"smtp" help:"Mail, beside raw TCP on the same link."`
	Frames  benchFrames  `cmd:"" name:"frames" help:"Frames per second of the device, without a stack."`
	Pool    benchPool    `cmd:"" name:"pool" help:"The packet pool alone."`
	Peer    benchPeer    `cmd:"" name:"peer" hidden:"" help:"Be the other end of a link."`
}

// benchFlags are those that all scenarios have.
type benchFlags struct {
	Link       []bench.Link  `enum:"tap,tap-plain,memory,kernel" default:"tap" help:"What to measure, beside the kernel, which is the yardstick (${enum}). Repeatable." placeholder:"KIND"`
	IPv4       bool          `name:"ipv4" short:"4" help:"IPv4 only."`
	IPv6       bool          `name:"ipv6" short:"6" help:"IPv6 only."`
	Rounds     int           `default:"5" help:"How often to measure each case." placeholder:"N"`
	Warmup     time.Duration `default:"400ms" help:"How long traffic runs before it is measured." placeholder:"DURATION"`
	Window     time.Duration `default:"1s" help:"How long it is measured." placeholder:"DURATION"`
	CPU        int           `name:"cpu" default:"-1" help:"Pin everything to this processor. Default: no pinning." placeholder:"N"`
	MaxOthers  float64       `default:"20" help:"Measure again, up to 3 times, while other programs use more of the processors than this, and keep the quietest." placeholder:"PERCENT"`
	JSON       bool          `name:"json" help:"Print the result as one JSON object."`
	GoBench    string        `name:"go-bench" help:"Append the result to a file in the format of go test -bench, for benchstat." placeholder:"FILE"`
	CPUProfile string        `name:"cpu-profile" help:"Write a CPU profile of this process to a file; its label link tells the links apart." placeholder:"FILE"`

	InNamespace bool `hidden:""`
}

// benchTCP is duotap bench tcp.
type benchTCP struct {
	benchFlags
	Direction []string `enum:"send,receive,both" default:"send,receive,both" help:"Seen from the stack under test (${enum}). Repeatable." placeholder:"WAY"`
	Parallel  []int    `short:"P" default:"1" help:"Connections at a time. Repeatable." placeholder:"N"`
}

// Run is called by kong.
func (c *benchTCP) Run(p *program) error {
	for _, n := range c.Parallel {
		if n < 1 || n > 1000 {
			return usageError(fmt.Errorf("--parallel %d: want 1 to 1000 connections", n))
		}
	}
	return c.run(p, &bench.TCP{Directions: c.Direction, Streams: c.Parallel})
}

// benchLatency is duotap bench latency.
type benchLatency struct {
	benchFlags
	Size int `default:"64" help:"Bytes of a message." placeholder:"BYTES"`
}

// Run is called by kong.
func (c *benchLatency) Run(p *program) error {
	if c.Size < 1 || c.Size > 1<<20 {
		return usageError(fmt.Errorf("--size %d: want 1 to 1048576 bytes", c.Size))
	}
	return c.run(p, &bench.Latency{Size: c.Size})
}

// benchConnect is duotap bench connect.
type benchConnect struct{ benchFlags }

// Run is called by kong.
func (c *benchConnect) Run(p *program) error { return c.run(p, &bench.Connect{}) }

// benchUDP is duotap bench udp.
type benchUDP struct {
	benchFlags
	Direction []string `enum:"send,receive" default:"send,receive" help:"Seen from the stack under test (${enum}). Repeatable." placeholder:"WAY"`
	Size      []int    `default:"64,1400" help:"Bytes of a datagram's payload. Repeatable." placeholder:"BYTES"`
}

// Run is called by kong.
func (c *benchUDP) Run(p *program) error {
	for _, n := range c.Size {
		if n < 1 || n > bench.MaxDatagram {
			return usageError(fmt.Errorf("--size %d: want 1 to %d bytes", n, bench.MaxDatagram))
		}
	}
	return c.run(p, &bench.UDP{Directions: c.Direction, Sizes: c.Size})
}

// benchSMTP is duotap bench smtp.
type benchSMTP struct {
	benchFlags
	Size        int `default:"268435456" help:"Bytes of a message's body." placeholder:"BYTES"`
	Parallel    int `short:"P" default:"1" help:"Messages at a time, each over a connection of its own." placeholder:"N"`
	PoolPackets int `default:"64" help:"Packets in the client's pool." placeholder:"N"`
	PoolPayload int `default:"1514" help:"Bytes in each, headers included." placeholder:"BYTES"`
}

// Run is called by kong.
func (c *benchSMTP) Run(p *program) error {
	switch {
	case c.Size < 1:
		return usageError(fmt.Errorf("--size %d: want 1 byte or more", c.Size))
	case c.Parallel < 1 || c.Parallel > 1000:
		return usageError(fmt.Errorf("--parallel %d: want 1 to 1000 messages", c.Parallel))
	case c.PoolPackets < 1 || c.PoolPayload < 1:
		return usageError(errors.New("--pool-packets and --pool-payload: want 1 or more"))
	}
	return c.run(p, &bench.SMTP{Size: c.Size, Parallel: c.Parallel, PoolPackets: c.PoolPackets, PoolPayload: c.PoolPayload})
}

// benchFrames is duotap bench frames.
type benchFrames struct{ benchFlags }

// Run is called by kong.
func (c *benchFrames) Run(p *program) error { return c.run(p, &bench.Frames{}) }

// benchPool is duotap bench pool. It has no link, so no flags about one.
type benchPool struct {
	benchFlags
}

// Run is called by kong.
func (c *benchPool) Run(p *program) error {
	c.Link = []bench.Link{bench.Memory}
	return c.run(p, &bench.Pool{})
}

// run measures a scenario, in namespaces of its own, and prints the result.
func (f *benchFlags) run(p *program, s bench.Scenario) error {
	if f.IPv4 && f.IPv6 {
		return usageError(errors.New("-4 and -6 exclude each other; without either both are measured"))
	}
	if !f.InNamespace {
		return f.runInNamespace(p)
	}
	profile, err := f.startProfile()
	if err != nil {
		return err
	}
	report, err := bench.Run(p.ctx, f.config(p), s)
	if err = errors.Join(err, profile()); err != nil {
		return err
	}
	if err := f.record(report); err != nil {
		return err
	}
	if f.JSON {
		return report.JSON(p.stdout)
	}
	return report.Table(p.stdout)
}

func (f *benchFlags) config(p *program) bench.Config {
	cfg := bench.Config{Links: f.Link, Families: []int{4, 6}, Rounds: f.Rounds, MaxOthers: f.MaxOthers, Warmup: f.Warmup, Window: f.Window,
		Peer: benchPeerProcess, Progress: p.stderr, Logger: p.log}
	switch {
	case f.IPv4:
		cfg.Families = []int{4}
	case f.IPv6:
		cfg.Families = []int{6}
	}
	return cfg
}

// runInNamespace runs this command line again where it may make interfaces.
func (f *benchFlags) runInNamespace(p *program) error {
	if f.CPU >= 0 {
		if err := pin(f.CPU); err != nil {
			return usageError(err)
		}
		defer runtime.UnlockOSThread()
	}
	code, err := inNamespace(p, append(slices.Clone(os.Args[1:]), "--in-namespace")...)
	switch {
	case errors.Is(err, errNoNamespace):
		return &exitError{code: exitPermission, err: fmt.Errorf("%w; a benchmark needs user namespaces and a usable /dev/net/tun", err)}
	case err == nil && code != exitOK:
		err = &exitError{code: code, err: errors.New("the benchmark failed"), silent: true}
	}
	return err
}

// pin binds the calling thread, and so all processes that it makes, to a processor.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("--cpu %d: %w", cpu, os.NewSyscallError("sched_setaffinity", err))
	}
	return nil
}

// startProfile returns what ends the profile, if one is wanted.
func (f *benchFlags) startProfile() (end func() error, err error) {
	if f.CPUProfile == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(f.CPUProfile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// record appends the result to --go-bench.
func (f *benchFlags) record(r *bench.Report) error {
	if f.GoBench == "" {
		return nil
	}
	var text bytes.Buffer
	if err := r.GoBench(&text); err != nil {
		return err
	}
	file, err := os.OpenFile(f.GoBench, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	_, err = text.WriteTo(file)
	return errors.Join(err, file.Close())
}

// benchPeer is the other end of a link, which a benchmark starts.
type benchPeer struct{}

// Run is called by kong.
func (*benchPeer) Run(p *program) error { return bench.ServePeer(p.stdin, p.stdout) }

// benchPeerProcess makes the command of a peer: this program again. It ends with its
// standard input, and so with us.
func benchPeerProcess() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "bench", "peer")
	cmd.Args[0] = "duotap" // tests run the program under this name
	return cmd
}
