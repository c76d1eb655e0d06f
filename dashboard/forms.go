package dashboard

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/strictjson"
)

// These are the kinds of fields.
const (
	fieldText   = "text"
	fieldTel    = "tel"
	fieldSearch = "search"
	fieldEmail  = "email"
	fieldNumber = "number" // sent as a number
	fieldID     = "id"     // a record chosen from a list; its id is sent as a number
	fieldSelect = "select"
	fieldCheck  = "check" // sent as true or false
	fieldTicks  = "ticks" // check boxes, one per choice; the ticked values are sent as an array
	fieldArea   = "area"  // a long text
	fieldList   = "list"  // texts separated by commas, sent as an array
	fieldJSON   = "json"  // a JSON object
	fieldLines  = "lines" // one text per line, sent as an array
	fieldTime   = "time"  // a date and a time
	fieldDate   = "date"
	fieldHidden = "hidden" // sent with the form, but not a member of the record
)

// formField is a field of a form. It edits one member of a record of the admin endpoint.
type formField struct {
	Name, Label, Kind string
	Hint              string                  // explanation under the label
	From              string                  // path of the member of the record, as for memberOf; "" means Name
	Needed            bool                    // must not be empty
	Blank             string                  // label of the choice for no value; "" means "none"
	Usual             string                  // initial value in the form of a new record
	Choices           func(v *visit) []choice // allowed values; only suggestions for a text field
	Make              bool                    // only in the form of a new record
	Change            bool                    // only in the form of an existing record
	Wide              bool                    // takes the full width of the form
	Group             string                  // heading above the field; "" means no heading
	Zone              *time.Location          // time zone of a fieldTime; nil means UTC
}

// choice is a value that a field offers.
type choice struct {
	Value, Label string
	Chosen       bool
}

// words returns a function that offers values, each with itself as its label.
func words(values ...string) func(*visit) []choice {
	return func(*visit) (list []choice) {
		for _, value := range values {
			list = append(list, choice{Value: value, Label: value})
		}
		return list
	}
}

// recordChoices returns a function that offers records of the admin endpoint, at most 1000. path is
// the path of their list below /admin/v1/, and rows is the member of the answer that holds them.
// value and label are members of a record. The function returns nil if the list cannot be read.
func recordChoices(path, rows, value, label string) func(*visit) []choice {
	return func(v *visit) (list []choice) {
		answer, e := v.call("GET", "/admin/v1/"+path+"?limit=1000", nil)
		if e != nil {
			return nil
		}
		all, _ := answer[rows].([]any)
		for _, row := range all {
			r, _ := row.(map[string]any)
			list = append(list, choice{Value: textOf(r[value]), Label: textOf(r[label])})
		}
		return list
	}
}

// timeZones returns some time zones as suggestions. Users can type others.
func timeZones(v *visit) []choice {
	return words("UTC", "America/Chicago", "America/Los_Angeles", "America/New_York", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
		"Europe/Berlin", "Europe/London", "Europe/Paris", "Europe/Zurich")(v)
}

// ownerChoices returns the names of the owners as choices.
func ownerChoices(v *visit) []choice { return recordChoices("owners", "owners", "name", "name")(v) }

// input is a field as a page shows it. Was is the mark of the stored value, or "".
type input struct {
	formField
	Value, Was string
	Choices    []choice
	Fault      string // error about this field; "" if there is none
}

// filling returns the contents of a form. Value returns the value of a field. Was returns the mark
// of its stored value, by which changed detects a change.
type filling struct{ Value, Was func(formField) string }

// fillBy returns a filling with the values that value returns, without marks.
func fillBy(value func(formField) string) filling {
	return filling{value, func(formField) string { return "" }}
}

// inputs returns the inputs for fields. fault is the error about the form that was sent, or nil. It
// is shown at the field that its message begins with.
func (v *visit) inputs(fields []formField, fill filling, fault *Fault) (list []input) {
	for _, f := range fields {
		if f.Kind == fieldHidden {
			list = append(list, input{formField: f, Value: f.Usual})
			continue
		}
		in := input{formField: f, Value: fill.Value(f), Was: fill.Was(f)}
		if f.Choices != nil {
			in.Choices = chosen(f, f.Choices(v), in.Value)
		}
		if fault != nil && names(fault.Message, f.Name) {
			in.Fault = labelled(fault.Message, f)
		}
		list = append(list, in)
	}
	return list
}

// chosen returns choices with value marked as chosen. For fieldTicks, value has several lines, one
// for each chosen value. Values that are not among the choices are added. Otherwise the form would
// lose them although nobody changed them.
func chosen(f formField, choices []choice, value string) []choice {
	values := []string{value}
	switch {
	case f.Kind == fieldTicks:
		values = strings.Split(value, "\n")
	case f.Kind != fieldSelect && f.Kind != fieldID:
		return choices
	case !f.Needed:
		choices = append([]choice{{Label: cmp.Or(f.Blank, "none")}}, choices...)
	}
	for _, value := range values {
		i := slices.IndexFunc(choices, func(c choice) bool { return c.Value == value })
		if i < 0 && value != "" {
			i, choices = len(choices), append(choices, choice{Value: value, Label: value})
		}
		if i >= 0 {
			choices[i].Chosen = true
		}
	}
	return choices
}

// names reports whether a message of the admin endpoint begins with the name of a member.
func names(message, member string) bool {
	rest, ok := strings.CutPrefix(message, member)
	return ok && (rest == "" || strings.ContainsRune(" [.:", rune(rest[0])))
}

// labelled returns message. If message begins with the name of one of fields, the label of the
// field replaces that name.
func labelled(message string, fields ...formField) string {
	for _, f := range fields {
		if names(message, f.Name) {
			return f.Label + strings.TrimPrefix(message, f.Name)
		}
	}
	return message
}

// sent returns the value of a field in a form as one text. If there are several values, each is on
// a line of its own.
func (f formField) sent(form url.Values) string {
	text := strings.ReplaceAll(strings.Join(form[f.Name], "\n"), "\r\n", "\n")
	if f.Kind == fieldArea {
		return text
	}
	return strings.TrimSpace(text)
}

// of returns the value of a field in a record as text for the form. It equals the result of sent as
// long as nobody changes the field.
func (f formField) of(record map[string]any) string {
	at := f.From
	if at == "" {
		at = f.Name
	}
	value := memberOf(record, at)
	switch {
	case f.Kind == fieldCheck:
		if value == true {
			return "yes"
		}
		return ""
	case f.Kind == fieldLines || f.Kind == fieldTicks:
		return strings.Join(texts(value), "\n")
	case f.Kind == fieldList:
		return strings.Join(texts(value), ", ")
	case f.Kind == fieldJSON:
		data, err := json.MarshalIndent(value, "", "  ")
		if err != nil || value == nil {
			return "{}"
		}
		return string(data)
	case f.Kind == fieldTime:
		text, _ := value.(string)
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(t.In(f.zone()).Format("2006-01-02T15:04:05"), ":00")
	}
	return textOf(value)
}

// mark returns a short hash of a value. The form carries it in a hidden field, so that a change of
// the value can be detected.
func mark(value string) string {
	sum := sha256.Sum256([]byte(value))
	return fmt.Sprintf("%x", sum[:8])
}

func (f formField) zone() *time.Location {
	if f.Zone == nil {
		return time.UTC
	}
	return f.Zone
}

// changed reports whether the user has changed a field of the form. Only changed fields are sent.
// So a form does not undo the changes that others have made in the meantime.
func (f formField) changed(form url.Values) bool {
	return form.Get("was."+f.Name) != mark(f.sent(form))
}

// value returns the value of a field in a form as the admin endpoint expects it. An empty field is
// nil, or an empty list if the field is a list. If the text does not suit the kind of field, the
// error is a *Fault that names the field.
func (f formField) value(form url.Values) (any, error) {
	text := f.sent(form)
	switch {
	case f.Kind == fieldCheck:
		return text != "", nil
	case f.Kind == fieldLines || f.Kind == fieldTicks:
		return textLines(text), nil
	case f.Kind == fieldList:
		return textLines(strings.ReplaceAll(text, ",", "\n")), nil
	case text == "":
		return nil, nil
	case f.Kind == fieldNumber || f.Kind == fieldID:
		if _, err := strconv.ParseFloat(text, 64); err != nil || !json.Valid([]byte(text)) {
			return nil, invalid("%s must be a number; got %q.", f.Name, text)
		}
		return json.Number(text), nil
	case f.Kind == fieldJSON:
		if _, err := strictjson.Object([]byte(text)); err != nil {
			return nil, invalid("%s must be a JSON object. %s", f.Name, err)
		}
		var object map[string]any
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		return object, dec.Decode(&object)
	case f.Kind == fieldTime:
		for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04"} {
			if t, err := time.ParseInLocation(layout, text, f.zone()); err == nil {
				return t.UTC().Format(time.RFC3339), nil
			}
		}
		return nil, invalid("%s must be a date and a time such as 2026-03-02T09:00; got %q.", f.Name, text)
	}
	return text, nil
}

// textLines returns the lines of a text that are not blank, without surrounding spaces. It never
// returns nil.
func textLines(text string) []string {
	list := []string{}
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}

// newBody returns the request body that creates a record from a form. It leaves out empty fields,
// so that the admin endpoint sets their defaults.
func newBody(fields []formField, form url.Values) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if f.Kind == fieldHidden {
			continue
		}
		value, err := f.value(form)
		if err != nil {
			return nil, err
		}
		if list, ok := value.([]string); value != nil && (!ok || len(list) > 0) {
			body[f.Name] = value
		}
	}
	return body, nil
}

// changeBody returns the request body that changes a record. It contains only the fields that the
// user has changed.
func changeBody(fields []formField, form url.Values) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if f.Kind == fieldHidden || !f.changed(form) {
			continue
		}
		value, err := f.value(form)
		if err != nil {
			return nil, err
		}
		body[f.Name] = value
	}
	return body, nil
}
