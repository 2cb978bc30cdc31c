package stack

// gate is the one place where a call of a connection waits for the stack: for data, for
// room, for a connection, for an answer, for another call to finish. A harness that runs
// in virtual time needs to see every such wait, so nothing in this package blocks a
// caller elsewhere.
type gate struct{}

// wait blocks until ready is signalled or stop is closed, and reports which: true for
// ready. When both are, it is true. A nil stop never is.
func (gate) wait(ready <-chan struct{}, stop <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	default:
	}
	select {
	case <-ready:
		return true
	case <-stop:
		return false
	}
}
