package topology

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of what is handed to the YAML parser, which goes down one call for each
// level, and some of whose ways cost the square of what a file holds.
const (
	maxDepth   = 16    // a topology has four
	maxEntries = 50000 // colons, commas and dashes; a topology with the most of everything has fewer
	maxKeys    = 2000  // in one block mapping

	// Each of these marks may become a token, which takes some 300 bytes.
	marks    = "[]{},:#\"'-?&*!|>%@`"
	maxMarks = 300_000
)

// document reads the one YAML document of a file. It returns nil, and has reported
// why, if the file is not that, or uses what a topology has no need of and a reader
// may stumble over.
func document(data []byte, r *report) ast.Node {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if f := unreadable(data); f != nil {
		r.addFault(f)
		return nil
	}
	root, f := syntax(string(data))
	if f != nil {
		r.addFault(f)
		return nil
	}
	return root
}

// fault is a problem with the file as such.
type fault struct {
	position
	message, mend string
}

func (r *report) addFault(f *fault) {
	r.addAt(f.position, place{node: topologyItself}, f.message, f.mend)
}

func unreadable(data []byte) *fault {
	if len(data) > MaxFileSize {
		return &fault{position{}, fmt.Sprintf("the file is larger than %d bytes", MaxFileSize), "split it into several topologies"}
	}
	where, count := position{1, 1}, 0
	for rest := data; len(rest) > 0; {
		c, size := utf8.DecodeRune(rest)
		switch {
		case c == utf8.RuneError && size == 1:
			return &fault{where, "the file is not valid UTF-8", "save it as UTF-8"}
		case c == '\n':
			where = position{where.line + 1, 0}
		case strings.ContainsRune(marks, c):
			count++
		case unicode.IsControl(c) && c != '\t' && c != '\r':
			return &fault{where, fmt.Sprintf("the file holds the control character %U", c), "remove it, or write it as an escape in double quotes"}
		}
		where.column++
		rest = rest[size:]
	}
	if count > maxMarks {
		return &fault{position{}, fmt.Sprintf("the file holds more than %d marks such as brackets and quotes", maxMarks), "split it into several topologies"}
	}
	return nil
}

// syntax parses. The library is not ours, so should it panic, it is the file that
// fails and not the server.
func syntax(text string) (root ast.Node, f *fault) {
	defer func() {
		if v := recover(); v != nil {
			root, f = nil, &fault{position{1, 1}, "the file cannot be read as YAML", "write it more plainly"}
		}
	}()
	tokens := lexer.Tokenize(text)
	if f := unwelcome(tokens); f != nil {
		return nil, f
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxFault(err)
	}
	for _, doc := range file.Docs {
		if doc.Body != nil && typeOf(doc.Body) != nothing {
			return doc.Body, nil
		}
	}
	return nil, &fault{position{1, 1}, "the file is empty", "begin with `topology: NAME` and `nodes:`"}
}

func syntaxFault(err error) *fault {
	f := &fault{position{1, 1}, "the file is not valid YAML", "look at the quotes, brackets and indentation there"}
	if syntax, ok := errors.AsType[yaml.Error](err); ok {
		f.message += ": " + syntax.GetMessage()
		f.position = positionOfToken(syntax.GetToken())
		if strings.ContainsRune(f.message, '\t') {
			f.mend = "indent with spaces, not with tabs"
		}
	}
	return f
}

func positionOfToken(tk *token.Token) position {
	if tk == nil || tk.Position == nil {
		return position{1, 1}
	}
	return position{tk.Position.Line, tk.Position.Column}
}

// unwelcome finds what a topology has no need of: a second document, anchors and
// aliases (with which a small file says something huge), tags, directives and
// explicit keys, and more levels or entries than any topology has.
func unwelcome(tokens token.Tokens) *fault {
	var (
		content, closed bool
		flow, entries   int
		colons          int // since the last comma or bracket
		levels          levels
	)
	for _, tk := range tokens {
		where := positionOfToken(tk)
		switch tk.Type {
		case token.CommentType:
			continue
		case token.DocumentHeaderType:
			if content {
				return &fault{where, "the file holds several documents", "keep each topology in a file of its own"}
			}
			content = true
			continue
		case token.DocumentEndType:
			content, closed = true, true
			continue
		case token.AnchorType, token.AliasType:
			return &fault{where, "anchors (&) and aliases (*) are not read", "write the value out, or put it in quotes if it is text"}
		case token.TagType:
			return &fault{where, "tags (!) are not read", "remove it, or put the value in quotes if it is text"}
		case token.DirectiveType:
			return &fault{where, "directives (%) are not read", "remove the line"}
		case token.MappingKeyType:
			return &fault{where, "explicit keys (?) are not read", "write `key: value`"}
		case token.SequenceStartType, token.MappingStartType:
			flow++
			colons = 0
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
			colons = 0
		case token.CollectEntryType:
			entries++
			colons = 0
		case token.SequenceEntryType:
			entries++
			levels.enter(where.column)
		case token.MappingValueType:
			entries++
			colons++
			if flow > 0 && colons > 1 {
				return &fault{where, "the file is not valid YAML: two colons in a row inside brackets", "put a comma between the entries"}
			}
			if flow == 0 && tk.Prev != nil && levels.key(positionOfToken(tk.Prev).column) > maxKeys {
				return &fault{where, fmt.Sprintf("more than %d entries in one mapping", maxKeys), "split it into several topologies"}
			}
		}
		if closed {
			return &fault{where, "the file holds several documents", "keep each topology in a file of its own"}
		}
		content = true
		if len(levels)+flow > maxDepth {
			return &fault{where, "the file is nested too deeply", "a node and its retry policy are as deep as it goes"}
		}
		if entries > maxEntries {
			return &fault{where, fmt.Sprintf("more than %d entries in all", maxEntries), "split it into several topologies"}
		}
	}
	return nil
}

// levels are the block collections that are open, by column.
type levels []level

type level struct{ column, keys int }

func (l *levels) enter(column int) *level {
	for len(*l) > 0 && (*l)[len(*l)-1].column > column {
		*l = (*l)[:len(*l)-1]
	}
	if len(*l) == 0 || (*l)[len(*l)-1].column < column {
		*l = append(*l, level{column: column})
	}
	return &(*l)[len(*l)-1]
}

func (l *levels) key(column int) int {
	at := l.enter(column)
	at.keys++
	return at.keys
}
