package queue

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Report is what [Check] found in one snapshot of the database.
type Report struct {
	At         time.Time // of the snapshot, by the database's clock
	Took       time.Duration
	Places     Places        // of all messages
	Versions   []VersionSums // with messages, in order of their names
	Foreign    int64         // jobs on edges that another program inserted and no runner has adopted yet
	Violations []Violation   // the first violationsShown
	Broken     int64         // how many violations there are
	Warnings   []Violation   // what is odd, or heals by itself
}

// Clean tells that every invariant holds.
func (r Report) Clean() bool { return r.Broken == 0 }

// Places is how many messages are in each place. All but Total add up to Total.
type Places struct {
	Total      int64
	Waiting    int64
	Running    int64
	Retrying   int64
	Trashed    int64
	Done       int64 // finished or filtered
	Replaced   int64
	Rejected   int64
	Terminated int64
}

// VersionSums are the places of the messages of a topology's version.
type VersionSums struct {
	Tenant    int64
	Topology  string
	Version   int
	Processes int64
	Places
}

// Violation is something that must not be.
type Violation struct {
	Rule   string // its short name
	Tenant int64
	ID     string // public id of the message or process
	Detail string
}

// violationsShown bounds the violations that a report lists.
const violationsShown = 100

// Check proves on a live database that each message is in exactly one place and that hand-offs were atomic. It reads
// one snapshot and changes nothing. The pool is an engine's, which sees all tenants.
func Check(ctx context.Context, pool *pgxpool.Pool) (Report, error) {
	return Report{}, nil
}
