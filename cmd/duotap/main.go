package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// commands is the command line.
type commands struct {
	Demo  demoCommand  `cmd:"" help:"Send a message over a real TAP to an SMTP server, IPv4 then IPv6, and compare what arrived. Needs no root, no server and no configuration."`
	Send  sendCommand  `cmd:"" help:"Send a mail whose body is read from standard input."`
	Check checkCommand `cmd:"" help:"Walk the way to a server step by step, up to AUTH, and say where it ends. Nothing is sent."`
	Ping  pingCommand  `cmd:"" help:"Send ICMP echo requests to an address."`
	Tap   tapCommand   `cmd:"" help:"Create, delete or list persistent TAP interfaces."`
	Bench benchCommand `cmd:"" help:"Measure how fast the stack is, beside the kernel's own. Needs no root and no configuration."`

	Verbose bool `short:"v" help:"Log what happens to standard error."`
}

// program is one run of duotap, with everything it touches of the outside.
type program struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	log            *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), signals()...)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	p := &program{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	code := p.run(os.Args[1:])
	stop()
	os.Exit(code)
}

// signals are those that end the program in order. Whoever started it may want some to be
// ignored, as nohup does.
func signals() []os.Signal {
	list := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}

// run executes one command line and returns the exit code.
func (p *program) run(args []string) int {
	var c commands
	done := -1 // the exit code, once kong wants to end: after --help
	parser, err := kong.New(&c,
		kong.Name("duotap"),
		kong.Description("A network appliance in one process: its own TCP/IP on a TAP interface, a bounded packet pool, and an SMTP client."),
		kong.UsageOnError(),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(code int) { done = code }),
	)
	if err != nil {
		return p.report(err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if done >= 0 {
		return done
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "duotap: %v; see duotap --help\n", err)
		return exitUsage
	}
	p.log = slog.New(slog.DiscardHandler)
	if c.Verbose {
		p.log = slog.New(slog.NewTextHandler(p.stderr, nil))
	}
	return p.report(k.Run(p))
}

// report prints err, unless its text is out already, and returns its exit code.
func (p *program) report(err error) int {
	if err == nil {
		return exitOK
	}
	var e *exitError
	if !errors.As(err, &e) || !e.silent {
		fmt.Fprintf(p.stderr, "duotap: %s\n", inFlags(err))
	}
	return exitCode(err)
}

// inFlags is the text of err with the names of flags for those of the API that they set.
func inFlags(err error) string { return flagNames.Replace(err.Error()) }

var flagNames = strings.NewReplacer(
	"smtpclient: ", "",
	"set Config.AllowPlaintextAuth", "give --allow-plaintext-auth",
	"Config.AllowPlaintextAuth", "--allow-plaintext-auth",
	"set Config.Auth to AuthNone", "give --auth none",
	"Config.Auth", "--auth",
	"Config.Username", "--user",
	"Config.Password", "--password-file",
	"Config.Timeouts", "--timeout",
	"Config.Domain", "--helo",
	"Config.From", "--from",
	"Config.Server", "--server",
	"Config.TLS.ServerName", "--tls-name",
	"Config.TLS.RootCAs", "--tls-ca",
	"Config.TLS.InsecureSkipVerify", "--tls-insecure",
	"Config.TLS", "--tls",
	"Config.Pool", "--pool-payload",
	"look at the trace", "run it again with --trace",
)
