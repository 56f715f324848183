package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sluice/queue/topology"
)

func TestEdgesCommand(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t)
	slow := newSlowWorker(t)
	w.run("worker", "add", "slow", slow.URL).exits(exitOK)
	w.typing("topology: full\nbounds: {messages: 2, bytes: 1536KiB}\nnodes:\n  in: {kind: start, followers: [out]}\n  out: {kind: custom, worker: slow, concurrency: 1, order_by: X-Customer}\n").
		run("topology", "apply", "-", "--enable").exits(exitOK)
	w.run("topology", "show", "full").exits(exitOK).says("2 messages, 1.5 MiB", "CONCURRENCY", "x-customer")
	shows := func(want string, args ...string) {
		t.Helper()
		if got := strings.Join(strings.Fields(w.run(append([]string{"topology", "edges", "full"}, args...)...).ok()), " "); !strings.HasSuffix(got, want) {
			t.Errorf("it shows %s, want %s", got, want)
		}
	}
	shows("VERSION FROM TO OPEN BYTES WAITING RUNNING HELD RETRYING TRASH OLDEST v1 in out 0 0 B 0 0 0 0 0 - Open: 0 of 2 messages, 0 B of 1.5 MiB.")
	w.run("send", "full", "in", "--data", strings.Repeat("x", 1536)).exits(exitOK)
	<-slow.called
	shows("v1 in out 1 1.5 KiB 0 1 0 0 0 - Open: 1 message, 1.5 KiB.", "--version", "1")
	if got := decode[depthsView](w.run("topology", "edges", "full", "--output", "json")); got.Messages != 1 || got.Bounds != (topology.Bounds{Messages: 2, Bytes: 1536 << 10}) || got.Items[0].Running != 1 {
		t.Errorf("%+v", got)
	}

	watch := w.start("topology", "edges", "full", "--watch", "--every", "200ms")
	watch.until(watch.stdout, "IN/S")
	many := w.typing("1\n2\n").start("send", "full", "in", "--ndjson") // one more than there is room for
	watch.until(watch.stdout, "2 of 2 messages")
	close(slow.let)
	watch.until(watch.stdout, "0 of 2 messages")
	if code := <-many.ended; code != exitOK || !strings.Contains(many.stdout.String(), "2 accepted, 0 accepted before, 0 refused") {
		t.Errorf("exit code %d: %s%s", code, many.stdout, many.stderr)
	}
	many.ended <- exitOK
	if code := watch.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, watch.stderr)
	}

	programs := w.start("topology", "edges", "full", "--watch", "--every", "200ms", "--output", "json")
	eventually(t, "several documents", func() bool {
		d := json.NewDecoder(strings.NewReader(programs.stdout.String()))
		n := 0
		for d.More() {
			var got depthsView
			if d.Decode(&got) != nil || len(got.Items) != 1 {
				break
			}
			n++
		}
		return n >= 3
	})
	programs.stop()

	w.run("topology", "edges", "none").exits(exitFailed).complains("no such topology", "sluice topology list")
	w.run("topology", "edges", "full", "--watch", "--every", "1ms").exits(exitUsage).complains("--every 1ms is too often")
}

func TestAmounts(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1 << 20: "1 MiB", 5<<30 + 1<<29: "5.5 GiB", 3 << 40: "3 TiB", 5 << 50: "5120 TiB"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 1234567: "1ms", 61500 * time.Millisecond: "1m2s", 26*time.Hour + 10*time.Second: "26h"} {
		if got := lapse(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
