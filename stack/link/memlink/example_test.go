package memlink_test

import (
	"fmt"
	"net/netip"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Two devices joined by a cable, and a frame from one to the other.
func Example() {
	a, b := memlink.Pair(1500)
	defer a.Close()

	b.Watch(func(up bool) { fmt.Println("up:", up) })
	ended, arrived := make(chan error), make(chan int)
	go func() {
		ended <- b.Receive(nil, func(frames []link.Frame) { arrived <- len(frames) })
	}()

	frame := link.Frame{Data: [][]byte{[]byte("\xff\xff\xff\xff\xff\xff" + "\x02\x00\x00\x00\x00\x01" + "\x88\xb5" + "hello")}}
	go func() {
		if _, err := a.Send([]link.Frame{frame}); err != nil {
			fmt.Println(err)
		}
	}()
	fmt.Println("frames:", <-arrived)

	a.SetUp(false)
	b.Close()
	fmt.Println(<-ended)
	// Output:
	// up: true
	// frames: 1
	// up: false
	// memlink: receive: use of closed network connection
}
