package orchesty_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"sluice/queue/worker/orchesty"
)

// What goes out is ASCII, as long as it says, and reads back as what was put in: whatever is in it, however it is read.
func FuzzEnvelope(f *testing.F) {
	f.Add("x-name", "Žofie", []byte(`{"a":"č"}`), false)
	f.Add("x", "\x00\x1f\x7f\u2028\ufffd", []byte("𝄞\"\\\n</script>\U0010ffff"), true)
	f.Add("", "", []byte{}, true)
	f.Add("x\xff", "\xff", []byte("caf\xe9"), false)
	f.Fuzz(func(t *testing.T, name, value string, body []byte, large bool) {
		if large {
			body = bytes.Repeat(body, 1+70_000/max(len(body), 1))
		}
		r, size, err := orchesty.Envelope(map[string]string{name: value}, body)
		if !utf8.Valid(body) {
			if err == nil {
				t.Fatal("a body that is not UTF-8 was taken")
			}
			return
		}
		ok(t, err)
		sent, err := io.ReadAll(r)
		ok(t, err)
		equal(t, "length", int64(len(sent)), size)
		for _, c := range sent {
			if c < ' ' || c >= 0x7f {
				t.Fatalf("byte %#x was sent", c)
			}
		}
		var back struct {
			Headers map[string]string
			Body    string
		}
		ok(t, json.Unmarshal(sent, &back))
		equal(t, "body", back.Body, string(body))
		equal(t, "header", back.Headers[runes(name)], runes(value))
	})
}

// runes is a text with U+FFFD for each byte that is no UTF-8.
func runes(s string) string { return string([]rune(s)) }

// A large body is escaped as it is sent, into reads of any size.
func TestEnvelopeInSmallReads(t *testing.T) {
	t.Parallel()
	body := []byte(strings.Repeat("a\"č𝄞\n", 20_000))
	for name, slowly := range map[string]func(io.Reader) io.Reader{"bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "data with the end": iotest.DataErrReader} {
		r, _, err := orchesty.Envelope(map[string]string{}, body)
		ok(t, err)
		sent, err := io.ReadAll(slowly(r))
		ok(t, err)
		var back struct{ Body string }
		ok(t, json.Unmarshal(sent, &back))
		if back.Body != string(body) {
			t.Errorf("%s: the body came through differently", name)
		}
	}
	r, _, err := orchesty.Envelope(map[string]string{"a": "b"}, body)
	ok(t, err)
	whole, err := io.ReadAll(r)
	ok(t, err)
	r, _, _ = orchesty.Envelope(map[string]string{"a": "b"}, body)
	ok(t, iotest.TestReader(r, whole))
}
