package smtpclient

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Bounds for the iterations that a SCRAM server may ask for: fewer than RFC 7677 §4
// has make guessing the password easy, and a million take about a second.
const (
	minIterations = 4096
	maxIterations = 1_000_000
)

// errAfterLast is the error of a challenge that the mechanism doesn't have.
func errAfterLast(mechanism string) error {
	return fmt.Errorf("%w: one challenge too many in AUTH %s", ErrUnexpectedReply, mechanism)
}

// oneAnswer is a mechanism whose client has one thing to say: EXTERNAL (RFC 4422
// Appendix A) and ANONYMOUS (RFC 4505); and XOAUTH2 and OAUTHBEARER (RFC 7628), where
// the server says in a second challenge why it refuses, and wants that acknowledged.
type oneAnswer struct {
	mechanism string
	text      string
	ack       string // the answer to a second challenge
	acks      bool   // there may be one
	answered  int
}

func (c *oneAnswer) initial() ([]byte, bool) { return []byte(c.text), true }
func (c *oneAnswer) sentInitial()            { c.answered = 1 }
func (c *oneAnswer) finish() error           { return nil }

func (c *oneAnswer) answer(challenge []byte) ([]byte, error) {
	c.answered++
	switch {
	case c.answered == 1, c.answered == 2 && len(challenge) == 0:
		return []byte(c.text), nil // the second: an initial response that was overlooked
	case c.answered == 2 && c.acks:
		return []byte(c.ack), nil
	}
	return nil, errAfterLast(c.mechanism)
}

// xoauth2Text is what XOAUTH2 says, which no RFC specifies.
func xoauth2Text(username string, token Secret) string {
	return "user=" + username + "\x01auth=Bearer " + token.reveal() + "\x01\x01"
}

// oauthBearerText is what OAUTHBEARER says (RFC 7628 §3.1).
func oauthBearerText(username string, token Secret, s server) string {
	gs2 := "n,,"
	if username != "" {
		gs2 = "n,a=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(username) + ","
	}
	return gs2 + "\x01host=" + s.host + "\x01port=" + s.port + "\x01auth=Bearer " + token.reveal() + "\x01\x01"
}

// cramMD5Client is CRAM-MD5 (RFC 2195): the password stays here, but who hears the
// answer can try out passwords at leisure.
type cramMD5Client struct {
	username string
	password Secret
	answered bool
}

func (c *cramMD5Client) initial() ([]byte, bool) { return nil, false }
func (c *cramMD5Client) sentInitial()            {}
func (c *cramMD5Client) finish() error           { return nil }

func (c *cramMD5Client) answer(challenge []byte) ([]byte, error) {
	if c.answered {
		return nil, errAfterLast(mechCRAMMD5)
	}
	if len(challenge) == 0 {
		return nil, fmt.Errorf("%w: AUTH %s without a challenge", ErrUnexpectedReply, mechCRAMMD5)
	}
	c.answered = true
	mac := hmac.New(md5.New, []byte(c.password.reveal()))
	mac.Write(challenge)
	return []byte(c.username + " " + hex.EncodeToString(mac.Sum(nil))), nil
}

// scramClient is SCRAM (RFC 5802, RFC 7677), in which the server, too, has to prove
// that it knows the password.
type scramClient struct {
	conversation *scram.ClientConversation
	first        string
	steps        int // taken of the conversation
}

// newSCRAM makes the client of a SCRAM mechanism. binding is nil for those without
// channel binding; advertise says to the server that there would have been one, so that
// it notices if somebody removed the offer.
func newSCRAM(hash scram.HashGeneratorFcn, username string, password Secret, binding *scram.ChannelBinding, advertise bool) (*scramClient, error) {
	client, err := hash.NewClient(username, password.reveal(), "")
	if err != nil {
		// Characters that SASLprep doesn't know. A server that took them as a password
		// took them as they are. The error isn't shown: it has them.
		client, err = hash.NewClientUnprepped(username, password.reveal(), "")
	}
	if err != nil {
		return nil, errors.New("user name or password can't be used with SCRAM")
	}
	c := new(scramClient)
	switch {
	case binding != nil:
		c.conversation = client.NewConversationWithChannelBinding(*binding)
	case advertise:
		c.conversation = client.NewConversationAdvertisingChannelBinding()
	default:
		c.conversation = client.NewConversation()
	}
	c.first, err = c.conversation.Step("")
	return c, err
}

func (c *scramClient) initial() ([]byte, bool) { return []byte(c.first), true }
func (c *scramClient) sentInitial()            { c.steps = 1 }

func (c *scramClient) answer(challenge []byte) ([]byte, error) {
	if len(challenge) == 0 && c.steps <= 1 { // nothing said, or overlooked
		if c.steps++; c.steps == 1 {
			return []byte(c.first), nil
		}
		return nil, errAfterLast("SCRAM")
	}
	if c.steps > 2 || c.steps == 0 {
		return nil, errAfterLast("SCRAM")
	}
	if c.steps == 1 {
		if err := checkIterations(string(challenge)); err != nil {
			return nil, err
		}
	}
	c.steps++
	answer, err := c.conversation.Step(string(challenge))
	if err != nil {
		return nil, fmt.Errorf("%w: SCRAM: %s (%w)", ErrServerUnproven, printable(cut(err.Error(), 200)), ErrUnexpectedReply)
	}
	return []byte(answer), nil
}

// finish demands that the server has shown its signature.
func (c *scramClient) finish() error {
	if c.conversation.Valid() {
		return nil
	}
	return fmt.Errorf("%w: it says yes without a signature (%w)", ErrServerUnproven, ErrUnexpectedReply)
}

// checkIterations refuses numbers of iterations out of bounds in a server's first
// message.
func checkIterations(first string) error {
	for field := range strings.SplitSeq(first, ",") {
		text, ok := strings.CutPrefix(field, "i=")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(text); err != nil || n < minIterations || n > maxIterations {
			return fmt.Errorf("%w: SCRAM with %q iterations, %d to %d are allowed", ErrUnexpectedReply,
				printable(cut(text, 20)), minIterations, maxIterations)
		}
	}
	return nil
}

// channelBinding ties an exchange to a connection: with what both ends derive from the
// handshake (RFC 9266), or before TLS 1.3 with the server's certificate (RFC 5929).
func channelBinding(state tls.ConnectionState) (*scram.ChannelBinding, error) {
	bind := scram.NewTLSServerEndpointBinding
	if state.Version >= tls.VersionTLS13 {
		bind = scram.NewTLSExporterBinding
	}
	b, err := bind(&state)
	if err != nil {
		return nil, fmt.Errorf("channel binding: %w", err)
	}
	return &b, nil
}
