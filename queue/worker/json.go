package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// encoding/json is too kind for a contract: it takes RESULT for result, the last
// of two equal keys, and puts U+FFFD where it cannot decode. Here it only says
// whether a document is JSON at all; what follows walks a document that is.

// value is a JSON value within a valid document, byte for byte as written,
// without the space around it.
type value []byte

// parseJSON checks that a document is one JSON value in UTF-8.
func parseJSON(doc []byte) (value, error) {
	if !utf8.Valid(doc) {
		return nil, errors.New("the document is not UTF-8")
	}
	if !json.Valid(doc) {
		var v any
		return nil, fmt.Errorf("the document is not JSON: %w", json.Unmarshal(doc, &v))
	}
	start := skipSpace(doc, 0)
	return value(doc[start:skipValue(doc, start)]), nil
}

// kind is the value's type, for people.
func (v value) kind() string {
	switch v[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// want fails unless the value is of this kind.
func (v value) want(kind string) error {
	if got := v.kind(); got != kind {
		return fmt.Errorf("want %s, got %s", kind, got)
	}
	return nil
}

// members calls f for each member of an object, in order. A second member of the
// same name is an error: readers differ on which of them counts.
func (v value) members(f func(name string, member value) error) error {
	if err := v.want("an object"); err != nil {
		return err
	}
	seen := make(map[string]struct{})
	for i := skipSpace(v, 1); v[i] != '}'; {
		end := skipValue(v, i)
		name, err := v[i:end].text()
		if err != nil {
			return fmt.Errorf("a name: %w", err)
		}
		if _, twice := seen[name]; twice {
			return fmt.Errorf("%.80q is there twice", name)
		}
		seen[name] = struct{}{}
		start := skipSpace(v, skipSpace(v, end)+1) // past the colon
		end = skipValue(v, start)
		if err := f(name, v[start:end]); err != nil {
			return err
		}
		i = next(v, end)
	}
	return nil
}

// elements calls f for each element of a list.
func (v value) elements(f func(i int, element value) error) error {
	if err := v.want("a list"); err != nil {
		return err
	}
	n := 0
	for i := skipSpace(v, 1); v[i] != ']'; n++ {
		end := skipValue(v, i)
		if err := f(n, v[i:end]); err != nil {
			return err
		}
		i = next(v, end)
	}
	return nil
}

// text decodes a string. Half a surrogate pair is an error, for there is no
// UTF-8 for it.
func (v value) text() (string, error) {
	if err := v.want("a string"); err != nil {
		return "", err
	}
	inner := v[1 : len(v)-1]
	b := make([]byte, 0, len(inner))
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' {
			b = append(b, inner[i])
			continue
		}
		i++
		switch c := inner[i]; c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hex4(inner[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 >= len(inner) || inner[i+1] != '\\' || inner[i+2] != 'u' {
					return "", errors.New("half a surrogate pair")
				}
				if r = utf16.DecodeRune(r, hex4(inner[i+3:])); r == utf8.RuneError {
					return "", errors.New("half a surrogate pair")
				}
				i += 6
			}
			b = utf8.AppendRune(b, r)
		default: // a quote, a slash or a backslash
			b = append(b, c)
		}
	}
	return string(b), nil
}

func hex4(b []byte) (r rune) {
	for _, c := range b[:4] {
		r = r<<4 | rune(unhex(c))
	}
	return r
}

// The walkers below may index freely: the document is known to be valid.

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// next moves from the end of an element to the start of the one after, or to
// the bracket that closes them.
func next(b []byte, i int) int {
	if i = skipSpace(b, i); b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	return i
}

// skipValue returns the end of the value that starts at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ' ', '\t', '\n', '\r', ',', ':':
			i++ // within an object or a list, since a value does not start so
		default:
			for i < len(b) && isLiteral(b[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// isLiteral reports whether a byte is of a number, true, false or null.
func isLiteral(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'E'
}
