package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "sluice/"

// house is the table of imports: what each package may import of ours. Imports go down only, and packages of one floor
// do not know each other. A package that is not here yet gets a line here, or its code finds its home in one that is.
var house = map[string][]string{
	"cmd/sluice":       {"cmd/sluice/agent", "cmd/sluice/bench", "gateway", "gateway/auth", "gateway/starter", "gateway/ui", "trash", "queue", "queue/topology", "queue/topology/orchesty", "queue/process", "queue/document", "queue/report", "queue/vault", "queue/worker", "queue/worker/orchesty", "limiter", "openapi", "migrations", "migrations/localpg"},
	"cmd/sluice/bench": {"gateway", "gateway/auth", "trash", "queue", "queue/topology", "queue/process", "queue/worker", "limiter", "openapi", "migrations", "migrations/localpg"},

	"cmd/sluice/agent": {},

	"gateway":      {"gateway/auth", "gateway/starter", "gateway/ui", "trash", "queue", "queue/topology", "queue/topology/orchesty", "queue/process", "queue/document", "queue/pull", "queue/report", "queue/vault", "queue/worker", "queue/worker/orchesty", "queue/rollup", "limiter", "openapi"},
	"gateway/auth": {"gateway/auth/password", "queue/process"},
	"gateway/ui":   {},

	"gateway/starter": {},

	"gateway/auth/password": {},

	"trash": {"queue", "queue/topology", "queue/process", "queue/worker", "limiter"},

	"queue": {"queue/topology", "queue/process", "queue/pull", "queue/vault", "queue/worker", "queue/rollup", "limiter"},

	"queue/topology": {},
	"queue/process":  {},
	"queue/document": {"queue/vault"},
	"queue/pull":     {},
	"queue/report":   {},
	"queue/vault":    {},
	"queue/worker":   {},
	"queue/rollup":   {},
	"limiter":        {},

	"queue/worker/orchesty":   {"queue/worker"},
	"queue/topology/orchesty": {"queue/topology"},

	"openapi":                 {},
	"migrations":              {},
	"migrations/localpg":      {},
	"migrations/pgtest":       {"migrations", "migrations/localpg"},
	"queue/worker/workertest": {"queue/worker"},
}

// forTests are the packages that any test may import beside what its package may.
var forTests = []string{"migrations", "migrations/localpg", "migrations/pgtest", "queue/worker/workertest", "queue/worker/orchesty"}

// onlyTests are those of them that nothing else may import.
var onlyTests = []string{"migrations/pgtest", "queue/worker/workertest"}

// guests are the modules of others and who may import them: "*" stands for every package but the pure ones, "tests" for
// every test.
var guests = map[string][]string{
	"github.com/riverqueue/river":                        {"queue", "cmd/sluice/bench"},
	"github.com/riverqueue/river/rivermigrate":           {"migrations"},
	"github.com/riverqueue/river/riverdriver/riverpgxv5": {"queue", "migrations", "cmd/sluice/bench"},
	"github.com/danielgtaylor/huma/v2":                   {"gateway", "openapi"},
	"github.com/golang-migrate/migrate/v4":               {"migrations"},
	"github.com/fergusstrange/embedded-postgres":         {"migrations/localpg"},
	"github.com/lmittmann/tint":                          {"cmd/sluice"},
	"github.com/alecthomas/kong":                         {"cmd/sluice"},
	"github.com/goccy/go-yaml":                           {"queue/topology", "cmd/sluice"},
	"github.com/jackc/pgx/v5":                            {"*", "tests"},
	"github.com/google/uuid":                             {"*", "tests"},
	"github.com/evanphx/json-patch/v5":                   {"trash"},
	"golang.org/x/crypto":                                {"gateway/auth/password"},
	"golang.org/x/net/http/httpguts":                     {"gateway"},
	"golang.org/x/sync":                                  {"*"},
	"golang.org/x/sys":                                   {"*"},
	"golang.org/x/term":                                  {"cmd/sluice"},
	"go.uber.org/goleak":                                 {"migrations/pgtest", "tests"},
	"pgregory.net/rapid":                                 {"tests"},
	"github.com/santhosh-tekuri/jsonschema/v6":           {"tests"},
	"github.com/pb33f/libopenapi":                        {"tests"},
	"github.com/pb33f/libopenapi-validator":              {"tests"},
	"github.com/Shopify/toxiproxy/v2":                    {"tests"},
	"github.com/rs/zerolog":                              {"tests"}, // toxiproxy wants it
	"riverqueue.com/riverui":                             {"tests"}, // MPL, as it is
}

// pure packages import of others' modules only what names them: worker is the protocol that anyone's Go worker imports.
var pure = []string{"queue/worker", "queue/worker/orchesty", "queue/topology/orchesty", "queue/worker/workertest", "queue/vault", "limiter", "openapi", "gateway/ui"}

// deepest is how many steps the longest chain of imports among our packages may have.
const deepest = 5

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// strayImports returns what the packages import and should not.
func strayImports(pkgs []pkg) []string {
	var found []string
	for _, p := range pkgs {
		if _, ok := house[p.name()]; !ok {
			found = append(found, fmt.Sprintf("%s is not in the table of imports", p.name()))
			continue
		}
		for _, imported := range p.Imports {
			found = append(found, stray(p.name(), imported, false)...)
		}
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			found = append(found, stray(p.name(), imported, true)...)
		}
	}
	if n := depth(pkgs); n > deepest {
		found = append(found, fmt.Sprintf("the longest chain of imports has %d steps, more than %d", n, deepest))
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func stray(from, imported string, test bool) []string {
	if own, ok := strings.CutPrefix(imported, module); ok {
		switch {
		case test && (own == from || slices.Contains(forTests, own)):
			return nil
		case !test && slices.Contains(onlyTests, own) && !slices.Contains(onlyTests, from):
			return []string{fmt.Sprintf("%s imports %s outside of a test", from, own)}
		case !slices.Contains(house[from], own):
			return []string{fmt.Sprintf("%s imports %s, which does not lie below it", from, own)}
		}
		return nil
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return nil // the standard library
	}
	hosts, known := hostsOf(imported)
	switch {
	case !known:
		return []string{fmt.Sprintf("%s imports %s, of which the table of imports says nothing", from, imported)}
	case slices.Contains(hosts, from),
		slices.Contains(hosts, "*") && !slices.Contains(pure, from),
		slices.Contains(hosts, "tests") && test:
		return nil
	}
	return []string{fmt.Sprintf("%s imports %s; only %s may", from, imported, strings.Join(hosts, ", "))}
}

// hostsOf returns who may import a package of another module: what the longest entry that it lies under says.
func hostsOf(imported string) ([]string, bool) {
	for prefix := imported; prefix != "."; prefix = path.Dir(prefix) {
		if hosts, ok := guests[prefix]; ok {
			return hosts, true
		}
	}
	return nil, false
}

// depth is the number of steps in the longest chain of imports among our packages, without tests.
func depth(pkgs []pkg) int {
	imports := map[string][]string{}
	for _, p := range pkgs {
		imports[p.ImportPath] = p.Imports
	}
	known := map[string]int{}
	var below func(string) int
	below = func(name string) int {
		if n, ok := known[name]; ok {
			return n
		}
		known[name] = 0 // go list refuses cycles
		n := 0
		for _, imported := range imports[name] {
			if strings.HasPrefix(imported, module) {
				n = max(n, 1+below(imported))
			}
		}
		known[name] = n
		return n
	}
	longest := 0
	for name := range imports {
		longest = max(longest, below(name))
	}
	return longest
}

// environment finds where a file reads the environment.
func environment(name string, src any) ([]string, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{} // by which the file knows os and syscall
	for _, spec := range file.Imports {
		if spec.Path.Value == `"os"` || spec.Path.Value == `"syscall"` {
			name := strings.Trim(spec.Path.Value, `"`)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			names[name] = true
		}
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && names[x.Name] && slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv"}, s.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: %s.%s; only cmd/sluice reads the environment", files.Position(s.Pos()), x.Name, s.Sel.Name))
			}
		}
		return true
	})
	if names["."] {
		found = append(found, name+": imports os with a dot")
	}
	return found, nil
}

// top is what lies at the top level, and nothing else does.
var top = []string{
	"cmd", "gateway", "queue", "limiter", "trash", "openapi", "migrations", "docs", "go.mod", "go.sum", "compose.yaml", "README.md", "LICENSE",
	".ci", ".git", ".gitignore", ".gitattributes", ".editorconfig", ".golangci.yaml",
}

// refused are names of directories that say nothing of what is inside.
var refused = []string{"internal", "pkg", "util", "utils", "helper", "helpers", "common", "lib", "model", "models", "service", "services", "store", "stores", "mocks"}

// strayPlaces returns which of the files, named from the top, lie where none should.
func strayPlaces(files []string) []string {
	var found []string
	for _, f := range files {
		parts := strings.Split(f, "/")
		if !slices.Contains(top, parts[0]) {
			found = append(found, parts[0]+" does not belong at the top level")
		}
		for i, dir := range parts[:len(parts)-1] {
			if slices.Contains(refused, dir) {
				found = append(found, strings.Join(parts[:i+1], "/")+" has a name that says nothing")
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// leftOut returns the top-level directories with code that the image of compose.yaml is built without.
func leftOut(pkgs []pkg, compose string) []string {
	var found []string
	for _, p := range pkgs {
		dir, _, _ := strings.Cut(p.name(), "/")
		if !strings.Contains(compose, fmt.Sprintf("COPY %s %s\n", dir, dir)) {
			found = append(found, fmt.Sprintf("compose.yaml does not copy %s into its image", dir))
		}
	}
	return slices.Compact(found)
}

const root = "../.."

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The house stands as it was drawn.
func TestHouse(t *testing.T) {
	t.Parallel()
	out := command(t, "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 5 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	files := sources(t)
	for _, v := range slices.Concat(strayImports(pkgs), strayPlaces(files), leftOut(pkgs, string(read(t, "compose.yaml")))) {
		t.Error(v)
	}
	for _, f := range files {
		switch {
		case !strings.HasSuffix(f, ".go"), strings.HasSuffix(f, "_test.go"), path.Dir(f) == "cmd/sluice", strings.Contains(f, "/_"), slices.Contains(onlyTests, path.Dir(f)):
			continue
		}
		found, err := environment(filepath.Join(root, f), nil)
		if err != nil {
			t.Error(err)
		}
		for _, v := range found {
			t.Error(v)
		}
	}
}

// sources returns the files of the tree, but for those that git ignores.
func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	if _, err := os.Stat(filepath.Join(root, ".git")); err == nil {
		for f := range strings.SplitSeq(strings.Trim(string(command(t, "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")), "\x00"), "\x00") {
			if _, err := os.Lstat(filepath.Join(root, f)); err == nil { // not one that is being deleted
				files = append(files, f)
			}
		}
		return files
	}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			p, err = filepath.Rel(root, p)
			files = append(files, filepath.ToSlash(p))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func command(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return out
}

// The checks find what they are there for.
func TestHouseFindsStrays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		pkgs []pkg
		want string // "" for none
	}{
		{"downward", []pkg{{ImportPath: "sluice/trash", Imports: []string{"sluice/queue", "sluice/queue/process", "context", "github.com/jackc/pgx/v5/pgxpool"}}}, ""},
		{"upward", []pkg{{ImportPath: "sluice/queue", Imports: []string{"sluice/trash"}}}, "queue imports trash, which does not lie below it"},
		{"sideways", []pkg{{ImportPath: "sluice/queue/process", Imports: []string{"sluice/queue/topology"}}}, "queue/process imports queue/topology, which"},
		{"upward in a test", []pkg{{ImportPath: "sluice/queue", XTestImports: []string{"sluice/gateway"}}}, "queue imports gateway, which"},
		{"itself in a test", []pkg{{ImportPath: "sluice/queue", XTestImports: []string{"sluice/queue", "sluice/migrations/pgtest"}}}, ""},
		{"pgtest", []pkg{{ImportPath: "sluice/queue", Imports: []string{"sluice/migrations/pgtest"}}}, "queue imports migrations/pgtest outside of a test"},
		{"workertest", []pkg{{ImportPath: "sluice/cmd/sluice", Imports: []string{"sluice/queue/worker/workertest"}}}, "outside of a test"},
		{"new package", []pkg{{ImportPath: "sluice/queue/extra"}}, "queue/extra is not in the table"},
		{"huma", []pkg{{ImportPath: "sluice/trash", Imports: []string{"github.com/danielgtaylor/huma/v2"}}}, "only gateway, openapi may"},
		{"huma in a test", []pkg{{ImportPath: "sluice/trash", TestImports: []string{"github.com/danielgtaylor/huma/v2/humatest"}}}, "only gateway, openapi may"},
		{"river", []pkg{{ImportPath: "sluice/trash", Imports: []string{"github.com/riverqueue/river/rivertype"}}}, "only queue, cmd/sluice/bench may"},
		{"river to migrate", []pkg{{ImportPath: "sluice/migrations", Imports: []string{"github.com/riverqueue/river/rivermigrate", "github.com/riverqueue/river/riverdriver/riverpgxv5"}}}, ""},
		{"river to run", []pkg{{ImportPath: "sluice/migrations", Imports: []string{"github.com/riverqueue/river"}}}, "only queue, cmd/sluice/bench may"},
		{"tint", []pkg{{ImportPath: "sluice/queue", Imports: []string{"github.com/lmittmann/tint"}}}, "only cmd/sluice may"},
		{"a worker's own", []pkg{{ImportPath: "sluice/queue/worker", Imports: []string{"github.com/google/uuid"}}}, "queue/worker imports github.com/google/uuid"},
		{"for tests", []pkg{{ImportPath: "sluice/queue", Imports: []string{"pgregory.net/rapid"}}}, "only tests may"},
		{"in tests", []pkg{{ImportPath: "sluice/limiter", TestImports: []string{"pgregory.net/rapid", "go.uber.org/goleak"}}}, ""},
		{"unknown", []pkg{{ImportPath: "sluice/queue", TestImports: []string{"example.com/new"}}}, "says nothing"},
		{"deep", []pkg{
			{ImportPath: "sluice/cmd/sluice", Imports: []string{"sluice/gateway"}}, {ImportPath: "sluice/gateway", Imports: []string{"sluice/trash"}},
			{ImportPath: "sluice/trash", Imports: []string{"sluice/queue"}}, {ImportPath: "sluice/queue", Imports: []string{"sluice/limiter"}},
			{ImportPath: "sluice/limiter", Imports: []string{"sluice/a"}}, {ImportPath: "sluice/a", Imports: []string{"sluice/b"}}, {ImportPath: "sluice/b"},
		}, "has 6 steps, more than 5"},
	} {
		got := strings.Join(strayImports(c.pkgs), "; ")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: found %q, want %q", c.name, got, c.want)
		}
	}

	for src, want := range map[string]int{
		"package a\nimport \"os\"\nvar x = os.Getenv(\"A\")":                                            1,
		"package a\nimport o \"os\"\nfunc f() { o.LookupEnv(\"A\"); g := o.Environ; g() }":              2,
		"package a\nimport . \"os\"\nvar x = Getenv(\"A\")":                                             1,
		"package a\nimport \"syscall\"\nvar x, _ = syscall.Getenv(\"A\")":                               1,
		"package a\nimport (\"os\"; \"os/exec\")\nvar x, _ = exec.LookPath(\"A\")\nvar y = os.Getpid()": 0,
		"package a\nimport \"b/os\"\nvar x = os.Getenv(\"A\")":                                          0,
	} {
		if found, err := environment("a.go", src); err != nil || len(found) != want {
			t.Errorf("%s: found %q (%v), want %d", src, found, err, want)
		}
	}

	if found := leftOut([]pkg{{ImportPath: "sluice/queue"}, {ImportPath: "sluice/queue/a"}, {ImportPath: "sluice/trash"}}, "  COPY trash trash\n"); len(found) != 1 {
		t.Errorf("found %q", found)
	}
	if found := strayPlaces([]string{"go.mod", "queue/queue.go", "docs/a.md", ".ci/run"}); found != nil {
		t.Errorf("found %q", found)
	}
	if found := strayPlaces([]string{"Makefile", "queue/internal/a.go", "queue/internal/b.go", "gateway/utils/a/b.go", "utils"}); len(found) != 4 {
		t.Errorf("found %q", found)
	}
}
