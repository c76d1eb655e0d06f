package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// KeyPages are the pages of one key: made, shown, changed, rotated, revoked.
type KeyPages struct{ apiURL func() string }

// NewKeyPages makes the pages; apiURL gives where clients reach the API.
func NewKeyPages(apiURL func() string) *KeyPages { return &KeyPages{apiURL} }

// Sections is empty: the way to a key leads through their list.
func (k *KeyPages) Sections() []Section { return nil }

// Pages lists the pages.
func (k *KeyPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){
		"GET /keys/new": k.newKey, "POST /keys": k.createKey, "GET /keys/{id}": k.showKey, "GET /keys/{id}/used": k.keyUsed,
		"POST /keys/{id}/edit": k.editKey, "GET /keys/{id}/rotate": k.askRotate, "POST /keys/{id}/rotate": k.rotateKey, "GET /keys/{id}/revoke": k.askRevoke,
		"POST /keys/{id}/finish": k.finishKey, "POST /keys/{id}/revoke": k.revokeKey, "POST /keys/{id}/{verb}": k.changeKey,
	}
}

// formData is what the forms of keys need.
type formData struct {
	Groups  []KeyGroup
	Limits  []KeyNumber
	Presets []KeyPreset

	permissions permissions

	Nonce   string
	Key     map[string]any
	State   State
	Meters  []Meter
	IPs     string
	Note    string
	Plots   []Plot
	Spark   Spark
	Refused []any // the last requests that were refused, newest first
	More    int   // how many more are kept
	Confirm bool  // whether the name has to be typed to revoke it
}

// form makes the fields of a key's form. value gives what stands in a limit's.
func (k *KeyPages) form(v *Visit, chosen []string, value func(name string) string) (f formData, e *Error) {
	p, e := readPermissions(v)
	if e != nil {
		return f, e
	}
	limits, e := v.Call(http.MethodGet, "/admin/v1/limits", nil)
	if e != nil {
		return f, e
	}
	return formData{Groups: p.groups(chosen), Limits: KeyNumbers(limits["limits"], value), Presets: p.presets, permissions: p}, nil
}

func (k *KeyPages) newKey(v *Visit) {
	p, e := readPermissions(v)
	if e != nil {
		v.Fault(e)
		return
	}
	k.askKey(v, http.StatusOK, "", KeyPrefill(v.R.URL.Query(), p.presets))
}

func (k *KeyPages) askKey(v *Visit, status int, fault string, form url.Values) {
	f, e := k.form(v, form["permission"], func(name string) string { return form.Get("limit." + name) })
	if e != nil {
		v.Fault(e)
		return
	}
	if f.Nonce = form.Get("nonce"); f.Nonce == "" {
		f.Nonce = keytext.RandomHex(16)
	}
	v.Show(status, "newkey", View{Title: "Create New API Key", Fault: fault, Form: form, Data: f})
}

func (k *KeyPages) createKey(v *Visit) {
	if err := v.R.ParseForm(); err != nil {
		v.Fault(ErrValidation.With("The form cannot be read."))
		return
	}
	form := v.R.PostForm
	body, err := KeyBody(form, nil)
	if err == nil {
		for _, name := range []string{"owner", "environment"} {
			if value := strings.TrimSpace(form.Get(name)); value != "" {
				body[name] = value
			}
		}
		end, set, bad := KeyExpiry(form, v.Now())
		if err = bad; set {
			body["expires_at"] = end
		}
	}
	if err != nil {
		k.askKey(v, http.StatusBadRequest, Public(err).Message, form)
		return
	}
	made, e := v.CallOnce(form.Get("nonce"), http.MethodPost, "/admin/v1/keys", body)
	if e != nil && e.Fields["key_id"] != nil {
		v.Show(http.StatusConflict, "already", View{Title: "Already created", Data: e.Fields["key_id"]})
		return
	}
	if e != nil {
		k.askKey(v, e.Status, e.Message, form)
		return
	}
	k.reveal(v, http.StatusCreated, made)
}

// reveal shows a secret, once. The page is not to be kept.
func (k *KeyPages) reveal(v *Visit, status int, key map[string]any) {
	key["url"] = k.apiURL() + "/api/v1/key"
	name, _ := key["name"].(string)
	v.Show(status, "created", View{Title: name, Data: key})
}

// keyPath is where the admin endpoint has the key that an address names.
func keyPath(r *http.Request) string { return "/admin/v1/keys/" + url.PathEscape(r.PathValue("id")) }

// back goes to the page of the key, with a word for what was done.
func back(v *Visit, done string) {
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+"?done="+done, http.StatusSeeOther)
}

func (k *KeyPages) showKey(v *Visit) { k.oneKey(v, http.StatusOK, "key", "") }

func (k *KeyPages) askRotate(v *Visit) { k.oneKey(v, http.StatusOK, "rotate", "") }

func (k *KeyPages) askRevoke(v *Visit) { k.oneKey(v, http.StatusOK, "revoke", "") }

// oneKey shows one of the pages of a key.
func (k *KeyPages) oneKey(v *Visit, status int, page, fault string) {
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	limits, _ := key["limits"].(map[string]any)
	f, e := k.form(v, Texts(key["permissions"]), func(string) string { return "" })
	if e != nil {
		v.Fault(e)
		return
	}
	for i, l := range f.Limits {
		// Empty where it is the default: a saved number would no longer follow it.
		if n, ok := limits[l.Name].(float64); ok && int(n) != l.Default {
			f.Limits[i].Value = fmt.Sprintf("%.0f", n)
		}
	}
	used := k.used(v, key)
	f.Key, f.Meters, f.IPs, f.Note = key, f.permissions.meters(key), strings.Join(Texts(key["allowed_ips"]), ", "), NoteOf(key)
	f.Spark, f.State, f.Confirm = NewSpark(used, v.Now()), StateOf(key, used["limited_at"] != nil, v.Now()), fresh(key, used, v.Now())
	if page == "key" {
		f.Plots = k.plots(v)
		f.Refused, f.More = k.refused(v, key)
	}
	name, _ := key["name"].(string)
	v.Show(status, page, View{Title: name, Fault: fault, Data: f})
}

// used gives the last 24 hours of a key.
func (k *KeyPages) used(v *Visit, key map[string]any) map[string]any {
	answer, e := v.Call(http.MethodGet, "/admin/v1/usage?last=24&key="+url.QueryEscape(fmt.Sprint(key["id"])), nil)
	if e != nil {
		return nil
	}
	list, _ := answer["keys"].([]any)
	if len(list) == 0 {
		return nil
	}
	used, _ := list[0].(map[string]any)
	return used
}

// refused gives the last requests with a key that were refused, and how many
// more of them are kept.
func (k *KeyPages) refused(v *Visit, key map[string]any) (list []any, more int) {
	answer, e := v.Call(http.MethodGet, "/admin/v1/refusals?limit=10&key="+url.QueryEscape(fmt.Sprint(key["id"])), nil)
	if e != nil {
		return nil, 0
	}
	list, _ = answer["refusals"].([]any)
	count, _ := answer["count"].(float64)
	return list, int(count) - len(list)
}

// plots draws the history of a key.
func (k *KeyPages) plots(v *Visit) (plots []Plot) {
	for _, p := range []struct {
		name, title string
		step        Step
		width       int
	}{{"hour", "Requests by hour, 7 days", StepHour, 6}, {"day", "Requests by day, 90 days", StepDay, 10}} {
		path := keyPath(v.R) + "/history?step=" + p.name
		answer, e := v.Call(http.MethodGet, path, nil)
		if e != nil {
			continue
		}
		plot := NewPlot(answer["buckets"], p.step, p.step.Kept(), v.Now(), p.width, 120)
		plot.Title, plot.CSV = p.title, path+"&format=csv"
		plots = append(plots, plot)
	}
	return plots
}

// fresh says whether a key was used in the last 24 hours, by its last use or by
// its history: the use of a secret that has just ended may not be stored yet.
func fresh(key, used map[string]any, now time.Time) bool {
	if n, _ := used["requests"].(float64); n > 0 {
		return true
	}
	text, _ := key["last_used_at"].(string)
	at, err := time.Parse(time.RFC3339, text)
	return err == nil && now.Sub(at) < 24*time.Hour
}

// keyUsed tells the page of a new secret when it was first used, and the page of
// a key how its meters stand.
func (k *KeyPages) keyUsed(v *Visit) {
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	p, e := readPermissions(v)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	from := key
	if secrets, _ := key["secrets"].([]any); len(secrets) > 0 {
		if present, _ := secrets[0].(map[string]any); present["present"] == true {
			from = present
		}
	}
	_ = WriteJSON(v.W, http.StatusOK, map[string]any{"last_used_at": from["last_used_at"], "last_used_ip": from["last_used_ip"], "meters": p.liveMeters(key, v.Now())})
}

// editKey changes what the form says and leaves the rest.
func (k *KeyPages) editKey(v *Visit) {
	if err := v.R.ParseForm(); err != nil {
		v.Fault(ErrValidation.With("The form cannot be read."))
		return
	}
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	form := v.R.PostForm
	metadata, _ := key["metadata"].(map[string]any)
	body, err := KeyBody(form, metadata)
	if err == nil && form.Has("expires") {
		body["expires_at"] = nil
		if form.Get("expires") != "" {
			body["expires_at"], _, err = KeyExpiry(url.Values{"expires": form["expires"]}, v.Now())
		}
		if was, _ := key["expires_at"].(string); strings.HasPrefix(was, form.Get("expires")) && form.Get("expires") != "" {
			delete(body, "expires_at") // as it was, perhaps over already
		}
	}
	if form.Has("environment") {
		body["environment"] = strings.TrimSpace(form.Get("environment"))
	}
	if err != nil {
		k.oneKey(v, http.StatusBadRequest, "key", Public(err).Message)
		return
	}
	if _, e := v.Call(http.MethodPatch, keyPath(v.R), body); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, "saved")
}

func (k *KeyPages) changeKey(v *Visit) {
	verb := v.R.PathValue("verb")
	if verb != "pause" && verb != "resume" {
		v.Fault(ErrRoute)
		return
	}
	if _, e := v.Call(http.MethodPost, keyPath(v.R)+"/"+verb, nil); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, verb)
}

// revokeKey ends a key. Of one that was used in the last day the name has to
// be typed: something depends on it.
func (k *KeyPages) revokeKey(v *Visit) {
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	if fresh(key, k.used(v, key), v.Now()) && key["status"] != StatusRevoked && strings.TrimSpace(v.R.PostFormValue("confirm")) != strings.TrimSpace(fmt.Sprint(key["name"])) {
		k.oneKey(v, http.StatusBadRequest, "revoke", "This key is in use. Type its name to revoke it. Nothing was changed.")
		return
	}
	if _, e := v.Call(http.MethodPost, keyPath(v.R)+"/revoke", nil); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, "revoke")
}

func (k *KeyPages) rotateKey(v *Visit) {
	var overlap int
	if _, err := fmt.Sscan(v.R.PostFormValue("overlap"), &overlap); err != nil {
		k.oneKey(v, http.StatusBadRequest, "rotate", "The overlap must be a number of seconds.")
		return
	}
	made, e := v.Call(http.MethodPost, keyPath(v.R)+"/rotate", map[string]any{"overlap_seconds": overlap})
	if e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	k.reveal(v, http.StatusOK, made)
}

// finishKey ends the earlier secrets of a key ahead of their time, where the
// form says so only if none of them was used for a while.
func (k *KeyPages) finishKey(v *Visit) {
	unused := 0
	if text := v.R.PostFormValue("unused"); text != "" {
		if _, err := fmt.Sscan(text, &unused); err != nil {
			k.oneKey(v, http.StatusBadRequest, "key", "The time without use must be a number of seconds. Nothing was ended.")
			return
		}
	}
	if _, e := v.Call(http.MethodPost, keyPath(v.R)+"/rotate/finish", map[string]any{"unused_for_seconds": unused}); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, "finish")
}

// KeyLists are the page that lists the keys, and what keeps it up to date.
type KeyLists struct{ apiURL func() string }

// NewKeyLists makes the page; apiURL gives where clients reach the API.
func NewKeyLists(apiURL func() string) *KeyLists { return &KeyLists{apiURL} }

// Sections is the entry of the navigation.
func (k *KeyLists) Sections() []Section { return []Section{{"API", "API Keys", "/keys"}} }

// Pages lists the pages.
func (k *KeyLists) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){"GET /keys": k.list, "GET /keys/meters": k.meters}
}

// keyFilters are what the list may be narrowed and sorted by, in the address.
func keyFilters() []string {
	return []string{"search", "status", "environment", "permission", "owner", "unused_days", "sort", "order"}
}

// keyLine is a key in the list.
type keyLine struct {
	Key    map[string]any
	State  State
	Spark  Spark
	Meters []Meter
	Note   string
	Says   []string // the permissions, as people say them
}

// sorter is the head of a column that sorts.
type sorter struct{ Name, Link, Order string }

// keyList is the page of the keys.
type keyList struct {
	ListPage
	Lines       []keyLine
	Sorts       map[string]sorter
	Permissions []string
	URL         string
	Query       string // of the address
	Any         bool   // whether there is any key
}

func (k *KeyLists) list(v *Visit) {
	q := v.R.URL.Query()
	if !q.Has("status") {
		q.Set("status", "live")
		given := *v.R.URL
		given.RawQuery = q.Encode()
		v.R.URL = &given
	}
	t, e := v.List("/admin/v1/keys", "keys", keyFilters()...)
	if e != nil {
		v.Fault(e)
		return
	}
	list := keyList{ListPage: t, Sorts: sorters(q), URL: k.apiURL(), Query: q.Encode()}
	list.Filtered = false
	for _, name := range []string{"search", "environment", "permission", "owner", "unused_days"} {
		list.Filtered = list.Filtered || q.Get(name) != ""
	}
	list.Filtered = list.Filtered || q.Get("status") != "live"
	list.States = []string{"live", "", "active", "paused", "expired", "revoked"}
	status, e := v.Call(http.MethodGet, "/admin/v1/status", nil)
	if e == nil {
		n, _ := status["keys"].(float64)
		list.Any = n > 0
	}
	p, _ := readPermissions(v) // without them the page shows the names alone
	for _, g := range p.groups(nil) {
		for _, c := range g.Choices {
			list.Permissions = append(list.Permissions, c.Name)
		}
	}
	list.Lines = k.lines(v, t.Rows, p)
	v.Show(http.StatusOK, "keys", View{Title: "API Keys", Data: list, Form: q})
}

// meters gives the meters of the keys in a list, by their ids, for the page
// to show them as they are now.
func (k *KeyLists) meters(v *Visit) {
	t, e := v.List("/admin/v1/keys", "keys", keyFilters()...)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	p, e := readPermissions(v)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	keys := map[string]any{}
	for _, row := range t.Rows {
		if key, ok := row.(map[string]any); ok {
			keys[fmt.Sprint(key["id"])] = p.liveMeters(key, v.Now())
		}
	}
	_ = WriteJSON(v.W, http.StatusOK, map[string]any{"keys": keys})
}

// liveMeters returns the meters of a key for the page's script.
func (p permissions) liveMeters(key map[string]any, now time.Time) []map[string]any {
	list := []map[string]any{}
	for _, m := range p.meters(key) {
		list = append(list, map[string]any{"text": m.Says(), "percent": m.Percent, "level": m.Level(), "free": m.NextFree(now)})
	}
	return list
}

// lines adds to the keys of a page what their history says.
func (k *KeyLists) lines(v *Visit, rows []any, p permissions) (lines []keyLine) {
	q := url.Values{"last": {"24"}}
	for _, row := range rows {
		key, _ := row.(map[string]any)
		q.Add("key", fmt.Sprint(key["id"]))
	}
	history := map[string]any{}
	if len(rows) > 0 {
		if answer, e := v.Call(http.MethodGet, "/admin/v1/usage?"+q.Encode(), nil); e == nil {
			list, _ := answer["keys"].([]any)
			for _, one := range list {
				used, _ := one.(map[string]any)
				history[fmt.Sprint(used["id"])] = used
			}
		}
	}
	for _, row := range rows {
		key, _ := row.(map[string]any)
		used, _ := history[fmt.Sprint(key["id"])].(map[string]any)
		lines = append(lines, keyLine{key, StateOf(key, used["limited_at"] != nil, v.Now()), NewSpark(used, v.Now()), p.meters(key), NoteOf(key), nil})
		for _, name := range Texts(key["permissions"]) {
			lines[len(lines)-1].Says = append(lines[len(lines)-1].Says, p.label(name))
		}
	}
	return lines
}

// NoteOf gives the note of a key, "" where it has none.
func NoteOf(key map[string]any) string {
	metadata, _ := key["metadata"].(map[string]any)
	note, _ := metadata["note"].(string)
	return note
}

// sorters gives the heads that sort, each with the link to sort by it, or the
// other way round where the list is sorted by it already.
func sorters(q url.Values) map[string]sorter {
	all := map[string]sorter{}
	for name, label := range map[string]string{"name": "Name", "created": "Key, created", "last_used": "Last used", "expires": "Expires"} {
		now := q.Get("sort") == name || q.Get("sort") == "" && name == "created"
		order := "desc"
		if name == "name" || name == "expires" {
			order = "asc"
		}
		if now && q.Get("order") != "" {
			order = q.Get("order")
		}
		s := sorter{Name: label}
		if now {
			s.Order = map[string]string{"asc": "ascending", "desc": "descending"}[order]
			order = map[string]string{"asc": "desc", "desc": "asc"}[order]
		}
		to := url.Values{"sort": {name}, "order": {order}}
		for _, filter := range keyFilters() {
			if !to.Has(filter) && q.Get(filter) != "" {
				to.Set(filter, q.Get(filter))
			}
		}
		s.Link = "/keys?" + to.Encode()
		all[name] = s
	}
	return all
}

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

// permissions is what the admin endpoint says of the permissions; the zero
// value knows none.
type permissions struct {
	all     []permission
	presets []KeyPreset
}

// permission is one of them.
type permission struct {
	name, label, about, group string
	limits                    []string // that only requests which need it are counted in
}

// readPermissions reads them from the admin endpoint.
func readPermissions(v *Visit) (p permissions, e *Error) {
	answer, e := v.Call(http.MethodGet, "/admin/v1/permissions", nil)
	if e != nil {
		return p, e
	}
	rows, _ := answer["permissions"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.all = append(p.all, permission{Shown(r["name"]), Shown(r["label"]), Shown(r["description"]), Shown(r["group"]), Texts(r["limits"])})
	}
	rows, _ = answer["presets"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.presets = append(p.presets, KeyPreset{Shown(r["label"]), Shown(r["name"]), strings.Join(Texts(r["permissions"]), " ")})
	}
	return p, nil
}

// groups returns the permissions under their headings, which are in the order
// of their first permissions.
func (p permissions) groups(chosen []string) (groups []KeyGroup) {
	for _, one := range p.all {
		i := slices.IndexFunc(groups, func(g KeyGroup) bool { return g.Name == one.group })
		if i < 0 {
			i, groups = len(groups), append(groups, KeyGroup{Name: one.group})
		}
		groups[i].Choices = append(groups[i].Choices, KeyChoice{one.name, one.about, one.label, slices.Contains(chosen, one.name)})
	}
	return groups
}

// label returns the label of a permission, its name if it is unknown.
func (p permissions) label(name string) string {
	for _, one := range p.all {
		if one.name == name {
			return one.label
		}
	}
	return name
}

// unused reports whether a limit counts only requests that need a permission
// which is not among those that are held.
func (p permissions) unused(limit string, held []string) bool {
	return slices.ContainsFunc(p.all, func(one permission) bool {
		return slices.Contains(one.limits, limit) && !slices.Contains(held, one.name)
	})
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

// KeyPrefill returns the form that an address fills in, so that documentation
// can link to it. perm is short for permission, and preset names several.
func KeyPrefill(q url.Values, presets []KeyPreset) url.Values {
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
