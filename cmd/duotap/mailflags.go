package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
)

// serverFlags say which server, and how to authenticate.
type serverFlags struct {
	Server             string        `required:"" help:"The SMTP server: an address, or a name with --dns. Default port: 25, or 465 with --tls implicit." placeholder:"HOST:PORT"`
	TLS                string        `name:"tls" enum:"none,starttls,require-starttls,implicit" default:"starttls" help:"When to encrypt (${enum}); starttls: if the server offers it, then with a valid certificate only." placeholder:"MODE"`
	TLSCA              string        `name:"tls-ca" type:"existingfile" help:"Authorities to trust, in PEM, in place of the system's." placeholder:"FILE"`
	TLSName            string        `name:"tls-name" help:"Name that the certificate has to be for. Default: the server's." placeholder:"NAME"`
	TLSInsecure        bool          `name:"tls-insecure" help:"Accept every certificate; then everybody on the way can pose as the server."`
	Auth               string        `enum:"auto,none,plain,login,cram-md5,scram-sha-256,xoauth2,oauthbearer,external" default:"auto" help:"How to authenticate (${enum}); auto: if there are credentials and the server asks, with the strongest it offers that takes a password." placeholder:"MECHANISM"`
	User               string        `help:"User name."`
	PasswordFile       string        `type:"existingfile" help:"File with the password, or the token, in its first line." placeholder:"FILE"`
	AllowPlaintextAuth bool          `help:"Send the password or the token over a link without TLS, where everybody on the way can read it."`
	Helo               string        `help:"Our name in EHLO. Default: our address." placeholder:"NAME"`
	Timeout            time.Duration `help:"For the connect and for each reply. Default: as RFC 5321 §4.5.3.2 says for each."`
	Deadline           time.Duration `help:"For the whole. Default: none."`
	PoolPackets        int           `default:"16" help:"Packets in the client's pool, 1 or more." placeholder:"N"`
	PoolPayload        int           `default:"1514" help:"Bytes in each, headers included." placeholder:"BYTES"`
	Trace              bool          `help:"Print the dialogue to standard error, secrets masked."`
}

// client makes the SMTP client and its pool.
func (f *serverFlags) client(p *program, d smtpclient.Dialer, from string) (*smtpclient.Client, *packetpool.Pool, error) {
	cfg := smtpclient.Config{
		Dialer: d, Server: f.Server, Domain: f.Helo, From: from,
		Username: f.User, AllowPlaintextAuth: f.AllowPlaintextAuth, Logger: p.log,
	}
	if f.Timeout < 0 || f.Deadline < 0 {
		return nil, nil, usageError(errors.New("--timeout and --deadline can't be negative"))
	}
	if f.Timeout > 0 {
		cfg.Timeouts = smtpclient.Uniform(f.Timeout)
	}
	for a := smtpclient.AuthAuto; a <= smtpclient.AuthAnonymous; a++ {
		if a.String() == f.Auth {
			cfg.Auth = a
		}
	}
	if f.User != "" && f.PasswordFile == "" && cfg.Auth != smtpclient.AuthExternal && cfg.Auth != smtpclient.AuthAnonymous && cfg.Auth != smtpclient.AuthNone {
		return nil, nil, usageError(errors.New("--user has no password; name its file with --password-file"))
	}
	var err error
	if cfg.TLS, err = f.tls(); err != nil {
		return nil, nil, err
	}
	if f.Trace {
		cfg.Trace = smtpclient.TraceTo(p.stderr)
	}
	if cfg.Password, err = readPassword(f.PasswordFile); err != nil {
		return nil, nil, err
	}
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: f.PoolPackets, Payload: f.PoolPayload})
	if err != nil {
		return nil, nil, &exitError{code: exitConfig, err: err}
	}
	cfg.Pool = pool
	c, err := smtpclient.New(cfg)
	if err != nil {
		return nil, nil, &exitError{code: configExitCode(err), err: err}
	}
	return c, pool, nil
}

// tls is what the flags say about encryption.
func (f *serverFlags) tls() (smtpclient.TLSConfig, error) {
	cfg := smtpclient.TLSConfig{ServerName: f.TLSName, InsecureSkipVerify: f.TLSInsecure}
	for m := smtpclient.TLSStartTLS; m <= smtpclient.TLSImplicit; m++ {
		if m.String() == f.TLS {
			cfg.Mode = m
		}
	}
	switch {
	case cfg.Mode == smtpclient.TLSNone && (f.TLSCA != "" || f.TLSName != "" || f.TLSInsecure):
		return cfg, usageError(errors.New("--tls none has no use for --tls-ca, --tls-name and --tls-insecure; leave them out"))
	case f.TLSInsecure && (f.TLSCA != "" || f.TLSName != ""):
		return cfg, usageError(errors.New("--tls-insecure accepts every certificate, so --tls-ca and --tls-name have no use; leave one out"))
	case f.TLSCA == "":
		return cfg, nil
	}
	pem, err := os.ReadFile(f.TLSCA)
	if err != nil {
		return cfg, fmt.Errorf("--tls-ca: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return cfg, &exitError{code: exitConfig, err: fmt.Errorf("--tls-ca %s holds no certificate in PEM", f.TLSCA)}
	}
	return cfg, nil
}

// configExitCode tells an address that can't be sent to from a bad configuration.
func configExitCode(err error) int {
	if errors.Is(err, smtpclient.ErrAddress) {
		return exitData
	}
	return exitConfig
}

// readPassword returns the first line of a file that nobody else can read.
func readPassword(path string) (smtpclient.Secret, error) {
	if path == "" {
		return smtpclient.Secret{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return smtpclient.Secret{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return smtpclient.Secret{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return smtpclient.Secret{}, &exitError{code: exitPermission,
			err: fmt.Errorf("%s can be read by others (mode %v); chmod 600 it", path, info.Mode().Perm())}
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return smtpclient.Secret{}, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return smtpclient.NewSecret(string(bytes.TrimSuffix(line, []byte("\r")))), nil
}
