package stack_test

import (
	"net/netip"
	"testing"
)

func TestTCPSmoke(t *testing.T) {
	h := newHosts(t)
	for _, to := range []netip.Addr{h.b4, h.b6} {
		d, a := h.connect(t, to)
		_, err := d.Write([]byte("hello"))
		check(t, err)
		check(t, d.CloseWrite())
		if got := string(readAll(t, a)); got != "hello" {
			t.Errorf("read %q", got)
		}
		t.Log(d.LocalAddr(), d.RemoteAddr(), a.LocalAddr(), a.RemoteAddr(), d.Info())
	}
}
