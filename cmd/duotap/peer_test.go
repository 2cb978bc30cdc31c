package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// The tests in this file send to mail servers of other people, and compare what these
// have stored with what was sent.

// peer is such a server, on the kernel's side of the TAPs of this network namespace.
type peer interface {
	// stored returns the next n messages that have arrived since the last call, as
	// files; lines end in LF, and the server's own header fields come first.
	stored(t *testing.T, n int) []string
}

// peers start one each. The network is there already.
var peers = map[string]func(t *testing.T, f family) peer{
	"Postfix":  startPostfix,
	"SMTPSink": startSMTPSink,
}

// eachPeer runs test for each server and family.
func eachPeer(t *testing.T, test func(t *testing.T, f family, p peer)) {
	requireRoot(t)
	for name, start := range peers {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) { test(t, f, start(t, f)) })
		})
	}
}

// postfix is Postfix with a configuration of its own: its smtpd takes mail for
// example.org, and its virtual(8) puts it into one Maildir. Nothing gets lost on the
// way: it keeps NULs, as long as message_strip_characters is empty, and lines of any
// length. (A bare CR, which duotap never sends, it makes a space of, since 3.7.10.)
type postfix struct {
	process   *process
	maildir   string
	delivered int
}

const postfixMain = `
compatibility_level = 3.6
queue_directory = DIR/queue
data_directory = DIR/data
maillog_file = /dev/stdout
myhostname = mx.example
mydestination =
mynetworks = 0.0.0.0/0 [::]/0
inet_protocols = all
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_base = DIR
virtual_mailbox_maps = static:mail/
virtual_mailbox_limit = 0
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
`

// postfixMaster has no chroot, and only what a mail passes through.
const postfixMaster = `
25       inet       n - n - - smtpd
cleanup  unix       n - n - 0 cleanup
qmgr     unix       n - n - 1 qmgr
rewrite  unix       - - n - - trivial-rewrite
proxymap unix       - - n - - proxymap
anvil    unix       - - n - 1 anvil
virtual  unix       - n n - - virtual
bounce   unix       - - n - 0 bounce
defer    unix       - - n - 0 bounce
error    unix       - - n - - error
retry    unix       - - n - - error
postlog  unix-dgram n - n - 1 postlogd
`

func startPostfix(t *testing.T, _ family) peer {
	t.Helper()
	requirePeer(t, "postfix")
	dir := openTempDir(t)
	for _, sub := range []string{"etc", "queue", "data", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"main.cf": strings.ReplaceAll(postfixMain, "DIR", dir), "master.cf": postfixMaster} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	etc := filepath.Join(dir, "etc")
	run(t, "chown", "postfix", filepath.Join(dir, "data"))
	run(t, "chown", "65534:65534", filepath.Join(dir, "mail"))
	run(t, "postfix", "-c", etc, "check") // makes the queue's directories
	daemons := strings.TrimSpace(run(t, "postconf", "-c", etc, "-h", "daemon_directory"))
	// In a PID namespace the kernel ends all of its processes with the first.
	p := &postfix{maildir: filepath.Join(dir, "mail", "new")}
	p.process = startIn(t, syscall.CLONE_NEWPID, 5*time.Minute, nil, filepath.Join(daemons, "master"), "-c", etc, "-i")
	p.process.stdout.await(t, "daemon started", 1)
	return p
}

func (p *postfix) stored(t *testing.T, n int) []string {
	t.Helper()
	p.delivered += n
	p.process.stdout.await(t, "status=sent (delivered to maildir)", p.delivered)
	return takeFiles(t, p.maildir, n)
}

// smtpSink is Postfix's test server, which takes all mail and does nothing more with it
// than to put it into files.
type smtpSink struct{ dir string }

func startSMTPSink(t *testing.T, f family) peer {
	t.Helper()
	requirePeer(t, "smtp-sink")
	s := &smtpSink{dir: filepath.Join(openTempDir(t), "dump")}
	if err := os.Mkdir(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	run(t, "chmod", "777", s.dir)
	start(t, 5*time.Minute, nil, "smtp-sink", "-u", "nobody", "-d", s.dir+"/m.", f.anywhere(), "100")
	awaitListener(t, f.smtp())
	return s
}

// anywhere is port 25 of all addresses of the kernel's.
func (f family) anywhere() string {
	if f.server.Is6() {
		return "[::]:25"
	}
	return "0.0.0.0:25"
}

// awaitListener returns once a program that doesn't tell accepts connections.
func awaitListener(t *testing.T, address string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Since(began) > acceptTimeout {
			t.Fatal(err)
		}
	}
}

// stored has nothing to wait for: a file is complete before the message is replied to.
func (s *smtpSink) stored(t *testing.T, n int) []string {
	t.Helper()
	files := takeFiles(t, s.dir, n)
	for k, f := range files {
		text, ok := strings.CutSuffix(f, "\n") // an empty line, always
		if !ok {
			t.Fatalf("smtp-sink didn't end its file:\n%s", f)
		}
		files[k] = text
	}
	return files
}

// run runs a program to its end and returns what it prints.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// openTempDir makes a directory that other users can look into, too.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "chmod", "755", filepath.Dir(dir), dir)
	return dir
}

// takeFiles returns the contents of the n files in dir, and removes them.
func takeFiles(t *testing.T, dir string, n int) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != n {
		t.Fatalf("%d messages are stored, want %d (%v)", len(names), n, err)
	}
	var files []string
	for _, name := range names {
		files = append(files, readFile(t, name))
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// onWire is what the program promises to make of text: each line end, be it CRLF, LF
// or CR, becomes CRLF, and one is added at the end if it is missing. Servers store it
// as LF.
func onWire(text string) string {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// peerBodies are what bodies must survive. The lines of two or three bytes put their
// dots, and the middle of their CRLF, at each place of a packet that they can have,
// because their length and those of the packets' data, 1,420 and 1,400, and that of
// the shift, have between them all remainders.
func peerBodies() map[string]string {
	bodies := map[string]string{
		"empty":            "",
		"no final newline": "one line",
		"only newlines":    "\n\r\n\n",
		"lone dots":        ".\r\n..\r\n...\r\n.text\r\n. \r\n\r\n.",
		"final dot alone":  "text\r\n.\r\n",
		"early end":        "text\r\n.\r\nMAIL FROM:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\nsecond\r\n.\r\n",
		"smuggling":        "a\n.\nb\n.\r\nc\r\n.\nd\r.\re\r\n.\rf\r.\r\ng\r\r\n.\r\r\nh",
		"bare CR":          "one\rtwo\r\rthree\r",
		"bare LF":          "one\ntwo\n\nthree\n",
		"mixed line ends":  "one\n\rtwo\r\r\nthree\r\n\nfour\n\n\r",
		"8-bit":            eightBit() + "Grüße, \xff\xfe\n",
		"NUL":              "before\x00after\r\n\x00\r\n\x00.\r\n.\x00\r\nend\x00",
		"control bytes":    "\x01\x02\x03\x04\x05\x06\x07\x08\t\v\f\x0e\x0f\x10\x1a\x1b[31m\x7f\r\n",
		"From at start":    "From here\n>From there\n",
		"long lines":       strings.Repeat("a", 10000) + "\r\n." + strings.Repeat("b", 9999) + "\n" + strings.Repeat(".", 10000),
	}
	for shift := range 4 {
		start := strings.Repeat("x", shift) + "\n"
		bodies[fmt.Sprintf("dots, shifted by %d", shift)] = start + strings.Repeat(".\r\n", 3000)
		bodies[fmt.Sprintf("empty lines, shifted by %d", shift)] = start + strings.Repeat("\r\n", 5000)
		bodies[fmt.Sprintf("short lines, shifted by %d", shift)] = start + strings.Repeat("y\r\n", 3000)
	}
	return bodies
}

// eightBit are all bytes above 127.
func eightBit() string {
	var b []byte
	for c := 128; c < 256; c++ {
		if b = append(b, byte(c)); c%16 == 15 {
			b = append(b, '\n')
		}
	}
	return string(b)
}

func TestPeerStoresBody(t *testing.T) {
	eachPeer(t, func(t *testing.T, f family, p peer) {
		bodies := peerBodies()
		for batch := range slices.Chunk(slices.Sorted(maps.Keys(bodies)), sweepWidth) {
			var args [][]string
			var input []string
			for _, name := range batch {
				args = append(args, []string{"--subject", name})
				input = append(input, bodies[name])
			}
			sendBatch(t, f, args, input)
			for _, file := range p.stored(t, len(batch)) {
				header, body, _ := strings.Cut(file, "\n\n")
				name := field(header, "Subject")
				want, known := bodies[name]
				if !known {
					t.Fatalf("no mail with this header was sent:\n%s", header)
				}
				if diff := cmp.Diff(onWire(want), body); diff != "" {
					t.Errorf("%s: stored is another body (-want +got):\n%s", name, diff)
				}
				if from := field(header, "From"); from != "device@example.org" || field(header, "To") != "ops@example.org" {
					t.Errorf("%s: header:\n%s", name, header)
				}
			}
		}
	})
}

// field is the value of a header field that isn't folded.
func field(header, name string) string {
	for line := range strings.Lines(header) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

// sweepWidth is how many programs send at the same time, each from a TAP of its own:
// over IPv6 they wait for a second first.
const sweepWidth = 8

// sweepLink returns the name and addresses of TAP k of a sweep.
func sweepLink(f family, k int) (name string, ours, theirs netip.Prefix) {
	pattern, first := "198.51.100.%d/29", 8*k
	if f.server.Is6() {
		pattern, first = fmt.Sprintf("2001:db8:0:%d::%%d/64", k), 0
	}
	return fmt.Sprintf("sweep%d", k),
		netip.MustParsePrefix(fmt.Sprintf(pattern, first+2)), netip.MustParsePrefix(fmt.Sprintf(pattern, first+1))
}

// sendBatch runs duotap send with each of args and input, at most sweepWidth, at the
// same time.
func sendBatch(t *testing.T, f family, args [][]string, input []string) {
	t.Helper()
	var running []*process
	for k := range args {
		name, ours, theirs := sweepLink(f, k)
		if _, err := netlink.LinkByName(name); err != nil {
			createTAP(t, name, []netip.Prefix{theirs})
		}
		all := append([]string{"send", "--tap", name, "--address", ours.String(), "--server", netip.AddrPortFrom(theirs.Addr(), 25).String(),
			"--from", "device@example.org", "--to", "ops@example.org"}, args[k]...)
		running = append(running, start(t, runLimit, strings.NewReader(input[k]), programFile(t, "duotap"), all...))
	}
	for _, p := range running {
		p.wait().mustSucceed(t)
	}
}

// peerPayloads are the sizes of the data part of packets to try.
func peerPayloads() []int {
	sizes := []int{1, 2, 3, 4, 56}
	for n := 1300; n <= 1500; n++ {
		sizes = append(sizes, n)
	}
	return sizes
}

// hostileMessage is a whole message of some packets of the largest size, made of all
// that is special to SMTP. It is another one for each seed.
func hostileMessage(seed int) string {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	var b strings.Builder
	fmt.Fprintf(&b, "X-Case: %d\r\nFrom: device@example.org\r\nTo: ops@example.org\r\nDate: Mon, 02 Jan 2006 15:04:05 +0000\r\n", seed)
	fmt.Fprintf(&b, "Message-ID: <%d@example.org>\r\nSubject: hostile\r\n\r\n", seed)
	special := []string{".", "..", "\r\n", "\r\n.", "\r\n.\r\n", "\n", "\r", "\n.\n", "\r.\r", "\x00", "\xff", "x"}
	for b.Len() < 6000 {
		if b.WriteString(special[r.IntN(len(special))]); r.IntN(50) == 0 {
			b.WriteString(strings.Repeat("word ", r.IntN(200)))
		}
	}
	return b.String()
}

func TestPeerStoresThroughAnyPacket(t *testing.T) {
	eachPeer(t, func(t *testing.T, f family, p peer) {
		duotap(t, nil, sendArgs(f.smtp(), "--to", "ops@example.org", "--pool-payload", strconv.Itoa(f.headroom))...).
			mustFail(t, exitConfig, fmt.Sprintf("need %d\n$", f.headroom+1))
		for batch := range slices.Chunk(peerPayloads(), sweepWidth) {
			var args [][]string
			var input []string
			for _, size := range batch {
				args = append(args, []string{"--raw", "--pool-payload", strconv.Itoa(f.headroom + size)})
				input = append(input, hostileMessage(size))
			}
			sendBatch(t, f, args, input)
			for _, file := range p.stored(t, len(batch)) {
				_, message, _ := strings.Cut(file, "X-Case: ") // behind the server's own fields
				name, _, _ := strings.Cut(message, "\n")
				size, _ := strconv.Atoi(name) // 0 was not sent
				if diff := cmp.Diff(onWire(hostileMessage(size)), "X-Case: "+message); diff != "" {
					t.Errorf("packets with %d bytes of data: stored is another message (-want +got):\n%s", size, diff)
				}
			}
		}
	})
}

func TestPeerTsharkReadsCapture(t *testing.T) {
	requirePeer(t, "tshark")
	for _, link := range []string{"tap", "tap-plain"} {
		t.Run(link, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				server := serveMail(t, f.listen(t), &mailServer{user: secretUser, password: secretPassword})
				password := writeTemp(t, "password", secretPassword, 0o600)
				path := filepath.Join(t.TempDir(), "session.pcapng")
				args := sendArgs(f.smtp(), "--link", link, "--to", "ops@example.org", "--pcap", path,
					"--user", secretUser, "--password-file", password, "--allow-plaintext-auth")
				duotap(t, newDemoText(300000), args...).mustSucceed(t)
				server.only(t)

				// Checksums are in the file as they are on the wire, also where the kernel
				// fills them in and where credentials are blanked.
				if bad := tshark(t, path, "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || icmpv6.checksum.status == 0"); bad != "" {
					t.Errorf("frames that are malformed or have a wrong checksum:\n%s", bad)
				}
				ip := map[bool]string{true: "ip && ", false: "ipv6 && "}[f.server.Is4()]
				for _, part := range []string{"tcp.checksum.status == 1", `smtp.req.command == "EHLO"`, "smtp.response.code == 354", "tcp.flags.fin == 1"} {
					if tshark(t, path, ip+part) == "" {
						t.Errorf("no frame with %s%s", ip, part)
					}
				}
			})
		})
	}
}

// tshark returns a line for each frame of a capture that the filter is true for.
func tshark(t *testing.T, path, filter string) string {
	t.Helper()
	cmd := exec.Command("tshark", "-r", path, "-Y", filter, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark -Y '%s': %v\n%s", filter, err, stderr.String())
	}
	return string(out)
}
