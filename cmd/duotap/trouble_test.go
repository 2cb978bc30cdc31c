package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/duotap/duotap/tap"
)

// Each trouble ends in one clear error within its limit. The kernel's side of these
// networks answers nothing, refuses, or is gone.

func TestSendConnectTroubles(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		to := func(server string, more ...string) []string {
			return sendArgs(server, append(more, "--to", "ops@example.org")...)
		}
		port := func(a string) string { return net.JoinHostPort(a, "25") }
		for _, c := range []struct {
			name string
			args []string
			code int
			text string
		}{
			{"nobody listens", to(f.smtp()), exitTemporary, "connect: .*connection refused"},
			{"no route", to(port(f.remote.String())), exitTemporary, "connect: .*network is unreachable"},
			{"no such neighbour", to(port(f.silent.String())), exitTemporary, "connect: .*no route to host"},
			{"no such gateway", to(port(f.remote.String()), "--gateway", f.silent.String()), exitTemporary, "connect: .*no route to host"},
			{"no answer in time", to(port(f.silent.String()), "--timeout", "1200ms"), exitTemporary, "connect: "},
			{"a name, and no name server", to("mx.example:25"), exitUsage, "mx.example.*--dns"},
		} {
			r := duotap(t, strings.NewReader("x"), c.args...)
			t.Logf("%s: %v: %s", c.name, r.took, r.stderr)
			r.mustFail(t, c.code, c.text)
		}
	})
}

func TestSendServerTroubles(t *testing.T) {
	requireTAP(t)
	t.Parallel()
	for _, c := range []struct {
		name   string
		script string
		args   []string
		code   int
		text   string
	}{
		{"silent from the start", "! silent", []string{"--timeout", "1500ms"}, exitTemporary, "greeting: .*timeout.*TLS"},
		{"silent after EHLO", "S: 220 mx.example\nC~ EHLO .*\n! silent", []string{"--timeout", "1500ms"}, exitTemporary, "EHLO: .*timeout"},
		{"silent after the final dot", dialogueOpening + "C.\n! silent", []string{"--timeout", "1500ms"}, exitUnknown, "message: .*ask the recipient"},
		{"silent, and the whole is limited", "! silent", []string{"--deadline", "2s"}, exitTemporary, "greeting: .*--deadline 2s is over"},
		{"reset at once", "! reset", nil, exitTemporary, "(greeting|connect): .*connection reset"},
		{"closed at once", "! close", nil, exitTemporary, "greeting: .*EOF"},
		{"reset after MAIL", "S: 220 mx.example\nC~ EHLO .*\nS: 250 mx.example\nC~ MAIL .*\n! reset", nil, exitTemporary, "MAIL: .*connection reset"},
		{"reset after the final dot", dialogueOpening + "C.\n! reset", nil, exitUnknown, "message: .*may or may not"},
		{"421 at once", "S: 421 4.3.2 going down\n! close", nil, exitTemporary, "greeting: 421 4.3.2 going down"},
		{"554 at once", "S: 554 5.7.1 not for you\n! close", nil, exitPermanent, "greeting: 554 5.7.1 not for you"},
		{"no SMTP", "S: HTTP/1.1 400 Bad Request\n! close", nil, exitProtocol, "greeting: .*not an SMTP reply"},
		{"endless reply", "S* 20000 220-more\n! silent", nil, exitProtocol, "greeting: .*reply too long"},
		{"wrong code", "S: 220 mx.example\nC~ EHLO .*\nS: 354 what\n! silent", nil, exitProtocol, "EHLO: .*unexpected reply"},
		{"552 for the message", dialogueOpening + "C.\nS: 552 5.3.4 too big\nC: QUIT\nS: 221 bye", nil, exitPermanent, "message: 552 5.3.4 too big"},
		{"450 for MAIL", "S: 220 mx.example\nC~ EHLO .*\nS: 250 mx.example\nC~ MAIL .*\nS: 450 4.7.1 greylisted\nC: QUIT\nS: 221 bye", nil, exitTemporary, "MAIL: 450 4.7.1 greylisted"},
	} {
		for _, f := range families {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				newNetwork(t)
				serveDialogue(t, f.listen(t), c.script)
				r := duotap(t, strings.NewReader("text\n"), sendArgs(f.smtp(), append(c.args, "--to", "ops@example.org")...)...)
				r.mustFail(t, c.code, c.text)
				if !strings.Contains(r.stdout, "pool 16 of 16 free") {
					t.Errorf("packets are missing\n%s", r.output())
				}
			})
		}
	}
}

// A message that breaks off before its end was not delivered, for certain.
func TestSendBrokenOff(t *testing.T) {
	for end, text := range map[string]string{"reset": "message: .*connection reset", "close": "message: .*(reset|broken pipe|closed)", "silent": "message: "} {
		t.Run(end, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				script := dialogueOpening + "! read 3000000\n! " + end
				if end == "silent" {
					script = dialogueOpening + "! read 3000000\n! stall"
				}
				serveDialogue(t, f.listen(t), script)
				r := duotap(t, newDemoText(64<<20), sendArgs(f.smtp(), "--timeout", "2s", "--to", "ops@example.org")...)
				r.mustFail(t, exitTemporary, text)
			})
		})
	}
}

// startSending starts a send of a body without end, and returns when the server has
// got more than TCP's buffers hold.
func startSending(t *testing.T, f family, args ...string) *process {
	t.Helper()
	l := f.listen(t)
	arrived := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			arrived <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(runLimit))
		in := bufio.NewReader(conn)
		for _, reply := range []string{"220 mx.example", "250 mx.example", "250 ok", "250 ok", "354 go ahead"} {
			if _, err := io.WriteString(conn, reply+"\r\n"); err != nil {
				arrived <- err
				return
			}
			_, _ = in.ReadString('\n') // the next command; what is wrong with it shows later
		}
		_, err = io.CopyN(io.Discard, in, 8<<20)
		arrived <- err
		_, _ = io.Copy(io.Discard, in)
	}()
	p := start(t, runLimit, newDemoText(1<<40), programFile(t, "duotap"), sendArgs(f.smtp(), append(args, "--to", "ops@example.org")...)...)
	select {
	case err := <-arrived:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(acceptTimeout):
		t.Fatal("nothing arrives")
	}
	return p
}

// The TAP is gone for good; TCP goes on until the timeout.
func TestSendTAPDeleted(t *testing.T) {
	for _, link := range []string{"tap", "tap-plain"} {
		t.Run(link, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				p := startSending(t, f, "--link", link, "--timeout", "2s")
				gone := time.Now()
				if err := netlink.LinkDel(kernelLink(t, tapName)); err != nil {
					t.Fatal(err)
				}
				r := p.wait()
				r.mustFail(t, exitIO, "message: ", "removed")
				if took := time.Since(gone); took > soon {
					t.Errorf("it took %v to give up", took)
				}
			})
		})
	}
}

// A link that is down may come up again, so it takes the timeout to give up.
func TestSendLinkDown(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		p := startSending(t, f, "--timeout", "2s")
		if err := netlink.LinkSetDown(kernelLink(t, tapName)); err != nil {
			t.Fatal(err)
		}
		down := time.Now()
		r := p.wait()
		r.mustFail(t, exitTemporary, "message: ", "down|timeout")
		if took := time.Since(down); took > soon {
			t.Errorf("it took %v to give up", took)
		}
		r = duotap(t, strings.NewReader("x"), sendArgs(f.smtp(), "--to", "ops@example.org")...)
		r.mustFail(t, exitTemporary, "link is down.*ip link set duotap0 up")
	})
}

// A program that is told to end does so, and says what became of the mail.
func TestSendInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			newNetwork(t)
			p := startSending(t, families[0])
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			signalled := time.Now()
			p.wait().mustFail(t, exitTemporary, "message: .*(canceled|interrupt|signal)")
			if took := time.Since(signalled); took > soon {
				t.Errorf("it took %v to end", took)
			}
		})
	}
}

// The TAP can't be had.
func TestSendTAPTroubles(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	busy, err := tap.Open(tap.Config{Name: tapName, Offload: true})
	if err != nil {
		t.Fatal(err)
	}
	send := func(name string) []string {
		return []string{"send", "--tap", name, "--address", "192.0.2.2/24", "--server", "192.0.2.1", "--from", "a@example.org", "--to", "b@example.org"}
	}
	for _, link := range []string{"tap", "tap-plain"} {
		args := func(name string) []string { return append(send(name), "--link", link) }
		duotap(t, nil, args(tapName)...).mustFail(t, exitIO, tapName+".*another program")
		duotap(t, nil, args("lo")...).mustFail(t, exitIO, "lo.*no TAP")
		duotap(t, nil, args("a/b")...).mustFail(t, exitIO, "a/b.*slash")
		duotap(t, nil, args("name-of-17-bytes!")...).mustFail(t, exitIO, "longer than 15")
		duotap(t, nil, args("absent0")...).mustFail(t, exitIO, "no interface.*absent0")
		duotapWithoutRights(t, nil, args("absent0")...).mustFail(t, exitIO, "no interface.*absent0")
		r := start(t, runLimit, nil, programFile(t, "confined"), append([]string{"no-tun", "duotap"}, args(tapName)...)...).wait()
		r.mustFail(t, exitIO, "/dev/net/tun.*no such file")
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
}

// The owner of a TAP needs no other right to send through it.
func TestSendWithoutRights(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	server := serveMail(t, families[0].listen(t), &mailServer{})
	r := duotapWithoutRights(t, strings.NewReader("x"), sendArgs(families[0].smtp(), "--to", "ops@example.org")...)
	r.mustSucceed(t)
	server.only(t)
}

// A capture never replaces a file, and nobody else can read it.
func TestSendCaptureFile(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	server := serveMail(t, families[0].listen(t), &mailServer{})
	path := t.TempDir() + "/capture.pcapng"
	args := sendArgs(families[0].smtp(), "--to", "ops@example.org", "--pcap", path)
	duotap(t, strings.NewReader("x"), args...).mustSucceed(t)
	server.only(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Size() < 1000 {
		t.Errorf("mode %v, %d bytes; want -rw------- and a session", info.Mode(), info.Size())
	}
	before := readFile(t, path)
	duotap(t, strings.NewReader("x"), args...).mustFail(t, exitIO, path+".*exists")
	server.only(t)
	if readFile(t, path) != before {
		t.Error("the file was changed")
	}
}

func TestSendKernelLink(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	server := serveMail(t, families[1].listen(t), &mailServer{})
	base := []string{"send", "--link", "kernel", "--server", families[1].smtp(), "--from", "a@example.org", "--to", "b@example.org"}
	duotap(t, strings.NewReader("x"), base...).mustSucceed(t)
	server.only(t)
	for _, flag := range [][]string{{"--address", "192.0.2.2/24"}, {"--gateway", "192.0.2.1"}, {"--dns", "192.0.2.1"}, {"--mac", "02:00:00:00:00:01"}, {"--mtu", "1400"}, {"--pcap", "/nonexistent"}} {
		duotap(t, nil, append(base, flag...)...).mustFail(t, exitUsage, "--link kernel")
	}
}
