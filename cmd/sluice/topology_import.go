package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sluice/queue/topology/orchesty"
)

type topologyImportCmd struct {
	Files []string `arg:"" name:"file" help:"Topologies of Orchesty's: .tplg, .tplg.json, BPMN, or a bridge's topology.json; - is standard input."`

	Worker []string `sep:"none" placeholder:"THERE=HERE" help:"Name here of a worker that is called THERE, or is at that host:port, in Orchesty. May be repeated."`
	Name   string   `help:"Name of the topology, of a single file; otherwise the drawing's, or the file's."`
	Out    string   `type:"path" placeholder:"DIR" help:"Directory to write topology files to, NAME.yaml; without it, that of a single file goes to standard output."`
	Force  bool     `help:"Write over files that are there."`
	Strict bool     `help:"Write nothing, and fail, if anything is lost."`
}

func (topologyImportCmd) Help() string {
	return examples("Turns topologies of Orchesty's into topology files, and tells what could not be carried over: lost or changed, where, why, and what to do. "+
		"Nothing is applied, and no Sluice is asked. Fails (1) if a file cannot be imported, and then writes none.",
		"sluice topology import orders.tplg.json",
		"sluice topology import orders.tplg --worker 'Shop Worker=shop' --worker 10.0.0.8:8080=crm > orders.yaml",
		"sluice topology import exported/*.tplg.json --out topologies && sluice topology apply topologies/*.yaml",
		"sluice topology import orders.tplg --strict --output json | jq -r '.[].report[].what'")
}

// imported is what became of one file.
type imported struct {
	File     string          `json:"file"`
	Topology string          `json:"topology"`
	Nodes    int             `json:"nodes"`
	Written  string          `json:"written,omitempty"` // absent: it is in source alone
	Source   string          `json:"source"`
	Report   []orchesty.Item `json:"report"`
	lost     bool
}

func (c topologyImportCmd) Run(p *program) error {
	workers, err := c.workers()
	if err != nil {
		return err
	}
	if len(c.Files) > 1 && c.Name != "" {
		return usagef("--name is for a single file: name the others by their files")
	}
	if len(c.Files) > 1 && c.Out == "" && p.output == "text" {
		return usagef("say with --out where the files of several topologies are to go")
	}
	results := make([]imported, 0, len(c.Files))
	seen := map[string]string{}
	bad, lost := 0, 0
	for _, file := range c.Files {
		data, err := c.read(p, file)
		if err != nil {
			return err
		}
		got, err := orchesty.Import(file, data, orchesty.Options{Name: c.Name, Workers: workers})
		if err != nil {
			fmt.Fprintf(p.stderr, "%s: %s\n", line(file), lines(err.Error()))
			bad++
			continue
		}
		name := got.Graph.Name
		if first, twice := seen[name]; twice {
			return fmt.Errorf("%s and %s would both be the topology %s: import them apart, with --name", first, file, name)
		}
		seen[name] = file
		r := imported{File: file, Topology: name, Nodes: len(got.Graph.Nodes), Source: string(got.File), Report: got.Report, lost: got.Lost()}
		if r.Report == nil {
			r.Report = []orchesty.Item{}
		}
		if r.lost {
			lost++
		}
		results = append(results, r)
	}
	if bad > 0 {
		return fmt.Errorf("%s of %d cannot be imported, nothing was written", count(bad, "file"), len(c.Files))
	}
	refused := c.Strict && lost > 0
	if !refused {
		if err := c.write(results); err != nil {
			return err
		}
	}
	if err := c.tell(p, results, refused); err != nil {
		return err
	}
	if refused {
		return fmt.Errorf("something of %s would be lost, so nothing was written: see above", count(lost, "file"))
	}
	return nil
}

// workers are the mappings that were given.
func (c topologyImportCmd) workers() (map[string]string, error) {
	workers := map[string]string{}
	for _, text := range c.Worker {
		at := strings.LastIndexByte(text, '=')
		if at < 1 || at == len(text)-1 {
			return nil, usagef("--worker %s: write THERE=HERE", text)
		}
		workers[text[:at]] = text[at+1:]
	}
	return workers, nil
}

func (c topologyImportCmd) read(p *program, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(p.stdin, orchesty.MaxFileSize+1))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: name a file of Orchesty's", err)
	}
	return data, nil
}

// write puts the topology files where they were asked for. It looks first whether all of them can go there.
func (c topologyImportCmd) write(results []imported) error {
	if c.Out == "" {
		return nil
	}
	if err := os.MkdirAll(c.Out, 0o750); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	for i := range results {
		to := filepath.Join(c.Out, results[i].Topology+".yaml")
		if _, err := os.Lstat(to); !c.Force && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already: use --force to write over it", to)
		}
		results[i].Written = to
	}
	for _, r := range results {
		if err := os.WriteFile(r.Written, []byte(r.Source), 0o600); err != nil {
			return fmt.Errorf("write the topology: %w", err)
		}
	}
	return nil
}

// tell prints the topologies, or where they are, and what became of what they had.
func (c topologyImportCmd) tell(p *program, results []imported, refused bool) error {
	if p.output == "text" {
		for _, r := range results {
			for _, item := range r.Report {
				p.note("%s: %s", r.File, item)
			}
		}
	}
	return p.print(results, func(w io.Writer) {
		for _, r := range results {
			switch {
			case refused:
			case r.Written == "":
				fmt.Fprint(w, r.Source)
			default:
				fmt.Fprintf(w, "%s: topology %s with %s, in %s\n", line(r.File), r.Topology, count(r.Nodes, "node"), line(r.Written))
			}
		}
	})
}
