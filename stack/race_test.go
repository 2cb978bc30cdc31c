//go:build race

package stack

// raceDetector: allocations can't be counted under the race detector.
const raceDetector = true
