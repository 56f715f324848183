package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"sluice/openapi"
)

var update = flag.Bool("update", false, "write the tables of docs/operating.md anew")

// model is the command line as kong sees it.
func model(t *testing.T) *kong.Application {
	t.Helper()
	parser, err := newParser(&cli{}, &program{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// commands calls f for each command and group of commands.
func commands(n *kong.Node, f func(*kong.Node)) {
	for _, child := range n.Children {
		f(child)
		commands(child, f)
	}
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commands(model(t).Node, func(n *kong.Node) {
		if n.Help == "" {
			t.Errorf("%s has no help", n.FullPath())
		}
		help := w.run(append(strings.Fields(n.Path()), "--help")...).ok()
		_, shown, found := strings.Cut(help, "Examples:\n")
		if !found || !strings.Contains(shown, n.FullPath()) {
			t.Errorf("the help of %s has no example of it:\n%s", n.FullPath(), help)
		}
	})
}

// TestExamplesParse holds the examples against the command line that they are examples of.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	commands(model(t).Node, func(n *kong.Node) {
		for example := range strings.Lines(n.Detail) {
			example, found := strings.CutPrefix(example, "    ")
			if !found {
				continue
			}
			args := shellWords(example)
			if len(args) == 0 {
				t.Errorf("%s: not an example of sluice: %s", n.FullPath(), example)
				continue
			}
			if err := parses(t, args); err != nil {
				t.Errorf("%s: the example %q does not parse: %v", n.FullPath(), strings.TrimSpace(example), err)
			}
		}
	})
}

// What the documents tell people to type is understood, too.
func TestDocumentedCommandsParse(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for command := range strings.Lines(string(text)) {
			command, ok := strings.CutPrefix(command, "$ sluice ")
			if !ok {
				continue
			}
			found++
			command, _, _ = strings.Cut(command, " # ")
			if err := parses(t, shellWords("sluice "+command)); err != nil {
				t.Errorf("%s: sluice %s: %v", page, command, err)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d commands found", found)
	}
}

// parses tells whether the command line takes these arguments.
func parses(t *testing.T, args []string) error {
	t.Helper()
	p := &program{getenv: func(string) string { return "" }, stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	parser, err := newParser(&cli{}, p, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return err
}

// shellWords takes out of a line of shell the arguments of the last sluice in it.
func shellWords(text string) []string {
	var words []string
	var word strings.Builder
	quote, started := rune(0), false
	flush := func() {
		if started {
			words = append(words, word.String())
		}
		word.Reset()
		started = false
	}
	for _, r := range strings.TrimSpace(text) {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, started = r, true
		case quote == 0 && r == ' ':
			flush()
		default:
			word.WriteRune(r)
			started = true
		}
	}
	flush()
	var args []string
	inside := false
	for _, w := range words {
		switch {
		case w == "sluice":
			args, inside = nil, true
		case w == "|" || w == ">":
			inside = false
		case inside:
			args = append(args, w)
		}
	}
	return args
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct{ args, says string }{
		{"sned", "unexpected argument sned"},
		{"topology", "see sluice topology --help"},
		{"topology apply", "see sluice topology apply --help"},
		{"send demo inbox --wiat", "--wait"},
		{"trash reject 1", "--reason"},
		{"migrate down", "--steps"},
		{"migrate up", "DATABASE_URL"},
		{"migrate up --database-url nonsense", "postgres://"},
		{"serve --roles cook --database-url postgres://localhost", "gateway"},
		{"serve --engine-conns 3 --database-url postgres://localhost", "12"},
		{"serve --output yaml", "text"},
		{"key create x --scope all --database-url postgres://localhost", "ingest"},
		{"topology list --url localhost:8080 --key k", "URL"},
		{"send demo inbox --data 1 --file 2", "--data"},
		{"send demo inbox --ndjson --wait --data 1", "--wait"},
		{"dev --listen nonsense --data /nowhere/at/all", "HOST:PORT"},
	} {
		r := w.run(strings.Fields(c.args)...).exits(exitUsage).complains(c.says)
		if strings.Count(r.errors, "\n") != 1 || r.out != "" {
			t.Errorf("sluice %s: want one line on standard error, got:\n%s%s", c.args, r.out, r.errors)
		}
	}
}

func TestWithoutAKey(t *testing.T) {
	t.Parallel()
	newWorld(t).run("topology", "list").exits(exitFailed).complains("--key", "sluice dev")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	newWorld(t).run("topology", "list", "--url", "http://127.0.0.1:1", "--key", "k").exits(exitFailed).
		complains("cannot reach Sluice at http://127.0.0.1:1", "connection refused", "--url")
}

func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "key", "sluice_secret\n")
	w := newWorld(t).with("SLUICE_API_KEY_FILE", file)
	w.run("topology", "list", "--url", "http://127.0.0.1:1").exits(exitFailed).complains("cannot reach")
	w.with("SLUICE_API_KEY_FILE", file+"x").run("topology", "list").exits(exitUsage).complains("SLUICE_API_KEY_FILE", "no such file")
	w.with("DATABASE_URL_FILE", file).run("migrate", "status").exits(exitUsage).complains("connection string")
}

func TestVersionIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("version").exits(exitOK).says("sluice ")
	if v := decode[map[string]string](w.run("version", "--output", "json")); v["version"] == "" {
		t.Errorf("no version: %v", v)
	}
}

// TestSettingsAreDocumented holds the table of docs/operating.md against the flags.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, command := range []string{"serve", "dev"} {
		fmt.Fprintf(&b, "`sluice %s`:\n\n| Flag | Variable | Default | |\n|---|---|---|---|\n", command)
		for _, n := range model(t).Children {
			if n.Name != command {
				continue
			}
			for _, f := range n.Flags {
				variable := f.Tag.Get("from")
				if variable != "" {
					variable = "`" + variable + "`"
					if f.Tag.Has("secret") {
						variable += ", `" + f.Tag.Get("from") + "_FILE`"
					}
				}
				byDefault := f.Default
				if byDefault != "" {
					byDefault = "`" + byDefault + "`"
				}
				fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", f.Name, variable, byDefault, f.OrigHelp)
			}
		}
		b.WriteString("\n")
	}
	holdDocumented(t, "settings", b.String())
}

// TestProblemsAreDocumented holds the other one against the kinds that the API answers with.
func TestProblemsAreDocumented(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("| Status | `code` | Title | What it is, and what to do |\n|---|---|---|---|\n")
	for _, k := range openapi.Kinds() {
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s |\n", k.Status, k.Code, k.Title, k.Meaning)
	}
	holdDocumented(t, "problems", b.String())
}

// holdDocumented compares a part of docs/operating.md with what it should be, or writes it.
func holdDocumented(t *testing.T, part, want string) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "operating.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), "<!-- "+part+":")
	head, rest, _ := strings.Cut(rest, "-->\n")
	got, after, found := strings.Cut(rest, "<!-- end of "+part+" -->")
	if !found {
		t.Fatalf("docs/operating.md has no part %q", part)
	}
	if strings.TrimSpace(got) == strings.TrimSpace(want) {
		return
	}
	if !*update {
		t.Fatalf("the %s in docs/operating.md are not those of the program: run go test ./cmd/sluice -run %s -update", part, t.Name())
	}
	page = []byte(before + "<!-- " + part + ":" + head + "-->\n\n" + strings.TrimSpace(want) + "\n\n<!-- end of " + part + " -->" + after)
	if err := os.WriteFile(path, page, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTextFromElsewhereIsHarmless(t *testing.T) {
	t.Parallel()
	if got := line("a\x1b[2Jb\nc\u202ed\t"); strings.ContainsAny(got, "\x1b\n\t\u202e") {
		t.Errorf("%q", got)
	}
	if got := shownBody([]byte{0xff, 0}); !strings.Contains(got, "2 bytes") {
		t.Errorf("%q", got)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"topology", "list", "--key", "k", "--url", "http://127.0.0.1:1"}, func(string) string { return "" }, strings.NewReader(""), &stdout, &stderr)
	if code != exitFailed || strings.TrimSpace(stderr.String()) != "sluice: interrupted" {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestEnvelopeKeepsBytes(t *testing.T) {
	t.Parallel()
	c := sendCmd{IdempotencyKey: "k", contentFlags: contentFlags{Header: map[string]string{"a": "b"}}}
	for body, want := range map[string]string{
		`{"n":  1.10, "s": "<&>"}`: `{"key":"k-7","headers":{"a":"b"},"body":{"n":  1.10, "s": "<&>"}}`,
		`no json`:                  `{"key":"k-7","headers":{"a":"b"},"text":"no json"}`,
		"\xff":                     `{"key":"k-7","headers":{"a":"b"},"base64":"/w=="}`,
	} {
		if got := string(c.envelope(7, []byte(body))); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if !reflect.DeepEqual(headersOf(map[string]string{"Content-Type": "a", "x": "ü 1"}), map[string]string{"Content-Type": "a", "Sluice-Header-x": "%C3%BC%201"}) {
		t.Error("headers are not told apart")
	}
}
