package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sluice/gateway/starter"
	"sluice/queue/topology"
)

type workerNewCmd struct {
	Name string `arg:"" optional:"" default:"shop" help:"Name of the worker, and of the topology."`
	Lang string `required:"" enum:"go,node,python,bash" help:"What it is written in: ${enum}."`
	Dir  string `placeholder:"DIR" help:"Where to write it. Default: a directory of the worker's name."`
}

func (workerNewCmd) Help() string {
	return examples("It is one file of less than 40 lines that needs nothing but its language; the one in bash takes its calls itself, by curl. Beside it there are a test, a topology, an event, and AGENTS.md, which tells the contract to coding agents. "+
		"What is there already is not touched.",
		"sluice worker new --lang go",
		"sluice worker new --lang python stock --dir workers/stock")
}

func (c workerNewCmd) Run(p *program) error {
	project, err := starter.New(c.Lang, c.Name)
	if err != nil {
		return err
	}
	if !project.Pulls {
		project.Files = append(project.Files, starter.File{Name: "token", Text: []byte(rand.Text() + rand.Text() + "\n")})
	}
	for _, f := range project.Files {
		if f.Name == c.Name+".yaml" {
			if _, err := topology.Parse(f.Name, f.Text); err != nil {
				return usagef("%q cannot be the name of a worker: lower-case letters and digits, joined by single dashes, 63 at most", c.Name)
			}
		}
	}
	dir := cmp.Or(c.Dir, c.Name)
	written, err := writeProject(dir, project.Files)
	if err != nil {
		return err
	}
	made := struct {
		Name  string   `json:"name"`
		Dir   string   `json:"dir"`
		Files []string `json:"files"`
		Check string   `json:"check"`
		Run   string   `json:"run"`
	}{c.Name, dir, written, project.Check, project.Run}
	return p.print(made, func(w io.Writer) {
		for _, name := range written {
			fmt.Fprintln(w, "Wrote", line(name))
		}
		fmt.Fprintf(w, "\nTest it:\n\ncd %s\n%s\n\nRun it, and send an event through its topology:\n\n%s\n", line(dir), project.Check, project.Run)
	})
}

// writeProject writes all files, or none if one of them is there.
func writeProject(dir string, files []starter.File) (written []string, err error) {
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, cmp.Or(err, fmt.Errorf("%s is there already: give the worker another name, or another --dir", path))
		}
		written = append(written, path)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for i, f := range files {
		mode := fs.FileMode(0o644)
		if f.Name == "token" {
			mode = 0o600
		}
		if err := os.WriteFile(written[i], f.Text, mode); err != nil {
			return nil, err
		}
	}
	return written, nil
}
