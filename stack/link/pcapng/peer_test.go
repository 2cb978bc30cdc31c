package pcapng_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/pcapng"
)

// TestPeerTshark reads a capture with tshark, checksums verified.
func TestPeerTshark(t *testing.T) {
	if os.Getenv("DUOTAP_TEST_PEERS") != "1" {
		t.Skip("needs tshark; to run it: DUOTAP_TEST_PEERS=1 go test -run TestPeerTshark ./stack/link/pcapng")
	}
	path := filepath.Join(t.TempDir(), "session.pcapng")
	frames := capturePeerSession(t, path)

	rows := tshark(t, path, "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction",
		"-e", "ip.checksum.status", "-e", "tcp.checksum.status", "-e", "udp.checksum.status", "-e", "icmp.checksum.status",
		"-e", "frame.comment")
	if len(rows) != frames {
		t.Fatalf("tshark sees %d frames, want %d", len(rows), frames)
	}
	comments := map[string]int{}
	for i, row := range rows {
		fields := strings.Split(row, "|")
		if len(fields) != 7 {
			t.Fatalf("frame %d: %q", i+1, row)
		}
		if fields[0] != "left" || fields[1] != "0x00000001" && fields[1] != "0x00000002" {
			t.Errorf("frame %d: interface %q, direction %q", i+1, fields[0], fields[1])
		}
		good := 0
		for _, status := range fields[2:6] {
			if status == "1" {
				good++
			} else if status != "" {
				t.Errorf("frame %d: checksum status %s, want 1 (good), in %q", i+1, status, row)
			}
		}
		if good == 0 {
			t.Errorf("frame %d: no checksum verified in %q", i+1, row)
		}
		comments[fields[6]]++
	}
	if comments["dropped: loss 5 %, seed 42"] != 2 || comments["credentials blanked"] != 4 {
		t.Errorf("tshark shows the comments %v", comments)
	}
	if bad := tshark(t, path, "-Y", "_ws.malformed || _ws.short || _ws.expert.severity == error"); len(bad) != 0 {
		t.Errorf("tshark complains of:\n%s", strings.Join(bad, "\n"))
	}
	content := strings.Join(tshark(t, path, "-x", "-V"), "\n")
	for _, want := range []string{"AUTH PLAIN ****************************", "This is text"} {
		if !strings.Contains(content, want) {
			t.Errorf("tshark doesn't show %q", want)
		}
	}
	checkCanary(t, []byte(content))
}

// capturePeerSession makes a capture with some of everything, and returns how many
// frames are in it.
func capturePeerSession(t *testing.T, path string) (frames int) {
	t.Helper()
	w, err := pcapng.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	i := w.Interface("left")
	for _, flow := range []linktest.Flow{flow4, flow6} {
		packets := slices.Concat(greeting, sessions["initial response"], sessions["two steps"], quit).deliver(asOne)
		for j := range packets {
			p := &packets[j]
			from, dir := flow, pcapng.Outbound
			if p.server {
				from, dir = flow.Reverse(), pcapng.Inbound
			}
			partial := from.Partial(p.frame(flow))
			i.Record(dir, &partial, "")
		}
		after := &packets[len(packets)-2] // the client's last segment
		super := flow.Super(flow.TCP(after.seq+uint32(len(after.payload)), linktest.ACK, bytes.Repeat([]byte("This is text.\r\n"), 4000)), 1400)
		i.Record(pcapng.Outbound, &super, "")
		i.Record(pcapng.Outbound, plain(flow.UDP([]byte("datagram"))), "")
		i.Drop(pcapng.Inbound, plain(flow.TCP(1, linktest.RST, nil)), "loss 5 %, seed 42")
		frames += len(packets) + 3
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return frames
}

// tshark runs tshark on a file and returns the lines that it prints.
func tshark(t *testing.T, path string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"-n", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"}, args...)
	out, err := exec.CommandContext(ctx, "tshark", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("tshark: %v: %s", err, exit.Stderr)
		}
		t.Fatalf("tshark: %v; install it with: apt-get install tshark", err)
	}
	if len(out) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}
