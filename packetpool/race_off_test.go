//go:build !race

package packetpool_test

const raceEnabled = false
