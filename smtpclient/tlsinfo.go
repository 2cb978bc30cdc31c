package smtpclient

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// How the server's certificate was verified.
const (
	VerifiedByChain       = "chain"       // issued by a trusted authority, for the name, and in time
	VerifiedByFingerprint = "fingerprint" // one of TLSConfig.Fingerprints
	NotVerified           = "no"          // TLSConfig.InsecureSkipVerify
)

// TLSInfo is what a handshake agreed on.
type TLSInfo struct {
	Version  string `json:"version"`  // "TLS 1.3"
	Cipher   string `json:"cipher"`   // "TLS_AES_128_GCM_SHA256"
	Name     string `json:"name"`     // that the certificate is for, if Verified says so
	Verified string `json:"verified"` // VerifiedByChain, VerifiedByFingerprint or NotVerified

	// Chain is the server's certificate first, and then those of the authorities, up
	// to the trusted one if it was verified; at most ten.
	Chain []CertificateInfo `json:"chain"`
}

// CertificateInfo is a certificate, in text fit to be shown.
type CertificateInfo struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names"` // that it is for, and IP addresses; at most ten
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"` // as TLSConfig.Fingerprints has it
}

const (
	keptCertificates = 10
	keptNames        = 10
	keptName         = 256 // bytes
)

func newTLSInfo(state tls.ConnectionState, cfg *tls.Config, pinned bool) *TLSInfo {
	info := &TLSInfo{
		Version:  tls.VersionName(state.Version),
		Cipher:   tls.CipherSuiteName(state.CipherSuite),
		Name:     cfg.ServerName,
		Verified: NotVerified,
		Chain:    []CertificateInfo{},
	}
	chain := state.PeerCertificates
	switch {
	case len(state.VerifiedChains) > 0:
		info.Verified, chain = VerifiedByChain, state.VerifiedChains[0]
	case pinned:
		info.Verified = VerifiedByFingerprint
	}
	for _, c := range chain[:min(len(chain), keptCertificates)] {
		info.Chain = append(info.Chain, newCertificateInfo(c))
	}
	return info
}

// newCertificateInfo keeps what the client shows of c, without what could deceive.
func newCertificateInfo(c *x509.Certificate) CertificateInfo {
	text := func(s string) string { return cut(printable(s), keptName) }
	info := CertificateInfo{
		Subject: text(c.Subject.String()), Issuer: text(c.Issuer.String()), Names: []string{},
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		SHA256: fingerprint(sha256.Sum256(c.Raw)).String(),
	}
	for _, name := range c.DNSNames[:min(len(c.DNSNames), keptNames)] {
		info.Names = append(info.Names, text(name))
	}
	for _, ip := range c.IPAddresses[:min(len(c.IPAddresses), keptNames-len(info.Names))] {
		info.Names = append(info.Names, ip.String())
	}
	return info
}

// names are the names in one word, or more.
func (c CertificateInfo) names() string {
	if len(c.Names) == 0 {
		return "no name"
	}
	return strings.Join(c.Names, ", ")
}

// String says in one line what was agreed on, and which certificates until when.
func (t *TLSInfo) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s with %s, ", t.Version, t.Cipher)
	switch t.Verified {
	case VerifiedByChain:
		fmt.Fprintf(&b, "certificate verified for %s", t.Name)
	case VerifiedByFingerprint:
		b.WriteString("certificate known by its fingerprint")
	default:
		b.WriteString("certificate NOT verified")
	}
	for i, c := range t.Chain {
		sep := ": "
		if i > 0 {
			sep = ", issued by "
		}
		fmt.Fprintf(&b, "%s%s (valid to %s)", sep, c.Subject, c.NotAfter.Format(time.DateOnly))
	}
	return b.String()
}
