package auth

import (
	"fmt"
	"sync"
	"time"
)

const (
	// A person mistypes a few times; whoever guesses needs millions.
	attemptsTime    = 15 * time.Minute
	attemptsOfName  = 10  // failures of a name from an address
	attemptsOfPlace = 100 // failures from an address, whatever the names: many people may sit behind one
	attemptsKept    = 20_000
)

// TooManyError says that sign-ins failed so often that no more are tried for a while.
type TooManyError struct{ RetryAfter time.Duration }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("too many sign-ins failed: try again in %s, or ask an administrator for a link", e.RetryAfter.Round(time.Second))
}

// attempts bounds the sign-ins that fail, by name and address and by address alone. A name is not bounded by itself:
// anybody could shut its owner out. It is of this process, and forgets what it cannot hold: what bounds all guessing
// together is that few passwords are worked at once.
type attempts struct {
	now func() time.Time

	mu     sync.Mutex
	failed map[string]failures
}

type failures struct {
	n     int
	until time.Time
}

// keys of what is counted, with how many may fail. The separator is in no address and in no name.
func attemptKeys(c Credentials, address string) map[string]int {
	return map[string]int{
		address: attemptsOfPlace,
		address + "\x00" + c.Tenant + "\x00" + c.Name: attemptsOfName,
	}
}

// admit returns [*TooManyError] to whom too many attempts have failed.
func (a *attempts) admit(c Credentials, address string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for key, most := range attemptKeys(c, address) {
		if f := a.failed[key]; f.n >= most && now.Before(f.until) {
			return &TooManyError{f.until.Sub(now)}
		}
	}
	return nil
}

// fail counts an attempt.
func (a *attempts) fail(c Credentials, address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if len(a.failed) >= attemptsKept {
		a.forget(now)
	}
	for key := range attemptKeys(c, address) {
		f := a.failed[key]
		if !now.Before(f.until) {
			f = failures{until: now.Add(attemptsTime)}
		}
		f.n++
		a.failed[key] = f
	}
}

// forget drops what is over, and if that is not enough, whatever comes first until there is room.
func (a *attempts) forget(now time.Time) {
	for key, f := range a.failed {
		if !now.Before(f.until) {
			delete(a.failed, key)
		}
	}
	for key := range a.failed {
		if len(a.failed) < attemptsKept/2 {
			return
		}
		delete(a.failed, key)
	}
}
