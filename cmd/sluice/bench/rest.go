package bench

import (
	"context"
	"log/slog"
)

var silent = slog.New(slog.DiscardHandler)

func measureIngest(ctx context.Context, r *run) (Result, error)   { return Result{}, nil }
func measurePipeline(ctx context.Context, r *run) (Result, error) { return Result{}, nil }
func measureLatency(ctx context.Context, r *run) (Result, error)  { return Result{}, nil }
