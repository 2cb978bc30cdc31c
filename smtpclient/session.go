package smtpclient

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// session is one connection with one mail. Its methods return an *Error, or nil.
type session struct {
	client  *Client
	cfg     *Config
	start   time.Time
	receipt *Receipt
	ctx     context.Context

	wire *wire
	name string // by which the client introduced itself
	ext  extensions

	// broken: the two sides may not agree any more on what has been said, or the
	// connection is gone. over: the server has said that it closes. In both cases
	// nothing more is sent.
	broken, over bool
}

// run sends m. Recipients whose outcome differs from that of the whole have it in the
// receipt.
func (s *session) run(ctx context.Context, m *Mail) error {
	s.ctx = ctx
	e, err := m.envelope(s.cfg.From)
	if err != nil {
		return &Error{Step: StepPrepare, Err: err}
	}
	defer s.close()
	if err := s.begin(); err != nil {
		return err
	}
	return s.transaction(m, e)
}

// begin does all that comes before a mail. close is due after it.
func (s *session) begin() error {
	for _, step := range []func() error{s.connect, s.implicitTLS, s.greeting, s.hello, s.startTLS, s.authenticate} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the connection.
func (s *session) connect() error {
	begin := time.Now()
	conn, err := s.client.dial(s.ctx)
	s.receipt.took(StepConnect, time.Since(begin))
	if err != nil {
		return s.fail(StepConnect, err)
	}
	s.wire = newWire(s.ctx, s.cfg, s.client.server.headroom(), conn)
	s.wire.in.scrub = newScrubber(s.cfg.Username, s.cfg.Password, s.client.server)
	if a := conn.LocalAddr(); a != nil {
		s.receipt.Local = a.String()
	}
	if a := conn.RemoteAddr(); a != nil {
		s.receipt.Remote = a.String()
	}
	s.trace('*', fmt.Sprintf("connected to %s at %s", s.receipt.Server, s.receipt.Remote))
	s.name = s.client.helloName(conn)
	return nil
}

// close ends the session, if there is a connection, politely unless it is broken.
// Nothing depends on the answer to QUIT.
func (s *session) close() {
	if s.wire == nil {
		return
	}
	defer func() { // also if Config.Trace panics
		s.receipt.Bytes = s.wire.out.sent
		s.receipt.Packets = s.wire.out.packets
		s.wire.close(s.broken)
	}()
	if !s.broken && !s.over {
		_, _ = s.command(StepQuit, s.cfg.Timeouts.Quit, "QUIT", "QUIT")
	}
}

// greeting waits for the server's first words (RFC 5321 §3.1).
func (s *session) greeting() error {
	begin := time.Now()
	defer func() { s.receipt.took(StepGreeting, time.Since(begin)) }()
	if err := s.wire.begin(s.cfg.Timeouts.Greeting); err != nil {
		return s.failBroken(StepGreeting, err)
	}
	r, err := s.readReply(StepGreeting, "")
	if err != nil {
		return err
	}
	return s.expect(StepGreeting, r, 220)
}

// hello introduces the client, with HELO to a server that doesn't know EHLO (RFC 5321
// §3.2).
func (s *session) hello() error {
	s.ext, s.receipt.Extensions = extensions{}, []string{}
	r, err := s.say(StepEHLO, s.cfg.Timeouts.Hello, "EHLO "+s.name)
	if err != nil {
		return err
	}
	if slices.Contains([]int{500, 502, 504, 550}, r.code) && !s.broken {
		return s.helo(r)
	}
	if err := s.expect(StepEHLO, r, 250); err != nil {
		return err
	}
	s.ext = parseExtensions(r.lines)
	s.receipt.Extensions = append(s.receipt.Extensions, s.ext.lines...)
	return nil
}

// helo introduces the client to a server that refused EHLO with the reply r. If it has
// closed then, the refusal is the news and not the closing.
func (s *session) helo(r rawReply) error {
	h, err := s.say(StepHELO, s.cfg.Timeouts.Hello, "HELO "+s.name)
	switch {
	case err == nil:
		return s.expect(StepHELO, h, 250)
	case s.ctx.Err() != nil, isTimeout(err), isReplyError(err):
		return err
	}
	return s.refusal(StepEHLO, r)
}

// authenticate runs the exchange that the configuration and the server agree on (RFC
// 4954), if any.
func (s *session) authenticate() error {
	encrypted := isEncrypted(s.wire.conn)
	mechanism, err := chooseMechanism(s.cfg, s.ext, encrypted)
	if err != nil {
		return s.fail(StepAuth, err)
	}
	if mechanism == "" {
		if s.cfg.Auth == AuthAuto && s.cfg.Username != "" {
			s.leaveOut("AUTH", "the server doesn't offer it")
		}
		return nil
	}
	if showsSecret(mechanism) && !s.cfg.AllowPlaintextAuth && !encrypted {
		return s.fail(StepAuth, fmt.Errorf("%w: the link isn't encrypted; use TLS, or if everybody on the way may read them, set Config.AllowPlaintextAuth, or else set Config.Auth to AuthNone",
			ErrPlaintextAuth))
	}
	client, err := s.newSASL(mechanism)
	if err != nil {
		return s.fail(StepAuth, err)
	}
	if err := s.exchange(mechanism, client); err != nil {
		return err
	}
	s.receipt.Auth = mechanism
	return nil
}

// exchange authenticates with mechanism. The client bounds the number of challenges.
func (s *session) exchange(mechanism string, client saslClient) error {
	line := "AUTH " + mechanism
	shown := line
	if full, ok := s.initialResponse(line, client); ok {
		line, shown = full, line+" "+hidden
		client.sentInitial()
	}
	for {
		r, err := s.command(StepAuth, s.cfg.Timeouts.Auth, line, shown)
		if err != nil {
			return err
		}
		if r.code != 334 {
			if err := s.expect(StepAuth, r, 235); err != nil {
				return err
			}
			if err := client.finish(); err != nil {
				return s.failBroken(StepAuth, err)
			}
			return nil
		}
		answer, err := client.answer(decodeChallenge(r.last()))
		if err != nil {
			return s.failBroken(StepAuth, err)
		}
		line, shown = base64.StdEncoding.EncodeToString(answer), hidden
	}
}

// initialResponse adds to an AUTH command the answer to a challenge that is not awaited,
// if that is wanted and the line isn't too long for it (RFC 4954 §4).
func (s *session) initialResponse(line string, client saslClient) (string, bool) {
	answer, ok := client.initial()
	if !ok || !s.cfg.AuthInitialResponse {
		return "", false
	}
	if len(answer) == 0 {
		return line + " =", true
	}
	line += " " + base64.StdEncoding.EncodeToString(answer)
	return line, len(line)+len("\r\n") <= 512
}

// transaction sends the mail to all recipients that the server accepts (RFC 5321 §3.3).
func (s *session) transaction(m *Mail, e envelope) error {
	r, err := s.say(StepMail, s.cfg.Timeouts.Mail, s.mailCommand(e))
	if err == nil {
		err = s.expect(StepMail, r, 250)
	}
	if err != nil {
		return err
	}
	accepted, err := s.recipients(e)
	if err != nil || accepted == 0 {
		return err
	}
	r, err = s.say(StepData, s.cfg.Timeouts.Data, "DATA")
	if err == nil {
		err = s.expect(StepData, r, 354)
	}
	if err != nil {
		return err
	}
	begin := time.Now()
	defer func() { s.receipt.took(StepMessage, time.Since(begin)) }()
	return s.message(m, e)
}

// mailCommand is MAIL with the parameters that the server understands.
func (s *session) mailCommand(e envelope) string {
	line := "MAIL FROM:<" + string(e.from) + ">"
	if s.ext.has("8BITMIME") {
		line += " BODY=8BITMIME"
	}
	if e.priority != PriorityNormal {
		if s.ext.has("MT-PRIORITY") {
			line += " MT-PRIORITY=" + e.priority.mtPriority()
		} else {
			s.leaveOut("MT-PRIORITY", "the server doesn't offer it")
		}
	}
	return line
}

// recipients names all of them, and returns how many were accepted. Those that were
// refused have their outcome.
func (s *session) recipients(e envelope) (accepted int, err error) {
	for i, to := range e.to {
		r, err := s.say(StepRcpt, s.cfg.Timeouts.Rcpt, "RCPT TO:<"+string(to)+">")
		if err != nil {
			return 0, err
		}
		err = s.expect(StepRcpt, r, 250, 251, 252)
		if s.broken || s.over {
			return 0, err
		}
		if err == nil {
			accepted++
			continue
		}
		refusal, _ := errors.AsType[*Error](err)
		refusal.Recipient = string(to)
		s.receipt.Recipients[i].refused(refusal)
	}
	return accepted, nil
}

// message sends header, body and final dot, and reads what the server makes of it.
func (s *session) message(m *Mail, e envelope) error {
	s.broken = true // until the server has answered, even if the body panics
	if s.wire.in.buffered() > 0 {
		return s.interrupted(nil)
	}
	text, err := s.text(m, e)
	if err != nil {
		return s.fail(StepMessage, err)
	}
	out := &s.wire.out
	before := out.written
	dotAt, err := s.sendText(text)
	if err != nil {
		return s.failText(err, out.offered > dotAt)
	}
	s.receipt.MessageBytes = dotAt - before
	s.trace('C', fmt.Sprintf("(%d bytes)", dotAt-before))
	s.trace('C', ".")
	if err := s.wire.begin(s.cfg.Timeouts.FinalDot); err != nil {
		return s.inDoubt(s.fail(StepMessage, err))
	}
	r, err := s.readReply(StepMessage, ".")
	if err != nil {
		return s.inDoubt(err)
	}
	s.broken = false
	return s.verdict(r)
}

// text is the whole message as it is before it is made fit for DATA.
func (s *session) text(m *Mail, e envelope) (io.Reader, error) {
	body := m.Body
	if body == nil {
		body = bytes.NewReader(nil)
	}
	if m.Raw {
		return body, nil
	}
	now := s.cfg.Now()
	id, err := newMessageID(now, s.cfg.Rand, s.name)
	if err != nil {
		return nil, err
	}
	s.receipt.MessageID = id
	header := m.header(e, headerFacts{date: now, messageID: id, domain: s.name, eightBit: s.ext.has("8BITMIME")})
	return io.MultiReader(bytes.NewReader(header), body), nil
}

// sendText sends text and the final dot through packets. dotAt is the dot's position in
// all that the session sends; it is beyond everything as long as no dot was written.
func (s *session) sendText(text io.Reader) (dotAt int64, err error) {
	const nowhere = 1<<63 - 1
	out := &s.wire.out
	lines := textWriter{w: out}
	if err := s.sendLines(&lines, text); err != nil {
		return nowhere, err
	}
	if err := lines.finish(); err != nil {
		return nowhere, err
	}
	dotAt = out.written
	if _, err := out.Write(dotEnd); err != nil {
		return dotAt, err
	}
	return dotAt, out.flush()
}

// sendLines sends text, all but what fits into a last chain of packets, which is left
// for the final dot to go with.
func (s *session) sendLines(lines *textWriter, text io.Reader) error {
	st := s.client.stages.Get().(*stage)
	defer s.client.stages.Put(st)
	body := bodyReader{r: text}
	listened := time.Now()
	for first := true; ; first = false {
		b, last, err := body.fill(st)
		if err != nil {
			return err
		}
		if !s.ext.has("8BITMIME") {
			if err := checkSevenBit(b); err != nil {
				return err
			}
			if !last {
				b = body.keepLine(b)
			}
		}
		if time.Since(listened) > listenEvery || last && !first {
			if err := s.listen(); err != nil {
				return err
			}
			listened = time.Now()
		}
		if err := s.wire.begin(s.cfg.Timeouts.DataBlock); err != nil {
			return err
		}
		if _, err := lines.Write(b); err != nil || last {
			return err
		}
		if err := s.wire.out.flush(); err != nil {
			return err
		}
	}
}

// listenEvery is how often a server is listened to that is being sent a long message.
const listenEvery = 100 * time.Millisecond

// listen ends the sending of a message if the server has answered already.
func (s *session) listen() error {
	if heard, err := s.wire.poll(); heard || err != nil {
		return s.interrupted(err)
	}
	return nil
}

// interrupted is the error of a message during which the server said something or, with
// err, closed. It may have refused the message; if not, it doesn't follow, and what it
// said must not be taken for the answer to the final dot.
func (s *session) interrupted(err error) error {
	if r, ok := s.refusalInWaiting(StepMessage); ok {
		return s.refusal(StepMessage, r)
	}
	switch {
	case err == nil:
		err = fmt.Errorf("%w: an answer before the end of the message", ErrUnexpectedReply)
	case isEnd(err):
		err = fmt.Errorf("the server closed the connection in the middle of the message: %w", io.ErrUnexpectedEOF)
	}
	return s.fail(StepMessage, err)
}

// verdict turns the reply to the message into the recipients' outcome.
func (s *session) verdict(r rawReply) error {
	if r.code/100 == 2 || r.code/100 == 3 {
		if err := s.expect(StepMessage, r, 250); err != nil {
			return s.inDoubt(err)
		}
		if err := s.checkGoodbye(); err != nil {
			return s.inDoubt(err)
		}
	}
	if err := s.expect(StepMessage, r, 250); err != nil {
		return err
	}
	for i := range s.receipt.Recipients {
		if rcpt := &s.receipt.Recipients[i]; rcpt.Err == nil { // not refused before
			rcpt.Outcome, rcpt.Reply = Delivered, r.kept
		}
	}
	return nil
}

// checkGoodbye looks at what came together with the 250 for the message. A server may
// close; but if there is another answer, one of the two is for something else, as when
// a server answers for each recipient.
func (s *session) checkGoodbye() error {
	if s.wire.in.buffered() == 0 {
		return nil
	}
	r, ok := s.wire.lastWords()
	if ok && (r.code == 221 || r.code == 421) {
		s.record(StepQuit, "", r)
		s.over = true
		return nil
	}
	return s.fail(StepMessage, fmt.Errorf("%w: more than one answer to the message", ErrUnexpectedReply))
}

// failText is the error of a message that wasn't sent to its end. A server that
// doesn't want to read on may have said why.
func (s *session) failText(err error, doubt bool) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if !isBodyError(err) && !errors.Is(err, packetpool.ErrNoPacket) {
		if r, ok := s.refusalInWaiting(StepMessage); ok {
			return s.refusal(StepMessage, r)
		}
	}
	failed := s.fail(StepMessage, err)
	if doubt {
		return s.inDoubt(failed)
	}
	return failed
}

// refusalInWaiting returns the reply with which a server ended the connection, after a
// write has failed.
func (s *session) refusalInWaiting(step Step) (rawReply, bool) {
	r, ok := s.wire.lastWords()
	if !ok || r.code < 400 {
		return rawReply{}, false
	}
	s.record(step, "", r)
	return r, true
}

// inDoubt makes the outcome unknown for all recipients that weren't refused before.
func (s *session) inDoubt(err error) error {
	s.broken = true
	e, _ := errors.AsType[*Error](err)
	e.Err = fmt.Errorf("%w: %w", ErrUnknownOutcome, e.Err)
	for i := range s.receipt.Recipients {
		rcpt := &s.receipt.Recipients[i]
		if rcpt.Err == nil {
			rcpt.Outcome, rcpt.Err = Unknown, e
		}
	}
	return e
}

// say is command with nothing to hide.
func (s *session) say(step Step, limit time.Duration, line string) (rawReply, error) {
	return s.command(step, limit, line, line)
}

// command sends a line and reads the reply. shown is the line without secrets. An error
// means that the session is broken.
func (s *session) command(step Step, limit time.Duration, line, shown string) (rawReply, error) {
	begin := time.Now()
	defer func() { s.receipt.took(step, time.Since(begin)) }()
	if s.wire.in.buffered() > 0 {
		return s.unasked(step)
	}
	s.trace('C', shown)
	err := s.wire.begin(limit)
	if err == nil {
		_, err = io.WriteString(&s.wire.out, line+"\r\n")
	}
	if err == nil {
		err = s.wire.out.flush()
	}
	if err == nil {
		return s.readReply(step, shown)
	}
	s.broken = true
	if !errors.Is(err, packetpool.ErrNoPacket) {
		if r, ok := s.refusalInWaiting(step); ok {
			return r, nil
		}
	}
	return rawReply{}, s.fail(step, err)
}

// unasked deals with a reply that is there before its command was sent. A server that
// shuts down may send one, 421 (RFC 5321 §3.8), which is returned; any other would be
// taken for the answer to the command.
func (s *session) unasked(step Step) (rawReply, error) {
	r, ok := s.wire.lastWords()
	if !ok {
		return rawReply{}, s.failBroken(step, fmt.Errorf("%w: part of a reply before the command", ErrUnexpectedReply))
	}
	s.record(step, "", r)
	if r.code == 421 {
		return r, nil
	}
	return rawReply{}, s.failBroken(step, fmt.Errorf("%w: %d before the command", ErrUnexpectedReply, r.code))
}

// readReply reads the reply to a command. An error means that the session is broken.
func (s *session) readReply(step Step, command string) (rawReply, error) {
	r, err := s.wire.readReply()
	if err != nil {
		return rawReply{}, s.failBroken(step, err)
	}
	s.record(step, command, r)
	return r, nil
}

// expect returns nil if r has one of the codes wanted. Codes from 400 on are refusals,
// and 421 ends the session; another code means that it is broken.
func (s *session) expect(step Step, r rawReply, wanted ...int) error {
	switch {
	case slices.Contains(wanted, r.code):
		return nil
	case r.code/100 >= 4:
		return s.refusal(step, r)
	}
	return s.failBroken(step, fmt.Errorf("%w: %d instead of %d", ErrUnexpectedReply, r.code, wanted[0]))
}

// refusal is the error of a reply that says no.
func (s *session) refusal(step Step, r rawReply) error {
	if r.code == 421 {
		s.over = true
	}
	text, _, _ := strings.Cut(r.kept.Text, "\n")
	text = strings.TrimPrefix(strings.TrimPrefix(text, r.kept.Enhanced), " ")
	return &Error{Step: step, Server: s.receipt.Server, Code: r.code, Enhanced: r.kept.Enhanced, Text: text, reply: r.kept}
}

// fail is the error of a step without a reply.
func (s *session) fail(step Step, err error) error {
	s.trace('*', string(step)+": "+err.Error())
	return &Error{Step: step, Server: s.receipt.Server, Err: err}
}

// failBroken is fail for what ends the session.
func (s *session) failBroken(step Step, err error) error {
	s.broken = true
	return s.fail(step, err)
}

// record keeps a reply in receipt, log and trace.
func (s *session) record(step Step, command string, r rawReply) {
	s.receipt.Exchanges = append(s.receipt.Exchanges, Exchange{Step: step, Command: command, Reply: r.kept})
	s.cfg.Logger.LogAttrs(s.ctx, slog.LevelDebug, "smtp reply", slog.String("step", string(step)),
		slog.Int("code", r.code), slog.String("text", r.kept.Text))
	for i, line := range r.lines {
		sep := "-"
		if i == len(r.lines)-1 {
			sep = " "
		}
		s.trace('S', fmt.Sprintf("%d%s%s", r.code, sep, line))
	}
}

func (s *session) trace(from rune, line string) {
	s.cfg.Trace(TraceEvent{Elapsed: time.Since(s.start), From: from, Line: printable(line)})
}

// leaveOut notes that something wanted isn't done.
func (s *session) leaveOut(what, why string) {
	s.receipt.LeftOut = append(s.receipt.LeftOut, what+": "+why)
}
