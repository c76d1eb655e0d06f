package dashboard

import (
	"cmp"
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
	pages := map[string]page{
		"GET /keys/new": {"POST /admin/v1/keys", k.newKey}, "POST /keys": {"POST /admin/v1/keys", k.createKey}, "POST /keys/presets": {"POST /admin/v1/keys", k.savePreset},
		"GET /keys/{id}/used": {"GET " + one, k.keyUsed}, "POST /keys/{id}/edit": {"PATCH " + one, k.editKey},
		"GET /keys/{id}/rotate": {"POST " + one + "/rotate", k.askRotate}, "POST /keys/{id}/rotate": {"POST " + one + "/rotate", k.rotateKey},
		"POST /keys/{id}/finish": {"POST " + one + "/rotate/finish", k.finishKey}, "POST /keys/{id}/{verb}": {"POST " + one + "/pause", k.changeKey},
		"GET /keys/{id}/revoke": {"POST " + one + "/revoke", k.askRevoke}, "POST /keys/{id}/revoke": {"POST " + one + "/revoke", k.revokeKey},
	}
	for _, tab := range keyTabs() {
		pages["GET /keys/{id}"+tab.path] = page{tab.needs, func(v *pageRequest) { k.showTab(v, tab.path, nil, nil) }}
	}
	return pages
}

// keyTab is one of the pages that show a key. path is what follows the address of the key.
type keyTab struct{ name, path, needs string }

// The paths of the tabs that are named elsewhere.
const (
	tabOverview = ""
	tabAccess   = "/access"
)

func keyTabs() []keyTab {
	return []keyTab{
		{"Overview", tabOverview, "GET /admin/v1/keys/:id"}, {"Usage", "/usage", "GET /admin/v1/keys/:id/history"}, {"Requests", "/requests", "GET /admin/v1/refusals"},
		{"Activity", tabActivity, "GET /admin/v1/keys/:id/activity"},
		{"Access", tabAccess, "GET /admin/v1/keys/:id"}, {"History", "/history", "GET /admin/v1/audit"},
	}
}

// tabOf returns the tab that has the field of a key with this name.
func tabOf(field string) string {
	switch field {
	case "permission", "environment", "ips", "objects", "query":
		return tabAccess
	}
	return tabOverview
}

// fact is a field of a key as its page shows it: its value, and a small form to change it.
type fact struct {
	input
	Text    string // the stored value
	Open    bool   // show the form
	Action  string // where the form is sent to; "" if the operator may not change the key
	Groups  []keyGroup
	Limit   *limitBar // the bar of a limit; nil if it is not in use, and for other fields
	Default int       // of a limit
	Least   int       // of a limit
}

// formData is the data of the pages of a key, and of the form of a new key.
type formData struct {
	Groups  []keyGroup
	Limits  []keyNumber
	Presets []keyPreset
	Own     []OwnPreset // presets of the operator
	Options bool        // open the fold of the form of a new key

	permissions permissions

	Nonce     string // Idempotency-Key of the form that creates or rotates a key
	Key       map[string]any
	State     state
	Tab       string // path of the shown tab
	Tabs      []chip
	Facts     map[string]fact // by the name of the field
	LimitList []fact
	Note      string
	InURL     bool   // see the function inURL
	Soon      bool   // the key expires soon
	Late      bool   // the key is over, and still used
	Ranges    []chip // of the chart
	Chart     chart
	Sparkline chart
	Updated   string
	Refused   []any // the last refused requests, newest first
	More      int   // number of older refused requests that the server keeps
	Days      []activityDay
	Pages     listPage     // of Entries
	Trials    *shownTrials // numbers to try; nil: not shown
	Acts      *keyActs     // what the key did; nil: it is not shown
	Explained map[string]any
	Asked     url.Values // the request that Explained is about
	From      string     // fromList, or ""
	Confirm   bool       // to revoke the key, the operator must type its name
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
	form := keyPrefill(v.query, p.presets)
	if name := v.query.Get("own"); name != "" {
		form = v.ownPreset(name, form)
	}
	if from := v.query.Get("copy"); from != "" {
		if form, e = k.copyOf(v, from); e != nil {
			v.showFault(e)
			return
		}
	}
	k.askKey(v, nil, form)
}

// copyOf returns the form of a new key with the values of the key with this id.
func (k *keyPages) copyOf(v *pageRequest, id string) (url.Values, *Fault) {
	key, e := v.call(http.MethodGet, "/admin/v1/keys/"+url.PathEscape(id), nil)
	if e != nil {
		return nil, e
	}
	limits, e := readLimits(v, key)
	if e != nil {
		return nil, e
	}
	form := url.Values{
		"name": {"Copy of " + textOf(key["name"])}, "note": {noteOf(key)}, "permission": texts(key["permissions"]), "owner": {textOf(key["owner"])},
		"environment": {textOf(key["environment"])}, "ips": {strings.Join(texts(key["allowed_ips"]), ", ")}, "objects": {objectsOf(key)}, "expiry": {"90d"}, "query": {queryWord(key)},
	}
	if key["sandbox"] == true {
		form.Set("sandbox", "yes")
	}
	for _, l := range limits {
		form.Set("limit."+l.Name, l.Value)
	}
	return form, nil
}

// optionsSet reports whether the form of a new key has a value that the fold with its options shows.
func optionsSet(form url.Values) bool {
	for name, values := range form {
		_, limit := strings.CutPrefix(name, "limit.")
		option := limit || slices.Contains([]string{"note", "environment", "owner", "sandbox", "ips", "objects", "query"}, name)
		if option && strings.Join(values, "") != "" {
			return true
		}
	}
	return false
}

// askKey shows the form of a new key, filled with the values in form. fault is the reason why form was
// refused, or nil.
func (k *keyPages) askKey(v *pageRequest, fault *Fault, form url.Values) {
	f, e := k.form(v, form["permission"], func(name string) string { return form.Get("limit." + name) })
	if e != nil {
		v.showFault(e)
		return
	}
	if f.Nonce = form.Get("nonce"); f.Nonce == "" {
		f.Nonce = keytext.RandomHex(16)
		if v.inSandbox() {
			form.Set("sandbox", "yes")
		}
	}
	f.Own = v.Operator.Presets
	page, status := view{Title: "Create New API Key", Form: form}, http.StatusOK
	if fault != nil {
		f.Facts = map[string]fact{}
		fields := append(keyFields(f.Limits), formField{Name: "owner", Label: "Owner"})
		var field string
		field, page.Fault = keyFault(fault.Message, form, fields)
		status = fault.Status
		if field != "" {
			f.Facts[field] = fact{input: input{formField: formField{Name: field}, Fault: page.Fault}}
			page.Fault = "The key was not created. " + page.Fault
		}
		for i := range f.Limits {
			if "limit."+f.Limits[i].Name == field {
				f.Limits[i].Fault = f.Facts[field].Fault
			}
		}
	}
	f.Options = optionsSet(form) || len(f.Facts) > 0 && f.Facts["name"].Fault == "" && f.Facts["permission"].Fault == "" && f.Facts["expires"].Fault == ""
	page.Data = f
	v.show(status, "newkey", page)
}

func (k *keyPages) createKey(v *pageRequest) {
	form := v.R.PostForm
	body, err := keyBody(form, nil)
	if err == nil {
		for _, name := range []string{"owner", "environment"} {
			if value := strings.TrimSpace(form.Get(name)); value != "" {
				body[name] = value
			}
		}
		if form.Get("sandbox") != "" {
			body["sandbox"] = true
		}
		end, set, bad := v.keyExpiry(form)
		if err = bad; set {
			body["expires_at"] = end
		}
	}
	if err != nil {
		k.askKey(v, faultOf(err), form)
		return
	}
	made, e := v.callOnce(form.Get("nonce"), http.MethodPost, "/admin/v1/keys", body)
	if e != nil && e.Fields["key_id"] != nil {
		v.show(http.StatusConflict, "already", view{Title: "Already created", Data: alreadyDone{ID: textOf(e.Fields["key_id"])}})
		return
	}
	if e != nil {
		k.askKey(v, e, form)
		return
	}
	k.reveal(v, http.StatusCreated, made)
}

// alreadyDone is the data of the page that is shown if a form that made a secret is sent again.
type alreadyDone struct {
	ID      string
	Rotated bool // the form rotated a key; otherwise it created one
}

// reveal shows the new secret of a key. No other page shows it.
func (k *keyPages) reveal(v *pageRequest, status int, key map[string]any) {
	samples := samplesOf(textOf(key["key"]), k.apiURL(), samplePath(texts(key["permissions"])))
	v.show(status, "created", view{Title: plainName(key["name"]), Data: createdPage{key, samples, status != http.StatusCreated}})
}

// keyPath returns the path at the admin endpoint for the key in the path of r.
func keyPath(r *http.Request) string { return "/admin/v1/keys/" + url.PathEscape(r.PathValue("id")) }

// back redirects to the page of the key. done selects the sentence that the page shows (see the
// function done).
func back(v *pageRequest, done string) {
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+"?done="+done, http.StatusSeeOther)
}

func (k *keyPages) askRotate(v *pageRequest) { k.oneKey(v, http.StatusOK, "rotate", "") }

func (k *keyPages) askRevoke(v *pageRequest) { k.oneKey(v, http.StatusOK, "revoke", "") }

// oneKey shows a page about a key with the template page: the tab Overview, or a question. fault is a
// sentence about an error, or "" if there was none.
func (k *keyPages) oneKey(v *pageRequest, status int, page, fault string) {
	if page == "key" {
		k.showTab(v, tabOverview, &Fault{Status: status, Message: fault}, nil)
		return
	}
	f, e := k.data(v)
	if e != nil {
		v.showFault(e)
		return
	}
	if page == "revoke" {
		f.Acts = k.readActs(v)
	}
	v.show(status, page, view{Title: plainName(f.Key["name"]), Fault: fault, Data: f})
}

// data returns what all pages about the key in the request's path have in common.
func (k *keyPages) data(v *pageRequest) (f formData, e *Fault) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		return f, e
	}
	if f.permissions, e = readPermissions(v); e != nil {
		return f, e
	}
	if f.Limits, e = readLimits(v, key); e != nil {
		return f, e
	}
	used, over := usedToday(v, textOf(key["id"]))[textOf(key["id"])], key["status"] == keyRevoked || key["status"] == "expired"
	f.Groups, f.Presets, f.Nonce, f.Key, f.Note = f.permissions.groupsOf(heldBy(key)), f.permissions.presets, keytext.RandomHex(16), key, noteOf(key)
	f.Sparkline, f.State = newSparkline(used, v.now()), stateOf(key, used, v.now())
	f.Updated = v.updated()
	f.Confirm = recentlyUsed(key, used, v.now()) && key["status"] != keyRevoked
	f.InURL, f.Late = inURL(key) && key["status"] != keyRevoked, over && used.Unauthorized > 0
	ends := momentOf(key["expires_at"])
	f.Soon = !over && !ends.IsZero() && ends.Sub(v.now()) < soon
	if v.query.Get("from") == fromList || v.R.PostForm.Get("from") == fromList {
		f.From = fromList
	}
	return f, nil
}

// showTab shows the tab of a key with this path. fault is the reason why a request was refused, or nil.
// form is the form of a fact that was refused; if it is nil, all forms have the stored values.
func (k *keyPages) showTab(v *pageRequest, tab string, fault *Fault, form url.Values) {
	f, e := k.data(v)
	if e != nil {
		v.showFault(e)
		return
	}
	page, status := view{Title: plainName(f.Key["name"])}, http.StatusOK
	base := "/keys/" + url.PathEscape(v.R.PathValue("id"))
	for _, t := range keyTabs() {
		if v.may(t.needs) {
			f.Tabs = append(f.Tabs, chip{t.name, base + t.path, t.path == tab})
		}
	}
	f.Tab = tab
	field := ""
	if fault != nil {
		status = fault.Status
		if field, page.Fault = keyFault(fault.Message, form, keyFields(f.Limits)); field != "" {
			page.Fault = "Not saved. " + page.Fault
		}
	}
	f.Facts, f.LimitList = k.facts(v, &f, field, strings.TrimPrefix(page.Fault, "Not saved. "), form)
	switch tab {
	case "/usage":
		e := k.showTrials(v, &f)
		if bad := k.showUsage(v, &f); bad != nil {
			e = bad
		}
		if e != nil {
			status, page.Fault = e.Status, e.Message
		}
	case "/requests":
		f.Refused, f.More = k.refused(v, f.Key)
	case tabAccess:
		if e := k.explain(v, &f); e != nil {
			status, page.Fault = e.Status, e.Message
		}
	case tabActivity:
		if e := k.showActs(v, &f); e != nil {
			status, page.Fault = e.Status, e.Message
		}
	case "/history":
		if f.Pages, e = v.list("/admin/v1/audit?object="+url.QueryEscape(textOf(f.Key["id"])), "entries"); e != nil {
			v.showFault(e)
			return
		}
		f.Days = v.activityDays(f.Pages.Rows)
	}
	page.Data = f
	v.show(status, "key", page)
}

// facts returns the facts of a key by the names of their fields, and those with limits, first those that
// are in use, shortest window first. The fact named field shows the text of a fault. A form that was refused is shown as it was
// typed, with the marks of what is stored now, so that it can be sent again.
func (k *keyPages) facts(v *pageRequest, f *formData, field, fault string, form url.Values) (facts map[string]fact, limits []fact) {
	record, action := v.keyRecord(f.Key, f.Limits), ""
	if v.may("PATCH /admin/v1/keys/:id") && f.Key["status"] != keyRevoked {
		action = "/keys/" + url.PathEscape(v.R.PathValue("id")) + "/edit"
	}
	numbers := map[string]keyNumber{}
	for _, l := range f.Limits {
		numbers["limit."+l.Name] = l
	}
	facts = map[string]fact{}
	for _, kind := range keyFields(f.Limits) {
		stored := kind.of(record)
		one := fact{input: input{formField: kind, Value: stored, Was: kind.was(stored)}, Text: stored, Action: action, Default: numbers[kind.Name].Default, Least: numbers[kind.Name].Least}
		if sent := form.Has(kind.Name) || form.Has("was."+kind.Name); sent && kind.changed(form) {
			one.Value, one.Open = kind.sent(form), true
		}
		if kind.Name == field {
			one.Fault, one.Open = fault, true
		}
		if kind.Choices != nil {
			one.input.Choices = chosen(kind, kind.Choices(v), one.Value)
		}
		if kind.Name == "permission" {
			one.Groups = f.permissions.groupsOf(textLines(one.Value))
		}
		facts[kind.Name] = one
	}
	drawn := map[string]bool{}
	for _, bar := range f.permissions.meters(f.Key) {
		drawn[bar.Name] = true
		one, own := facts["limit."+bar.Name]
		if !own { // a limit that the keys of an owner share
			one = fact{}
		}
		one.Limit = &bar
		limits = append(limits, one)
	}
	for _, l := range f.Limits { // those that are off, or that the key cannot use
		if !drawn[l.Name] {
			limits = append(limits, facts["limit."+l.Name])
		}
	}
	return facts, limits
}

// explain adds to f which checks the request in the query would pass. It does nothing if the query has
// no path.
func (k *keyPages) explain(v *pageRequest, f *formData) *Fault {
	if f.Asked = v.query; v.query.Get("path") == "" || v.R.Method != http.MethodGet {
		return nil
	}
	body := map[string]any{"method": v.query.Get("method"), "path": v.query.Get("path")}
	if ip := v.query.Get("ip"); ip != "" {
		body["ip"] = ip
	}
	var e *Fault
	f.Explained, e = v.call(http.MethodPost, keyPath(v.R)+"/explain", body)
	return e
}

// Methods returns the methods that the form of explain offers.
func (f formData) Methods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete}
}

// keyUsage is the usage of a key in the last 24 hours.
type keyUsage struct {
	ID           string     `json:"id"`
	Requests     int        `json:"requests"`
	Unauthorized int        `json:"unauthorized"`
	LimitedAt    string     `json:"limited_at"` // when a limit refused a request in the last minutes; "" if none did
	Buckets      []chartRow `json:"buckets"`
}

// usedToday returns the usage of keys by their ids. It returns nil if there is none or it cannot be read.
func usedToday(v *pageRequest, ids ...string) map[string]keyUsage {
	var answer struct{ Keys []keyUsage }
	if len(ids) == 0 || v.read("/admin/v1/usage?"+url.Values{"last": {"24"}, "key": ids}.Encode(), &answer) != nil {
		return nil
	}
	used := map[string]keyUsage{}
	for _, one := range answer.Keys {
		used[one.ID] = one
	}
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

// usageRange is a range of the chart of a key. The endpoint is asked for more steps than are shown: those
// before them are the period before.
type usageRange struct {
	name, label, step string
	shown, asked      int // steps
}

// usageRanges returns the ranges. The history keeps 7 days of hours and 90 days.
func usageRanges() []usageRange {
	return []usageRange{
		{"24h", "24 hours", "hour", 24, 48}, {"7d", "7 days", "hour", 168, 168}, {"30d", "30 days", "day", 30, 60}, {"90d", "90 days", "day", 90, 90},
	}
}

// showUsage adds the chart of the range in the query to f. It shows 7 days if the query has no range.
func (k *keyPages) showUsage(v *pageRequest, f *formData) *Fault {
	wanted, ranges := cmp.Or(v.query.Get("range"), "7d"), usageRanges()
	i := slices.IndexFunc(ranges, func(r usageRange) bool { return r.name == wanted })
	if i < 0 {
		return invalid("range must be one of 24h, 7d, 30d and 90d; got %q.", wanted)
	}
	base := "/keys/" + url.PathEscape(v.R.PathValue("id")) + "/usage?range="
	for _, r := range ranges {
		f.Ranges = append(f.Ranges, chip{r.label, base + r.name, r.name == wanted})
	}
	r, path := ranges[i], keyPath(v.R)+"/history?step="
	answer, e := v.call(http.MethodGet, fmt.Sprintf("%s%s&last=%d", path, r.step, r.asked), nil)
	if e != nil {
		return e
	}
	h := lastOf(answer, r.shown)
	switch wanted {
	case "7d": // hours are kept for 7 days only
		days, e := v.call(http.MethodGet, path+"day&last=15", nil)
		if e != nil {
			return e
		}
		h.before = lastOf(days, 7).before
	case "90d":
		h.before = nil
	}
	f.Chart = newChart(h, v.zone())
	f.Chart.CSV = fmt.Sprintf("%s%s&last=%d&format=csv", path, r.step, r.shown)
	return nil
}

// recentlyUsed reports whether a key was used in the last 24 hours. key is the admin endpoint's
// answer about the key. used is the key's usage in those hours, which also counts uses of a secret
// that has just ended.
func recentlyUsed(key map[string]any, used keyUsage, now time.Time) bool {
	if used.Requests > 0 {
		return true
	}
	text, _ := key["last_used_at"].(string)
	at, err := clock.ParseTime(text)
	return err == nil && now.Sub(at) < 24*time.Hour
}

// keyUsed answers the script of the page of a new secret, which waits for the first use of that secret.
// So the last use is that of the current secret, not of previous ones.
func (k *keyPages) keyUsed(v *pageRequest) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
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
	if from["last_used_at"] == nil {
		from = nil
	}
	v.fragment("created", "firstuse", from)
}

// editKey changes a key according to a form with one or more of its fields. It sends only what the user
// has changed, and refuses to replace what somebody else has changed since the page was shown.
func (k *keyPages) editKey(v *pageRequest) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	limits, e := readLimits(v, key)
	if e != nil {
		v.showFault(e)
		return
	}
	form, tab := v.R.PostForm, tabOverview
	for _, f := range keyFields(limits) {
		if f.changed(form) {
			tab = tabOf(f.Name)
			break
		}
	}
	body, err := v.keyChange(form, key, limits)
	if err != nil {
		k.showTab(v, tab, faultOf(err), form)
		return
	}
	if len(body) > 0 {
		if _, e := v.call(http.MethodPatch, keyPath(v.R), body); e != nil {
			k.showTab(v, tab, e, form)
			return
		}
	}
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+tab+"?done=saved", http.StatusSeeOther)
}

func (k *keyPages) changeKey(v *pageRequest) {
	verb := v.R.PathValue("verb")
	if verb != "pause" && verb != "resume" {
		v.showFault(&Fault{Status: http.StatusNotFound, Message: "There is no such action."})
		return
	}
	if _, e := v.call(http.MethodPost, keyPath(v.R)+"/"+verb, nil); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	back(v, verb)
}

// fromList is the value of the parameter and field from if the operator came from the list of keys.
const fromList = "list"

// revokeKey revokes a key. If the key was used in the last 24 hours, the operator must type its
// name, because some program still depends on the key.
func (k *keyPages) revokeKey(v *pageRequest) {
	key, e := v.call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	if used := usedToday(v, textOf(key["id"])); recentlyUsed(key, used[textOf(key["id"])], v.now()) && key["status"] != keyRevoked && strings.TrimSpace(v.R.PostFormValue("confirm")) != strings.TrimSpace(fmt.Sprint(key["name"])) {
		k.oneKey(v, http.StatusBadRequest, "revoke", "This key is in use. Type its name to revoke it. Nothing was changed.")
		return
	}
	body := map[string]any{"end_webhooks": v.R.PostFormValue("end_webhooks") == "yes"}
	if _, e := v.call(http.MethodPost, keyPath(v.R)+"/revoke", body); e != nil {
		k.oneKey(v, e.Status, "key", e.Message)
		return
	}
	if v.R.PostFormValue("from") == fromList {
		http.Redirect(v.W, v.R, "/keys?done=revoke", http.StatusSeeOther)
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
	made, e := v.callOnce(v.R.PostFormValue("nonce"), http.MethodPost, keyPath(v.R)+"/rotate", map[string]any{"overlap_seconds": overlap})
	if e != nil && e.Fields["key_id"] != nil {
		v.show(http.StatusConflict, "already", view{Title: "Already rotated", Data: alreadyDone{textOf(e.Fields["key_id"]), true}})
		return
	}
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
