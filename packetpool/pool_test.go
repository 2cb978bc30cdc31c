package packetpool_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

func TestChain(t *testing.T) {
	p, err := packetpool.New(packetpool.Config{Packets: 4, Payload: 100})
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Allocate(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 25)
	if err := k.Append(want); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(k); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %q, %v", got, err)
	}
	if k.Packets() != 3 {
		t.Errorf("%d packets, want 3", k.Packets())
	}
	k.Release()
	if s := p.Stats(); s.Free != s.Total || s.LowestFree != 1 {
		t.Errorf("%+v", s)
	}
}
