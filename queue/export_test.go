package queue

// Slots tells how many slots are free and how many messages are in flight: at rest, all and none.
func (e *Engine) Slots() (free, inFlight int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.slots, len(e.inFlight)
}

// Claimant is the id under which the runner claims now.
func (e *Engine) Claimant() int64 { return e.life().id }
