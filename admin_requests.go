package main

import (
	"cmp"
	"errors"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxRequests is the number of the latest requests in memory, and requestBlock the number of them in
// one allocation. A service with few requests has few blocks.
const (
	maxRequests  = 20_000
	requestBlock = 1000
)

// Requests holds the latest requests to the API in memory, and counts all of them by minute for the last
// two hours. It is safe for concurrent use. Note takes no lock that requests share, so that the list
// does not slow them down.
type Requests struct {
	noted   atomic.Uint64 // number of all requests so far
	blocks  [maxRequests / requestBlock]atomic.Pointer[[requestBlock]requestSlot]
	minutes [16]minuteCounts // see minuteOf
}

// requestSlot is a place in the list. Its mutex is held only while the slot is written or copied.
type requestSlot struct {
	mu sync.Mutex
	recentRequest
}

// recentRequest describes an answered request. It holds the pattern of the route and never the path or the
// query, which can contain a secret.
type recentRequest struct {
	number                    uint64 // 1 for the first request; 0: the slot is empty
	id                        [16]byte
	method, route, step, code string
	status                    int
	key, name, owner          string
	sandbox                   bool // the key is a sandbox key
	client                    netip.Addr
	at                        time.Time
	took                      time.Duration
}

// minuteCounts holds counts of the minutes of one part of the requests.
type minuteCounts struct {
	mu    sync.Mutex
	slots [keptMinutes]struct {
		minute int64 // number of the minute since 1970
		counts Counts
	}
}

// keptMinutes is the number of minutes that are counted: an hour, and the one before it.
const keptMinutes = 120

// NewRequests returns a Requests without entries.
func NewRequests() *Requests { return &Requests{} }

// Noted returns the number of all requests so far.
func (q *Requests) Noted() uint64 { return q.noted.Load() }

// listedMethods are the names of methods, so that an entry does not keep the memory of a request.
var listedMethods = []string{"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"}

// Note adds a request. The server calls it after each request. Note copies the values that it needs, so
// the caller may reuse o.
func (q *Requests) Note(o *Outcome) {
	number := q.noted.Add(1)
	a := recentRequest{number: number, method: "other", route: o.Route, step: o.RefusedBy(), code: o.Code, status: o.Status, client: o.Client, at: o.Began, took: o.Took}
	copy(a.id[:], o.ID)
	if i := slices.Index(listedMethods, o.Method); i >= 0 {
		a.method = listedMethods[i]
	}
	if o.Found != nil {
		a.key, a.name, a.owner, a.sandbox = o.Found.ID, o.Found.Name, o.Found.OwnerName, o.Found.Sandbox()
	}
	slot := q.slot(number)
	slot.mu.Lock()
	if slot.number < number {
		slot.recentRequest = a
	}
	slot.mu.Unlock()
	if a.sandbox { // the figures of the service are of live requests
		return
	}
	q.minutes[number%uint64(len(q.minutes))].add(o.Began.Unix()/60, classOf(o.Status))
}

// slot returns the place of the request with this number.
func (q *Requests) slot(number uint64) *requestSlot {
	place := number % maxRequests
	block := &q.blocks[place/requestBlock]
	made := block.Load()
	for made == nil {
		block.CompareAndSwap(nil, new([requestBlock]requestSlot))
		made = block.Load()
	}
	return &made[place%requestBlock]
}

// add counts a request of a class in a minute.
func (m *minuteCounts) add(minute int64, class int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := &m.slots[minute%keptMinutes]
	if slot.minute > minute { // a late request of a minute that is not kept any more
		return
	}
	if slot.minute < minute {
		slot.minute, slot.counts = minute, Counts{}
	}
	slot.counts[class]++
}

// Minutes returns the counts of the last minutes, the oldest first. The last is the minute of now.
func (q *Requests) Minutes(now time.Time, last int) (list []bucket) {
	first := now.Unix()/60 - int64(last) + 1
	for i := range int64(last) {
		list = append(list, bucket{Start: time.Unix((first+i)*60, 0).UTC()})
	}
	for i := range q.minutes {
		m := &q.minutes[i]
		m.mu.Lock()
		for _, slot := range m.slots {
			if at := slot.minute - first; at >= 0 && at < int64(last) {
				list[at].Tally.Add(slot.counts)
			}
		}
		m.mu.Unlock()
	}
	return list
}

// requestFilter selects requests. The zero value of a field is no filter.
type requestFilter struct {
	id, key, route, method, code string
	client                       netip.Addr
	status                       int  // the status, or its first digit
	spaced, sandbox              bool // spaced: only those with sandbox keys, or only all others
}

func (f requestFilter) selects(a *recentRequest) bool {
	return (f.id == "" || a.requestID() == f.id) && (f.key == "" || a.key == f.key) && (f.route == "" || a.route == f.route) && (f.method == "" || a.method == f.method) &&
		(f.code == "" || a.code == f.code) && (!f.client.IsValid() || a.client == f.client) && (f.status == 0 || a.status == f.status || a.status/100 == f.status) &&
		(!f.spaced || a.sandbox == f.sandbox)
}

func (a *recentRequest) requestID() string {
	n := slices.Index(a.id[:], 0)
	if n < 0 {
		n = len(a.id)
	}
	return string(a.id[:n])
}

// Find returns the requests that a filter selects, newest first, from the position from up to that before
// to, and how many there are at all positions.
func (q *Requests) Find(f requestFilter, from, to int) (found []recentRequest, count int) {
	for one := range q.newest() {
		if !f.selects(one) {
			continue
		}
		if count >= from && count < to {
			found = append(found, *one)
		}
		count++
	}
	return found, count
}

// newest yields the requests in memory, newest first. A request is locked while it is yielded, so it
// must be copied to be kept.
func (q *Requests) newest() iter.Seq[*recentRequest] {
	visit := func(number uint64, yield func(*recentRequest) bool) bool {
		block := q.blocks[number%maxRequests/requestBlock].Load()
		if block == nil {
			return true
		}
		slot := &block[number%requestBlock]
		slot.mu.Lock()
		defer slot.mu.Unlock()
		// The slot has another number until the request is written, and once it is overwritten.
		return slot.number != number || yield(&slot.recentRequest)
	}
	return func(yield func(*recentRequest) bool) {
		last := q.noted.Load()
		for number := last; number > 0 && number+maxRequests > last; number-- {
			if !visit(number, yield) {
				return
			}
		}
	}
}

// latency is how long requests took: half of them at most P50, 99 of 100 at most P99.
type latency struct {
	P50, P99 time.Duration
	Requests int // how many were measured
}

// Latency returns how long the requests since a time took, as far as they are in memory.
func (q *Requests) Latency(since time.Time) (l latency) {
	var took []time.Duration
	for one := range q.newest() {
		if one.at.Before(since) {
			break
		}
		took = append(took, one.took)
	}
	if len(took) == 0 {
		return l
	}
	slices.Sort(took)
	return latency{took[(len(took)-1)/2], took[(len(took)*99-1)/100], len(took)}
}

// AdminRoutes returns the routes for operators.
func (q *Requests) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/requests", Handle: q.show, Query: []string{"page", "limit", "id", "key", "route", "method", "status", "code", "client", "sandbox"}}}
}

// show answers with a page of the list, newest first.
func (q *Requests) show(w http.ResponseWriter, r *Request) error {
	query, err := r.Query(r.Parameters...)
	if err = errors.Join(err, CheckWord(query, "sandbox", "true", "false")); err != nil {
		return err
	}
	page, err := ReadPage(query, 50, 1000)
	if err != nil {
		return err
	}
	f := requestFilter{id: query.Get("id"), key: query.Get("key"), route: query.Get("route"), method: query.Get("method"), code: query.Get("code"), spaced: query.Get("sandbox") != "", sandbox: WantsSandbox(query)}
	if f.code != "" && !KnownCode(f.code) {
		return ErrValidation.With("code must be one of the error codes that the page /errors lists; got %q.", f.code)
	}
	if f.method != "" && !slices.Contains(listedMethods, f.method) {
		return ErrValidation.With("method must be the name of a method, such as GET; got %q.", f.method)
	}
	if text := query.Get("status"); text != "" {
		n, err := strconv.Atoi(cmp.Or(map[string]string{"2xx": "2", "3xx": "3", "4xx": "4", "5xx": "5"}[text], text))
		if err != nil || (n < 2 || n > 5) && (n < 100 || n > 599) {
			return ErrValidation.With("status must be a status such as 404, or one of 2xx, 3xx, 4xx and 5xx; got %q.", text)
		}
		f.status = n
	}
	if text := query.Get("client"); text != "" {
		if f.client, err = netip.ParseAddr(text); err != nil {
			return ErrValidation.With("client must be an IP address, such as 192.0.2.7; got %q.", text)
		}
	}
	from, to := page.Bounds(maxRequests)
	found, count := q.Find(f, from, to)
	rows := []any{}
	for _, one := range found {
		rows = append(rows, one.shown())
	}
	answer := page.Answer(count, "requests", rows)
	answer["kept"] = maxRequests
	return WriteJSON(w, http.StatusOK, answer)
}

// shown returns the JSON fields of a request.
func (a *recentRequest) shown() map[string]any {
	return map[string]any{
		"request_id": a.requestID(), "at": Millis(a.at), "method": a.method, "route": a.route, "status": a.status, "duration_ms": float64(a.took.Microseconds()) / 1000,
		"error": TextOrNone(a.code), "refused_by": TextOrNone(a.step), "key_id": TextOrNone(a.key), "key_name": TextOrNone(a.name), "owner": TextOrNone(a.owner), "sandbox": a.sandbox, "client": AddrOrNone(a.client),
	}
}
