package main

import (
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// logFlags are the settings of commands that run for long.
type logFlags struct {
	LogLevel slog.Level `from:"SLUICE_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"What to log: debug, info, warn or error."`
}

// logger writes for people on a terminal, and JSON for machines elsewhere.
func (p *program) logger(level slog.Level) *slog.Logger {
	if !isTerminal(p.stderr) {
		return slog.New(slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: inSeconds}))
	}
	return slog.New(tint.NewTextHandler(p.stderr, &tint.Options{
		Level:      level,
		TimeFormat: time.TimeOnly,
		NoColor:    p.getenv("NO_COLOR") != "" || p.getenv("TERM") == "dumb",
	}))
}

// inSeconds writes durations as numbers of seconds.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
