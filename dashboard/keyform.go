package dashboard

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// heldBy returns the permissions of a key, with those that the configuration no longer defines.
func heldBy(key map[string]any) []string {
	return append(texts(key["permissions"]), texts(key["dormant_permissions"])...)
}

// keyFields returns the fields of the form of an existing key.
func keyFields(limits []keyNumber) []formField {
	fields := []formField{
		{Name: "name", Kind: fieldText}, {Name: "note", Kind: fieldText}, {Name: "permission", Kind: fieldTicks}, {Name: "environment", Kind: fieldText},
		{Name: "ips", Kind: fieldList}, {Name: "query", Kind: fieldSelect}, {Name: "expires", Kind: fieldDate},
	}
	for _, l := range limits {
		fields = append(fields, formField{Name: "limit." + l.Name, Kind: fieldNumber})
	}
	return fields
}

// keyRecord returns the values that the form of a key shows, by the names of its fields.
func keyRecord(key map[string]any, limits []keyNumber) map[string]any {
	numbers, held := map[string]any{}, []any{}
	for _, l := range limits {
		numbers[l.Name] = l.Value
	}
	for _, name := range heldBy(key) {
		held = append(held, name)
	}
	query := map[any]string{true: "yes", false: "no"}[key["query_allowed"]]
	return map[string]any{
		"name": key["name"], "note": noteOf(key), "permission": held, "environment": key["environment"], "ips": key["allowed_ips"], "query": query,
		"expires": fmt.Sprintf("%.10s", textOf(key["expires_at"])), "limit": numbers,
	}
}

// onlyChanged removes the members from body, the request that changes a key, that the user has not
// changed in the form. Untouched items of lists stay as they are stored.
func onlyChanged(body map[string]any, form url.Values, key map[string]any) {
	members := map[string]string{"note": "metadata", "permission": "permissions", "ips": "allowed_ips", "query": "query_allowed", "expires": "expires_at"}
	for _, f := range keyFields(nil) {
		member := cmp.Or(members[f.Name], f.Name)
		value, sent := body[member]
		switch {
		case !sent:
		case !f.changed(form):
			delete(body, member)
		case f.Name == "permission":
			body[member] = f.change(form, value, keyRecord(key, nil)["permission"])
		case f.Name == "ips":
			body[member] = f.change(form, value, key[member])
		}
	}
	limits, _ := body["limits"].(map[string]any)
	for name := range limits {
		if f := (formField{Name: "limit." + name, Kind: fieldNumber}); !f.changed(form) {
			delete(limits, name)
		}
	}
	if len(limits) == 0 {
		delete(body, "limits")
	}
}

// keyPrefill returns the initial form of a new key, with the values in the query of the address. So
// documentation can link to a form that is filled in. The parameter "perm" lists permissions,
// separated by commas, and "preset" is the name of a preset.
func keyPrefill(q url.Values, presets []keyPreset) url.Values {
	form := url.Values{"expiry": {"90d"}}
	for name, values := range q {
		form[name] = slices.Clone(values)
	}
	for _, list := range q["perm"] {
		form["permission"] = append(form["permission"], strings.Split(list, ",")...)
	}
	for _, p := range presets {
		if q.Get("preset") == p.Word {
			form["permission"] = append(form["permission"], strings.Fields(p.Permissions)...)
		}
	}
	return form
}

// keyBody returns a request body with the fields that a new key and a change have in common. A
// limit that is empty in the form has its default. metadata is the metadata of the key before the
// change, or nil for a new key. keyBody may change metadata.
func keyBody(form url.Values, metadata map[string]any) (map[string]any, error) {
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
			return nil, invalid("%s must be a whole number.", limitLabel(name))
		}
		limits[name] = n
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	body["allowed_ips"] = addressList(form.Get("ips"))
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

// addressList returns the addresses in a text, which are separated by commas or spaces.
func addressList(text string) []string {
	return append([]string{}, strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \r\n\t", r) })...)
}

// keyExpiry returns the expiry of a key from a form. The form has a preset, a time in UTC, or a
// date, which means the last second of that day in UTC. end is nil if the key never expires. set is
// false if the form has no expiry.
func keyExpiry(form url.Values, now time.Time) (end any, set bool, err error) {
	preset, text := form.Get("expiry"), strings.TrimSpace(form.Get("expires"))
	if preset == "date" || preset == "" && text != "" {
		if day, err := clock.ParseDate(text); err == nil {
			return day.Add(24*time.Hour - time.Second).Format(time.RFC3339), true, nil
		}
		if at, err := clock.ParseLocal(text, time.UTC); err == nil {
			return at.Format(time.RFC3339), true, nil
		}
		return nil, false, invalid("Expires must be a date such as 2027-01-31.")
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
		return nil, false, invalid("Expires must be one of the choices.")
	}
	return now.Add(days * 24 * time.Hour).UTC().Format(time.RFC3339), true, nil
}
