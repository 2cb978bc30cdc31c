package smtpclient

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// TraceEvent is one line of a session's dialogue. It holds no secrets: an answer in an
// AUTH exchange is "****".
type TraceEvent struct {
	Elapsed time.Duration // since Send was called
	From    rune          // 'C' the client, 'S' the server, '*' a remark
	Line    string        // without CRLF, printable
}

// String returns the event as TraceTo writes it.
func (e TraceEvent) String() string {
	return fmt.Sprintf("%9.3f %c: %s", e.Elapsed.Seconds(), e.From, e.Line)
}

// TraceTo returns a Config.Trace that writes each event to w as a line. The lines of
// concurrent Sends don't mix, but their sessions do. Errors of w are ignored.
func TraceTo(w io.Writer) func(TraceEvent) {
	var mu sync.Mutex
	return func(e TraceEvent) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(w, e)
	}
}
