package smtpclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// Dialer makes the connection to the server. A stack.Instance is one, and so is a
// net.Dialer.
//
// If it also has a method TCPEnabled() bool, New asks that, and fails if the answer is
// no.
//
// If a connection also has a method SendPacket(*packetpool.Packet) error, which takes
// ownership of the packet if and only if it returns nil, all data goes that way;
// otherwise it is copied by Write.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Auth says whether and how to authenticate.
type Auth uint8

const (
	// AuthAuto authenticates if there are credentials and the server offers AUTH: with
	// the strongest that it offers of SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS,
	// SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN and LOGIN, else with PLAIN; but with
	// none weaker than Config.AuthFloor.
	AuthAuto Auth = iota

	// AuthNone never authenticates.
	AuthNone

	// AuthPlain authenticates with PLAIN (RFC 4616), or with LOGIN if the server
	// offers that and not PLAIN, even if the server doesn't mention AUTH.
	AuthPlain

	// AuthLogin authenticates with LOGIN if it is offered, and otherwise with PLAIN,
	// even if the server doesn't mention AUTH.
	AuthLogin

	// AuthCRAMMD5 authenticates with CRAM-MD5 (RFC 2195), or fails with
	// ErrNoMechanism; so do those that follow.
	AuthCRAMMD5

	// AuthSCRAMSHA1 authenticates with SCRAM-SHA-1-PLUS (RFC 5802), which is tied to
	// the connection's TLS, or if that isn't offered, with SCRAM-SHA-1.
	AuthSCRAMSHA1

	// AuthSCRAMSHA256 authenticates with SCRAM-SHA-256-PLUS (RFC 7677), or if that
	// isn't offered, with SCRAM-SHA-256.
	AuthSCRAMSHA256

	// AuthXOAUTH2 authenticates with XOAUTH2, which has no RFC; Password is the token.
	AuthXOAUTH2

	// AuthOAUTHBEARER authenticates with OAUTHBEARER (RFC 7628); Password is the token.
	AuthOAUTHBEARER

	// AuthExternal leaves it to something else, as TLSConfig.Certificate, to say who
	// the client is (RFC 4422 Appendix A). Username, if any, is whom it acts for.
	AuthExternal

	// AuthAnonymous says Username, if any, and proves nothing (RFC 4505).
	AuthAnonymous
)

// authNames are the names that the program's flag has.
var authNames = [...]string{"auto", "none", "plain", "login", "cram-md5", "scram-sha-1", "scram-sha-256",
	"xoauth2", "oauthbearer", "external", "anonymous"}

// String returns the name that the program's flag has.
func (a Auth) String() string {
	if int(a) < len(authNames) {
		return authNames[a]
	}
	return fmt.Sprintf("Auth(%d)", uint8(a))
}

// Timeouts limits each part of a session. A field that is zero has the default, which
// is what RFC 5321 §4.5.3.2 demands where it says something. None can be negative. To
// limit the whole, use the context of Send.
type Timeouts struct {
	Connect   time.Duration // name, addresses, TCP handshake. Default: 30 s
	Greeting  time.Duration // from the connection to the 220. Default: 5 min
	Hello     time.Duration // EHLO or HELO and its reply. Default: 5 min
	TLS       time.Duration // STARTTLS and its reply; and the handshake. Default: 2 min
	Auth      time.Duration // each line of the exchange and its reply. Default: 5 min
	Mail      time.Duration // MAIL and its reply. Default: 5 min
	Rcpt      time.Duration // each RCPT and its reply. Default: 5 min
	Data      time.Duration // DATA and its reply. Default: 2 min
	DataBlock time.Duration // each block of the message, up to 64 KiB. Default: 3 min
	FinalDot  time.Duration // from the end of the message to its reply. Default: 10 min
	Quit      time.Duration // QUIT and its reply, which nothing depends on. Default: 5 s
}

// Uniform is Timeouts with d for every part, but no more than the default for Quit.
func Uniform(d time.Duration) Timeouts {
	return Timeouts{d, d, d, d, d, d, d, d, d, d, min(d, defaultTimeouts.Quit)}
}

var defaultTimeouts = Timeouts{
	Connect:   30 * time.Second,
	Greeting:  5 * time.Minute,
	Hello:     5 * time.Minute,
	TLS:       2 * time.Minute,
	Auth:      5 * time.Minute,
	Mail:      5 * time.Minute,
	Rcpt:      5 * time.Minute,
	Data:      2 * time.Minute,
	DataBlock: 3 * time.Minute,
	FinalDot:  10 * time.Minute,
	Quit:      5 * time.Second,
}

// fields returns pointers to all of t, in the order of the struct.
func (t *Timeouts) fields() [11]*time.Duration {
	return [...]*time.Duration{&t.Connect, &t.Greeting, &t.Hello, &t.TLS, &t.Auth,
		&t.Mail, &t.Rcpt, &t.Data, &t.DataBlock, &t.FinalDot, &t.Quit}
}

const (
	defaultPort          = "25"
	defaultPortTLS       = "465" // RFC 8314 §3.3
	defaultPacketTimeout = 2 * time.Second
	maxCredential        = 4096 // so that the answer stays below RFC 4954's 12,288
)

// Config describes a client.
type Config struct {
	// Dialer makes the connections. Required.
	Dialer Dialer

	// Pool is where the memory for everything that is sent comes from. Its payload
	// has to hold the headers of the server's address family (unknown, for a name,
	// counts as IPv6) and a byte of data: 95 bytes, or 115. One packet is enough; with
	// more the client sends larger pieces at once. Required.
	Pool *packetpool.Pool

	// Server is "host:port" or "host", where the host is a name or an IP address.
	// Default port: 25, or 465 with TLSImplicit. Required.
	Server string

	// Domain is the name by which the client introduces itself: its host name, fully
	// qualified, or an address literal such as "[192.0.2.1]". Default: the literal of
	// the connection's local address.
	Domain string

	// From is the sender of each Mail that names none. "<>" is the null reverse-path
	// of RFC 5321 §4.5.5; empty means that there is no default sender.
	From string

	// TLS says whether to encrypt, and whom to trust. Default: if the server offers
	// it, and then only with a certificate that holds.
	TLS TLSConfig

	// Auth says whether and how to authenticate, with Username and Password. Default:
	// AuthAuto.
	Auth     Auth
	Username string // up to 4,096 bytes
	Password Secret // up to 4,096 bytes; also a token

	// AuthFloor is the weakest mechanism that AuthAuto may use: AuthPlain and
	// AuthLogin (both any), AuthCRAMMD5, AuthSCRAMSHA1 or AuthSCRAMSHA256. Default: any.
	AuthFloor Auth

	// AllowPlaintextAuth permits sending the credentials over a link without TLS,
	// where everybody on the way can read them, or with CRAM-MD5 guess them. Over TLS they
	// are always permitted. SCRAM doesn't show them, and needs no permission.
	AllowPlaintextAuth bool

	// AuthInitialResponse sends the first answer with the AUTH command (RFC 4954 §4),
	// if the mechanism begins with the client and the line isn't too long, which saves
	// a round trip.
	AuthInitialResponse bool

	// Timeouts limits each part of a session. Default: as RFC 5321 §4.5.3.2.
	Timeouts Timeouts

	// PacketTimeout limits each wait for a packet of Pool. Default: 2 s.
	PacketTimeout time.Duration

	// Logger gets a record for each mail, and with debug level for each reply.
	// Default: discard.
	Logger *slog.Logger

	// Trace is called with each line of the dialogue, without secrets and without the
	// message, from the goroutine that called Send. Default: nobody.
	Trace func(TraceEvent)

	// Now and Rand are for the Date and Message-ID fields, and Now for the dates of
	// certificates. Defaults: time.Now and crypto/rand.Reader. They are called by
	// concurrent Sends.
	Now  func() time.Time
	Rand io.Reader
}

// validate returns everything that is wrong with c.
func (c *Config) validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("smtpclient: Config."+format, args...))
	}
	if c.Dialer == nil {
		fail("Dialer is required")
	} else if d, ok := c.Dialer.(interface{ TCPEnabled() bool }); ok && !d.TCPEnabled() {
		fail("Dialer: %w; enable it before creating the client", ErrTCPNotEnabled)
	}
	server, err := c.server()
	if err != nil {
		fail("Server: %w", err)
	}
	if c.Pool == nil {
		fail("Pool is required")
	} else if need := server.headroom() + 1; err == nil && c.Pool.Payload() < need {
		fail("Pool: %w: the payload of pool %q is %d bytes, the headers to %s and one byte of data need %d",
			packetpool.ErrHeadroom, c.Pool.Name(), c.Pool.Payload(), server.address(), need)
	}
	if c.Domain != "" {
		if err := checkHelloName(c.Domain); err != nil {
			fail("Domain: %w", err)
		}
	}
	if c.From != "" {
		if _, err := parseSender(c.From); err != nil {
			fail("From: %w", err)
		}
	}
	errs = append(errs, c.TLS.validate(), c.validateAuth(), c.validateTimes())
	return errors.Join(errs...)
}

func (c *Config) validateAuth() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("smtpclient: Config."+format, args...))
	}
	if c.Auth > AuthAnonymous {
		fail("Auth: %v is none of AuthAuto to AuthAnonymous", c.Auth)
	}
	if c.AuthFloor == AuthNone || c.AuthFloor > AuthSCRAMSHA256 {
		fail("AuthFloor: %v is none of AuthPlain to AuthSCRAMSHA256", c.AuthFloor)
	}
	if c.AuthFloor != AuthAuto && c.Auth != AuthAuto {
		fail("AuthFloor is for AuthAuto, and Auth is %v; leave one out", c.Auth)
	}
	if c.Auth >= AuthPlain && c.Auth <= AuthXOAUTH2 && c.Username == "" {
		fail("Username is required with %v", c.Auth)
	}
	if c.Username == "" && !c.Password.IsZero() && c.Auth != AuthOAUTHBEARER {
		fail("Username is required with a Password")
	}
	for name, s := range map[string]string{"Username": c.Username, "Password": c.Password.reveal()} {
		if strings.ContainsAny(s, "\x00\x01") {
			fail("%s holds a NUL or U+0001, which AUTH can't carry", name)
		}
		if len(s) > maxCredential {
			fail("%s has %d bytes, %d are allowed", name, len(s), maxCredential)
		}
	}
	return errors.Join(errs...)
}

func (c *Config) validateTimes() error {
	for _, d := range c.Timeouts.fields() {
		if *d < 0 {
			return fmt.Errorf("smtpclient: Config.Timeouts holds %v; 0 means the default", *d)
		}
	}
	if c.PacketTimeout < 0 {
		return fmt.Errorf("smtpclient: Config.PacketTimeout is %v; 0 means the default", c.PacketTimeout)
	}
	return nil
}

// setDefaults replaces the zero values of a valid c.
func (c *Config) setDefaults() {
	for i, d := range c.Timeouts.fields() {
		if *d == 0 {
			*d = *defaultTimeouts.fields()[i]
		}
	}
	if c.PacketTimeout == 0 {
		c.PacketTimeout = defaultPacketTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Trace == nil {
		c.Trace = func(TraceEvent) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
}

// checkHelloName accepts what EHLO takes for a name.
func checkHelloName(s string) error {
	err := checkASCII(s)
	if err == nil {
		err = checkDomain(s)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAddress, err)
	}
	return nil
}

// server is Config.Server, taken apart.
type server struct {
	host, port string
}

// server takes Server apart.
func (c *Config) server() (server, error) {
	if c.TLS.Mode == TLSImplicit {
		return parseServer(c.Server, defaultPortTLS)
	}
	return parseServer(c.Server, defaultPort)
}

func parseServer(s, defaultPort string) (server, error) {
	if s == "" {
		return server{}, errors.New(`it is required, as "host:port"`)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port, or an IPv6 address without brackets
		host, port = s, defaultPort
		if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			host = s[1 : len(s)-1]
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return server{}, fmt.Errorf("%q: the port has to be a number from 1 to 65535", cut(s, maxDomain))
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return server{host, port}, nil
	}
	if err := checkHelloName(strings.TrimSuffix(host, ".")); err != nil || strings.HasPrefix(host, "[") {
		return server{}, fmt.Errorf("%q: its host is neither a name nor an IP address", cut(s, maxDomain))
	}
	return server{host, port}, nil
}

func (s server) address() string { return net.JoinHostPort(s.host, s.port) }

// headroom is what a packet to s needs in front of its data, in bytes.
func (s server) headroom() int {
	if ip, err := netip.ParseAddr(s.host); err == nil && ip.Is4() {
		return packetpool.HeadroomTCP4
	}
	return packetpool.HeadroomTCP6
}
