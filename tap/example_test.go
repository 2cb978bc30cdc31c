//go:build linux

package tap_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"syscall"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/tap"
)

// A device prints what the host sends on tap0. As root or in a network namespace of
// its own; root can also make an interface for a user beforehand, with Create.
func Example() {
	dev, err := tap.Open(tap.Config{Name: "tap0", Offload: true, Up: true})
	switch {
	case errors.Is(err, fs.ErrPermission):
		log.Fatal("ask root for a TAP: ", err)
	case errors.Is(err, syscall.EBUSY):
		log.Fatal("is there another one running? ", err)
	case err != nil:
		log.Fatal(err)
	}
	defer dev.Close()

	// Room for two frames of the largest size.
	size := link.FrameSize(dev.MTU(), dev.Features().Gives)
	ring := link.Ring{{make([]byte, size)}, {make([]byte, size)}}
	err = dev.Receive(ring, func(frames []link.Frame) {
		for i := range frames {
			fmt.Println(frames[i].Len(), "bytes")
		}
	})
	if !errors.Is(err, net.ErrClosed) {
		log.Fatal(err)
	}
}
