package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The stories in testdata/script run the real program. Beside testscript's own there
// are the condition [tap], and the command
//
//	exits CODE program [argument ...]
//
// which runs a program that has to end with that exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Condition: func(name string) (bool, error) {
			if name == "tap" {
				return haveTAP(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// setupScript gives each script a network namespace of its own, if there may be any.
// Scripts run in the goroutine of their setup, and start their processes from it.
func setupScript(*testscript.Env) error {
	if !haveTAP() {
		return nil
	}
	runtime.LockOSThread()
	return unix.Unshare(unix.CLONE_NEWNET)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [argument ...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && want == 0:
	case errors.As(err, &exit) && exit.ExitCode() == want:
	default:
		ts.Fatalf("want exit code %d, got: %v", want, err)
	}
}
