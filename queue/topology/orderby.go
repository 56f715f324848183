package topology

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// OrderBy names what keeps messages in order before a node: those with the same
// key are worked one after the other, as they came. It is the name of a header, or
// the path to one value of a JSON body, which begins with $ (a singular query of
// RFC 9535). The zero value names nothing.
type OrderBy struct {
	text   string
	header string // in lower case; empty if it is a path
	path   []segment
}

// segment is one step of a path: into the member of an object, or to the item of
// a list, counted from its end if negative.
type segment struct {
	name   string
	index  int
	isItem bool
}

const (
	maxOrderBy = 200     // characters
	maxIndex   = 1 << 30 // no body holds more items
	maxKey     = 200     // bytes of a key that stands for itself
)

// ParseOrderBy reads what a file says after order_by. The error is meant for people.
func ParseOrderBy(text string) (OrderBy, error) {
	o := OrderBy{text: text}
	if text == "" {
		return OrderBy{}, errors.New("it is empty")
	}
	if !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxOrderBy {
		return OrderBy{}, fmt.Errorf("it is not UTF-8 text of at most %d characters", maxOrderBy)
	}
	if text[0] != '$' {
		if !headerExpression.MatchString(text) {
			return OrderBy{}, errors.New("it is neither the name of a header (letters, digits, - and _) nor a path that begins with $")
		}
		o.header = strings.ToLower(text)
		o.text = o.header
		return o, nil
	}
	p := pathReader{text: text, at: 1}
	if err := p.read(); err != nil {
		return OrderBy{}, err
	}
	o.path = p.path
	return o, nil
}

// String is what stands in a file, with the name of a header in lower case.
func (o OrderBy) String() string { return o.text }

// IsZero tells that nothing is named.
func (o OrderBy) IsZero() bool { return o.text == "" }

// MarshalText is String, for JSON.
func (o OrderBy) MarshalText() ([]byte, error) { return []byte(o.text), nil }

// UnmarshalText is [ParseOrderBy], and takes what MarshalText makes of the zero value.
func (o *OrderBy) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*o = OrderBy{}
		return nil
	}
	parsed, err := ParseOrderBy(string(text))
	if err != nil {
		return fmt.Errorf("order by %s: %w", quoted(string(text)), err)
	}
	*o = parsed
	return nil
}

// Key is the key of a message. A text is its own key, numbers, true and false are
// as they are written: 1 and "1" are one key, 1 and 1.0 are two. What cannot be a
// short text (an object, a list, more than 200 bytes, a NUL or what is not UTF-8) is
// "sha256:" and the digest of its bytes. Messages that have no such value, or null,
// or no JSON for a body, have the key "" in common.
//
// The names of headers compare without regard to case. Of members of the same name
// the first counts. The body is read as far as the value and not beyond.
func (o OrderBy) Key(headers map[string]string, body []byte) string {
	switch {
	case o.text == "":
		return ""
	case o.header != "":
		return textKey(o.headerValue(headers))
	}
	value, ok := o.find(body)
	if ok && (value[0] == '{' || value[0] == '[') {
		return digestKey(string(value))
	}
	return keyOfScalar(value)
}

// scalarKey is Key, but that a list or an object has none.
func (o OrderBy) scalarKey(headers map[string]string, body []byte) string {
	if o.header != "" {
		return textKey(o.headerValue(headers))
	}
	value, _ := o.find(body)
	return keyOfScalar(value)
}

func (o OrderBy) find(body []byte) ([]byte, bool) {
	s := scanner{body: body}
	return s.find(o.path)
}

// keyOfScalar is the key of a value that was found in a body; nil was not.
func keyOfScalar(value []byte) string {
	switch {
	case len(value) == 0 || value[0] == 'n' || value[0] == '{' || value[0] == '[':
		return ""
	case value[0] == '"':
		return textKey(unquote(value[1 : len(value)-1]))
	}
	return textKey(string(value))
}

// headerValue finds names in lower case, as nearly all are, at once. Of several
// that only differ in case it takes the one that a worker would get.
func (o OrderBy) headerValue(headers map[string]string) string {
	if value, ok := headers[o.header]; ok {
		return value
	}
	last := ""
	for name := range headers {
		if len(name) == len(o.header) && name > last && strings.EqualFold(name, o.header) {
			last = name
		}
	}
	return headers[last]
}

func textKey(s string) string {
	if len(s) > maxKey || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return digestKey(s)
	}
	return s
}

func digestKey(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// pathReader reads a path. What may name more than one value is refused.
type pathReader struct {
	text string
	at   int
	path []segment
}

var errMany = errors.New("it may name several values, and a message has one key")

func (p *pathReader) read() error {
	for p.at < len(p.text) {
		p.space()
		var err error
		switch p.next() {
		case '.':
			err = p.member()
		case '[':
			err = p.bracket()
		default:
			err = p.unexpected()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next is the byte to read, or 0 behind the last.
func (p *pathReader) next() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *pathReader) space() {
	for p.at < len(p.text) && isSpace(p.text[p.at]) {
		p.at++
	}
}

func (p *pathReader) unexpected() error {
	if p.at >= len(p.text) {
		return errors.New("the path ends too early")
	}
	c, _ := utf8.DecodeRuneInString(p.text[p.at:])
	return fmt.Errorf("the path has an unexpected %q at character %d", c, 1+utf8.RuneCountInString(p.text[:p.at]))
}

func (p *pathReader) member() error {
	p.at++
	if c := p.next(); c == '.' || c == '*' {
		return errMany
	}
	begin := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		letter := c >= utf8.RuneSelf || c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (p.at == begin || c < '0' || c > '9') {
			break
		}
		p.at++
	}
	if p.at == begin {
		return p.unexpected()
	}
	p.path = append(p.path, segment{name: p.text[begin:p.at]})
	return nil
}

func (p *pathReader) bracket() error {
	p.at++
	p.space()
	var err error
	switch c := p.next(); {
	case c == '\'' || c == '"':
		err = p.quoted(c)
	case c == '-' || '0' <= c && c <= '9':
		err = p.index()
	case c == '*' || c == '?' || c == ':':
		err = errMany
	default:
		err = p.unexpected()
	}
	if err != nil {
		return err
	}
	p.space()
	switch p.next() {
	case ']':
		p.at++
		return nil
	case ',', ':':
		return errMany
	}
	return p.unexpected()
}

func (p *pathReader) index() error {
	digits := indexExpression.FindString(p.text[p.at:])
	index, err := strconv.Atoi(digits)
	if err != nil || index > maxIndex || index < -maxIndex {
		return fmt.Errorf("the path has no index of an item at character %d", 1+utf8.RuneCountInString(p.text[:p.at]))
	}
	p.at += len(digits)
	p.path = append(p.path, segment{index: index, isItem: true})
	return nil
}

// quoted reads the name of a member between quotes, with the escapes of JSON and
// one for the quote itself.
func (p *pathReader) quoted(quote byte) error {
	p.at++
	begin := p.at
	for p.at < len(p.text) && p.text[p.at] != quote {
		switch c := p.text[p.at]; {
		case c < ' ':
			return p.unexpected()
		case c != '\\':
			p.at++
		case p.at+1 < len(p.text) && p.text[p.at+1] == quote:
			p.at += 2
		default:
			end := escape(p.text, p.at)
			if end < 0 || p.text[p.at+1] == '"' {
				return p.unexpected()
			}
			p.at = end
		}
	}
	if p.at == len(p.text) {
		return p.unexpected()
	}
	name := unquote([]byte(p.text[begin:p.at]))
	if !utf8.ValidString(name) {
		return errors.New("the path has half a surrogate pair, which is no character")
	}
	p.at++
	p.path = append(p.path, segment{name: name})
	return nil
}

// scanner walks over JSON without making values of it. It is strict about what it
// walks over.
type scanner struct {
	body []byte
	at   int
}

// maxNesting is where encoding/json gives up, too.
const maxNesting = 10000

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// next skips white space and is the byte after it, or 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.body) {
		if c := s.body[s.at]; !isSpace(c) {
			return c
		}
		s.at++
	}
	return 0
}

// take reads the byte, if it is the next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// find returns the bytes of the value at the end of the path.
func (s *scanner) find(path []segment) ([]byte, bool) {
	for depth, to := range path {
		if to.isItem && !s.toItem(to.index, depth+1) || !to.isItem && !s.toMember(to.name, depth+1) {
			return nil, false
		}
	}
	s.next()
	begin := s.at
	if !s.skip(len(path)) {
		return nil, false
	}
	return s.body[begin:s.at], true
}

// toMember goes to the value of the member of that name.
func (s *scanner) toMember(name string, depth int) bool {
	if !s.take('{') {
		return false
	}
	for {
		key, ok := s.key()
		if !ok || !s.take(':') {
			return false
		}
		if same(key, name) {
			return true
		}
		if !s.skip(depth) || !s.take(',') {
			return false
		}
	}
}

// toItem goes to an item of a list.
func (s *scanner) toItem(index, depth int) bool {
	if !s.take('[') || s.next() == ']' {
		return false
	}
	if index < 0 {
		count := s.count(depth)
		if index += count; index < 0 {
			return false
		}
	}
	for range index {
		if !s.skip(depth) || !s.take(',') {
			return false
		}
	}
	return true
}

// count is how many items are left of a list that is not empty, or 0 if it never ends.
func (s scanner) count(depth int) int {
	for n := 1; s.skip(depth); n++ {
		if !s.take(',') {
			if s.next() == ']' {
				return n
			}
			break
		}
	}
	return 0
}

// key reads the name of a member, its quotes left off.
func (s *scanner) key() ([]byte, bool) {
	if s.next() != '"' {
		return nil, false
	}
	begin := s.at
	if !s.text() {
		return nil, false
	}
	return s.body[begin+1 : s.at-1], true
}

func same(key []byte, name string) bool {
	if bytes.IndexByte(key, '\\') >= 0 {
		return unquote(key) == name
	}
	return string(key) == name
}

// skip reads one value, in so many others.
func (s *scanner) skip(depth int) bool {
	switch c := s.next(); c {
	case '{':
		s.at++
		return depth < maxNesting && s.object(depth+1)
	case '[':
		s.at++
		return depth < maxNesting && s.list(depth+1)
	case '"':
		return s.text()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) object(depth int) bool {
	if s.take('}') {
		return true
	}
	for {
		if _, ok := s.key(); !ok || !s.take(':') || !s.skip(depth) {
			return false
		}
		if !s.take(',') {
			return s.take('}')
		}
	}
}

func (s *scanner) list(depth int) bool {
	if s.take(']') {
		return true
	}
	for {
		if !s.skip(depth) {
			return false
		}
		if !s.take(',') {
			return s.take(']')
		}
	}
}

func (s *scanner) word(word string) bool {
	if len(s.body)-s.at < len(word) || string(s.body[s.at:s.at+len(word)]) != word {
		return false
	}
	s.at += len(word)
	return true
}

// text reads what begins with a quote.
func (s *scanner) text() bool {
	body := s.body
	for i := s.at + 1; i < len(body); {
		switch c := body[i]; {
		case c == '"':
			s.at = i + 1
			return true
		case c < ' ':
			return false
		case c == '\\':
			if i = escape(body, i); i < 0 {
				return false
			}
		default:
			i++
		}
	}
	return false
}

func (s *scanner) number() bool {
	if s.at < len(s.body) && s.body[s.at] == '-' {
		s.at++
	}
	if s.at < len(s.body) && s.body[s.at] == '0' {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.at < len(s.body) && s.body[s.at] == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if s.at < len(s.body) && s.body[s.at]|0x20 == 'e' {
		s.at++
		if s.at < len(s.body) && (s.body[s.at] == '+' || s.body[s.at] == '-') {
			s.at++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	begin := s.at
	for s.at < len(s.body) && s.body[s.at] >= '0' && s.body[s.at] <= '9' {
		s.at++
	}
	return s.at > begin
}

// escape is where the escape at i ends, or -1 if there is no such.
func escape[T string | []byte](s T, i int) int {
	if i+1 >= len(s) {
		return -1
	}
	switch s[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if hex4(s, i+2) >= 0 {
			return i + 6
		}
	}
	return -1
}

// hex4 is what four hexadecimal digits say, or -1.
func hex4[T string | []byte](s T, i int) rune {
	if i+4 > len(s) {
		return -1
	}
	var r rune
	for _, c := range []byte(s[i : i+4]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// unquote resolves the escapes of a text that was found to be sound. Half a
// surrogate pair becomes bytes that are no UTF-8, so that texts that differ in it
// still differ.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			b = append(b, raw[i])
			i++
			continue
		}
		c := raw[i+1]
		if c != 'u' {
			b = append(b, meaning(c))
			i += 2
			continue
		}
		r := hex4(raw, i+2)
		i += 6
		if !utf16.IsSurrogate(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		if i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
			if pair := utf16.DecodeRune(r, hex4(raw, i+2)); pair != utf8.RuneError {
				b = utf8.AppendRune(b, pair)
				i += 6
				continue
			}
		}
		b = append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
	}
	return string(b)
}

// meaning of the letter after a backslash; quotes, slashes and the like mean themselves.
func meaning(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}
