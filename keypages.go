package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
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
	permissions, e := v.Call(http.MethodGet, "/admin/v1/permissions", nil)
	if e != nil {
		return f, e
	}
	limits, e := v.Call(http.MethodGet, "/admin/v1/limits", nil)
	if e != nil {
		return f, e
	}
	return formData{Groups: KeyGroups(permissions["permissions"], chosen), Limits: KeyNumbers(limits["limits"], value), Presets: KeyPresets()}, nil
}

func (k *KeyPages) newKey(v *Visit) { k.askKey(v, http.StatusOK, "", KeyPrefill(v.R.URL.Query())) }

func (k *KeyPages) askKey(v *Visit, status int, fault string, form url.Values) {
	f, e := k.form(v, form["permission"], func(name string) string { return form.Get("limit." + name) })
	if e != nil {
		v.Fault(e)
		return
	}
	if f.Nonce = form.Get("nonce"); f.Nonce == "" {
		f.Nonce = RandomHex(16)
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
	f.Key, f.Meters, f.IPs, f.Note = key, Meters(key), strings.Join(Texts(key["allowed_ips"]), ", "), NoteOf(key)
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
	from := key
	if secrets, _ := key["secrets"].([]any); len(secrets) > 0 {
		if present, _ := secrets[0].(map[string]any); present["present"] == true {
			from = present
		}
	}
	_ = WriteJSON(v.W, http.StatusOK, map[string]any{"last_used_at": from["last_used_at"], "last_used_ip": from["last_used_ip"], "meters": LiveMeters(key, v.Now())})
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
