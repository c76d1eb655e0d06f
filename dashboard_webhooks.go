package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// HookPages are the pages of the webhooks.
type HookPages struct{ *Records }

// NewHookPages makes the pages.
func NewHookPages() HookPages {
	events := Words(OperatorEventTypes()...)
	return HookPages{&Records{
		Section: Section{"API", "Webhooks", "/webhooks"}, One: "webhook", API: "webhooks", Rows: "webhooks", CalledBy: "name", Page: "webhook",
		About: "Addresses that are told of events.", Empty: "No webhook yet. One tells another program of calls, events and keys as they happen.",
		Columns: []Column{
			{Head: "Name", Member: "name", Kind: CellName}, {Head: "Address", Member: "url"}, {Head: "Owner", Member: "owner"}, {Head: "Active", Member: "is_active"},
			{Head: "Last answer", Member: "last_attempt.status_code", Sub: "last_attempt.error"}, {Head: "Waiting", Member: "waiting", Kind: CellNumber},
			{Head: "Failing since", Member: "failing_since", Kind: CellTime},
		},
		Facts: []Column{
			{Head: "Address", Member: "url", Kind: CellURL}, {Head: "Owner", Member: "owner"}, {Head: "Active", Member: "is_active", Sub: "disabled_reason"},
			{Head: "Waiting", Member: "waiting"}, {Head: "Next attempt", Member: "next_attempt_at", Kind: CellTime}, {Head: "Failing since", Member: "failing_since", Kind: CellTime},
			{Head: "Last attempt", Member: "last_attempt.created_at", Kind: CellTime}, {Head: "Its answer", Member: "last_attempt.status_code", Sub: "last_attempt.error"},
			{Head: "Created", Member: "created_at", Kind: CellTime}, {Head: "Id", Member: "id"},
		},
		Fields: []Field{
			{Name: "name", Label: "Name", Kind: FieldText, Needed: true, Hint: "what it is for"},
			{Name: "owner", Label: "Owner", Kind: FieldText, Make: true, Choices: OwnerChoices, Hint: "hears of this owner alone; empty: of every owner, and of keys"},
			{Name: "url", Label: "Address", Kind: FieldText, Needed: true, Wide: true, Hint: "such as https://hooks.example.net/latchkey"},
			{Name: "subscribed_events", Label: "Events", Kind: FieldTicks, Needed: true, Choices: events, Hint: "those of keys, limits and queued calls only without an owner"},
		},
		More: hookLog, Deletion: hookDeletion, Made: showSecret,
	}}
}

func hookDeletion(_ *Visit, hook map[string]any) string {
	text := "Nothing is sent to " + Shown(hook["url"]) + " from now on, and its log goes too."
	if n, _ := hook["waiting"].(float64); n > 0 {
		text += fmt.Sprintf(" %.0f events that wait for it are never sent.", n)
	}
	return text
}

// hookPage is what the page of a webhook has besides: its log.
type hookPage struct {
	ListPage
	Events []string
	Active bool
}

func hookLog(v *Visit, p *RecordPage) *Error {
	t, e := v.List("/admin/v1/webhooks/"+url.PathEscape(p.ID)+"/logs", "logs")
	active, _ := p.Record["is_active"].(bool)
	p.Extra = hookPage{t, Texts(p.Record["subscribed_events"]), active}
	return e
}

// showSecret shows a new webhook's secret, once.
func showSecret(v *Visit, hook map[string]any) {
	v.Show(http.StatusCreated, "hooksecret", View{Title: Shown(hook["name"]), Data: hook})
}

// Pages lists the pages.
func (h HookPages) Pages() map[string]func(*Visit) {
	pages := h.Records.Pages()
	pages["POST /webhooks/{id}/pause"] = func(v *Visit) { h.turn(v, false, "paused") }
	pages["POST /webhooks/{id}/resume"] = func(v *Visit) { h.turn(v, true, "resumed") }
	pages["POST /webhooks/{id}/test"] = h.test
	pages["POST /webhooks/{id}/redeliver"] = h.redeliver
	return pages
}

func (h HookPages) turn(v *Visit, active bool, said string) {
	if _, e := v.Call(http.MethodPatch, h.At(v, ""), map[string]any{"is_active": active}); e != nil {
		h.Show(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.Here(v, said), http.StatusSeeOther)
}

// test sends a sample. How that went is told at once; it is in the log too.
func (h HookPages) test(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	body := map[string]any{}
	if event := form.Get("event_type"); event != "" {
		body["event_type"] = event
	}
	went, e := v.Call(http.MethodPost, h.At(v, "/test"), body)
	if e != nil {
		h.Show(v, e, nil)
		return
	}
	said := "failed"
	if went["success"] == true {
		said = "delivered"
	}
	http.Redirect(v.W, v.R, h.Here(v, said), http.StatusSeeOther)
}

func (h HookPages) redeliver(v *Visit) {
	form, ok := v.Form()
	if !ok {
		return
	}
	entry, err := strconv.ParseUint(form.Get("log_id"), 10, 63)
	if err != nil {
		h.Show(v, ErrValidation.With("Say which attempt is to be sent again."), nil)
		return
	}
	if _, e := v.Call(http.MethodPost, h.At(v, "/redeliver"), map[string]any{"log_id": entry}); e != nil {
		h.Show(v, e, nil)
		return
	}
	http.Redirect(v.W, v.R, h.Here(v, "queued"), http.StatusSeeOther)
}
