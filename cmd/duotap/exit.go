package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
)

// The exit codes, those of sysexits.h and one more. Of several that apply, the first of
// this order counts: unknown, temporary, permanent.
const (
	exitOK         = 0
	exitUsage      = 64 // the command line is wrong
	exitData       = 65 // the message or an address can't be sent as given
	exitNoHost     = 68 // a host name is unknown
	exitPermanent  = 69 // a permanent refusal
	exitIO         = 74 // the TAP or a file
	exitTemporary  = 75 // the same mail may go later
	exitProtocol   = 76 // the server broke the protocol
	exitPermission = 77 // no permission, or authentication failed
	exitConfig     = 78 // what was asked for contradicts itself
	exitUnknown    = 79 // failed after the final dot: delivered or not
)

// exitError is an error with its exit code.
type exitError struct {
	code   int
	err    error
	silent bool // what there is to say is on standard output already
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usageError(err error) error { return &exitError{code: exitUsage, err: err} }

// exitCode finds the exit code for an error of any layer.
func exitCode(err error) int {
	var explicit *exitError
	if errors.As(err, &explicit) {
		return explicit.code
	}
	var smtp *smtpclient.Error
	if errors.As(err, &smtp) {
		return smtpExitCode(smtp)
	}
	return systemExitCode(err)
}

func smtpExitCode(e *smtpclient.Error) int {
	var dns *net.DNSError
	switch {
	case errors.Is(e, smtpclient.ErrUnknownOutcome):
		return exitUnknown
	case errors.Is(e, smtpclient.ErrAddress), errors.Is(e, smtpclient.ErrSubject), errors.Is(e, smtpclient.ErrNo8BitMIME):
		return exitData
	case errors.Is(e, stack.ErrDuplicateAddress):
		return exitConfig
	case errors.Is(e, context.Canceled), errors.Is(e, context.DeadlineExceeded):
		return exitTemporary
	case errors.Is(e, smtpclient.ErrBody), errors.Is(e, link.ErrRemoved):
		return exitIO
	case errors.Is(e, smtpclient.ErrPlaintextAuth):
		return exitConfig
	case errors.As(e, &dns) && dns.IsNotFound:
		return exitNoHost
	case errors.Is(e, smtpclient.ErrBadReply), errors.Is(e, smtpclient.ErrReplyTooLong), errors.Is(e, smtpclient.ErrUnexpectedReply):
		return exitProtocol
	case e.Step == smtpclient.StepAuth && !e.Temporary():
		return exitPermission
	case e.Temporary():
		return exitTemporary
	default:
		return exitPermanent
	}
}

func systemExitCode(err error) int {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return exitNoHost
	case errors.As(err, &dns):
		return exitTemporary
	case errors.Is(err, fs.ErrPermission):
		return exitPermission
	case errors.Is(err, stack.ErrDuplicateAddress), errors.Is(err, packetpool.ErrHeadroom), errors.Is(err, packetpool.ErrNoPacket):
		return exitConfig
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, link.ErrDown):
		return exitTemporary
	default:
		return exitIO
	}
}
