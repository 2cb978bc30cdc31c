package smtpclient

import (
	"fmt"
	"log/slog"
)

// hidden is what a Secret prints as.
const hidden = "****"

// Secret holds a password or a token, and doesn't print it: neither fmt, whatever the
// verb, nor encoding/json nor log/slog shows it, also not as a field of a field. The
// zero value holds nothing.
type Secret struct {
	// A pointer, because fmt follows none inside a struct: a Secret in an unexported
	// field is printed without its methods being asked.
	text *string
}

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// IsZero reports whether there is no secret in s.
func (s Secret) IsZero() bool { return s.text == nil }

// reveal returns what s holds. The caller must not let it get into a message.
func (s Secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String returns "****", or "" if s holds nothing.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return hidden
}

// Format prints s as String does, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue is what slog logs for s.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText makes JSON of s that holds no secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
