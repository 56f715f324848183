package topology

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Title is what a parked message is called, for people: a text with values of the
// message in it. {customer-id} stands for a header and {$.order.id} for a value of a
// JSON body, named as [OrderBy] names them; {{ and }} are braces. The zero value is
// no title.
type Title struct {
	text  string
	parts []titlePart
}

// titlePart is a piece of text, or a value.
type titlePart struct {
	text  string
	value OrderBy // zero: it is the text
}

const (
	maxTitle      = 300 // characters of the template, and of what is made of it
	maxTitleValue = 100 // characters of one value
)

// ParseTitle reads what a file says after title. The error is meant for people.
func ParseTitle(text string) (Title, error) {
	t := Title{text: text}
	switch {
	case strings.TrimSpace(text) == "":
		return Title{}, errors.New("it is empty")
	case !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxTitle:
		return Title{}, fmt.Errorf("it is not UTF-8 text of at most %d characters", maxTitle)
	case strings.ContainsFunc(text, unicode.IsControl):
		return Title{}, errors.New("it holds control characters")
	}
	for rest := text; rest != ""; {
		at := strings.IndexAny(rest, "{}")
		switch {
		case at < 0:
			t.add(rest)
			rest = ""
		case strings.HasPrefix(rest[at+1:], rest[at:at+1]): // twice: the brace itself
			t.add(rest[:at+1])
			rest = rest[at+2:]
		case rest[at] == '}':
			return Title{}, errors.New("a } closes nothing: write }} for the brace itself")
		default:
			t.add(rest[:at])
			value, length, err := titleValue(rest[at+1:])
			if err != nil {
				return Title{}, err
			}
			t.parts = append(t.parts, titlePart{value: value})
			rest = rest[at+1+length:]
		}
	}
	return t, nil
}

func (t *Title) add(text string) {
	if text == "" {
		return
	}
	if n := len(t.parts); n > 0 && t.parts[n-1].value.IsZero() {
		t.parts[n-1].text += text
		return
	}
	t.parts = append(t.parts, titlePart{text: text})
}

// titleValue reads a value and its closing brace. The name of a member may have
// braces in it, so the first brace that makes sense is the one.
func titleValue(rest string) (value OrderBy, length int, err error) {
	err = errors.New("a { is not closed: write {{ for the brace itself")
	for at := 0; ; {
		next := strings.IndexByte(rest[at:], '}')
		if next < 0 {
			return OrderBy{}, 0, err
		}
		at += next + 1
		var wrong error
		if value, wrong = ParseOrderBy(rest[:at-1]); wrong == nil {
			return value, at, nil
		}
		err = fmt.Errorf("{%s}: %w", rest[:at-1], wrong)
	}
}

// String is what stands in a file.
func (t Title) String() string { return t.text }

// IsZero tells that there is no title.
func (t Title) IsZero() bool { return t.text == "" }

// MarshalText is String, for JSON.
func (t Title) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText is [ParseTitle], and takes what MarshalText makes of the zero value.
func (t *Title) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Title{}
		return nil
	}
	parsed, err := ParseTitle(string(text))
	if err != nil {
		return fmt.Errorf("title %s: %w", quoted(string(text)), err)
	}
	*t = parsed
	return nil
}

// Of is the title of a message: one line of valid UTF-8, not too long. In place of a
// value that the message does not have stands a question mark.
func (t Title) Of(headers map[string]string, body []byte) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.value.IsZero() {
			b.WriteString(p.text)
			continue
		}
		value := oneLine(p.value.asText(headers, body), maxTitleValue)
		if value == "" {
			value = "?"
		}
		b.WriteString(value)
	}
	return oneLine(b.String(), maxTitle)
}

// asText is the value for people: a text as it is, anything else as JSON.
func (o OrderBy) asText(headers map[string]string, body []byte) string {
	if o.header != "" {
		return o.headerValue(headers)
	}
	s := scanner{body: body}
	value, ok := s.find(o.path)
	switch {
	case !ok || value[0] == 'n':
		return ""
	case value[0] == '"':
		return unquote(value[1 : len(value)-1])
	}
	return string(value)
}

// oneLine makes text from elsewhere fit to be shown, and cuts it off.
func oneLine(text string, most int) string {
	var b strings.Builder
	n := 0
	for _, c := range text { // an invalid byte comes out as U+FFFD
		if n == most-1 && len(text) > most {
			b.WriteRune('…')
			break
		}
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029' {
			c = ' '
		}
		b.WriteRune(c)
		n++
	}
	return strings.TrimSpace(b.String())
}
