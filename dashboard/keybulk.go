package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// keyBulkPages are the page that asks before several keys are changed at once, and its result.
type keyBulkPages struct{}

// sections returns nil, because operators reach the page through the list of keys.
func (keyBulkPages) sections() []section { return nil }

func (k keyBulkPages) pages() map[string]page {
	return map[string]page{"POST /keys/bulk": {"POST /admin/v1/keys/:id/revoke", k.change}}
}

// maxBulk is the maximum number of keys that one form changes.
const maxBulk = 100

// bulkKey is a key that a form changes. Why says why it cannot be changed, or why its change failed;
// it is "" otherwise.
type bulkKey struct {
	Key       map[string]any
	State     state
	Sparkline chart
	InUse     bool
	Why       string
}

// keyBulk is the data of the page.
type keyBulk struct {
	Do      string // the change: one of bulkWords
	Verb    string // in the past tense, such as "Revoked"
	Done    bool   // the change was made
	Keys    []bulkKey
	Out     []bulkKey // keys that are left out, or whose change failed
	InUse   int       // number of Keys that were used in the last 24 hours
	Phrase  string    // text that the operator must type; "" if nothing
	Fault   string    // error about the field with that text or with the expiry; "" if there is none
	Expiry  string
	Expires string
}

// bulkWords returns the past tense of each change that can be made to several keys.
func bulkWords() map[string]string {
	return map[string]string{"pause": "Paused", "resume": "Resumed", "revoke": "Revoked", "extend": "Extended", "environment": "Changed"}
}

// change asks before it changes the keys in the form. If the form has the field confirmed, it changes
// them and shows the result.
func (k keyBulkPages) change(v *pageRequest) {
	form := v.R.PostForm
	ids := slices.Compact(slices.Sorted(slices.Values(form["id"])))
	b := keyBulk{Do: form.Get("do"), Verb: bulkWords()[form.Get("do")], Expiry: form.Get("expiry"), Expires: form.Get("expires")}
	switch {
	case b.Verb == "":
		v.showFault(&Fault{Status: http.StatusNotFound, Message: "There is no such action."})
		return
	case len(ids) == 0:
		v.showFault(invalid("No key is selected. Go back, tick the keys, and try again."))
		return
	case len(ids) > maxBulk:
		v.showFault(invalid("At most %d keys can be changed at once; got %d.", maxBulk, len(ids)))
		return
	}
	for _, id := range ids {
		key, e := v.call(http.MethodGet, "/admin/v1/keys/"+url.PathEscape(id), nil)
		if e != nil {
			v.showFault(e)
			return
		}
		used := usedToday(v, textOf(key["id"]))[textOf(key["id"])]
		one := bulkKey{Key: key, State: stateOf(key, used, v.now()), Sparkline: newSparkline(used, v.now()), InUse: recentlyUsed(key, used, v.now()), Why: b.obstacle(key)}
		if one.Why != "" {
			b.Out = append(b.Out, one)
			continue
		}
		if b.Keys = append(b.Keys, one); one.InUse {
			b.InUse++
		}
	}
	if b.Do == "revoke" && b.InUse > 0 {
		b.Phrase = fmt.Sprintf("revoke %d", len(b.Keys))
	}
	if form.Get("confirmed") == "" || len(b.Keys) == 0 {
		b.show(v, http.StatusOK)
		return
	}
	if typed := strings.TrimSpace(form.Get("phrase")); b.Phrase != "" && !strings.EqualFold(typed, b.Phrase) {
		b.Fault = "Type " + b.Phrase + ". Nothing was changed."
		b.show(v, http.StatusBadRequest)
		return
	}
	if e := b.apply(v); e != nil {
		b.Fault = e.Message
		b.show(v, e.Status)
		return
	}
	b.show(v, http.StatusOK)
}

// obstacle returns why a key cannot be changed, or "" if it can.
func (b *keyBulk) obstacle(key map[string]any) string {
	status, _ := key["status"].(string)
	switch {
	case status == keyRevoked:
		return "is revoked already"
	case b.Do == "pause" && status != keyActive:
		return "is " + status + " already"
	case b.Do == "resume" && status != "paused":
		return "is not paused"
	case b.Do == "extend" && key["expires_at"] == nil:
		return "never expires"
	}
	return ""
}

// apply makes the change. The keys whose change fails move to Out. It returns a Fault if the form has
// no valid expiry; then nothing was changed.
func (b *keyBulk) apply(v *pageRequest) *Fault {
	method, path, body := http.MethodPost, "/"+b.Do, map[string]any{}
	if b.Do == "extend" {
		end, set, err := v.keyExpiry(v.R.PostForm)
		if err == nil && !set {
			err = invalid("Choose how long the keys are valid.")
		}
		if err != nil {
			fault := *faultOf(err)
			_, fault.Message = keyFault(fault.Message, nil, keyFields(nil))
			return &fault
		}
		method, path, body = http.MethodPatch, "", map[string]any{"expires_at": end}
	}
	if b.Do == "environment" {
		method, path, body = http.MethodPatch, "", map[string]any{"environment": strings.TrimSpace(v.R.PostForm.Get("environment"))}
	}
	var done []bulkKey
	for _, one := range b.Keys {
		changed, e := v.call(method, "/admin/v1/keys/"+url.PathEscape(textOf(one.Key["id"]))+path, body)
		if e != nil {
			one.Why = "was not changed: " + e.Message
			b.Out = append(b.Out, one)
			continue
		}
		one.Key, one.State = changed, stateOf(changed, keyUsage{}, v.now())
		done = append(done, one)
	}
	b.Keys, b.Done = done, true
	return nil
}

// show sends the page.
func (b *keyBulk) show(v *pageRequest, status int) {
	title := capital(b.Do) + " " + keysCounted(len(b.Keys)) + "?"
	if b.Do == "environment" {
		title = "Change the environment of " + keysCounted(len(b.Keys)) + "?"
	}
	if b.Done {
		title = b.Verb + " " + keysCounted(len(b.Keys))
	}
	v.show(status, "bulk", view{Title: title, Data: b})
}

// keysCounted returns a text such as "1 key" or "3 keys".
func keysCounted(n int) string {
	if n == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", n)
}
