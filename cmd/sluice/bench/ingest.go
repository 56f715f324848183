package bench

import "context"

func measureIngest(ctx context.Context, r *run) (Result, error) { return Result{}, nil }
