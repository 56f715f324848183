package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

// wire is a line between two programs that can be slow, break or swallow what is sent.
type wire struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
	addr  string
}

// newWire leads from an address of its own to another.
func newWire(t *testing.T, to string) *wire {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "line", "127.0.0.1:0", to)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return &wire{t: t, proxy: p, addr: p.Listen}
}

// toxic is a trouble of a line.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Toxicity   float32        `json:"toxicity"` // share of the connections that it is on
	Attributes map[string]int `json:"attributes"`
}

func (w *wire) add(all ...toxic) {
	w.t.Helper()
	for _, x := range all {
		b, err := json.Marshal(x)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.proxy.Toxics.AddToxicJson(bytes.NewReader(b)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *wire) heal() { w.proxy.Toxics.ResetToxics(context.Background()) }

// bridge leads from a TCP address to a database's socket.
func bridge(t *testing.T, url string) (addr string, config *pgconn.Config) {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	var running sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	closed := false
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(network, address)
			if err != nil {
				near.Close()
				continue
			}
			mu.Lock()
			conns[near], conns[far] = true, true
			if closed {
				near.Close()
				far.Close()
			}
			mu.Unlock()
			join := func(to, from net.Conn) {
				io.Copy(to, from)
				to.Close()
				from.Close()
				mu.Lock()
				delete(conns, from)
				mu.Unlock()
			}
			running.Go(func() { join(near, far) })
			running.Go(func() { join(far, near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		closed = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().String(), config
}
