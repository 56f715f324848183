package worker_test

import (
	"strings"
	"testing"

	"sluice/queue/worker"
)

func TestEncodeValue(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"":                           "",
		"plain":                      "plain",
		"a b":                        "a b",
		" a ":                        "%20a%20",
		" ":                          "%20",
		"100%":                       "100%25",
		"%41":                        "%2541",
		"Zoë":                        "Zo%C3%AB",
		"a\r\nSluice-Attempt: 99":    "a%0D%0ASluice-Attempt: 99",
		"tab\tnul\x00del\x7f":        "tab%09nul%00del%7F",
		"\xff\xfe":                   "%FF%FE",
		"https://x.test/?a=b&c=d#e~": "https://x.test/?a=b&c=d#e~",
	} {
		equal(t, "encoded", worker.EncodeValue(value), want)
		equal(t, "decoded", worker.DecodeValue(want), value)
	}
	// What nobody encoded is taken as it stands.
	for written, want := range map[string]string{"50% off": "50% off", "%": "%", "%4": "%4", "%zz%41": "%zzA", "%c3%ab": "ë"} {
		equal(t, "decoded", worker.DecodeValue(written), want)
	}
}

func TestCheckHeaders(t *testing.T) {
	t.Parallel()
	many := make(map[string]string)
	for i := range worker.MaxHeaders + 1 {
		many["x-"+strings.Repeat("y", i)] = ""
	}
	cases := []struct {
		name    string
		headers map[string]string
		want    string
	}{
		{"none", nil, ""},
		{"a few", map[string]string{"content-type": "text/plain", "x-a": "Zoë\n", "!#$%&'*+-.^_`|~": ""}, ""},
		{"too many", many, "65 headers"},
		{"as large as may be", map[string]string{"x": strings.Repeat("y", worker.MaxHeaderBytes-1)}, ""},
		{"too large", map[string]string{"x": strings.Repeat("y", worker.MaxHeaderBytes)}, "8193 bytes"},
		{"too large when encoded", map[string]string{"x": strings.Repeat("\n", worker.MaxHeaderBytes/3+1)}, "bytes of headers"},
		{"no name", map[string]string{"": "x"}, "header name"},
		{"a name with a space", map[string]string{"a b": "x"}, `"a b"`},
		{"a name with a colon", map[string]string{"a:": "x"}, "header name"},
		{"a name that breaks the line", map[string]string{"a\r\nb": "x"}, "header name"},
		{"a name beyond ASCII", map[string]string{"ë": "x"}, "header name"},
		{"NUL", map[string]string{"x-a": "a\x00"}, "x-a"},
		{"not UTF-8", map[string]string{"x-a": "\xff"}, "x-a"},
		{"a content type that breaks the line", map[string]string{"Content-Type": "text/plain\r\nx: y"}, "Content-Type"},
		{"a content type beyond ASCII", map[string]string{"content-type": "tëxt"}, "content-type"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := worker.CheckHeaders(c.headers)
			if c.want == "" {
				ok(t, err)
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckAction(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "enrich", "orders/enrich", "a b", "ë", "%2e", "...", "?x=y#z"} {
		if err := worker.CheckAction(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"/", "/a", "a/", "a//b", ".", "..", "../admin", "a/../b", "a\r\nb", "\x00", "\xff"} {
		if worker.CheckAction(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Whatever a value is, its encoding is printable, has no space at its ends, and
// decodes to the value.
func FuzzEncodeValue(f *testing.F) {
	for _, s := range []string{"", "a", "%", "%41", " a ", "Zoë", "\r\n", "\x00\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		encoded := worker.EncodeValue(s)
		if strings.TrimSpace(encoded) != encoded || strings.ContainsFunc(encoded, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q is not fit for a header", encoded)
		}
		equal(t, "length", worker.EncodedLen(s), len(encoded))
		equal(t, "decoded", worker.DecodeValue(encoded), s)
		worker.DecodeValue(s)
	})
}
