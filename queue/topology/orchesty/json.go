package orchesty

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// exported is what any of the JSON files may hold: the editor's drawing, the same in
// a record with its name, or what a bridge was compiled for.
type exported struct {
	Name        string          `json:"name"`
	Description string          `json:"descr"`
	Schema      json.RawMessage `json:"schema"` // of a record: JSON, or a text with BPMN or JSON
	Nodes       []drawnNode     `json:"nodes"`
	Connections []struct {
		From id `json:"from"`
		To   id `json:"to"`
	} `json:"connections"`
}

type drawnNode struct {
	ID     id     `json:"id"`
	Name   string `json:"name"`
	Shape  string `json:"shape"`
	Label  string `json:"label"`
	Action *struct {
		Name   string  `json:"name"`
		Type   string  `json:"type"`
		Worker nameOf  `json:"worker"`
		App    nameOf  `json:"app"`
		Event  nameOf  `json:"event"`
		Cron   setting `json:"cron"`
	} `json:"action"`

	// Of the compiled form.
	Worker      string           `json:"worker"`
	Application string           `json:"application"`
	Settings    compiledSettings `json:"settings"`
	Followers   []struct {
		ID id `json:"id"`
	} `json:"followers"`
}

type compiledSettings struct {
	URL      string                     `json:"url"`
	Prefetch setting                    `json:"rabbitPrefetch"`
	Timeout  setting                    `json:"timeout"`
	Headers  map[string]json.RawMessage `json:"headers"`
}

// id is text, or a number that stands for one.
type id string

// UnmarshalJSON takes both.
func (i *id) UnmarshalJSON(b []byte) error {
	var s setting
	if err := s.UnmarshalJSON(b); err != nil {
		return err
	}
	*i = id(s)
	return nil
}

// setting is a text, a number or a truth value as text.
type setting string

// UnmarshalJSON takes all of them.
func (s *setting) UnmarshalJSON(b []byte) error {
	var text string
	switch {
	case bytes.Equal(b, []byte("null")):
		return nil
	case b[0] == '{' || b[0] == '[':
		return errors.New("a setting is a list or an object")
	case json.Unmarshal(b, &text) == nil:
		*s = setting(text)
	default:
		*s = setting(b)
	}
	return nil
}

// nameOf is a name, or an object that has one.
type nameOf string

// UnmarshalJSON takes both.
func (n *nameOf) UnmarshalJSON(b []byte) error {
	var whole struct {
		Name string `json:"name"`
		Key  string `json:"key"`
	}
	if b[0] == '{' {
		if err := json.Unmarshal(b, &whole); err != nil {
			return err
		}
		if *n = nameOf(whole.Key); *n == "" {
			*n = nameOf(whole.Name)
		}
		return nil
	}
	var s setting
	if err := s.UnmarshalJSON(b); err != nil {
		return err
	}
	*n = nameOf(s)
	return nil
}

// readJSON reads a drawing as JSON, or the record that holds one.
func readJSON(data []byte) (drawing, error) {
	x, err := parseExported(data)
	if err != nil {
		return drawing{}, err
	}
	if x.Nodes != nil || len(x.Schema) == 0 {
		return x.drawing()
	}
	inner := []byte(x.Schema)
	var text string
	if json.Unmarshal(x.Schema, &text) == nil {
		inner = bytes.TrimSpace([]byte(text))
	}
	var d drawing
	switch {
	case bytes.HasPrefix(inner, []byte("<")):
		d, err = readBPMN(inner)
	case bytes.HasPrefix(inner, []byte("{")):
		var drawn exported
		if drawn, err = parseExported(inner); err == nil {
			d, err = drawn.drawing()
		}
	default:
		err = errors.New("its schema is neither BPMN nor JSON")
	}
	if x.Name != "" {
		d.name = x.Name
	}
	if x.Description != "" {
		d.description = x.Description
	}
	return d, err
}

func parseExported(data []byte) (exported, error) {
	var x exported
	if depthOf(data) > maxDepth {
		return x, fmt.Errorf("its values are nested more than %d deep", maxDepth)
	}
	if err := json.Unmarshal(data, &x); err != nil {
		return x, fmt.Errorf("it is not the JSON of a topology: %w", err)
	}
	return x, nil
}

// depthOf counts brackets outside of texts.
func depthOf(data []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// drawing turns what was decoded into a drawing.
func (x exported) drawing() (drawing, error) {
	if x.Nodes == nil {
		return drawing{}, errors.New("it has no nodes")
	}
	d := drawing{name: x.Name, description: x.Description}
	for _, n := range x.Nodes {
		if err := d.addElement(n.element()); err != nil {
			return d, err
		}
		for _, f := range n.Followers {
			if err := d.addFlow(flow{string(n.ID), string(f.ID)}); err != nil {
				return d, err
			}
		}
	}
	for _, c := range x.Connections {
		if err := d.addFlow(flow{string(c.From), string(c.To)}); err != nil {
			return d, err
		}
	}
	x.settleNulls(&d)
	return d, nil
}

// settleNulls: a compiled node that calls nobody is an event if nothing leads to it.
func (x exported) settleNulls(d *drawing) {
	follows := map[string]bool{}
	for _, f := range d.flows {
		follows[f.to] = true
	}
	for i, n := range x.Nodes {
		if n.Worker == nullWorker && follows[d.elements[i].id] {
			d.elements[i].kind = "gateway"
		}
	}
}

const nullWorker = "worker.null"

// compiledTypes are the names of the bridge for what a node does.
var compiledTypes = map[string]string{
	nullWorker: "start", "worker.user": personType, "worker.custom_node": "custom", "worker.batch": "batch", "worker.http": "connector",
}

func (n drawnNode) element() element {
	e := element{
		id: string(n.ID), name: n.Name, application: n.Application, prefetch: string(n.Settings.Prefetch), timeout: string(n.Settings.Timeout),
		headers: slices.Sorted(maps.Keys(n.Settings.Headers)),
	}
	if n.Worker != "" {
		e.workerHost = strings.TrimPrefix(strings.TrimPrefix(n.Settings.URL, "http://"), "https://")
		if e.kind = compiledTypes[n.Worker]; e.kind == "" {
			e.kind = strings.TrimPrefix(n.Worker, "worker.")
		}
		return e
	}
	if a := n.Action; a != nil {
		if e.name == "" {
			e.name = a.Name
		}
		e.workerName, e.application, e.event, e.cron = string(a.Worker), string(a.App), string(a.Event), string(a.Cron)
	}
	switch n.Shape {
	case "circle":
		e.kind = map[string]string{"Webhook": "webhook", "Cron": "cron", "End Event": "end"}[n.Label]
		switch e.kind {
		case "":
			e.kind = "start"
		case "webhook":
			if e.application != "" && e.event != "" {
				e.name = e.application + "." + e.event
			}
		}
	case "hexagon":
		e.kind = personType
	default:
		e.kind = "gateway"
		if n.Action != nil {
			if e.kind = n.Action.Type; e.kind == "" {
				e.kind = "custom"
			}
			if n.Action.Name != "" {
				e.name = n.Action.Name
			}
		}
	}
	if e.name == "" {
		e.name = n.Label
	}
	return e
}
