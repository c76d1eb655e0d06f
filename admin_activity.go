package main

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/sorted"
)

// ActivityOfRequest returns the entry for the activity of the key of a request that was answered with 401, 403 or 429,
// or that went to a guarded route with a method other than GET, HEAD, OPTIONS and TRACE, those that change nothing (RFC
// 9110, section 9.2.1), and was answered with a status below 400. It returns false for other requests, and for those
// without a known key.
func ActivityOfRequest(o *Outcome) (KeyActivity, bool) {
	kind, status := "", o.Status
	switch {
	case o.Holder == nil:
		return KeyActivity{}, false
	case o.Code != "" && (o.Status == http.StatusUnauthorized || o.Status == http.StatusForbidden || o.Status == http.StatusTooManyRequests):
		kind = ActivityRefusal
	case o.Code == "" && o.Guarded && o.Status < http.StatusBadRequest && !slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE"}, o.Method):
		kind = ActivityWrite
		if !o.Forwarded {
			status = 0 // the proxy that asked was told to let it through; what the upstream answered is not known
		}
	default:
		return KeyActivity{}, false
	}
	method := "other" // so that the entry does not keep the memory of a request
	if i := slices.Index(listedMethods, o.Method); i >= 0 {
		method = listedMethods[i]
	}
	return KeyActivity{
		Kind: kind, At: o.Began, Method: method, Route: o.Route, Status: status, Code: o.Code, Client: o.Client, Request: o.ID,
	}, true
}

// activity serves what keys did.
type activity struct {
	store   *Store
	keyring *Keyring
}

// NewActivity returns the endpoint for the activity of the keys in store.
func NewActivity(store *Store, keyring *Keyring) *activity { return &activity{store, keyring} }

// AdminRoutes returns the routes for operators.
func (a *activity) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/keys/:id/activity", Handle: a.show, Heavy: HeavyAlways, Query: []string{"page", "limit", "since", "kind"}}}
}

// maxShownPlaces is the number of networks that an answer lists.
const maxShownPlaces = 100

// show answers with a page of the activity of a key, latest entry first, and with a summary of all entries that the
// query selects.
func (a *activity) show(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	if err := CheckWord(q, "kind", ActivityKinds()...); err != nil {
		return err
	}
	since, err := readAuditTime(q, "since")
	if err != nil {
		return err
	}
	kind, sum := q.Get("kind"), activitySummary{}
	var answer map[string]any
	err = r.View(a.store, func(tx *Tx) error {
		key, err := a.keyring.Get(tx, r.Params.ByName("id"))
		if err != nil {
			return err
		}
		sum = activitySummary{}
		list, numbered, kept, err := ActivityOf(tx, key.ID, func(e *KeyActivity) bool {
			if e.At.Before(since) {
				return false
			}
			sum.add(e)
			return kind == "" || e.Kind == kind
		})
		if err != nil {
			return err
		}
		networks, carriers, err := PlacesOf(tx, key.ID)
		if err != nil {
			return err
		}
		from, to := page.Bounds(len(list))
		rows := []any{}
		for _, e := range list[from:to] {
			rows = append(rows, shownActivity(e))
		}
		answer = page.Answer(len(list), "activity", rows)
		answer["key_id"], answer["key_name"], answer["written"], answer["refused"] = key.ID, key.Name, sum.rows(), sum.refused
		answer["networks"], answer["network_count"] = shownPlaces(networks, "network"), len(networks)
		answer["carriers"] = shownPlaces(carriers, "carrier")
		answer["kept"], answer["removed"] = kept, numbered-uint64(kept)
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, answer)
}

// activitySummary counts what entries are about.
type activitySummary struct {
	written []*writtenCount
	refused int // requests
}

// writtenCount is how many records of a kind a key has created, changed or deleted.
type writtenCount struct {
	kind, did string
	count     int
}

// count adds n records.
func (s *activitySummary) count(kind, did string, n int) {
	for _, w := range s.written {
		if w.kind == kind && w.did == did {
			w.count += n
			return
		}
	}
	s.written = append(s.written, &writtenCount{kind, did, n})
}

func (s *activitySummary) add(e *KeyActivity) {
	switch {
	case e.Kind == ActivityRefusal:
		s.refused += e.Requests()
	case e.Kind == ActivityWrite && len(e.Objects) == 0:
		s.count("guarded request", "sent", e.Requests())
	}
	for _, o := range e.Objects {
		s.count(kindOfObject(o.Object), o.Did, 1)
	}
	if e.More > 0 {
		s.count("further record", "changed", e.More)
	}
}

// kindOfObject returns the kind of an object, such as "contact" for "contact 7".
func kindOfObject(object string) string {
	if kind, _, of := strings.Cut(object, " of "); of {
		return kind
	}
	return object[:max(0, strings.LastIndexByte(object, ' '))]
}

// rows returns the counts for an answer, the most frequent first.
func (s *activitySummary) rows() []any {
	sorted.Func(s.written, func(a, b *writtenCount) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.kind, b.kind), cmp.Compare(a.did, b.did))
	})
	rows := []any{}
	for _, w := range s.written {
		rows = append(rows, map[string]any{"kind": w.kind, "did": w.did, "count": w.count})
	}
	return rows
}

// shownPlaces returns the latest maxShownPlaces places of a list for an answer. The member with the value of a
// place is called name.
func shownPlaces(list []*KeyPlace, name string) []any {
	rows := []any{}
	for _, p := range list[max(0, len(list)-maxShownPlaces):] {
		rows = append(rows, map[string]any{name: p.Value, "first_at": Millis(p.First), "last_at": Millis(p.Last)})
	}
	return rows
}

// shownActivity returns the JSON fields of an entry.
func shownActivity(e *KeyActivity) map[string]any {
	objects := []any{}
	for _, o := range e.Objects {
		objects = append(objects, map[string]any{"object": o.Object, "did": o.Did})
	}
	shown := map[string]any{
		"number": e.Number, "kind": e.Kind, "at": Millis(e.At), "since": Millis(e.First()), "requests": e.Requests(), "method": TextOrNone(e.Method), "route": TextOrNone(e.Route),
		"objects": objects, "more_objects": e.More, "status": nil, "error": TextOrNone(e.Code), "client": AddrOrNone(e.Client), "network": TextOrNone(e.Network),
		"carrier": TextOrNone(e.Carrier), "carrier_before": TextOrNone(e.Before), "request_id": TextOrNone(e.Request),
	}
	if e.Status != 0 {
		shown["status"] = e.Status
	}
	return shown
}
