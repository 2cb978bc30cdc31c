//go:build race

package pcapng_test

// raceDetector: allocations can't be counted under the race detector.
const raceDetector = true
