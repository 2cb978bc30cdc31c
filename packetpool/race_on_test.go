//go:build race

package packetpool_test

// raceEnabled: the race detector allocates memory of its own.
const raceEnabled = true
