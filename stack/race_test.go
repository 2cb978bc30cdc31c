//go:build race

package stack_test

// raceDetector: allocations can't be counted under the race detector.
const raceDetector = true
