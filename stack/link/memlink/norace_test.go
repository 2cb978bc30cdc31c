//go:build !race

package memlink_test

const raceDetector = false
