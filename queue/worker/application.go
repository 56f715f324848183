package worker

import (
	"encoding/json"
	"net/url"
)

// ApplicationCall asks a worker for something about one of its applications.
type ApplicationCall struct {
	Method string
	// Path is below the worker's applications, or its webhooks, in segments as they
	// are, not escaped.
	Path     []string
	Webhooks bool
	// User is whose application is meant; empty: nobody's. It comes in after the
	// application, which is the first segment.
	User  string
	Query url.Values
	// Body is sent as JSON; nil is none.
	Body any
}

// Application is an application as its worker tells of it: by itself, or as a user
// has it.
type Application struct {
	Key           string
	Name          string
	Description   string
	Info          string
	Logo          string // a data URI
	Authorization string
	Type          string
	Installable   bool
	Actions       []string // that it can be asked to do, by name
	// As a user has it.
	Authorized bool
	Enabled    bool
	Forms      []Form
	Webhooks   []ApplicationWebhook
	// Buttons are the worker's own words for what people can do with it.
	Buttons json.RawMessage
}

// Form is one section of an application's settings.
type Form struct {
	Key         string
	Name        string
	Description string
	ReadOnly    bool
	Fields      []Field
}

// Field is one setting.
type Field struct {
	Key         string
	Type        string // text, number, url, password, selectbox, multiselect or checkbox
	Label       string
	Description string
	Value       json.RawMessage // of a password: whether there is one
	Required    bool
	ReadOnly    bool
	Disabled    bool
	Choices     []Choice
}

// Choice is one thing that may be chosen.
type Choice struct {
	Value string
	Label string
}

// ApplicationWebhook is an event that an application can tell of.
type ApplicationWebhook struct {
	Name     string
	Default  bool
	Enabled  bool
	Topology string
}

// Types of fields.
const (
	FieldPassword    = "password"
	FieldNumber      = "number"
	FieldURL         = "url"
	FieldCheckbox    = "checkbox"
	FieldSelectbox   = "selectbox"
	FieldMultiselect = "multiselect"
)
