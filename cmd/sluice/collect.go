package main

import "runtime/debug"

// defaultMemory is that of `serve --memory`.
const defaultMemory = 256 << 20

// collectLazily makes Go collect garbage when the heap has grown to five times what is in use, and not to twice: what a
// node keeps is small, what it throws away is not, and of its time a third went into collecting (ingest-batch: 20 µs of
// CPU an event before, 14 µs after). As it nears what its bodies may take, it collects sooner, so that under load the
// process is smaller than Go alone would make it. Who sets GOGC or GOMEMLIMIT has his way. Bodies in flight may
// take memory four times: see the table in docs/operating.md.
func (p *program) collectLazily(memory byteSize) {
	const rest = 768 << 20 // requests that arrive, small bodies, statements, and the program itself
	if p.getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if p.getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(4*int64(memory) + rest)
	}
}
