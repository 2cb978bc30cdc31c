//go:build !race

package smtpclient

// RaceEnabled: the race detector allocates memory of its own, and time.
const RaceEnabled = false
