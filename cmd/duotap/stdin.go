package main

import (
	"context"
	"io"
)

// contextReader is a Reader that ends with its context also while a read from r blocks: a
// pipe that nobody writes to must not keep the program from being stopped. The goroutine
// that reads ends with r, or with the program.
type contextReader struct {
	ctx    context.Context
	chunks <-chan chunk
	last   chunk // what is left of it
}

type chunk struct {
	b   []byte
	err error
}

func newContextReader(ctx context.Context, r io.Reader) *contextReader {
	chunks := make(chan chunk)
	go func() {
		// Two buffers are enough: when a chunk is taken, the one before has been used up.
		for buffers := [2][]byte{make([]byte, 64<<10), make([]byte, 64<<10)}; ; buffers[0], buffers[1] = buffers[1], buffers[0] {
			n, err := r.Read(buffers[0])
			select {
			case chunks <- chunk{buffers[0][:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &contextReader{ctx: ctx, chunks: chunks}
}

func (r *contextReader) Read(b []byte) (int, error) {
	for len(r.last.b) == 0 && r.last.err == nil {
		select {
		case r.last = <-r.chunks:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
	if len(r.last.b) == 0 {
		return 0, r.last.err
	}
	n := copy(b, r.last.b)
	r.last.b = r.last.b[n:]
	return n, nil
}
