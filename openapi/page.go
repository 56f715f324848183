package openapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Page asks for part of a list. Inputs of list operations embed it.
type Page struct {
	After string `query:"after" maxLength:"500" doc:"Where to go on: next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many items at most"`
}

// List is part of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Give it as after to get the following page; absent on the last one"`
}

// Cursor reads the page's cursor into the variables that the cursor of the page before was made from; on a first page
// it leaves them as they are. Clients may send anything: what was not made here is a problem.
func (p Page) Cursor(into ...any) error {
	if p.After == "" {
		return nil
	}
	data, err := base64.RawURLEncoding.DecodeString(p.After)
	if err != nil {
		return badCursor()
	}
	var parts []json.RawMessage
	if err := unmarshal(data, &parts); err != nil || len(parts) != len(into) {
		return badCursor()
	}
	for i, part := range parts {
		if string(part) == "null" || unmarshal(part, into[i]) != nil {
			return badCursor()
		}
	}
	return nil
}

func badCursor() *Problem {
	return ValidationFailed.Because("validation failed").
		With(Detail{Detail: "not the next of a page of this list", Location: "query.after"})
}

// Cut makes a page from rows that were asked for with one more than the page's limit: the one too many tells that
// there is a following page. The cursor of an item is made from what the list is ordered by.
func Cut[T any](rows []T, page Page, cursor func(last T) []any) (List[T], error) {
	if len(rows) <= page.Limit {
		return List[T]{Items: append([]T{}, rows...)}, nil // never null
	}
	rows = rows[:page.Limit]
	next, err := CursorOf(cursor(rows[len(rows)-1])...)
	return List[T]{Items: rows, Next: next}, err
}

// CursorOf makes a cursor for a list that knows by itself where its next page begins.
func CursorOf(parts ...any) (string, error) {
	data, err := json.Marshal(parts)
	if err != nil {
		return "", fmt.Errorf("make a cursor: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(data), nil
}
