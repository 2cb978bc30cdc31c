package main

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/duotap/duotap/smtpclient/smtptest"
)

// mailServer is a real SMTP server that keeps what it gets. Recipients whose name
// begins with "temporary" or "permanent" are refused in that way.
type mailServer struct {
	mu    sync.Mutex
	mails []storedMail

	user, password string // demanded if set

	tls *tls.Config // for STARTTLS, and then demanded before AUTH; nil for none
}

// storedMail is a message as the server's application sees it.
type storedMail struct {
	from string
	opts smtp.MailOptions
	to   []string
	data string
}

// body is the part behind the header.
func (m storedMail) body() string {
	_, body, _ := strings.Cut(m.data, "\r\n\r\n")
	return body
}

// header is the part before the body.
func (m storedMail) header() string {
	header, _, _ := strings.Cut(m.data, "\r\n\r\n")
	return header
}

// serveMail serves l until the test ends.
func serveMail(t *testing.T, l net.Listener, s *mailServer) *mailServer {
	t.Helper()
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{server: s}, nil }))
	server.Domain = "mx.example"
	server.ReadTimeout = runLimit
	server.AllowInsecureAuth = s.tls == nil
	server.TLSConfig = s.tls
	server.MaxLineLength = 1 << 20
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ended by Close
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return s
}

// last is the only mail that has arrived.
func (s *mailServer) only(t *testing.T) storedMail {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mails) != 1 {
		t.Fatalf("%d mails arrived, want 1", len(s.mails))
	}
	return s.mails[0]
}

// none fails the test if a mail has arrived.
func (s *mailServer) none(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mails) != 0 {
		t.Errorf("%d mails arrived, want none", len(s.mails))
	}
}

// mailSession is one connection.
type mailSession struct {
	server *mailServer
	authed bool
	mail   storedMail
}

func (s *mailSession) Reset()        { s.mail = storedMail{} }
func (s *mailSession) Logout() error { return nil }

// AuthMechanisms makes it an AuthSession.
func (s *mailSession) AuthMechanisms() []string {
	if s.server.user == "" {
		return nil
	}
	return []string{sasl.Plain, sasl.OAuthBearer}
}

// Auth checks user and password.
func (s *mailSession) Auth(mechanism string) (sasl.Server, error) {
	if mechanism == sasl.OAuthBearer {
		return sasl.NewOAuthBearerServer(func(o sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
			if o.Username != s.server.user || o.Token != s.server.password {
				return &sasl.OAuthBearerError{Status: "invalid_token"}
			}
			s.authed = true
			return nil
		}), nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != s.server.user || password != s.server.password {
			return smtp.ErrAuthFailed
		}
		s.authed = true
		return nil
	}), nil
}

func (s *mailSession) Mail(from string, opts *smtp.MailOptions) error {
	if s.server.user != "" && !s.authed {
		return smtp.ErrAuthRequired
	}
	s.mail.from, s.mail.opts = from, *opts
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	switch {
	case strings.HasPrefix(to, "temporary"):
		return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 2, 1}, Message: "mailbox is busy"}
	case strings.HasPrefix(to, "permanent"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.data = string(b)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

// serveDialogue has each connection to l answered with the script, until the test ends.
// A client that doesn't keep to it fails the test, unless it hangs up while it is
// spoken to.
func serveDialogue(t *testing.T, l net.Listener, script string) *smtptest.Server {
	t.Helper()
	s := smtptest.Serve(l, smtptest.MustParse(script))
	t.Cleanup(func() {
		if _, err := s.Close(); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Error(err)
		}
	})
	return s
}

// dialogueOpening is a script up to the server's 354.
const dialogueOpening = `
S: 220 mx.example ESMTP
C~ EHLO .*
S: 250-mx.example
S: 250 8BITMIME
C~ MAIL FROM:.*
S: 250 ok
C~ RCPT TO:.*
S: 250 ok
C: DATA
S: 354 go ahead
`
