package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KeyPages are the pages of the keys.
type KeyPages struct{ apiURL func() string }

// NewKeyPages makes the pages; apiURL gives where clients reach the API.
func NewKeyPages(apiURL func() string) *KeyPages { return &KeyPages{apiURL} }

// Sections is the entry of the navigation.
func (k *KeyPages) Sections() []Section { return []Section{{"API", "API Keys", "/keys"}} }

// Pages lists the pages.
func (k *KeyPages) Pages() map[string]func(*Visit) {
	return map[string]func(*Visit){
		"GET /keys": k.listKeys, "GET /keys/new": k.newKey, "POST /keys": k.createKey, "GET /keys/{id}": k.showKey, "GET /keys/{id}/used": k.keyUsed,
		"POST /keys/{id}/edit": k.editKey, "POST /keys/{id}/rotate": k.rotateKey, "POST /keys/{id}/{verb}": k.changeKey,
	}
}

func (k *KeyPages) listKeys(v *Visit) {
	t, e := v.List("/admin/v1/keys", "keys", "search", "status")
	if e != nil {
		v.Fault(e)
		return
	}
	t.States = []string{"", "active", "paused", "expired", "revoked"}
	v.Show(http.StatusOK, "keys", View{Title: "API Keys", Data: t, Form: v.R.URL.Query()})
}

// choice is a permission in a form.
type choice struct {
	Name, Description string
	Chosen            bool
}

// number is a limit in a form.
type number struct {
	Name, Label string
	Default     int
	Value       string
}

// formData is what the forms of keys need.
type formData struct {
	Permissions []choice
	Limits      []number
	Presets     map[string]string
	Key         map[string]any
	Meters      []Meter
	IPs         string
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
	list, _ := permissions["permissions"].([]any)
	for _, p := range list {
		row, _ := p.(map[string]any)
		name, _ := row["name"].(string)
		about, _ := row["description"].(string)
		f.Permissions = append(f.Permissions, choice{name, about, slices.Contains(chosen, name)})
	}
	rows, _ := limits["limits"].([]any)
	for _, l := range rows {
		row, _ := l.(map[string]any)
		if row["scope"] == "owner" { // no key has it for itself
			continue
		}
		name, _ := row["name"].(string)
		standard, _ := row["default"].(float64)
		f.Limits = append(f.Limits, number{name, LimitLabel(name), int(standard), value(name)})
	}
	f.Presets = map[string]string{
		"read":  "can_read_calls can_read_agents can_read_contacts can_read_calendar",
		"calls": "can_read_calls can_initiate_calls can_read_agents",
		"all":   strings.Join(Ordinary.Names(), " "),
	}
	return f, nil
}

func (k *KeyPages) newKey(v *Visit) { k.askKey(v, http.StatusOK, "", url.Values{}) }

func (k *KeyPages) askKey(v *Visit, status int, fault string, form url.Values) {
	f, e := k.form(v, form["permission"], func(name string) string { return form.Get("limit." + name) })
	if e != nil {
		v.Fault(e)
		return
	}
	v.Show(status, "newkey", View{Title: "Create New API Key", Fault: fault, Form: form, Data: f})
}

// formBody makes the body for the admin endpoint out of a form.
func formBody(form url.Values) (map[string]any, error) {
	body := map[string]any{"name": strings.TrimSpace(form.Get("name")), "permissions": append([]string{}, form["permission"]...)}
	limits := map[string]int{}
	for field, values := range form {
		name, ok := strings.CutPrefix(field, "limit.")
		if !ok || strings.TrimSpace(values[0]) == "" {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(values[0]))
		if err != nil {
			return nil, ErrValidation.With("%s must be a whole number.", LimitLabel(name))
		}
		limits[name] = n
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	ips := []string{}
	for ip := range strings.SplitSeq(form.Get("ips"), ",") {
		if ip = strings.TrimSpace(ip); ip != "" {
			ips = append(ips, ip)
		}
	}
	body["allowed_ips"] = ips
	return body, nil
}

func (k *KeyPages) createKey(v *Visit) {
	if err := v.R.ParseForm(); err != nil {
		v.Fault(ErrValidation.With("The form cannot be read."))
		return
	}
	form := v.R.PostForm
	body, err := formBody(form)
	if err == nil {
		for _, name := range []string{"owner", "environment"} {
			if value := strings.TrimSpace(form.Get(name)); value != "" {
				body[name] = value
			}
		}
		if text := form.Get("expires"); text != "" {
			at, parseErr := time.Parse("2006-01-02T15:04", text)
			if parseErr != nil {
				err = ErrValidation.With("Expires must be a date and a time.")
			}
			body["expires_at"] = at.Format(time.RFC3339)
		}
	}
	if err != nil {
		k.askKey(v, http.StatusBadRequest, Public(err).Message, form)
		return
	}
	made, e := v.Call(http.MethodPost, "/admin/v1/keys", body)
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

func (k *KeyPages) showKey(v *Visit) { k.oneKey(v, http.StatusOK, "") }

func (k *KeyPages) oneKey(v *Visit, status int, fault string) {
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		v.Fault(e)
		return
	}
	limits, _ := key["limits"].(map[string]any)
	f, e := k.form(v, texts(key["permissions"]), func(name string) string { return fmt.Sprint(limits[name]) })
	if e != nil {
		v.Fault(e)
		return
	}
	f.Key, f.Meters, f.IPs = key, Meters(key), strings.Join(texts(key["allowed_ips"]), ", ")
	name, _ := key["name"].(string)
	v.Show(status, "key", View{Title: name, Fault: fault, Data: f})
}

func texts(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, fmt.Sprint(item))
	}
	return list
}

// keyUsed tells the page of a new key when it was first used.
func (k *KeyPages) keyUsed(v *Visit) {
	key, e := v.Call(http.MethodGet, keyPath(v.R), nil)
	if e != nil {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	_ = WriteJSON(v.W, http.StatusOK, map[string]any{"last_used_at": key["last_used_at"], "last_used_ip": key["last_used_ip"]})
}

func (k *KeyPages) editKey(v *Visit) {
	if err := v.R.ParseForm(); err != nil {
		v.Fault(ErrValidation.With("The form cannot be read."))
		return
	}
	body, err := formBody(v.R.PostForm)
	if err != nil {
		k.oneKey(v, http.StatusBadRequest, Public(err).Message)
		return
	}
	if _, e := v.Call(http.MethodPatch, keyPath(v.R), body); e != nil {
		k.oneKey(v, e.Status, e.Message)
		return
	}
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+"?done=saved", http.StatusSeeOther)
}

func (k *KeyPages) changeKey(v *Visit) {
	verb := v.R.PathValue("verb")
	if !slices.Contains([]string{"pause", "resume", "revoke"}, verb) {
		v.Fault(ErrRoute)
		return
	}
	if _, e := v.Call(http.MethodPost, keyPath(v.R)+"/"+verb, nil); e != nil {
		k.oneKey(v, e.Status, e.Message)
		return
	}
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(v.R.PathValue("id"))+"?done="+verb, http.StatusSeeOther)
}

func (k *KeyPages) rotateKey(v *Visit) {
	overlap, err := strconv.Atoi(v.R.PostFormValue("overlap"))
	if err != nil {
		k.oneKey(v, http.StatusBadRequest, "The overlap must be a number of seconds.")
		return
	}
	made, e := v.Call(http.MethodPost, keyPath(v.R)+"/rotate", map[string]any{"overlap_seconds": overlap})
	if e != nil {
		k.oneKey(v, e.Status, e.Message)
		return
	}
	k.reveal(v, http.StatusOK, made)
}
