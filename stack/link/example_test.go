package link_test

import (
	"fmt"
	"net/netip"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
)

// plainDevice sends super-frames over a device that takes plain frames only.
type plainDevice struct {
	link.Device
	scratch link.Scratch // so Send is for one goroutine at a time
}

func (d *plainDevice) Send(frames []link.Frame) (n int, err error) {
	for n < len(frames) {
		err := link.Split(&frames[n], &d.scratch, func(f link.Frame) error {
			_, err := d.Device.Send([]link.Frame{f})
			return err
		})
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// printer stands for a real device.
type printer struct{ link.Device }

func (printer) Send(frames []link.Frame) (int, error) {
	for i := range frames {
		fmt.Println(frames[i].Len(), "bytes, checksum right:", link.VerifyChecksum(&frames[i]))
	}
	return len(frames), nil
}

func ExampleSplit() {
	flow := linktest.Flow{Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("192.0.2.2:25")}
	super := flow.Super(flow.TCP(1, linktest.ACK, make([]byte, 4000)), 1448)

	dev := plainDevice{Device: printer{}}
	if _, err := dev.Send([]link.Frame{super}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 1502 bytes, checksum right: true
	// 1502 bytes, checksum right: true
	// 1158 bytes, checksum right: true
}
