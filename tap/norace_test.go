//go:build linux && !race

package tap_test

const raceDetector = false
