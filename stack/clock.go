package stack

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// tcpipClock is a Clock as gVisor wants it. Its monotonic time never shows the same
// value twice: RACK's loss detection breaks ties between segments of one instant the
// wrong way round, and would take most of a burst for lost.
type tcpipClock struct {
	Clock
	base time.Time
	last atomic.Int64 // nanoseconds since base
}

func newTCPIPClock(c Clock) *tcpipClock { return &tcpipClock{Clock: c, base: c.Now()} }

func (c *tcpipClock) NowMonotonic() tcpip.MonotonicTime {
	now := int64(c.Now().Sub(c.base))
	for {
		last := c.last.Load()
		next := max(now, last+1)
		if c.last.CompareAndSwap(last, next) {
			return tcpip.MonotonicTime{}.Add(time.Duration(next))
		}
	}
}

func (c *tcpipClock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return tcpipTimer{c.Clock.AfterFunc(d, f)}
}

type tcpipTimer struct{ Timer }

func (t tcpipTimer) Reset(d time.Duration) { t.Timer.Reset(d) }

// lockedReader makes an io.Reader safe for concurrent use.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return io.ReadFull(l.r, b)
}

// randSource is a math/rand Source over random bytes.
type randSource struct{ *lockedReader }

func (s randSource) Int63() int64 { return int64(s.Uint64() >> 1) }
func (s randSource) Seed(int64)   {}

func (s randSource) Uint64() uint64 {
	var b [8]byte
	if _, err := s.Read(b[:]); err != nil {
		panic("stack: Config.Rand ran dry: " + err.Error())
	}
	return binary.LittleEndian.Uint64(b[:])
}
