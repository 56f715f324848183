package trash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"
)

// What is compared at most: more would neither be read by anyone nor be quick.
const (
	diffBytes  = 256 << 10
	diffLines  = 2000
	diffAround = 3 // lines around each change
)

// HeaderChange is a header that an edit changes.
type HeaderChange struct {
	Name     string
	From, To *string // nil: it is not there
}

// Diff is what an edit changes.
type Diff struct {
	Headers []HeaderChange
	Body    string // in the unified format, of JSON with one value a line; "" if the body is the same
	Omitted string // why there is none of the body, though it differs
}

// DiffOf compares two contents.
func DiffOf(before, after Content) Diff {
	d := Diff{Headers: headersDiffer(before.Headers, after.Headers)}
	switch {
	case bytes.Equal(before.Body, after.Body):
		return d
	case len(before.Body) > diffBytes || len(after.Body) > diffBytes:
		d.Omitted = "too large"
		return d
	case !isText(before.Body) || !isText(after.Body):
		d.Omitted = "not text"
		return d
	}
	a, b := diffable(before.Body, after.Body)
	if len(a) > diffLines || len(b) > diffLines {
		d.Omitted = "too long"
		return d
	}
	d.Body = unified(a, b)
	if d.Body == "" {
		d.Omitted = "only spaces or line ends differ"
	}
	return d
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

// diffable are the lines that are compared: of JSON, one value a line.
func diffable(before, after []byte) (a, b []string) {
	prettyBefore, is := Pretty(before)
	prettyAfter, still := Pretty(after)
	if is && still {
		before, after = []byte(prettyBefore), []byte(prettyAfter)
	}
	return linesOf(before), linesOf(after)
}

func linesOf(b []byte) []string { return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") }

// Pretty is JSON with one value a line, its numbers and texts as they are. It tells whether the bytes are JSON at all.
func Pretty(body []byte) (string, bool) {
	if len(body) > diffBytes || !json.Valid(body) {
		return "", false
	}
	var b bytes.Buffer
	if err := json.Indent(&b, body, "", "  "); err != nil {
		return "", false
	}
	return b.String(), true
}

func headersDiffer(before, after map[string]string) (changes []HeaderChange) {
	names := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		from, was := before[name]
		to, is := after[name]
		if was == is && from == to {
			continue
		}
		c := HeaderChange{Name: name}
		if was {
			c.From = &from
		}
		if is {
			c.To = &to
		}
		changes = append(changes, c)
	}
	return changes
}

// unified is the difference of two texts, "" if they are the same.
func unified(a, b []string) string {
	first := 0
	for first < len(a) && first < len(b) && a[first] == b[first] {
		first++
	}
	last := 0
	for last < len(a)-first && last < len(b)-first && a[len(a)-1-last] == b[len(b)-1-last] {
		last++
	}
	mid := script(a[first:len(a)-last], b[first:len(b)-last])
	if len(mid) == 0 {
		return ""
	}
	ops := make([]string, 0, first+len(mid)+last)
	for _, line := range a[:first] {
		ops = append(ops, " "+line)
	}
	ops = append(ops, mid...)
	for _, line := range a[len(a)-last:] {
		ops = append(ops, " "+line)
	}
	return hunks(ops)
}

// script turns one text into the other: its lines begin with a space, a minus or a plus. It goes by the longest common
// subsequence.
func script(a, b []string) (ops []string) {
	width := len(b) + 1
	common := make([]int16, (len(a)+1)*width)
	for i, before := range slices.Backward(a) {
		for j, after := range slices.Backward(b) {
			if before == after {
				common[i*width+j] = common[(i+1)*width+j+1] + 1
			} else {
				common[i*width+j] = max(common[(i+1)*width+j], common[i*width+j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			ops = append(ops, " "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[(i+1)*width+j] >= common[i*width+j+1]):
			ops = append(ops, "-"+a[i])
			i++
		default:
			ops = append(ops, "+"+b[j])
			j++
		}
	}
	return ops
}

// hunks leaves out what is far from each change.
func hunks(ops []string) string {
	var out strings.Builder
	near := make([]bool, len(ops))
	for i, op := range ops {
		if op[0] != ' ' {
			for k := max(0, i-diffAround); k <= min(len(ops)-1, i+diffAround); k++ {
				near[k] = true
			}
		}
	}
	lineA, lineB := 1, 1
	for i := 0; i < len(ops); {
		if !near[i] {
			i, lineA, lineB = i+1, lineA+1, lineB+1
			continue
		}
		end, countA, countB := i, 0, 0
		for ; end < len(ops) && near[end]; end++ {
			if ops[end][0] != '+' {
				countA++
			}
			if ops[end][0] != '-' {
				countB++
			}
		}
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n", lineA, countA, lineB, countB)
		for _, op := range ops[i:end] {
			out.WriteString(op + "\n")
		}
		i, lineA, lineB = end, lineA+countA, lineB+countB
	}
	return out.String()
}

// stillJSON refuses an edit of JSON that says it is JSON and is not.
func stillJSON(before, after Content) error {
	_, says := after.Headers["content-type"]
	if !saysJSON(before) || !json.Valid(before.Body) || says && !saysJSON(after) {
		return nil
	}
	var v json.RawMessage
	if err := json.Unmarshal(after.Body, &v); err != nil {
		return fmt.Errorf("%w: the body was JSON and is not any more: %w; say what it is with a content type", ErrContent, err)
	}
	return nil
}

// saysJSON tells whether content is meant as JSON: by its type, or having none by its first character.
func saysJSON(c Content) bool {
	kind, ok := c.Headers["content-type"]
	if !ok {
		trimmed := bytes.TrimLeft(c.Body, " \t\r\n")
		return len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
	}
	media, _, err := mime.ParseMediaType(kind)
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}
