package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/gateway/auth"
)

// fuzzer makes requests from the contract: right ones, nearly right ones and rubbish.
type fuzzer struct {
	d       *door
	w       world
	ids     []string // of operations, in order: rapid must find the same at the same place
	ops     map[string]operation
	schemas map[string]any
	plain   *http.Client // without the witness, so that rapid can make a failure small
}

// Whatever is sent, the answer is one that the contract has, and never a 5xx.
func TestRandomRequests(t *testing.T) {
	t.Parallel()
	d := open(t)
	f := &fuzzer{d: d, w: d.newWorld(), plain: &http.Client{Transport: d.client.Transport.(*witness).next, CheckRedirect: d.client.CheckRedirect}}
	f.ops = d.operations()
	delete(f.ops, "watch-changes") // it answers for minutes
	f.ids = slices.Sorted(maps.Keys(f.ops))
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	d.do(http.StatusOK, "GET", "/openapi.json", nil, &doc)
	f.schemas = doc.Components.Schemas
	answered := map[string]map[int]int{}
	rapid.Check(t, func(rt *rapid.T) {
		f.mend()
		for range 4 {
			op, status := f.request(rt)
			if answered[op] == nil {
				answered[op] = map[int]int{}
			}
			answered[op][status]++
		}
	})
	right := 0
	for _, statuses := range answered {
		for status, n := range statuses {
			if status < 300 {
				right += n
			}
		}
	}
	if right < 40 {
		t.Errorf("only %d of the requests were right: too few reach what they are to try", right)
	}
	t.Logf("%d right; %v", right, answered)
}

// mend puts back what a request may have taken away.
func (f *fuzzer) mend() {
	resp, _ := f.d.send(f.d.admin, "GET", "/v1/topologies/flow/versions/enabled", nil)
	switch resp.StatusCode {
	case 200:
		return
	case 401:
		f.d.admin = f.d.key(ours, auth.Admin)
	}
	f.d.send(f.d.admin, "POST", "/v1/workers", []byte(`{"name":"demo","url":"http://127.0.0.1:9"}`), "Content-Type", "application/json")
	f.d.enable("flow", flow)
}

func (f *fuzzer) request(rt *rapid.T) (op string, status int) {
	o := f.ops[rapid.SampledFrom(f.ids).Draw(rt, "operation")]
	method := o.method
	if rare(rt, 30, "other method") {
		method = rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"}).Draw(rt, "method")
	}
	path := o.path
	query, headers := url.Values{}, http.Header{}
	params, _ := o.document["parameters"].([]any)
	for _, p := range params {
		p := p.(map[string]any)
		name := p["name"].(string)
		value := f.text(rt, p["schema"].(map[string]any), name)
		switch p["in"] {
		case "path":
			path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(value))
		case "query":
			if rare(rt, 2, "give "+name) || p["required"] == true {
				query.Set(name, value)
			}
		case "header":
			if rare(rt, 3, "give "+name) {
				headers.Set(name, value)
			}
		}
	}
	if rare(rt, 20, "unknown query") {
		query.Set(f.anyText(rt, "name"), f.anyText(rt, "value"))
	}
	if rare(rt, 10, "own header") {
		headers.Set("Sluice-Header-"+rapid.SampledFrom([]string{"X", "Content-Type", "", "a_b", "Host"}).Draw(rt, "header"), f.anyText(rt, "header value"))
	}
	target := f.d.url + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body string
	if content, _ := o.document["requestBody"].(map[string]any); content != nil {
		media := slices.Sorted(maps.Keys(content["content"].(map[string]any)))[0]
		schema, _ := content["content"].(map[string]any)[media].(map[string]any)["schema"].(map[string]any) // none: bytes
		body = f.body(rt, o.id, media, schema)
		if media != "*/*" && !rare(rt, 20, "no type") {
			headers.Set("Content-Type", media)
		}
	}
	if rare(rt, 25, "other type") {
		headers.Set("Content-Type", rapid.SampledFrom([]string{"text/html", "application/json; charset=latin1", "x", "", "application/cbor"}).Draw(rt, "type"))
	}
	if rare(rt, 25, "accept") {
		headers.Set("Accept", rapid.SampledFrom([]string{"text/html", "application/cbor", "*/*;q=0", "x", "application/problem+json"}).Draw(rt, "accepts"))
	}
	r, err := http.NewRequestWithContext(f.d.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		return o.id, 0 // such a request nobody can make
	}
	r.Header = headers
	r.Header.Set("Authorization", "Bearer "+f.d.admin)
	resp, err := f.plain.Do(r)
	if err != nil {
		if strings.Contains(err.Error(), "invalid header") || strings.Contains(err.Error(), "not allowed") {
			return o.id, 0
		}
		rt.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		rt.Fatalf("%s %s: %v", method, target, err)
	}
	if resp.StatusCode >= 500 {
		rt.Fatalf("%s %s\n%v\n%.500q\n%d %s", method, target, headers, body, resp.StatusCode, answer)
	}
	if wrong := breach(r, resp, answer); wrong != "" {
		rt.Fatalf("%s %s\n%v\n%.500q\n%d %.1000s\nis not as the contract has it: %s", method, target, headers, body, resp.StatusCode, answer, wrong)
	}
	return o.id, resp.StatusCode
}

// rare is true once in n times.
func rare(rt *rapid.T, n int, what string) bool {
	return rapid.IntRange(1, n).Draw(rt, what) == 1
}

var oddTexts = []string{
	"", "x", "\x00", "\xff", "a\x00b", "..", ".", "/", "a/b", "%", "%00", "draft", "enabled", "0", "-1", "1", "2147483648", "99999999999999999999", "1e9", "null", "true",
	"röt", "\U0001f600", "\u202e", "'; drop table sluice.message; --", "<script>", "{{x}}", "\r\nX: y", "*", "00000000-0000-0000-0000-000000000000",
	"ffffffff-ffff-ffff-ffff-ffffffffffff-999999999999999999", strings.Repeat("x", 300), strings.Repeat("ö", 2000),
}

func (f *fuzzer) anyText(rt *rapid.T, what string) string {
	if rare(rt, 3, what+" is random") {
		return rapid.String().Draw(rt, what)
	}
	return rapid.SampledFrom(oddTexts).Draw(rt, what)
}

// text is a value of a parameter.
func (f *fuzzer) text(rt *rapid.T, schema map[string]any, name string) string {
	if rare(rt, 6, name+" is odd") {
		return f.anyText(rt, name)
	}
	if known, is := f.w.params[name]; is && name != "version" {
		return known
	}
	switch value := f.value(rt, schema, name, 0).(type) {
	case string:
		return value
	default:
		return fmt.Sprint(value)
	}
}

// body is a body of an operation: what its schema says, the example that is right, or rubbish.
func (f *fuzzer) body(rt *rapid.T, op, media string, schema map[string]any) string {
	var right string
	for _, e := range f.w.examples() {
		if e.op == op {
			right = e.body
		}
	}
	switch rapid.IntRange(0, 9).Draw(rt, "kind of body") {
	case 0:
		return f.anyText(rt, "body")
	case 1:
		return string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "bytes"))
	case 2:
		if len(right) > 0 {
			at := rapid.IntRange(0, len(right)-1).Draw(rt, "at")
			return right[:at] + rapid.SampledFrom(oddTexts).Draw(rt, "slip") + right[at+1:]
		}
	case 3, 4, 5:
		return right
	}
	if !strings.Contains(media, "json") || strings.Contains(media, "nd") {
		return strings.Repeat(right+"\n", rapid.IntRange(1, 3).Draw(rt, "lines"))
	}
	text, _ := json.Marshal(f.value(rt, schema, "body", 0))
	return string(text)
}

// value makes a value of a schema, mostly.
func (f *fuzzer) value(rt *rapid.T, schema map[string]any, what string, depth int) any {
	if ref, is := schema["$ref"].(string); is {
		return f.value(rt, f.schemas[ref[strings.LastIndexByte(ref, '/')+1:]].(map[string]any), what, depth)
	}
	if rare(rt, 12, what+" is wrong") || depth > 6 {
		return rapid.SampledFrom([]any{nil, true, 0, -1, 1.5, 1e300, "", "x", []any{}, map[string]any{}, []any{nil}, strings.Repeat("x", 5000)}).Draw(rt, what)
	}
	if values, is := schema["enum"].([]any); is {
		return rapid.SampledFrom(values).Draw(rt, what)
	}
	switch schema["type"] {
	case "string":
		if pattern, _ := schema["pattern"].(string); strings.Contains(pattern, "0-9a-f") {
			return rapid.SampledFrom([]string{f.w.params["message_id"], f.w.params["correlation_id"], f.w.entries[1], f.w.entries[2], f.w.params["correlation_id"] + "-1"}).Draw(rt, what)
		}
		return rapid.SampledFrom([]string{"1", "2", "draft", "enabled", "flow", "demo", "spare", "in", "work", "running", "http://127.0.0.1:9/x?y=z", "AP8=", "röt", f.anyText(rt, what)}).Draw(rt, what)
	case "integer", "number":
		return rapid.SampledFrom([]int64{1, 2, 3, 50, 500, 0, -1, 1000, 1 << 31, 1<<31 - 1, 1<<63 - 1, -1 << 63}).Draw(rt, what)
	case "boolean":
		return rapid.Bool().Draw(rt, what)
	case "array":
		list := []any{}
		for i := range rapid.IntRange(0, 3).Draw(rt, what+" has") {
			list = append(list, f.value(rt, schema["items"].(map[string]any), fmt.Sprint(what, i), depth+1))
		}
		return list
	case "object":
		object := map[string]any{}
		properties, _ := schema["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			if !rare(rt, 4, "without "+name) {
				object[name] = f.value(rt, properties[name].(map[string]any), name, depth+1)
			}
		}
		if of, is := schema["additionalProperties"].(map[string]any); is {
			object[f.anyText(rt, "key")] = f.value(rt, of, "entry", depth+1)
		} else if rare(rt, 10, "with more") {
			object[f.anyText(rt, "key")] = 1
		}
		return object
	}
	return rapid.SampledFrom([]any{nil, 1, "x", map[string]any{"a": []any{1}}}).Draw(rt, what) // anything goes
}
