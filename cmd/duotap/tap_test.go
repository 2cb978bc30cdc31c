package main

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// jsonTAP is an entry of what tap list --json prints.
type jsonTAP struct {
	Name       string `json:"name"`
	MTU        int    `json:"mtu"`
	MAC        string `json:"mac"`
	Up         bool   `json:"up"`
	Persistent bool   `json:"persistent"`
	InUse      bool   `json:"in_use"`
	Owner      int    `json:"owner"`
}

func listTAPs(t *testing.T) []jsonTAP {
	t.Helper()
	r := duotap(t, nil, "tap", "list", "--json")
	r.mustSucceed(t)
	var taps []jsonTAP
	if err := json.Unmarshal([]byte(r.stdout), &taps); err != nil || taps == nil {
		t.Fatalf("want a JSON array: %v\n%s", err, r.output())
	}
	for k := range taps {
		if len(taps[k].MAC) != 17 {
			t.Errorf("MAC %q", taps[k].MAC)
		}
		taps[k].MAC = "" // random
	}
	return taps
}

func TestTAP(t *testing.T) {
	t.Parallel()
	enterNetwork(t)
	if got := listTAPs(t); len(got) != 0 {
		t.Fatalf("there are TAPs in a new network namespace: %v", got)
	}
	r := duotap(t, nil, "tap", "create", "--name", tapName, "--mtu", "9000", "--owner", "root")
	r.mustSucceed(t)
	if !strings.Contains(r.stdout, "ip link set duotap0 up") {
		t.Errorf("it doesn't say what to do next\n%s", r.output())
	}
	want := jsonTAP{Name: tapName, MTU: 9000, Persistent: true, Owner: 0}
	if diff := cmp.Diff([]jsonTAP{want}, listTAPs(t)); diff != "" {
		t.Errorf("after create (-want +got):\n%s", diff)
	}
	text := duotap(t, nil, "tap", "list")
	text.mustSucceed(t)
	if fields := strings.Fields(text.stdout); !strings.Contains(strings.Join(fields, " "), "duotap0 9000") || fields[len(fields)-1] != "root" {
		t.Error(text.output())
	}

	if err := configureKernel(tapName, serverAddrs); err != nil {
		t.Fatal(err)
	}
	running := start(t, runLimit, nil, programFile(t, "duotap"), pingArgs("192.0.2.1", "-c", "1000", "-i", "10ms")...)
	running.stdout.await(t, "bytes from", 1)
	want.Up, want.InUse = true, true
	if diff := cmp.Diff([]jsonTAP{want}, listTAPs(t)); diff != "" {
		t.Errorf("in use (-want +got):\n%s", diff)
	}
	duotap(t, nil, "tap", "delete", "--name", tapName).mustFail(t, exitIO, "delete duotap0.*busy|another program")
	if err := running.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	running.wait()

	duotap(t, nil, "tap", "delete", "--name", tapName).mustSucceed(t)
	if got := listTAPs(t); len(got) != 0 {
		t.Errorf("after delete there are %v", got)
	}
}

func TestTAPTroubles(t *testing.T) {
	t.Parallel()
	enterNetwork(t)
	duotap(t, nil, "tap", "create", "--name", "here0").mustSucceed(t)
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"create", "--name", "here0"}, exitIO, "here0.*exists"},
		{[]string{"create", "--name", "lo"}, exitIO, "lo.*exists"},
		{[]string{"create", "--name", "name-of-17-bytes!"}, exitIO, "longer than 15"},
		{[]string{"create", "--name", "small0", "--mtu", "10"}, exitIO, "MTU 10"},
		{[]string{"create", "--name", "x0", "--owner", "nobody-of-this-name"}, exitConfig, "nobody-of-this-name"},
		{[]string{"delete", "--name", "absent0"}, exitIO, "absent0.*no such interface|no such device"},
		{[]string{"delete", "--name", "lo"}, exitIO, "lo.*no persistent TAP"},
	} {
		duotap(t, nil, append([]string{"tap"}, c.args...)...).mustFail(t, c.code, c.text)
	}
	duotapWithoutRights(t, nil, "tap", "create", "--name", "x0").mustFail(t, exitPermission, "x0.*CAP_NET_ADMIN")
	if got := listTAPs(t); len(got) != 1 || got[0].Name != "here0" {
		t.Errorf("left are %v, want here0 only", got)
	}
}

// A user of another id can be given a TAP only where there are other ids.
func TestPeerTAPOwner(t *testing.T) {
	requireRoot(t)
	enterNetwork(t)
	for _, owner := range []string{"nobody", "12345"} {
		duotap(t, nil, "tap", "create", "--name", "owned0", "--owner", owner).mustSucceed(t)
		want := 65534
		if n, err := strconv.Atoi(owner); err == nil {
			want = n
		}
		if taps := listTAPs(t); len(taps) != 1 || taps[0].Owner != want {
			t.Errorf("--owner %s: %v", owner, taps)
		}
		args := []string{"ping", "--tap", "owned0", "--address", "192.0.2.2/24", "192.0.2.1"}
		duotapWithoutRights(t, nil, args...).mustFail(t, exitPermission, "owned0.*another user")
		duotap(t, nil, "tap", "delete", "--name", "owned0").mustSucceed(t)
	}
}
