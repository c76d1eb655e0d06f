package main

import (
	"encoding/csv"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usage serves the endpoints with the counts of past requests.
type usage struct {
	store   *Store
	keyring *Keyring
	history *History
}

// NewUsage returns a usage that reads the counts from history, and the names and owners of
// the keys from keyring.
func NewUsage(store *Store, keyring *Keyring, history *History) *usage {
	return &usage{store: store, keyring: keyring, history: history}
}

// AdminRoutes returns the routes for operators.
func (u *usage) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/usage", Handle: u.all, Query: []string{"step", "last", "format", "by", "page", "limit"}, Lists: []string{"key"}},
		{Method: "GET", Path: "/admin/v1/keys/:id/history", Handle: u.ofKey, Query: []string{"step", "last", "format"}},
	}
}

// readPeriod reads the period from the parameters step and last of a query. The default of step is
// hour. The default of last is the number of steps that are kept.
func readPeriod(q url.Values, now time.Time) (period, error) {
	span := period{Step: stepHour, Now: now}
	if err := CheckWord(q, "step", "hour", "day"); err != nil {
		return span, err
	}
	if q.Get("step") == "day" {
		span.Step = StepDay
	}
	span.Last = span.Step.Kept()
	if q.Get("last") != "" {
		n, err := strconv.Atoi(q.Get("last"))
		if err != nil || n < 1 || n > span.Step.Kept() {
			return span, ErrValidation.With("last must be a whole number from 1 to %d, the number of steps that are kept; got %q.", span.Step.Kept(), q.Get("last"))
		}
		span.Last = n
	}
	return span, nil
}

// readFormat reads the parameter format of a query. It reports whether the answer must be CSV. The
// default is JSON.
func readFormat(q url.Values) (bool, error) {
	return q.Get("format") == "csv", CheckWord(q, "format", "json", "csv")
}

// showTally adds counts to fields, under the names of StatusClasses. It adds their sum as
// "requests". It returns fields.
func showTally(fields map[string]any, counts Counts) map[string]any {
	fields["requests"] = counts.Total()
	for i, name := range StatusClasses() {
		fields[name] = counts[i]
	}
	return fields
}

// bucketRow is a bucket as the admin endpoint shows it, with the counts by the names of StatusClasses. An
// answer may have thousands, and a struct is encoded much faster than a map.
type bucketRow struct {
	Start        *string `json:"start"`
	Requests     uint64  `json:"requests"`
	OK           uint64  `json:"ok"`
	ClientError  uint64  `json:"client_error"`
	Unauthorized uint64  `json:"unauthorized"`
	Forbidden    uint64  `json:"forbidden"`
	RateLimited  uint64  `json:"rate_limited"`
	ServerError  uint64  `json:"server_error"`
}

func showBuckets(list []bucket) []bucketRow {
	rows := []bucketRow{}
	for _, b := range list {
		n := b.Tally
		rows = append(rows, bucketRow{Seconds(b.Start), n.Total(), n[0], n[1], n[2], n[3], n[4], n[5]})
	}
	return rows
}

func sumOf(list []bucket) (sum Counts) {
	for _, b := range list {
		sum.Add(b.Tally)
	}
	return sum
}

// showPeriod returns the JSON fields that describe a period: its step and its two ends.
func showPeriod(span period) map[string]any {
	step := "hour"
	if span.Step == StepDay {
		step = "day"
	}
	return map[string]any{"step": step, "from": Seconds(span.From()), "to": Seconds(span.To())}
}

// ofKey answers with the history of the key in the path, as JSON or CSV.
func (u *usage) ofKey(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	span, err := readPeriod(q, r.Now)
	if err != nil {
		return err
	}
	asCSV, err := readFormat(q)
	if err != nil {
		return err
	}
	key, err := u.find(r.Params.ByName("id"))
	if err != nil {
		return err
	}
	list, err := u.history.Of(subject{ofKey, key.ID}, span)
	if err != nil {
		return err
	}
	if asCSV {
		out := beginCSV(w, "usage-"+key.ID, usageColumns()...)
		return out.end(out.rows(usageCells(key), list))
	}
	answer := showPeriod(span)
	answer["id"], answer["name"], answer["total"], answer["buckets"] = key.ID, key.Name, showTally(map[string]any{}, sumOf(list)), showBuckets(list)
	return WriteJSON(w, http.StatusOK, answer)
}

// find returns the key with this id, or ErrNotFound. Do not call it inside a transaction.
func (u *usage) find(id string) (key *Key, err error) {
	err = u.store.View(func(tx *Tx) error {
		key, err = u.keyring.Get(tx, id)
		return err
	})
	return key, err
}

// all answers with the history of the whole service, the sums by route, the sums by error
// code, and one page of the keys with the most requests. If the query has the parameter
// key, the answer has the named keys and their buckets instead of that page.
func (u *usage) all(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err = errors.Join(err, CheckWord(q, "by", "key", "route", "error")); err != nil {
		return err
	}
	span, err := readPeriod(q, r.Now)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	asCSV, err := readFormat(q)
	if err != nil {
		return err
	}
	if asCSV {
		return u.sendAll(w, q.Get("by"), span)
	}
	service, err := u.history.Of(subject{Kind: ofService}, span)
	if err != nil {
		return err
	}
	routes, err1 := u.sums(ofRoute, "route", span)
	codes, err2 := u.sums(ofCode, "error", span)
	keys, count, err3 := u.keys(r, page, span)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	answer := page.Answer(count, "keys", keys)
	for name, value := range showPeriod(span) {
		answer[name] = value
	}
	answer["total"], answer["buckets"], answer["routes"], answer["errors"] = showTally(map[string]any{}, sumOf(service)), showBuckets(service), routes, codes
	return WriteJSON(w, http.StatusOK, answer)
}

// sums returns the JSON fields of each subject of a kind. Those with the most requests are first.
// field is the JSON name for the name of the subject.
func (u *usage) sums(kind byte, field string, span period) ([]any, error) {
	ranked, err := u.history.Ranked(kind, span)
	rows := []any{}
	for _, s := range ranked.Part(0, ranked.Count) {
		rows = append(rows, showTally(map[string]any{field: s.name}, s.sum))
	}
	return rows, err
}

// limitedAt returns when a limit last refused a request with the key id. It returns nil if
// that did not happen within limitedSpan before now.
func (u *usage) limitedAt(id string, now time.Time) *string {
	if at := u.history.LimitedAt(id); now.Sub(at) <= limitedSpan {
		return Seconds(at)
	}
	return nil
}

// keys returns the JSON fields of the keys that the query parameter key names, and their
// number. Without that parameter it returns one page of the keys that were used in span, and
// the number of all these keys. The error is ErrNotFound if a named key does not exist.
func (u *usage) keys(r *Request, page Page, span period) (rows []any, count int, err error) {
	rows = []any{}
	ids, err := r.QueryList("key")
	if err != nil {
		return nil, 0, err
	}
	if len(ids) > 1000 {
		return nil, 0, ErrValidation.With("key may appear at most 1000 times in the query; got %d.", len(ids))
	}
	for _, id := range ids {
		key, err := u.find(id)
		if err != nil {
			return nil, 0, err
		}
		list, err := u.history.Of(subject{ofKey, id}, span)
		if err != nil {
			return nil, 0, err
		}
		rows = append(rows, showTally(map[string]any{"id": id, "name": key.Name, "owner": key.OwnerName, "sandbox": key.Sandbox(), "buckets": showBuckets(list), "limited_at": u.limitedAt(id, r.Now)}, sumOf(list)))
	}
	if len(ids) > 0 {
		return rows, len(ids), nil
	}
	return u.used(page, span, nil)
}

// used returns the JSON fields of one page of the keys that were used in span, except those with the ids in without, and the
// number of all these keys.
func (u *usage) used(page Page, span period, without map[string]bool) (rows []any, count int, err error) {
	ranked, err := u.history.Ranked(ofKey, span)
	if err != nil {
		return nil, 0, err
	}
	count, rows = ranked.Count, []any{}
	from, to := page.Bounds(count)
	list := ranked.Part(from, to)
	if len(without) > 0 {
		list = slices.DeleteFunc(ranked.Part(0, count), func(s used) bool { return without[s.name] })
		count = len(list)
		from, to = page.Bounds(count)
		list = list[from:to]
	}
	for _, s := range list {
		key, err := u.find(s.name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		rows = append(rows, showTally(map[string]any{"id": s.name, "name": key.Name, "owner": key.OwnerName, "sandbox": key.Sandbox()}, s.sum))
	}
	return rows, count, nil
}

// sendAll answers with the buckets of all routes as CSV if by is "route", of all error codes if it
// is "error", and otherwise of all keys.
func (u *usage) sendAll(w http.ResponseWriter, by string, span period) error {
	kind := byte(ofRoute)
	switch by {
	case "route":
	case "error":
		kind = ofCode
	default:
		return u.sendKeys(w, span)
	}
	out := beginCSV(w, "usage-"+by+"s", by)
	return out.end(u.history.All(kind, span, func(name string, list []bucket) error { return out.rows([]string{name}, list) }))
}

// sendKeys answers with the buckets of all keys as CSV. It leaves out keys that were deleted.
func (u *usage) sendKeys(w http.ResponseWriter, span period) error {
	out := beginCSV(w, "usage", usageColumns()...)
	return out.end(u.history.All(ofKey, span, func(id string, list []bucket) error {
		key, err := u.find(id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return out.rows(usageCells(key), list)
	}))
}

func usageColumns() []string { return []string{"key_id", "name", "owner"} }

func usageCells(k *Key) []string { return []string{k.ID, k.Name, k.OwnerName} }

// usageTable writes buckets to an answer as CSV. The first line has the column names.
type usageTable struct {
	w   http.ResponseWriter
	csv *csv.Writer
}

// beginCSV begins a CSV answer and writes the line of column names. A browser saves the answer
// as file with ".csv" added. columns are the names of the columns before the columns of the
// buckets.
func beginCSV(w http.ResponseWriter, file string, columns ...string) *usageTable {
	return &usageTable{w, newCSV(w, file, append(append(columns, "start", "requests"), StatusClasses()...))}
}

// newCSV begins a CSV answer, which a browser saves as file with ".csv" added, and writes the line of
// column names.
func newCSV(w http.ResponseWriter, file string, columns []string) *csv.Writer {
	h := w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+file+`.csv"`)
	out := csv.NewWriter(w)
	_ = out.Write(columns) // fails only if the client has disconnected
	return out
}

// rows writes a line for each bucket. Each line begins with cells. If the client has
// disconnected, rows panics with http.ErrAbortHandler. The returned error is always nil.
func (t *usageTable) rows(cells []string, list []bucket) error {
	for _, b := range list {
		line := []string{}
		for _, cell := range cells {
			line = append(line, plainCell(cell))
		}
		line = append(line, b.Start.Format(time.RFC3339), strconv.FormatUint(b.Tally.Total(), 10))
		for _, n := range b.Tally {
			line = append(line, strconv.FormatUint(n, 10))
		}
		if err := t.csv.Write(line); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}

// end sends the buffered lines. If err is not nil, the answer is incomplete. Its status has
// been sent already, so end panics with http.ErrAbortHandler. The server then breaks the
// connection, and the client notices that lines are missing. The returned error is always
// nil.
func (t *usageTable) end(err error) error {
	if t.csv.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// plainCell returns text in a form that a spreadsheet does not run as a formula. If text
// begins like a formula, it puts an apostrophe in front. This is needed because users
// choose the names of keys and owners.
func plainCell(text string) string {
	if strings.HasPrefix(strings.TrimLeft(text, " \u00a0"), "=") || text != "" && strings.ContainsRune("+-@\t\r\n\uff1d\uff0b\uff0d\uff20", []rune(text)[0]) {
		return "'" + text
	}
	return text
}
