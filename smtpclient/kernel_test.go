package smtpclient_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// The client over a kernel's TCP, on loopback.

func listenTCP(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	return l
}

func TestKernelTCP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			l := listenTCP(t, address)
			store := new(smtptest.Store)
			done := make(chan error)
			go func() { done <- store.Serve(l) }()
			cfg := testConfig(t, new(net.Dialer))
			cfg.Server = l.Addr().String()
			c := newClient(t, cfg)
			body := boundaryBody(1400) + strings.Repeat("a line\r\n", 200000)
			r, err := send(t, c, t.Context(), mailOf(body))
			if err != nil {
				t.Fatal(err)
			}
			if got := store.Messages(); string(got[0].Data) != body {
				t.Errorf("%d bytes arrived, %d were sent", got[0].Size, len(body))
			}
			t.Logf("%d bytes in %d packets, %v", r.Bytes, r.Packets, r.Phases)
			_ = l.Close()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if err := store.Problems(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKernelTCPTrouble: closing and resetting, as a kernel does it, in each turn.
func TestKernelTCPTrouble(t *testing.T) {
	for k, turn := range turns {
		for _, instead := range []string{"! close", "! reset", "S: 554 5.0.0 no\n! close"} {
			l := listenTCP(t, "127.0.0.1:0")
			server := smtptest.Serve(l, smtptest.MustParse(dialogue(k, instead)), smtptest.MustParse(dialogue(-1, "")))
			cfg := authConfig(t, new(net.Dialer))
			cfg.Server = l.Addr().String()
			c := newClient(t, cfg)
			r, err := send(t, c, t.Context(), mailOf("body\r\n"))
			switch {
			case turn.step == smtpclient.StepQuit:
				if err != nil {
					t.Errorf("%s, %q: %v", turn.step, instead, err)
				}
			case strings.HasPrefix(instead, "S:"):
				if e := asError(t, err); e.Code != 554 || e.Step != turn.step {
					t.Errorf("%s, %q: %v", turn.step, instead, err)
				}
			default:
				want := smtpclient.Refused
				if turn.step == smtpclient.StepMessage {
					want = smtpclient.Unknown
				}
				gone := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
				e := asError(t, err)
				// A reset for a greeting may come before the kernel has told of the connection.
				early := turn.step == smtpclient.StepGreeting && e.Step == smtpclient.StepConnect
				if !gone || e.Step != turn.step && !early || r.Recipients[0].Outcome != want {
					t.Errorf("%s, %q: %v", turn.step, instead, err)
				}
			}
			if _, err := send(t, c, t.Context(), mailOf("body\r\n")); err != nil {
				t.Errorf("%s, %q: the next mail: %v", turn.step, instead, err)
			}
			if _, err := server.Wait(); err != nil {
				t.Errorf("%s, %q: %v", turn.step, instead, err)
			}
		}
	}
}

func TestKernelTCPRefusalInTheMiddleOfTheMessage(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	server := smtptest.Serve(l, smtptest.MustParse(dialogue(6, "S: 354 go\n! read 100000\nS: 552 5.3.4 too big\n! close")))
	cfg := authConfig(t, new(net.Dialer))
	cfg.Server = l.Addr().String()
	_, err := send(t, newClient(t, cfg), t.Context(), mailOf(strings.Repeat("x", 100<<20)))
	if e := asError(t, err); e.Code != 552 {
		t.Error(err)
	}
	if _, err := server.Wait(); err != nil {
		t.Error(err)
	}
}
