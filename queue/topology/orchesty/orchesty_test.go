package orchesty_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/queue/topology"
	"sluice/queue/topology/orchesty"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each form that Orchesty has of a topology becomes a file of ours, and what could
// not be carried is told.
func TestGolden(t *testing.T) {
	t.Parallel()
	workers := map[string]string{"Shop Worker": "shop", "shop:8080": "shop", "crm": "crm-eu"}
	for _, file := range []string{"orders.tplg", "contacts.tplg.json", "compiled.json"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			got, err := orchesty.Import(file, read(t, file), orchesty.Options{Workers: workers})
			ok(t, err)
			text := string(got.File) + "---\n"
			for _, item := range got.Report {
				text += item.String() + "\n"
			}
			golden := filepath.Join("testdata", file+".golden")
			if *update {
				ok(t, os.WriteFile(golden, []byte(text), 0o600))
			}
			want, err := os.ReadFile(golden)
			ok(t, err)
			if text != string(want) {
				t.Errorf("got\n%s", text)
			}
			sound(t, got)
		})
	}
}

// sound says that what came out is a topology file that is read as what it says.
func sound(t *testing.T, got orchesty.Imported) {
	t.Helper()
	parsed, err := topology.Parse("imported.yaml", got.File)
	ok(t, err)
	if !reflect.DeepEqual(parsed, got.Graph) {
		t.Errorf("the file says %+v, the graph is %+v", parsed, got.Graph)
	}
}

// A topology is called as it is told, or as its record, its drawing or its file is.
func TestName(t *testing.T) {
	t.Parallel()
	const body = `"nodes":[{"id":"a","shape":"circle","label":"Start"},{"id":"b","shape":"x","name":"b","action":{"name":"b","worker":"w"}}],"connections":[{"from":"a","to":"b"}]}`
	for _, test := range []struct{ file, data, told, want string }{
		{"dir/Order_Sync.tplg.json", "{" + body, "", "order-sync"},
		{`C:\x\orders.json`, "{" + body, "", "orders"},
		{"x", `{"name":"getOrders v2",` + body, "", "get-orders-v2"},
		{"x", `{"name":"getOrders",` + body, "mine", "mine"},
		{"x", `{"name":"` + strings.Repeat("ab-", 30) + `",` + body, "", strings.Repeat("ab-", 20) + "ab"},
	} {
		got, err := orchesty.Import(test.file, []byte(test.data), orchesty.Options{Name: test.told})
		ok(t, err)
		if got.Graph.Name != test.want {
			t.Errorf("%s: got %s, want %s", test.file, got.Graph.Name, test.want)
		}
	}
}

// A schema in a record may be a text with BPMN in it.
func TestSchemaInText(t *testing.T) {
	t.Parallel()
	data := fmt.Sprintf(`{"name":"wrapped","schema":%q}`, `<definitions><process><startEvent id="a" name="a"/><task id="b" name="b" pipes:sdkHostName="w"/><sequenceFlow sourceRef="a" targetRef="b"/></process></definitions>`)
	got, err := orchesty.Import("x.json", []byte(data), orchesty.Options{})
	ok(t, err)
	if n, _ := got.Graph.Node("b"); n.Worker != "w" || got.Graph.Name != "wrapped" || got.Report != nil {
		t.Errorf("got %+v, %v", got.Graph, got.Report)
	}
}

// A file that is no drawing, or means harm, is refused with what is wrong.
func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("<a>", 100)
	for want, data := range map[string]string{
		"it is empty":                    " \n",
		"it is neither BPMN nor JSON":    "topology: orders",
		"it is not UTF-8":                "{\"\xff",
		"is not valid XML":               "<definitions><process></definitions>",
		"it ends within an element":      "<definitions>",
		"its first element is":           "<html></html>",
		"nested more than 64 deep":       "<definitions>" + deep,
		"document type definition":       `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><definitions/>`,
		"it has no nodes":                "{}",
		"it has no start, cron":          `{"nodes":[{"id":"a","shape":"x","action":{"name":"a"}}]}`,
		"values are nested more than 64": `{"nodes":` + strings.Repeat("[", 100),
		"is not the JSON of a topology":  `{"nodes":[{"id":{}}]}`,
		"more than 2000 elements":        `{"nodes":[` + strings.TrimSuffix(strings.Repeat(`{"id":"a"},`, 2001), ",") + `]}`,
		"its schema is neither":          `{"schema":7}`,
		"it is larger than":              strings.Repeat(" ", orchesty.MaxFileSize+1),
	} {
		_, err := orchesty.Import("x", []byte(data), orchesty.Options{})
		if !errors.Is(err, orchesty.ErrUnreadable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %s", data, err, want)
		}
	}
}

// The worst that fits in costs a moment: nodes that are all called the same, gateways
// that lead to each other, and as many connections as there may be.
func TestCost(t *testing.T) {
	t.Parallel()
	var same, gates strings.Builder
	same.WriteString(`<definitions><process><startEvent id="s" name="n"/>`)
	for i := range 999 {
		fmt.Fprintf(&same, `<task id="t%d" name="n" pipes:sdkHostName="w"/><sequenceFlow sourceRef="s" targetRef="t%d"/>`, i, i)
	}
	gates.WriteString(`<definitions><process><startEvent id="s" name="n"/><task id="t" name="t" pipes:sdkHostName="w"/><sequenceFlow sourceRef="g0" targetRef="t"/><sequenceFlow sourceRef="s" targetRef="g0"/>`)
	for i := range 1900 {
		fmt.Fprintf(&gates, `<gateway id="g%d"/>`, i)
		for k := range 10 {
			fmt.Fprintf(&gates, `<sequenceFlow sourceRef="g%d" targetRef="g%d"/>`, i, (i*7+k)%1900)
		}
	}
	const end = `</process></definitions>`
	for name, data := range map[string]string{"same": same.String() + end, "gates": gates.String() + end} {
		start := time.Now()
		got, err := orchesty.Import("x", []byte(data), orchesty.Options{})
		ok(t, err)
		sound(t, got)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %s", name, took)
		}
		if len(got.Report) > 1001 {
			t.Errorf("%s: %d items in the report", name, len(got.Report))
		}
	}
}

// Whatever comes in, what comes out is refused in words or sound.
func FuzzImport(f *testing.F) {
	for _, file := range []string{"orders.tplg", "contacts.tplg.json", "compiled.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file, data)
	}
	f.Add("x", []byte(`{"nodes":[{"id":1,"shape":"circle"},{"id":2,"action":{"type":"é","name":"..","app":"A b"}}],"connections":[{"from":1,"to":2},{"from":2,"to":2}]}`))
	f.Add("x", []byte("<process><startEvent id='a'/><task id='b' pipes:timeout='-1' pipes:repeaterEnabled='1'/><sequenceFlow sourceRef='a' targetRef='b'/></process>"))
	f.Fuzz(func(t *testing.T, file string, data []byte) {
		got, err := orchesty.Import(file, data, orchesty.Options{})
		if _, made := errors.AsType[*topology.InvalidError](err); made {
			t.Fatalf("made an invalid topology: %s", err)
		}
		if err == nil {
			sound(t, got)
		}
	})
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	ok(t, err)
	return data
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
