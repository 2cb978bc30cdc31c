package smtpclient

import (
	"fmt"
	"net/netip"
	"strings"
)

// Limits of RFC 5321 §4.5.3.1, in octets.
const (
	maxLocalPart = 64
	maxDomain    = 255
	maxPath      = 256 // with the angle brackets
	maxLabel     = 63
)

// address is a mailbox as it goes between the angle brackets of MAIL and RCPT; empty
// for the null reverse-path.
type address string

// parseSender accepts what RFC 5321 §4.1.2 calls a Reverse-path, with or without its
// angle brackets. The null reverse-path needs them: "<>".
func parseSender(s string) (address, error) {
	if s == "<>" {
		return "", nil
	}
	if s == "" {
		return "", fmt.Errorf(`%w: no sender; set Mail.From or Config.From, to "<>" for the null reverse-path`, ErrAddress)
	}
	return parseMailbox(s)
}

// parseRecipient accepts what RFC 5321 §4.1.2 calls a Forward-path, with or without
// its angle brackets; a source route is refused. Postmaster needs no domain.
func parseRecipient(s string) (address, error) {
	if bare := trimBrackets(s); strings.EqualFold(bare, "postmaster") {
		return address(bare), nil
	}
	return parseMailbox(s)
}

func trimBrackets(s string) string {
	if len(s) >= 2 && s[0] == '<' && s[len(s)-1] == '>' {
		return s[1 : len(s)-1]
	}
	return s
}

func parseMailbox(s string) (address, error) {
	bare := trimBrackets(s)
	bad := func(format string, args ...any) (address, error) {
		return "", fmt.Errorf("%w %q: %s", ErrAddress, cut(s, maxPath), fmt.Sprintf(format, args...))
	}
	if err := checkASCII(bare); err != nil {
		return bad("%v", err)
	}
	local, domain, ok := cutLocalPart(bare)
	switch {
	case !ok:
		return bad("want local-part@domain, and quotes around a local part with special characters")
	case len(local) > maxLocalPart:
		return bad("its local part has %d octets, %d are allowed", len(local), maxLocalPart)
	case len(bare)+len("<>") > maxPath:
		return bad("it has %d octets, %d are allowed", len(bare), maxPath-len("<>"))
	}
	if err := checkDomain(domain); err != nil {
		return bad("%v", err)
	}
	return address(bare), nil
}

// checkASCII refuses what no command line may hold.
func checkASCII(s string) error {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 0x80:
			return fmt.Errorf("byte %d isn't ASCII; addresses in UTF-8 (RFC 6531) are not supported", i+1)
		case c < ' ' || c == 0x7f:
			return fmt.Errorf("control character %#02x at byte %d", c, i+1)
		}
	}
	return nil
}

// cutLocalPart splits a mailbox of printable ASCII at the @ that ends its local part: a
// quoted string, or atoms with dots anywhere, since such addresses exist.
func cutLocalPart(s string) (local, domain string, ok bool) {
	end := 0
	if strings.HasPrefix(s, `"`) {
		end = quotedLen(s)
	} else {
		for end < len(s) && isAtomChar(s[end]) {
			end++
		}
	}
	if end == 0 || end == len(s) || s[end] != '@' {
		return "", "", false
	}
	return s[:end], s[end+1:], true
}

// quotedLen is the length of the quoted string that s begins with; 0 if it has no end.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// isAtomChar reports whether c is an atext (RFC 5322 §3.2.3) or a dot.
func isAtomChar(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// checkDomain accepts a domain or an address literal (RFC 5321 §4.1.3), and in a label
// underscores too, since such hosts exist.
func checkDomain(s string) error {
	if strings.HasPrefix(s, "[") {
		return checkAddressLiteral(s)
	}
	if len(s) > maxDomain {
		return fmt.Errorf("the domain has %d octets, %d are allowed", len(s), maxDomain)
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > maxLabel {
			return fmt.Errorf("the domain %q has a label of %d octets, 1 to %d are allowed", s, len(label), maxLabel)
		}
		for i := range len(label) {
			c := label[i]
			edge := i == 0 || i == len(label)-1
			if !isAlphanumeric(c) && c != '_' && (c != '-' || edge) {
				return fmt.Errorf("the domain %q holds %q", cut(s, maxDomain), c)
			}
		}
	}
	return nil
}

func checkAddressLiteral(s string) error {
	inner, ok := strings.CutSuffix(s[1:], "]")
	text, v6 := strings.CutPrefix(inner, "IPv6:")
	ip, err := netip.ParseAddr(text)
	if !ok || err != nil || ip.Is6() != v6 || ip.Zone() != "" {
		return fmt.Errorf("%q is no address literal such as [192.0.2.1] or [IPv6:2001:db8::1]", cut(s, maxDomain))
	}
	return nil
}

// addressLiteral is ip as a domain.
func addressLiteral(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return "[" + ip.String() + "]"
	}
	return "[IPv6:" + ip.String() + "]"
}
