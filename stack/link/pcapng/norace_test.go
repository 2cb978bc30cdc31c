//go:build !race

package pcapng_test

const raceDetector = false
