package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
)

// SMTP sends mail with package smtpclient, each message over a connection of its own,
// to a server on the peer that keeps nothing. The case "raw" is bulk TCP over the same link: what there was to be had.
type SMTP struct {
	// Size of a message in bytes, 1 to 1 TiB. Default: 256 MiB.
	Size int

	// Parallel is how many messages are sent at a time, 1 to 1,000. Default: 1.
	Parallel int

	// PoolPackets and PoolPayload are those of the pool that all of them share.
	// Default: 64 packets of 1,514 bytes.
	PoolPackets, PoolPayload int
}

// Name implements Scenario.
func (*SMTP) Name() string { return "smtp" }

func (s *SMTP) withDefaults() SMTP {
	d := *s
	for _, f := range []struct {
		field *int
		value int
	}{{&d.Size, 256 << 20}, {&d.Parallel, 1}, {&d.PoolPackets, 64}, {&d.PoolPayload, 1514}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return d
}

const rawCase = "raw"

// Cases implements Scenario.
func (s *SMTP) Cases(families []int) []Case {
	d := s.withDefaults()
	var cases []Case
	for _, f := range families {
		cases = append(cases, Case{Name: "mail", Family: f, Size: d.Size, Count: d.Parallel}, Case{Name: rawCase, Family: f, Count: 1})
	}
	return cases
}

// Runs implements Scenario.
func (*SMTP) Runs(Case, Link) bool { return true }

func (s *SMTP) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	d := s.withDefaults()
	var load interface{ stop() error }
	var err error
	if c.Name == rawCase {
		f := &flows{link: l, family: c.Family}
		err = f.start(ctx, Case{Name: "send", Count: 1})
		load = f
	} else {
		load, err = startMail(ctx, l, &d, c)
	}
	var m measured
	if err == nil {
		m, err = l.watch(ctx, w)
	}
	if load != nil {
		err = errors.Join(err, load.stop())
	}
	if err == nil {
		err = l.idle(ctx)
	}
	if err != nil {
		return nil, err
	}
	bytes := m.peer.perSecond(m.peer.Bytes)
	messages := m.peer.perSecond(m.peer.Packets)
	if c.Size > 1<<20 { // few end within the window
		messages = bytes / float64(c.Size)
	}
	return []Metric{
		{"rate", "MB/s", bytes / 1e6},
		{"messages", "/s", messages},
		{"CPU", "s/GiB", m.cpuPerGiB()},
		m.allocsPerFrame(),
		m.others(),
	}, nil
}

// mailers send one message after the other.
type mailers struct {
	end     context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	failure error
}

var errMeasured = errors.New("it was measured for long enough")

func startMail(ctx context.Context, l *testLink, s *SMTP, c Case) (*mailers, error) {
	if c.Size < 1 || c.Count < 1 || c.Count > 1000 {
		return nil, fmt.Errorf("messages of %d bytes, %d at a time; want at least 1, and 1 to 1000", c.Size, c.Count)
	}
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: s.PoolPackets, Payload: s.PoolPayload})
	if err != nil {
		return nil, err
	}
	client, err := smtpclient.New(smtpclient.Config{Dialer: l.host, Pool: pool, Domain: "bench.example",
		Server: netip.AddrPortFrom(l.remote(c.Family), smtpPort).String(), From: "bench@example.org"})
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	m := &mailers{end: func() { end(errMeasured) }}
	for range c.Count {
		m.running.Go(func() { m.send(ctx, client, int64(c.Size)) })
	}
	return m, nil
}

func (m *mailers) send(ctx context.Context, client *smtpclient.Client, size int64) {
	for {
		_, err := client.Send(ctx, smtpclient.Mail{To: []string{"sink@example.org"}, Subject: "bench", Body: &mailText{left: size}})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			m.mu.Lock()
			m.failure = errors.Join(m.failure, err)
			m.mu.Unlock()
			return
		}
	}
}

func (m *mailers) stop() error {
	m.end()
	m.running.Wait()
	return m.failure
}

// mailText is a text of lines with 76 characters, and a shorter one at the end.
type mailText struct{ left int64 }

var mailLines = []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 840)) // 64 KiB

func (t *mailText) Read(b []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	lines := mailLines[:min(int64(len(mailLines)), t.left)]
	if len(b) > len(lines) {
		b = b[:len(lines)]
	}
	if whole := len(b) - len(b)%78; whole > 0 {
		b = b[:whole]
	}
	n := copy(b, lines)
	t.left -= int64(n)
	return n, nil
}
