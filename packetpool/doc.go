// Package packetpool hands out packets: pieces of memory of one size, a fixed number
// of them, each with one owner at a time.
package packetpool
