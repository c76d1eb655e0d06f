package main

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KeyChoice is a permission in a form.
type KeyChoice struct {
	Name, Description, Says string
	Chosen                  bool
}

// KeyGroup is a group of permissions in a form.
type KeyGroup struct {
	Name    string
	Choices []KeyChoice
}

// KeyNumber is a limit in a form.
type KeyNumber struct {
	Name, Label string
	Default     int
	Value       string
}

// KeyPreset ticks some permissions.
type KeyPreset struct{ Name, Word, Permissions string }

// KeyPresets are what most keys are for.
func KeyPresets() []KeyPreset {
	return []KeyPreset{
		{"Read only", "read", "can_read_calls can_read_agents can_read_contacts can_read_calendar"},
		{"Caller", "caller", "can_read_calls can_initiate_calls can_read_agents can_read_contacts"},
		{"Scheduler", "scheduler", "can_read_contacts can_read_calendar can_write_calendar"},
	}
}

// KeyGroups sorts permissions, as the admin endpoint lists them, into groups.
func KeyGroups(list any, chosen []string) []KeyGroup {
	groups := []KeyGroup{{Name: "Calls and agents"}, {Name: "Contacts"}, {Name: "Calendar"}, {Name: "Other"}}
	of := map[string]int{"can_read_calls": 0, "can_initiate_calls": 0, "can_read_agents": 0, "can_read_contacts": 1, "can_write_contacts": 1, "can_read_calendar": 2, "can_write_calendar": 2}
	rows, _ := list.([]any)
	for _, p := range rows {
		row, _ := p.(map[string]any)
		name, _ := row["name"].(string)
		about, _ := row["description"].(string)
		i, known := of[name]
		if !known {
			i = 3
		}
		groups[i].Choices = append(groups[i].Choices, KeyChoice{name, about, SayPermission(name), slices.Contains(chosen, name)})
	}
	return slices.DeleteFunc(groups, func(g KeyGroup) bool { return len(g.Choices) == 0 })
}

// SayPermission is a permission as people say it: "read calls".
func SayPermission(name string) string {
	return strings.ReplaceAll(strings.TrimPrefix(name, "can_"), "_", " ")
}

// KeyNumbers gives the limits, as the admin endpoint lists them, for a form;
// value gives what stands in a field.
func KeyNumbers(list any, value func(name string) string) (numbers []KeyNumber) {
	rows, _ := list.([]any)
	for _, l := range rows {
		row, _ := l.(map[string]any)
		if row["scope"] == "owner" { // no key has it for itself
			continue
		}
		name, _ := row["name"].(string)
		standard, _ := row["default"].(float64)
		numbers = append(numbers, KeyNumber{name, LimitLabel(name), int(standard), value(name)})
	}
	return numbers
}

// KeyPrefill gives the form that an address fills in, so that documentation
// can link to it. perm stands for permission, and preset for several.
func KeyPrefill(q url.Values) url.Values {
	form := url.Values{"expiry": {"90d"}}
	for name, values := range q {
		form[name] = slices.Clone(values)
	}
	for _, list := range q["perm"] {
		form["permission"] = append(form["permission"], strings.Split(list, ",")...)
	}
	for _, p := range KeyPresets() {
		if q.Get("preset") == p.Word {
			form["permission"] = append(form["permission"], strings.Fields(p.Permissions)...)
		}
	}
	return form
}

// KeyBody makes the body for the admin endpoint out of what the forms of a new
// key and of a change share. A limit that is left empty is the default.
func KeyBody(form url.Values, metadata map[string]any) (map[string]any, error) {
	body := map[string]any{"name": strings.TrimSpace(form.Get("name")), "permissions": append([]string{}, form["permission"]...)}
	limits := map[string]any{}
	for field, values := range form {
		name, ok := strings.CutPrefix(field, "limit.")
		if !ok {
			continue
		}
		text := strings.TrimSpace(values[0])
		if limits[name] = nil; text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, ErrValidation.With("%s must be a whole number.", LimitLabel(name))
		}
		limits[name] = n
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	body["allowed_ips"] = append([]string{}, strings.FieldsFunc(form.Get("ips"), func(r rune) bool { return strings.ContainsRune(", \r\n\t", r) })...)
	if form.Has("note") {
		if metadata == nil {
			metadata = map[string]any{}
		}
		delete(metadata, "note")
		if note := strings.TrimSpace(form.Get("note")); note != "" {
			metadata["note"] = note
		}
		body["metadata"] = metadata
	}
	if form.Has("query") {
		body["query_allowed"] = map[string]any{"yes": true, "no": false}[form.Get("query")]
	}
	return body, nil
}

// KeyExpiry reads the end of a key out of a form: a preset, or a date, which
// the last second of that day in UTC is meant by. With set false nothing was
// said of it; nil is never.
func KeyExpiry(form url.Values, now time.Time) (end any, set bool, err error) {
	preset, text := form.Get("expiry"), strings.TrimSpace(form.Get("expires"))
	if preset == "date" || preset == "" && text != "" {
		for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
			if at, err := time.Parse(layout, text); err == nil {
				if layout == time.DateOnly {
					at = at.Add(24*time.Hour - time.Second)
				}
				return at.Format(time.RFC3339), true, nil
			}
		}
		return nil, false, ErrValidation.With("Expires must be a date such as 2027-01-31.")
	}
	switch preset {
	case "":
		return nil, false, nil
	case "never":
		return nil, true, nil
	}
	lengths := map[string]time.Duration{"30d": 30, "90d": 90, "1y": 365}
	days, ok := lengths[preset]
	if !ok {
		return nil, false, ErrValidation.With("Expires must be one of the choices.")
	}
	return now.Add(days * 24 * time.Hour).UTC().Format(time.RFC3339), true, nil
}
