package topology

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Format writes a graph as a topology file, with only what differs from the
// defaults. Parse reads it back as the same graph; an invalid graph is refused.
func Format(g Graph) ([]byte, error) {
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "topology: %s\n", scalar(g.Name))
	writeDescription(&b, g.Description)
	writeBounds(&b, g.Bounds)
	writeEntities(&b, g.Entities)
	b.WriteString("nodes:\n")
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  %s:\n", scalar(n.Name))
		inRetry := false
		for _, s := range settings(n) {
			if s.standard {
				continue
			}
			name, ofRetry := strings.CutPrefix(s.field, "retry.")
			if ofRetry && !inRetry {
				b.WriteString("    retry:\n")
				inRetry = true
			}
			if ofRetry {
				b.WriteString("  ")
			}
			value := s.value
			if s.text {
				value = scalar(value)
			}
			fmt.Fprintf(&b, "    %s: %s\n", name, value)
		}
		writeFollowers(&b, n.Followers)
	}
	return b.Bytes(), nil
}

// setting is one field of a node, as it stands in a file.
type setting struct {
	field    string
	value    string // empty if the node has none
	text     bool   // may need quotes
	standard bool   // what the node has if the file says nothing
}

// settings lists the fields of a node except its followers, in the order of the
// file format. Format and Diff both live on it.
func settings(n Node) []setting {
	list := []setting{
		{"kind", string(n.Kind), true, false},
		{"worker", n.Worker, true, n.Worker == ""},
		{"action", n.Action, true, n.Action == n.Name || n.Action == ""},
		{"application", n.Application, true, n.Application == ""},
	}
	if n.Kind == Breakpoint {
		return append(list, parkingSettings(n)...)
	}
	if !n.Kind.CallsWorker() {
		return list
	}
	concurrency := ""
	if n.Concurrency != 0 {
		concurrency = strconv.Itoa(n.Concurrency)
	}
	r, d := n.Retry, defaultRetry
	return append(list,
		setting{"timeout", n.Timeout.String(), false, n.Timeout == defaultTimeout},
		setting{"concurrency", concurrency, false, concurrency == ""},
		setting{"order_by", n.OrderBy.String(), true, n.OrderBy.IsZero()},
		setting{"retry.attempts", strconv.Itoa(r.Attempts), false, r.Attempts == d.Attempts},
		setting{"retry.initial", r.Initial.String(), false, r.Initial == d.Initial},
		setting{"retry.factor", decimals(r.Factor), false, r.Factor == d.Factor},
		setting{"retry.max", r.Max.String(), false, r.Max == d.Max},
		setting{"retry.jitter", decimals(r.Jitter), false, r.Jitter == d.Jitter},
		setting{"retry.retry_after", string(r.RetryAfter), false, r.RetryAfter == d.RetryAfter},
		setting{"retry.outage", string(r.Outage), false, r.Outage == d.Outage},
	)
}

// parkingSettings are what sets a breakpoint apart.
func parkingSettings(n Node) []setting {
	due, mayAct := "", ""
	if n.Due != 0 {
		due = n.Due.String()
	}
	if n.MayAct != nil {
		names := make([]string, len(n.MayAct))
		for i, name := range n.MayAct {
			names[i] = scalar(name)
		}
		mayAct = "[" + strings.Join(names, ", ") + "]"
	}
	return []setting{
		{"title", n.Title.String(), true, n.Title.IsZero()},
		{"due", due, false, due == ""},
		{"may_act", mayAct, false, mayAct == ""},
	}
}

func decimals(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// writeDescription keeps paragraphs readable where YAML lets them through as they are.
func writeDescription(b *bytes.Buffer, text string) {
	if text == "" {
		return
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) == 1 || strings.ContainsFunc(text, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }) {
		fmt.Fprintf(b, "description: %s\n", scalar(text))
		return
	}
	for i, line := range lines {
		if line != strings.TrimSpace(line) || line == "" && (i == 0 || i == len(lines)-1) {
			fmt.Fprintf(b, "description: %s\n", scalar(text))
			return
		}
	}
	keep := "|-"
	if strings.HasSuffix(text, "\n") {
		keep = "|"
	}
	fmt.Fprintf(b, "description: %s\n", keep)
	for _, line := range lines {
		if line != "" {
			line = "  " + line
		}
		b.WriteString(line + "\n")
	}
}

func writeBounds(b *bytes.Buffer, bounds Bounds) {
	if bounds == (Bounds{}) {
		return
	}
	b.WriteString("bounds:\n")
	for _, s := range boundSettings(bounds) {
		if !s.standard {
			fmt.Fprintf(b, "  %s: %s\n", strings.TrimPrefix(s.field, "bounds."), s.value)
		}
	}
}

func writeEntities(b *bytes.Buffer, entities []Entity) {
	if len(entities) == 0 {
		return
	}
	b.WriteString("entities:\n")
	for _, e := range entities {
		fmt.Fprintf(b, "  %s: %s\n", scalar(e.Kind), e.written())
	}
}

// boundSettings are the bounds of a topology as they stand in a file, or without a
// value if there is none.
func boundSettings(b Bounds) []setting {
	messages := setting{field: "bounds.messages", standard: b.Messages == 0}
	if b.Messages != 0 {
		messages.value = strconv.FormatInt(b.Messages, 10)
	}
	size := setting{field: "bounds.bytes", standard: b.Bytes == 0}
	if b.Bytes != 0 {
		size.value = formatSize(b.Bytes)
	}
	return []setting{messages, size}
}

var sizeUnits = map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

// formatSize uses the largest unit in which the size is a whole number.
func formatSize(size int64) string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if size%sizeUnits[unit] == 0 {
			return strconv.FormatInt(size/sizeUnits[unit], 10) + unit
		}
	}
	return strconv.FormatInt(size, 10)
}

// writeFollowers keeps a few on one line, and gives many a line each.
func writeFollowers(b *bytes.Buffer, followers []string) {
	if len(followers) == 0 {
		return
	}
	names := make([]string, len(followers))
	for i, name := range followers {
		names[i] = scalar(name)
	}
	if line := strings.Join(names, ", "); len(line) <= 80 {
		fmt.Fprintf(b, "    followers: [%s]\n", line)
		return
	}
	b.WriteString("    followers:\n")
	for _, name := range names {
		fmt.Fprintf(b, "      - %s\n", name)
	}
}

var (
	// plain texts need no quotes with any reader of YAML, old or new.
	plain = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9._~/ ()-]*[A-Za-z0-9._~/()-])?$`)
	// spoken words are truth values or nothing to some of them.
	spoken = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)
)

func scalar(text string) string {
	if plain.MatchString(text) && !spoken.MatchString(text) {
		return text
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(c):
			b.WriteRune(c)
		case c <= 0xffff:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			fmt.Fprintf(&b, `\U%08X`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
