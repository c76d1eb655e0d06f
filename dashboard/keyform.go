package dashboard

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/idlists"
	"latchkey/internal/query"
)

// heldBy returns the permissions of a key, with those that the configuration no longer defines.
func heldBy(key map[string]any) []string {
	return append(texts(key["permissions"]), texts(key["dormant_permissions"])...)
}

// heldIn returns the same as heldBy, in the form of a list of the admin endpoint.
func heldIn(key map[string]any) []any {
	held := []any{}
	for _, name := range heldBy(key) {
		held = append(held, name)
	}
	return held
}

// keyFields returns the fields of a key, by which its page shows and changes it.
func keyFields(limits []keyNumber) []formField {
	fields := []formField{
		{Name: "name", Label: "Name", Kind: fieldText, Needed: true},
		{Name: "note", Label: "Note", Kind: fieldText, Hint: `where the key lives, such as "GitHub secret API_KEY"`},
		{Name: "permission", Label: "Permissions", Kind: fieldTicks},
		{Name: "environment", Label: "Environment", Kind: fieldText, Hint: "such as live or test"},
		{Name: "ips", Label: "Allowed IP addresses", Kind: fieldList, Hint: "such as 192.0.2.0/24, separated by commas; empty: from anywhere"},
		{Name: "objects", Label: "Objects", Kind: fieldText, Hint: "such as agents=8,9 contacts=31; empty: all that the owner sees"},
		{Name: "query", Label: "In a URL, as ?api_key=", Kind: fieldSelect, Blank: "as the server is set", Choices: func(*pageRequest) []choice {
			return []choice{{Value: "yes", Label: "allowed"}, {Value: "no", Label: "refused"}}
		}},
		{Name: "expires", Label: "Expires", Kind: fieldDate, Hint: "the end of this day; empty: never"},
	}
	for _, l := range limits {
		fields = append(fields, formField{Name: "limit." + l.Name, Label: l.Label, Kind: fieldNumber})
	}
	return fields
}

// keyMember returns the member of a key at the admin endpoint that a field edits, as messages name it.
func keyMember(field string) string {
	if name, ok := strings.CutPrefix(field, "limit."); ok {
		return "limits." + name
	}
	members := map[string]string{"note": "metadata", "permission": "permissions", "ips": "allowed_ips", "objects": "resources", "query": "query_allowed", "expires": "expires_at"}
	return cmp.Or(members[field], field)
}

// keyFault returns the name of the field that a message of the admin endpoint is about, and the message
// with the label of the field. field is "" if the message is about none of fields.
func keyFault(message string, form url.Values, fields []formField) (field, text string) {
	for _, f := range fields {
		member := keyMember(f.Name)
		if names(message, f.Label) {
			return f.Name, message
		}
		if !names(message, member) {
			continue
		}
		if f.Name == "permission" && len(form["permission"]) == 0 {
			return f.Name, "Choose at least one permission."
		}
		rest := strings.TrimPrefix(message, member)
		if _, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(rest, "[") { // the place in a list
			rest = after
		}
		return f.Name, f.Label + rest
	}
	return "", message
}

// readLimits reads the limits that a key can have, with those that the key has as their values. The
// value of a default is empty. Otherwise a form would store the number, and the key would not follow
// later changes of the default.
func readLimits(v *pageRequest, key map[string]any) ([]keyNumber, *Fault) {
	answer, e := v.call(http.MethodGet, "/admin/v1/limits", nil)
	if e != nil {
		return nil, e
	}
	limits, _ := key["limits"].(map[string]any)
	numbers := keyNumbers(answer["limits"], func(string) string { return "" })
	for i, l := range numbers {
		if n, ok := limits[l.Name].(json.Number); ok && int(numberOf(n)) != l.Default {
			numbers[i].Value = n.String()
		}
	}
	return numbers, nil
}

// objectsOf returns the objects that a key is limited to, in the form of idlists.Parse.
func objectsOf(key map[string]any) string {
	resources, _ := key["resources"].(map[string]any)
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(resources)) {
		ids, _ := resources[kind].([]any)
		kinds = append(kinds, kind+"="+strings.ReplaceAll(strings.Trim(fmt.Sprint(ids), "[]"), " ", ","))
	}
	return strings.Join(kinds, " ")
}

// queryWord returns the value of the field query for a key.
func queryWord(key map[string]any) string {
	return map[any]string{true: "yes", false: "no"}[key["query_allowed"]]
}

// keyChange returns the request body that changes a key, as it is stored now, according to a form. It
// has only what the user has changed. The error is a *Fault if a value is wrong, or if somebody else has
// changed the same field since the page was shown.
func (v *pageRequest) keyChange(form url.Values, key map[string]any, limits []keyNumber) (map[string]any, error) {
	metadata, _ := key["metadata"].(map[string]any)
	body, err := keyBody(form, metadata)
	if err != nil {
		return nil, err
	}
	if form.Has("expires") {
		body["expires_at"] = nil
		if form.Get("expires") != "" {
			if body["expires_at"], _, err = v.keyExpiry(url.Values{"expires": form["expires"]}); err != nil {
				return nil, err
			}
		}
		if form.Get("expires") != "" && form.Get("expires") == v.keyRecord(key, limits)["expires"] {
			delete(body, "expires_at") // the same expiry; sending it again would fail if it has passed
		}
	}
	if form.Has("environment") {
		body["environment"] = strings.TrimSpace(form.Get("environment"))
	}
	record := v.keyRecord(key, limits)
	for _, f := range keyFields(limits) {
		if err := f.conflict(form, record, keyMember(f.Name)); err != nil {
			return nil, err
		}
	}
	onlyChanged(body, form, key)
	return body, nil
}

// keyRecord returns the values that the form of a key shows, by the names of its fields.
func (v *pageRequest) keyRecord(key map[string]any, limits []keyNumber) map[string]any {
	numbers, held, expires := map[string]any{}, heldIn(key), ""
	if at := momentOf(key["expires_at"]); !at.IsZero() {
		expires = at.In(v.zone()).Format(time.DateOnly)
	}
	for _, l := range limits {
		numbers[l.Name] = l.Value
	}
	return map[string]any{
		"name": key["name"], "note": noteOf(key), "permission": held, "environment": key["environment"], "ips": key["allowed_ips"], "objects": objectsOf(key), "query": queryWord(key),
		"expires": expires, "limit": numbers,
	}
}

// onlyChanged removes the members from body, the request that changes a key, that the user has not
// changed in the form. Untouched items of lists stay as they are stored.
func onlyChanged(body map[string]any, form url.Values, key map[string]any) {
	for _, f := range keyFields(nil) {
		member := keyMember(f.Name)
		value, sent := body[member]
		switch {
		case !sent:
		case !f.changed(form):
			delete(body, member)
		case f.Name == "permission":
			body[member] = f.change(form, value, heldIn(key))
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
			delete(form, "permission") // the address has those that were ticked before
			form["permission"] = append(form["permission"], strings.Fields(p.Permissions)...)
		}
	}
	return form
}

// The bounds of OwnPreset. An operator's record, and so each entry of the audit log about it, has all of them.
const (
	maxOwnPresets = 10
	maxPresetName = 60   // bytes
	maxPresetForm = 1500 // bytes
)

// ownPreset returns the form of a new key with the values of the preset of the operator with this name. form
// is what was typed before; of that the name and the note remain. Without such a preset, it is form.
func (v *pageRequest) ownPreset(name string, form url.Values) url.Values {
	i := slices.IndexFunc(v.Operator.Presets, func(p OwnPreset) bool { return p.Name == name })
	if i < 0 {
		return form
	}
	own, _ := query.Parse(v.Operator.Presets[i].Form) // savePreset has encoded it
	if !own.Has("expiry") {
		own["expiry"] = form["expiry"]
	}
	for _, field := range []string{"name", "note"} {
		if form.Has(field) {
			own[field] = form[field]
		}
	}
	return own
}

// savePreset saves the form of a new key as a preset of the operator, under the name that the form has for the
// key, and shows the form again. If the form has the field remove, it removes the preset with that name.
func (k *keyPages) savePreset(v *pageRequest) {
	form := v.R.PostForm
	name, kept := strings.TrimSpace(form.Get("name")), url.Values{}
	if form.Has("remove") {
		name = form.Get("remove")
	}
	for field, values := range form {
		_, limit := strings.CutPrefix(field, "limit.")
		if (limit || slices.Contains([]string{"permission", "expiry", "ips", "objects", "query", "environment", "owner"}, field)) && strings.Join(values, "") != "" {
			kept[field] = values
		}
	}
	if kept.Get("expiry") == "date" { // the date is for one key
		kept.Del("expiry")
	}
	p := v.Operator.Preferences
	p.Presets = slices.DeleteFunc(slices.Clone(p.Presets), func(one OwnPreset) bool { return one.Name == name })
	if v.note = "Preset " + plainName(name) + " removed."; !form.Has("remove") {
		p.Presets = append(p.Presets, OwnPreset{name, kept.Encode()})
		v.note = "Saved as the preset " + plainName(name) + ": permissions, limits, expiry, IP addresses, objects, environment and owner."
	}
	var err error
	switch {
	case name == "" || len(name) > maxPresetName:
		err = invalid("Type a name of at most %d characters. It becomes the name of the preset.", maxPresetName)
	case len(p.Presets) > maxOwnPresets:
		err = invalid("There can be %d presets. Remove one first.", maxOwnPresets)
	case len(kept.Encode()) > maxPresetForm:
		err = invalid("This is too much for a preset.")
	default:
		err = v.dashboard.o.Accounts.Prefer(v.R, v.Session, p)
	}
	if err != nil {
		v.note = ""
		k.askKey(v, faultOf(err), form)
		return
	}
	v.Operator.Preferences = p
	k.askKey(v, nil, form)
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
			return nil, invalid("limits.%s must be a whole number; got %q.", name, text)
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
	if form.Has("objects") {
		ids, err := idlists.Parse(form.Get("objects"))
		if err != nil {
			return nil, invalid("resources %s.", err)
		}
		if body["resources"] = nil; ids != nil {
			body["resources"] = ids
		}
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
// date, which means the last second of that day in the time zone of the operator. end is nil if the key
// never expires. set is false if the form has no expiry.
func (v *pageRequest) keyExpiry(form url.Values) (end any, set bool, err error) {
	preset, text := form.Get("expiry"), strings.TrimSpace(form.Get("expires"))
	if preset == "date" || preset == "" && text != "" {
		if day, err := clock.ParseDate(text); err == nil {
			return startOfDay(day.Year(), day.Month(), day.Day()+1, v.zone()).Add(-time.Second).UTC().Format(time.RFC3339), true, nil
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
	return v.now().Add(days * 24 * time.Hour).UTC().Format(time.RFC3339), true, nil
}
