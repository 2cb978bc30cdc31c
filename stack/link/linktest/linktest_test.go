package linktest_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// broken makes one defect in a device that is good otherwise.
type broken struct {
	link.Device
	send     func(dev link.Device, frames []link.Frame) (int, error)
	receive  func(dev link.Device, ring link.Ring, deliver func([]link.Frame)) error
	features func(link.Features) link.Features
	watch    func(dev link.Device, fn func(bool))
	close    func(dev link.Device) error
}

func (b *broken) Send(frames []link.Frame) (int, error) {
	if b.send != nil {
		return b.send(b.Device, frames)
	}
	return b.Device.Send(frames)
}

func (b *broken) Receive(ring link.Ring, deliver func([]link.Frame)) error {
	if b.receive != nil {
		return b.receive(b.Device, ring, deliver)
	}
	return b.Device.Receive(ring, deliver)
}

func (b *broken) Features() link.Features {
	if b.features != nil {
		return b.features(b.Device.Features())
	}
	return b.Device.Features()
}

func (b *broken) Watch(fn func(bool)) {
	if b.watch != nil {
		b.watch(b.Device, fn)
		return
	}
	b.Device.Watch(fn)
}

func (b *broken) Close() error {
	if b.close != nil {
		return b.close(b.Device)
	}
	return b.Device.Close()
}

// defects are named after the test of the suite that has to find them.
var defects = map[string]func() *broken{
	"Properties": func() *broken {
		return &broken{features: func(f link.Features) link.Features { f.Takes = link.TSO4; return f }}
	},
	"Lengths": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			if len(frames) == 1 && frames[0].Len() < 60 {
				return 0, link.ErrFrame
			}
			return dev.Send(frames)
		}}
	},
	"Pieces": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			for i := range frames {
				frames[i].Data = frames[i].Data[:min(len(frames[i].Data), 100)]
			}
			return dev.Send(frames)
		}}
	},
	"Order": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			if len(frames) > 50 {
				frames[1], frames[2] = frames[2], frames[1]
			}
			return dev.Send(frames)
		}}
	},
	"BadFrames": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			n, err := dev.Send(frames)
			if errors.Is(err, link.ErrFrame) {
				n = 0
			}
			return n, err
		}}
	},
	"Borrowed": func() *broken {
		var kept []link.Frame
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			if len(frames) == 1 && frames[0].Len() == 500 {
				kept = append(kept, slices.Clone(frames)...)
				if len(kept) == 50 {
					dev.Send(kept)
				}
				return len(frames), nil
			}
			return dev.Send(frames)
		}}
	},
	"Offloads": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			frames = slices.Clone(frames)
			for i := range frames {
				frames[i].Offload.SegmentSize /= 2
			}
			return dev.Send(frames)
		}}
	},
	"OffloadsNotTaken": func() *broken {
		return &broken{features: func(f link.Features) link.Features { f.Takes = 0; return f }}
	},
	"SendFromDeliver": func() *broken {
		busy := make(chan struct{}, 1)
		return &broken{
			send: func(dev link.Device, frames []link.Frame) (int, error) {
				busy <- struct{}{}
				defer func() { <-busy }()
				return dev.Send(frames)
			},
			receive: func(dev link.Device, ring link.Ring, deliver func([]link.Frame)) error {
				return dev.Receive(ring, func(frames []link.Frame) {
					busy <- struct{}{}
					defer func() { <-busy }()
					deliver(frames)
				})
			},
		}
	},
	"Close": func() *broken {
		return &broken{close: func(dev link.Device) error { dev.Close(); return nil }}
	},
	"CloseWhileSending": func() *broken {
		return &broken{send: func(dev link.Device, frames []link.Frame) (int, error) {
			n, err := dev.Send(frames)
			if err != nil && !errors.Is(err, link.ErrFrame) {
				select {} // doesn't come back
			}
			return n, err
		}}
	},
	"SecondReceive": func() *broken {
		return &broken{receive: func(dev link.Device, ring link.Ring, deliver func([]link.Frame)) error {
			err := dev.Receive(ring, deliver)
			if err != nil && !strings.Contains(err.Error(), "closed") {
				err = nil
			}
			return err
		}}
	},
	"Watch": func() *broken {
		return &broken{watch: func(link.Device, func(bool)) {}}
	},
	"NoGoroutineLeft": func() *broken {
		return &broken{close: func(dev link.Device) error {
			go func() { select {} }()
			return dev.Close()
		}}
	},
}

const defectVariable = "DUOTAP_TEST_DEFECT"

// TestSuiteFinds runs this test binary again for each defect, in which TestBroken has
// to fail.
func TestSuiteFinds(t *testing.T) {
	for defect := range defects {
		t.Run(defect, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$/^"+defect+"$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), defectVariable+"="+defect)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBroken/"+defect) {
				t.Errorf("the suite passes a device with a defect: %v\n%s", err, out)
			}
		})
	}
}

func TestBroken(t *testing.T) {
	defect := func() *broken { return new(broken) } // the wrapper itself is none
	if name := os.Getenv(defectVariable); name != "" {
		defect = defects[name]
		linktest.SetPatience(time.Second)
	}
	linktest.Run(t, func(*testing.T) (link.Device, link.Device) {
		a, b := memlink.Pair(1500)
		brokenA, brokenB := defect(), defect()
		brokenA.Device, brokenB.Device = a, b
		return brokenA, brokenB
	})
}
