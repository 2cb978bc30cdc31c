// Package linktest holds every link.Device to one contract, and makes frames for
// tests.
//
// [Run] is the conformance suite. It takes two devices joined by a wire:
//
//	func TestPair(t *testing.T) {
//		linktest.Run(t, func(t *testing.T) (a, b link.Device) { return memlink.Pair(1500) })
//	}
//
// [Flow] makes frames of TCP, UDP and ICMP over IPv4 and IPv6, also super-frames. It
// is written for clarity and computes checksums word by word, so that it can judge
// the fast code.
package linktest
