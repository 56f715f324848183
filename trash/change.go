package trash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// Change is what a bulk does to the content of each entry.
type Change struct {
	Patch []PatchStep       `json:"patch,omitempty"` // of a body that is JSON: RFC 6902
	Set   map[string]string `json:"set,omitempty"`   // headers, names in lower case
	Drop  []string          `json:"drop,omitempty"`  // headers
}

// PatchStep is one operation of a JSON Patch.
type PatchStep struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  *string         `json:"from,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// IsZero tells that nothing is changed.
func (c Change) IsZero() bool { return len(c.Patch) == 0 && len(c.Set) == 0 && len(c.Drop) == 0 }

// patchSteps bounds a patch: a small one.
const patchSteps = 100

// check refuses a change that would fail with each entry.
func (c Change) check() error {
	if len(c.Patch) > patchSteps {
		return fmt.Errorf("%w: a patch has at most %d steps", ErrContent, patchSteps)
	}
	for i, s := range c.Patch {
		if s.Path != "" && !strings.HasPrefix(s.Path, "/") {
			return fmt.Errorf("%w: step %d of the patch: the path must be empty or begin with /", ErrContent, i)
		}
		switch s.Op {
		case "add", "replace", "test":
			if len(s.Value) == 0 {
				return fmt.Errorf("%w: step %d of the patch: %s needs a value", ErrContent, i, s.Op)
			}
		case "move", "copy":
			if s.From == nil || *s.From != "" && !strings.HasPrefix(*s.From, "/") {
				return fmt.Errorf("%w: step %d of the patch: %s needs a from that is empty or begins with /", ErrContent, i, s.Op)
			}
		case "remove":
		default:
			return fmt.Errorf("%w: step %d of the patch: there is no operation %q", ErrContent, i, s.Op)
		}
	}
	return nil
}

// apply returns the changed content. What the patch leaves alone keeps its order and its numbers as they are; only spaces
// between values go.
func (c Change) apply(before Content) (after Content, err error) {
	after = Content{Headers: maps.Clone(before.Headers), Body: before.Body}
	if after.Headers == nil {
		after.Headers = map[string]string{}
	}
	for _, name := range c.Drop {
		delete(after.Headers, strings.ToLower(name))
	}
	for name, value := range c.Set {
		after.Headers[strings.ToLower(name)] = value
	}
	if len(c.Patch) == 0 {
		return after, nil
	}
	if !json.Valid(before.Body) {
		return after, fmt.Errorf("%w: the body is no JSON that could be patched", ErrContent)
	}
	defer func() { // what it is given comes from outside
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the patch does not apply: %v", ErrContent, r)
		}
	}()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // values are to be as they were given
	if err := encoder.Encode(c.Patch); err != nil {
		return after, err
	}
	patch, err := jsonpatch.DecodePatch(text.Bytes())
	if err != nil {
		return after, fmt.Errorf("%w: the patch cannot be read: %w", ErrContent, err)
	}
	options := jsonpatch.NewApplyOptions()
	options.SupportNegativeIndices, options.EscapeHTML, options.AccumulatedCopySizeLimit = false, false, 1<<20
	if after.Body, err = patch.ApplyWithOptions(before.Body, options); err != nil {
		return after, fmt.Errorf("%w: the patch does not apply: %w", ErrContent, err)
	}
	return after, nil
}
