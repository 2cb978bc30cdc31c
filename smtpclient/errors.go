package smtpclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/duotap/duotap/packetpool"
)

var (
	// ErrAddress is wrapped by the error of an address or a domain that can't be put
	// into a command as it is: a control character, a space or an angle bracket where
	// none may be, a byte that isn't ASCII, or more than RFC 5321 §4.5.3.1 allows.
	ErrAddress = errors.New("bad address")

	// ErrSubject is wrapped by the error of a subject that no header field can hold:
	// one with a line break, a NUL or another control character, or not in UTF-8.
	ErrSubject = errors.New("bad subject")

	// ErrPriority is wrapped by the error of a priority that doesn't exist.
	ErrPriority = errors.New("bad priority")

	// ErrBody is wrapped, beside its cause, when Mail.Body can't be read to its end.
	// The server was not told that the message is complete.
	ErrBody = errors.New("the body can't be read")

	// ErrNo8BitMIME is wrapped when the message holds bytes above 127 and the server
	// doesn't offer 8BITMIME (RFC 6152).
	ErrNo8BitMIME = errors.New("8-bit message, and the server takes only 7-bit ones")

	// ErrBadReply is wrapped when what the server sent is no SMTP reply (RFC 5321
	// §4.2).
	ErrBadReply = errors.New("not an SMTP reply")

	// ErrReplyTooLong is wrapped when a reply is longer than MaxReply bytes, or a line
	// of it longer than MaxReplyLine.
	ErrReplyTooLong = errors.New("reply too long")

	// ErrUnexpectedReply is wrapped when a reply is none of those that the command can
	// have, or comes without having been asked for.
	ErrUnexpectedReply = errors.New("unexpected reply")

	// ErrPlaintextAuth is wrapped when credentials would have to go over a link that
	// isn't encrypted, and Config.AllowPlaintextAuth is false.
	ErrPlaintextAuth = errors.New("credentials would go in clear")

	// ErrNoTLS is wrapped when encryption is demanded (TLSRequireStartTLS) and the
	// server doesn't offer STARTTLS.
	ErrNoTLS = errors.New("the server doesn't offer STARTTLS, and without it nothing is sent")

	// ErrNotTLS is wrapped when a server that is to speak TLS at once (TLSImplicit)
	// doesn't.
	ErrNotTLS = errors.New("the server doesn't speak TLS from the first byte")

	// ErrPlaintextAfterSTARTTLS is wrapped when something that isn't encrypted follows
	// the reply to STARTTLS: somebody on the way may have put it there, to be taken for
	// the server's (CVE-2011-0411). Nothing more is sent.
	ErrPlaintextAfterSTARTTLS = errors.New("clear text after the reply to STARTTLS")

	// ErrCertificate is wrapped when the server's certificate isn't one to trust. The
	// error says which, and why.
	ErrCertificate = errors.New("the server can't prove who it is")

	// ErrNoMechanism is wrapped when the server offers neither Config.Auth nor, with
	// AuthAuto, one that is as strong as Config.AuthFloor.
	ErrNoMechanism = errors.New("no mechanism to authenticate with")

	// ErrServerUnproven is wrapped when a server fails to prove that it knows the
	// password, which with SCRAM it has to (RFC 5802 §3): it may be another's.
	ErrServerUnproven = errors.New("the server can't prove that it knows the password")

	// ErrTCPNotEnabled is wrapped by the error of New when the Dialer says that its
	// TCP isn't enabled.
	ErrTCPNotEnabled = errors.New("TCP is not enabled")

	// ErrUnknownOutcome is wrapped when a session failed after the end of the message
	// was, or may have been, sent: the server may have it or not.
	ErrUnknownOutcome = errors.New("the server may or may not have taken the message")
)

// errPacketTimeout is the cause of a wait for a packet that was given up.
var errPacketTimeout = errors.New("Config.PacketTimeout is over")

// Step is a part of a session, in the words of RFC 5321 where it has them.
type Step string

// The steps, in order.
const (
	StepPrepare  Step = "prepare" // before there is a connection
	StepConnect  Step = "connect"
	StepGreeting Step = "greeting"
	StepEHLO     Step = "EHLO"
	StepHELO     Step = "HELO"
	StepTLS      Step = "TLS" // STARTTLS and the handshake; with TLSImplicit before StepGreeting
	StepAuth     Step = "AUTH"
	StepMail     Step = "MAIL"
	StepRcpt     Step = "RCPT"
	StepData     Step = "DATA"
	StepMessage  Step = "message" // the header, the body and the final dot
	StepQuit     Step = "QUIT"
)

// Error is a step that failed.
type Error struct {
	Step      Step
	Server    string // "host:port"
	Recipient string // whom it concerns, if not all
	Code      int    // the server's reply code; 0 if there was none
	Enhanced  string // "5.1.1" (RFC 3463); may be empty
	Text      string // the server's words, first line, printable
	Err       error  // the cause; may be nil if there is a Code

	reply *Reply // what Code, Enhanced and Text are from
}

// Error says which step failed, what was seen, and what can be done.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("smtp")
	if e.Server != "" {
		b.WriteString(" server " + e.Server)
	}
	b.WriteString(": " + string(e.Step))
	if e.Recipient != "" {
		b.WriteString(" <" + e.Recipient + ">")
	}
	if e.Code != 0 {
		fmt.Fprintf(&b, ": %d", e.Code)
		for _, s := range []string{e.Enhanced, e.Text} {
			if s != "" {
				b.WriteString(" " + s)
			}
		}
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if h := e.hint(); h != "" {
		b.WriteString(" (" + h + ")")
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same mail may succeed later. What is permanent is a
// 5xx reply, except 552 to RCPT, which RFC 5321 §4.5.3.1.10 takes for "too many
// recipients", and a mail that can't be sent as it is. To lose a connection says
// nothing about the mail, and no more does anything about TLS.
func (e *Error) Temporary() bool {
	for _, permanent := range []error{ErrAddress, ErrSubject, ErrPriority, ErrNo8BitMIME, ErrPlaintextAuth, ErrNoMechanism} {
		if errors.Is(e.Err, permanent) {
			return false
		}
	}
	return e.Code/100 != 5 || e.Step == StepRcpt && e.Code == 552 || e.Step == StepTLS
}

// MarshalJSON renders e for programs.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Step      Step   `json:"step"`
		Code      int    `json:"code,omitempty"`
		Enhanced  string `json:"enhanced,omitempty"`
		Text      string `json:"text,omitempty"`
		Temporary bool   `json:"temporary"`
		Message   string `json:"message"`
	}{e.Step, e.Code, e.Enhanced, e.Text, e.Temporary(), e.Error()})
}

// hint is what can be done about e; empty if the error says it all.
func (e *Error) hint() string {
	switch {
	case errors.Is(e.Err, ErrUnknownOutcome):
		return "ask the recipient before sending again: it may arrive twice"
	case errors.Is(e.Err, packetpool.ErrNoPacket):
		return "" // the pool's error says it
	case errors.Is(e.Err, ErrBody):
		return "nothing was delivered; send again with a body that can be read"
	case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		return ""
	case e.Code != 0:
		return e.replyHint()
	default:
		return e.linkHint()
	}
}

func (e *Error) replyHint() string {
	switch {
	case e.Code == 421:
		return "the server is closing; try again later"
	case e.Step == StepTLS:
		return "without TLS nothing is sent; try again later, or ask whoever runs the server"
	case e.Step == StepAuth && (e.Code == 535 || e.Code == 534):
		return "check user name, password and mechanism"
	case e.Code == 530 || e.Code == 538:
		return "the server wants authentication or encryption first"
	case e.Step == StepRcpt && e.Code == 552, e.Code/100 == 4:
		return "try again later"
	case e.Step == StepGreeting, e.Step == StepEHLO, e.Step == StepHELO:
		return "the server doesn't serve this client; check its access rules and Config.Domain"
	}
	return "sending it again unchanged won't help"
}

func (e *Error) linkHint() string {
	switch {
	case e.Step == StepPrepare, !e.Temporary():
		return ""
	case e.Step == StepConnect:
		return "check the address and port, and that the server is up and reachable"
	case e.Step == StepTLS:
		return e.tlsHint()
	case e.Step == StepGreeting && (isTimeout(e.Err) || errors.Is(e.Err, io.ErrUnexpectedEOF)):
		return "a server that expects TLS at once, as on port 465, doesn't greet either: then use TLS mode implicit"
	case isTLSAlert(e.Err):
		return "the server has ended TLS; it may want a client certificate, or another one"
	case isTimeout(e.Err):
		return "the server or the way to it is too slow; try again later, or raise Config.Timeouts"
	case errors.Is(e.Err, ErrBadReply), errors.Is(e.Err, ErrReplyTooLong):
		return "check that an SMTP server listens there; if it speaks TLS from the first byte, use TLS mode implicit"
	case errors.Is(e.Err, ErrUnexpectedReply):
		return "the server doesn't follow RFC 5321; look at the trace"
	}
	return "try again later; the server's log may have the reason"
}

// tlsHint is hint for StepTLS.
func (e *Error) tlsHint() string {
	switch {
	case errors.Is(e.Err, ErrNotTLS):
		return "this port, as 25 and 587 do, wants STARTTLS: use TLS mode require-starttls, or connect to port 465"
	case errors.Is(e.Err, ErrPlaintextAfterSTARTTLS):
		return "somebody on the way may be tampering; nothing more was sent"
	case errors.Is(e.Err, ErrNoTLS):
		return "ask whoever runs the server; somebody on the way may have removed the offer"
	case errors.Is(e.Err, ErrCertificate):
		return "" // the error says it
	case isTimeout(e.Err):
		return "the server or the way to it is too slow; try again later, or raise Config.Timeouts"
	}
	return "check that the server speaks TLS on this port, in a version and with ciphers of today"
}

// isTLSAlert reports whether err is the other side's reason to end TLS.
func isTLSAlert(err error) bool {
	oe, ok := errors.AsType[*net.OpError](err)
	return ok && oe.Op == "remote error"
}

// isTimeout reports whether err is that of a deadline that passed.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return errors.Is(err, os.ErrDeadlineExceeded) || ok && ne.Timeout()
}

// recipientErrors is what went wrong for several recipients, if it isn't the same.
type recipientErrors []error

func (r recipientErrors) Error() string {
	return fmt.Sprintf("%v; errors for further recipients: %d", r[0], len(r)-1)
}

// Unwrap returns the *Errors, in the order of the recipients.
func (r recipientErrors) Unwrap() []error { return r }
