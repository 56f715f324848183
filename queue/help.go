package queue

import (
	"sync/atomic"
	"time"
)

const (
	helpAt    = 128                   // what waits for a commit when help is asked for
	lateAfter = 25 * time.Millisecond // or the time after which a commit is late
)

// help is how one who commits gets a second beside him: when much has gathered, or he is held up. Otherwise he is alone, as
// two statements for a few dozen cost more than one for all (measured: events over 64 connections 1.2 times as many, and
// half as many statements).
type help struct {
	wanted chan struct{}
	late   atomic.Bool // the first one is held up
	alarm  *time.Timer
}

func newHelp() *help {
	h := &help{wanted: make(chan struct{}, 1)}
	h.alarm = time.AfterFunc(time.Hour, func() {
		h.late.Store(true)
		h.call()
	})
	h.alarm.Stop()
	return h
}

// during calls for help if a commit of the first one takes long. No help is nil.
func (h *help) during(commit func()) {
	if h == nil {
		commit()
		return
	}
	h.alarm.Reset(lateAfter)
	commit()
	h.alarm.Stop()
	h.late.Store(false)
}

// offer is told whenever something comes, and how much waits.
func (h *help) offer(waits int) {
	if waits >= helpAt || h.late.Load() {
		h.call()
	}
}

func (h *help) call() {
	select {
	case h.wanted <- struct{}{}:
	default: // they are at it
	}
}
