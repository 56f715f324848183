// Package orchesty reads topologies that were drawn for Orchesty and makes
// topology files of ours out of them, for teams that move.
//
// It takes what such a team has at hand: the drawing as BPMN (which is also what
// .tplg files hold), the JSON of the newer editor (.tplg.json), either of them
// inside an exported record, and the compiled topology.json of a bridge. What comes
// out is a file that our own parser takes without a word, and a report that tells of
// each thing that could not be carried over as it was: what, where, why, and what to
// do about it. Nothing goes missing without an item there.
//
// Files come from anywhere, so the package believes none: sizes, depths and counts
// are bounded, an XML document may not define entities, and no file takes more than
// a moment. It knows nothing of servers, and it publishes nothing.
package orchesty

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"sluice/queue/topology"
)

// MaxFileSize is how large a file may be. Drawings carry coordinates, so they are
// larger than topology files.
const MaxFileSize = 4 << 20

// Bounds of a drawing. Those of a topology are checked when it is one; a drawing has
// gateways and ends besides.
const (
	maxElements = 2 * topology.MaxNodes
	maxFlows    = 2 * topology.MaxEdges
	maxDepth    = 64 // of XML elements, or of JSON values
	maxItems    = 1000
)

// Options say what a file cannot know.
type Options struct {
	// Name is that of the topology; empty: it is made from the drawing's, or the file's.
	Name string
	// Workers leads from a worker's name or host:port over there to its name here.
	Workers map[string]string
}

// Imported is what became of a file.
type Imported struct {
	Graph  topology.Graph
	File   []byte // the topology file, in YAML
	Report []Item
}

// Lost tells whether anything was not carried over at all.
func (i Imported) Lost() bool {
	for _, item := range i.Report {
		if item.Effect == Lost {
			return true
		}
	}
	return false
}

// Effect says what became of a thing that is in the report.
type Effect string

// A thing is lost if the topology does without it, and changed if it is there in
// another way.
const (
	Lost    Effect = "lost"
	Changed Effect = "changed"
)

// Item is one thing that could not be carried over as it was.
type Item struct {
	Effect Effect `json:"effect"`
	Where  string `json:"where,omitempty"` // the node, as it is called in the drawing; empty: the topology itself
	What   string `json:"what"`
	Why    string `json:"why"`
	Do     string `json:"do"`
}

// String is the item on one line.
func (i Item) String() string {
	where := ""
	if i.Where != "" {
		where = fmt.Sprintf("node %q: ", i.Where)
	}
	return fmt.Sprintf("%s: %s%s: %s: %s", i.Effect, where, i.What, i.Why, i.Do)
}

// ErrUnreadable says that a file is no drawing of Orchesty's, or makes no topology.
var ErrUnreadable = errors.New("file cannot be imported")

// Import makes a topology out of a file of Orchesty's. The error wraps
// [ErrUnreadable] and says what is wrong with the file.
func Import(file string, data []byte, o Options) (Imported, error) {
	d, err := read(data)
	if err != nil {
		return Imported{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	c := newCarrier(d, o)
	graph, err := c.carry(file)
	if err != nil {
		return Imported{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	text, err := topology.Format(graph)
	if err != nil {
		return Imported{}, fmt.Errorf("%w: what it would become is not valid: %w", ErrUnreadable, err)
	}
	if len(text) > topology.MaxFileSize {
		return Imported{}, fmt.Errorf("%w: it would become a topology file of more than %d bytes", ErrUnreadable, topology.MaxFileSize)
	}
	if graph, err = topology.Parse(file, text); err != nil { // with all defaults, and as anybody will read it
		return Imported{}, fmt.Errorf("%w: what it would become is not valid: %w", ErrUnreadable, err)
	}
	return Imported{Graph: graph, File: text, Report: c.items()}, nil
}

// read finds out in which way a drawing is written.
func read(data []byte) (drawing, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch trimmed := bytes.TrimSpace(data); {
	case len(data) > MaxFileSize:
		return drawing{}, fmt.Errorf("it is larger than %d bytes", MaxFileSize)
	case len(trimmed) == 0:
		return drawing{}, errors.New("it is empty")
	case !utf8.Valid(data):
		return drawing{}, errors.New("it is not UTF-8")
	case trimmed[0] == '<':
		return readBPMN(trimmed)
	case trimmed[0] == '{':
		return readJSON(trimmed)
	}
	return drawing{}, errors.New("it is neither BPMN nor JSON")
}

// nameOfFile is what a file calls its topology: orders.tplg.json is of orders.
func nameOfFile(file string) string {
	name := path.Base(strings.ReplaceAll(file, `\`, "/"))
	for _, ending := range []string{".json", ".xml", ".tplg", ".bpmn"} {
		name = strings.TrimSuffix(name, ending)
	}
	return name
}
