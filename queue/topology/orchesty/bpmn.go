package orchesty

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
)

// typeOfElement is what an element is that does not say so itself.
var typeOfElement = map[string]string{
	"startEvent": "start", "event": "start", "task": "custom", "gateway": "gateway", "exclusiveGateway": "gateway", "endEvent": "",
}

// silent are elements that say nothing about what happens: how the drawing looks,
// and what an element's own flows repeat.
var silent = map[string]bool{
	"definitions": true, "process": true, "documentation": true, "incoming": true, "outgoing": true, "extensionElements": true,
	"textAnnotation": true, "text": true, "association": true, "group": true, "category": true, "categoryValue": true,
	"collaboration": true, "participant": true, "laneSet": true, "lane": true, "flowNodeRef": true,
}

// fieldOf says where an attribute of Orchesty's goes; those that it does not use
// itself go nowhere.
func (e *element) fieldOf(attribute string) (field *string, known bool) {
	fields := map[string]*string{
		"pipesType": &e.kind, "sdkHost": &e.workerHost, "sdkHostName": &e.workerName, "appName": &e.application,
		"cronTime": &e.cron, "cronParams": &e.cronParams, "rabbitPrefetch": &e.prefetch, "timeout": &e.timeout,
		"repeaterEnabled": &e.repeats, "repeaterHops": &e.repeatHops, "repeaterInterval": &e.repeatInterval,
		"bridgeHost": nil,
	}
	field, known = fields[attribute]
	return field, known
}

// readBPMN reads a drawing as BPMN.
func readBPMN(data []byte) (drawing, error) {
	var d drawing
	x := xml.NewDecoder(bytes.NewReader(data))
	var open []xml.Name // elements that have not ended
	picture := 0        // depth of what only says how it looks
	rooted := false
	for {
		t, err := x.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d, fmt.Errorf("it is not valid XML: %w", err)
		}
		switch t := t.(type) {
		case xml.Directive:
			return d, errors.New("it has a document type definition, which could define entities: remove it")
		case xml.StartElement:
			if open = append(open, t.Name); len(open) > maxDepth {
				return d, fmt.Errorf("its elements are nested more than %d deep", maxDepth)
			}
			if len(open) == 1 && t.Name.Local != "definitions" && t.Name.Local != "process" {
				return d, fmt.Errorf("its first element is %.40q, not BPMN's definitions", t.Name.Local)
			}
			rooted = true
			if picture == 0 && t.Name.Local == "BPMNDiagram" {
				picture = len(open)
			}
			if picture == 0 {
				if err := d.addTag(t); err != nil {
					return d, err
				}
			}
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != t.Name {
				return d, fmt.Errorf("it is not valid XML: the element %.40q ends that is not open", t.Name.Local)
			}
			if open = open[:len(open)-1]; len(open) < picture {
				picture = 0
			}
		}
	}
	if len(open) != 0 || !rooted {
		return d, errors.New("it is not valid XML: it ends within an element")
	}
	return d, nil
}

// addTag takes what an element says.
func (d *drawing) addTag(t xml.StartElement) error {
	kind, isNode := typeOfElement[t.Name.Local]
	switch {
	case isNode:
		e := element{kind: kind}
		for _, a := range t.Attr {
			d.addAttribute(&e, a)
		}
		return d.addElement(e)
	case t.Name.Local == "sequenceFlow":
		return d.addFlow(flow{attribute(t, "sourceRef"), attribute(t, "targetRef")})
	case t.Name.Local == "process":
		d.name = attribute(t, "name")
	case t.Name.Local == "conditionExpression":
		d.addOdd(Item{
			Lost, "", "a condition on a connection", "Orchesty does not look at it either: messages take every connection",
			"if it should hold, choose followers in the worker's code",
		})
	case !silent[t.Name.Local]:
		where := attribute(t, "name")
		if where == "" {
			where = attribute(t, "id")
		}
		d.addOdd(Item{
			Lost, where, fmt.Sprintf("an element of the kind %.40q", t.Name.Local), "Orchesty does not read it either",
			"draw it as a task, if something should happen there",
		})
	}
	return nil
}

// addAttribute puts an attribute where it belongs. The prefix pipes is Orchesty's.
func (d *drawing) addAttribute(e *element, a xml.Attr) {
	switch {
	case a.Name.Space == "" && a.Name.Local == "id":
		e.id = a.Value
	case a.Name.Space == "" && a.Name.Local == "name":
		e.name = a.Value
	case a.Name.Space == "pipes":
		field, known := e.fieldOf(a.Name.Local)
		switch {
		case !known:
			d.addOdd(Item{
				Lost, e.label(), fmt.Sprintf("the setting %.40s: %.200q", a.Name.Local, a.Value), "it is none that Orchesty is known to have",
				"look up what it was for",
			})
		case field != nil:
			*field = a.Value
		}
		if a.Name.Local == "cronParams" {
			if text, err := url.QueryUnescape(a.Value); err == nil {
				e.cronParams = text
			}
		}
	}
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
