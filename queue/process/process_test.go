package process_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"sluice/queue/process"
)

// A message's public id has one form: what is read is what is written, in JSON too, and nothing else is read.
func TestMessageID(t *testing.T) {
	t.Parallel()
	const text = "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711"
	id, err := process.ParseMessageID(text)
	ok(t, err)
	want := process.MessageID{Process: uuid.MustParse(text[:36]), Number: 4711}
	if id != want || id.String() != text {
		t.Errorf("read %+v, written %s", id, id)
	}
	encoded, err := json.Marshal([]process.MessageID{id})
	ok(t, err)
	var back []process.MessageID
	ok(t, json.Unmarshal(encoded, &back))
	if string(encoded) != `["`+text+`"]` || back[0] != id {
		t.Errorf("JSON %s, read %v", encoded, back)
	}
	for _, bad := range []string{
		"", "x", text[:36], text[:37], text[:37] + "0", text[:37] + "04711", text[:37] + "+4711", text[:37] + "-4711", text + " ", " " + text,
		text[:37] + "9223372036854775808", text[:37] + "0x10", text[:37] + "1_000", strings.ToUpper(text), "{" + text + "}",
		strings.ReplaceAll(text, "-", ""), text[:36] + "_4711",
	} {
		if id, err := process.ParseMessageID(bad); err == nil {
			t.Errorf("%q is read as %v", bad, id)
		}
	}
}

func FuzzParseMessageID(f *testing.F) {
	for _, seed := range []string{
		"0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711", "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-9223372036854775807",
		"0193A5B2-7f3c-7c11-9f3e-1b2c3d4e5f60-1", "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-", "urn:uuid:0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-1", "-",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := process.ParseMessageID(s)
		if err != nil {
			if !strings.Contains(err.Error(), "is no message id") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if id.String() != s || id.Number <= 0 {
			t.Errorf("%q is read as %v", s, id)
		}
	})
}

// A process is named after the strongest thing that happened to it, and while anything is open it is running.
func TestState(t *testing.T) {
	t.Parallel()
	for want, p := range map[process.State]process.Process{
		process.StateRunning:    {Total: 9, Open: 1, Trashed: 2, Done: 2, Rejected: 2, Terminated: 2},
		process.StateFailed:     {Total: 8, Trashed: 2, Done: 2, Rejected: 2, Terminated: 2},
		process.StateTerminated: {Total: 6, Done: 2, Rejected: 2, Terminated: 2},
		process.StateRejected:   {Total: 4, Done: 2, Rejected: 2},
		process.StateDone:       {Total: 2, Done: 2},
	} {
		if got := p.State(); got != want {
			t.Errorf("%+v is %s, want %s", p, got, want)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
