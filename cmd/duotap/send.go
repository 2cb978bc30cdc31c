package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
)

// sendCommand is duotap send.
type sendCommand struct {
	linkFlags   `group:"Link"`
	serverFlags `group:"Server"`

	From     *string  `required:"" help:"The sender; --from '<>' or --from '' for none." placeholder:"ADDR" group:"Mail"`
	To       []string `required:"" sep:"none" help:"A recipient. Repeatable." placeholder:"ADDR" group:"Mail"`
	Subject  string   `help:"Subject, in UTF-8." group:"Mail"`
	Priority string   `enum:"low,normal,high" default:"normal" help:"${enum}" group:"Mail"`
	Raw      bool     `help:"Standard input is a whole message with its header (RFC 5322)." group:"Mail"`
	JSON     bool     `name:"json" help:"Print the result as one JSON object." group:"Mail"`
}

// sendReport is what --json prints.
type sendReport struct {
	Delivered bool               `json:"delivered"`
	ExitCode  int                `json:"exit_code"`
	Error     string             `json:"error,omitempty"`
	Receipt   smtpclient.Receipt `json:"receipt"`
	Pool      poolReport         `json:"pool"`
	Instance  *poolReport        `json:"instance_pool,omitempty"`
}

// poolReport is how --json prints a packet pool.
type poolReport struct {
	Total            int    `json:"total"`
	Free             int    `json:"free"`
	LowestFree       int    `json:"lowest_free"`
	EmptyRequests    uint64 `json:"empty_requests"`
	EmptySuspensions uint64 `json:"empty_suspensions"`
	InvalidReleases  uint64 `json:"invalid_releases"`
}

func newPoolReport(p *packetpool.Pool) poolReport {
	s := p.Stats()
	return poolReport{s.Total, s.Free, s.LowestFree, s.EmptyRequests, s.EmptySuspensions, s.InvalidReleases}
}

func (c *sendCommand) mail(stdin io.Reader) smtpclient.Mail {
	m := smtpclient.Mail{To: c.To, Subject: c.Subject, Raw: c.Raw, Body: stdin}
	for _, p := range []smtpclient.Priority{smtpclient.PriorityLow, smtpclient.PriorityHigh} {
		if p.String() == c.Priority {
			m.Priority = p
		}
	}
	return m
}

// Run is called by kong.
func (c *sendCommand) Run(p *program) error {
	from := *c.From
	if from == "" {
		from = "<>"
	}
	if c.Raw && c.Subject != "" {
		return usageError(errors.New("--raw takes the message as it is, so --subject has no place to go; leave one out"))
	}
	if err := c.checkName(c.Server); err != nil {
		return err
	}
	n, err := c.linkFlags.open(p)
	if err != nil {
		return err
	}
	client, pool, err := c.client(p, n.dialer, from)
	if err != nil {
		return errors.Join(err, n.close())
	}
	ctx, cancel := c.deadline(p.ctx)
	defer cancel()
	defer n.reportConflicts(p)
	receipt, err := client.Send(ctx, c.mail(newContextReader(ctx, p.stdin)))
	if closeErr := n.close(); closeErr != nil {
		fmt.Fprintf(p.stderr, "duotap: %v\n", closeErr) // the mail's outcome counts for more
	}
	report := sendReport{Delivered: err == nil, ExitCode: sendExitCode(&receipt, err), Receipt: receipt, Pool: newPoolReport(pool)}
	if n.pool != nil {
		s := newPoolReport(n.pool)
		report.Instance = &s
	}
	if err != nil {
		report.Error = inFlags(err)
	}
	return c.print(p, &report, err)
}

func (f *serverFlags) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.Deadline == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, f.Deadline, fmt.Errorf("--deadline %v is over: %w", f.Deadline, context.DeadlineExceeded))
}

func (c *sendCommand) print(p *program, r *sendReport, err error) error {
	if c.JSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil { // which counts for less than the outcome
			fmt.Fprintf(p.stderr, "duotap: writing the result: %v\n", err)
		}
	} else {
		r.printText(p.stdout)
	}
	if err == nil {
		return nil
	}
	return &exitError{code: r.ExitCode, err: err, silent: c.JSON}
}

func (r *sendReport) printText(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, rcpt := range r.Receipt.Recipients {
		outcome, why := rcpt.Outcome.String(), ""
		switch {
		case rcpt.Reply != nil:
			why = rcpt.Reply.String()
		case rcpt.Outcome == smtpclient.Refused:
			outcome = "not sent" // for a reason that the error says
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", outcome, rcpt.Address, why)
	}
	tw.Flush()
	fmt.Fprintf(w, "%d bytes in %d packets; pool %d of %d free, at least %d free all the time\n",
		r.Receipt.Bytes, r.Receipt.Packets, r.Pool.Free, r.Pool.Total, r.Pool.LowestFree)
}

// sendExitCode is the worst outcome of all recipients: unknown, then temporary, then
// permanent.
func sendExitCode(r *smtpclient.Receipt, err error) int {
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	for _, rcpt := range r.Recipients {
		switch {
		case rcpt.Outcome == smtpclient.Unknown:
			return exitUnknown
		case rcpt.Outcome == smtpclient.Refused && rcpt.Temporary && rcpt.Reply != nil:
			code = exitTemporary
		}
	}
	return code
}
