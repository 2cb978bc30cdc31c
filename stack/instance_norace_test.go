//go:build !race

package stack_test

const racing = false
