package dashboard

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/bytesize"
	"latchkey/internal/clock"
	"latchkey/internal/strictjson"
)

// These are the kinds of fields.
const (
	fieldText   = "text"
	fieldTel    = "tel"
	fieldSearch = "search"
	fieldEmail  = "email"
	fieldNumber = "number" // sent as a number
	fieldSize   = "size"   // a number of bytes such as 512MiB; none is sent as 0
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
	fieldHours  = "hours"  // ranges of times of a day, such as 09:00-12:00, sent as an array; see sentHours
	fieldHidden = "hidden" // sent with the form, but not a member of the record
)

// formField is a field of a form. It edits one member of a record of the admin endpoint.
type formField struct {
	Name, Label, Kind string
	Hint              string                        // explanation under the label
	From              string                        // path of the member of the record, as for memberOf; "" means Name
	Needed            bool                          // must not be empty
	Blank             string                        // label of the choice for no value; "" means "none"
	Usual             string                        // initial value in the form of a new record
	Choices           func(v *pageRequest) []choice // allowed values; only suggestions for a text field
	Make              bool                          // only in the form of a new record
	Change            bool                          // only in the form of an existing record
	Wide              bool                          // takes the full width of the form
	Group             string                        // heading above the field; "" means no heading
	Zone              *time.Location                // time zone of a fieldTime; nil means UTC
	About             map[string]string             // explanations of the choices of fieldTicks, by their values; may be nil
}

// noSize is the text of a fieldSize for no limit.
const noSize = "none"

// choice is a value that a field offers.
type choice struct {
	Value, Label string
	Chosen       bool
}

// words returns a function that offers values, each with itself as its label.
func words(values ...string) func(*pageRequest) []choice {
	return func(*pageRequest) (list []choice) {
		for _, value := range values {
			list = append(list, choice{Value: value, Label: value})
		}
		return list
	}
}

// recordChoices returns a function that offers records of the admin endpoint, at most 1000. path is
// the path of their list below /admin/v1/, and rows is the member of the answer that holds them.
// value and label are members of a record. The function returns nil if the list cannot be read.
func recordChoices(path, rows, value, label string) func(*pageRequest) []choice {
	return func(v *pageRequest) (list []choice) {
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
func timeZones(v *pageRequest) []choice {
	return words("UTC", "America/Chicago", "America/Los_Angeles", "America/New_York", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
		"Europe/Berlin", "Europe/London", "Europe/Paris", "Europe/Zurich")(v)
}

// ownerChoices returns the names of the owners as choices.
func ownerChoices(v *pageRequest) []choice {
	return recordChoices("owners", "owners", "name", "name")(v)
}

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
func (v *pageRequest) inputs(fields []formField, fill filling, fault *Fault) (list []input) {
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

// shown returns the value of the input as text for operators who may not change it.
func (in input) shown() string {
	switch in.Kind {
	case fieldCheck:
		return cmp.Or(in.Value, "no")
	case fieldJSON:
		if in.Value == "{}" {
			return ""
		}
	case fieldTime:
		return strings.Replace(in.Value, "T", " ", 1)
	case fieldSelect, fieldID:
		for _, c := range in.Choices {
			if c.Chosen && in.Value != "" {
				return c.Label
			}
		}
	}
	return in.Value
}

// valueSet is the values of a group of fields as text. Title is the heading of the group, or "".
type valueSet struct {
	Title string
	Cells []pageCell
}

// valueSets returns the values of inputs as text, without empty ones.
func valueSets(inputs []input) (sets []valueSet) {
	group := ""
	for _, in := range inputs {
		group = cmp.Or(in.Group, group)
		text := in.shown()
		if in.Kind == fieldHidden || text == "" {
			continue
		}
		if n := len(sets); n == 0 || sets[n-1].Title != group {
			sets = append(sets, valueSet{Title: group})
		}
		kind := cellText
		if strings.Contains(text, "\n") {
			kind = cellLong
		}
		last := &sets[len(sets)-1]
		last.Cells = append(last.Cells, pageCell{Head: in.Label, Text: text, Kind: kind})
	}
	return sets
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
	if f.Kind == fieldHours {
		return f.sentHours(form)
	}
	return f.plain(strings.Join(form[f.Name], "\n"))
}

// midnight is the end of a day. A field for a time shows and sends it as 00:00.
const midnight = "24:00"

// sentHours returns the ranges of a fieldHours, one per line. A form has two fields for each range: the
// name of the field with ".from" and with ".to". Ranges without times are left out.
func (f formField) sentHours(form url.Values) string {
	from, to := form[f.Name+".from"], form[f.Name+".to"]
	var lines []string
	for i := range max(len(from), len(to)) {
		begin, end := "", ""
		if i < len(from) {
			begin = strings.TrimSpace(from[i])
		}
		if i < len(to) {
			end = strings.TrimSpace(to[i])
		}
		if end == "00:00" {
			end = midnight
		}
		if begin+end != "" {
			lines = append(lines, begin+"-"+end)
		}
	}
	return strings.Join(lines, "\n")
}

// timeRange is a range of a fieldHours in two fields.
type timeRange struct{ From, To string }

// Ranges returns the ranges in the value of a fieldHours, and an empty one for another.
func (in input) Ranges() (list []timeRange) {
	for _, line := range textLines(in.Value) {
		from, to, _ := strings.Cut(line, "-")
		if to == midnight {
			to = "00:00"
		}
		list = append(list, timeRange{from, to})
	}
	return append(list, timeRange{})
}

// within reports whether a form has the field.
func (f formField) within(form url.Values) bool {
	return form.Has(f.Name) || f.Kind == fieldHours && form.Has(f.Name+".from")
}

// plain returns text in the one form in which values of the field are compared. A browser sends a
// text that nobody has touched in another form than it got it: with CRLF at the end of lines, and
// without line ends if the field has one line only. plain removes such differences.
func (f formField) plain(text string) string {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "\uFFFD").Replace(text)
	switch f.Kind {
	case fieldArea:
		return text
	case fieldLines, fieldTicks, fieldJSON, fieldHours:
		return strings.TrimSpace(text)
	case fieldTime:
		text = strings.Replace(strings.TrimSpace(text), " ", "T", 1)
		if len(text) == len("2006-01-02T15:04:05") {
			text = strings.TrimSuffix(text, ":00")
		}
		return text
	}
	return strings.TrimSpace(strings.ReplaceAll(text, "\n", ""))
}

// oneLine returns an item of a list as the form shows it: without line ends and surrounding spaces.
func oneLine(item string) string {
	return strings.TrimSpace(strings.NewReplacer("\r\n", " ", "\r", " ", "\n", " ", "\x00", "\uFFFD").Replace(item))
}

// stored returns the member of a record that the field edits, or nil if there is none.
func (f formField) stored(record map[string]any) any { return memberOf(record, cmp.Or(f.From, f.Name)) }

// of returns the value of a field in a record as text for the form.
func (f formField) of(record map[string]any) string {
	value := f.stored(record)
	switch {
	case f.Kind == fieldCheck:
		if value == true {
			return "yes"
		}
		return ""
	case f.Kind == fieldLines || f.Kind == fieldTicks || f.Kind == fieldHours:
		return strings.Join(shownItems(value), "\n")
	case f.Kind == fieldList:
		return strings.Join(shownItems(value), ", ")
	case f.Kind == fieldSize && value != nil:
		if n := int64(numberOf(value)); n > 0 {
			return bytesize.Format(n)
		}
		return noSize
	case f.Kind == fieldJSON:
		data, err := json.MarshalIndent(value, "", "  ")
		if err != nil || value == nil {
			return "{}"
		}
		return string(data)
	case f.Kind == fieldTime:
		text, _ := value.(string)
		t, err := clock.ParseTime(text)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(t.In(f.zone()).Format("2006-01-02T15:04:05"), ":00")
	}
	return textOf(value)
}

// mark returns a short hash of a text.
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

// was returns the mark of text, the value of the field that a page shows. The form carries it in a
// hidden field named "was." and Name. The mark of a JSON object also has the marks of each member's
// name and value, in pairs.
func (f formField) was(text string) string {
	text = f.plain(text)
	switch marks := mark(text); f.Kind {
	case fieldTicks: // sent in the order of the choices
		return mark(strings.Join(slices.Sorted(slices.Values(textLines(text))), "\n"))
	case fieldJSON:
		value, _ := strictjson.Value([]byte(text))
		object, _ := value.(map[string]any) // nil if the text is not an object; then the form is refused
		for _, name := range slices.Sorted(maps.Keys(object)) {
			marks += mark(name) + mark(encoded(object[name]))
		}
		return marks
	default:
		return marks
	}
}

// changed reports whether the user has changed a field of the form. Only changed fields are sent.
// So a form does not undo the changes that others have made in the meantime, and a value that no
// field can show exactly stays as it is. A field that the page did not have is not changed.
func (f formField) changed(form url.Values) bool {
	if !f.within(form) && !form.Has("was."+f.Name) {
		return false
	}
	return form.Get("was."+f.Name) != f.was(f.sent(form))
}

// shownItems returns the items of a list as the form shows them.
func shownItems(value any) (list []string) {
	for _, item := range texts(value) {
		list = append(list, oneLine(item))
	}
	return list
}

// encoded returns a decoded JSON value as JSON with sorted names.
func encoded(value any) string {
	data, err := strictjson.Encode(value)
	if err != nil {
		panic(err) // a decoded value can be encoded
	}
	return string(data)
}

// change returns the value that changes the stored one to what the form has, by the value that the
// method value has read from the form. In a list, an item that the user did not touch is as it is
// stored. Of a JSON object only the changed members are left, and null for each removed one.
func (f formField) change(form url.Values, value, stored any) any {
	switch value := value.(type) {
	case []string:
		return f.keptItems(value, texts(stored))
	case map[string]any:
		return changedMembers(form.Get("was."+f.Name), value, stored)
	case nil:
		if f.Kind == fieldJSON {
			return changedMembers(form.Get("was."+f.Name), map[string]any{}, stored)
		}
	}
	return value
}

// keptItems returns list with each item that the form shows of stored in its stored form. The ticked
// values are in their stored order, and new ones follow.
func (f formField) keptItems(list, stored []string) []string {
	left := slices.Clone(stored)
	for i, item := range list {
		at := slices.IndexFunc(left, func(s string) bool { return oneLine(s) == item })
		if at >= 0 {
			list[i] = left[at]
			left = slices.Delete(left, at, at+1)
		}
	}
	if f.Kind == fieldTicks {
		place := func(item string) int {
			if at := slices.Index(stored, item); at >= 0 {
				return at
			}
			return len(stored)
		}
		slices.SortStableFunc(list, func(a, b string) int { return place(a) - place(b) })
	}
	return list
}

// changedMembers returns the members of object that differ from those on the page, by their marks in
// was, and null for each member of stored that was on the page and is not in object. If was is "",
// all members of stored count as shown.
func changedMembers(was string, object map[string]any, stored any) map[string]any {
	shown := map[string]string{} // mark of the value by the mark of the name
	size := len(mark(""))
	for rest := strings.TrimPrefix(was, was[:min(size, len(was))]); len(rest) >= 2*size; rest = rest[2*size:] {
		shown[rest[:size]] = rest[size : 2*size]
	}
	changes := map[string]any{}
	for name, value := range object {
		if shown[mark(name)] != mark(encoded(value)) {
			changes[name] = value
		}
	}
	members, _ := stored.(map[string]any)
	for name := range members {
		if _, stays := object[name]; !stays && (was == "" || shown[mark(name)] != "") {
			changes[name] = nil
		}
	}
	return changes
}

// value returns the value of a field in a form as the admin endpoint expects it. An empty field is
// nil, or an empty list if the field is a list. If the text does not suit the kind of field, the
// error is a *Fault that names the field.
func (f formField) value(form url.Values) (any, error) {
	text := f.sent(form)
	switch {
	case f.Kind == fieldCheck:
		return text != "", nil
	case f.Kind == fieldLines || f.Kind == fieldTicks || f.Kind == fieldHours:
		return textLines(text), nil
	case f.Kind == fieldList:
		return textLines(strings.ReplaceAll(text, ",", "\n")), nil
	case text == "":
		return nil, nil
	case f.Kind == fieldNumber || f.Kind == fieldID:
		if !strictjson.IsNumber(text) {
			return nil, invalid("%s must be a number; got %q.", f.Name, text)
		}
		return json.Number(text), nil
	case f.Kind == fieldSize && text == noSize:
		return 0, nil
	case f.Kind == fieldSize:
		n, err := bytesize.Parse(text)
		if err != nil {
			return nil, invalid("%s: %s. Write none for no limit, or nothing for the default.", f.Name, err)
		}
		return n, nil
	case f.Kind == fieldJSON:
		value, err := strictjson.Value([]byte(text))
		object, ok := value.(map[string]any)
		if err != nil {
			return nil, invalid("%s must be a JSON object. %s", f.Name, err)
		}
		if !ok {
			return nil, invalid("%s must be a JSON object, such as {\"name\": \"value\"}.", f.Name)
		}
		return object, nil
	case f.Kind == fieldTime:
		t, err := clock.ParseLocal(text, f.zone())
		if errors.Is(err, clock.ErrSkipped) {
			return nil, invalid("%s must be a time that exists. In %s the clocks skip %s. Choose an earlier or a later time.", f.Name, f.zone(), text)
		}
		if err == nil {
			return t.Format(time.RFC3339Nano), nil
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

// conflict returns a Fault if the user has changed the field, and somebody else has changed it to
// something else since the page was shown. It returns nil otherwise, and for a JSON object, of which only
// the changed members are sent. member is how the message begins.
func (f formField) conflict(form url.Values, record map[string]any, member string) error {
	stored := f.of(record)
	now, was := f.was(stored), "was."+f.Name
	if f.Kind == fieldJSON || !form.Has(was) || form.Get(was) == now || !f.changed(form) || f.was(f.sent(form)) == now {
		return nil
	}
	fault := invalid("%s was changed by somebody else meanwhile. It is now: %s. Save again to replace that.", member, cmp.Or(strings.ReplaceAll(stored, "\n", ", "), "empty"))
	fault.Status = http.StatusConflict
	return fault
}

// changeBody returns the request body that changes a record, as it is stored now. It contains only
// what the user has changed in the form. The error is a *Fault if a value is wrong, or if somebody else
// has changed the same field since the page was shown.
func changeBody(fields []formField, form url.Values, record map[string]any) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if f.Kind == fieldHidden || !f.changed(form) {
			continue
		}
		value, err := f.value(form)
		if err != nil {
			return nil, err
		}
		if err := f.conflict(form, record, f.Name); err != nil {
			return nil, err
		}
		value = f.change(form, value, f.stored(record))
		if members, is := value.(map[string]any); !is || len(members) > 0 {
			body[f.Name] = value
		}
	}
	return body, nil
}
