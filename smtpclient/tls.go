package smtpclient

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// TLSMode says when a connection is encrypted.
type TLSMode uint8

const (
	// TLSStartTLS encrypts with STARTTLS (RFC 3207) if the server offers it. If it
	// doesn't, or refuses, the mail goes in clear, which somebody on the way can bring
	// about; credentials don't (Config.AllowPlaintextAuth). Once the server has agreed,
	// every failure is an error: there is no way back to clear text.
	TLSStartTLS TLSMode = iota

	// TLSNone never encrypts.
	TLSNone

	// TLSRequireStartTLS encrypts with STARTTLS, or fails with ErrNoTLS. Nothing but
	// EHLO, STARTTLS and QUIT is sent in clear.
	TLSRequireStartTLS

	// TLSImplicit speaks TLS from the first byte (RFC 8314 §3.3), usually on port 465.
	TLSImplicit
)

// String returns the name that the program's flag has.
func (m TLSMode) String() string {
	switch m {
	case TLSStartTLS:
		return "starttls"
	case TLSNone:
		return "none"
	case TLSRequireStartTLS:
		return "require-starttls"
	case TLSImplicit:
		return "implicit"
	}
	return fmt.Sprintf("TLSMode(%d)", uint8(m))
}

// TLSConfig says whether to encrypt, and whom to trust. A connection of the Dialer that
// is a *tls.Conn counts as encrypted already, and nothing of this applies to it.
type TLSConfig struct {
	// Mode says when to encrypt. Default: TLSStartTLS.
	Mode TLSMode

	// RootCAs are the authorities that are trusted. Default: the system's.
	RootCAs *x509.CertPool

	// ServerName is the name or the IP address that the certificate has to be for.
	// Default: the host of Config.Server.
	ServerName string

	// Fingerprints are SHA-256 sums of certificates, in hexadecimal digits with or
	// without colons, as "openssl x509 -fingerprint -sha256" prints them. If there are
	// any, the server's own certificate has to be one of these, and that is all that is
	// asked of it: neither who issued it, nor for what name and time. A server that
	// renews its certificate needs its new fingerprint here before.
	Fingerprints []string

	// Certificate is shown to a server that asks for one. Default: none.
	Certificate *tls.Certificate

	// MinVersion is the lowest version to accept, tls.VersionTLS10 to
	// tls.VersionTLS13. Default: tls.VersionTLS12, as RFC 8996 demands.
	MinVersion uint16

	// InsecureSkipVerify accepts every certificate. Then everybody on the way can pose
	// as the server, and is given mail and credentials.
	InsecureSkipVerify bool
}

// validate returns everything that is wrong with t.
func (t *TLSConfig) validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("smtpclient: Config.TLS."+format, args...))
	}
	if t.Mode > TLSImplicit {
		fail("Mode: %v is none of TLSStartTLS, TLSNone, TLSRequireStartTLS, TLSImplicit", t.Mode)
	}
	if _, err := netip.ParseAddr(t.ServerName); err != nil && t.ServerName != "" {
		if err := checkHelloName(t.ServerName); err != nil || strings.HasPrefix(t.ServerName, "[") {
			fail("ServerName: %q is neither a name nor an IP address", cut(t.ServerName, maxDomain))
		}
	}
	for _, s := range t.Fingerprints {
		if _, err := parseFingerprint(s); err != nil {
			fail("Fingerprints: %w", err)
		}
	}
	if t.MinVersion != 0 && (t.MinVersion < tls.VersionTLS10 || t.MinVersion > tls.VersionTLS13) {
		fail("MinVersion: %#x is none of tls.VersionTLS10 to tls.VersionTLS13", t.MinVersion)
	}
	if t.InsecureSkipVerify && (t.RootCAs != nil || len(t.Fingerprints) > 0) {
		fail("InsecureSkipVerify accepts every certificate, so RootCAs and Fingerprints have no use; leave one out")
	}
	return errors.Join(errs...)
}

// fingerprint is the SHA-256 sum of a certificate.
type fingerprint [sha256.Size]byte

func parseFingerprint(s string) (fingerprint, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != sha256.Size {
		return fingerprint{}, fmt.Errorf("%q isn't a SHA-256 sum, which has %d hexadecimal digits", cut(s, 128), 2*sha256.Size)
	}
	return fingerprint(b), nil
}

// String returns f as OpenSSL prints it.
func (f fingerprint) String() string {
	return strings.ReplaceAll(fmt.Sprintf("% X", f[:]), " ", ":")
}

// forServer makes what crypto/tls needs from a valid t.
func (t *TLSConfig) forServer(s server, now func() time.Time) *tls.Config {
	c := &tls.Config{
		RootCAs:            t.RootCAs,
		ServerName:         t.ServerName,
		MinVersion:         max(t.MinVersion, tls.VersionTLS10),
		InsecureSkipVerify: t.InsecureSkipVerify,
		Time:               now,
		// The packets of a chain go as few large records, and so as few writes.
		DynamicRecordSizingDisabled: true,
	}
	if t.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.ServerName == "" {
		c.ServerName, _, _ = strings.Cut(strings.TrimSuffix(s.host, "."), "%")
	}
	if t.Certificate != nil {
		c.Certificates = []tls.Certificate{*t.Certificate}
	}
	if len(t.Fingerprints) > 0 {
		c.InsecureSkipVerify = true // VerifyConnection does it
		c.VerifyConnection = t.verifyFingerprint
	}
	return c
}

// verifyFingerprint accepts the certificates of Fingerprints.
func (t *TLSConfig) verifyFingerprint(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0]
	got := fingerprint(sha256.Sum256(leaf.Raw))
	for _, s := range t.Fingerprints {
		if want, err := parseFingerprint(s); err == nil && want == got {
			return nil
		}
	}
	return &certificateError{text: describeCertificate(leaf) + ": its fingerprint is none of Config.TLS.Fingerprints"}
}

// implicitTLS encrypts a connection from its first byte on.
func (s *session) implicitTLS() error {
	if s.cfg.TLS.Mode != TLSImplicit || isEncrypted(s.wire.conn) {
		return nil
	}
	return s.handshake()
}

// startTLS encrypts a connection if the server offers that (RFC 3207), and introduces
// the client again: what the server said in clear doesn't count any more.
func (s *session) startTLS() error {
	required := s.cfg.TLS.Mode == TLSRequireStartTLS
	if !required && s.cfg.TLS.Mode != TLSStartTLS || isEncrypted(s.wire.conn) {
		return nil
	}
	if !s.ext.has("STARTTLS") {
		if required {
			return s.fail(StepTLS, ErrNoTLS)
		}
		return nil
	}
	r, err := s.say(StepTLS, s.cfg.Timeouts.TLS, "STARTTLS")
	if err != nil {
		return err
	}
	if r.code/100 >= 4 && r.code != 421 && !required && !s.broken {
		s.leaveOut("STARTTLS", fmt.Sprintf("the server offers it and refuses it with %d", r.code))
		return nil
	}
	if err := s.expect(StepTLS, r, 220); err != nil {
		return err
	}
	if err := s.expectSilence(); err != nil {
		return err
	}
	if err := s.handshake(); err != nil {
		return err
	}
	return s.hello()
}

// expectSilence refuses what the server, or somebody on the way, said behind the reply
// to STARTTLS: it isn't encrypted, and would be taken for something that is.
func (s *session) expectSilence() error {
	in := &s.wire.in
	if in.buffered() == 0 {
		if _, err := s.wire.poll(); err != nil {
			return s.failBroken(StepTLS, in.brokenOff(err, rawReply{}))
		}
	}
	if in.buffered() == 0 {
		return nil // what comes later doesn't get past recordGuard
	}
	return s.failBroken(StepTLS, plaintextError(in.buf[in.start:in.end]))
}

func plaintextError(b []byte) error {
	return fmt.Errorf("%w: %q (%w)", ErrPlaintextAfterSTARTTLS, cut(printable(string(b)), 80), ErrUnexpectedReply)
}

// handshake encrypts the connection.
func (s *session) handshake() error {
	begin := time.Now()
	defer func() { s.receipt.took(StepTLS, time.Since(begin)) }()
	if err := s.wire.begin(s.cfg.Timeouts.TLS); err != nil {
		return s.failBroken(StepTLS, err)
	}
	guard := &recordGuard{Conn: s.wire.conn}
	conn := tls.Client(guard, s.client.tls)
	if err := conn.Handshake(); err != nil {
		return s.failBroken(StepTLS, s.explainTLS(err, guard))
	}
	s.wire.upgrade(conn)
	s.receipt.TLS = newTLSInfo(conn.ConnectionState(), s.client.tls, len(s.cfg.TLS.Fingerprints) > 0)
	s.trace('*', s.receipt.TLS.String())
	return nil
}

// explainTLS says what a handshake that failed was about.
func (s *session) explainTLS(err error, guard *recordGuard) error {
	switch verification, ok := errors.AsType[*tls.CertificateVerificationError](err); {
	case guard.plain != nil && s.cfg.TLS.Mode == TLSImplicit:
		return fmt.Errorf("%w: it says %q (%w)", ErrNotTLS, cut(printable(string(guard.plain)), 80), ErrUnexpectedReply)
	case guard.plain != nil:
		return plaintextError(guard.plain)
	case ok:
		return explainCertificate(verification, s.client.tls.ServerName, s.cfg.Now())
	}
	return s.wire.explain(err)
}

// isTLSRecord reports whether b can be the first byte from a TLS server: that of a
// handshake record or of an alert.
func isTLSRecord(b byte) bool { return b == 0x16 || b == 0x15 }

// recordGuard is a connection that fails at once if what comes first isn't TLS. Package
// tls would wait for five bytes, and not say what they were.
type recordGuard struct {
	net.Conn
	looked bool
	plain  []byte // what came instead of TLS
}

func (g *recordGuard) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if g.looked || n == 0 {
		return n, err
	}
	g.looked = true
	if !isTLSRecord(b[0]) {
		g.plain = slices.Clone(b[:n])
		return 0, ErrNotTLS
	}
	return n, err
}

// certificateError is why a certificate isn't trusted, in words fit to be shown.
type certificateError struct {
	text  string
	cause error // may be nil
}

func (e *certificateError) Error() string { return ErrCertificate.Error() + ": " + e.text }

// Unwrap returns ErrCertificate and the cause.
func (e *certificateError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrCertificate}
	}
	return []error{ErrCertificate, e.cause}
}

// explainCertificate says which certificate was refused, and why.
func explainCertificate(v *tls.CertificateVerificationError, name string, now time.Time) error {
	cert, why := v.UnverifiedCertificates[0], printable(cut(v.Err.Error(), keptText))
	switch invalid, ok := errors.AsType[x509.CertificateInvalidError](v.Err); {
	case ok && invalid.Reason == x509.Expired:
		cert = invalid.Cert
		why = validity(cert, now)
	case ok:
		cert = invalid.Cert
	case isType[x509.HostnameError](v.Err):
		why = fmt.Sprintf("it isn't for %q; check the server's name, or set Config.TLS.ServerName to the one that is meant", name)
	case isType[x509.UnknownAuthorityError](v.Err):
		why = "no trusted authority has issued it; trust the one that has, if whoever runs the server confirms the fingerprint " +
			fingerprint(sha256.Sum256(cert.Raw)).String()
	}
	return &certificateError{text: describeCertificate(cert) + ": " + why, cause: v}
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// validity says why a certificate isn't valid at a time.
func validity(c *x509.Certificate, now time.Time) string {
	const minutes = "2006-01-02 15:04 MST"
	at := now.UTC().Format(minutes)
	if now.Before(c.NotBefore) {
		return fmt.Sprintf("it is valid from %s on, and the clock says %s", c.NotBefore.UTC().Format(minutes), at)
	}
	return fmt.Sprintf("it expired on %s, and the clock says %s; the server needs a new one", c.NotAfter.UTC().Format(minutes), at)
}

// describeCertificate names c by its subject, names and dates.
func describeCertificate(c *x509.Certificate) string {
	info := newCertificateInfo(c)
	return fmt.Sprintf("certificate %q for %s, issued by %q, valid from %s to %s", info.Subject, info.names(), info.Issuer,
		info.NotBefore.Format(time.DateOnly), info.NotAfter.Format(time.DateOnly))
}
