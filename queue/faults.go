package queue

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that something is made of.
const (
	uniqueViolation  = "23505"
	checkViolation   = "23514"
	duplicateTable   = "42P07"
	lockNotAvailable = "55P03"
	readOnly         = "25006"
)

// sqlState is the code in an answer of Postgres, or "" where err is something else.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// isPassing tells whether a statement may succeed when it is sent again: it lost a race, the database is out of service
// or full, or the connection broke - in which case it may even have committed.
func isPassing(err error) bool {
	state := sqlState(err)
	if state == "" {
		return true // no answer from Postgres: a broken connection, a deadline
	}
	switch state[:2] {
	case "08", // connection
		"25", // read-only: a fail-over is under way
		"40", // serialisation, deadlock
		"42", // a schema or rights that are not as they should be, and can be mended
		"53", // out of disk, memory or connections
		"55", // lock timeout
		"57", // shut down, crashed, cancelled
		"58", // its disk
		"XX": // its own fault
		return true
	}
	return false
}

// isMissing tells whether Postgres, or what stands in for it, does not have what a statement asks for.
func isMissing(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && (state[:2] == "0A" || state[:2] == "42")
}

// isStored tells whether a row was there already. Ids are made to be unique, so it is the row of an earlier try whose
// answer was lost, and which was still on its way when it was looked for.
func isStored(err error) bool { return sqlState(err) == uniqueViolation }

// isRefused tells whether Postgres refused what the statement carried, so that sending it again would change nothing.
func isRefused(err error) bool { return err != nil && !isPassing(err) }

// pause waits before the next try: 10 ms doubling to 1 s.
func pause(ctx context.Context, try int) {
	pauseFor(ctx, min(10*time.Millisecond<<min(try, 10), time.Second))
}

func pauseFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
