package pcapng

import (
	"encoding/binary"
	"strings"
	"time"
)

// Block types and option codes of draft-ietf-opsawg-pcapng, sections 3.5 and 4.
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockPacket    = 6 // enhanced packet block

	optionEnd        = 0
	optionComment    = 1
	optionProgram    = 4 // shb_userappl
	optionName       = 2 // if_name
	optionResolution = 9 // if_tsresol
	optionFlags      = 2 // epb_flags

	byteOrderMagic     = 0x1A2B3C4D
	linkTypeEthernet   = 1
	nanoseconds        = 9 // a negative power of ten
	lengthUnknown      = ^uint64(0)
	packetHeaderLen    = 28
	capturedLenOffset  = 20
	originalLenOffset  = 24
	maxText            = 1024 // of a name or a comment, in bytes
	blankedExplanation = "SMTP credentials are overwritten with asterisks."
)

// order is the byte order of the files. Readers take either.
var order = binary.LittleEndian

// beginBlock appends a block's type, and room for its length.
func beginBlock(b []byte, kind uint32) []byte {
	b = order.AppendUint32(b, kind)
	return order.AppendUint32(b, 0)
}

// endBlock ends the options and the block that begins at start.
func endBlock(b []byte, start int) []byte {
	b = order.AppendUint32(b, optionEnd)
	size := uint32(len(b) - start + 4)
	order.PutUint32(b[start+4:], size)
	return order.AppendUint32(b, size)
}

func appendSection(b []byte, blanked bool) []byte {
	start := len(b)
	b = beginBlock(b, blockSection)
	b = order.AppendUint32(b, byteOrderMagic)
	b = order.AppendUint16(b, 1) // version 1.0
	b = order.AppendUint16(b, 0)
	b = order.AppendUint64(b, lengthUnknown)
	b = appendText(b, optionProgram, "duotap")
	if blanked {
		b = appendText(b, optionComment, blankedExplanation)
	}
	return endBlock(b, start)
}

func appendInterface(b []byte, name string, snapLen int) []byte {
	start := len(b)
	b = beginBlock(b, blockInterface)
	b = order.AppendUint16(b, linkTypeEthernet)
	b = order.AppendUint16(b, 0)
	b = order.AppendUint32(b, uint32(snapLen))
	b = appendText(b, optionName, name)
	b = order.AppendUint16(b, optionResolution)
	b = order.AppendUint16(b, 1)
	b = append(b, nanoseconds, 0, 0, 0)
	return endBlock(b, start)
}

// appendPacketHeader begins a packet, whose bytes follow. finishPacket ends it.
func appendPacketHeader(b []byte, iface uint32, at time.Time) []byte {
	stamp := uint64(at.UnixNano())
	b = beginBlock(b, blockPacket)
	b = order.AppendUint32(b, iface)
	b = order.AppendUint32(b, uint32(stamp>>32))
	b = order.AppendUint32(b, uint32(stamp))
	return order.AppendUint64(b, 0) // both lengths
}

// finishPacket ends the packet that begins at start, of a frame with size bytes.
func finishPacket(b []byte, start, size int, dir Direction, comments ...string) []byte {
	order.PutUint32(b[start+capturedLenOffset:], uint32(len(b)-start-packetHeaderLen))
	order.PutUint32(b[start+originalLenOffset:], uint32(size))
	b = pad(b, start)
	b = order.AppendUint16(b, optionFlags)
	b = order.AppendUint16(b, 4)
	b = order.AppendUint32(b, uint32(dir))
	for _, c := range comments {
		if c != "" {
			b = appendText(b, optionComment, c)
		}
	}
	return endBlock(b, start)
}

// appendText appends an option with a string; what isn't UTF-8 in it is replaced.
func appendText(b []byte, code uint16, s string) []byte {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") // the cut may have split a character
	}
	start := len(b)
	b = order.AppendUint16(b, code)
	b = order.AppendUint16(b, uint16(len(s)))
	b = append(b, s...)
	return pad(b, start)
}

// pad appends zeros up to a multiple of four bytes from start.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
