//go:build linux

package tap

import (
	"testing"

	"github.com/duotap/duotap/stack/link"
)

// FuzzVnetHeader: a header is refused, or it says the same when it is written again.
func FuzzVnetHeader(f *testing.F) {
	tcp := make([]byte, 100)
	tcp[12], tcp[13], tcp[14], tcp[23], tcp[46] = 0x08, 0x00, 0x45, 6, 0x50
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, tcp)             // plain
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0}, tcp)             // verified
	f.Add([]byte{1, 0, 0, 0, 0, 0, 34, 0, 16, 0}, tcp)           // partial checksum
	f.Add([]byte{1, 1, 90, 0, 10, 0, 34, 0, 16, 0}, tcp)         // TCP over IPv4, hdr_len a hint
	f.Add([]byte{1, 0x84, 54, 0, 10, 0, 34, 0, 16, 0}, tcp)      // TCP over IPv6 with ECN
	f.Add([]byte{1, 5, 42, 0, 10, 0, 34, 0, 6, 0}, tcp)          // UDP
	f.Add([]byte{1, 1, 0, 0, 0, 0, 255, 255, 255, 255}, tcp[:0]) // checksum behind the end
	f.Fuzz(func(t *testing.T, header, data []byte) {
		if len(header) < vnetHeaderLen {
			return
		}
		frame := link.Frame{Data: [][]byte{data}}
		if !decode((*[vnetHeaderLen]byte)(header), &frame) {
			return
		}
		frame.Check(1500, 0xff)
		var written [vnetHeaderLen]byte
		encode(&written, &frame)
		again := link.Frame{Data: frame.Data}
		if !decode(&written, &again) || again.Offload != frame.Offload {
			t.Errorf("%x is %+v; written as %x it is %+v", header[:vnetHeaderLen], frame.Offload, written, again.Offload)
		}
	})
}
