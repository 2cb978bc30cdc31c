package stack

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// gVisor has one logger for the whole process, which writes to standard error and knows of
// no instance. What it notices, such as a duplicated SYN, can be provoked from outside; so
// it goes to the default logger of the program, for those who debug. Some of gVisor's
// packages hold the logger since their own initialization, so its target is exchanged and
// not the logger.
func init() { log.Log().Emitter = gvisorLog{} }

type gvisorLog struct{}

// Emit implements log.Emitter.
func (gvisorLog) Emit(_ int, _ log.Level, _ time.Time, format string, v ...any) {
	if l := slog.Default(); l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("gvisor: " + fmt.Sprintf(format, v...))
	}
}
