package limiter

import (
	"sync"
	"time"
)

// Pacer lets calls begin no faster than a strict limit allows, as they really begin: what a bucket released on time may be
// late by the time that it is sent. The zero value has let nothing begin. It is safe for concurrent use.
type Pacer struct {
	mu sync.Mutex
	at time.Time // when the next call would be on time, if calls came one by one
}

// Begin says how long a call must wait that wants to begin now; 0: it begins, which is noted.
func (p *Pacer) Begin(l Limit, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := time.Duration(float64(time.Second) / l.Rate())
	if p.at.Before(now) {
		p.at = now
	}
	if wait := p.at.Sub(now) - time.Duration((l.Burst-1)*float64(each)); wait > 0 {
		return wait
	}
	p.at = p.at.Add(each)
	return 0
}

// Rests tells whether the pacer would let a call begin now as if none had been made.
func (p *Pacer) Rests(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at.Before(now)
}
