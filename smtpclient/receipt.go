package smtpclient

import (
	"encoding/json"
	"fmt"
	"time"
)

// Outcome is what became of a mail for one recipient.
type Outcome uint8

const (
	// Refused means not delivered, for certain: the server refused it, or the session
	// failed before the end of the message was sent.
	Refused Outcome = iota

	// Delivered means that the server took responsibility for the mail.
	Delivered

	// Unknown means that the session failed after the end of the message was, or may
	// have been, sent, and before the server's answer came. Sending it again may
	// deliver it twice, not sending it again may lose it.
	Unknown
)

// String returns "refused", "delivered" or "unknown".
func (o Outcome) String() string {
	switch o {
	case Refused:
		return "refused"
	case Delivered:
		return "delivered"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// MarshalText returns what String does.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Recipient is what became of a mail for one recipient.
type Recipient struct {
	Address string  `json:"address"` // as in Mail.To
	Outcome Outcome `json:"outcome"`

	// Temporary: the mail was refused, and may be delivered if sent again.
	Temporary bool `json:"temporary,omitempty"`

	// Reply is the server's answer that decided; nil if there was none.
	Reply *Reply `json:"reply,omitempty"`

	// Err is why the outcome isn't Delivered, an *Error; nil if it is.
	Err error `json:"error,omitempty"`
}

// refused notes why the mail isn't delivered to r.
func (r *Recipient) refused(why *Error) {
	r.Outcome, r.Temporary, r.Reply, r.Err = Refused, why.Temporary(), why.reply, why
}

// Exchange is a reply, and what it answers.
type Exchange struct {
	Step    Step   `json:"step"`
	Command string `json:"command,omitempty"` // as sent, secrets as "****"
	Reply   *Reply `json:"reply"`
}

// Phase is how long a step took, all of its commands and waits together.
type Phase struct {
	Step Step
	Took time.Duration
}

// MarshalJSON renders the time in milliseconds.
func (p Phase) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Step Step    `json:"step"`
		MS   float64 `json:"ms"`
	}{p.Step, float64(p.Took.Microseconds()) / 1000})
}

// Receipt is what is known about a mail that was sent, or was not.
type Receipt struct {
	Recipients []Recipient `json:"recipients"` // in the order of Mail.To
	MessageID  string      `json:"message_id,omitempty"`
	Server     string      `json:"server"` // "host:port"
	Local      string      `json:"local,omitempty"`
	Remote     string      `json:"remote,omitempty"` // the address that was connected to
	Extensions []string    `json:"extensions"`       // the server's EHLO lines
	TLS        *TLSInfo    `json:"tls,omitempty"`    // nil if the connection wasn't encrypted
	Auth       string      `json:"auth,omitempty"`   // the mechanism used
	LeftOut    []string    `json:"left_out"`         // what was wanted and not done, and why
	Exchanges  []Exchange  `json:"exchanges"`        // every reply, in order
	Phases     []Phase     `json:"phases"`           // in order

	// MessageBytes is the length of the message as sent: header and body with CRLF
	// line ends and doubled dots, without the final dot. It is complete only if the
	// message was.
	MessageBytes int64 `json:"message_bytes"`
	Bytes        int64 `json:"bytes"`   // sent in all, commands included
	Packets      int64 `json:"packets"` // of the pool, that were sent
}

// newReceipt is the receipt of a mail with which nothing has happened yet.
func newReceipt(server string, to []string) Receipt {
	r := Receipt{Server: server, Extensions: []string{}, LeftOut: []string{}, Exchanges: []Exchange{}, Phases: []Phase{}}
	r.Recipients = make([]Recipient, len(to))
	for i, a := range to {
		r.Recipients[i].Address = a
	}
	return r
}

// Delivered reports whether all recipients were delivered to.
func (r *Receipt) Delivered() bool {
	for _, rcpt := range r.Recipients {
		if rcpt.Outcome != Delivered {
			return false
		}
	}
	return len(r.Recipients) > 0
}

// took adds to the time of a step.
func (r *Receipt) took(step Step, d time.Duration) {
	for i := range r.Phases {
		if r.Phases[i].Step == step {
			r.Phases[i].Took += d
			return
		}
	}
	r.Phases = append(r.Phases, Phase{step, d})
}
