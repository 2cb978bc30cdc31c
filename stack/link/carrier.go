package link

import "sync"

// Carrier is the up or down state of a link, and its watcher: what a Device needs for
// Watch. The zero value is down. Its methods may be called from several goroutines
// and from within the watcher.
type Carrier struct {
	mu      sync.Mutex
	up      bool
	closed  bool
	watcher func(up bool)
	told    bool // the watcher knows of some state,
	toldUp  bool // which was this
	telling bool // somebody is in tell
}

// Set changes the state, and tells the watcher if that is news. A change that comes
// while the watcher runs is told after it has returned, by the goroutine that it
// runs in; a change that is taken back before then is not told.
func (c *Carrier) Set(up bool) { c.Update(func() bool { return up }) }

// Update is Set with a state that it reads itself. Where several goroutines change
// what the state depends on, the last Update sees the last change.
func (c *Carrier) Update(state func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = state()
	c.tell()
}

// Up is the state.
func (c *Carrier) Up() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

// Watch makes fn the watcher and tells it the state; nil ends the watching. See
// [Device] for the conditions.
func (c *Carrier) Watch(fn func(up bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watcher, c.told = fn, false
	c.tell()
}

// Close ends the watching for good.
func (c *Carrier) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.watcher = true, nil
}

// tell calls the watcher, without the lock, until it knows the state.
func (c *Carrier) tell() {
	if c.telling {
		return
	}
	c.telling = true
	defer func() { c.telling = false }()
	for !c.closed && c.watcher != nil && !(c.told && c.toldUp == c.up) {
		c.told, c.toldUp = true, c.up
		c.call(c.watcher, c.up)
	}
}

func (c *Carrier) call(fn func(bool), up bool) {
	c.mu.Unlock()
	defer c.mu.Lock()
	fn(up)
}
