package dashboard

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// keyLists are the list of keys, its rows for the script of the page, and the search.
type keyLists struct{ apiURL func() string }

// newKeyLists returns the pages. apiURL is a function that returns the URL of the API.
func newKeyLists(apiURL func() string) *keyLists { return &keyLists{apiURL} }

func (k *keyLists) sections() []section { return []section{{"API", "API Keys", "/keys"}} }

func (k *keyLists) pages() map[string]page {
	const list = "GET /admin/v1/keys"
	return map[string]page{
		"GET /keys": {list, func(v *pageRequest) { k.list(v, nil) }}, "GET /keys/rows": {list, k.rows}, "POST /keys/find": {"POST /admin/v1/keys/lookup", k.find},
	}
}

// keyFilters returns the names of the parameters in the address that filter or sort the list.
func keyFilters() []string {
	return []string{"search", "status", "tag", "unused_days", "environment", "permission", "owner", "sort", "order"}
}

// keyLine is a key in the list.
type keyLine struct {
	Key       map[string]any
	State     state
	Flags     []state // what is to be noticed besides the state
	Sparkline chart
	Limit     *limitBar // the limit of which the largest part is used; nil if there is none
	Note      string
	Labels    []string // labels of the permissions
}

// sorter is the heading of a column that the list can be sorted by. Order is "ascending" or
// "descending" if the list is sorted by that column, and otherwise "".
type sorter struct{ Name, Link, Order, Class string }

// chip is a link that sets or removes a filter of the list. Here is true if the filter is set.
type chip struct {
	Label, Link string
	Here        bool
}

// keyList is the data of the page with the list of keys.
type keyList struct {
	listPage
	Lines       []keyLine
	Sorts       map[string]sorter
	States      []chip
	Tags        []chip
	Others      []chip // filters that only an address can set; the link removes one
	Orders      []choice
	Kept        []namedText // filters that the search keeps
	Permissions []choice
	Counted     bool   // sorted by requests, which are then shown at every width
	URL         string // URL of the API
	CSV         string // address of the list as CSV
	Any         bool   // the store has at least one key
	Updated     string
}

// list shows the list. fault is the reason why a search was refused, or nil.
func (k *keyLists) list(v *pageRequest, fault *Fault) {
	q := v.query
	if !q.Has("status") {
		q.Set("status", liveKeys)
	}
	t, e := v.list(v.listOfSpace("/admin/v1/keys"), "keys", keyFilters()...)
	if e != nil {
		v.showFault(e)
		return
	}
	list := keyList{listPage: t, Updated: v.updated(), Sorts: sorters(q), URL: k.apiURL(), CSV: v.listOfSpace("/admin/v1/keys") + "&" + keyQuery(q, "format", "csv").Encode()}
	list.Counted = q.Get("sort") == "requests" || q.Get("sort") == "refused"
	list.States, list.Tags, list.Others = stateChips(q), tagChips(q), otherChips(q)
	list.Filtered = keyQuery(q, "sort", "", "order", "", "status", "").Encode() != "" || q.Get("status") != liveKeys
	for _, name := range keyFilters() {
		if value := q.Get(name); value != "" && !slices.Contains([]string{"search", "permission", "sort"}, name) {
			list.Kept = append(list.Kept, namedText{name, value})
		}
	}
	if status, e := v.call(http.MethodGet, "/admin/v1/status", nil); e == nil {
		list.Any = numberOf(status["keys"]) > 0
	}
	p, _ := readPermissions(v) // after an error, the page shows names of permissions instead of labels
	for _, one := range p.all {
		list.Permissions = append(list.Permissions, choice{one.name, one.label, one.name == q.Get("permission")})
	}
	for _, o := range [][2]string{{"created", "Newest first"}, {"name", "Name"}, {"last_used", "Last used"}, {"expires", "Expires first"}, {"requests", "Most requests, 24 h"}, {"refused", "Most refused, 24 h"}} {
		list.Orders = append(list.Orders, choice{o[0], o[1], o[0] == q.Get("sort")})
	}
	list.Lines = k.lines(v, t.Rows, p)
	page, status := view{Title: "API Keys", Data: list, Form: q}, http.StatusOK
	if fault != nil {
		page.Fault, status = fault.Message, fault.Status
	}
	v.show(status, "keys", page)
}

// keyQuery returns the filters and the order in q with some parameters changed. changes are names and
// values in pairs; an empty value removes the parameter.
func keyQuery(q url.Values, changes ...string) url.Values {
	to := url.Values{}
	for _, name := range keyFilters() {
		if q.Get(name) != "" {
			to.Set(name, q.Get(name))
		}
	}
	for i := 0; i < len(changes); i += 2 {
		if to.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			to.Del(changes[i])
		}
	}
	return to
}

// keysAt returns the address of the list with the filters in q, changed as by keyQuery.
func keysAt(q url.Values, changes ...string) string {
	if query := keyQuery(q, changes...).Encode(); query != "" {
		return "/keys?" + query
	}
	return "/keys"
}

// stateChips returns the chips of which one is always set: the states of keys.
func stateChips(q url.Values) (chips []chip) {
	for _, status := range append(append([]string{liveKeys}, Vocabulary().KeyStates...), anyKeys) {
		label := capital(status)
		switch status {
		case liveKeys:
			label = "Not revoked"
		case anyKeys:
			label = "All"
		}
		chips = append(chips, chip{label, keysAt(q, "status", status), q.Get("status") == status})
	}
	return chips
}

// tagChips returns the chips of which at most one is set: what is to be noticed about keys.
func tagChips(q url.Values) (chips []chip) {
	add := func(label, name, value string) {
		here, to := q.Get(name) == value, []string{"tag", "", "unused_days", ""}
		if !here {
			to = append(to, name, value)
		}
		if ended := q.Get("status") == anyKeys || q.Get("status") == liveKeys; value == tagStillSent && !here && ended { // such keys are revoked or expired
			to = append(to, "status", anyKeys)
		}
		link := keysAt(q, to...)
		chips = append(chips, chip{label, link, here})
	}
	labels := map[string]string{"rate_limited": "Rate-limited", "sent_in_url": "Sent in URL", "rotating": "Rotation unfinished", tagStillSent: "Ended, still sent"}
	for _, tag := range Vocabulary().KeyTags {
		add(cmp.Or(labels[tag], capital(strings.ReplaceAll(tag, "_", " "))), "tag", tag)
	}
	add("Unused for 30 days", "unused_days", "30")
	return chips
}

// otherChips returns a chip for each filter that the other fields and chips do not show.
func otherChips(q url.Values) (chips []chip) {
	for _, name := range []string{"owner", "environment"} {
		if value := q.Get(name); value != "" {
			chips = append(chips, chip{capital(name) + ": " + value, keysAt(q, name, ""), true})
		}
	}
	if days := q.Get("unused_days"); days != "" && days != "30" {
		chips = append(chips, chip{"Unused for " + days + " days", keysAt(q, "unused_days", ""), true})
	}
	return chips
}

// find answers the search of the list, and each search of another page that may hold a secret. A secret
// leads to the page of its key, and never gets into an address, which a browser keeps. Everything else
// leads to the list.
func (k *keyLists) find(v *pageRequest) {
	from, other := takeField(v.R, searchPage)
	form := v.R.PostForm
	for _, name := range slices.Sorted(maps.Keys(form)) {
		key, certain, e := v.keyIn(form.Get(name))
		switch {
		case e != nil:
			v.showFault(e)
			return
		case key != nil:
			http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(textOf(key["id"]))+"?done=found", http.StatusSeeOther)
			return
		case certain || !other && name == "search" && looksRandom(strings.TrimSpace(form.Get(name))):
			k.list(v, &Fault{Status: http.StatusNotFound, Message: unknownSecret})
			return
		}
	}
	to := url.Values{}
	if other {
		for name := range form {
			if form.Get(name) != "" {
				to.Set(name, form.Get(name))
			}
		}
		at, _, _ := strings.Cut(localPath(from), "?")
		http.Redirect(v.W, v.R, at+"?"+to.Encode(), http.StatusSeeOther)
		return
	}
	for _, name := range keyFilters() {
		if value := strings.TrimSpace(form.Get(name)); value != "" {
			to.Set(name, value)
		}
	}
	if to.Get("sort") != form.Get("sorted") {
		to.Del("order") // the order of another column
	}
	http.Redirect(v.W, v.R, keysAt(to), http.StatusSeeOther)
}

// rows answers the script of the list with the rows of the keys that the query names, as HTML. So an
// update costs the same however many keys there are.
func (k *keyLists) rows(v *pageRequest) {
	ids := strings.Split(v.query.Get("ids"), ",")
	list := keyList{Updated: v.updated()}
	if v.query.Get("ids") != "" {
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
		rows, _ := answer["keys"].([]any)
		list.Lines = k.lines(v, rows, p)
	}
	v.fragment("keys", "keyupdate", view{Data: list, may: v.may})
}

// fragment sends a part of the page with the template name, which the script of the page puts in place
// of the same part.
func (v *pageRequest) fragment(name, part string, data any) {
	page, err := v.dashboard.execute(part, data, styleOf(v.Operator.Preferences))
	if err != nil {
		v.dashboard.o.Log.Error("part of a page not rendered", "page", name, "error", err)
		http.Error(v.W, "This page cannot be shown. The server's log has the reason.", http.StatusInternalServerError)
		return
	}
	sendHTML(v.W, http.StatusOK, page)
}

// lines returns the lines of the list. rows are the keys. If the usage cannot be read, the charts
// are empty.
func (k *keyLists) lines(v *pageRequest, rows []any, p permissions) (lines []keyLine) {
	var ids []string
	for _, row := range rows {
		key, _ := row.(map[string]any)
		ids = append(ids, textOf(key["id"]))
	}
	history := usedToday(v, ids...)
	for i, row := range rows {
		key, _ := row.(map[string]any)
		used := history[ids[i]]
		line := keyLine{Key: key, State: stateOf(key, used, v.now()), Flags: flagsOf(key), Sparkline: newSparkline(used, v.now()), Note: noteOf(key)}
		if key["status"] != keyRevoked {
			line.Limit = tightest(p.windowMeters(key))
		}
		for _, name := range texts(key["permissions"]) {
			line.Labels = append(line.Labels, p.label(name))
		}
		lines = append(lines, line)
	}
	return lines
}

// flagsOf returns what is to be noticed about a key besides its state.
func flagsOf(key map[string]any) (flags []state) {
	if inURL(key) && key["status"] != keyRevoked {
		flags = append(flags, state{"In URL", "failed"})
	}
	if key["sandbox"] == true {
		flags = append(flags, state{"Sandbox", "paused"})
	}
	if secrets, _ := key["secrets"].([]any); len(secrets) > 1 {
		flags = append(flags, state{"Rotating", "paused"})
	}
	return flags
}

// inURL reports whether a key was sent in a URL since it was created or last rotated.
func inURL(key map[string]any) bool {
	return textOf(key["query_last_at"]) > textOf(key["rotated_at"]) // texts of this form sort by time
}

// tightest returns the first of the bars of which the largest part is used, or nil if there is none.
func tightest(bars []limitBar) (most *limitBar) {
	for i := range bars {
		if most == nil || bars[i].Percent > most.Percent {
			most = &bars[i]
		}
	}
	return most
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
	for name, label := range map[string]string{"name": "Name", "last_used": "Last used", "expires": "Status, expiry", "requests": "Last 24 h"} {
		now, order := q.Get("sort") == name, "desc"
		if name == "name" || name == "expires" {
			order = "asc"
		}
		if now && q.Get("order") != "" {
			order = q.Get("order")
		}
		s := sorter{Name: label, Class: map[string]string{"requests": "day", "last_used": "used"}[name]}
		if now {
			s.Order = map[string]string{"asc": "ascending", "desc": "descending"}[order]
			order = map[string]string{"asc": "desc", "desc": "asc"}[order]
		}
		s.Link = keysAt(q, "sort", name, "order", order)
		all[name] = s
	}
	return all
}
