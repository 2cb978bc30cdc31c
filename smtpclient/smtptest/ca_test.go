package smtptest

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

func TestCA(t *testing.T) {
	ca := NewCA("Test CA")
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.PEM()) || !pool.Equal(ca.Roots()) {
		t.Error("PEM and Roots differ")
	}
	until := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	c := ca.IssueFor(until.AddDate(0, -1, 0), until, "mx.example", "2001:db8::1")
	for _, name := range []string{"mx.example", "2001:db8::1"} {
		if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: until.Add(-time.Hour)}); err != nil {
			t.Error(err)
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: until.Add(time.Hour)}); err == nil {
			t.Error("it doesn't expire")
		}
	}
}

// TestDialogueTLS: both ways that a handshake can be told to end, against a client
// that does the other.
func TestDialogueTLS(t *testing.T) {
	ca := NewCA("Test CA")
	for _, tt := range []struct {
		script string
		trust  bool
		ok     bool
	}{
		{"! tls\nS: hello", true, true},
		{"! tls\nS: hello", false, false},
		{"! tls refused", false, true},
		{"! tls refused", true, false},
	} {
		d := MustParse(tt.script)
		d.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue("mx.example")}}
		client, server := Pipe()
		cfg := &tls.Config{ServerName: "mx.example", RootCAs: NewCA("another").Roots()}
		if tt.trust {
			cfg.RootCAs = ca.Roots()
		}
		go func() {
			conn := tls.Client(client, cfg)
			if conn.Handshake() == nil {
				_, _ = conn.Write([]byte("hello"))
				_, _ = conn.Read(make([]byte, 10))
			}
			_ = conn.Close()
		}()
		if _, err := d.Run(server); (err == nil) != tt.ok {
			t.Errorf("%q, trusted %v: %v", tt.script, tt.trust, err)
		}
	}
	client, server := Pipe()
	defer client.Close()
	if _, err := MustParse("! tls").Run(server); err == nil {
		t.Error("a handshake without Dialogue.TLS")
	}
}
