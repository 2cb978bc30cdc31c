package smtpclient

import (
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

// TestVectors: the examples of RFC 2195 §3 and RFC 7628 §4.1, and of XOAUTH2's
// documentation.
func TestVectors(t *testing.T) {
	cram := &cramMD5Client{username: "tim", password: NewSecret("tanstaaftanstaaf")}
	if b, err := cram.answer([]byte("<1896.697170952@postoffice.reston.mci.net>")); string(b) != "tim b913a602c7eda7a495b4e6e7334d3890" || err != nil {
		t.Errorf("CRAM-MD5: %q, %v", b, err)
	}
	const token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
	want := "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer " + token + "\x01\x01"
	if got := oauthBearerText("user@example.com", NewSecret(token), server{"server.example.com", "143"}); got != want {
		t.Errorf("OAUTHBEARER: %q", got)
	}
	if got := oauthBearerText("a=b,c", NewSecret("t"), server{"h", "1"}); !strings.HasPrefix(got, "n,a=a=3Db=2Cc,\x01") {
		t.Errorf("OAUTHBEARER: %q", got)
	}
	if got := oauthBearerText("", NewSecret("t"), server{"h", "1"}); !strings.HasPrefix(got, "n,,\x01") {
		t.Errorf("OAUTHBEARER: %q", got)
	}
	if got := xoauth2Text("someuser@example.com", NewSecret("ya29.vF9")); got != "user=someuser@example.com\x01auth=Bearer ya29.vF9\x01\x01" {
		t.Errorf("XOAUTH2: %q", got)
	}
}

func TestChooseMechanismWithFloorAndBinding(t *testing.T) {
	for _, tt := range []struct {
		auth, floor Auth
		bound       bool
		offered     string
		want        string // "!" for an error
	}{
		{AuthAuto, AuthAuto, true, "SCRAM-SHA-256 SCRAM-SHA-1-PLUS PLAIN", "SCRAM-SHA-1-PLUS"},
		{AuthAuto, AuthAuto, true, "SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"},
		{AuthAuto, AuthAuto, false, "SCRAM-SHA-256-PLUS PLAIN", "PLAIN"},
		{AuthAuto, AuthCRAMMD5, true, "PLAIN LOGIN", "!"},
		{AuthAuto, AuthCRAMMD5, true, "PLAIN CRAM-MD5", "CRAM-MD5"},
		{AuthAuto, AuthSCRAMSHA256, true, "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN", "!"},
		{AuthAuto, AuthSCRAMSHA256, true, "SCRAM-SHA-256 SCRAM-SHA-1-PLUS", "SCRAM-SHA-256"},
		{AuthAuto, AuthSCRAMSHA1, true, "", "!"},
		{AuthAuto, AuthPlain, true, "LOGIN", "LOGIN"},
		{AuthAuto, AuthLogin, true, "PLAIN", "PLAIN"},
		{AuthSCRAMSHA1, AuthAuto, true, "SCRAM-SHA-1 SCRAM-SHA-1-PLUS", "SCRAM-SHA-1-PLUS"},
		{AuthSCRAMSHA1, AuthAuto, true, "SCRAM-SHA-256", "!"},
		{AuthCRAMMD5, AuthAuto, false, "PLAIN", "!"},
		{AuthAnonymous, AuthAuto, false, "", "!"},
	} {
		e := parseExtensions([]string{"mx", "AUTH " + tt.offered})
		got, err := chooseMechanism(&Config{Auth: tt.auth, AuthFloor: tt.floor, Username: "u"}, e, tt.bound)
		if (err != nil) != (tt.want == "!") || err == nil && got != tt.want {
			t.Errorf("%v, floor %v, bound %v, offered %q: %q, %v; want %q", tt.auth, tt.floor, tt.bound, tt.offered, got, err, tt.want)
		}
	}
}

// FuzzSASL has hostile servers ask: the client ends the exchange soon, shows the
// password to none that must prove itself first, and believes none without a proof.
func FuzzSASL(f *testing.F) {
	const password = "canary-password"
	f.Add(byte(0), []byte("<1@mx>"), []byte(""))
	f.Add(byte(1), []byte(""), []byte("r=rOprNGfwEbeRWgbNEkqO,s=QSXCR+Q6sek8bf92,i=4096"))
	f.Add(byte(1), []byte("r=nonce,s=QSXCR+Q6sek8bf92,i=4096"), []byte("v=rmF9pqV8S7suAoZWja4dJRkFsKQ="))
	f.Add(byte(1), []byte("r=nonce,s=QSXCR+Q6sek8bf92,i=1000001"), []byte("e=other-error"))
	f.Add(byte(1), []byte("m=ext,r=nonce,s=,i=4096,i=2"), []byte(",,,"))
	f.Add(byte(2), []byte(`{"status":"401"}`), []byte(""))
	f.Fuzz(func(t *testing.T, kind byte, first, second []byte) {
		var c saslClient
		switch kind % 3 {
		case 0:
			c = &cramMD5Client{username: "u", password: NewSecret(password)}
		case 1:
			client, err := newSCRAM(scram.SHA256, "u", NewSecret(password), nil, false)
			if err != nil {
				t.Fatal(err)
			}
			c = client
			c.sentInitial()
		case 2:
			c = &oneAnswer{mechanism: mechXOAUTH2, text: "text", acks: true}
		}
		answers := 0
		for _, challenge := range [][]byte{first, second, first, second, nil} {
			b, err := c.answer(challenge)
			if err != nil {
				break
			}
			answers++
			if strings.Contains(string(b), password) {
				t.Errorf("the answer to %q shows the password", challenge)
			}
		}
		if answers > 3 {
			t.Errorf("%d answers", answers)
		}
		if kind%3 == 1 && c.finish() == nil {
			t.Error("a server was believed that can't know the password")
		}
	})
}
