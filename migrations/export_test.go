package migrations

import (
	"context"
	"io/fs"
)

// UpFiles and DownFiles are Up and Down with other files than ours.
func UpFiles(ctx context.Context, url string, files fs.FS) error { return up(ctx, url, files) }

func DownFiles(ctx context.Context, url string, files fs.FS, steps int) error {
	return down(ctx, url, files, steps)
}

// Files are ours.
var Files fs.FS = files

// Concurrent tells whether a file runs outside a transaction.
var Concurrent = concurrent
