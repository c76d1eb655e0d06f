package main

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"latchkey/internal/sorted"
)

// whatIf serves the endpoint at which operators learn what a limit would have done with past
// requests. It changes and charges nothing.
type whatIf struct {
	store   *Store
	keyring *Keyring
	limiter *Limiter
}

// NewWhatIf returns the endpoint for the keys in keyring.
func NewWhatIf(store *Store, keyring *Keyring, limiter *Limiter) *whatIf {
	return &whatIf{store: store, keyring: keyring, limiter: limiter}
}

// AdminRoutes returns the routes for operators.
func (w *whatIf) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/limits/what-if", Handle: w.answer, Heavy: HeavyAlways}}
}

// The bounds of an answer.
const (
	triedSpan = 7 * 24 * time.Hour // how far back it goes unless the request says otherwise
	triedRows = 100                // most keys or owners that it lists for a limit
	triedPart = 200                // keys or owners that are replayed in one transaction
)

// trialQuery is what a request asks for.
type trialQuery struct {
	limits []LimitRule // with the tried numbers as Max
	since  time.Time
	steady time.Time // service time of since
	key    *Key      // only this key, and its owner for limits of owners; nil: any
	owner  uint64    // only this owner and its keys; 0: any that is no sandbox
}

// counts reports whether what a key of an owner has asked for counts. Sandboxes count only if the request names a key of one.
func (q *trialQuery) counts(rule LimitRule, key string, owner uint64) bool {
	if q.key != nil && !rule.Owner && key != q.key.ID {
		return false
	}
	return owner == q.owner || q.owner == 0 && !IsSandbox(owner)
}

// ids returns the ids of the keys whose requests per minute count.
func (q *trialQuery) ids(tx *Tx, rule LimitRule, days []int64) (ids []string) {
	if q.key != nil && !rule.Owner {
		return []string{q.key.ID}
	}
	if q.owner == 0 {
		return minuteKeys(tx, days)
	}
	for _, id := range KeyTable.Find(tx, "owner", IDKey(q.owner), Forward) {
		ids = append(ids, string(id))
	}
	return ids
}

// spends returns the name of the limit of keys whose charges a rule counts.
func spends(rule LimitRule) string {
	if rule.Owner {
		return rule.With
	}
	return rule.Name
}

// triable reports whether it is recorded what was asked of a limit.
func triable(rule LimitRule) bool {
	return slices.Contains([]string{RequestsPerMinute, CallsPerDay, EventsPerDay}, spends(rule))
}

// read reads the body of a request.
func (w *whatIf) read(r *Request) (q trialQuery, err error) {
	body, err := r.ReadFields(OnlyFields("limits", "key", "owner", "since"))
	if err != nil {
		return q, err
	}
	if q.limits, err = w.readLimits(body); err != nil {
		return q, err
	}
	key, owner := "", ""
	q.since = r.Now.Add(-triedSpan)
	body.String("key", AnyLength, &key)
	body.String("owner", AnyLength, &owner)
	if body.Given("since") {
		body.Time("since", &q.since)
	}
	switch {
	case body.Err() != nil:
		return q, body.Err()
	case key != "" && owner != "":
		return q, ErrValidation.With("key and owner cannot be used together. Send one of them, or neither for all keys.")
	case !q.since.Before(r.Now):
		return q, ErrValidation.With("since must be in the past; got %s.", q.since.Format(time.RFC3339))
	}
	q.steady = r.Steady.Add(q.since.Sub(r.Now))
	err = w.store.View(func(tx *Tx) (err error) {
		if key != "" {
			if q.key, err = w.keyring.Get(tx, key); err == nil {
				q.owner = q.key.Owner
			}
		}
		if owner != "" {
			o, bad := OwnerNamed(tx, owner)
			q.owner, err = o.ID, bad
		}
		return err
	})
	return q, err
}

// readLimits reads which limits are to be tried with which numbers.
func (w *whatIf) readLimits(body *Body) (list []LimitRule, err error) {
	if !body.Given("limits") {
		return nil, ErrMissing.With("limits is missing. Send an object such as {%q: 30}.", RequestsPerMinute)
	}
	tried, err := body.Object(body.Raw("limits"))
	if err != nil {
		return nil, ErrValidation.With("limits must be an object such as {%q: 30}.", RequestsPerMinute)
	}
	var names []string
	rules := w.keyring.Rights().Limits()
	for _, rule := range rules {
		if triable(rule) {
			names = append(names, rule.Name)
		}
	}
	for _, name := range tried.Names() {
		i := slices.IndexFunc(rules, func(l LimitRule) bool { return l.Name == name && triable(l) })
		if i < 0 {
			return nil, ErrValidation.With("limits.%s cannot be tried, because it is not recorded what was asked of it. Send one of %s.",
				name, strings.Join(names, ", "))
		}
		rule := rules[i]
		rule.Max = 0
		if tried.Int(name, &rule.Max, 1, MaxLimit); tried.Err() != nil || rule.Max == 0 {
			return nil, ErrValidation.With("limits.%s must be a whole number from 1 to %d; got %s.", name, MaxLimit, tried.Raw(name))
		}
		list = append(list, rule)
	}
	if len(list) == 0 {
		return nil, ErrMissing.With("limits has no member. Send an object such as {%q: 30}.", RequestsPerMinute)
	}
	return list, nil
}

// trialRow is what a limit would have done to one key or owner.
type trialRow struct {
	ID          *string `json:"id"`   // of the key; null: the limit is one of owners
	Name        *string `json:"name"` // of the key
	Owner       string  `json:"owner"`
	Limit       int     `json:"limit"` // the present number; 0: no limit
	Asked       uint64  `json:"asked"`
	RefusedThen *uint64 `json:"refused_then"` // null: not recorded
	Least       uint64  `json:"refused_least"`
	Most        uint64  `json:"refused_most"`
	Enough      int     `json:"refuses_none"`

	keys []string // ids of the keys that were asked with
}

// set fills in what a replay has found.
func (t *trialRow) set(r *Replay) {
	t.Asked, t.Least, t.Most, t.Enough = r.Asked, r.Least, r.Most, r.Enough()
}

// trial is what a limit would have done.
type trial struct {
	Name        string      `json:"name"`
	Limit       int         `json:"limit"` // the tried number
	Scope       string      `json:"scope"`
	Window      int         `json:"window_seconds"`
	Exact       bool        `json:"exact"` // the time of each request is known
	Asked       uint64      `json:"asked"`
	RefusedThen *uint64     `json:"refused_then"`
	Least       uint64      `json:"refused_least"`
	Most        uint64      `json:"refused_most"`
	Enough      int         `json:"refuses_none"`
	Count       int         `json:"count"` // of the keys or owners that have asked
	Hit         int         `json:"hit"`   // of those of which requests would have been refused
	Rows        []*trialRow `json:"most_refused"`
}

// sum sets the sums of rows and keeps those that the limit would have hit most.
func (t *trial) sum(rows []*trialRow) {
	t.Count = len(rows)
	if !t.Exact {
		t.RefusedThen = new(uint64)
	}
	for _, row := range rows {
		t.Asked, t.Least, t.Most, t.Enough = t.Asked+row.Asked, t.Least+row.Least, t.Most+row.Most, max(t.Enough, row.Enough)
		if row.RefusedThen != nil {
			*t.RefusedThen += *row.RefusedThen
		}
		if row.Most > 0 {
			t.Hit++
		}
	}
	sorted.Func(rows, func(a, b *trialRow) int {
		return cmp.Or(cmp.Compare(b.Most, a.Most), cmp.Compare(b.Enough, a.Enough), strings.Compare(a.keys[0], b.keys[0]))
	})
	t.Rows = append([]*trialRow{}, rows[:min(len(rows), triedRows)]...)
}

func (w *whatIf) answer(out http.ResponseWriter, r *Request) error {
	q, err := w.read(r)
	if err != nil {
		return err
	}
	answer := map[string]any{"from": Seconds(q.since), "to": Seconds(r.Now), "recorded_since": nil, "left_out": 0}
	var list []*trial
	for _, rule := range q.limits {
		t := &trial{Name: rule.Name, Limit: rule.Max, Scope: rule.Scope(), Window: int(rule.Window / time.Second)}
		t.Exact = spends(rule) != RequestsPerMinute
		var rows []*trialRow
		if t.Exact {
			rows, err = w.replayRecords(r, q, rule)
		} else {
			rows, err = w.replayMinutes(r, q, rule)
		}
		if err != nil {
			return err
		}
		t.sum(rows)
		if err := r.View(w.store, func(tx *Tx) error { return w.name(tx, t.Rows, rule) }); err != nil {
			return err
		}
		list = append(list, t)
	}
	err = r.View(w.store, func(tx *Tx) error {
		m, err := readMinutesRecord(tx)
		if m == nil || err != nil {
			return err
		}
		since := r.Now.Add(CellBegin(m.from).Sub(r.Steady))
		if since.Before(q.since) {
			since = q.since
		}
		answer["recorded_since"] = Seconds(since)
		answer["left_out"] = m.leftSince(CellOf(q.steady) / dayCells)
		return nil
	})
	if err != nil {
		return err
	}
	answer["limits"] = list
	return WriteJSON(out, http.StatusOK, answer)
}

// name sets the names of the keys and owners of rows, and their present numbers.
func (w *whatIf) name(tx *Tx, rows []*trialRow, rule LimitRule) error {
	for _, row := range rows {
		key, err := w.keyring.Get(tx, row.keys[0])
		if err != nil {
			return err
		}
		row.Owner = key.OwnerName
		if !rule.Owner {
			row.ID, row.Name = &key.ID, &key.Name
		}
		for _, l := range key.Rules() {
			if l.Name == rule.Name {
				row.Limit = l.Max
			}
		}
	}
	return nil
}

// replayMinutes replays the counts of requests per minute, and returns a row for each key, or each
// owner, that has asked.
func (w *whatIf) replayMinutes(r *Request, q trialQuery, rule LimitRule) (rows []*trialRow, err error) {
	var days []int64
	err = r.View(w.store, func(tx *Tx) error {
		days, rows = minuteDays(tx), nil
		owners := map[uint64]*trialRow{}
		for _, id := range q.ids(tx, rule, days) {
			key, err := KeyTable.Shared(tx, []byte(id))
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if !q.counts(rule, id, key.Owner) {
				continue
			}
			if row := owners[key.Owner]; rule.Owner && row != nil {
				row.keys = append(row.keys, id)
				continue
			}
			row := &trialRow{keys: []string{id}}
			rows, owners[key.Owner] = append(rows, row), row
		}
		return nil
	})
	from := CellOf(q.steady)
	for part := range slices.Chunk(rows, triedPart) {
		if err != nil {
			return nil, err
		}
		err = r.View(w.store, func(tx *Tx) error {
			for _, row := range part {
				replay, then := w.limiter.Replay(rule.Limit), uint64(0)
				err := eachCell(tx, days, row.keys, from, func(cell int64, c cellCount) {
					replay.AskCell(cell, int(c.asked))
					then += uint64(c.refused)
				})
				if err != nil {
					return err
				}
				row.RefusedThen = &then
				row.set(replay)
			}
			return nil
		})
	}
	return slices.DeleteFunc(rows, func(row *trialRow) bool { return row.Asked == 0 }), err
}

// replayRecords replays the calls or events that keys have created, and returns a row for each key,
// or each owner.
func (w *whatIf) replayRecords(r *Request, q trialQuery, rule LimitRule) (rows []*trialRow, err error) {
	each := CallsOfKeys
	if spends(rule) == EventsPerDay {
		each = EventsOfKeys
	}
	var made []Created
	err = r.View(w.store, func(tx *Tx) (err error) {
		made, err = each(tx, q.since)
		return err
	})
	if err != nil {
		return nil, err
	}
	type counted struct {
		row    *trialRow
		replay *Replay
	}
	by := map[any]counted{}
	for _, c := range made {
		if !q.counts(rule, c.Key, c.Owner) {
			continue
		}
		of := any(c.Key)
		if rule.Owner {
			of = c.Owner
		}
		one, known := by[of]
		if !known {
			one = counted{&trialRow{keys: []string{c.Key}}, w.limiter.Replay(rule.Limit)}
			by[of], rows = one, append(rows, one.row)
		}
		one.replay.Ask(c.At)
	}
	for _, one := range by {
		one.row.set(one.replay)
	}
	return rows, nil
}
