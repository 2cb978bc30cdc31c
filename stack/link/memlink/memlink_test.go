package memlink_test

import (
	"testing"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

func TestPairConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) { return memlink.Pair(1500) })
}

func TestPlainConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) {
		a, b, err := memlink.New(memlink.Config{MTU: 9000})
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	})
}

func TestSwitchConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) {
		s := memlink.NewSwitch(1500)
		return s.Port(), s.Port()
	})
}
