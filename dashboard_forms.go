package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of fields.
const (
	FieldText   = "text"
	FieldTel    = "tel"
	FieldSearch = "search"
	FieldEmail  = "email"
	FieldNumber = "number" // sent as a number
	FieldID     = "id"     // a choice of records, sent as a number
	FieldSelect = "select"
	FieldCheck  = "check" // sent as true or false
	FieldTicks  = "ticks" // any number of the choices, sent as an array
	FieldArea   = "area"  // a long text
	FieldList   = "list"  // an array of texts, with commas between
	FieldJSON   = "json"  // an object
	FieldLines  = "lines" // an array of texts, one to a line
	FieldTime   = "time"  // a date and a time
	FieldDate   = "date"
	FieldHidden = "hidden" // goes along with the form, and is no member
)

// Field is an entry of a form: a member of a record as the admin endpoint has
// it.
type Field struct {
	Name, Label, Kind string
	Hint              string // said under the label
	From              string // where a record has the member, "" for Name; parts apart by dots
	Needed            bool
	Blank             string                  // the choice of nothing, "" for none
	Usual             string                  // what a new record's form begins with
	Choices           func(v *Visit) []Choice // of FieldSelect, FieldID and FieldTicks; for texts suggestions
	Make              bool                    // only of a new record
	Change            bool                    // only of one that is there
	Wide              bool                    // takes a row of its own
	Group             string                  // a heading before the field, "" for none
	Zone              *time.Location          // of FieldTime, nil for UTC
}

// Choice is one of several values.
type Choice struct {
	Value, Label string
	Chosen       bool
}

// Words are choices that are shown as they are.
func Words(words ...string) func(*Visit) []Choice {
	return func(*Visit) (list []Choice) {
		for _, w := range words {
			list = append(list, Choice{Value: w, Label: w})
		}
		return list
	}
}

// RecordChoices are choices out of a list of the admin endpoint, up to 1000 of
// them: none that is missing can be lost, since a form keeps the value that it
// was made with.
func RecordChoices(path, rows, value, label string) func(*Visit) []Choice {
	return func(v *Visit) (list []Choice) {
		answer, e := v.Call("GET", "/admin/v1/"+path+"?limit=1000", nil)
		if e != nil {
			return nil
		}
		all, _ := answer[rows].([]any)
		for _, row := range all {
			r, _ := row.(map[string]any)
			list = append(list, Choice{Value: Shown(r[value]), Label: Shown(r[label])})
		}
		return list
	}
}

// TimeZones are some names of time zones, to choose from; others can be typed.
func TimeZones(v *Visit) []Choice {
	return Words("UTC", "America/Chicago", "America/Los_Angeles", "America/New_York", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
		"Europe/Berlin", "Europe/London", "Europe/Paris", "Europe/Zurich")(v)
}

// OwnerChoices are the names of the owners, to choose from.
func OwnerChoices(v *Visit) []Choice { return RecordChoices("owners", "owners", "name", "name")(v) }

// Input is a field as a page shows it.
type Input struct {
	Field
	Value, Was string
	Choices    []Choice
	Fault      string
}

// Filling says what stands in the inputs of fields: the value, and the mark of
// the one that a change is told from.
type Filling struct{ Value, Was func(Field) string }

// Fill fills inputs that no change is told from.
func Fill(value func(Field) string) Filling {
	return Filling{value, func(Field) string { return "" }}
}

// Inputs makes the inputs of fields; fault is what was wrong with what was
// sent, nil for nothing.
func (v *Visit) Inputs(fields []Field, fill Filling, fault *Error) (list []Input) {
	for _, f := range fields {
		if f.Kind == FieldHidden {
			list = append(list, Input{Field: f, Value: f.Usual})
			continue
		}
		in := Input{Field: f, Value: fill.Value(f), Was: fill.Was(f)}
		if f.Choices != nil {
			in.Choices = chosen(f, f.Choices(v), in.Value)
		}
		if fault != nil && names(fault.Message, f.Name) {
			in.Fault = Labelled(fault.Message, f)
		}
		list = append(list, in)
	}
	return list
}

// chosen marks the choices that a value is made of, and adds one that is
// missing, so that no form changes what nobody has touched.
func chosen(f Field, choices []Choice, value string) []Choice {
	values := []string{value}
	switch {
	case f.Kind == FieldTicks:
		values = strings.Split(value, "\n")
	case f.Kind != FieldSelect && f.Kind != FieldID:
		return choices
	case !f.Needed:
		choices = append([]Choice{{Label: cmp.Or(f.Blank, "none")}}, choices...)
	}
	for _, value := range values {
		i := slices.IndexFunc(choices, func(c Choice) bool { return c.Value == value })
		if i < 0 && value != "" {
			i, choices = len(choices), append(choices, Choice{Value: value, Label: value})
		}
		if i >= 0 {
			choices[i].Chosen = true
		}
	}
	return choices
}

// names says whether a message is about a member.
func names(message, member string) bool {
	rest, ok := strings.CutPrefix(message, member)
	return ok && (rest == "" || strings.ContainsRune(" [.:", rune(rest[0])))
}

// Labelled is a message with a member's label in place of its name.
func Labelled(message string, fields ...Field) string {
	for _, f := range fields {
		if names(message, f.Name) {
			return f.Label + strings.TrimPrefix(message, f.Name)
		}
	}
	return message
}

// Sent is what a form says of a field, as one text: ticks one to a line.
func (f Field) Sent(form url.Values) string {
	text := strings.ReplaceAll(strings.Join(form[f.Name], "\n"), "\r\n", "\n")
	if f.Kind == FieldArea {
		return text
	}
	return strings.TrimSpace(text)
}

// Of is what a record has of a field, as Sent gives it.
func (f Field) Of(record map[string]any) string {
	at := f.From
	if at == "" {
		at = f.Name
	}
	value := Member(record, at)
	switch {
	case f.Kind == FieldCheck:
		if value == true {
			return "yes"
		}
		return ""
	case f.Kind == FieldLines || f.Kind == FieldTicks:
		return strings.Join(Texts(value), "\n")
	case f.Kind == FieldList:
		return strings.Join(Texts(value), ", ")
	case f.Kind == FieldJSON:
		data, err := json.MarshalIndent(value, "", "  ")
		if err != nil || value == nil {
			return "{}"
		}
		return string(data)
	case f.Kind == FieldTime:
		text, _ := value.(string)
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(t.In(f.zone()).Format("2006-01-02T15:04:05"), ":00")
	}
	return Shown(value)
}

// Mark is what a form carries along to tell whether a field was changed.
func Mark(value string) string {
	sum := sha256.Sum256([]byte(value))
	return fmt.Sprintf("%x", sum[:8])
}

func (f Field) zone() *time.Location {
	if f.Zone == nil {
		return time.UTC
	}
	return f.Zone
}

// Changed says whether a form changes a field: what nobody has touched is not
// sent, so that it cannot undo what others do meanwhile.
func (f Field) Changed(form url.Values) bool {
	return form.Get("was."+f.Name) != Mark(f.Sent(form))
}

// Value gives what a form says of a field as the admin endpoint takes it, nil
// for nothing. ErrValidation names the field.
func (f Field) Value(form url.Values) (any, error) {
	text := f.Sent(form)
	switch {
	case f.Kind == FieldCheck:
		return text != "", nil
	case f.Kind == FieldLines || f.Kind == FieldTicks:
		return textLines(text), nil
	case f.Kind == FieldList:
		return textLines(strings.ReplaceAll(text, ",", "\n")), nil
	case text == "":
		return nil, nil
	case f.Kind == FieldNumber || f.Kind == FieldID:
		if _, err := strconv.ParseFloat(text, 64); err != nil || !json.Valid([]byte(text)) {
			return nil, ErrValidation.With("%s must be a number; got %q.", f.Name, text)
		}
		return json.Number(text), nil
	case f.Kind == FieldJSON:
		body, err := ParseBody([]byte(text))
		if err != nil {
			return nil, ErrValidation.With("%s must be a JSON object. %s", f.Name, Public(err).Message)
		}
		var object map[string]any
		dec := json.NewDecoder(bytes.NewReader(body.Bytes()))
		dec.UseNumber()
		return object, dec.Decode(&object)
	case f.Kind == FieldTime:
		for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04"} {
			if t, err := time.ParseInLocation(layout, text, f.zone()); err == nil {
				return t.UTC().Format(time.RFC3339), nil
			}
		}
		return nil, ErrValidation.With("%s must be a date and a time such as 2026-03-02T09:00; got %q.", f.Name, text)
	}
	return text, nil
}

// textLines are the lines of a text that have something on them.
func textLines(text string) []string {
	list := []string{}
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}

// NewBody makes the body that creates a record out of a form: what is empty is
// left out and has the default of the admin endpoint.
func NewBody(fields []Field, form url.Values) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if f.Kind == FieldHidden {
			continue
		}
		value, err := f.Value(form)
		if err != nil {
			return nil, err
		}
		if list, ok := value.([]string); value != nil && (!ok || len(list) > 0) {
			body[f.Name] = value
		}
	}
	return body, nil
}

// ChangeBody makes the body that changes a record out of a form, of what the
// form changes.
func ChangeBody(fields []Field, form url.Values) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if f.Kind == FieldHidden || !f.Changed(form) {
			continue
		}
		value, err := f.Value(form)
		if err != nil {
			return nil, err
		}
		body[f.Name] = value
	}
	return body, nil
}
