package orchesty

import "fmt"

// drawing is a topology as Orchesty has it, however it was written.
type drawing struct {
	name, description string
	elements          []element
	flows             []flow
	odd               []Item // what is in the file and means nothing here
}

// element is a node of a drawing. Settings are text as they stand in the file; empty
// is what the file does not say.
type element struct {
	id, name, kind         string
	workerName, workerHost string
	application            string
	cron, cronParams       string
	event                  string // that a webhook is called for
	prefetch, timeout      string
	repeats                string // "true" if its own repeater settings count
	repeatHops             string
	repeatInterval         string // seconds
	headers                []string
}

// flow leads from one element to another, by their ids.
type flow struct{ from, to string }

// label is how people know an element.
func (e element) label() string {
	if e.name != "" {
		return e.name
	}
	return e.id
}

// The types of nodes that Orchesty knows, by what they are here.
var (
	events  = map[string]bool{"start": true, "cron": true, "webhook": true}
	passing = map[string]bool{"gateway": true, "debug": true}
	ends    = map[string]bool{"": true, "end": true}
	calling = map[string]bool{"connector": true, "batch": true, "custom": true}
	legacy  = map[string]bool{
		"api": true, "batch_connector": true, "email": true, "ftp": true, "mapper": true, "resequencer": true,
		"signal": true, "splitter": true, "table_parser": true, "xml_parser": true,
	}
)

const personType = "user"

// addElement and addFlow keep a drawing within its bounds.
func (d *drawing) addElement(e element) error {
	if len(d.elements) >= maxElements {
		return fmt.Errorf("it has more than %d elements", maxElements)
	}
	d.elements = append(d.elements, e)
	return nil
}

func (d *drawing) addFlow(f flow) error {
	if len(d.flows) >= maxFlows {
		return fmt.Errorf("it has more than %d connections", maxFlows)
	}
	d.flows = append(d.flows, f)
	return nil
}

// addOdd notes what is in the file and means nothing.
func (d *drawing) addOdd(i Item) {
	if len(d.odd) < maxItems {
		d.odd = append(d.odd, i)
	}
}
