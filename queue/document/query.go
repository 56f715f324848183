package document

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Kind is a kind of documents, by the name that workers call it.
type Kind string

// The kinds. What a node is, the store does not know: it only reads what is asked about them.
const (
	Installs Kind = "ApplicationInstall"
	Webhooks Kind = "Webhook"
	Nodes    Kind = "Node"
)

// keys are what a filter for documents of a kind may say.
var keys = map[Kind][]string{
	Installs: {"ids", "deleted", "names", "users", "enabled", "expires", "nonEncrypted", "sdks"},
	Webhooks: {"ids", "deleted", "users", "apps", "sdks"},
	Nodes:    {"ids"},
}

// parameter finds where the SDK's parameters begin: it escapes no "&" in their values.
var parameter = regexp.MustCompile(`(?:^|&)(filter|sorter|paging)=`)

// ParseQuery reads the query of a request as the SDK writes it: JSON in which little is escaped, or the word undefined
// where there is none.
func ParseQuery(kind Kind, query string) (Filter, error) {
	if keys[kind] == nil {
		return Filter{}, ErrUnknown
	}
	given := map[string]string{}
	found := parameter.FindAllStringSubmatchIndex(query, -1)
	for i, at := range found {
		end := len(query)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		given[query[at[2]:at[3]]] = unescape(query[at[1]:end])
	}
	// What is not said means something, too: enabled ones only.
	f := Filter{Enabled: kind == Installs}
	fields, err := object("filter", given["filter"])
	if err != nil {
		return f, err
	}
	for name, value := range fields {
		if err := f.set(kind, name, value); err != nil {
			return f, err
		}
	}
	return f, f.setOrder(given)
}

// set takes in one condition of a filter.
func (f *Filter) set(kind Kind, name string, value json.RawMessage) (err error) {
	known := false
	for _, key := range keys[kind] {
		known = known || key == name
	}
	switch {
	case !known && isNull(value):
		return nil
	case !known:
		return invalid("%.40q is no filter for %s", name, kind)
	}
	switch name {
	case "deleted":
		f.Deleted = truth(value)
		return nil
	case "enabled":
		f.Enabled = truth(value)
		return nil
	}
	if isNull(value) {
		return nil
	}
	switch name {
	case "ids":
		if f.IDs, err = texts(name, value); err != nil {
			return err
		}
		for _, id := range f.IDs {
			if !isID(id) {
				return invalid("%.40q is no id: it must be 24 hex digits", id)
			}
		}
	case "names":
		var not map[string]json.RawMessage
		if json.Unmarshal(value, &not) == nil && len(not) == 1 && not["nin"] != nil {
			f.NotOf, err = texts(name, not["nin"])
			return err
		}
		f.Applications, err = texts(name, value)
	case "apps":
		f.Applications, err = texts(name, value)
	case "users":
		f.Users, err = texts(name, value)
	case "sdks":
		f.SDKs, err = texts(name, value)
	case "expires":
		var text string
		if json.Unmarshal(value, &text) == nil {
			f.ExpiresBy = timeOf(text)
		}
		if f.ExpiresBy == nil {
			return invalid("expires must be a date such as %s", time.DateOnly)
		}
	case "nonEncrypted":
		f.Plain, err = plainFilters(value)
	}
	return err
}

// maxPlain is how many settings a filter may name.
const maxPlain = 20

// plainFilters reads {key: value} and {key: {operator: [value]}}.
func plainFilters(value json.RawMessage) ([]PlainFilter, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil || len(fields) > maxPlain {
		return nil, invalid("nonEncrypted must be an object of at most %d settings", maxPlain)
	}
	var all []PlainFilter
	for key, wanted := range fields {
		p := PlainFilter{Path: strings.Split(key, ".")}
		var operators map[string]json.RawMessage
		if json.Unmarshal(wanted, &operators) == nil && len(operators) == 1 {
			for operator, operand := range operators {
				wanted, p.Not = operand, operator == "nin"
			}
		}
		if p.Values = wanted; first(wanted) != '[' {
			p.Values = json.RawMessage("[" + string(wanted) + "]")
		}
		if err := storable(key); err != nil {
			return nil, err
		}
		if hasNUL(p.Values) {
			return nil, errNUL
		}
		all = append(all, p)
	}
	return all, nil
}

// setOrder takes in the parameters beside the filter.
func (f *Filter) setOrder(given map[string]string) error {
	sorter, err := object("sorter", given["sorter"])
	if err != nil {
		return err
	}
	f.Newest = strings.EqualFold(strings.Trim(string(sorter["created"]), `"`), "desc") || string(sorter["created"]) == "-1"
	paging, err := object("paging", given["paging"])
	if err != nil || paging == nil {
		return err
	}
	if f.Limit, err = count("limit", paging["limit"], 100); err != nil {
		return err
	}
	if f.Offset, err = count("offset", paging["offset"], 0); err != nil {
		return err
	}
	f.Limit = min(max(f.Limit, 1), MaxFound)
	return nil
}

func count(name string, value json.RawMessage, otherwise int) (int, error) {
	if isNull(value) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(strings.Trim(string(value), `"`), 10, 31)
	if err != nil {
		return 0, invalid("%s must be a whole number", name)
	}
	return int(n), nil
}

// object reads a parameter, which may be missing.
func object(name, text string) (map[string]json.RawMessage, error) {
	if text = strings.TrimSpace(text); text == "" || text == "undefined" || text == "null" || text == "[]" {
		return nil, nil
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return nil, invalid("%s is no JSON object", name)
	}
	return fields, nil
}

// texts reads a list of texts, or one.
func texts(name string, value json.RawMessage) ([]string, error) {
	items := []json.RawMessage{value}
	if first(value) == '[' {
		items = nil
		if err := json.Unmarshal(value, &items); err != nil {
			return nil, invalid("%s is no list", name)
		}
	}
	all := make([]string, len(items))
	for i, item := range items {
		text, err := textOf(name, item)
		if err != nil {
			return nil, err
		}
		all[i] = text
	}
	return all, nil
}

// textOf reads a text, or a number as one.
func textOf(name string, value json.RawMessage) (string, error) {
	var text string
	if c := first(value); c == '-' || c >= '0' && c <= '9' {
		text = string(value)
	} else if isNull(value) || json.Unmarshal(value, &text) != nil {
		return "", invalid("%s must be text", name)
	}
	return text, storable(text)
}

var errNUL = invalid("it has a NUL in it, which no text may have")

// storable refuses text that Postgres would refuse.
func storable(text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return errNUL
	}
	return nil
}

// hasNUL tells whether JSON has a NUL in one of its texts, which Postgres refuses. An escaped backslash before a u is taken for one at
// times, which costs a refusal of what nobody writes.
func hasNUL(value json.RawMessage) bool {
	return strings.Contains(string(value), `\u0000`)
}

// truth is what JavaScript makes of a value.
func truth(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", "false", "0", `""`:
		return false
	}
	return true
}

func isNull(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }

func first(value json.RawMessage) byte {
	if len(value) == 0 {
		return 0
	}
	return value[0]
}

var id24 = regexp.MustCompile(`^[0-9a-f]{24}$`)

func isID(text string) bool { return id24.MatchString(text) }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// unescape reads %XX, and leaves alone what is none: the SDK escapes quotes, but no percent signs.
func unescape(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
