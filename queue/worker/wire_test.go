package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
	"sluice/queue/worker/workertest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What goes over the wire, to the byte. The clock stands at the first second of
// 2100, and the connection leads to a listener whatever the URL says.
func TestWire(t *testing.T) {
	t.Parallel()
	start := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	secret := func(raw string) worker.Secret {
		return parse(t, "whsec_"+base64.StdEncoding.EncodeToString([]byte(raw)))
	}
	first, second := secret("sluice-test-secret-of-32-bytes!!"), secret("sluice-test-secret-to-come-after")
	crm := worker.Target{Name: "crm", URL: "http://crm.example:8080/hooks/", Secrets: []worker.Secret{first}}
	message := worker.Request{
		Action:        "enrich",
		MessageID:     "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711",
		CorrelationID: "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60",
		Topology:      "orders", Version: 3, Node: "enrich", Attempt: 1,
		Headers:  map[string]string{"content-type": "application/json; charset=utf-8", "x-github-event": "push", "x-shop": "eu"},
		Body:     []byte("{\"order\": 17,\r\n \"a\": 1e400}"),
		Deadline: start.Add(30 * time.Second),
	}

	cases := map[string]func(*worker.Target, *worker.Request){
		"simple": func(*worker.Target, *worker.Request) {},
		"page": func(_ *worker.Target, r *worker.Request) {
			r.Application, r.Attempt, r.Page, r.Cursor = "hubspot", 4, 2, "after=ž&n=100%\n"
			r.Body, r.Headers = []byte(`{"a":1}`), nil
		},
		"first-page": func(_ *worker.Target, r *worker.Request) { r.Page = 1 },
		"unsafe": func(_ *worker.Target, r *worker.Request) {
			r.Action, r.Topology, r.Node = "sync orders/ž?x=y#z", "účty", "a\r\nSluice-Attempt: 99"
			r.Headers = map[string]string{
				"Content-Type": "text/plain", "X-Name": "Zoë", "x-lines": "a\r\nHost: evil\r\n\r\nb", "x-space": " a ", "x-percent": "100%", "x-empty": "", "X-TWICE": "no", "x-twice": "yes",
			}
			r.Body = []byte("\x00\xff")
		},
		"rotation": func(target *worker.Target, _ *worker.Request) { target.Secrets = []worker.Secret{first, second} },
		"bare": func(target *worker.Target, r *worker.Request) {
			target.URL, target.Secrets = "http://user:pass%20word@crm.example:8080?token=x", nil
			*r = worker.Request{MessageID: "1-1", Deadline: r.Deadline}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, r := crm, message
			change(&target, &r)
			got := transcript(t, start, target, r)
			file := filepath.Join("testdata", name+".http")
			if *update {
				ok(t, os.WriteFile(file, got, 0o644))
			}
			want, err := os.ReadFile(file)
			ok(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// transcript makes a call and returns the bytes that the worker got.
func transcript(t *testing.T, now time.Time, target worker.Target, r worker.Request) []byte {
	t.Helper()
	var got bytes.Buffer
	read := make(chan struct{})
	listener := workertest.Listen(t, func(conn net.Conn) {
		defer close(read)
		tee := io.TeeReader(conn, &got)
		req, err := http.ReadRequest(bufio.NewReader(tee))
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	var dialer net.Dialer
	c := newClient(t, worker.Config{Version: "1.2.3", Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, strings.TrimPrefix(listener.URL, "http://"))
	}})
	c.SetNow(now)
	_, err := c.Call(t.Context(), target, r)
	ok(t, err)
	<-read
	return got.Bytes()
}

// The signature of the golden page, computed without Go:
//
//	key=$(printf %s 'sluice-test-secret-of-32-bytes!!' | xxd -p -c 99)
//	printf %s '0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711-p2.4102444800.{"a":1}' |
//	    openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | base64
func TestWireSignature(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("testdata/page.http")
	ok(t, err)
	if !bytes.Contains(page, []byte("\r\nWebhook-Signature: v1,7zpUlq/LmrU9W03j1qZj7R5vznjs/E1Hr+TQgSqKuso=\r\n")) {
		t.Error("the page is not signed as openssl signs it")
	}
}
