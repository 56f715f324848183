package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"sluice/migrations"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the database to the schema of this program."`
	Down   migrateDownCmd   `cmd:"" help:"Undo migrations, and with them their data."`
	Status migrateStatusCmd `cmd:"" help:"Say how far the database is migrated."`
}

func (migrateCmd) Help() string {
	return examples("Several may run at once: one works and the others wait. River's tables come along.",
		"sluice migrate up --database-url postgres://sluice@db/sluice", "sluice migrate status")
}

type migrateUpCmd struct{ databaseFlags }

func (migrateUpCmd) Help() string {
	return examples("Run it before the first node of a new release starts. Nodes of the release before go on working meanwhile.",
		"sluice migrate up --database-url postgres://sluice@db/sluice",
		"DATABASE_URL_FILE=/run/secrets/database-url sluice migrate up")
}

func (c migrateUpCmd) Run(ctx context.Context, p *program) error {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	before, err := migrations.GetStatus(ctx, url)
	if err != nil {
		return connectError(err)
	}
	done := p.during(5*time.Second, func(elapsed time.Duration) string { return fmt.Sprintf("Still migrating after %s.", elapsed) })
	err = migrations.Up(ctx, url)
	done()
	if err != nil {
		return connectError(err)
	}
	return printStatus(ctx, p, url, func(w io.Writer, after migrations.Status) {
		if before.Err() == nil {
			fmt.Fprintf(w, "Nothing to do: the schema is at version %d (River %d).\n", after.Current, after.RiverCurrent)
			return
		}
		fmt.Fprintf(w, "Migrated from version %d (River %d) to %d (River %d).\n", before.Current, before.RiverCurrent, after.Current, after.RiverCurrent)
	})
}

type migrateDownCmd struct {
	databaseFlags
	Steps int  `xor:"much" required:"" placeholder:"N" help:"How many migrations to undo, the newest first."`
	All   bool `xor:"much" required:"" help:"Undo everything, River's tables too."`
}

func (migrateDownCmd) Help() string {
	return examples("What the undone migrations brought is lost with its data.",
		"sluice migrate down --steps 1 --database-url postgres://sluice@db/sluice",
		"sluice migrate down --all")
}

func (c migrateDownCmd) Run(ctx context.Context, p *program) error {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	if c.All {
		c.Steps = -1
	} else if c.Steps < 1 {
		return usagef("--steps %d: say how many migrations to undo, or --all", c.Steps)
	}
	if err := migrations.Down(ctx, url, c.Steps); err != nil {
		return connectError(err)
	}
	return printStatus(ctx, p, url, func(w io.Writer, after migrations.Status) {
		fmt.Fprintf(w, "Now at version %d (River %d).\n", after.Current, after.RiverCurrent)
	})
}

type migrateStatusCmd struct{ databaseFlags }

func (migrateStatusCmd) Help() string {
	return examples("Fails when nodes of this program would refuse the database.",
		"sluice migrate status --database-url postgres://sluice@db/sluice",
		"sluice migrate status --output json")
}

func (c migrateStatusCmd) Run(ctx context.Context, p *program) error {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	var failed error
	err = printStatus(ctx, p, url, func(w io.Writer, s migrations.Status) {
		facts(w,
			"Schema", fmt.Sprintf("%d of %d", s.Current, s.Latest),
			"River", fmt.Sprintf("%d of %d", s.RiverCurrent, s.RiverLatest),
		)
	}, func(s migrations.Status) { failed = s.Err() })
	if err != nil {
		return err
	}
	return failed
}

// printStatus prints how far a database is migrated, and shows it to whoever looks.
func printStatus(ctx context.Context, p *program, url string, text func(io.Writer, migrations.Status), look ...func(migrations.Status)) error {
	s, err := migrations.GetStatus(ctx, url)
	if err != nil {
		return connectError(err)
	}
	for _, f := range look {
		f(s)
	}
	return p.print(map[string]any{
		"current": s.Current, "latest": s.Latest, "dirty": s.Dirty,
		"river_current": s.RiverCurrent, "river_latest": s.RiverLatest, "up_to_date": s.Err() == nil,
	}, func(w io.Writer) { text(w, s) })
}
