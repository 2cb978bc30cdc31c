package smtpclient_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// The client against a server that somebody else wrote: emersion/go-smtp. That server
// stores what is on the wire as it is, but for the doubled dots.

type backend struct {
	mu   sync.Mutex
	mail []stored
}

type stored struct {
	from string
	body smtp.BodyType
	to   []string
	data []byte
	user string
}

func (b *backend) NewSession(*smtp.Conn) (smtp.Session, error) { return &backendSession{b: b}, nil }

type backendSession struct {
	b    *backend
	mail stored
}

func (s *backendSession) AuthMechanisms() []string { return []string{sasl.Plain, sasl.Login} }

func (s *backendSession) Auth(mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "u" || password != "pwd" {
			return smtp.ErrAuthFailed
		}
		s.mail.user = mechanism + " " + user
		return nil
	}
	if mechanism == sasl.Login {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(identity, user, password string) error {
		if identity != "" {
			return errors.New("an identity")
		}
		return check(user, password)
	}), nil
}

func (s *backendSession) Mail(from string, opts *smtp.MailOptions) error {
	s.mail.from, s.mail.body = from, opts.Body
	return nil
}

func (s *backendSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to == "nobody@example.net" {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *backendSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	s.mail.data = data
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.mail = append(s.b.mail, s.mail)
	return err
}

func (s *backendSession) Reset()        { s.mail = stored{user: s.mail.user} }
func (s *backendSession) Logout() error { return nil }

// loginServer is LOGIN, which go-sasl has for clients only.
type loginServer struct {
	check func(user, password string) error
	user  []byte
	round int
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	l.round++
	switch l.round {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = bytes.Clone(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(string(l.user), string(response))
}

func TestInteropGoSMTP(t *testing.T) {
	b := new(backend)
	server := smtp.NewServer(b)
	server.Domain = "go-smtp.example"
	server.AllowInsecureAuth = true
	server.MaxLineLength = 1 << 20
	l := smtptest.Listen()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	defer func() { _ = server.Close(); <-done }()

	for _, auth := range []smtpclient.Auth{smtpclient.AuthNone, smtpclient.AuthPlain, smtpclient.AuthLogin} {
		cfg := authConfig(t, smtpclient.Dialer(l))
		cfg.Auth = auth
		c := newClient(t, cfg)
		for name, body := range bodies {
			m := mailOf(body)
			m.To = append(m.To, "nobody@example.net")
			r, err := send(t, c, t.Context(), m)
			if e := asError(t, err); e.Code != 550 || e.Enhanced != "5.1.1" || r.Recipients[0].Outcome != smtpclient.Delivered {
				t.Errorf("%s: %v", name, err)
			}
			got := b.mail[len(b.mail)-1]
			if string(got.data) != wire(body) || got.from != "device@example.org" || got.body != smtp.Body8BitMIME || len(got.to) != 1 {
				t.Errorf("%s: %+v", name, got)
			}
			if want := map[smtpclient.Auth]string{smtpclient.AuthPlain: "PLAIN u", smtpclient.AuthLogin: "LOGIN u"}[auth]; got.user != want {
				t.Errorf("authenticated as %q, want %q", got.user, want)
			}
		}
	}
	cfg := authConfig(t, l)
	cfg.Password = smtpclient.NewSecret("wrong")
	_, err := send(t, newClient(t, cfg), t.Context(), mailOf(""))
	if e := asError(t, err); e.Step != smtpclient.StepAuth || e.Code/100 != 5 {
		t.Error(err)
	}
}

func BenchmarkSend(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Skip(err)
	}
	store := &smtptest.Store{Digest: true}
	go func() { _ = store.Serve(l) }()
	defer l.Close()
	for _, bb := range []struct {
		name          string
		size, packets int
	}{{"100 bytes", 100, 16}, {"1 MiB", 1 << 20, 16}, {"1 MiB with 64 packets", 1 << 20, 64}} {
		b.Run(bb.name, func(b *testing.B) {
			cfg := testConfig(b, new(net.Dialer))
			cfg.Server, cfg.Pool = l.Addr().String(), newPool(b, bb.packets, 1514)
			c := newClient(b, cfg)
			body := bytes.Repeat([]byte("seventy-six bytes of text, which is what lines of mail have on the average\r\n"), bb.size/76+1)[:bb.size]
			b.SetBytes(int64(bb.size))
			b.ReportAllocs()
			for b.Loop() {
				m := smtpclient.Mail{To: []string{"ops@example.net"}, Raw: true, Body: bytes.NewReader(body)}
				if _, err := c.Send(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
