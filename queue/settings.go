package queue

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"sluice/queue/worker"
)

// SettingFault is one setting that does not fit its form.
type SettingFault struct {
	Form, Field string // Field is empty if the form is meant
	Detail      string
}

// SettingsError has all that does not fit.
type SettingsError struct{ Faults []SettingFault }

// Error lists them.
func (e *SettingsError) Error() string {
	said := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		said[i] = strings.TrimSuffix(f.Form+"."+f.Field, ".") + ": " + f.Detail
	}
	return "settings do not fit the form: " + strings.Join(said, "; ")
}

// CheckSettings tells what of the given settings does not fit an application's forms: nil or a [*SettingsError].
func CheckSettings(forms []worker.Form, given map[string]map[string]json.RawMessage) error {
	var faults []SettingFault
	for _, name := range slices.Sorted(maps.Keys(given)) {
		at := slices.IndexFunc(forms, func(f worker.Form) bool { return f.Key == name })
		switch {
		case at < 0:
			faults = append(faults, SettingFault{Form: name, Detail: "there is no such form; it has " + namesOf(forms, func(f worker.Form) string { return f.Key })})
			continue
		case forms[at].ReadOnly:
			faults = append(faults, SettingFault{Form: name, Detail: "the form can only be read"})
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(given[name])) {
			if detail := checkSetting(forms[at], key, given[name][key]); detail != "" {
				faults = append(faults, SettingFault{name, key, detail})
			}
		}
	}
	if faults == nil {
		return nil
	}
	return &SettingsError{faults}
}

func namesOf[T any](of []T, name func(T) string) string {
	names := make([]string, len(of))
	for i, t := range of {
		names[i] = name(t)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// checkSetting says what is wrong with a value for a field, or nothing. Null empties a field.
func checkSetting(form worker.Form, key string, value json.RawMessage) string {
	at := slices.IndexFunc(form.Fields, func(f worker.Field) bool { return f.Key == key })
	if at < 0 {
		return "the form has no such field; it has " + namesOf(form.Fields, func(f worker.Field) string { return f.Key })
	}
	f := form.Fields[at]
	var text string
	isText := json.Unmarshal(value, &text) == nil
	switch {
	case f.ReadOnly || f.Disabled:
		return "the field can only be read"
	case f.Type == worker.FieldPassword:
		return "a password is set by itself: PUT …/password"
	case string(value) == "null":
		if f.Required {
			return "the field is required"
		}
		return ""
	case f.Required && isText && text == "":
		return "the field is required"
	}
	switch f.Type {
	case worker.FieldNumber:
		var n json.Number
		if isText || json.Unmarshal(value, &n) != nil {
			return "expected a number"
		}
	case worker.FieldCheckbox:
		var b bool
		if json.Unmarshal(value, &b) != nil {
			return "expected true or false"
		}
	case worker.FieldSelectbox:
		if !isText || text != "" && !isChoice(f, text) {
			return "expected one of " + namesOf(f.Choices, choiceValue)
		}
	case worker.FieldMultiselect:
		var several []string
		if json.Unmarshal(value, &several) != nil || slices.ContainsFunc(several, func(one string) bool { return !isChoice(f, one) }) {
			return "expected a list of some of " + namesOf(f.Choices, choiceValue)
		}
	default:
		if !isText {
			return "expected a text"
		}
		if u, err := url.Parse(text); f.Type == worker.FieldURL && text != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return "expected an http or https URL"
		}
	}
	return ""
}

func isChoice(f worker.Field, value string) bool {
	return slices.ContainsFunc(f.Choices, func(c worker.Choice) bool { return c.Value == value })
}

func choiceValue(c worker.Choice) string { return c.Value }

// checkPassword: only a password is set as one.
func checkPassword(forms []worker.Form, p ApplicationPassword) error {
	for _, form := range forms {
		for _, f := range form.Fields {
			if form.Key == p.Form && f.Key == p.Field {
				if f.Type == worker.FieldPassword && !f.ReadOnly && !f.Disabled {
					return nil
				}
				return &SettingsError{[]SettingFault{{p.Form, p.Field, fmt.Sprintf("the field is of the type %.40q, no password that can be set", f.Type)}}}
			}
		}
	}
	return &SettingsError{[]SettingFault{{p.Form, p.Field, "there is no such field"}}}
}
