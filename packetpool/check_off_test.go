//go:build !poolcheck

package packetpool_test

import (
	"testing"

	"github.com/duotap/duotap/packetpool"
)

const poolcheck = false

func TestHeldNeedsPoolcheck(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
	k := allocate(t, p, 0)
	defer k.Release()
	if held := p.Held(); held != nil {
		t.Errorf("Held() = %v, want nil", held)
	}
}

// A program without checks must not lose packets to one that is no longer held.
func TestReleasedPacketDoesNotGrow(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 0)
	k.Release()
	if err := k.Append(pattern(25)); err == nil {
		t.Error("Append to a released packet succeeded")
	}
}
