package smtpclient

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
)

// The SASL mechanisms.
const (
	mechPlain = "PLAIN"
	mechLogin = "LOGIN"
)

// chooseMechanism returns the mechanism to authenticate with, or "" not to.
func chooseMechanism(cfg *Config, e extensions) string {
	if cfg.Auth == AuthNone || cfg.Auth == AuthAuto && (cfg.Username == "" || !e.has("AUTH")) {
		return ""
	}
	offered := e.mechanisms()
	want, other := mechPlain, mechLogin
	if cfg.Auth == AuthLogin {
		want, other = other, want
	}
	for _, m := range []string{want, other} {
		if slices.Contains(offered, m) {
			return m
		}
	}
	return mechPlain
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

	// answer returns the answer to a challenge. An error ends the exchange.
	answer(challenge []byte) ([]byte, error)
}

func newSASL(mechanism, username string, password Secret) saslClient {
	if mechanism == mechLogin {
		return &loginClient{username: username, password: password}
	}
	return &plainClient{username: username, password: password}
}

// plainClient is PLAIN (RFC 4616), with an empty authorization identity.
type plainClient struct {
	username string
	password Secret
	answered bool
}

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

func newScrubber(username string, password Secret) scrubber {
	p := password.reveal()
	if p == "" {
		return scrubber{}
	}
	b64 := base64.StdEncoding.EncodeToString
	forms := []string{b64([]byte("\x00" + username + "\x00" + p))}
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
