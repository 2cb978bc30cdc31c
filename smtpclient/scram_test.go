package smtpclient_test

import (
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// scramBackend is a server whose users authenticate with SCRAM, over go-smtp.
type scramBackend struct {
	mechanisms []string
	forge      bool // answer with a signature that isn't one
	used       []string
}

func (b *scramBackend) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &scramSession{b: b, conn: c}, nil
}

type scramSession struct {
	b    *scramBackend
	conn *smtp.Conn
}

func (s *scramSession) AuthMechanisms() []string             { return s.b.mechanisms }
func (s *scramSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *scramSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (s *scramSession) Data(r io.Reader) error               { _, err := io.Copy(io.Discard, r); return err }
func (s *scramSession) Reset()                               {}
func (s *scramSession) Logout() error                        { return nil }
func (s *scramSession) Auth(mech string) (sasl.Server, error) {
	s.b.used = append(s.b.used, mech)
	hash := scram.SHA256
	if strings.HasPrefix(mech, "SCRAM-SHA-1") {
		hash = scram.SHA1
	}
	server, err := hash.NewServer(func(user string) (scram.StoredCredentials, error) {
		client, err := hash.NewClient(user, "pwd", "")
		if err != nil || user != "u" {
			return scram.StoredCredentials{}, errors.New("no such user")
		}
		return client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	})
	if err != nil {
		return nil, err
	}
	conversation := server.NewConversation()
	if strings.HasSuffix(mech, "-PLUS") {
		state, _ := s.conn.TLSConnectionState()
		bind := scram.NewTLSServerEndpointBinding
		if state.Version == tls.VersionTLS13 {
			bind = scram.NewTLSExporterBinding
		} else {
			state.PeerCertificates = append(state.PeerCertificates, testCertificate().Leaf)
		}
		b, err := bind(&state)
		if err != nil {
			return nil, err
		}
		conversation = server.NewConversationWithChannelBindingRequired(b)
	}
	return &scramServer{conversation, s.b.forge}, nil
}

type scramServer struct {
	conversation *scram.ServerConversation
	forge        bool
}

func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		return []byte{}, false, nil
	case s.conversation.Done():
		return nil, true, nil
	}
	answer, err := s.conversation.Step(string(response))
	if err != nil {
		return nil, false, smtp.ErrAuthFailed
	}
	if s.forge && s.conversation.Done() {
		answer = "v=" + strings.Repeat("A", 43) + "="
	}
	return []byte(answer), false, nil
}

// TestSCRAM authenticates with each SCRAM mechanism, with and without channel binding,
// at a server that somebody else wrote.
func TestSCRAM(t *testing.T) {
	all := []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"}
	clear, tls12, tls13 := uint16(0), uint16(tls.VersionTLS12), uint16(tls.VersionTLS13)
	for _, tt := range []struct {
		name    string
		version uint16
		offered []string
		auth    smtpclient.Auth
		want    string
		change  func(*scramBackend, *smtpclient.Config)
		is      error
	}{
		{"TLS 1.3, exporter", tls13, all, smtpclient.AuthAuto, "SCRAM-SHA-256-PLUS", nil, nil},
		{"TLS 1.2, end point", tls12, all, smtpclient.AuthAuto, "SCRAM-SHA-256-PLUS", nil, nil},
		{"SHA-1 bound", tls13, all, smtpclient.AuthSCRAMSHA1, "SCRAM-SHA-1-PLUS", nil, nil},
		{"not bound", tls13, all[2:], smtpclient.AuthAuto, "SCRAM-SHA-256", nil, nil},
		{"bound with another hash only", tls13, all[1:], smtpclient.AuthSCRAMSHA256, "SCRAM-SHA-256", nil, nil},
		{"in clear", clear, all[2:], smtpclient.AuthAuto, "SCRAM-SHA-256", nil, nil},
		{"SHA-1 in clear", clear, all[3:], smtpclient.AuthAuto, "SCRAM-SHA-1", nil, nil},
		{"initial response", tls13, all, smtpclient.AuthAuto, "SCRAM-SHA-256-PLUS", func(_ *scramBackend, c *smtpclient.Config) { c.AuthInitialResponse = true }, nil},
		{"wrong password", tls13, all, smtpclient.AuthAuto, "", func(_ *scramBackend, c *smtpclient.Config) { c.Password = smtpclient.NewSecret("wrong") }, errAny},
		{"forged signature", tls13, all, smtpclient.AuthAuto, "", func(b *scramBackend, _ *smtpclient.Config) { b.forge = true }, smtpclient.ErrServerUnproven},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &scramBackend{mechanisms: tt.offered}
			server := smtp.NewServer(b)
			server.AllowInsecureAuth = true
			l := smtptest.Listen()
			cfg := testConfig(t, l)
			cfg.Auth, cfg.Username, cfg.Password = tt.auth, "u", smtpclient.NewSecret("pwd")
			if tt.version != clear {
				server.TLSConfig = testTLS()
				server.TLSConfig.MaxVersion = tt.version
				cfg.TLS.Mode, cfg.TLS.RootCAs = smtpclient.TLSRequireStartTLS, testCA().Roots()
			}
			if tt.change != nil {
				tt.change(b, &cfg)
			}
			done := make(chan struct{})
			go func() { defer close(done); _ = server.Serve(l) }() // ended by Close
			defer func() { _ = server.Close(); <-done }()
			r, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\r\n"))
			if r.Auth != tt.want || (err == nil) != (tt.is == nil) || tt.is != nil && tt.is != errAny && !errors.Is(err, tt.is) {
				t.Errorf("authenticated with %q, %v; want %q, %v", r.Auth, err, tt.want, tt.is)
			}
			if tt.is == nil && !slices.Equal(b.used, []string{tt.want}) {
				t.Errorf("used %q", b.used)
			}
		})
	}
}
