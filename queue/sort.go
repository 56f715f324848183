package queue

import (
	"context"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sluice/queue/process"
)

// unsorted is an entry of the trash without a class.
type unsorted struct {
	TenantID  int64
	ProcessID uuid.UUID
	MessageID int64
	Reason    string
}

// sortTrash gives entries of the trash that have none a class and a cause: those of a database that is older than these
// are. What put them there is read from their reasons.
func (e *Engine) sortTrash(ctx context.Context) error {
	for {
		rows, _ := e.pool.Query(ctx, `
			select tenant_id, process_id, message_id, reason from sluice.trash
			where class is null order by tenant_id, process_id, message_id limit 2000`)
		entries, err := pgx.CollectRows(rows, pgx.RowToStructByName[unsorted])
		if err != nil || len(entries) == 0 {
			return err
		}
		var tenants, messages, causes []int64
		var processes [][16]byte
		var classes []string
		for _, t := range entries {
			tenants, processes, messages = append(tenants, t.TenantID), append(processes, t.ProcessID), append(messages, t.MessageID)
			classes = append(classes, string(classOf(t.Reason)))
			causes = append(causes, process.HashOf(process.CauseOf(t.Reason)))
		}
		if _, err := e.pool.Exec(ctx, `
			update sluice.trash t set class = s.class, cause = s.cause
			from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[]) as s(tenant_id, process_id, message_id, class, cause)
			where t.tenant_id = s.tenant_id and t.process_id = s.process_id and t.message_id = s.message_id and t.class is null`,
			tenants, processes, messages, classes, causes); err != nil {
			return err
		}
	}
}

var usedUp = regexp.MustCompile(`\(after \d+ attempts\)$`)

// classOf guesses from its reason what kind of failure an entry is.
func classOf(reason string) process.Class {
	switch {
	case reason == cancelledReason, reason == "its job was deleted through River":
		return process.ClassCancelled
	case strings.HasSuffix(reason, " was deleted"):
		return process.ClassDeleted
	case strings.Contains(reason, " gave a result that Postgres refuses: "):
		return process.ClassStorage
	case strings.Contains(reason, "which is no follower of node") || strings.Contains(reason, "its reply breaks the protocol"):
		return process.ClassReply
	case usedUp.MatchString(reason):
		return process.ClassExhausted
	}
	return process.ClassRejected
}
