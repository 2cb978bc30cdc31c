package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/duotap/duotap/stack"
)

// pingCommand is duotap ping.
type pingCommand struct {
	linkFlags `group:"Link"`

	Addr     netip.Addr    `arg:"" name:"address" help:"IPv4 or IPv6 address; a link-local one with the zone %eth0."`
	Count    int           `short:"c" default:"4" help:"How many requests, 1 to 1000."`
	Interval time.Duration `short:"i" default:"1s" help:"Time between two requests."`
	Timeout  time.Duration `short:"W" default:"5s" help:"How long to wait for each answer."`
	Size     int           `short:"s" default:"56" help:"Bytes of payload."`
}

// Run is called by kong.
func (c *pingCommand) Run(p *program) (err error) {
	switch {
	case c.Link == "kernel":
		return usageError(errors.New("ping is sent by an instance of duotap's; --link kernel has none"))
	case c.Count < 1 || c.Count > 1000 || c.Interval < 0 || c.Timeout <= 0:
		return usageError(errors.New("want --count 1 to 1000, an --interval that isn't negative and a --timeout above 0"))
	case c.Size < 0 || c.Size > stack.MaxPing:
		return usageError(fmt.Errorf("want --size 0 to %d, not %d", stack.MaxPing, c.Size))
	}
	n, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()

	defer n.reportConflicts(p)
	var rtts []time.Duration
	var last error
	for k := range c.Count {
		if k > 0 && !sleep(p.ctx, c.Interval) {
			break
		}
		ctx, cancel := context.WithTimeout(p.ctx, c.Timeout)
		reply, err := n.ip.Ping(ctx, c.Addr, c.Size)
		cancel()
		if err != nil {
			last = err
			fmt.Fprintf(p.stdout, "%d: %v\n", k+1, err)
			continue
		}
		rtts = append(rtts, reply.RTT)
		fmt.Fprintf(p.stdout, "%d: %d bytes from %v, %.3f ms\n", k+1, reply.Size, reply.From, ms(reply.RTT))
	}
	if len(rtts) == 0 {
		return fmt.Errorf("no answer from %v: %w", c.Addr, last)
	}
	slices.Sort(rtts)
	fmt.Fprintf(p.stdout, "%d of %d answered; min %.3f, median %.3f, max %.3f ms\n",
		len(rtts), c.Count, ms(rtts[0]), ms(rtts[len(rtts)/2]), ms(rtts[len(rtts)-1]))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sleep waits for d, and reports whether it did so in full.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
