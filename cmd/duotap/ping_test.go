package main

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

func pingArgs(address string, more ...string) []string {
	return append(append(append([]string{"ping"}, linkArgs...), address), more...)
}

func TestPing(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, size := range []string{"0", "56", "1400", "9000"} { // the last in fragments
			r := duotap(t, nil, pingArgs(f.server.String(), "-c", "3", "-i", "10ms", "-s", size)...)
			r.mustSucceed(t)
			want := size + " bytes from " + f.server.String()
			if strings.Count(r.stdout, want) != 3 || !strings.Contains(r.stdout, "3 of 3 answered; min ") {
				t.Errorf("want %q three times\n%s", want, r.output())
			}
		}
	})
}

func TestPingLinkLocal(t *testing.T) {
	t.Parallel()
	newNetwork(t)
	if err := configureKernel(tapName, []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}); err != nil {
		t.Fatal(err)
	}
	duotap(t, nil, pingArgs("fe80::1%eth0", "-c", "1")...).mustSucceed(t)
}

func TestPingTroubles(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, c := range []struct {
			address, text string
			args          []string
		}{
			{f.silent.String(), "no route to host", []string{"-c", "1"}},
			{f.remote.String(), "network is unreachable", []string{"-c", "1"}},
			{f.silent.String(), "deadline exceeded", []string{"-c", "2", "-i", "1ms", "-W", "500ms"}},
		} {
			r := duotap(t, nil, pingArgs(c.address, c.args...)...)
			r.mustFail(t, exitTemporary, "no answer from "+c.address, c.text)
		}
		duotap(t, nil, pingArgs(f.server.String(), "-s", "65508")...).mustFail(t, exitUsage, "65508")
		duotap(t, nil, pingArgs(f.server.String(), "-c", "0")...).mustFail(t, exitUsage, "--count")
	})
}

// An instance that runs answers the kernel's ping, and another program can't have its
// TAP meanwhile.
func TestPeerPing(t *testing.T) {
	requirePeer(t, "ping")
	newNetwork(t)
	// By then the IPv6 address can be used, too.
	running := start(t, time.Minute, nil, programFile(t, "duotap"), pingArgs("192.0.2.1", "-c", "1000", "-i", "200ms")...)
	running.stdout.await(t, "bytes from 192.0.2.1", 8)
	for _, address := range []string{"192.0.2.2", "fd99::2"} {
		for _, size := range []string{"56", "9000"} {
			out, err := exec.Command("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", size, address).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "3 received, 0% packet loss") {
				t.Errorf("ping -s %s %s: %v\n%s", size, address, err, out)
			}
		}
	}
	duotap(t, nil, pingArgs("192.0.2.1", "-c", "1")...).mustFail(t, exitIO, "another program")
	if err := running.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if r := running.wait(); r.code != exitOK || !regexp.MustCompile(`\d+ of \d+ answered; min `).MatchString(r.stdout) {
		t.Errorf("interrupted: exit code %d\n%s", r.code, r.output())
	}
}
