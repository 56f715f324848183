package topology_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"sluice/queue/topology"
)

func orderBy(t testing.TB, text string) topology.OrderBy {
	t.Helper()
	o, err := topology.ParseOrderBy(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// The key is the text of the value, exactly, or its digest if it is no short text.
func TestOrderByBody(t *testing.T) {
	t.Parallel()
	const order = ` {"id": 12345678901234567890123456789, "total": 1.50, "paid": true, "note": null, "empty": "",
		"customer": {"id": "c-1", "id": "c-2", "odd name": "\u00e9\ud83d\ude00\n\/", "é": "ü"},
		"lines": [{"sku": "a"}, {"sku": "b", "tags": []}, ["x", -0.5e+3]], "\u0069d2": 2, "half": "\ud800", "other half": "\uD801", "nul": "a\u0000"} `
	for path, want := range map[string]string{
		"$.id":                     "12345678901234567890123456789",
		"$.total":                  "1.50",
		"$.paid":                   "true",
		"$.note":                   "",
		"$.empty":                  "",
		"$.customer.id":            "c-1",
		`$['customer']["id"]`:      "c-1",
		"$ [ 'customer' ] .id":     "c-1",
		"$.customer['odd name']":   "é😀\n/",
		"$.customer.é":             "ü",
		`$.customer['\u00E9']`:     "ü",
		"$.customer":               digest(`{"id": "c-1", "id": "c-2", "odd name": "\u00e9\ud83d\ude00\n\/", "é": "ü"}`),
		"$.lines[0].sku":           "a",
		"$.lines[-2].sku":          "b",
		"$.lines[-1][1]":           "-0.5e+3",
		"$.lines[2][-2]":           "x",
		"$.lines[1]":               digest(`{"sku": "b", "tags": []}`),
		"$.lines[1].tags":          digest("[]"),
		"$.lines[1].tags[0]":       "",
		"$.lines[1].tags[-1]":      "",
		"$.lines[3]":               "",
		"$.lines[-4]":              "",
		"$.lines.sku":              "",
		"$[0]":                     "",
		"$.missing":                "",
		"$.id.deeper":              "",
		"$.id2":                    "2",
		"$.half":                   digest("\xed\xa0\x80"),
		"$['other half']":          digest("\xed\xa0\x81"),
		"$.nul":                    digest("a\x00"),
		"$":                        digest(strings.TrimSpace(order)),
		"$.lines[1073741824]":      "",
		"$.lines[-1073741824].sku": "",
	} {
		if got := orderBy(t, path).Key(nil, []byte(order)); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	long := strings.Repeat("a", 200)
	for body, want := range map[string]string{
		"": "", " ": "", "null": "", "nul": "", `"a"`: "a", `"a`: "", "7": "7", "-": "", "a=1": "", "{": "", "[1,": "", "[1}": "", "false": "false", "\xef\xbb\xbf1": "", "\"\xff\"": digest("\xff"), `"\x"`: "", "\"\n\"": "",
		`"` + long + `"`: long, `"` + long + `a"`: digest(long + "a"), `"` + strings.Repeat(`\u0061`, 200) + `"`: long,
		strings.Repeat("1", 201): digest(strings.Repeat("1", 201)), strings.Repeat("[", 1_000_000): "", strings.Repeat("[", 1_000_000) + "]": "",
	} {
		if got := orderBy(t, "$").Key(nil, []byte(body)); got != want {
			t.Errorf("%.40q: got %q, want %q", body, got, want)
		}
	}
	if got := (topology.OrderBy{}).Key(map[string]string{"": "a"}, []byte(`"a"`)); got != "" {
		t.Errorf("the zero value has the key %q", got)
	}
}

// The names of headers have no case, and what can be no key becomes a digest.
func TestOrderByHeader(t *testing.T) {
	t.Parallel()
	o := orderBy(t, "Customer-ID")
	if o.String() != "customer-id" {
		t.Errorf("it is %q", o)
	}
	long := strings.Repeat("é", 101)
	for _, test := range []struct {
		headers map[string]string
		want    string
	}{
		{nil, ""},
		{map[string]string{"other": "x"}, ""},
		{map[string]string{"customer-id": " 7 "}, " 7 "},
		{map[string]string{"CUSTOMER-Id": "7"}, "7"},
		{map[string]string{"CUSTOMER-ID": "6", "customer-id": "7", "Customer-Id": "8"}, "7"},
		{map[string]string{"CUSTOMER-ID": "6", "Customer-Id": "8"}, "8"},
		{map[string]string{"customer-id": long}, digest(long)},
		{map[string]string{"customer-id": "\xff"}, digest("\xff")},
		{map[string]string{"customer-id": "\x00"}, digest("\x00")},
	} {
		if got := o.Key(test.headers, []byte(`{"customer-id": 1}`)); got != test.want {
			t.Errorf("%v: got %q, want %q", test.headers, got, test.want)
		}
	}
}

// What names no value, or may name several, is refused with the reason.
func TestOrderByRefused(t *testing.T) {
	t.Parallel()
	many := "it may name several values, and a message has one key"
	neither := "it is neither the name of a header (letters, digits, - and _) nor a path that begins with $"
	for text, want := range map[string]string{
		"":                        "it is empty",
		"a b":                     neither,
		"order.id":                neither,
		".id":                     neither,
		"é":                       neither,
		"$.*":                     many,
		"$..id":                   many,
		"$[*]":                    many,
		"$[?@.a]":                 many,
		"$[0,1]":                  many,
		"$[0 , 1]":                many,
		"$['a','b']":              many,
		"$[0:1]":                  many,
		"$[:1]":                   many,
		"$.":                      "the path ends too early",
		"$ ":                      "the path ends too early",
		"$.a ":                    "the path ends too early",
		"$[":                      "the path ends too early",
		"$[0":                     "the path ends too early",
		"$['a":                    "the path ends too early",
		`$['a\`:                   `the path has an unexpected '\\' at character 5`,
		`$['a\"']`:                `the path has an unexpected '\\' at character 5`,
		`$["a\'"]`:                `the path has an unexpected '\\' at character 5`,
		`$['\u12']`:               `the path has an unexpected '\\' at character 4`,
		"$['\n']":                 `the path has an unexpected '\n' at character 4`,
		`$['\ud800']`:             "the path has half a surrogate pair, which is no character",
		"$a":                      "the path has an unexpected 'a' at character 2",
		"$.1":                     "the path has an unexpected '1' at character 3",
		"$.a-b":                   "the path has an unexpected '-' at character 4",
		"$.é.€ x":                 "the path has an unexpected 'x' at character 7",
		"$. a":                    "the path has an unexpected ' ' at character 3",
		"$[a]":                    "the path has an unexpected 'a' at character 3",
		"$[]":                     "the path has an unexpected ']' at character 3",
		"$[01]":                   "the path has an unexpected '1' at character 4",
		"$[-0]":                   "the path has no index of an item at character 3",
		"$[-]":                    "the path has no index of an item at character 3",
		"$[1073741825]":           "the path has no index of an item at character 3",
		"$[99999999999999999999]": "the path has no index of an item at character 3",
		"$.\xff":                  "it is not UTF-8 text of at most 200 characters",
		strings.Repeat("a", 201):  "it is not UTF-8 text of at most 200 characters",
	} {
		if o, err := topology.ParseOrderBy(text); err == nil || err.Error() != want || !o.IsZero() {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// reference finds the key by way of encoding/json. It does not know it of texts
// that are no UTF-8.
func reference(t *testing.T, path []any, body []byte) (key string, known bool) {
	for depth, to := range path {
		d := json.NewDecoder(bytes.NewReader(body))
		begin, err := d.Token()
		ok(t, err)
		name, isName := to.(string)
		if want := map[bool]json.Delim{true: '{', false: '['}[isName]; begin != want {
			return "", true
		}
		var values []json.RawMessage
		for d.More() {
			member := ""
			if isName {
				token, err := d.Token()
				ok(t, err)
				member = token.(string)
			}
			if strings.ContainsRune(member, utf8.RuneError) {
				return "", false
			}
			var value json.RawMessage
			ok(t, d.Decode(&value))
			if !isName || member == name {
				values = append(values, value)
			}
		}
		index, _ := to.(int)
		if index < 0 {
			index += len(values)
		}
		if index < 0 || index >= len(values) {
			return "", true
		}
		body = values[index]
		_ = depth
	}
	body = bytes.Trim(body, " \t\r\n")
	switch body[0] {
	case 'n':
		return "", true
	case '{', '[':
		return digest(string(body)), true
	case '"':
		var s string
		ok(t, json.Unmarshal(body, &s))
		if strings.ContainsRune(s, utf8.RuneError) {
			return "", false
		}
		body = []byte(s)
	}
	if len(body) > 200 || bytes.IndexByte(body, 0) >= 0 {
		return digest(string(body)), true
	}
	return string(body), true
}

// Whatever the body, a key comes out that Postgres takes; of JSON it is the one that
// encoding/json finds.
func FuzzOrderByKey(f *testing.F) {
	for _, seed := range []string{
		`{"a": {"b": [1, "two", {"c": null}]}}`, `{"a":1,"a":2}`, `{"a":{"b":"\ud83d\ude00\u0000\\\"\/"}}`, `[[[["a"]]],-1.5E+7]`, ` {"\u0061" : [ ] } `, `{"a":"` + "\xff" + `"}`, `{"a":"\ud800"}`,
		`{"a":[1,2,3],"b":`, `{"a":tru}`, `[01]`, `{"a":{"b":1}`, `""`, "{}", "[]", `{"":{"":0}}`, `[{"a":1},{"a":2}]`,
	} {
		f.Add([]byte(seed), "a", "b", -1)
		f.Add([]byte(seed), "", "a", 0)
	}
	f.Fuzz(func(t *testing.T, body []byte, first, second string, index int) {
		index %= 1 << 20
		for _, path := range [][]any{{}, {first}, {index}, {first, second}, {first, index}, {index, first}, {index, index}, {first, second, index}} {
			text := "$"
			for _, to := range path {
				if name, isName := to.(string); isName {
					quoted, err := json.Marshal(name)
					ok(t, err)
					text += "[" + string(quoted) + "]"
				} else {
					text += fmt.Sprintf("[%d]", to)
				}
			}
			o, err := topology.ParseOrderBy(text)
			if err != nil {
				if utf8.RuneCountInString(text) <= 200 && !strings.Contains(text, `\u`) {
					t.Fatalf("%s: %v", text, err)
				}
				continue
			}
			got := o.Key(nil, body)
			if len(got) > 200 || !utf8.ValidString(got) || strings.IndexByte(got, 0) >= 0 {
				t.Fatalf("%s: %q can be no key", text, got)
			}
			if !json.Valid(body) || slices.ContainsFunc(path, func(to any) bool {
				name, _ := to.(string)
				return strings.ContainsRune(name, utf8.RuneError) || !utf8.ValidString(name)
			}) {
				continue
			}
			if want, known := reference(t, path, body); known && got != want {
				t.Fatalf("%s: got %q, want %q", text, got, want)
			}
		}
	})
}

// Whatever is read as a path comes back as the same.
func FuzzParseOrderBy(f *testing.F) {
	for _, seed := range []string{"customer-id", "$", "$.a.b[0]", "$['a\\'b'][\"c\\\"\"][-1]", "$ [ 0 ]\t.é", "$..a", "$[?@.a]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := topology.ParseOrderBy(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("no reason")
			}
			return
		}
		again, err := topology.ParseOrderBy(o.String())
		ok(t, err)
		if fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", o) {
			t.Fatalf("got %#v, want %#v", again, o)
		}
		file := fmt.Sprintf("topology: t\nnodes:\n  in: {kind: start, followers: [a]}\n  a: {kind: custom, worker: w, order_by: %q}\n", text)
		if g, err := topology.Parse("f", []byte(file)); err == nil && g.Nodes[1].OrderBy.String() != o.String() {
			t.Fatalf("came back as %q", g.Nodes[1].OrderBy)
		}
	})
}

func BenchmarkOrderByKey(b *testing.B) {
	var body strings.Builder
	body.WriteString(`{"id":"evt_1","type":"order.changed","lines":[`)
	for i := range 12 {
		fmt.Fprintf(&body, `{"sku":"sku-%d","quantity":%d,"price":"12.50","note":"gift \"wrapped\""},`, i, i)
	}
	body.WriteString(`{}],"order":{"total":120.5,"customer":{"name":"Ada","id":"customer-4711"}}}`)
	headers := map[string]string{"content-type": "application/json", "customer-id": "customer-4711", "x-request-id": "1"}
	for _, text := range []string{"customer-id", "$.id", "$.order.customer.id", "$.lines[-2].sku"} {
		b.Run(text, func(b *testing.B) {
			o := orderBy(b, text)
			data := []byte(body.String())
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if o.Key(headers, data) == "" {
					b.Fatal("no key")
				}
			}
		})
	}
}
