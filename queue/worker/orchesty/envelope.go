package orchesty

import (
	"bytes"
	"io"
	"maps"
	"math"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// envelope is the one JSON object that a call sends, in ASCII alone: the SDK
// puts text together from what each read of the socket brings, and spoils
// characters that are cut in two.
//
// A small one is written at once. A large body is escaped as it is sent, since
// escapes may make it six times as long, and nobody has made room for that.
type envelope struct {
	head []byte // up to the body, or all of a small one
	body []byte // still to be escaped
	tail string
	long int64 // of the body, escaped
}

// inMemory is up to which size a body is written into the envelope's head.
const inMemory = 64 << 10

const envelopeTail = `"}`

func newEnvelope(headers map[string]any, body []byte) (envelope, error) {
	if !utf8.Valid(body) {
		return envelope{}, errNotUTF8
	}
	b := make([]byte, 0, 1024+min(len(body), inMemory)*5/4)
	b = append(b, `{"headers":{`...)
	for i, name := range slices.Sorted(maps.Keys(headers)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, name), ':')
		switch v := headers[name].(type) {
		case string:
			b = appendQuoted(b, v)
		case number:
			b = append(b, v...)
		}
	}
	b = append(b, `},"body":"`...)
	if len(body) <= inMemory {
		b, _ = appendEscaped(b, body, unbounded)
		return envelope{head: append(b, envelopeTail...)}, nil
	}
	return envelope{head: b, body: body, tail: envelopeTail, long: escapedLen(body)}, nil
}

// number is a header that is a number in JSON.
type number string

func (e envelope) size() int64 { return int64(len(e.head)) + e.long + int64(len(e.tail)) }

func (e envelope) reader() io.Reader {
	if e.body == nil {
		return bytes.NewReader(e.head)
	}
	return io.MultiReader(bytes.NewReader(e.head), &escaper{rest: e.body}, bytes.NewReader([]byte(e.tail)))
}

// escaper reads text as the inside of a JSON string.
type escaper struct {
	rest  []byte
	spill []byte // escaped, and not yet read
	room  [longestEscape]byte
}

// longestEscape is what one character comes to at most: two halves of a pair.
const longestEscape = 12

func (e *escaper) Read(p []byte) (int, error) {
	if len(e.spill) == 0 && len(e.rest) == 0 {
		return 0, io.EOF
	}
	if len(e.spill) > 0 || len(p) < longestEscape { // a reader that asks for little gets one character at a time
		if len(e.spill) == 0 {
			_, size := utf8.DecodeRune(e.rest)
			e.spill, _ = appendEscaped(e.room[:0], e.rest[:size], unbounded)
			e.rest = e.rest[size:]
		}
		n := copy(p, e.spill)
		e.spill = e.spill[n:]
		return n, nil
	}
	out, took := appendEscaped(p[:0], e.rest, len(p))
	e.rest = e.rest[took:]
	return len(out), nil
}

// appendQuoted appends text as a JSON string in ASCII. Bytes that are no UTF-8
// become U+FFFD.
func appendQuoted(b []byte, s string) []byte {
	b, _ = appendEscaped(append(b, '"'), []byte(s), unbounded)
	return append(b, '"')
}

const unbounded = math.MaxInt

// appendEscaped appends text as the inside of a JSON string in ASCII, for as
// long as what it appends surely stays within room, and returns how many bytes
// of the text that were.
func appendEscaped(b []byte, text []byte, room int) ([]byte, int) {
	const digits = "0123456789abcdef"
	took, start := 0, len(b)
	for took < len(text) && len(b)-start <= room-longestEscape {
		c := text[took]
		switch {
		case isPlain(c):
			b = append(b, c)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < utf8.RuneSelf:
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			r, size := utf8.DecodeRune(text[took:])
			if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
				b = appendUnit(appendUnit(b, high), low)
			} else {
				b = appendUnit(b, r)
			}
			took += size
			continue
		}
		took++
	}
	return b, took
}

func appendUnit(b []byte, unit rune) []byte {
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', digits[unit>>12&15], digits[unit>>8&15], digits[unit>>4&15], digits[unit&15])
}

func isPlain(c byte) bool { return ' ' <= c && c < 0x7f && c != '"' && c != '\\' }

// escapedLen is how many bytes appendEscaped makes of a text.
func escapedLen(text []byte) int64 {
	n := int64(0)
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case isPlain(c):
			n++
		case c == '"' || c == '\\' || c == '\n':
			n += 2
		case c < utf8.RuneSelf:
			n += 6
		default:
			r, size := utf8.DecodeRune(text[i:])
			if n += 6; r > 0xffff {
				n += 6
			}
			i += size
			continue
		}
		i++
	}
	return n
}
