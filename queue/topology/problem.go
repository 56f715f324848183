package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a topology, and what to do about it.
// Node is empty if the topology itself is meant, Line and Column are 0 if the
// graph was not read from a file.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Node    string `json:"node,omitempty"`
	Field   string `json:"field,omitempty"` // as in retry.attempts
	Message string `json:"message"`         // what is wrong
	Mend    string `json:"mend,omitempty"`  // what to do
}

// String is the problem on one line: orders.yaml:12: node "check": message: mend.
// A file without a name, such as one from standard input, still has its lines.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	} else if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Node != "" {
		fmt.Fprintf(&b, "node %s: ", quoted(p.Node))
	}
	b.WriteString(p.Message)
	if p.Mend != "" {
		b.WriteString(": ")
		b.WriteString(p.Mend)
	}
	return b.String()
}

// InvalidError holds all that is wrong with a topology, in the order of its file.
type InvalidError struct {
	Problems []Problem
}

// shownProblems is how many of them Error lists; a person mends no more at once.
const shownProblems = 20

// Error lists the problems, one a line.
func (e *InvalidError) Error() string {
	lines := make([]string, 0, min(len(e.Problems), shownProblems)+1)
	for i, p := range e.Problems {
		if i == shownProblems {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Problems)-shownProblems))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds what a hostile file makes us remember and compare.
const maxProblems = 200

// place is where something stands: a field of a node, or one item of its list.
// The topology itself is the node -1, and items count from 1.
type place struct {
	node  int
	field string
	item  int
}

const topologyItself = -1

type position struct{ line, column int }

// report collects the problems of one topology. It knows where things stand if
// the topology came from a file, and which of them could not be read: what the
// rules would say about those is only noise.
type report struct {
	file     string
	where    map[place]position
	broken   map[place]bool
	names    []string // of the nodes
	problems []Problem
	cut      bool // there was more than we remember
}

func newReport(file string) *report {
	return &report{file: file, where: map[place]position{}, broken: map[place]bool{}}
}

// full tells that a further problem would be thrown away, so none need be looked for.
func (r *report) full() bool { return len(r.problems) >= maxProblems }

func (r *report) add(at place, message, mend string) {
	where, ok := r.where[at]
	if !ok { // the field was left out: show the node
		where = r.where[place{node: at.node}]
	}
	r.addAt(where, at, message, mend)
}

func (r *report) addAt(where position, at place, message, mend string) {
	if r.full() {
		r.cut = true
		return
	}
	p := Problem{File: r.file, Line: where.line, Column: where.column, Field: at.field, Message: message, Mend: mend}
	if at.node >= 0 && at.node < len(r.names) {
		p.Node = r.names[at.node]
	}
	r.problems = append(r.problems, p)
}

// addDuplicate names both lines if there are lines.
func (r *report) addDuplicate(at, first place, message, mend string) {
	if a, b := r.where[first].line, r.where[at].line; a > 0 && b > a {
		message = fmt.Sprintf("%s, on lines %d and %d", message, a, b)
	} else if a > 0 {
		message = fmt.Sprintf("%s on line %d", message, a)
	}
	r.add(at, message, mend)
}

// addBroken adds a problem with something that the rules need not look at any more.
func (r *report) addBroken(at place, message, mend string) {
	r.broken[at] = true
	r.add(at, message, mend)
}

// err is what was found, in the order of the file, or nil.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if r.cut {
		r.problems = append(r.problems, Problem{
			File:    r.file,
			Message: fmt.Sprintf("there are more than %d problems", maxProblems),
			Mend:    "mend these first",
		})
	}
	return &InvalidError{Problems: r.problems}
}

// quoted shows a piece of the file, of which there may be a lot.
func quoted(s string) string {
	const most = 80
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// meant asks about the candidate that the writer of the word probably meant, or
// else gives the advice.
func meant(word string, candidates []string, advice string) string {
	if near := nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return advice
}

// longestWord bounds what is compared letter by letter; names are shorter.
const longestWord = 64

// nearest is the candidate with the fewest slips of the pen to the word, of two
// with equally many the first, and none if they have little in common.
func nearest(word string, candidates []string) string {
	if len(word) > longestWord {
		return ""
	}
	best, distance := "", 1+min(3, len(word)/3)
	for _, candidate := range candidates {
		if len(candidate) > longestWord {
			continue
		}
		if d := slips(word, candidate, distance); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// slips counts the letters to add, drop, change or swap between a and b, which are
// at most longestWord long. It gives up at the limit, which keeps it to a narrow
// band of the table: a hostile file makes a hundred thousand comparisons.
func slips(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var rows [3][longestWord + 2]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		from, to := max(1, i-limit), min(len(b), i+limit)
		row[from-1], row[to+1] = limit, limit // the edges of the band
		if from == 1 {
			row[0] = i
		}
		least := row[from-1]
		for j := from; j <= to; j++ {
			change := 1
			if sameLetter(a[i-1], b[j-1]) {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && sameLetter(a[i-1], b[j-2]) && sameLetter(a[i-2], b[j-1]) {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least >= limit {
			return limit
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}

// sameLetter overlooks capitals, and which of - and _ joins the words.
func sameLetter(a, b byte) bool {
	return plainer[a] == plainer[b]
}

var plainer = func() (table [256]byte) {
	for i := range table {
		c := byte(i)
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		table[i] = c
	}
	return table
}()
