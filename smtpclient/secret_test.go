package smtpclient_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// canary is a password that must not show up anywhere.
const canary = "c4n4ry/+S3cret&c4n4ry"

// shapes are the forms in which it might.
func shapes() map[string]string {
	s := map[string]string{"raw": canary, "URL-encoded": url.QueryEscape(canary), "hex": hex.EncodeToString([]byte(canary))}
	for shift := range 3 {
		// Base64 of the canary somewhere in a longer text, without the characters at
		// either end that depend on what stands there.
		b := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
		s[fmt.Sprintf("base64 after %d bytes", shift)] = b[4 : len(b)-4]
	}
	return s
}

func checkNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for shape, s := range shapes() {
		if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("%s shows the password, %s: %s", where, shape, text)
		}
	}
}

func TestShapesAreFound(t *testing.T) {
	for shift := range 7 {
		b := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("u", shift) + canary + "tail"))
		found := false
		for _, s := range shapes() {
			found = found || strings.Contains(b, s)
		}
		if !found {
			t.Errorf("the canary isn't found in %s", b)
		}
	}
}

// TestCanary authenticates in every way, with every end, and looks for the password in
// all that comes out.
func TestCanary(t *testing.T) {
	for _, auth := range []smtpclient.Auth{smtpclient.AuthAuto, smtpclient.AuthPlain, smtpclient.AuthLogin} {
		for _, initial := range []bool{false, true} {
			for _, end := range []string{"S: 235 ok", "S: 535 no", "! close", "! reset", "S: 250 hm", "echo", "echo and close", "echo raw"} {
				name := fmt.Sprintf("%v/%v/%s", auth, initial, end)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { checkCanary(t, auth, initial, end) })
				})
			}
		}
	}
}

func checkCanary(t *testing.T, auth smtpclient.Auth, initial bool, end string) {
	plain := base64.StdEncoding.EncodeToString([]byte("\x00user\x00" + canary))
	alone := base64.StdEncoding.EncodeToString([]byte(canary))
	switch end { // servers that repeat what they were told
	case "echo":
		end = "S: 500 5.5.2 what is " + plain + " or " + alone + " or " + canary
	case "echo and close":
		end = `S" 500 5.5.2 what is ` + plain + "\n! close"
	case "echo raw":
		end = "S: " + plain + " " + alone
	}
	d := "S: 220 mx\nC: EHLO client.example\nS\" 250-mx\\r\\n250 AUTH PLAIN LOGIN\\r\\n\n"
	switch {
	case auth == smtpclient.AuthLogin:
		d += "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: dXNlcg==\nS: 334 UGFzc3dvcmQ6\nC: " + alone + "\n"
	case initial:
		d += "C: AUTH PLAIN " + plain + "\n"
	default:
		d += "C: AUTH PLAIN\nS: 334 \nC: " + plain + "\n"
	}
	l := serve(t, d+end+"\n! silent")

	var trace, log bytes.Buffer
	cfg := testConfig(t, l)
	cfg.Auth, cfg.Username, cfg.Password, cfg.AllowPlaintextAuth, cfg.AuthInitialResponse = auth, "user", smtpclient.NewSecret(canary), true, initial
	cfg.Trace = smtpclient.TraceTo(&trace)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	c := newClient(t, cfg)
	receipt, err := send(t, c, t.Context(), mailOf("body\n"))
	if err == nil {
		t.Fatal("no error")
	}
	if !strings.Contains(trace.String(), "AUTH") || log.Len() == 0 {
		t.Error("neither trace nor log")
	}
	encoded, jsonErr := json.Marshal(receipt)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	checkNoSecret(t, "trace", trace.String())
	checkNoSecret(t, "log", log.String())
	checkNoSecret(t, "receipt", string(encoded))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		checkNoSecret(t, "error", fmt.Sprintf(verb, err))
		checkNoSecret(t, "receipt", fmt.Sprintf(verb, receipt))
	}
}

// TestCanaryOfEachMechanism has servers ask on and on, and then say no, yes, or what
// they were told.
func TestCanaryOfEachMechanism(t *testing.T) {
	for a := smtpclient.AuthCRAMMD5; a <= smtpclient.AuthOAUTHBEARER; a++ {
		for _, challenge := range []string{"", "PDE+", base64.StdEncoding.EncodeToString([]byte("r=x,s=QSXCR+Q6sek8bf92,i=4096"))} {
			for _, end := range []string{"S: 535 no", "S: 235 yes", "! close", "echo", "echo raw"} {
				synctest.Test(t, func(t *testing.T) { checkMechanismCanary(t, a, challenge, end) })
			}
		}
	}
}

func checkMechanismCanary(t *testing.T, a smtpclient.Auth, challenge, end string) {
	mechanism := strings.ToUpper(a.String())
	token := base64.StdEncoding.EncodeToString([]byte("user=user\x01auth=Bearer " + canary + "\x01\x01"))
	if a == smtpclient.AuthOAUTHBEARER {
		token = base64.StdEncoding.EncodeToString([]byte("n,a=user,\x01host=192.0.2.25\x01port=25\x01auth=Bearer " + canary + "\x01\x01"))
	}
	end = strings.NewReplacer("echo raw", "S: "+token+" "+canary, "echo", "S: 535 not "+token+" and not "+canary).Replace(end)
	l := smtptest.Listen()
	s := smtptest.Serve(l, smtptest.MustParse("S: 220 mx\nC: EHLO client.example\nS: 250-mx\nS: 250 AUTH "+mechanism+"\nC: AUTH "+mechanism+
		"\nS: 334 "+challenge+"\n"+end+"\n! silent"))
	t.Cleanup(func() { _, _ = s.Wait() }) // a client that refuses the challenge leaves before the server is done
	var trace, log bytes.Buffer
	cfg := testConfig(t, l)
	cfg.Auth, cfg.Username, cfg.Password, cfg.AllowPlaintextAuth = a, "user", smtpclient.NewSecret(canary), true
	cfg.Trace = smtpclient.TraceTo(&trace)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	receipt, err := send(t, newClient(t, cfg), t.Context(), mailOf("body\n"))
	if err == nil {
		return // the server took anything
	}
	encoded, jsonErr := json.Marshal(receipt)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	for where, text := range map[string]string{"trace": trace.String(), "log": log.String(), "receipt": string(encoded), "error": fmt.Sprintf("%+v %#v", err, err)} {
		checkNoSecret(t, where, text)
	}
}

// TestSecretNeverPrints: not by any verb, encoder or logger, however deep it is.
func TestSecretNeverPrints(t *testing.T) {
	s := smtpclient.NewSecret(canary)
	cfg := smtpclient.Config{Username: "user", Password: s}
	type hidden struct{ s smtpclient.Secret }
	type nested struct{ cfg smtpclient.Config }
	values := map[string]any{
		"secret": s, "pointer": &s, "config": cfg, "pointer to config": &cfg, "unexported": hidden{s}, "unexported config": nested{cfg},
		"slice": []smtpclient.Secret{s}, "map": map[string]smtpclient.Secret{"p": s}, "unexported slice": []hidden{{s}},
	}
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			checkNoSecret(t, name+" with "+verb, fmt.Sprintf(verb, v))
		}
	}
	if b, err := json.Marshal(map[string]any{"p": s}); err != nil || string(b) != `{"p":"****"}` {
		t.Errorf("JSON %s, %v", b, err)
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("a", "s", s, "any", slog.AnyValue(hidden{s}), "config", fmt.Sprint(cfg.Password))
	logger = slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("a", "s", s)
	checkNoSecret(t, "slog", log.String())
	if s.String() != "****" || s.IsZero() || smtpclient.NewSecret("").String() != "" || !smtpclient.NewSecret("").IsZero() {
		t.Errorf("%v, %v", s, smtpclient.NewSecret(""))
	}
}

// TestClientNeverPrints: a client may be printed, too.
func TestClientNeverPrints(t *testing.T) {
	cfg := testConfig(t, serve(t, "C$"))
	cfg.Username, cfg.Password = "user", smtpclient.NewSecret(canary)
	c := newClient(t, cfg)
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		checkNoSecret(t, verb, fmt.Sprintf(verb, c))
	}
}
