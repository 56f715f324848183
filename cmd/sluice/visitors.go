package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// visitors is a listener that knows which of its connections are open. http.Server's own Shutdown overlooks a connection that
// was accepted while it looked and is not in its list yet: it returns, the program ends, and a producer hears nothing.
type visitors struct {
	net.Listener

	mu   sync.Mutex
	open int           // connections, and calls of Accept
	gone chan struct{} // closed when there are none; nil until somebody waits
}

// Accept implements [net.Listener].
func (v *visitors) Accept() (net.Conn, error) {
	v.enter() // before there is a connection, so that there is no moment in which it is not counted
	conn, err := v.Listener.Accept()
	if err != nil {
		v.leave()
		return nil, err
	}
	return &visitor{Conn: conn, leave: sync.OnceFunc(v.leave)}, nil
}

func (v *visitors) enter() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open++
}

func (v *visitors) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open--; v.open == 0 && v.gone != nil {
		close(v.gone)
		v.gone = nil
	}
}

// farewell is how long one has who connected at the last moment and has asked nothing yet: more than a producer needs
// between connecting and asking, and less than anybody minds who waits for a restart.
const farewell = time.Second

// wait returns when all connections are closed, ctx ends, or farewell is over. The listener must be closed.
func (v *visitors) wait(ctx context.Context) {
	v.mu.Lock()
	if v.open == 0 {
		v.mu.Unlock()
		return
	}
	gone := make(chan struct{})
	v.gone = gone
	v.mu.Unlock()
	select {
	case <-gone:
	case <-time.After(farewell):
	case <-ctx.Done():
	}
}

type visitor struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (v *visitor) Close() error {
	defer v.leave()
	return v.Conn.Close()
}
