package report

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sluice/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Nobody waits for the database: what there is no room for is dropped and counted, and what there was room for is written
// at the end at the latest.
func TestReportsNeverWait(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	b := New(pool, slog.New(slog.DiscardHandler))
	for n := range buffered + 7 {
		b.Call(Call{Tenant: 1, Process: uuid.New(), NodeID: fmt.Sprint(n), Status: 200, URL: "http://a/b"})
		b.Log(Line{Tenant: 1, Message: strings.Repeat("\x00ž", 5000), Level: "\xff"})
	}
	if b.Lost() != 14 {
		t.Errorf("%d lost, want 14", b.Lost())
	}
	ended, end := context.WithCancel(t.Context())
	end()
	b.Run(ended)
	for _, table := range []string{"reported_call", "reported_line"} {
		var rows int
		if err := pool.QueryRow(t.Context(), `select count(*) from sluice.`+table).Scan(&rows); err != nil || rows != buffered {
			t.Errorf("%d rows in %s: %v", rows, table, err)
		}
	}
	if b.Lost() != 14 {
		t.Errorf("%d lost, want 14", b.Lost())
	}
	b.Call(Call{Tenant: 1})
	b.pool.Close()
	b.Run(ended)
	if b.Lost() != 15 {
		t.Errorf("%d lost without a database, want 15", b.Lost())
	}
}

// What is old goes, and nothing else.
func TestOldReportsGo(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool()
	b := New(pool, slog.New(slog.DiscardHandler))
	if _, err := pool.Exec(t.Context(), `
		insert into sluice.reported_line (tenant_id, at, node_id, level, message, trace)
		select 1, now() - n * interval '1 hour', '', '', n::text, '' from unnest(array[1, 71, 73, 500]) n`); err != nil {
		t.Fatal(err)
	}
	b.tidy(t.Context())
	var left string
	if err := pool.QueryRow(t.Context(), `select string_agg(message, ' ' order by at desc) from sluice.reported_line`).Scan(&left); err != nil || left != "1 71" {
		t.Errorf("left %q, want the last three days: %v", left, err)
	}
}

// Of an address what is kept says where, and lets nobody in.
func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "https://api.example.com": "https://api.example.com", "http://u:p@h:8/a/b?key=s#f": "http://h:8/a/b",
		"https://hooks.example.com/services/T000/B000/" + strings.Repeat("x", 25): "https://hooks.example.com/services/T000/B000/…",
		"https://a/orders/%2e%2f%20": "https://a/orders/%2e%2f%20", "://": "", "mailto:secret@x": "mailto:", "a b": "a%20b", "\x7f": "",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// The SDK tells twice of a call that failed; a call that is made again is no echo.
func TestEcho(t *testing.T) {
	t.Parallel()
	b := New(nil, nil)
	id := uuid.New()
	for i, c := range []struct {
		status int
		url    string
		echo   bool
	}{{404, "a", false}, {500, "a", true}, {500, "a", false}, {500, "a", true}, {200, "a", false}, {500, "a", false}, {503, "b", false}, {500, "a", true}, {500, "b", true}, {500, "c", false}, {503, "c", false}} {
		if got := b.isEcho(Call{Tenant: 1, Process: id, URL: c.url, Status: c.status}); got != c.echo {
			t.Errorf("call %d: echo %v, want %v", i, got, c.echo)
		}
	}
	b.last[told{1, id, "", "c"}] = time.Now().Add(-echo)
	if b.isEcho(Call{Tenant: 1, Process: id, URL: "c", Status: 500}) {
		t.Error("an echo after a second")
	}
}
