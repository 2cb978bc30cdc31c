package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// errNoNamespace is wrapped when this machine doesn't let us have a network namespace.
var errNoNamespace = errors.New("no network namespace to be had")

// inNamespace runs this program again with args, in new user and network namespaces
// where it is root, and waits for it. It returns the exit code. Interrupts reach the
// child by itself: it is in our process group.
func inNamespace(p *program, args ...string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("finding this program's file: %w", err)
	}
	// The child is killed when the thread that started it ends, and Go may end threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(context.WithoutCancel(p.ctx), self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.stdin, p.stdout, p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: %w", errNoNamespace, err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("waiting for the program in its namespace: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}
