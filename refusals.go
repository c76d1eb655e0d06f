package main

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// MaxRefusals is how many refusals are kept; the oldest leave first.
const MaxRefusals = 10_000

// Refusals keeps the last refused requests in memory, to answer "why was this
// refused?" by request id. It is safe for concurrent use.
type Refusals struct {
	mu   sync.Mutex
	list []refused // a ring once it is full
	next int       // where in the ring the next one goes
}

// refused is one request that was answered with an error.
type refused struct {
	id, method, route, step, code, message string
	status                                 int
	key, name, owner                       string
	client                                 netip.Addr
	at                                     time.Time
	limits                                 []Standing
}

// NewRefusals keeps refusals from now on.
func NewRefusals() *Refusals { return &Refusals{} }

// Note keeps what became of a request if it was refused. It is one of the
// server's watchers.
func (f *Refusals) Note(o *Outcome) {
	if o.Code == "" || o.Status < http.StatusBadRequest {
		return
	}
	r := refused{
		id: o.ID, method: o.Method, route: o.Route, step: o.Step, code: o.Code, message: o.Text, status: o.Status, client: o.Client, at: o.Began,
		limits: slices.Clone(o.Limits),
	}
	if r.step == StepHandler && r.code == ErrRateLimit.Code {
		r.step = StepLimit // a daily one, which is charged with what is stored
	}
	if o.Found != nil {
		r.key, r.name, r.owner = o.Found.ID, o.Found.Name, o.Found.OwnerName
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) < MaxRefusals {
		f.list = append(f.list, r)
		return
	}
	f.list[f.next] = r
	f.next = (f.next + 1) % MaxRefusals
}

// AdminRoutes lists the endpoints.
func (f *Refusals) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/refusals", Handle: f.show}}
}

func (f *Refusals) show(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	id, key, code := q.Get("id"), q.Get("key"), q.Get("code")
	var found []refused
	f.mu.Lock()
	for i := range f.list { // newest first
		n := len(f.list)
		one := f.list[(f.next-1-i+2*n)%n]
		if (id == "" || one.id == id) && (key == "" || one.key == key) && (code == "" || one.code == code) {
			found = append(found, one)
		}
	}
	f.mu.Unlock()
	rows := []any{}
	from, to := page.Bounds(len(found))
	for _, one := range found[from:to] {
		rows = append(rows, one.shown())
	}
	answer := page.Answer(len(found), "refusals", rows)
	answer["kept"] = MaxRefusals
	return WriteJSON(w, http.StatusOK, answer)
}

func (r refused) shown() map[string]any {
	limits := []any{}
	for _, s := range r.limits {
		limits = append(limits, map[string]any{
			"name": s.Limit.Name, "max": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "window_seconds": int(s.Limit.Window / time.Second),
			"retry_after": int64((s.Wait + time.Second - 1) / time.Second),
		})
	}
	shown := map[string]any{
		"request_id": r.id, "at": Millis(r.at), "method": r.method, "route": r.route, "status": r.status, "error": r.code, "message": r.message,
		"refused_by": r.step, "key_id": TextOrNone(r.key), "key_name": TextOrNone(r.name), "owner": TextOrNone(r.owner), "client": nil, "limits": limits,
	}
	if r.client.IsValid() {
		shown["client"] = r.client.String()
	}
	return shown
}
