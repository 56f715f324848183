// Package starter is what a team begins with: workers of one file in several languages, each with a test, a topology and
// rules for coding agents, and the guide to all of it that a gateway serves as /llms.txt.
//
// It promises that what it hands out works as it stands: the workers, their tests, and each command and document of the
// guide and of the rules are run against a real Sluice. Rules and guide tell the contract from one text, guide.md. The
// workers need nothing but what their language brings along.
//
// It knows texts alone: neither where they are written to nor who serves them.
package starter

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"path"
	"strings"
	"text/template"
)

// The go tool does not look into directories that begin with an underscore: these workers are no packages of ours.
//
//go:embed _workers _shared guide.md
var texts embed.FS

// ErrLanguage says that there is no worker in a language.
var ErrLanguage = errors.New("there is no worker in this language: want go, node, python or bash")

// sample is the name that the texts have for the worker and its topology.
const sample = "shop"

// language is how workers in it are run and tested.
type language struct {
	worker, test string // files
	run, check   string // commands
	pulls        bool   // it takes its calls itself
}

var languages = map[string]language{
	"go":     {worker: "worker.go", test: "worker_test.go", run: "go run .", check: "go test ./..."},
	"node":   {worker: "worker.js", test: "worker.test.js", run: "node worker.js", check: "node --test"},
	"python": {worker: "worker.py", test: "test_worker.py", run: "python3 worker.py", check: "python3 -m unittest"},
	"bash":   {worker: "worker.sh", test: "worker_test.sh", run: "bash worker.sh", check: "bash worker_test.sh", pulls: true},
}

// File is a file of a project.
type File struct {
	Name string
	Text []byte
}

// Project is a worker with all that goes with it.
type Project struct {
	Name, Language string
	Worker, Test   string // the names of these files
	Check          string // the command that runs the test
	Run            string // the commands that put it to work, one a line
	Pulls          bool   // it takes its calls itself, and so wants a key; others want a token, in the file token
	Files          []File
}

// New makes a project. Its name is that of the worker and of the topology. It fails with [ErrLanguage].
func New(lang, name string) (Project, error) {
	l, known := languages[lang]
	if !known {
		return Project{}, ErrLanguage
	}
	p := l.project(lang, name)
	p.Files = []File{
		{l.worker, own(path.Join("_workers", lang, l.worker), name)},
		{l.test, own(path.Join("_workers", lang, l.test), name)},
		{name + ".yaml", own("_shared/topology.yaml", name)},
		{"event.json", own("_shared/event.json", name)},
		{"AGENTS.md", append(p.fill("_shared/AGENTS.md"), read("guide.md")...)},
	}
	if lang == "go" {
		p.Files = append(p.Files, File{"go.mod", fmt.Appendf(nil, "module %s\n\ngo 1.22\n", name)})
	}
	if !l.pulls {
		p.Files = append(p.Files, File{".gitignore", []byte("token\n")})
	}
	return p, nil
}

// Guide is what coding agents are told of Sluice.
func Guide() []byte {
	const lang = "node"
	return append(languages[lang].project(lang, sample).fill("_shared/llms.txt"), read("guide.md")...)
}

func (l language) project(lang, name string) Project {
	p := Project{Name: name, Language: lang, Worker: l.worker, Test: l.test, Check: l.check, Pulls: l.pulls}
	begin := []string{
		"SLUICE_TOKEN=$(cat token) " + l.run + " &",
		"sluice worker add " + name + " http://127.0.0.1:9000 --bearer-token-file token",
	}
	if l.pulls {
		begin = []string{
			"sluice worker add " + name + " --pull",
			"SLUICE_API_KEY=$(sluice key create " + name + " --scope pull --worker " + name + " --output json | jq -r .key) " + l.run + " &",
		}
	}
	p.Run = strings.Join(append(begin,
		"sluice topology validate "+name+".yaml",
		"sluice topology apply "+name+".yaml --enable",
		"sluice worker test "+name+" --file event.json --wait 1m",
		"sluice send "+name+" inbox --file event.json --wait"), "\n")
	return p
}

// own is a text in which the worker has the project's name.
func own(file, name string) []byte {
	return bytes.ReplaceAll(read(file), []byte(sample), []byte(name))
}

// fill is a text with what it says of the project.
func (p Project) fill(file string) []byte {
	var b bytes.Buffer
	if err := template.Must(template.New(file).Parse(string(read(file)))).Execute(&b, p); err != nil {
		panic(err) // a mistake in the texts, which any use of them finds
	}
	return b.Bytes()
}

func read(file string) []byte {
	text, err := texts.ReadFile(file)
	if err != nil {
		panic(err) // it is embedded, or the program would not be built
	}
	return text
}
