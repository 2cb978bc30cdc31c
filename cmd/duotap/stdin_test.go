package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

func TestContextReader(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 50_000)
	if err := iotest.TestReader(newContextReader(t.Context(), bytes.NewReader(want)), want); err != nil {
		t.Error(err)
	}
	failure := errors.New("a failure")
	if _, err := io.ReadAll(newContextReader(t.Context(), iotest.ErrReader(failure))); !errors.Is(err, failure) {
		t.Errorf("error %v, want that of the reader", err)
	}
}

// TestContextReaderEnds: a read ends with the context, though nobody writes.
func TestContextReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("a reason")
		ended := make(chan error)
		go func() {
			_, err := newContextReader(ctx, r).Read(make([]byte, 1))
			ended <- err
		}()
		synctest.Wait()
		cancel(reason)
		if err := <-ended; !errors.Is(err, reason) {
			t.Errorf("error %v, want the reason of the context", err)
		}
		w.Close()
	})
}
