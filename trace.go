package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
)

// maxTraced is how many changed records a Trace tells of one by one; an import
// can have any number. maxTracedValue is how many bytes of one value it keeps.
const (
	maxTraced      = 20
	maxTracedValue = 1024
)

// Told says what the audit log tells of a table's records.
type Told struct {
	Object string // what it calls a record, "" where it tells of none
	// Personal says that records are about people. The log names which of their
	// fields were changed and keeps no values: what nobody can change must not go
	// on holding what was deleted.
	Personal bool
	// Untold are fields, at any depth, that change all the time and tell nothing.
	Untold []string
}

// Trace collects which records a transaction changes, for the audit log. It
// belongs to the goroutine of the transaction.
type Trace struct {
	Changes []Change // the first of them
	Count   int      // all of them
	Idle    bool     // records were stored, but none was changed by it
}

// Change is what became of one record: the fields that differ, before and
// after, without secrets.
type Change struct {
	Object string         `json:"object"` // such as "key key_018c..."
	Did    string         `json:"did"`    // created, changed or deleted
	Fields []string       `json:"fields"` // names of those that differ
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// Note adds a record: as it was, nil for a new one, and as it is, nil for one
// that is gone.
func (t *Trace) Note(told Told, before, after any) error {
	if t.Count >= maxTraced {
		t.Count++
		return nil
	}
	was, err := plainFields(before, told.Untold)
	if err != nil {
		return err
	}
	now, err := plainFields(after, told.Untold)
	if err != nil {
		return err
	}
	c := Change{Object: told.Object + " " + fieldID(was, now), Did: "changed", Fields: []string{}}
	switch {
	case before == nil:
		c.Did = "created"
	case after == nil:
		c.Did = "deleted"
	}
	for _, fields := range []map[string]any{was, now} {
		for name := range fields {
			if !reflect.DeepEqual(was[name], now[name]) && !slices.Contains(c.Fields, name) {
				c.Fields = append(c.Fields, name)
			}
		}
	}
	if slices.Sort(c.Fields); len(c.Fields) == 0 {
		t.Idle = t.Count == 0
		return nil
	}
	if !told.Personal {
		c.Before, c.After = tellFields(was, c.Fields), tellFields(now, c.Fields)
	}
	t.Changes = append(t.Changes, c)
	t.Count, t.Idle = t.Count+1, false
	return nil
}

// plainFields gives a record as the members of its JSON, less some.
func plainFields(record any, less []string) (map[string]any, error) {
	if record == nil {
		return nil, nil
	}
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // an id is more exact than a float
	var fields map[string]any
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("trace a change: %w", err)
	}
	without(fields, less)
	return fields, nil
}

// without takes members out of an object, at any depth.
func without(fields map[string]any, less []string) {
	for name, value := range fields {
		if inner, ok := value.(map[string]any); ok {
			without(inner, less)
		}
		if slices.Contains(less, name) {
			delete(fields, name)
		}
	}
}

func fieldID(was, now map[string]any) string {
	if id, ok := now["id"]; ok {
		return fmt.Sprint(id)
	}
	return fmt.Sprint(was["id"])
}

// tellFields picks what may be told.
func tellFields(fields map[string]any, names []string) map[string]any {
	told := map[string]any{}
	for _, name := range names {
		value, ok := fields[name]
		if !ok {
			continue
		}
		if name == "url" { // paths and queries of addresses hold secrets often
			value = hostOf(value)
		}
		told[name] = hideSecrets(name, value)
		if data, err := json.Marshal(told[name]); err != nil || len(data) > maxTracedValue {
			told[name] = fmt.Sprintf("(%d bytes)", len(data))
		}
	}
	return told
}

func hostOf(value any) string {
	text, _ := value.(string)
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	return u.Scheme + "://" + u.Host + "/..."
}

// hidden stands for a value that differs and is not told.
const hidden = "(secret)"

// secretFields are the names under which records keep what nobody may see.
var secretFields = []string{"hash", "password", "secret", "token"}

// hideSecrets replaces secrets in a value at any depth.
func hideSecrets(name string, value any) any {
	if slices.Contains(secretFields, name) {
		return hidden
	}
	switch v := value.(type) {
	case map[string]any:
		told := map[string]any{}
		for name, inner := range v {
			told[name] = hideSecrets(name, inner)
		}
		return told
	case []any:
		told := []any{}
		for _, inner := range v {
			told = append(told, hideSecrets("", inner))
		}
		return told
	}
	return value
}
