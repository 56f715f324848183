//go:build !linux

package queue

import "time"

// sinceBoot stands still while the machine sleeps, which the fence makes harmless: a call may be made twice, its effect
// is committed once.
func sinceBoot() time.Duration { return time.Since(started) }

var started = time.Now()
