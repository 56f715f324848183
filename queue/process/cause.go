package process

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Class is what kind of failure put a message in the trash.
type Class string

// The classes.
const (
	ClassRejected  Class = "rejected"  // the worker says that it will never work
	ClassExhausted Class = "exhausted" // it could have worked, but its attempts are used up
	ClassReply     Class = "reply"     // the worker's result cannot be used
	ClassStorage   Class = "storage"   // the database refuses the worker's result
	ClassCancelled Class = "cancelled" // its job was cancelled through River
	ClassDeleted   Class = "deleted"   // its topology was deleted

	ClassBreakpoint Class = "breakpoint" // none: it waits for a person at a breakpoint
)

// Classes are those of failures.
func Classes() []Class {
	return []Class{ClassRejected, ClassExhausted, ClassReply, ClassStorage, ClassCancelled, ClassDeleted}
}

// causeLength is how much of a reason tells causes apart: behind it, long reasons are cut off here or there.
const causeLength = 240

// CauseOf is a reason without what differs from message to message: numbers and names with digits in them, what stands in
// quotes, the queries of URLs. Reasons with the same cause are about the same trouble.
func CauseOf(reason string) string {
	var b strings.Builder
	runes := 0
	put := func(s string) {
		b.WriteString(s)
		runes += utf8.RuneCountInString(s)
	}
	before := ' ' // the character before the rest
	for rest := reason; rest != "" && runes < causeLength; {
		r, size := utf8.DecodeRuneInString(rest)
		taken := rest[:size]
		switch {
		case unicode.IsSpace(r):
			if !unicode.IsSpace(before) {
				put(" ")
			}
		case isQuote(r, before) && quoted(rest) > 0:
			taken = rest[:quoted(rest)]
			put(`"…"`)
		case isWord(r):
			taken = word(rest)
			if isURL(taken) {
				taken = url(rest)
			}
			put(common(taken))
		default:
			put(taken)
		}
		before, _ = utf8.DecodeLastRuneInString(taken)
		rest = rest[len(taken):]
	}
	return strings.TrimSpace(collapse(b.String()))
}

// HashOf tells causes apart where they are stored. It must not change: it is kept.
func HashOf(cause string) int64 {
	sum := sha256.Sum256([]byte(cause))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' }

// isQuote tells whether a quotation may begin: an apostrophe within a word begins none.
func isQuote(r, before rune) bool {
	switch r {
	case '"', '`', '“', '‘', '«':
		return true
	case '\'':
		return !isWord(before)
	}
	return false
}

// quoted is how long the quotation is that s begins with, 0 if it does not end.
func quoted(s string) int {
	open, size := utf8.DecodeRuneInString(s)
	end := open
	switch open {
	case '“':
		end = '”'
	case '‘':
		end = '’'
	case '«':
		end = '»'
	}
	escaped := false
	for i, r := range s[size:] {
		after := size + i + utf8.RuneLen(r)
		switch {
		case r == utf8.RuneError:
			return 0
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == end:
			if next, _ := utf8.DecodeRuneInString(s[after:]); end == '\'' && after < len(s) && isWord(next) {
				continue // an apostrophe
			}
			return after
		}
	}
	return 0
}

// word is the word that s begins with. Dashes within it belong to it.
func word(s string) string {
	for i, r := range s {
		if isWord(r) {
			continue
		}
		if r == '-' {
			if next, _ := utf8.DecodeRuneInString(s[i+1:]); isWord(next) {
				continue
			}
		}
		return s[:i]
	}
	return s
}

func isURL(scheme string) bool {
	switch scheme {
	case "http", "https", "ws", "wss", "ftp", "postgres", "amqp":
		return true
	}
	return false
}

// url is the URL that s begins with, or its first word.
func url(s string) string {
	scheme := word(s)
	if !strings.HasPrefix(s[len(scheme):], "://") {
		return scheme
	}
	if end := strings.IndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"'<>()[]{}`+"`", r) }); end >= 0 {
		s = s[:end]
	}
	return strings.TrimRight(s, ".,;:!")
}

// common is what a word or a URL has in common with others like it.
func common(w string) string {
	if strings.Contains(w, "://") {
		if end := strings.IndexAny(w, "?#"); end >= 0 {
			w = w[:end]
		}
		parts := strings.Split(w, "/")
		for i, p := range parts {
			if strings.ContainsFunc(p, unicode.IsDigit) {
				parts[i] = "#"
			}
		}
		return strings.Join(parts, "/")
	}
	if strings.ContainsFunc(w, unicode.IsDigit) || len(w) >= 16 && strings.Trim(w, "0123456789abcdefABCDEF-") == "" {
		return "#"
	}
	return w
}

// collapse makes one of numbers that belong together: 1,234.50, 12:30:01, 10.0.0.1.
func collapse(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		b.WriteByte(s[i])
		if s[i] != '#' {
			continue
		}
		for i+2 < len(s) && strings.IndexByte(",.:/+-", s[i+1]) >= 0 && s[i+2] == '#' {
			i += 2
		}
	}
	return b.String()
}
