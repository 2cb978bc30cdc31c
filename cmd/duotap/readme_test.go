package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readmeCommands returns the indented lines of the README's paragraph that begins with
// heading.
func readmeCommands(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), heading)
	if !found {
		t.Fatalf("the README has no %q", heading)
	}
	var script strings.Builder
	for line := range strings.Lines(rest) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command)
		} else if script.Len() > 0 && strings.TrimSpace(line) != "" {
			break
		}
	}
	if script.Len() == 0 {
		t.Fatalf("no commands behind %q", heading)
	}
	return script.String()
}

// shell runs commands as a reader of the README would, who is root already and has the
// program in PATH.
func shell(t *testing.T, commands string) result {
	t.Helper()
	t.Setenv("USER", "root")
	t.Setenv("PATH", filepath.Dir(buildProgram(t))+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return start(t, 5*time.Minute, nil, "/bin/sh", "-euc", strings.ReplaceAll(commands, "sudo ", "")).wait()
}

func TestReadmeSend(t *testing.T) {
	enterNetwork(t)
	l, err := net.Listen("tcp", ":25")
	if err != nil {
		t.Fatal(err)
	}
	s := serveMail(t, l, &mailServer{})
	r := shell(t, readmeCommands(t, "**Send from an address of its own**"))
	r.mustSucceed(t)
	if m := s.only(t); m.body() != "the pump is hot\r\n" || !strings.Contains(m.header(), "Subject: pump") {
		t.Errorf("what arrived is\n%s", m.data)
	}
}

func TestReadmeMeasure(t *testing.T) {
	requireTAP(t)
	r := shell(t, readmeCommands(t, "**See how fast it is**"))
	// Progress goes to standard error.
	if r.code != exitOK || strings.Count(r.stdout, "arrived byte for byte") != 2 || !strings.Contains(r.stdout, "Gbit/s") {
		t.Errorf("exit code %d; want 0, a rate, and two messages to have arrived\n%s", r.code, r.output())
	}
	t.Log("\n" + r.stdout)
}
