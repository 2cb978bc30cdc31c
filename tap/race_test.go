//go:build linux && race

package tap_test

// raceDetector: allocations can't be counted under the race detector.
const raceDetector = true
