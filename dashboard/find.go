package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"latchkey/internal/fold"
	"latchkey/internal/keytext"
	"latchkey/internal/sorted"
)

// findPages search everything that the operator may see: in a dialog of every page, and on a page of
// their own for browsers without script. What is searched for never gets into an address, because it
// may be the secret of a key.
type findPages struct{}

func (findPages) sections() []section { return nil }

func (findPages) pages() map[string]page {
	show := func(v *pageRequest) { v.showFound(findPage{Found: v.placesFor("")}) }
	return map[string]page{"GET /find": {anyRole, show}, "POST /find": {anyRole, find}}
}

// findPage is the data of the page with the results.
type findPage struct {
	Query string // what was searched for; "" if it was a secret
	Found []finding
	Says  string // sentence about the results
}

// finding is a result: a link with its name, a note beside it, and what kind of thing it leads to.
type finding struct{ Label, Note, Kind, Path string }

// maxFound is the maximum number of results of one kind, and maxSought that of characters of a search.
const (
	maxFound  = 5
	maxSought = 1000
)

func find(v *pageRequest) {
	text := strings.TrimSpace(v.R.PostForm.Get("query"))
	var page findPage
	key, certain, fault := v.keyIn(text)
	switch {
	case fault != nil:
	case text == "":
		page.Found = v.placesFor("")
	case len(text) > maxSought:
		fault = invalid("Search for at most %d characters.", maxSought)
	case key != nil:
		page.Found, page.Says = v.foundKeys([]map[string]any{key}), "This is the key that has the secret. The secret was not kept."
	case certain || looksRandom(text):
		page.Says = unknownSecret
	default:
		page.Query = text
		page.Found, fault = v.search(text)
		page.Says = fmt.Sprintf("%d found.", len(page.Found))
	}
	if fault != nil {
		page.Says = fault.Message
	}
	v.showFound(page)
}

// showFound sends the results: to the script of the dialog only them, otherwise the whole page.
func (v *pageRequest) showFound(page findPage) {
	if v.R.PostForm.Get("part") != "" {
		v.fragment("find", "found", view{Data: page})
		return
	}
	v.show(http.StatusOK, "find", view{Title: "Find", Data: page})
}

// search returns what a text finds. A text such as "revoke crm" finds what can be done with the keys
// that the rest of it finds.
func (v *pageRequest) search(text string) (found []finding, fault *Fault) {
	first, rest, _ := strings.Cut(text, " ")
	for _, verb := range keyVerbs() {
		if strings.EqualFold(first, verb) {
			keys, fault := v.rowsOf("keys", url.Values{"search": {strings.TrimSpace(rest)}, "status": {liveKeys}})
			return append(v.verbsFor(keys, verb), v.placesFor(text)...), fault
		}
	}
	keys, fault := v.rowsOf("keys", url.Values{"search": {text}, "status": {anyKeys}})
	if fault != nil {
		return nil, fault
	}
	sorted.StableFunc(keys, func(a, b map[string]any) int { return cmp.Compare(overRank(a), overRank(b)) })
	found = v.foundKeys(keys)
	if len(keys) == 1 {
		found = append(found, v.verbsFor(keys, keyVerbs()...)...)
	}
	found = append(found, v.byNumber(text)...)
	for _, kind := range []struct{ rows, kind, note string }{{"owners", "Owner", ""}, {"contacts", "Contact", "company"}, {"agents", "Agent", "phone_number"}} {
		if !v.mayOpen("/" + kind.rows + "/{id}") {
			continue
		}
		rows, fault := v.rowsOf(kind.rows, url.Values{"search": {text}})
		if fault != nil {
			return nil, fault
		}
		for _, row := range rows {
			label := cmp.Or(textOf(row["full_name"]), textOf(row["name"]))
			found = append(found, finding{label, textOf(row[kind.note]), kind.kind, "/" + kind.rows + "/" + textOf(row["id"])})
		}
	}
	return append(found, v.placesFor(text)...), nil
}

// rowsOf returns the first rows of a list of the admin endpoint.
func (v *pageRequest) rowsOf(rows string, q url.Values) (list []map[string]any, fault *Fault) {
	q.Set("limit", strconv.Itoa(maxFound))
	answer, fault := v.call(http.MethodGet, "/admin/v1/"+rows+"?"+q.Encode(), nil)
	all, _ := answer[rows].([]any)
	for _, row := range all {
		one, _ := row.(map[string]any)
		list = append(list, one)
	}
	return list, fault
}

// overRank returns 1 for a key that was revoked and 0 for another one, which comes first.
func overRank(key map[string]any) int {
	if key["status"] == keyRevoked {
		return 1
	}
	return 0
}

func (v *pageRequest) foundKeys(keys []map[string]any) (found []finding) {
	for _, key := range keys {
		note := textOf(key["hint"])
		if status := textOf(key["status"]); status != keyActive {
			note = strings.TrimSpace(note + " " + status)
		}
		found = append(found, finding{textOf(key["name"]), note, "API key", "/keys/" + url.PathEscape(textOf(key["id"]))})
	}
	return found
}

// keyVerbs are what can be done with a key on a page of its own.
func keyVerbs() []string { return []string{"revoke", "rotate"} }

// verbsFor returns the pages on which the operator can do something with keys.
func (v *pageRequest) verbsFor(keys []map[string]any, verbs ...string) (found []finding) {
	for _, key := range keys {
		for _, verb := range verbs {
			if v.mayOpen("/keys/{id}/"+verb) && overRank(key) == 0 {
				label := capital(verb) + " " + textOf(key["name"])
				found = append(found, finding{label, textOf(key["hint"]), "Action", "/keys/" + url.PathEscape(textOf(key["id"])) + "/" + verb})
			}
		}
	}
	return found
}

// byNumber returns the call and the request that have a text as their id.
func (v *pageRequest) byNumber(text string) (found []finding) {
	number := strings.TrimPrefix(text, "#")
	if _, err := strconv.ParseUint(number, 10, 64); err == nil && v.mayOpen("/calls/{id}") {
		if call, e := v.call(http.MethodGet, "/admin/v1/calls/"+number, nil); e == nil {
			found = append(found, finding{"Call " + number, textOf(call["phone_number"]) + " " + textOf(call["status"]), "Call", "/calls/" + number})
		}
	}
	if len(text) > 8 && len(text) < 30 && !strings.ContainsFunc(text, unicode.IsSpace) && v.mayOpen("/requests/{id}") {
		rows, _ := v.rowsOf("requests", url.Values{"id": {text}})
		for _, row := range rows {
			r := requestOf(row)
			found = append(found, finding{"Request " + r.ID, fmt.Sprintf("%s %s: %d", r.Method, r.RouteName(), r.Status), "Request", "/requests/" + url.PathEscape(r.ID)})
		}
	}
	return found
}

// actions are the pages on which something is done, by what they are called here.
func actions() []pageLink {
	return []pageLink{
		{"Create New API Key", "/keys/new"}, {"New webhook", "/webhooks/new"}, {"New agent", "/agents/new"}, {"New contact", "/contacts/new"}, {"Import contacts", "/contacts/import"},
		{"Record inbound call", "/calls/new"}, {"New event", "/calendar/events/new"}, {"New variable", "/variables/new"}, {"New owner", "/owners/new"}, {"New team", "/teams/new"},
		{"New admin token", "/tokens/new"}, {"Check the activity for tampering", "/activity/verify"}, {"Change password", "/account"},
		{"Download a backup", "/backups"},
	}
}

// placesFor returns the actions and pages whose names match a text. The text "" matches all.
func (v *pageRequest) placesFor(text string) (found []finding) {
	words := fold.Words(text)
	for _, a := range actions() {
		if fold.Match(words, a.Label) && v.mayOpen(a.Path) {
			found = append(found, finding{Label: a.Label, Kind: "Action", Path: a.Path})
		}
	}
	for _, s := range v.dashboard.sections {
		if fold.Match(words, s.Name, s.Group) && v.mayOpen(s.Path) {
			found = append(found, finding{Label: s.Name, Kind: "Page", Path: s.Path})
		}
	}
	for _, doc := range docLinks() {
		if len(words) > 0 && fold.Match(words, doc.Title, doc.Name) {
			found = append(found, finding{Label: doc.Title, Kind: "Documentation", Path: doc.Path()})
		}
	}
	return found
}

// A secret in a search. All searches recognize it by keyIn: forms that are sent by POST with
// keyLists.find and find, and addresses with clearAddress.

// searchPage is the field by which the script says which page a search is for that it sends by POST
// because it may hold a secret.
const searchPage = "search.page"

// unknownSecret says that a secret belongs to no key.
const unknownSecret = "This looks like a secret, and no key of this service has it. Nothing of it was kept."

// keyIn returns the key whose secret a text has, such as "Bearer klen_...", or nil. certain is true if
// the text has something in the form of this service's secrets. Secrets of keys that were imported have
// no known form.
func (v *pageRequest) keyIn(text string) (key map[string]any, certain bool, fault *Fault) {
	secret, certain := secretIn(text, v.dashboard.o.KeyPrefix)
	if secret == "" {
		return nil, false, nil
	}
	answer, fault := v.call(http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": []string{fmt.Sprintf("%x", keytext.DigestOf(secret))}})
	if fault != nil {
		return nil, certain, fault
	}
	list, _ := answer["keys"].([]any)
	if len(list) == 0 {
		return nil, certain, nil
	}
	key, _ = list[0].(map[string]any)
	return key, true, nil
}

// minSecret is the number of characters after the prefix from which a text counts as a secret, or as a
// part of one.
const minSecret = 12

// secretIn returns what may be a secret in a text: what begins with the prefix of secrets, wherever it
// is, and otherwise the whole text without quotes and "Bearer", if it is long enough and has no spaces.
// It returns "" if there is none. certain is true if it begins with the prefix.
func secretIn(text, prefix string) (secret string, certain bool) {
	other := func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	for at := strings.Index(text, prefix); prefix != "" && at >= 0; at = strings.Index(text, prefix) {
		text = text[at+len(prefix):]
		random, mark := strings.TrimPrefix(text, keytext.SandboxMark), ""
		if len(random) < len(text) {
			mark = keytext.SandboxMark
		}
		end := strings.IndexFunc(random+" ", other)
		if end >= minSecret {
			return prefix + mark + random[:end], true
		}
	}
	const around = " \t\r\n\"'`"
	text = strings.Trim(text, around)
	if scheme, rest, found := strings.Cut(text, " "); found && strings.EqualFold(strings.Trim(scheme, ":"), "bearer") {
		text = strings.Trim(rest, around)
	}
	if couldBeSecret(text) {
		return text, false
	}
	return "", false
}

// couldBeSecret reports whether a text may be the secret of a key that was imported.
func couldBeSecret(text string) bool {
	return len(text) >= 20 && len(text) <= 1000 && !strings.HasPrefix(text, "key_") && !strings.ContainsFunc(text, unicode.IsSpace)
}

// looksRandom reports whether a text consists of letters and digits as a secret does, and is no word.
func looksRandom(text string) bool {
	other := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '-' }
	return len(text) >= 32 && !strings.ContainsFunc(text, other) && strings.ContainsFunc(text, unicode.IsDigit)
}

// clearAddress redirects a browser whose address has the secret of a key, such as one without script
// that has sent a search, to an address without it. The history and logs may keep the first address, and
// the next page says so. It returns false if the address has no secret.
func (v *pageRequest) clearAddress() (cleared bool) {
	if v.R.Method != http.MethodGet {
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(v.query)) {
		for _, value := range v.query[name] {
			if secret, certain := secretIn(value, v.dashboard.o.KeyPrefix); !certain && !looksRandom(secret) {
				continue
			}
			key, certain, fault := v.keyIn(value)
			to := ""
			switch {
			case fault != nil:
				continue
			case key != nil:
				to = "/keys/" + url.PathEscape(textOf(key["id"])) + "?done=exposed"
			case certain:
				left := maps.Clone(v.query)
				delete(left, name)
				left.Set("done", "leaked")
				to = v.R.URL.Path + "?" + left.Encode()
			default:
				continue
			}
			http.Redirect(v.W, v.R, to, http.StatusSeeOther)
			return true
		}
	}
	return false
}
