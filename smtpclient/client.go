package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Client sends mail to one server. It keeps no connection and no state between mails,
// so after any outcome it can send the next. Its methods may be called from several
// goroutines at once; each Send is a session of its own.
type Client struct {
	cfg    Config
	server server
	tls    *tls.Config
	stages sync.Pool // of *stage
}

// New makes a client; it does not touch the network. The error lists everything that is
// wrong with cfg. It wraps ErrTCPNotEnabled if the Dialer can't have connections,
// packetpool.ErrHeadroom if the packets of Pool are too small, and ErrAddress for a
// sender or a domain that can't be sent.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	c := &Client{cfg: cfg}
	c.server, _ = cfg.server() // validate has seen it
	c.tls = cfg.TLS.forServer(c.server, cfg.Now)
	c.stages.New = func() any { return new(stage) }
	return c, nil
}

// Send sends one mail over a connection of its own, which is closed whatever the
// outcome, and returns what is known about it. The Receipt is always valid. err is nil
// if and only if every recipient was delivered to.
//
// err is an *Error, which says what failed and whether it is worth trying again; or, if
// recipients failed for different reasons, wraps one *Error for each, as the Receipt
// has them. It wraps ErrUnknownOutcome if the mail may have been delivered.
//
// When ctx is done, Send stops whatever it is doing, except a Read of m.Body, and err
// wraps context.Cause(ctx). All packets are back in the pool when Send returns.
func (c *Client) Send(ctx context.Context, m Mail) (Receipt, error) {
	receipt := newReceipt(c.server.address(), m.To)
	s := &session{client: c, cfg: &c.cfg, start: time.Now(), receipt: &receipt}
	err := receipt.settle(s.run(ctx, &m))
	s.log(ctx, err)
	return receipt, err
}

// Check walks the way to the server as Send does, up to and including authentication,
// and sends no mail. The Receipt has the replies and what each step took; it has no
// recipients. err is nil, or the *Error of the step that failed.
func (c *Client) Check(ctx context.Context) (Receipt, error) {
	receipt := newReceipt(c.server.address(), nil)
	s := &session{client: c, cfg: &c.cfg, ctx: ctx, start: time.Now(), receipt: &receipt}
	err := func() error {
		defer s.close()
		return s.begin()
	}()
	return receipt, err
}

// settle gives err to the recipients that have no outcome of their own, and returns
// the error of Send.
func (r *Receipt) settle(err error) error {
	var errs recipientErrors
	var last error
	for i := range r.Recipients {
		rcpt := &r.Recipients[i]
		if e, ok := errors.AsType[*Error](err); ok && rcpt.Outcome != Delivered && rcpt.Err == nil {
			rcpt.refused(e)
		}
		if rcpt.Err != nil && rcpt.Err != last {
			last = rcpt.Err
			errs = append(errs, last)
		}
	}
	switch len(errs) {
	case 0:
		return err
	case 1:
		return errs[0]
	}
	return errs
}

// dial connects to the server.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeouts.Connect,
		fmt.Errorf("no connection for %v: %w", c.cfg.Timeouts.Connect, context.DeadlineExceeded))
	defer cancel()
	conn, err := c.cfg.Dialer.DialContext(ctx, "tcp", c.server.address())
	if err == nil {
		return conn, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, fmt.Errorf("%w: %w", cause, err)
	}
	return nil, err
}

// helloName is how the client introduces itself on conn.
func (c *Client) helloName(conn net.Conn) string {
	if c.cfg.Domain != "" {
		return c.cfg.Domain
	}
	if a := conn.LocalAddr(); a != nil {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			return addressLiteral(ap.Addr())
		}
	}
	return "localhost"
}

// log writes the one record of a mail.
func (s *session) log(ctx context.Context, err error) {
	attrs := []slog.Attr{
		slog.String("server", s.receipt.Server),
		slog.Int("recipients", len(s.receipt.Recipients)),
		slog.String("message_id", s.receipt.MessageID),
		slog.Int64("bytes", s.receipt.Bytes),
		slog.Duration("took", time.Since(s.start)),
	}
	if err != nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "mail not delivered to all", append(attrs, slog.String("error", err.Error()))...)
		return
	}
	s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "mail delivered", attrs...)
}
