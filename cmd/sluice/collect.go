package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// defaultMemory is that of `serve --memory`.
const defaultMemory = 256 << 20

// collectLazily makes Go collect garbage when the heap has grown to five times what is in use, and not to twice: what a
// node keeps is small, what it throws away is not, and of its time a third went into collecting (ingest-batch: 20 µs of
// CPU an event before, 14 µs after). As it nears what its bodies may take, or what its container has, it collects sooner, so
// that under load the process is smaller than Go alone would make it. Who sets GOGC or GOMEMLIMIT has his way. Bodies in
// flight may take memory four times: see the table in docs/operating.md.
func (p *program) collectLazily(memory byteSize) {
	const rest = 768 << 20 // requests that arrive, small bodies, statements, and the program itself
	if p.getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if p.getenv("GOMEMLIMIT") == "" {
		most := 4*int64(memory) + rest
		if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
			most = belowContainer(most, string(text))
		}
		debug.SetMemoryLimit(most)
	}
}

// belowContainer is a limit that stays within what a container may take, as its control group says it: a number of bytes,
// or max. A fifth is left to what Go does not count.
func belowContainer(most int64, said string) int64 {
	size, err := strconv.ParseInt(strings.TrimSpace(said), 10, 64)
	if err != nil || size <= 0 {
		return most
	}
	return min(most, size/5*4)
}
