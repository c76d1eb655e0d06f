package dashboard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// hookPages are the pages about webhooks.
type hookPages struct{ *recordPages }

// newHookPages returns the pages about webhooks. A webhook can subscribe to the events with these
// names.
func newHookPages(names []string) hookPages {
	h := hookPages{&recordPages{
		section: section{"API", "Webhooks", "/webhooks"}, One: "webhook", API: "webhooks", Rows: "webhooks", TitleField: "name", Page: "webhook",
		About: "URLs that receive events.", Empty: "No webhooks yet. A webhook notifies another program of calls, events and changes to keys.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName, Sub: "url", Cut: true}, {Head: "State", Member: "state", Kind: cellState}, {Head: "Last answer", Member: "last_attempt.status_code", Sub: "last_attempt.error"},
			{Head: "Waiting", Member: "waiting", Kind: cellNumber}, {Head: "Failing since", Member: "failing_since", Kind: cellTime}, {Head: "Owner", Member: "owner"},
		},
		Filters: []formField{{Name: "failing", Label: "Deliveries", Kind: fieldSelect, Blank: "any", Choices: func(*pageRequest) []choice { return []choice{{Value: "true", Label: "failing"}} }}},
		Facts: []column{
			{Head: "URL", Member: "url", Kind: cellURL}, {Head: "Owner", Member: "owner"}, {Head: "Active", Member: "is_active", Sub: "disabled_reason"},
			{Head: "Waiting", Member: "waiting"}, {Head: "Bytes waiting", Member: "waiting_bytes"}, {Head: "Dropped unsent", Member: "dropped"},
			{Head: "Next attempt", Member: "next_attempt_at", Kind: cellTime}, {Head: "Failing since", Member: "failing_since", Kind: cellTime},
			{Head: "Last attempt", Member: "last_attempt.created_at", Kind: cellTime}, {Head: "Its answer", Member: "last_attempt.status_code", Sub: "last_attempt.error"},
			{Head: "Created", Member: "created_at", Kind: cellTime}, {Head: "Created by key", Member: "created_by"}, {Head: "Id", Member: "id"},
		},
		Fields: []formField{
			{Name: "name", Label: "Name", Kind: fieldText, Needed: true, Hint: "purpose of the webhook"},
			{Name: "owner", Label: "Owner", Kind: fieldText, Make: true, Choices: ownerChoices, Hint: "receives only this owner's events; empty: the events of all owners, and of keys"},
			{Name: "url", Label: "URL", Kind: fieldText, Needed: true, Wide: true, Hint: "such as https://hooks.example.net/latchkey"},
			{Name: allEvents, Label: "All events", Kind: fieldCheck, Hint: "that the owner can receive, whatever is ticked below", Wide: true},
			{Name: "subscribed_events", Label: "Events", Kind: fieldTicks, Choices: words(names...), About: eventAbout, Hint: "those about keys, limits and the service need a webhook without an owner"},
		},
		Each: hookState, More: hookLog, Deletion: hookDeletion, AfterCreate: showSecret,
	}}
	h.Body = func(form url.Values, record, body map[string]any) error {
		delete(body, allEvents)
		if form.Get(allEvents) != "" {
			body["subscribed_events"] = eventsFor(names, cmp.Or(textOf(record["owner"]), strings.TrimSpace(form.Get("owner"))))
		}
		return nil
	}
	return h
}

// allEvents is the name of the box that subscribes to all events. It is no member of a webhook.
const allEvents = "all_events"

// eventAbout says what the events of webhooks are about.
var eventAbout = map[string]string{
	"call.started": "a call was answered", "call.ended": "a call is over", "call.failed": "a call could not be made", "call.transcript": "a transcript is there",
	"call.recording": "a recording is there", "call.summary": "a summary is there", "call.queued": "a call waits for a program that places it",
	"calendar.created": "an event was created", "calendar.updated": "an event was changed", "calendar.cancelled": "an event was cancelled", "calendar.completed": "an event is over",
	"calendar.reminder": "an event begins soon",
	"key.created":       "a key was created", "key.rotated": "a key got another secret", "key.revoked": "a key was revoked", "key.paused": "a key was paused", "key.resumed": "a key was resumed",
	"key.expiring": "a key ends soon", "key.new_network": "a key is used from another network", "key.in_url": "a key is sent in URLs", "key.unused": "a key was not used for a while", "limit.warning": "a key has used most of a limit", "limit.reached": "a key has reached a limit", "token.expiring": "an admin token ends soon",
	"operator.factor_reset": "a second factor was removed or replaced by a recovery code", "owner.storage_warning": "the storage of an owner is nearly full", "disk.low": "there is little free disk space",
}

// eventsFor returns the events that a webhook of an owner can receive. owner is "" for a webhook of the
// operator, which can receive all.
func eventsFor(names []string, owner string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return owner != "" && (name == "call.queued" || !strings.HasPrefix(name, "call.") && !strings.HasPrefix(name, "calendar."))
	})
}

// hookState adds the member "state" to a webhook in the list.
func hookState(hook map[string]any) {
	switch {
	case hook["is_active"] != true:
		hook["state"] = "paused"
	case hook["failing_since"] != nil:
		hook["state"] = "failing"
	default:
		hook["state"] = "active"
	}
}

// hookDeletion returns the text that the page shows before it deletes a webhook.
func hookDeletion(_ *pageRequest, hook map[string]any) string {
	text := "Nothing is sent to " + textOf(hook["url"]) + " from now on, and its log is deleted too."
	if n := numberOf(hook["waiting"]); n > 0 {
		text += fmt.Sprintf(" %.0f pending events are never sent.", n)
	}
	return text
}

// hookPage is what the page of a webhook shows besides the record: a page of the webhook's log, and
// the types of events that a sample can have.
type hookPage struct {
	listPage
	Events []string
	Active bool
	Failed int // number of deliveries that have failed for good and can be sent again
}

// hookLog adds the log of a webhook to its page.
func hookLog(v *pageRequest, p *recordPage) *Fault {
	t, e := v.list("/admin/v1/webhooks/"+url.PathEscape(p.ID)+"/logs", "logs")
	if e != nil {
		return e
	}
	failed, e := v.call(http.MethodGet, "/admin/v1/webhooks/"+url.PathEscape(p.ID)+"/logs?failed=true&limit=1", nil)
	if e != nil {
		return e
	}
	active, _ := p.Record["is_active"].(bool)
	p.Extra = hookPage{t, texts(p.Record["subscribed_events"]), active, int(numberOf(failed["count"]))}
	return nil
}

// showSecret shows the secret of a new webhook. No other page shows it.
func showSecret(v *pageRequest, hook map[string]any) {
	v.show(http.StatusCreated, "hooksecret", view{Title: textOf(hook["name"]), Data: hook})
}

func (h hookPages) pages() map[string]page {
	pages := h.recordPages.pages()
	pages["POST /webhooks/{id}/pause"] = page{h.changes(), h.pause}
	pages["POST /webhooks/{id}/resume"] = page{h.changes(), h.resume}
	pages["POST /webhooks/{id}/test"] = page{h.endpoint(http.MethodPost, "/:id/test"), h.test}
	pages["POST /webhooks/{id}/redeliver"] = page{h.endpoint(http.MethodPost, "/:id/redeliver"), h.redeliver}
	pages["GET /webhooks/{id}/log/{entry}"] = page{h.endpoint(http.MethodGet, "/:id/logs/:entry"), h.showEntry}
	pages["GET /webhooks/{id}/retry"] = page{h.endpoint(http.MethodPost, "/:id/retry-failed"), h.askRetry}
	pages["POST /webhooks/{id}/retry"] = page{h.endpoint(http.MethodPost, "/:id/retry-failed"), h.retry}
	return pages
}

func (h hookPages) pause(v *pageRequest) { h.patch(v, map[string]any{"is_active": false}, "paused") }

func (h hookPages) resume(v *pageRequest) { h.patch(v, map[string]any{"is_active": true}, "resumed") }

// patch changes a webhook and redirects to its page. said selects the sentence that the page shows
// (see the function done).
func (h hookPages) patch(v *pageRequest, body map[string]any, said string) {
	if _, e := v.call(http.MethodPatch, h.at(v, ""), body); e != nil {
		h.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.here(v, said), http.StatusSeeOther)
}

// test sends a sample event, waits for the outcome, and redirects to the page of the webhook, which
// shows it. The webhook's log contains the attempt too.
func (h hookPages) test(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	body := map[string]any{}
	if event := form.Get("event_type"); event != "" {
		body["event_type"] = event
	}
	went, e := v.call(http.MethodPost, h.at(v, "/test"), body)
	if e != nil {
		h.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.here(v, testWord(went)), http.StatusSeeOther)
}

// testWord returns the parameter done for the outcome of a test.
func testWord(went map[string]any) string {
	cause := strings.TrimSuffix(strings.TrimPrefix(textOf(went["message"]), "Not delivered: "), ".")
	switch status := textOf(went["status_code"]); {
	case went["success"] == true:
		return "delivered"
	case status != "":
		return "failed-" + status
	case cause == "timed out":
		return "failed-slow"
	case strings.Contains(cause, "could not be reached"):
		return "failed-away"
	}
	return "failed"
}

// testFault returns the sentence for the parameter done after a test that has failed, or "".
func testFault(word string) string {
	why, is := strings.CutPrefix(word, "failed")
	_, err := strconv.ParseUint(strings.TrimPrefix(why, "-"), 10, 16)
	switch {
	case !is:
		return ""
	case why == "":
		return "The sample was not delivered. The first row of the attempts has the reason."
	case why == "-slow":
		return "The sample was not delivered: the receiver did not answer in time. It must answer first and do the work afterwards."
	case why == "-away":
		return "The sample was not delivered: the receiver could not be reached. " + awayText
	case err == nil:
		return "The sample was not delivered: the receiver answered " + why[1:] + ", but only 2xx means that it has accepted the event."
	}
	return ""
}

// awayText says what may be wrong if a receiver cannot be reached.
const awayText = `The name is unknown, the connection was refused, the certificate is not valid, or the address is not allowed. The server's log says which, under "webhook delivery failed".`

// causeText returns why an attempt has failed, and what to look at, as sentences.
func causeText(attempt map[string]any) string {
	cause := textOf(attempt["error"])
	if cause == "" {
		return ""
	}
	text := strings.ToUpper(cause[:1]) + cause[1:] + "."
	if strings.Contains(cause, "could not be reached") {
		text += " " + awayText
	}
	return text
}

// entryPage is the data of the page of an entry of the log.
type entryPage struct {
	Hook  map[string]any
	Entry map[string]any
	Cause string // why it failed, in sentences; "" if it did not
	Sent  string // what was sent, indented; "" if it is not kept
}

// showEntry shows what a delivery has sent, and the answer.
func (h hookPages) showEntry(v *pageRequest) {
	hook, e := v.call(http.MethodGet, h.at(v, ""), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	entry, e := v.call(http.MethodGet, h.at(v, "/logs/"+url.PathEscape(v.R.PathValue("entry"))), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	sent := textOf(entry["request_body"])
	var indented bytes.Buffer
	if json.Indent(&indented, []byte(sent), "", "  ") == nil {
		sent = indented.String()
	}
	page := entryPage{hook, entry, causeText(entry), sent}
	v.show(http.StatusOK, "webhookentry", view{Title: textOf(entry["event_type"]), Data: page})
}

// retryPage is the data of the page that asks whether to send again.
type retryPage struct {
	Hook map[string]any
	listPage
}

// askRetry shows how many deliveries have failed for good, and asks whether to send them again.
func (h hookPages) askRetry(v *pageRequest) {
	hook, e := v.call(http.MethodGet, h.at(v, ""), nil)
	if e != nil {
		v.showFault(e)
		return
	}
	failed, e := v.list(h.at(v, "/logs?failed=true"), "logs")
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, "webhookretry", view{Title: "Retry all failed", Data: retryPage{hook, failed}})
}

func (h hookPages) retry(v *pageRequest) {
	answer, e := v.call(http.MethodPost, h.at(v, "/retry-failed"), nil)
	if e != nil {
		h.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.here(v, fmt.Sprintf("retried-%d", int(numberOf(answer["count"])))), http.StatusSeeOther)
}

// retryNote returns the sentence for the parameter done after failed deliveries were queued again, or "".
func retryNote(word string) string {
	text, is := strings.CutPrefix(word, "retried-")
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case !is || err != nil:
		return ""
	case n == 1:
		return "Queued 1 delivery again."
	}
	return fmt.Sprintf("Queued %d deliveries again.", n)
}

func (h hookPages) redeliver(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	entry, err := strconv.ParseUint(form.Get("log_id"), 10, 63)
	if err != nil {
		h.showRecord(v, invalid("Choose an attempt to send again."), nil)
		return
	}
	if _, e := v.call(http.MethodPost, h.at(v, "/redeliver"), map[string]any{"log_id": entry}); e != nil {
		h.showRecord(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.here(v, "queued"), http.StatusSeeOther)
}
