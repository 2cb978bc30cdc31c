package smtpclient_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// turn is what the client says and what the server answers, as lines of a dialogue.
type turn struct {
	step   smtpclient.Step
	client string
	server string
	limit  time.Duration // default for the reply
}

// turns is a whole session.
var turns = []turn{
	{smtpclient.StepGreeting, "", `S: 220 mx`, 5 * time.Minute},
	{smtpclient.StepEHLO, `C: EHLO client.example`, `S" 250-mx\r\n250 AUTH PLAIN\r\n`, 5 * time.Minute},
	{smtpclient.StepAuth, `C: AUTH PLAIN`, `S: 334 `, 5 * time.Minute},
	{smtpclient.StepAuth, `C: AHUAcHdk`, `S: 235 ok`, 5 * time.Minute},
	{smtpclient.StepMail, `C: MAIL FROM:<device@example.org>`, `S: 250 ok`, 5 * time.Minute},
	{smtpclient.StepRcpt, `C: RCPT TO:<ops@example.net>`, `S: 250 ok`, 5 * time.Minute},
	{smtpclient.StepData, `C: DATA`, `S: 354 go`, 2 * time.Minute},
	{smtpclient.StepMessage, `C.`, `S: 250 done`, 10 * time.Minute},
	{smtpclient.StepQuit, `C: QUIT`, `S: 221 bye`, 5 * time.Second},
}

// dialogue is a session in which something else happens instead of the reply in turn
// k; none if k is negative.
func dialogue(k int, instead string) string {
	var b strings.Builder
	for i, t := range turns {
		fmt.Fprintln(&b, t.client)
		if i == k {
			fmt.Fprintln(&b, instead)
			break
		}
		fmt.Fprintln(&b, t.server)
	}
	return b.String()
}

// authConfig is testConfig with the credentials that the turns expect.
func authConfig(t testing.TB, dialer smtpclient.Dialer) smtpclient.Config {
	cfg := testConfig(t, dialer)
	cfg.Username, cfg.Password, cfg.AllowPlaintextAuth = "u", smtpclient.NewSecret("pwd"), true
	return cfg
}

// trouble is what a server may do instead of answering.
type trouble struct {
	name   string
	server string // lines of a dialogue
	err    error  // wrapped by the error; nil if the error is a reply
	code   int    // of the reply, for those
	slow   bool   // it takes all the time that the step has
}

var troubles = []trouble{
	{"silent", "C$", os.ErrDeadlineExceeded, 0, true},
	{"close", "! close", io.ErrUnexpectedEOF, 0, false},
	{"reset", "! reset", syscall.ECONNRESET, 0, false},
	{"closed in the middle of a reply", "S\" 250-half\n! close", io.ErrUnexpectedEOF, 0, false},
	{"half a reply and silence", "S\" 250-half\\r\\n250\nC$", os.ErrDeadlineExceeded, 0, true},
	{"421 and close", "S: 421 4.3.2 closing\n! close", nil, 421, false},
	{"421 and reset", "S: 421 4.3.2 closing\n! sleep 1s\n! reset", nil, 421, false},
	{"4yz", "S: 451 4.3.0 later\nC: QUIT\nS: 221 bye", nil, 451, false},
	{"5yz", "S: 554 5.0.0 no\nC: QUIT\nS: 221 bye", nil, 554, false},
	{"5yz and close", "S: 554 5.0.0 no\n! close", nil, 554, false},
	{"another 2yz", "S: 299 hm\nC$", smtpclient.ErrUnexpectedReply, 0, false},
	{"another 3yz", "S: 399 hm\nC$", smtpclient.ErrUnexpectedReply, 0, false},
	{"1yz", "S: 150 hm\nC$", smtpclient.ErrBadReply, 0, false},
	{"6yz", "S: 650 hm\nC$", smtpclient.ErrBadReply, 0, false},
	{"two digits", "S: 25 ok\nC$", smtpclient.ErrBadReply, 0, false},
	{"not digits", "S: ok\nC$", smtpclient.ErrBadReply, 0, false},
	{"empty line", "S: \nC$", smtpclient.ErrBadReply, 0, false},
	{"code changes", "S\" 250-ok\\r\\n354 go\\r\\n\nC$", smtpclient.ErrBadReply, 0, false},
	{"bare LF", "S\" 250 ok\\n\nC$", smtpclient.ErrBadReply, 0, false},
	{"bare CR", "S\" 250 ok\\rok\\r\\n\nC$", smtpclient.ErrBadReply, 0, false},
	{"NUL", "S\" 250 \\x00\\r\\n\nC$", smtpclient.ErrBadReply, 0, false},
	{"a megabyte without end", "S* 1024 " + strings.Repeat("x", 1022) + "\nC$", smtpclient.ErrBadReply, 0, false},
	{"a line of a megabyte", "S\" 250 " + strings.Repeat("x", 1<<20) + "\nC$", smtpclient.ErrReplyTooLong, 0, false},
	{"ten thousand lines", "S* 10000 250-more\nC$", smtpclient.ErrReplyTooLong, 0, false},
}

// TestTrouble lets each thing go wrong in each turn. Every Send ends within the time of
// the step, with an error that names the step and the trouble, with all packets back,
// with nothing said that wasn't expected; and the next Send works.
func TestTrouble(t *testing.T) {
	for k, turn := range turns {
		for _, tr := range troubles {
			t.Run(fmt.Sprintf("%d %s/%s", k, turn.step, tr.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { checkTrouble(t, k, tr) })
			})
		}
	}
}

func checkTrouble(t *testing.T, k int, tr trouble) {
	l := smtptest.Listen()
	server := smtptest.Serve(l, smtptest.MustParse(dialogue(k, tr.server)), smtptest.MustParse(dialogue(-1, "")))
	c := newClient(t, authConfig(t, l))
	start := time.Now()
	receipt, err := send(t, c, t.Context(), mailOf("body\n"))
	if took, limit := time.Since(start), turns[k].limit; tr.slow != (took >= limit) || took > limit+time.Second {
		t.Errorf("took %v, the step has %v", took, limit)
	}
	outcome := receipt.Recipients[0].Outcome
	switch step := turns[k].step; {
	case step == smtpclient.StepQuit:
		if err != nil || outcome != smtpclient.Delivered {
			t.Errorf("the mail was accepted, and is %v: %v", outcome, err)
		}
	case tr.code != 0:
		e := asError(t, err)
		if e.Step != step || e.Code != tr.code || outcome != smtpclient.Refused || e.Temporary() != (tr.code < 500) {
			t.Errorf("%v: %v", outcome, err)
		}
	default:
		want := smtpclient.Refused
		if step == smtpclient.StepMessage {
			want = smtpclient.Unknown
		}
		if e := asError(t, err); e.Step != step || e.Code != 0 || !errors.Is(err, tr.err) || outcome != want {
			t.Errorf("%v: %v", outcome, err)
		}
	}
	if err != nil && !strings.HasSuffix(err.Error(), ")") {
		t.Errorf("nothing about what to do in %q", err)
	}
	if receipt, err := send(t, c, t.Context(), mailOf("body\n")); err != nil || !receipt.Delivered() {
		t.Errorf("the next mail: %v", err)
	}
	if _, err := server.Wait(); err != nil && !tr.mayDisagree(k, err) {
		t.Error(err)
	}
}

// mayDisagree: a client that has seen enough closes while a long reply is still being
// sent, and doesn't say QUIT twice.
func (tr trouble) mayDisagree(k int, err error) bool {
	return tr.err != nil && errors.Is(err, syscall.EPIPE) ||
		tr.code != 0 && turns[k].step == smtpclient.StepQuit
}

// TestRepliesSplitAtEveryByte: a reply is the same however it arrives.
func TestRepliesSplitAtEveryByte(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5, 7} {
		synctest.Test(t, func(t *testing.T) {
			l := serve(t, fmt.Sprintf("! split %d\n", size)+dialogue(-1, ""))
			if _, err := send(t, newClient(t, authConfig(t, l)), t.Context(), mailOf("body\n")); err != nil {
				t.Errorf("%d bytes at a time: %v", size, err)
			}
		})
	}
}

// TestSlowServer: a server may take its time, but not without end: a byte now and then
// doesn't begin the time of the step anew.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := serve(t, "S\" 2\n! sleep 2m\nS\" 2\n! sleep 2m\nS\" 0\n! sleep 2m\nC$")
		start := time.Now()
		_, err := send(t, newClient(t, testConfig(t, l)), t.Context(), mailOf(""))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 5*time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var d strings.Builder
		for _, turn := range turns {
			fmt.Fprintf(&d, "%s\n! sleep %v\n%s\n", turn.client, turn.limit-time.Nanosecond, turn.server)
		}
		if _, err := send(t, newClient(t, authConfig(t, serve(t, d.String()))), t.Context(), mailOf("")); err != nil {
			t.Error(err)
		}
	})
}
