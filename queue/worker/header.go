package worker

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// The headers of the contract, as net/http writes them.
const (
	headerContentType    = "Content-Type"
	headerIdempotencyKey = "Idempotency-Key"
	headerMessageID      = "Sluice-Message-Id"
	headerAttempt        = "Sluice-Attempt"
	headerCorrelationID  = "Sluice-Correlation-Id"
	headerTopology       = "Sluice-Topology"
	headerVersion        = "Sluice-Version"
	headerNode           = "Sluice-Node"
	headerApplication    = "Sluice-Application"
	headerDeadline       = "Sluice-Deadline"
	headerPage           = "Sluice-Page"
	headerCursor         = "Sluice-Cursor"
	headerDrop           = "Sluice-Drop"
	ownHeaderPrefix      = "Sluice-Header-" // before the name of a message's own header
)

// contentType is the one header of a message that belongs to its body.
const contentType = "content-type"

// deadlineFormat is RFC 3339 with milliseconds.
const deadlineFormat = "2006-01-02T15:04:05.000Z07:00"

// CheckHeaders says whether a message may have these headers: at most
// [MaxHeaders] of them and [MaxHeaderBytes] in all, names that HTTP can carry,
// values of UTF-8 text without NUL, and a content type of printable ASCII. The
// error names the header and is meant for people.
func CheckHeaders(headers map[string]string) error {
	if len(headers) > MaxHeaders {
		return fmt.Errorf("%d headers, more than %d", len(headers), MaxHeaders)
	}
	size := 0
	for name, value := range headers {
		if !isToken(name) {
			return fmt.Errorf("header name %.80q holds more than letters, digits and !#$%%&'*+-.^_`|~", name)
		}
		if !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0 {
			return fmt.Errorf("header %.80s is not UTF-8 text without NUL", name)
		}
		if len(name) == len(contentType) && strings.EqualFold(name, contentType) && !printable(value) {
			return fmt.Errorf("header %s is not printable ASCII", name)
		}
		size += len(name) + encodedLen(value)
	}
	if size > MaxHeaderBytes {
		return fmt.Errorf("%d bytes of headers, more than %d", size, MaxHeaderBytes)
	}
	return nil
}

// CheckAction says whether an action can be the path of a call: segments that
// are neither empty nor dots, so that it cannot leave the worker's URL. The
// empty action is the URL itself.
func CheckAction(action string) error {
	if action == "" {
		return nil
	}
	for segment := range strings.SplitSeq(action, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("action %.80q has an empty or dotted segment", action)
		}
		if !utf8.ValidString(segment) || strings.ContainsFunc(segment, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("action %.80q holds a control character", action)
		}
	}
	return nil
}

// fold returns the headers with their names in lower case, which they nearly
// always have already. Of names that differ in case only, the one that sorts
// last stays: the one in lower case.
func fold(headers map[string]string) map[string]string {
	lower := true
	for name := range headers {
		lower = lower && isLower(name)
	}
	if lower {
		return headers
	}
	folded := make(map[string]string, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		folded[strings.ToLower(name)] = headers[name]
	}
	return folded
}

// encodeValue makes a text fit for a header: every byte but printable ASCII,
// every %, and a space at either end becomes %XX.
func encodeValue(s string) string {
	n := encodedLen(s)
	if n == len(s) {
		return s
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, n)
	for i := range len(s) {
		if plainAt(s, i) {
			b = append(b, s[i])
		} else {
			b = append(b, '%', digits[s[i]>>4], digits[s[i]&15])
		}
	}
	return string(b)
}

func encodedLen(s string) int {
	n := len(s)
	for i := range len(s) {
		if !plainAt(s, i) {
			n += 2
		}
	}
	return n
}

// plainAt reports whether the byte at i stands for itself.
func plainAt(s string, i int) bool {
	if c := s[i]; c != ' ' {
		return c > ' ' && c < 0x7f && c != '%'
	}
	return i > 0 && i < len(s)-1
}

// decodeValue is the inverse of encodeValue. A % that no two hex digits follow
// stands for itself, since workers write values by hand ("50% off").
func decodeValue(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := unhex(s[i+1]), unhex(s[i+2])
			if high >= 0 && low >= 0 {
				b = append(b, byte(high<<4|low))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// ownHeaders collects the message's own headers from those of HTTP. More than
// one line of a name are one value, joined by commas, as HTTP has it.
func ownHeaders(header http.Header) (map[string]string, error) {
	var own map[string]string
	for key, values := range header {
		name, found := strings.CutPrefix(key, ownHeaderPrefix)
		if !found {
			continue
		}
		value := strings.Join(values, ", ")
		if !printable(value) {
			return nil, fmt.Errorf("header %s holds a byte that is not printable ASCII: percent-encode it", key)
		}
		if own == nil {
			own = make(map[string]string)
		}
		own[strings.ToLower(name)] = decodeValue(value)
	}
	if _, found := own[""]; found {
		return nil, errors.New("header " + ownHeaderPrefix + " has no name")
	}
	return own, nil
}

// printable reports whether a text is printable ASCII, spaces and tabs.
func printable(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

func isLower(s string) bool {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

// isToken reports whether a name is what RFC 9110 lets a header be called.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
