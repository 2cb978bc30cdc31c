package smtpclient

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/xdg-go/scram"
)

// The SASL mechanisms.
const (
	mechPlain       = "PLAIN"
	mechLogin       = "LOGIN"
	mechCRAMMD5     = "CRAM-MD5"
	mechSCRAM1      = "SCRAM-SHA-1"
	mechSCRAM256    = "SCRAM-SHA-256"
	mechXOAUTH2     = "XOAUTH2"
	mechOAUTHBEARER = "OAUTHBEARER"
	mechExternal    = "EXTERNAL"
	mechAnonymous   = "ANONYMOUS"

	plus = "-PLUS" // SCRAM with channel binding
)

// byPassword are the mechanisms that AuthAuto chooses from, the strongest first.
var byPassword = []struct {
	mechanism string
	auth      Auth
}{
	{mechSCRAM256 + plus, AuthSCRAMSHA256}, {mechSCRAM1 + plus, AuthSCRAMSHA1},
	{mechSCRAM256, AuthSCRAMSHA256}, {mechSCRAM1, AuthSCRAMSHA1},
	{mechCRAMMD5, AuthCRAMMD5}, {mechPlain, AuthPlain}, {mechLogin, AuthLogin},
}

// chooseMechanism returns the mechanism to authenticate with, or "" not to. bound says
// that there can be channel binding.
func chooseMechanism(cfg *Config, e extensions, bound bool) (string, error) {
	offered := e.mechanisms()
	switch cfg.Auth {
	case AuthNone:
		return "", nil
	case AuthAuto:
		if cfg.Username == "" || !e.has("AUTH") {
			return "", nil
		}
		return strongest(offered, cfg.AuthFloor, bound)
	case AuthPlain, AuthLogin:
		return plainOrLogin(cfg.Auth, offered), nil
	}
	want := strings.ToUpper(cfg.Auth.String())
	switch {
	case bound && slices.Contains(offered, want+plus):
		return want + plus, nil
	case slices.Contains(offered, want):
		return want, nil
	}
	return "", noMechanism(want, offered)
}

func noMechanism(want string, offered []string) error {
	list := "none"
	if len(offered) > 0 {
		list = printable(cut(strings.Join(offered, " "), 200))
	}
	return fmt.Errorf("%w: %s is wanted, and the server offers %s", ErrNoMechanism, want, list)
}

// strongest returns the strongest mechanism that is offered, not below floor. A server
// that names none which is known, is tried with PLAIN.
func strongest(offered []string, floor Auth, bound bool) (string, error) {
	if floor == AuthLogin {
		floor = AuthPlain
	}
	for _, m := range byPassword {
		if m.auth < floor || strings.HasSuffix(m.mechanism, plus) && !bound {
			continue
		}
		if slices.Contains(offered, m.mechanism) {
			return m.mechanism, nil
		}
	}
	if floor > AuthPlain {
		return "", noMechanism(strings.ToUpper(floor.String())+" or better", offered)
	}
	return mechPlain, nil
}

// plainOrLogin returns the one that is wanted, unless only the other is offered.
func plainOrLogin(auth Auth, offered []string) string {
	want, other := mechPlain, mechLogin
	if auth == AuthLogin {
		want, other = other, want
	}
	for _, m := range []string{want, other} {
		if slices.Contains(offered, m) {
			return m
		}
	}
	return mechPlain
}

// showsSecret reports whether who listens to mechanism learns the secret, or enough to
// guess it at leisure.
func showsSecret(mechanism string) bool {
	switch mechanism {
	case mechPlain, mechLogin, mechCRAMMD5, mechXOAUTH2, mechOAUTHBEARER:
		return true
	}
	return false
}

// isEncrypted reports whether nobody can listen to conn.
func isEncrypted(conn net.Conn) bool {
	_, ok := conn.(*tls.Conn)
	return ok
}

// saslClient answers the challenges of one exchange.
type saslClient interface {
	// initial is the answer that can go with the command; ok is false if the mechanism
	// has none.
	initial() (answer []byte, ok bool)

	// sentInitial says that the answer went with the command.
	sentInitial()

	// answer returns the answer to a challenge. An error ends the exchange.
	answer(challenge []byte) ([]byte, error)

	// finish is called when the server has said yes. An error means not to believe it.
	finish() error
}

// newSASL makes the client for mechanism on the session's connection.
func (s *session) newSASL(mechanism string) (saslClient, error) {
	user, password := s.cfg.Username, s.cfg.Password
	switch mechanism {
	case mechLogin:
		return &loginClient{username: user, password: password}, nil
	case mechPlain:
		return &plainClient{username: user, password: password}, nil
	case mechCRAMMD5:
		return &cramMD5Client{username: user, password: password}, nil
	case mechXOAUTH2:
		return &oneAnswer{mechanism: mechanism, text: xoauth2Text(user, password), acks: true}, nil
	case mechOAUTHBEARER:
		return &oneAnswer{mechanism: mechanism, text: oauthBearerText(user, password, s.client.server), ack: "\x01", acks: true}, nil
	case mechExternal, mechAnonymous:
		return &oneAnswer{mechanism: mechanism, text: user}, nil
	}
	return s.newSCRAM(mechanism)
}

// newSCRAM makes the client for a SCRAM mechanism, bound to the connection if it is one
// of those.
func (s *session) newSCRAM(mechanism string) (saslClient, error) {
	hash := scram.SHA256
	if strings.HasPrefix(mechanism, mechSCRAM1) {
		hash = scram.SHA1
	}
	conn, encrypted := s.wire.conn.(*tls.Conn)
	var binding *scram.ChannelBinding
	if strings.HasSuffix(mechanism, plus) {
		var err error
		if binding, err = channelBinding(conn.ConnectionState()); err != nil {
			return nil, err
		}
	}
	offersPlus := slices.ContainsFunc(s.ext.mechanisms(), func(m string) bool { return strings.HasSuffix(m, plus) })
	return newSCRAM(hash, s.cfg.Username, s.cfg.Password, binding, encrypted && !offersPlus)
}

// plainClient is PLAIN (RFC 4616), with an empty authorization identity.
type plainClient struct {
	username string
	password Secret
	answered bool
}

func (c *plainClient) sentInitial()  {}
func (c *plainClient) finish() error { return nil }

func (c *plainClient) initial() ([]byte, bool) {
	return []byte("\x00" + c.username + "\x00" + c.password.reveal()), true
}

// answer also serves a server that overlooked the initial response.
func (c *plainClient) answer([]byte) ([]byte, error) {
	if c.answered {
		return nil, fmt.Errorf("%w: a second challenge in AUTH PLAIN", ErrUnexpectedReply)
	}
	c.answered = true
	b, _ := c.initial()
	return b, nil
}

// loginClient is LOGIN, which no RFC specifies: the server prompts for the user name
// and for the password.
type loginClient struct {
	username string
	password Secret
	prompts  int
}

func (c *loginClient) initial() ([]byte, bool) { return nil, false }
func (c *loginClient) sentInitial()            {}
func (c *loginClient) finish() error           { return nil }

func (c *loginClient) answer(challenge []byte) ([]byte, error) {
	c.prompts++
	if c.prompts > 2 {
		return nil, fmt.Errorf("%w: a third prompt in AUTH LOGIN", ErrUnexpectedReply)
	}
	if c.wantsPassword(challenge) {
		return []byte(c.password.reveal()), nil
	}
	return []byte(c.username), nil
}

// wantsPassword understands "Username:", "User Name" with a NUL behind it, and their
// like; a prompt that says neither is taken by its position.
func (c *loginClient) wantsPassword(prompt []byte) bool {
	s := strings.ToLower(strings.TrimRight(string(prompt), "\x00 :"))
	switch strings.ReplaceAll(s, " ", "") {
	case "username":
		return false
	case "password":
		return true
	}
	return c.prompts == 2
}

// decodeChallenge decodes the text of a 334 reply. What isn't base64 is an empty
// challenge: neither PLAIN nor LOGIN depends on it.
func decodeChallenge(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	return b
}

// scrubber hides a password, in the forms in which it is sent, from the words of a
// server that repeats what it was told.
type scrubber struct {
	forms []string
}

// scrubbedFrom is how much of a form is enough to be recognised, since a server may
// repeat only the beginning of what it was told.
const scrubbedFrom = 8

func newScrubber(username string, password Secret, to server) scrubber {
	p := password.reveal()
	if p == "" {
		return scrubber{}
	}
	b64 := base64.StdEncoding.EncodeToString
	forms := []string{
		b64([]byte("\x00" + username + "\x00" + p)),
		b64([]byte(xoauth2Text(username, password))), b64([]byte(oauthBearerText(username, password, to))),
	}
	if len(p) >= 4 { // of a shorter one every text would be full
		forms = append(forms, b64([]byte(p)), p)
	}
	return scrubber{forms}
}

// hide returns text without the password.
func (s scrubber) hide(text string) string {
	for _, form := range s.forms {
		var b strings.Builder
		for {
			i := strings.Index(text, form[:min(scrubbedFrom, len(form))])
			if i < 0 {
				break
			}
			b.WriteString(text[:i] + hidden)
			text = text[i+commonPrefix(text[i:], form):]
		}
		text = b.String() + text
	}
	return text
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
