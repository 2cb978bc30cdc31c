package smtpclient_test

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// TestSession runs the dialogues in testdata/session. Each file is a dialogue as
// package smtptest has it, and then
//
//	-- config --   lines of "name value" for the client
//	-- mail --     and for the mail
//	-- body --     its text
//	-- want --     the outcomes; "error" with words that the error has to hold;
//	               "auth", "tls", "left-out" see checkWanted
//	-- message --  what the server has to have got, LF for CRLF
//
// All that is left out has a default, and nothing is checked of what isn't wanted.
func TestSession(t *testing.T) {
	files, err := filepath.Glob("testdata/session/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runSession(t, file) })
		})
	}
}

func runSession(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	dialogue, err := smtptest.Parse(string(archive.Comment))
	if err != nil {
		t.Fatal(err)
	}
	dialogue.TLS = testTLS()
	l := smtptest.Listen()
	server := smtptest.Serve(l, dialogue)
	cfg := testConfig(t, l)
	cfg.TLS.RootCAs = testCA().Roots()
	cfg.Trace = func(e smtpclient.TraceEvent) { t.Log(e) }
	eachLine(files["config"], func(name, value string) { configure(t, &cfg, name, value) })
	m := smtpclient.Mail{Raw: files["mail"] == "", Body: strings.NewReader(files["body"])}
	eachLine(files["mail"], func(name, value string) { compose(t, &m, name, value) })
	if m.To == nil {
		m.To = []string{"ops@example.net"}
	}
	receipt, err := send(t, newClient(t, cfg), t.Context(), m)
	messages, problem := server.Wait()
	if problem != nil {
		t.Error(problem)
	}
	checkWanted(t, files["want"], receipt, err)
	if want, ok := files["message"]; ok {
		if got := strings.ReplaceAll(string(messages[0]), "\r\n", "\n"); got != want {
			t.Errorf("the server got\n%s\nwant\n%s", got, want)
		}
	}
}

func eachLine(text string, f func(name, value string)) {
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		name, value, _ := strings.Cut(s.Text(), " ")
		f(name, value)
	}
}

func configure(t *testing.T, cfg *smtpclient.Config, name, value string) {
	switch name {
	case "auth":
		for a := smtpclient.AuthAuto; a <= smtpclient.AuthAnonymous; a++ {
			if a.String() == value {
				cfg.Auth = a
			}
		}
	case "floor":
		for a := smtpclient.AuthAuto; a <= smtpclient.AuthSCRAMSHA256; a++ {
			if a.String() == value {
				cfg.AuthFloor = a
			}
		}
	case "user":
		cfg.Username = value
	case "password":
		cfg.Password = smtpclient.NewSecret(value)
	case "allow-plaintext":
		cfg.AllowPlaintextAuth = true
	case "initial-response":
		cfg.AuthInitialResponse = true
	case "domain":
		cfg.Domain = value
	case "tls":
		cfg.TLS.Mode = tlsMode(t, value)
	case "tls-name":
		cfg.TLS.ServerName = value
	default:
		t.Fatalf("config: %q", name)
	}
}

func compose(t *testing.T, m *smtpclient.Mail, name, value string) {
	switch name {
	case "from":
		m.From = value
	case "to":
		m.To = append(m.To, value)
	case "subject":
		m.Subject = value
	case "priority":
		m.Priority = map[string]smtpclient.Priority{"low": -1, "normal": 0, "high": 1}[value]
	case "raw":
		m.Raw = true
	default:
		t.Fatalf("mail: %q", name)
	}
}

func checkWanted(t *testing.T, want string, r smtpclient.Receipt, err error) {
	t.Helper()
	var wantOutcomes []string
	wantError := ""
	eachLine(want, func(name, value string) {
		switch name {
		case "error":
			wantError = value
		case "auth":
			if r.Auth != value {
				t.Errorf("authenticated with %q, want %q", r.Auth, value)
			}
		case "tls":
			if got := fmt.Sprint(r.TLS); !strings.Contains(got, value) {
				t.Errorf("TLS %q, want %q", got, value)
			}
		case "left-out":
			if got := strings.Join(r.LeftOut, ", "); got != value {
				t.Errorf("left out: %q, want %q", got, value)
			}
		default:
			wantOutcomes = append(wantOutcomes, name+" "+value)
		}
	})
	if got := outcomes(r); got != strings.Join(wantOutcomes, "\n") {
		t.Errorf("outcomes\n%s\nwant\n%s", got, strings.Join(wantOutcomes, "\n"))
	}
	if (err == nil) != (wantError == "") || err != nil && !strings.Contains(err.Error(), wantError) {
		t.Errorf("error %v\nwant one with %q", err, wantError)
	}
}
