package queue

import (
	"context"
	"fmt"

	"sluice/queue/topology"
)

// Pulse is what tells whether a tenant's lists may have changed, by list: texts that are others when they have.
type Pulse map[string]string

// PulseOf reads it. It costs a few probes and a sum over the counters of edges, however much there is.
func PulseOf(ctx context.Context, db topology.DB, tenant int64) (Pulse, error) {
	var configuration, moved, failed, decided, held, down, counted string
	err := db.QueryRow(ctx, `
		select coalesce((select revision from sluice.configuration where tenant_id = $1), 0)::text,
		       (select coalesce(sum(arrived + departed), 0) from sluice.edge_count where tenant_id = $1)::text,
		       coalesce((select failed_at::text || message_id from sluice.trash where tenant_id = $1 order by failed_at desc, message_id desc limit 1), ''),
		       coalesce((select id from sluice.decision where tenant_id = $1 order by id desc limit 1), 0)::text,
		       (select coalesce(sum(held), 0) from sluice.limiter_gate where tenant_id = $1)::text
		       || '+' || (select coalesce(sum(held), 0) from sluice.limiter_delta where tenant_id = $1)::text,
		       (select count(down_since)::text || coalesce(max(down_since)::text, '') from sluice.worker where tenant_id = $1 and removed_at is null),
		       (select minutes_until::text from sluice.rollup_mark)`, tenant).
		Scan(&configuration, &moved, &failed, &decided, &held, &down, &counted)
	return Pulse{
		"topologies": configuration,
		"processes":  fmt.Sprint(moved, decided),
		"trash":      fmt.Sprint(failed, " ", decided),
		"limits":     fmt.Sprint(configuration, " ", held),
		"workers":    fmt.Sprint(configuration, " ", down),
		"overview":   counted,
	}, err
}
