package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/duotap/duotap/smtpclient"
)

// checkCommand is duotap check.
type checkCommand struct {
	linkFlags   `group:"Link"`
	serverFlags `group:"Server"`

	JSON bool `name:"json" help:"Print the result as one JSON object."`
}

// checkStep is one step of the way to the server.
type checkStep struct {
	Step string  `json:"step"`
	OK   bool    `json:"ok"`
	Text string  `json:"text"`
	MS   float64 `json:"ms"`

	err error
}

// checker walks the way and keeps the steps.
type checker struct {
	ctx    context.Context
	cmd    *checkCommand
	n      *network
	client *smtpclient.Client
	steps  []checkStep
}

// Run is called by kong.
func (c *checkCommand) Run(p *program) error {
	if err := c.checkName(c.Server); err != nil {
		return err
	}
	n, err := c.linkFlags.open(p)
	if err != nil {
		return c.finish(p, []checkStep{{Step: "link", Text: err.Error(), err: err}})
	}
	client, _, err := c.client(p, n.dialer, "")
	if err != nil {
		return errors.Join(err, n.close())
	}
	ctx, cancel := c.deadline(p.ctx)
	defer cancel()
	defer n.reportConflicts(p)
	k := &checker{ctx: ctx, cmd: c, n: n, client: client}
	k.walk()
	return errors.Join(c.finish(p, k.steps), n.close())
}

// walk takes the steps in order, until one fails.
func (k *checker) walk() {
	if k.n.ip != nil && !(k.step("link", k.link) && k.step("name", k.name) && k.step("neighbour", k.neighbour)) {
		return
	}
	k.dialogue()
}

// step runs one step and notes how it ended.
func (k *checker) step(name string, run func() (string, error)) bool {
	start := time.Now()
	text, err := run()
	s := checkStep{Step: name, OK: err == nil, Text: text, MS: ms(time.Since(start)), err: err}
	if err != nil {
		s.Text = err.Error()
	}
	k.steps = append(k.steps, s)
	return err == nil
}

func (k *checker) link() (string, error) {
	return fmt.Sprintf("%s %s is up, our addresses %v", k.cmd.Link, k.cmd.Tap, k.cmd.Address), nil
}

func (k *checker) name() (string, error) {
	host := serverHost(k.cmd.Server)
	addrs, err := k.n.ip.LookupHost(k.ctx, host)
	if err != nil {
		return "", err
	}
	return host + " is " + strings.Join(addrs, ", "), nil
}

// neighbour looks for the host that the first packet goes to.
func (k *checker) neighbour() (string, error) {
	addrs, err := k.n.ip.LookupHost(k.ctx, serverHost(k.cmd.Server))
	if err != nil {
		return "", err
	}
	var failures []error
	for _, s := range addrs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		n, err := k.n.ip.Neighbor(k.ctx, a)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		return fmt.Sprintf("%v has MAC address %v on link %s", n.Addr, n.HardwareAddr, n.Link), nil
	}
	return "", errors.Join(failures...)
}

// dialogue connects and speaks with the server up to AUTH.
func (k *checker) dialogue() {
	receipt, err := k.client.Check(k.ctx)
	for _, phase := range receipt.Phases {
		if phase.Step == smtpclient.StepQuit {
			continue
		}
		k.steps = append(k.steps, checkStep{Step: string(phase.Step), OK: true, Text: describe(&receipt, phase.Step), MS: ms(phase.Took)})
	}
	if err == nil {
		return
	}
	var e *smtpclient.Error
	failed := checkStep{Step: string(smtpclient.StepConnect), Text: err.Error(), err: err}
	if errors.As(err, &e) {
		failed.Step = string(e.Step)
	}
	k.steps = slices.DeleteFunc(k.steps, func(s checkStep) bool { return s.Step == failed.Step })
	k.steps = append(k.steps, failed)
}

// describe says what a step that went well has shown.
func describe(r *smtpclient.Receipt, step smtpclient.Step) string {
	switch step {
	case smtpclient.StepConnect:
		return fmt.Sprintf("TCP connection from %s to %s", r.Local, r.Remote)
	case smtpclient.StepAuth:
		return "authenticated with " + r.Auth
	case smtpclient.StepTLS:
		if r.TLS != nil {
			return r.TLS.String()
		}
	case smtpclient.StepEHLO:
		return "offers " + strings.Join(r.Extensions, ", ")
	}
	for _, x := range slices.Backward(r.Exchanges) {
		if x.Step == step {
			return x.Reply.String()
		}
	}
	return ""
}

// finish prints the steps and returns the error of the one that failed.
func (c *checkCommand) finish(p *program, steps []checkStep) error {
	var err error
	if last := steps[len(steps)-1]; !last.OK {
		err = &exitError{code: exitCode(last.err), err: last.err, silent: true}
	}
	if c.JSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return errors.Join(err, enc.Encode(struct {
			OK    bool        `json:"ok"`
			Steps []checkStep `json:"steps"`
		}{err == nil, steps}))
	}
	printSteps(p.stdout, steps)
	return err
}

func printSteps(w io.Writer, steps []checkStep) {
	for _, s := range steps {
		mark := "ok  "
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%s  %-10s %8.1f ms  %s\n", mark, s.Step, s.MS, s.Text)
	}
}
