package pcapng_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// A capture at one end of a cable, to be opened in Wireshark.
func Example() {
	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	w, err := pcapng.Create(filepath.Join(dir, "cable.pcapng"))
	if err != nil {
		log.Fatal(err)
	}
	left, right := memlink.Pair(1500)
	defer right.Close()
	dev := pcapng.Wrap(left, w)

	frame := link.Frame{Data: [][]byte{make([]byte, 60)}}
	if _, err := dev.Send([]link.Frame{frame}); err != nil {
		log.Fatal(err)
	}

	// First the device, then the capture. Close tells whether it is complete.
	if err := dev.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("complete:", w.Close() == nil)
	// Output: complete: true
}

// lossy is a device that drops the first frame of each batch.
type lossy struct {
	link.Device
	capture *pcapng.Interface
}

func (l lossy) Send(frames []link.Frame) (n int, err error) {
	l.capture.Drop(pcapng.Outbound, &frames[0], "the first of each batch")
	n, err = l.Device.Send(frames[1:])
	return n + 1, err
}

// Whoever drops frames on purpose tells the capture why.
func ExampleInterface_Drop() {
	w, err := pcapng.NewWriter(io.Discard, pcapng.Config{})
	if err != nil {
		log.Fatal(err)
	}
	left, right := memlink.Pair(1500)
	defer right.Close()
	lan := w.Interface("lan")
	dev := lossy{lan.Wrap(left), lan}
	defer dev.Close()

	frame := link.Frame{Data: [][]byte{make([]byte, 60)}}
	n, err := dev.Send([]link.Frame{frame, frame})
	fmt.Println(n, err)
	// Output: 2 <nil>
}
