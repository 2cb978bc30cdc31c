package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// traffic counts what one end has received and sent.
type traffic struct {
	bytes, packets, sent atomic.Int64
	active               atomic.Int64 // connections being served
}

// Sample is what an end has counted until a moment.
type sample struct {
	Clock   time.Duration // monotonic, the same for all processes of the machine
	Bytes   int64         // received
	Packets int64         // received
	Sent    int64         // packets
	Active  int64
	CPU     time.Duration // of the process
	Busy    time.Duration // of all of the machine's processors
}

func (t *traffic) sample() (sample, error) {
	s := sample{Bytes: t.bytes.Load(), Packets: t.packets.Load(), Sent: t.sent.Load(), Active: t.active.Load()}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return s, fmt.Errorf("reading the clock: %w", err)
	}
	s.Clock = time.Duration(now.Nano())
	var err error
	if s.CPU, err = cpuTime(); err != nil {
		return s, err
	}
	s.Busy, err = busyTime()
	return s, err
}

// busyTime is how long processors have run programs, this one and others. What
// interrupts take is left out: it isn't in any program's time.
func busyTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("reading the processors' time: %w", err)
	}
	return parseBusy(string(b))
}

// parseBusy finds the time of user, nice, system and steal in /proc/stat, which counts
// hundredths of a second.
func parseBusy(stat string) (time.Duration, error) {
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	if _, err := fmt.Sscanf(stat, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return 0, fmt.Errorf("reading the processors' time: %w", err)
	}
	return time.Duration(user+nice+system+steal) * 10 * time.Millisecond, nil
}

// cpuTime is what this process has used, in user space and kernel.
func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading the CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// since is what has come since an earlier sample.
func (s sample) since(from sample) sample {
	return sample{Clock: s.Clock - from.Clock, Bytes: s.Bytes - from.Bytes, Packets: s.Packets - from.Packets,
		Sent: s.Sent - from.Sent, CPU: s.CPU - from.CPU, Busy: s.Busy - from.Busy}
}

// perSecond of a count within the sample's time.
func (s sample) perSecond(n int64) float64 { return float64(n) / s.Clock.Seconds() }

// machine describes this one.
func machine() Machine {
	m := Machine{CPU: "unknown", Kernel: "unknown", Go: runtime.Version(), Processors: runtime.GOMAXPROCS(0)}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = processor(string(b))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = string(bytes.TrimRight(u.Release[:], "\x00"))
	}
	return m
}

// processor finds the model's name in /proc/cpuinfo.
func processor(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// processors is how many the machine has, however few of them we may use.
var processors = sync.OnceValue(func() int {
	b, err := os.ReadFile("/proc/cpuinfo")
	if n := bytes.Count(b, []byte("\nprocessor")); err == nil && n > 0 || bytes.HasPrefix(b, []byte("processor")) {
		return n + 1
	}
	return runtime.NumCPU()
})
