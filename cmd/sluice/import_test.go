package main

import (
	"os"
	"path/filepath"
	"testing"

	"sluice/queue/topology"
)

const drawnOrders = `<definitions><process name="Orders"><startEvent id="a" name="in"/><event id="c" name="nightly" pipes:pipesType="cron" pipes:cronTime="0 3 * * *"/>
<task id="b" name="fetch" pipes:pipesType="connector" pipes:sdkHostName="Shop Worker"/><sequenceFlow sourceRef="a" targetRef="b"/><sequenceFlow sourceRef="c" targetRef="b"/></process></definitions>`

// A topology of Orchesty's becomes a file that can be applied, and what it loses is told.
func TestTopologyImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	drawn := filepath.Join(dir, "orders.tplg")
	if err := os.WriteFile(drawn, []byte(drawnOrders), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.tplg")
	if err := os.WriteFile(broken, []byte("<definitions>"), 0o600); err != nil {
		t.Fatal(err)
	}

	r := w.run("topology", "import", drawn, "--worker", "Shop Worker=shop").exits(exitOK)
	r.says("topology: orders", "worker: shop")
	r.complains("lost", "0 3 * * *", "nightly")
	g, err := topology.Parse("orders.yaml", []byte(r.out))
	if n, _ := g.Node("fetch"); err != nil || n.Worker != "shop" {
		t.Fatalf("got %+v, %v", g, err)
	}

	out := filepath.Join(dir, "made")
	w.run("topology", "import", drawn, "--out", out, "--strict").exits(exitFailed).complains("nothing was written")
	w.run("topology", "import", drawn, broken, "--out", out).exits(exitFailed).complains("broken.tplg", "not valid XML", "nothing was written")
	if _, err := os.Stat(out); err == nil {
		t.Error("it was written")
	}
	w.run("topology", "import", drawn, "--out", out).exits(exitOK).says("3 nodes", "orders.yaml").complains("shop-worker")
	w.run("topology", "import", drawn, "--out", out).exits(exitFailed).complains("--force")
	w.run("topology", "import", drawn, "--out", out, "--force", "--name", "orders").exits(exitOK)
	w.run("topology", "validate", "--offline", filepath.Join(out, "orders.yaml")).exits(exitOK)
	w.run("topology", "import", drawn, broken).exits(exitUsage)
	w.run("topology", "import", drawn, "--worker", "shop").exits(exitUsage)

	got := decode[[]imported](w.typing(drawnOrders).run("topology", "import", "-", "--name", "mine", "--output", "json").exits(exitOK))
	if len(got) != 1 || got[0].Topology != "mine" || len(got[0].Report) != 2 {
		t.Errorf("got %+v", got)
	}
}
