package queue

import (
	"context"
	"sync"
)

// idBlock hands out job ids, which are message numbers, from blocks taken from River's sequence. A hand-off knows its
// successors' ids before it is sent, so that a commit whose answer was lost can be found again. Ids of a block that an
// engine did not use are lost; nothing needs them without gaps.
type idBlock struct {
	pool database

	mu   sync.Mutex
	free []int64
}

const idsAtOnce = 4096

// take returns n ids.
func (b *idBlock) take(ctx context.Context, n int) ([]int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	for len(b.free) < n {
		var more []int64
		if err := b.pool.QueryRow(ctx, takeIDsSQL, max(idsAtOnce, n)).Scan(&more); err != nil {
			return nil, err
		}
		b.free = append(b.free, more...)
	}
	ids := b.free[:n:n]
	b.free = b.free[n:]
	return ids, nil
}
