package gateway_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"sluice/gateway"
	"sluice/migrations/pgtest"
)

// pipe leads to a database, until it is cut or blocked.
type pipe struct {
	url           string
	near          string // where it begins
	network, base string // where it leads to
	t             *testing.T
	running       sync.WaitGroup

	mu      sync.Mutex
	door    net.Listener
	flows   bool // new connections lead somewhere
	blocked chan struct{}
	conns   map[net.Conn]bool
}

func newPipe(t *testing.T, url string) *pipe {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	ok(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	ok(t, err)
	p := &pipe{
		t: t, near: listener.Addr().String(),
		url:   fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", config.User, listener.Addr(), config.Database),
		flows: true, conns: map[net.Conn]bool{},
	}
	p.network, p.base = pgconn.NetworkAddress(config.Host, config.Port)
	p.listen(listener)
	t.Cleanup(func() {
		p.refuse()
		p.running.Wait()
	})
	return p
}

func (p *pipe) listen(door net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.door = door
	p.running.Go(func() {
		for {
			near, err := door.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).Dial(p.network, p.base)
			if err != nil || !p.keep(near, far) {
				near.Close()
				continue
			}
			p.running.Go(func() { p.copy(near, far) })
			p.running.Go(func() { p.copy(far, near) })
		}
	})
}

// refuse is cut, and nobody is there any more who would let a connection in.
func (p *pipe) refuse() {
	p.mu.Lock()
	p.door.Close()
	p.mu.Unlock()
	p.cut()
}

// reopen undoes refuse.
func (p *pipe) reopen() {
	p.t.Helper()
	door, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", p.near)
	ok(p.t, err)
	p.listen(door)
	p.mend()
}

func (p *pipe) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if !p.flows {
			c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return p.flows
}

func (p *pipe) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		blocked := p.blocked
		p.mu.Unlock()
		if blocked != nil {
			<-blocked
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut ends what flows, and lets nothing flow any more.
func (p *pipe) cut() {
	p.unblock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flows = false
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *pipe) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flows = true
}

// block keeps back what would flow: who waits for it waits.
func (p *pipe) block() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = make(chan struct{})
}

func (p *pipe) unblock() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blocked != nil {
		close(p.blocked)
		p.blocked = nil
	}
}

// While the database is away, every operation says so, and when to come again; when it is back, all is as before.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	p := newPipe(t, pgtest.New(t).URL)
	d := openOn(t, p.url, func(c *gateway.Config) { c.AcceptTime = time.Second })
	w := d.newWorld()
	all := d.operations()
	d.mayFail.Store(true)
	p.cut()
	d.until("the door knows neither keys nor workers any more", func() bool { // which it remembers for a moment
		resp, _ := d.ask(d.admin, w, all["test-worker"], example{body: `{"action":"work"}`})
		return resp.StatusCode == 503
	})
	for _, e := range w.examples() {
		o := all[e.op]
		resp, body := d.ask(d.admin, w, o, e)
		if (e.op == "import-topology" || e.op == "list-trace-keys") && resp.StatusCode == http.StatusOK {
			continue // they ask the database nothing, and the key is remembered for a moment
		}
		want := http.StatusServiceUnavailable
		if o.path == "/healthz" {
			want = 200
		}
		if resp.StatusCode != want || want == 503 && !strings.Contains(string(body), `"code":"unavailable"`) {
			t.Errorf("%s: %d %s", e.op, resp.StatusCode, body)
		}
	}
	p.mend()
	d.opensAgain()
}

// opensAgain waits until all is as before.
func (d *door) opensAgain() {
	d.t.Helper()
	d.until("the door opens again", func() bool {
		resp, _ := d.send(d.ingest, "POST", inbox, []byte("fail"))
		return resp.StatusCode == 202
	})
	d.until("it is ready again", func() bool {
		resp, _ := d.send("", "GET", "/readyz", nil)
		return resp.StatusCode == 200
	})
	d.mayFail.Store(false)
	a := d.post(inbox, []byte("fail"))
	d.becomes(a.CorrelationID, "failed")
}

// A database that takes the question and does not answer keeps nobody waiting longer than is allowed. Whether the event
// was stored is left open then, and its key makes it safe to ask again.
func TestDatabaseSilent(t *testing.T) {
	t.Parallel()
	p := newPipe(t, pgtest.New(t).URL)
	d := openOn(t, p.url, func(c *gateway.Config) { c.AcceptTime = time.Second })
	d.newWorld()
	d.mayFail.Store(true)
	d.post(inbox, []byte("warm"))
	p.block()
	start := time.Now()
	resp, body := d.send(d.ingest, "POST", inbox, []byte("in doubt"), "Idempotency-Key", "in doubt")
	says := "send it again"
	if strings.Contains(string(body), "does not answer") { // the key had to be looked up again, so nothing is in doubt
		says = `"code":"unavailable"`
	}
	if took := time.Since(start); resp.StatusCode != 503 || took > 9*time.Second || !strings.Contains(string(body), says) {
		t.Errorf("%d after %s: %s", resp.StatusCode, took, body)
	}
	p.unblock()
	d.opensAgain()
	a := d.post(inbox, []byte("in doubt"), "Idempotency-Key", "in doubt")
	d.becomes(a.CorrelationID, "done")
	var n int
	ok(t, d.pool.QueryRow(t.Context(), `select count(*) from sluice.message where convert_from(body, 'UTF8') = 'in doubt'`).Scan(&n))
	if n != 1 {
		t.Errorf("stored %d times", n)
	}
}

// Many who post and read at the same time all get their answers.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.newWorld()
	var at sync.WaitGroup
	for i := range 64 {
		at.Go(func() {
			for range 10 {
				a := d.post(inbox, []byte("x"))
				if i%8 == 0 {
					d.becomes(a.CorrelationID, "done")
				}
			}
		})
	}
	at.Wait()
	var list page[processState]
	d.do(200, "GET", "/v1/processes?limit=500", nil, &list)
	if len(list.Items) != 500 || list.Next == "" {
		t.Errorf("%d listed", len(list.Items))
	}
	seen := map[string]bool{}
	for after, pages := "", 0; after != "" || pages == 0; pages++ {
		var list page[processState]
		d.do(200, "GET", "/v1/processes?limit=100&after="+after, nil, &list)
		for _, p := range list.Items {
			seen[p.CorrelationID] = true
		}
		after = list.Next
	}
	if len(seen) != 643 {
		t.Errorf("%d processes, want 643", len(seen))
	}
}
