//go:build race

package stack_test

// racing: the race detector makes everything ten times slower.
const racing = true
