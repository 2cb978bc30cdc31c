package smtpclient

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

func TestParseExtensions(t *testing.T) {
	e := parseExtensions([]string{
		"author-login.example greets AUTH PLAIN", "PIPELINING", "size 1000", "AUTH PLAIN", "auth=LOGIN cram-md5",
		"SIZE 2", "", "X_BAD", "-X", "8BITMIME ", "XSTRANGE\x1b[0m",
	})
	if got := e.mechanisms(); !slices.Equal(got, []string{"PLAIN", "LOGIN", "CRAM-MD5"}) {
		t.Errorf("mechanisms %q", got)
	}
	if !e.has("8BITMIME") || !e.has("PIPELINING") || e.has("X_BAD") || e.params["SIZE"] != "1000" {
		t.Errorf("%+v", e)
	}
	if len(e.lines) != 6 {
		t.Errorf("lines %q", e.lines)
	}
}

func TestChooseMechanism(t *testing.T) {
	const nothing = "-" // no AUTH line
	tests := []struct {
		auth    Auth
		user    string
		offered string
		want    string
	}{
		{AuthNone, "u", "PLAIN LOGIN", ""},
		{AuthNone, "u", nothing, ""},
		{AuthAuto, "", "PLAIN LOGIN", ""},
		{AuthAuto, "u", nothing, ""},
		{AuthAuto, "u", "PLAIN LOGIN", "PLAIN"},
		{AuthAuto, "u", "LOGIN", "LOGIN"},
		{AuthAuto, "u", "XMECH", "PLAIN"},
		{AuthAuto, "u", "LOGIN PLAIN CRAM-MD5", "CRAM-MD5"},
		{AuthAuto, "u", "PLAIN SCRAM-SHA-1 scram-sha-256 CRAM-MD5", "SCRAM-SHA-256"},
		{AuthAuto, "u", "SCRAM-SHA-1 CRAM-MD5", "SCRAM-SHA-1"},
		{AuthAuto, "u", "SCRAM-SHA-256 SCRAM-SHA-1-PLUS", "SCRAM-SHA-256"},
		{AuthAuto, "u", "XOAUTH2 OAUTHBEARER EXTERNAL ANONYMOUS PLAIN", "PLAIN"},
		{AuthCRAMMD5, "u", "PLAIN CRAM-MD5", "CRAM-MD5"},
		{AuthSCRAMSHA256, "u", "SCRAM-SHA-256-PLUS SCRAM-SHA-256", "SCRAM-SHA-256"},
		{AuthXOAUTH2, "u", "PLAIN XOAUTH2", "XOAUTH2"},
		{AuthExternal, "", "PLAIN EXTERNAL", "EXTERNAL"},
		{AuthAuto, "u", "", "PLAIN"},
		{AuthPlain, "u", nothing, "PLAIN"},
		{AuthPlain, "u", "LOGIN PLAIN", "PLAIN"},
		{AuthPlain, "u", "login", "LOGIN"},
		{AuthPlain, "u", "MOGIN CRAM-MD5 QLAIN", "PLAIN"},
		{AuthLogin, "u", nothing, "PLAIN"},
		{AuthLogin, "u", "PLAIN LOGIN", "LOGIN"},
		{AuthLogin, "u", "PLAIN", "PLAIN"},
		{AuthLogin, "u", "MOGIN CRAM-MD5 QLAIN", "PLAIN"},
		{AuthLogin, "u", "XLOGIN LOGINX", "PLAIN"},
	}
	for _, tt := range tests {
		e := parseExtensions([]string{"mx", "AUTH " + tt.offered})
		if tt.offered == nothing {
			e = parseExtensions([]string{"author-login.example plain"})
		}
		got, err := chooseMechanism(&Config{Auth: tt.auth, Username: tt.user}, e, false)
		if got != tt.want || err != nil {
			t.Errorf("%v with user %q, offered %q: %q, %v; want %q", tt.auth, tt.user, tt.offered, got, err, tt.want)
		}
	}
}

func TestLoginPrompts(t *testing.T) {
	tests := []struct {
		prompts []string // decoded
		want    string   // u: user name, p: password, x: an error
	}{
		{[]string{"Username:", "Password:"}, "up"},
		{[]string{"username", "password"}, "up"},
		{[]string{"USERNAME:", "PASSWORD:"}, "up"},
		{[]string{"User Name\x00", "Password\x00"}, "up"},
		{[]string{"User name: ", "Password: "}, "up"},
		{[]string{"Password:", "Username:"}, "pu"},
		{[]string{"", ""}, "up"},
		{[]string{"Benutzer:", "Kennwort:"}, "up"},
		{[]string{"Username:", "Password:", "Token:"}, "upx"},
	}
	for _, tt := range tests {
		c := &loginClient{username: "u", password: NewSecret("p")}
		var got strings.Builder
		for _, p := range tt.prompts {
			answer, err := c.answer([]byte(p))
			if err != nil {
				answer = []byte("x")
			}
			got.Write(answer)
		}
		if got.String() != tt.want {
			t.Errorf("%q: answered %q, want %q", tt.prompts, got.String(), tt.want)
		}
	}
}

func TestDecodeChallenge(t *testing.T) {
	for in, want := range map[string]string{
		"VXNlcm5hbWU6": "Username:", "VXNlcm5hbWU6 ": "Username:", "": "", "not base64!": "", "334": "",
	} {
		if got := string(decodeChallenge(in)); got != want {
			t.Errorf("decodeChallenge(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPlainAnswersTwiceAtMost(t *testing.T) {
	c := &plainClient{username: "u", password: NewSecret("p")}
	if b, ok := c.initial(); !ok || string(b) != "\x00u\x00p" {
		t.Errorf("initial response %q, %v", b, ok)
	}
	if b, err := c.answer(nil); err != nil || string(b) != "\x00u\x00p" {
		t.Errorf("answer %q, %v", b, err)
	}
	if _, err := c.answer(nil); err == nil {
		t.Error("a second challenge was answered")
	}
}

func TestScrubber(t *testing.T) {
	const user, password = "device", "canary-secret"
	s := newScrubber(user, NewSecret(password), server{})
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	alone := base64.StdEncoding.EncodeToString([]byte(password))
	for _, tt := range []struct{ in, want string }{
		{"535 no", "535 no"},
		{"unknown command AUTH PLAIN " + plain, "unknown command AUTH PLAIN ****"},
		{"cut short: " + plain[:12] + "\"", "cut short: ****\""},
		{"[" + alone + "] [" + password + "]", "[****] [****]"},
		{strings.Repeat(alone, 3), "************"},
		{"canary-s", "****"},
		{"canary", "canary"},
	} {
		if got := s.hide(tt.in); got != tt.want {
			t.Errorf("hide(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := newScrubber(user, Secret{}, server{}).hide("as it is"); got != "as it is" {
		t.Errorf("without a secret: %q", got)
	}
	if got := newScrubber(user, NewSecret("e"), server{}).hide("the e in text"); got != "the e in text" {
		t.Errorf("with a short secret: %q", got)
	}
}
