package dashboard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
)

// keyPages are the pages of one key: create, show, change, rotate and revoke.
type keyPages struct{ apiURL func() string }

// newKeyPages returns the pages. apiURL is a function that returns the URL of the API.
func newKeyPages(apiURL func() string) *keyPages { return &keyPages{apiURL} }

// sections returns nil, because operators reach the page of a key through the list.
func (k *keyPages) sections() []section { return nil }

func (k *keyPages) pages() map[string]page {
	const one = "/admin/v1/keys/:id"
	return map[string]page{
		"GET /keys/new": {"POST /admin/v1/keys", k.newKey}, "POST /keys": {"POST /admin/v1/keys", k.createKey},
		"GET /keys/{id}": {"GET " + one, k.showKey}, "GET /keys/{id}/used": {"GET " + one, k.keyUsed}, "POST /keys/{id}/edit": {"PATCH " + one, k.editKey},
		"GET /keys/{id}/rotate": {"POST " + one + "/rotate", k.askRotate}, "POST /keys/{id}/rotate": {"POST " + one + "/rotate", k.rotateKey},
		"POST /keys/{id}/finish": {"POST " + one + "/rotate/finish", k.finishKey}, "POST /keys/{id}/{verb}": {"POST " + one + "/pause", k.changeKey},
		"GET /keys/{id}/revoke": {"POST " + one + "/revoke", k.askRevoke}, "POST /keys/{id}/revoke": {"POST " + one + "/revoke", k.revokeKey},
	}
}

// formData is the data of the pages of a key, and of the form of a new key.
type formData struct {
	Groups  []keyGroup
	Limits  []keyNumber
	Presets []keyPreset

	permissions permissions

	Nonce     string // Idempotency-Key of the form of a new key
	Key       map[string]any
	State     state
	LimitBars []limitBar
	Marks     []input // hidden fields with the marks of what the form of an existing key shows
	IPs       string  // allowed addresses, separated by commas
	Note      string
	Plots     []chart
	Sparkline sparkline
	Refused   []any // the last refused requests, newest first
	More      int   // number of older refused requests that the server keeps
	Confirm   bool  // to revoke the key, the operator must type its name
}

// form returns the fields of the form of a key. The permissions in chosen are ticked. value returns
// the text in the field of a limit, by the limit's name.
func (k *keyPages) form(v *pageRequest, chosen []string, value func(name string) string) (f formData, e *Fault) {
	p, e := readPermissions(v)
	if e != nil {
		return f, e
	}
	limits, e := v.call(http.MethodGet, "/admin/v1/limits", nil)
	if e != nil {
		return f, e
	}
	return formData{Groups: p.groupsOf(chosen), Limits: keyNumbers(limits["limits"], value), Presets: p.presets, permissions: p}, nil
}

func (k *keyPages) newKey(v *pageRequest) {
	p, e := readPermissions(v)
	if e != nil {
		v.showFault(e)
		return
	}
	k.askKey(v, http.StatusOK, "", keyPrefill(v.query, p.presets))
}

func (k *keyPages) askKey(v *pageRequest, status int, fault string, form url.Values) {
	f, e := k.form(v, form["permission"], func(name string) string { return form.Get("limit." + name) })
	if e != nil {
		v.showFault(e)
		return
	}
	if f.Nonce = form.Get("nonce"); f.Nonce == "" {
		f.Nonce = keytext.RandomHex(16)
	}
	v.show(status, "newkey", view{Title: "Create New API Key", Fault: fault, Form: form, Data: f})
}

func (k *keyPages) createKey(v *pageRequest) {
	if err := v.R.ParseForm(); err != nil {
		v.showFault(invalid("The form cannot be read. Its size must be at most 1 MiB."))
		return
	}
	form := v.R.PostForm
	body, err := keyBody(form, nil)
	if err == nil {
		for _, name := range []string{"owner", "environment"} {
			if value := strings.TrimSpace(form.Get(name)); value != "" {
				body[name] = value
			}
		}
		end, set, bad := keyExpiry(form, v.now())
		if err = bad; set {
			body["expires_at"] = end
		}
	}
	if err != nil {
		k.askKey(v, http.StatusBadRequest, faultOf(err).Message, form)
		return
	}
	made, e := v.callOnce(form.Get("nonce"), http.MethodPost, "/admin/v1/keys", body)
	if e != nil && e.Fields["key_id"] != nil {
		v.show(http.StatusConflict, "already", view{Title: "Already created", Data: e.Fields["key_id"]})
		return
	}
	if e != nil {
		k.askKey(v, e.Status, e.Message, form)
		return
	}
	k.reveal(v, http.StatusCreated, made)
}

// reveal shows the new secret of a key. No other page shows it.
func (k *keyPages) reveal(v *pageRequest, status int, key map[string]any) {
	key["url"] = k.apiURL() + "/api/v1/key"
	name, _ := key["name"].(string)
	v.show(status, "created", view{Title: name, Data: key})
}

// keyPath returns the path at the admin endpoint for the key in the path of r.
func keyPath(r *http.Request) string { return "/admin/v1/keys/" + url.PathEscape(r.PathValue("id")) }

// back redirects to the page of the key. done selects the sentence that the page shows (see the
// function done).
func back(v *pageRequest, done string) {
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+"?done="+done, http.StatusSeeOther)
}

func (k *keyPages) showKey(v *pageRequest) { k.oneKey(v, http.StatusOK, "key", "") }

func (k *keyPages) askRotate(v *pageRequest) { k.oneKey(v, http.StatusOK, "rotate", "") }

func (k *keyPages) askRevoke(v *pageRequest) { k.oneKey(v, http.StatusOK, "revoke", "") }

// oneKey shows a page about a key with the template page. fault is a sentence about an error, or ""
// if there was none.
func (k *keyPages) oneKey(v *pageRequest, status int, page, fault string) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	limits, _ := key["limits"].(map[string]any)
	f, e := k.form(v, heldBy(key), func(string) string { return "" })
	if e != nil {
		v.showFault(e)
		return
	}
	for i, l := range f.Limits {
		// The field stays empty if the key has the default. Otherwise the form would store the
		// number, and the key would not follow later changes of the default.
		if n, ok := limits[l.Name].(json.Number); ok && int(numberOf(n)) != l.Default {
			f.Limits[i].Value = n.String()
		}
	}
	shown := keyRecord(key, f.Limits)
	for _, field := range keyFields(f.Limits) {
		f.Marks = append(f.Marks, input{formField: field, Was: field.was(field.of(shown))})
	}
	used := k.used(v, key)
	f.Key, f.LimitBars, f.IPs, f.Note = key, f.permissions.meters(key), strings.Join(texts(key["allowed_ips"]), ", "), noteOf(key)
	f.Sparkline, f.State, f.Confirm = newSparkline(used, v.now()), stateOf(key, used, v.now()), recentlyUsed(key, used, v.now()) && key["status"] != keyRevoked
	if page == "key" {
		f.Plots = k.plots(v)
		f.Refused, f.More = k.refused(v, key)
	}
	name, _ := key["name"].(string)
	v.show(status, page, view{Title: name, Fault: fault, Data: f})
}

// used returns the usage of a key in the last 24 hours. It returns nil if there is none or it
// cannot be read.
func (k *keyPages) used(v *pageRequest, key map[string]any) map[string]any {
	answer, e := v.call(http.MethodGet, "/admin/v1/usage?last=24&key="+url.QueryEscape(fmt.Sprint(key["id"])), nil)
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

// refused returns the last refused requests with a key, at most 10, and the number of older ones
// that the server keeps.
func (k *keyPages) refused(v *pageRequest, key map[string]any) (list []any, more int) {
	answer, e := v.call(http.MethodGet, "/admin/v1/refusals?limit=10&key="+url.QueryEscape(fmt.Sprint(key["id"])), nil)
	if e != nil {
		return nil, 0
	}
	list, _ = answer["refusals"].([]any)
	count := numberOf(answer["count"])
	return list, int(count) - len(list)
}

// plots returns the charts of a key's history, by hour and by day.
func (k *keyPages) plots(v *pageRequest) (plots []chart) {
	for _, p := range []struct {
		name, title string
		step        time.Duration
		width       int
	}{{"hour", "Requests by hour, 7 days", hourStep, 6}, {"day", "Requests by day, 90 days", dayStep, 10}} {
		path := keyPath(v.R) + "/history?step=" + p.name
		answer, e := v.call(http.MethodGet, path, nil)
		if e != nil {
			continue
		}
		plot := newChart(answer["buckets"], timelineOf(answer, p.step), p.width, 120)
		plot.Title, plot.CSV = p.title, path+"&format=csv"
		plots = append(plots, plot)
	}
	return plots
}

// recentlyUsed reports whether a key was used in the last 24 hours. key is the admin endpoint's
// answer about the key. used is the key's usage in those hours, which also counts uses of a secret
// that has just ended.
func recentlyUsed(key, used map[string]any, now time.Time) bool {
	if numberOf(used["requests"]) > 0 {
		return true
	}
	text, _ := key["last_used_at"].(string)
	at, err := clock.ParseTime(text)
	return err == nil && now.Sub(at) < 24*time.Hour
}

// keyUsed answers the page's script with the last use and the limits of a key. The page of a new
// secret waits for the first use of that secret. So the last use is that of the current secret, not
// of previous ones.
func (k *keyPages) keyUsed(v *pageRequest) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
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
	v.writeJSON(map[string]any{"last_used_at": from["last_used_at"], "last_used_ip": from["last_used_ip"], "meters": liveMeters(p.meters(key), v.now())})
}

// editKey changes a key according to its form. It sends only what the user has changed.
func (k *keyPages) editKey(v *pageRequest) {
	if err := v.R.ParseForm(); err != nil {
		v.showFault(invalid("The form cannot be read. Its size must be at most 1 MiB."))
		return
	}
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	form := v.R.PostForm
	metadata, _ := key["metadata"].(map[string]any)
	body, err := keyBody(form, metadata)
	if err == nil && form.Has("expires") {
		body["expires_at"] = nil
		if form.Get("expires") != "" {
			body["expires_at"], _, err = keyExpiry(url.Values{"expires": form["expires"]}, v.now())
		}
		if was, _ := key["expires_at"].(string); strings.HasPrefix(was, form.Get("expires")) && form.Get("expires") != "" {
			delete(body, "expires_at") // the same expiry; sending it again would fail if it has passed
		}
	}
	if form.Has("environment") {
		body["environment"] = strings.TrimSpace(form.Get("environment"))
	}
	if err != nil {
		k.oneKey(v, http.StatusBadRequest, "key", faultOf(err).Message)
		return
	}
	if onlyChanged(body, form, key); len(body) > 0 {
		if _, e := v.call(http.MethodPatch, keyPath(v.R), body); e != nil {
			k.oneKey(v, e.Status, "key", e.Message)
			return
		}
	}
	back(v, "saved")
}

func (k *keyPages) changeKey(v *pageRequest) {
	verb := v.R.PathValue("verb")
	if verb != "pause" && verb != "resume" {
		v.showFault(&Fault{Status: http.StatusNotFound, Message: "No such endpoint."})
		return
	}
	if _, e := v.call(http.MethodPost, keyPath(v.R)+"/"+verb, nil); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, verb)
}

// revokeKey revokes a key. If the key was used in the last 24 hours, the operator must type its
// name, because some program still depends on the key.
func (k *keyPages) revokeKey(v *pageRequest) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	if recentlyUsed(key, k.used(v, key), v.now()) && key["status"] != keyRevoked && strings.TrimSpace(v.R.PostFormValue("confirm")) != strings.TrimSpace(fmt.Sprint(key["name"])) {
		k.oneKey(v, http.StatusBadRequest, "revoke", "This key is in use. Type its name to revoke it. Nothing was changed.")
		return
	}
	body := map[string]any{"end_webhooks": v.R.PostFormValue("end_webhooks") == "yes"}
	if _, e := v.call(http.MethodPost, keyPath(v.R)+"/revoke", body); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, "revoke")
}

func (k *keyPages) rotateKey(v *pageRequest) {
	var overlap int
	if _, err := fmt.Sscan(v.R.PostFormValue("overlap"), &overlap); err != nil {
		k.oneKey(v, http.StatusBadRequest, "rotate", "The overlap must be a number of seconds.")
		return
	}
	made, e := v.call(http.MethodPost, keyPath(v.R)+"/rotate", map[string]any{"overlap_seconds": overlap})
	if e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	k.reveal(v, http.StatusOK, made)
}

// finishKey ends the previous secrets of a key immediately. If the form has the field unused, a
// number of seconds, it does so only if no previous secret was used for that time.
func (k *keyPages) finishKey(v *pageRequest) {
	unused := 0
	if text := v.R.PostFormValue("unused"); text != "" {
		if _, err := fmt.Sscan(text, &unused); err != nil {
			k.oneKey(v, http.StatusBadRequest, "key", "The time without use must be a number of seconds. No secret was ended.")
			return
		}
	}
	if _, e := v.call(http.MethodPost, keyPath(v.R)+"/rotate/finish", map[string]any{"unused_for_seconds": unused}); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, "finish")
}

// keyLists are the page with the list of keys, and the answer with the limits of the keys for its
// script.
type keyLists struct{ apiURL func() string }

// newKeyLists returns the pages. apiURL is a function that returns the URL of the API.
func newKeyLists(apiURL func() string) *keyLists { return &keyLists{apiURL} }

func (k *keyLists) sections() []section { return []section{{"API", "API Keys", "/keys"}} }

func (k *keyLists) pages() map[string]page {
	const list = "GET /admin/v1/keys"
	return map[string]page{"GET /keys": {list, k.list}, "GET /keys/meters": {list, k.meters}}
}

// keyFilters returns the names of the parameters in the address that filter or sort the list.
func keyFilters() []string {
	return []string{"search", "status", "environment", "permission", "owner", "unused_days", "sort", "order"}
}

// keyLine is a key in the list.
type keyLine struct {
	Key       map[string]any
	State     state
	Sparkline sparkline
	LimitBars []limitBar
	Note      string
	Labels    []string // labels of the permissions
}

// sorter is the heading of a column that the list can be sorted by. Order is "ascending" or
// "descending" if the list is sorted by that column, and otherwise "".
type sorter struct{ Name, Link, Order string }

// keyList is the data of the page with the list of keys.
type keyList struct {
	listPage
	Lines       []keyLine
	Sorts       map[string]sorter
	Permissions []string
	URL         string // URL of the API
	Live        string // ids of the shown keys, see keyLists.meters
	Any         bool   // the store has at least one key
}

func (k *keyLists) list(v *pageRequest) {
	q := v.query
	if !q.Has("status") {
		q.Set("status", liveKeys)
	}
	t, e := v.list("/admin/v1/keys", "keys", keyFilters()...)
	if e != nil {
		v.showFault(e)
		return
	}
	list := keyList{listPage: t, Sorts: sorters(q), URL: k.apiURL()}
	list.Filtered = false
	for _, name := range []string{"search", "environment", "permission", "owner", "unused_days"} {
		list.Filtered = list.Filtered || q.Get(name) != ""
	}
	list.Filtered = list.Filtered || q.Get("status") != liveKeys
	list.States = append([]string{liveKeys, anyKeys}, Vocabulary().KeyStates...)
	status, e := v.call(http.MethodGet, "/admin/v1/status", nil)
	if e == nil {
		n := numberOf(status["keys"])
		list.Any = n > 0
	}
	p, _ := readPermissions(v) // after an error, the page shows names of permissions instead of labels
	for _, g := range p.groups(nil) {
		for _, c := range g.Choices {
			list.Permissions = append(list.Permissions, c.Name)
		}
	}
	list.Lines = k.lines(v, t.Rows, p)
	var ids []string
	for _, line := range list.Lines {
		ids = append(ids, textOf(line.Key["id"]))
	}
	list.Live = strings.Join(ids, ",")
	v.show(http.StatusOK, "keys", view{Title: "API Keys", Data: list, Form: q})
}

// meters answers the script of the list with the limits of the keys that the query names, by key id.
// So an update costs the same however many keys there are.
func (k *keyLists) meters(v *pageRequest) {
	ids := strings.Split(v.query.Get("ids"), ",")
	if v.query.Get("ids") == "" {
		v.writeJSON(map[string]any{"keys": map[string]any{}})
		return
	}
	answer, e := v.call(http.MethodGet, "/admin/v1/keys?"+url.Values{"id": ids, "limit": {"1000"}}.Encode(), nil)
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
	rows, _ := answer["keys"].([]any)
	for _, row := range rows {
		if key, ok := row.(map[string]any); ok {
			keys[fmt.Sprint(key["id"])] = liveMeters(p.windowMeters(key), v.now())
		}
	}
	v.writeJSON(map[string]any{"keys": keys})
}

// liveMeters returns the bars of a key's limits for the page's script.
func liveMeters(bars []limitBar, now time.Time) []map[string]any {
	list := []map[string]any{}
	for _, m := range bars {
		list = append(list, map[string]any{"text": m.Text(), "percent": m.Percent, "level": m.Level(), "free": m.nextFree(now)})
	}
	return list
}

// lines returns the lines of the list. rows are the keys. If the usage cannot be read, the charts
// are empty.
func (k *keyLists) lines(v *pageRequest, rows []any, p permissions) (lines []keyLine) {
	q := url.Values{"last": {"24"}}
	for _, row := range rows {
		key, _ := row.(map[string]any)
		q.Add("key", fmt.Sprint(key["id"]))
	}
	history := map[string]any{}
	if len(rows) > 0 {
		if answer, e := v.call(http.MethodGet, "/admin/v1/usage?"+q.Encode(), nil); e == nil {
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
		lines = append(lines, keyLine{key, stateOf(key, used, v.now()), newSparkline(used, v.now()), p.windowMeters(key), noteOf(key), nil})
		for _, name := range texts(key["permissions"]) {
			lines[len(lines)-1].Labels = append(lines[len(lines)-1].Labels, p.label(name))
		}
	}
	return lines
}

// noteOf returns the note of a key, or "" if it has none.
func noteOf(key map[string]any) string {
	metadata, _ := key["metadata"].(map[string]any)
	note, _ := metadata["note"].(string)
	return note
}

// sorters returns a sorter for each column, by the name of the column. Its link sorts by the
// column. If the list is sorted by it already, the link reverses the order.
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

// keyChoice is a permission in a form.
type keyChoice struct {
	Name, Description, Label string
	Chosen                   bool
}

// keyGroup is a group of permissions in a form.
type keyGroup struct {
	Name    string
	Choices []keyChoice
}

// keyNumber is a limit in a form. An empty Value means the default.
type keyNumber struct {
	Name, Label string
	Default     int
	Least       int // 0 or 1
	Value       string
}

// keyPreset is a button that ticks some permissions. Permissions holds their names, separated by
// spaces. Word is the name of the preset in an address.
type keyPreset struct{ Name, Word, Permissions string }

// permissions holds the permissions and presets that the admin endpoint offers.
type permissions struct {
	all     []permission
	presets []keyPreset
}

// permission is a permission as the admin endpoint describes it.
type permission struct {
	name, label, about, group string
	limits                    []string // names of the limits on requests that need the permission
}

// readPermissions reads the permissions and presets from the admin endpoint.
func readPermissions(v *pageRequest) (p permissions, e *Fault) {
	answer, e := v.call(http.MethodGet, "/admin/v1/permissions", nil)
	if e != nil {
		return p, e
	}
	rows, _ := answer["permissions"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.all = append(p.all, permission{textOf(r["name"]), textOf(r["label"]), textOf(r["description"]), textOf(r["group"]), texts(r["limits"])})
	}
	rows, _ = answer["presets"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		p.presets = append(p.presets, keyPreset{textOf(r["label"]), textOf(r["name"]), strings.Join(texts(r["permissions"]), " ")})
	}
	return p, nil
}

// groups returns the permissions in groups, with those in chosen ticked. The groups are in the
// order of their first permissions.
func (p permissions) groups(chosen []string) (groups []keyGroup) {
	for _, one := range p.all {
		i := slices.IndexFunc(groups, func(g keyGroup) bool { return g.Name == one.group })
		if i < 0 {
			i, groups = len(groups), append(groups, keyGroup{Name: one.group})
		}
		groups[i].Choices = append(groups[i].Choices, keyChoice{one.name, one.about, one.label, slices.Contains(chosen, one.name)})
	}
	return groups
}

// groupsOf does the same as groups, but adds a group for the permissions in chosen that the
// configuration does not define. Otherwise a form would lose them although nobody changed them.
func (p permissions) groupsOf(chosen []string) []keyGroup {
	other := keyGroup{Name: "Not in the configuration"}
	for _, name := range chosen {
		if !slices.ContainsFunc(p.all, func(one permission) bool { return one.name == name }) {
			other.Choices = append(other.Choices, keyChoice{name, "has no effect until the configuration defines it", name, true})
		}
	}
	if len(other.Choices) == 0 {
		return p.groups(chosen)
	}
	return append(p.groups(chosen), other)
}

// label returns the label of a permission, or name if the permission is unknown.
func (p permissions) label(name string) string {
	for _, one := range p.all {
		if one.name == name {
			return one.label
		}
	}
	return name
}

// unused reports whether a key with the permissions held can never use a limit. That is so if the
// limit counts only requests that need a permission which is not in held.
func (p permissions) unused(limit string, held []string) bool {
	return slices.ContainsFunc(p.all, func(one permission) bool {
		return slices.Contains(one.limits, limit) && !slices.Contains(held, one.name)
	})
}

// keyNumbers returns the limits of keys for a form. list is the list of limits in the admin
// endpoint's answer. value returns the text in the field of a limit, by the limit's name.
func keyNumbers(list any, value func(name string) string) (numbers []keyNumber) {
	rows, _ := list.([]any)
	for _, l := range rows {
		row, _ := l.(map[string]any)
		if row["scope"] == "owner" { // such a limit is shared by all keys of an owner
			continue
		}
		name, _ := row["name"].(string)
		standard := numberOf(row["default"])
		least := 1
		if row["kind"] == kindConcurrent {
			least = 0 // no limit
		}
		numbers = append(numbers, keyNumber{name, limitLabel(name), int(standard), least, value(name)})
	}
	return numbers
}
