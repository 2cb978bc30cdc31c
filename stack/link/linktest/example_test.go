package linktest_test

import (
	"fmt"
	"net/netip"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
)

// The frames of a short conversation, without a stack.
func ExampleFlow() {
	client := linktest.Flow{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 1}, Src: netip.MustParseAddrPort("192.0.2.1:40000"),
		DstMAC: [6]byte{2, 0, 0, 0, 0, 2}, Dst: netip.MustParseAddrPort("192.0.2.25:25"),
	}
	server := client.Reverse()

	greeting := link.Frame{Data: [][]byte{server.TCP(1, linktest.ACK|linktest.PSH, []byte("220 ready\r\n"))}}
	fmt.Println(greeting.Len(), link.VerifyChecksum(&greeting))

	message := client.Super(client.TCP(1, linktest.ACK, make([]byte, 60000)), 1448)
	fmt.Println(message.Len(), message.Offload.Segment == link.SegmentTCP4, message.Offload.SegmentSize)
	// Output:
	// 65 true
	// 60054 true 1448
}
