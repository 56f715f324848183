// Command sluice is the whole of Sluice in one program: a node that takes events in and runs them, and the tool that
// people use to look after it.
//
// It promises to end as it says: 0 when what was asked is done, 1 when it could not be, 2 when the command line is
// wrong, 3 when a check found something. Results go to standard output, for people or as JSON; everything else goes to
// standard error, and an error is one line that tells what is wrong and what to do.
//
// Here everything is wired together, and only here is the environment read. The other packages must not know of flags,
// of files in a home directory, or of the terminal.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked could not be done
	exitUsage  = 2 // the command line is wrong
	exitFound  = 3 // a check found violations
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks; from then on the next one has its usual effect and ends the process at once.
	context.AfterFunc(ctx, stop)
	ctx = whileParentLives(ctx)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// whileParentLives ends with the process that started this one, if that is `go run`: it hands no signal on but Ctrl-C, so
// what it ran would go on unseen when it is ended in another way.
func whileParentLives(ctx context.Context) context.Context {
	exe, err := os.Executable()
	if err != nil || !strings.Contains(exe, "go-build") {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(200 * time.Millisecond) //nolint:forbidigo // a pause between two looks at the fact
		}
		cancel()
	}()
	return ctx
}

// program is what a command sees of the world around it.
type program struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	output         string // text or json
	api            *apiFlags
}

// run is main without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var c cli
	helped := false
	parser, err := newParser(&c, p, func(int) { helped = true })
	if err != nil {
		fmt.Fprintln(stderr, "sluice:", err) // a mistake in the struct tags, which the tests find
		return exitFailed
	}
	command, err := parser.Parse(args)
	if helped {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "sluice: %s: see %s --help\n", line(err.Error()), where(err))
		return exitUsage
	}
	p.output = c.Output
	command.BindTo(ctx, (*context.Context)(nil))
	return p.exit(command.Run())
}

// where names the command that the user was on the way to.
func where(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().FullPath()
	}
	return "sluice"
}

// exit tells of an error, if there is one, and returns the code for it.
func (p *program) exit(err error) int {
	var usage *usageError
	var told *toldError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &told):
		return told.code
	case errors.As(err, &usage):
		fmt.Fprintln(p.stderr, "sluice:", lines(err.Error()))
		return exitUsage
	default:
		fmt.Fprintln(p.stderr, "sluice:", lines(explain(err)))
		return exitFailed
	}
}

// usageError is a mistake in the command line that only the command itself can see.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// toldError is the end of a command that has already said why.
type toldError struct{ code int }

func (e *toldError) Error() string { return fmt.Sprintf("exit code %d", e.code) }
