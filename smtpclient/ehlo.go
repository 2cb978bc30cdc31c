package smtpclient

import "strings"

// extensions is what a server says in its reply to EHLO (RFC 5321 §4.1.1.1): the
// parameters of each keyword, which is in upper case.
type extensions struct {
	params map[string]string
	lines  []string // as they came
}

// parseExtensions reads the lines of an EHLO reply; the first is a greeting. Lines that
// don't begin with a keyword are ignored.
func parseExtensions(lines []string) extensions {
	e := extensions{params: make(map[string]string)}
	for _, line := range lines[1:] {
		line = strings.TrimSpace(line)
		keyword, params, _ := strings.Cut(line, " ")
		if mechanism, ok := cutPrefixFold(keyword, "AUTH="); ok {
			// The form of AUTH before it was standardised.
			keyword, params = "AUTH", mechanism+" "+params
		}
		if !isKeyword(keyword) {
			continue
		}
		keyword = strings.ToUpper(keyword)
		e.lines = append(e.lines, cut(printable(line), keptText))
		if old, ok := e.params[keyword]; ok && keyword == "AUTH" {
			params = old + " " + params // servers that use both forms
		} else if ok {
			continue
		}
		e.params[keyword] = params
	}
	return e
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func isKeyword(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && (s[i] != '-' || i == 0) {
			return false
		}
	}
	return s != ""
}

// has reports whether the server offers keyword, which is in upper case.
func (e extensions) has(keyword string) bool {
	_, ok := e.params[keyword]
	return ok
}

// mechanisms are the SASL mechanisms that the server offers, in upper case.
func (e extensions) mechanisms() []string {
	return strings.Fields(strings.ToUpper(e.params["AUTH"]))
}
