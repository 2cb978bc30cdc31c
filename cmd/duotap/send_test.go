package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duotap/duotap/smtpclient"
)

func TestSendBody(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		server := serveMail(t, f.listen(t), &mailServer{})
		body := ".\n..\nbare\rCR, bare\nLF, CRLF\r\nNUL \x00 and 8-bit \xff\xe4\n" + strings.Repeat("long", 2500) + "\nno end"
		r := duotap(t, strings.NewReader(body), sendArgs(f.smtp(), "--to", "ops@example.org", "--to", "second@example.org",
			"--subject", "Grüße", "--priority", "high")...)
		r.mustSucceed(t)

		mail := server.only(t)
		want := strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(body) + "\r\n"
		if diff := cmp.Diff(want, mail.body()); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"ops@example.org", "second@example.org"}, mail.to); diff != "" || mail.from != "device@example.org" {
			t.Errorf("from %q to %q", mail.from, mail.to)
		}
		for _, field := range []string{"Subject: =?utf-8?B?R3LDvMOfZQ==?=", "From: device@example.org", "Importance: high", "Message-ID: <", "Date: "} {
			if !strings.Contains("\r\n"+mail.header(), "\r\n"+field) {
				t.Errorf("no field %q in the header\n%s", field, mail.header())
			}
		}
		if !strings.Contains(r.stdout, "delivered  ops@example.org") || !strings.Contains(r.stdout, "pool 16 of 16 free") {
			t.Error(r.output())
		}
	})
}

func TestSendRaw(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		server := serveMail(t, f.listen(t), &mailServer{})
		message := "Subject: as it is\r\nX-Odd:  two  spaces\r\n\r\n.\r\nbody\r\n"
		duotap(t, strings.NewReader(message), sendArgs(f.smtp(), "--raw", "--to", "ops@example.org")...).mustSucceed(t)
		if got := server.only(t).data; got != message {
			t.Errorf("%q arrived, want %q", got, message)
		}
	})
}

func TestSendNullSender(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	server := serveMail(t, families[0].listen(t), &mailServer{})
	for _, from := range []string{"", "<>"} {
		server.mails = nil
		args := append(append([]string{"send"}, linkArgs...), "--server", families[0].smtp(), "--from", from, "--to", "ops@example.org")
		duotap(t, strings.NewReader("x"), args...).mustSucceed(t)
		if got := server.only(t).from; got != "" {
			t.Errorf("--from %q gives %q", from, got)
		}
	}
}

// The worst outcome of all recipients decides: unknown, temporary, permanent.
func TestSendMixedOutcomes(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		server := serveMail(t, f.listen(t), &mailServer{})
		for _, c := range []struct {
			to   string
			code int
			text string
		}{
			{"good permanent", exitPermanent, "550 5.1.1 no such user"},
			{"good temporary", exitTemporary, "450 4.2.1 mailbox is busy"},
			{"permanent temporary good", exitTemporary, "450 4.2.1 mailbox is busy"},
			{"permanent permanent2", exitPermanent, "550 5.1.1 no such user"},
		} {
			server.mails = nil
			args := sendArgs(f.smtp())
			for _, to := range strings.Fields(c.to) {
				args = append(args, "--to", to+"@example.org")
			}
			r := duotap(t, strings.NewReader("x"), args...)
			r.mustFail(t, c.code, "^duotap: smtp server .*: RCPT <(permanent|temporary)@example.org>: ")
			if !strings.Contains(r.stdout, c.text) {
				t.Errorf("no %q in\n%s", c.text, r.stdout)
			}
			if !strings.Contains(c.to, "good") {
				server.none(t)
			} else if got := server.only(t).to; len(got) != 1 || got[0] != "good@example.org" {
				t.Errorf("delivered to %q", got)
			}
		}
	})
}

// A failure behind the final dot outweighs a recipient who was refused.
func TestSendUnknownOutcome(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		serveDialogue(t, f.listen(t), `
S: 220 mx.example ESMTP
C~ EHLO .*
S: 250 mx.example
C~ MAIL FROM:.*
S: 250 ok
C: RCPT TO:<first@example.org>
S: 450 busy
C: RCPT TO:<second@example.org>
S: 250 ok
C: DATA
S: 354 go ahead
C.
! reset
`)
		r := duotap(t, strings.NewReader("x"), sendArgs(f.smtp(), "--to", "first@example.org", "--to", "second@example.org")...)
		r.mustFail(t, exitUnknown)
		if !strings.Contains(r.stdout, "unknown  second@example.org") || !strings.Contains(r.stdout, "refused  first@example.org") {
			t.Error(r.output())
		}
	})
}

// jsonReport is what --json of send promises. It is written down here once more,
// because programs rely on the names.
type jsonReport struct {
	Delivered bool   `json:"delivered"`
	ExitCode  int    `json:"exit_code"`
	Error     string `json:"error"`
	Receipt   struct {
		Recipients []struct {
			Address   string     `json:"address"`
			Outcome   string     `json:"outcome"`
			Temporary bool       `json:"temporary"`
			Reply     *jsonReply `json:"reply"`
			Error     *struct {
				Step      string `json:"step"`
				Code      int    `json:"code"`
				Enhanced  string `json:"enhanced"`
				Text      string `json:"text"`
				Temporary bool   `json:"temporary"`
				Message   string `json:"message"`
			} `json:"error"`
		} `json:"recipients"`
		MessageID  string   `json:"message_id"`
		Server     string   `json:"server"`
		Local      string   `json:"local"`
		Remote     string   `json:"remote"`
		Extensions []string `json:"extensions"`
		Auth       string   `json:"auth"`
		LeftOut    []string `json:"left_out"`
		Exchanges  []struct {
			Step    string    `json:"step"`
			Command string    `json:"command"`
			Reply   jsonReply `json:"reply"`
		} `json:"exchanges"`
		Phases []struct {
			Step string  `json:"step"`
			MS   float64 `json:"ms"`
		} `json:"phases"`
		MessageBytes int64 `json:"message_bytes"`
		Bytes        int64 `json:"bytes"`
		Packets      int64 `json:"packets"`
	} `json:"receipt"`
	Pool         jsonPool  `json:"pool"`
	InstancePool *jsonPool `json:"instance_pool"`
}

type jsonPool struct {
	Total            int    `json:"total"`
	Free             int    `json:"free"`
	LowestFree       int    `json:"lowest_free"`
	EmptyRequests    uint64 `json:"empty_requests"`
	EmptySuspensions uint64 `json:"empty_suspensions"`
	InvalidReleases  uint64 `json:"invalid_releases"`
}

type jsonReply struct {
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced"`
	Text     string `json:"text"`
}

// parseJSON reads the one object that stdout has to be, all of whose fields out knows.
func parseJSON(t *testing.T, r result, out any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		t.Fatalf("stdout is not the JSON it should be: %v\n%s", err, r.output())
	}
	if d.More() {
		t.Fatalf("more than one JSON value\n%s", r.output())
	}
}

func TestSendJSON(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		serveMail(t, f.listen(t), &mailServer{})
		r := duotap(t, strings.NewReader("text\n"), sendArgs(f.smtp(), "--json", "--to", "good@example.org", "--to", "permanent@example.org")...)
		if r.code != exitPermanent || r.stderr != "" {
			t.Fatalf("exit code %d, want %d and nothing on stderr\n%s", r.code, exitPermanent, r.output())
		}
		var got jsonReport
		parseJSON(t, r, &got)
		rcpt := got.Receipt.Recipients
		if got.Delivered || got.ExitCode != exitPermanent || got.Error == "" || len(rcpt) != 2 ||
			rcpt[0].Outcome != "delivered" || rcpt[0].Reply.Code != 250 || rcpt[0].Error != nil ||
			rcpt[1].Outcome != "refused" || rcpt[1].Temporary || rcpt[1].Reply.Code != 550 || rcpt[1].Reply.Enhanced != "5.1.1" ||
			rcpt[1].Error == nil || rcpt[1].Error.Step != "RCPT" || rcpt[1].Error.Code != 550 {
			t.Errorf("outcomes: %s", r.stdout)
		}
		if got.Receipt.Server != f.smtp() || got.Receipt.Remote != f.smtp() || got.Receipt.MessageID == "" ||
			!strings.Contains(strings.Join(got.Receipt.Extensions, " "), "8BITMIME") {
			t.Errorf("session: %s", r.stdout)
		}
		var steps []string
		for _, p := range got.Receipt.Phases {
			steps = append(steps, p.Step)
		}
		if diff := cmp.Diff([]string{"connect", "greeting", "EHLO", "MAIL", "RCPT", "DATA", "message", "QUIT"}, steps); diff != "" {
			t.Errorf("phases (-want +got):\n%s", diff)
		}
		var codes []int
		for _, x := range got.Receipt.Exchanges {
			codes = append(codes, x.Reply.Code)
		}
		if diff := cmp.Diff([]int{220, 250, 250, 250, 550, 354, 250, 221}, codes); diff != "" {
			t.Errorf("replies (-want +got):\n%s", diff)
		}
		if got.Receipt.Packets == 0 || got.Receipt.Bytes <= got.Receipt.MessageBytes || got.Receipt.MessageBytes < 100 {
			t.Errorf("counts: %s", r.stdout)
		}
		for _, pool := range []jsonPool{got.Pool, *got.InstancePool} {
			if pool.Total == 0 || pool.Free != pool.Total || pool.LowestFree >= pool.Total || pool.InvalidReleases != 0 {
				t.Errorf("pool %+v", pool)
			}
		}
	})
}

// What can't be sent at all is still reported as JSON.
func TestSendJSONWithoutSession(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	r := duotap(t, strings.NewReader("x"), sendArgs(families[0].smtp(), "--json", "--to", "ops@example.org")...)
	var got jsonReport
	parseJSON(t, r, &got)
	if r.code != exitTemporary || got.ExitCode != exitTemporary || got.Delivered || !strings.Contains(got.Error, "refused") ||
		len(got.Receipt.Recipients) != 1 || got.Receipt.Recipients[0].Outcome != "refused" || !got.Receipt.Recipients[0].Temporary {
		t.Errorf("exit code %d\n%s", r.code, r.output())
	}
}

// What the user has given wrong is found before anything is sent.
func TestSendBadInput(t *testing.T) {
	requireTAP(t)
	t.Parallel()
	args := func(more ...string) []string { return sendArgs(families[0].smtp(), more...) }
	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"CRLF in a recipient", args("--to", "a@example.org>\r\nRCPT TO:<b@example.org"), exitData, "bad address"},
		{"NUL-less control in a recipient", args("--to", "a\x01@example.org"), exitData, "bad address"},
		{"angle bracket in a recipient", args("--to", "a@example.org> X=<"), exitData, "bad address"},
		{"LF in the subject", args("--to", "a@example.org", "--subject", "a\nBcc: b@example.org"), exitData, "subject"},
		{"space in the name for EHLO", args("--to", "a@example.org", "--helo", "a b"), exitData, "--helo"},
		{"payload without room for data", args("--to", "a@example.org", "--pool-payload", "94"), exitConfig, "need 95"},
		{"pool without packets", args("--to", "a@example.org", "--pool-packets", "0"), exitConfig, "pool"},
		{"subject of a raw message", args("--to", "a@example.org", "--raw", "--subject", "x"), exitUsage, "--subject"},
		{"no such capture directory", args("--to", "a@example.org", "--pcap", "/nonexistent/x.pcapng"), exitIO, "/nonexistent/x.pcapng"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			newNetwork(t)
			server := serveMail(t, families[0].listen(t), &mailServer{})
			duotap(t, strings.NewReader("x"), c.args...).mustFail(t, c.code, c.text)
			server.none(t)
		})
	}
}

const (
	secretUser     = "appliance-7"
	secretPassword = "correct horse 7Zq battery"
)

// secretForms are how a password would show in text or on the wire.
func secretForms() []string {
	return []string{
		secretPassword,
		base64.StdEncoding.EncodeToString([]byte(secretPassword)),
		base64.StdEncoding.EncodeToString([]byte("\x00" + secretUser + "\x00" + secretPassword)),
		fmt.Sprintf("%x", secretPassword),
	}
}

// leaks returns the forms of the secret that are in b.
func leaks(b string) []string {
	var found []string
	for _, s := range secretForms() {
		if strings.Contains(b, s) {
			found = append(found, s)
		}
	}
	return found
}

func TestSendSecretsStayInside(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		server := serveMail(t, f.listen(t), &mailServer{user: secretUser, password: secretPassword})
		file := writeTemp(t, "password", secretPassword+"\n", 0o600)
		wrong := writeTemp(t, "wrong", strings.Replace(secretPassword, "7Zq", "7zQ", 1)+"\n", 0o600)
		auth := func(file, pcap string, more ...string) []string {
			return append(sendArgs(f.smtp(), "--to", "ops@example.org", "--user", secretUser, "--password-file", file,
				"--trace", "-v", "--pcap", pcap), more...)
		}
		dir := t.TempDir()
		for _, mechanism := range []string{"auto", "plain", "login"} {
			pcap := dir + "/" + mechanism + ".pcapng"
			r := duotap(t, strings.NewReader("x"), auth(file, pcap, "--allow-plaintext-auth", "--auth", mechanism, "--json")...)
			if r.code != exitOK {
				t.Fatal(r.output())
			}
			var got jsonReport
			parseJSON(t, r, &got)
			if got.Receipt.Auth != "PLAIN" {
				t.Errorf("authenticated with %q, want PLAIN", got.Receipt.Auth)
			}
			if found := leaks(r.stdout + r.stderr); found != nil {
				t.Errorf("%q are in\n%s", found, r.output())
			}
			if !strings.Contains(r.stderr, "AUTH PLAIN") || !strings.Contains(r.stderr, "****") {
				t.Errorf("no masked AUTH in the trace\n%s", r.stderr)
			}
			if found := leaks(readFile(t, pcap)); found != nil {
				t.Errorf("%q are in the capture", found)
			}
		}

		pcap := dir + "/secrets.pcapng"
		if r := duotap(t, strings.NewReader("x"), auth(file, pcap, "--allow-plaintext-auth", "--pcap-secrets")...); r.code != exitOK {
			t.Fatal(r.output())
		}
		if leaks(readFile(t, pcap)) == nil {
			t.Error("--pcap-secrets captures no secrets, or this test doesn't see them")
		}

		r := duotap(t, strings.NewReader("x"), auth(wrong, dir+"/wrong.pcapng", "--allow-plaintext-auth")...)
		if r.code != exitPermission || !strings.Contains(r.stderr, "535") {
			t.Errorf("a wrong password: exit code %d\n%s", r.code, r.output())
		}
		if r := duotap(t, strings.NewReader("x"), auth(file, dir+"/clear.pcapng")...); r.code != exitConfig ||
			!strings.Contains(r.stderr, "in clear") || leaks(r.stdout+r.stderr+readFile(t, dir+"/clear.pcapng")) != nil {
			t.Errorf("without --allow-plaintext-auth: exit code %d\n%s", r.code, r.output())
		}
		if n := len(server.mails); n != 4 {
			t.Errorf("%d mails arrived, want 4", n)
		}
	})
}

func TestSendPasswordFile(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	server := serveMail(t, families[0].listen(t), &mailServer{user: secretUser, password: secretPassword})
	args := func(file string) []string {
		return sendArgs(families[0].smtp(), "--to", "ops@example.org", "--user", secretUser, "--allow-plaintext-auth", "--password-file", file)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o660} {
		file := writeTemp(t, "password", secretPassword+"\n", 0o600)
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		r := duotap(t, strings.NewReader("x"), args(file)...)
		r.mustFail(t, exitPermission, "can be read by others", "chmod 600")
	}
	duotap(t, strings.NewReader("x"), args("/nonexistent/password")...).mustFail(t, exitUsage, "/nonexistent/password")
	server.none(t)
	for _, content := range []string{secretPassword, secretPassword + "\r\n", secretPassword + "\nsecond line\n"} {
		server.mails = nil
		duotap(t, strings.NewReader("x"), args(writeTemp(t, "password", content, 0o400))...).mustSucceed(t)
		server.only(t)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The exit code of each way that a session can end, where no network is needed to tell.
func TestSendExitCode(t *testing.T) {
	temporary := &smtpclient.Error{Step: smtpclient.StepRcpt, Code: 450}
	permanent := &smtpclient.Error{Step: smtpclient.StepRcpt, Code: 550}
	reply := func(code int) *smtpclient.Reply { return &smtpclient.Reply{Code: code} }
	refused := func(temporary bool, code int) smtpclient.Recipient {
		return smtpclient.Recipient{Outcome: smtpclient.Refused, Temporary: temporary, Reply: reply(code)}
	}
	for _, c := range []struct {
		name  string
		err   error
		rcpts []smtpclient.Recipient
		want  int
	}{
		{"delivered", nil, []smtpclient.Recipient{{Outcome: smtpclient.Delivered}}, exitOK},
		{"permanent first, temporary second", permanent, []smtpclient.Recipient{refused(false, 550), refused(true, 450)}, exitTemporary},
		{"temporary first, permanent second", temporary, []smtpclient.Recipient{refused(true, 450), refused(false, 550)}, exitTemporary},
		{"permanent first, unknown second", permanent, []smtpclient.Recipient{refused(false, 550), {Outcome: smtpclient.Unknown}}, exitUnknown},
		{"temporary first, unknown second", temporary, []smtpclient.Recipient{refused(true, 450), {Outcome: smtpclient.Unknown}}, exitUnknown},
	} {
		if got := sendExitCode(&smtpclient.Receipt{Recipients: c.rcpts}, c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
		}
	}
}
