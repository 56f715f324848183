package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// print writes a result: as it is for programs, or as text says for people.
func (p *program) print(result any, text func(w io.Writer)) error {
	if p.output == "text" {
		var b bytes.Buffer
		text(&b)
		_, err := p.stdout.Write(b.Bytes())
		return err
	}
	b, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, b, "", "  "); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	indented.WriteByte('\n')
	_, err = p.stdout.Write(indented.Bytes())
	return err
}

// note tells people something that is no result.
func (p *program) note(format string, args ...any) {
	fmt.Fprintln(p.stderr, line(fmt.Sprintf(format, args...)))
}

// table writes rows in columns, under a heading.
func table(w io.Writer, heading string, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(heading, " ", "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = short(line(cell), 100); cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
}

// facts writes names with their values, one a line. What has no value is left out.
func facts(w io.Writer, pairs ...string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], line(pairs[i+1]))
		}
	}
	t.Flush()
}

// line makes one line of a text that came from elsewhere, and takes the sting out of it: control characters would move
// the cursor of a terminal, or worse.
func line(s string) string { return strings.TrimSpace(plain(strings.ReplaceAll(s, "\n", " "))) }

// lines is line for a text that may have several.
func lines(s string) string {
	parts := strings.Split(strings.TrimSpace(s), "\n")
	for i, part := range parts {
		parts[i] = strings.TrimRight(plain(part), " ")
	}
	return strings.Join(parts, "\n")
}

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), r == utf8.RuneError, unicode.Is(unicode.Bidi_Control, r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// short cuts a text that is too long for its place.
func short(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// when tells a time, as the clock on the wall shows it.
func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// count tells how many there are of something.
func count[N int | int64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "s") || strings.HasSuffix(one, "h") {
		return fmt.Sprintf("%d %ses", n, one)
	}
	if head, found := strings.CutSuffix(one, "y"); found {
		return fmt.Sprintf("%d %sies", n, head)
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// shownBody is a body for people: text as it is, and of anything else only its size.
func shownBody(body []byte) string {
	if len(body) == 0 {
		return "(empty)"
	}
	if !utf8.Valid(body) || bytes.IndexByte(body, 0) >= 0 {
		return fmt.Sprintf("(%d bytes that are no text; --body writes them as they are)", len(body))
	}
	const most = 10_000
	if len(body) > most {
		return lines(strings.ToValidUTF8(string(body[:most]), "")) +
			fmt.Sprintf("\n(the first %d of %d bytes; --body writes all)", most, len(body))
	}
	return lines(string(body))
}

// during tells people every now and then that something long is still going on. The returned function ends that.
func (p *program) during(every time.Duration, what func(elapsed time.Duration) string) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.note("%s", what(time.Since(began).Round(time.Second)))
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}
