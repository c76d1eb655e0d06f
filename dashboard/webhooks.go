package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// hookPages are the pages about webhooks.
type hookPages struct{ *recordPages }

// newHookPages returns the pages about webhooks. A webhook can subscribe to the events with these
// names.
func newHookPages(names []string) hookPages {
	events := words(names...)
	return hookPages{&recordPages{
		section: section{"API", "Webhooks", "/webhooks"}, One: "webhook", API: "webhooks", Rows: "webhooks", TitleField: "name", Page: "webhook",
		About: "URLs that receive events.", Empty: "No webhooks yet. A webhook notifies another program of calls, events and changes to keys.",
		Columns: []column{
			{Head: "Name", Member: "name", Kind: cellName}, {Head: "URL", Member: "url"}, {Head: "Owner", Member: "owner"}, {Head: "Active", Member: "is_active"},
			{Head: "Last answer", Member: "last_attempt.status_code", Sub: "last_attempt.error"}, {Head: "Waiting", Member: "waiting", Kind: cellNumber},
			{Head: "Failing since", Member: "failing_since", Kind: cellTime},
		},
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
			{Name: "subscribed_events", Label: "Events", Kind: fieldTicks, Needed: true, Choices: events, Hint: "events about keys, limits and queued calls need a webhook without an owner"},
		},
		More: hookLog, Deletion: hookDeletion, AfterCreate: showSecret,
	}}
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
}

// hookLog adds the log of a webhook to its page.
func hookLog(v *pageRequest, p *recordPage) *Fault {
	t, e := v.list("/admin/v1/webhooks/"+url.PathEscape(p.ID)+"/logs", "logs")
	active, _ := p.Record["is_active"].(bool)
	p.Extra = hookPage{t, texts(p.Record["subscribed_events"]), active}
	return e
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
	said := "failed"
	if went["success"] == true {
		said = "delivered"
	}
	http.Redirect(v.W, v.R, h.here(v, said), http.StatusSeeOther)
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
