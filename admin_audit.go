package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"latchkey/internal/clock"
)

// How many refusals the audit log records, so that an attacker can neither fill the
// disk nor evict other entries. The first bound is for one client network without a
// valid login or token, in 15 minutes. The other two are for each of the two budgets
// of AuditLog. Refusals beyond them are only counted.
const (
	refusedByAddress = 20
	refusedPerMinute = 60
	refusedPerDay    = 2000
)

// AuditOptions configures an AuditLog.
type AuditOptions struct {
	Store *Store
	Clock *clock.Clock
	Keep  time.Duration // entries older than this are deleted
	Most  int           // the number of entries to keep; the oldest are deleted
	Log   *slog.Logger
}

// AuditLog serves the audit log, records refused requests in it, and deletes old
// entries. It is safe for concurrent use.
type AuditLog struct {
	o         AuditOptions
	addresses *Throttle // refusals of strangers, by client network

	mu     sync.Mutex
	known  budget    // for callers with a valid token or login
	others budget    // for strangers: all other callers
	told   time.Time // when tellLeft last wrote an entry, wall clock
}

// budget bounds the refusals that are recorded in a minute and in a day. left counts
// the ones that were not recorded.
type budget struct {
	minute, day Window
	left        int
}

func newBudget() budget {
	return budget{minute: NewWindow(refusedPerMinute, time.Minute), day: NewWindow(refusedPerDay, 24*time.Hour)}
}

func (b *budget) take(now time.Time) bool {
	if b.minute.Wait(now, 1) > 0 || b.day.Wait(now, 1) > 0 {
		b.left++
		return false
	}
	b.minute.Add(now, 1)
	b.day.Add(now, 1)
	return true
}

// NewAuditLog returns an AuditLog for the store in o.
func NewAuditLog(o AuditOptions) *AuditLog {
	return &AuditLog{o: o, addresses: NewThrottle(refusedByAddress, 15*time.Minute), known: newBudget(), others: newBudget()}
}

// AdminRoutes lists the endpoints.
func (a *AuditLog) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/audit", Handle: a.list},
		{Method: "GET", Path: "/admin/v1/audit/verify", Handle: a.verify},
	}
}

// Watch records a request that the admin endpoint refused with a 4xx status. Of the
// GET requests it records only those with 401, 403 or 429.
func (a *AuditLog) Watch(o *Outcome) {
	if o.Status < 400 || o.Status >= 500 || !strings.HasPrefix(o.Route, "/admin/") {
		return
	}
	if o.Method == http.MethodGet && o.Status != http.StatusUnauthorized && o.Status != http.StatusForbidden && o.Status != http.StatusTooManyRequests {
		return
	}
	by := AuditContext{
		Actor: o.Actor, Client: o.Client, Action: o.Method + " " + o.Route, Object: RouteObject(o.Route, o.Params), Request: o.ID, Now: o.Began,
	}
	a.Refused(by, &Error{Status: o.Status, Code: o.Code})
}

// Refused adds the refusal of by to the audit log, unless there are too many. It
// does not wait for the disk; a failure is logged.
func (a *AuditLog) Refused(by AuditContext, why *Error) {
	now := a.o.Clock.Service(by.Now)
	if by.Actor == "" {
		by.Actor = "nobody"
	}
	if !a.take(by.Actor == "nobody", by.Client, now) {
		return
	}
	a.o.Store.Queue(func(tx *Tx) error { return by.Refused(tx, why.Status, why.Code) }, func(err error) {
		if err != nil && !errors.Is(err, ErrUnavailable) {
			a.o.Log.Error("store a refusal in the audit log", "error", err)
		}
	})
}

func (a *AuditLog) take(stranger bool, from netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !stranger {
		return a.known.take(now)
	}
	if a.addresses.Fail(from, now) > 0 {
		a.others.left++
		return false
	}
	return a.others.take(now)
}

// Tend deletes entries that are too old or too many. At most once an hour it adds an
// entry with the number of refusals that were not recorded. Call it about once a
// minute; now is of Clock.Now.
func (a *AuditLog) Tend(now time.Time) error {
	return errors.Join(a.tellLeft(now), a.cut(now))
}

func (a *AuditLog) tellLeft(now time.Time) error {
	a.mu.Lock()
	known, others := a.known.left, a.others.left
	due := known+others > 0 && (a.told.IsZero() || now.Sub(a.told) >= time.Hour || now.Before(a.told))
	a.mu.Unlock()
	if !due {
		return nil
	}
	by := AuditContext{Actor: ActorSelf, Action: "refusals not written down", Now: now, Detail: map[string]any{"of_strangers": others, "of_known": known}}
	if err := a.o.Store.Update(by.Append); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known.left, a.others.left, a.told = a.known.left-known, a.others.left-others, now
	return nil
}

// cut deletes old entries at most once a day, and surplus entries once they are more
// than a hundredth of Most. Each cut adds an entry to the log, so cutting one entry at
// a time would gain nothing.
func (a *AuditLog) cut(now time.Time) error {
	due := false
	before := a.o.Clock.Service(now).Add(-a.o.Keep) // service time: a wrong wall clock must delete nothing
	err := a.o.Store.View(func(tx *Tx) error {
		count, err := CountAudit(tx)
		if err != nil {
			return err
		}
		head, err := ReadAuditHead(tx)
		if err != nil {
			return err
		}
		due = count > a.o.Most+a.o.Most/100
		for l, err := range AuditRecords(tx, "", false) {
			if err != nil {
				return err
			}
			e, err := l.Open()
			due = due || err == nil && e.At.Before(before) && now.Sub(head.CutAt) >= 24*time.Hour
			return err
		}
		return nil
	})
	if err != nil || !due {
		return err
	}
	for cut := 1; cut > 0 && err == nil; {
		err = a.o.Store.Update(func(tx *Tx) (err error) {
			cut, err = CutAudit(tx, before, a.o.Most, now)
			return err
		})
	}
	return err
}

func (a *AuditLog) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	f := auditFilter{q.Get("actor"), q.Get("action"), q.Get("object"), q.Get("result")}
	if f.result != "" && !slices.Contains(AuditResults(), f.result) {
		return ErrValidation.With("result must be done or refused; got %q.", f.result)
	}
	rows, count := []any{}, 0
	err = a.o.Store.View(func(tx *Tx) error {
		if f == (auditFilter{}) {
			rows, count, err = auditPage(tx, page)
			return err
		}
		for l, err := range AuditRecords(tx, f.indexed(), true) {
			if err != nil {
				return err
			}
			e, err := l.Open()
			if err != nil {
				return err
			}
			if !f.matches(e) {
				continue
			}
			if count++; count > (page.Number-1)*page.Limit && len(rows) < page.Limit {
				rows = append(rows, showEntry(l))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "entries", rows))
}

// auditPage returns one page of the unfiltered log, newest first, and the number of
// entries. Entry numbers have no gaps, so it reads only the page.
func auditPage(tx *Tx, page Page) (rows []any, count int, err error) {
	rows = []any{}
	if count, err = CountAudit(tx); err != nil {
		return nil, 0, err
	}
	head, err := ReadAuditHead(tx)
	if err != nil {
		return nil, 0, err
	}
	from, to := page.Bounds(count)
	for i := from; i < to; i++ {
		l, err := AuditRecordAt(tx, head.Number-uint64(i))
		if errors.Is(err, ErrNotFound) {
			continue // removed from the file; verify reports it
		}
		if err != nil {
			return nil, 0, err
		}
		rows = append(rows, showEntry(l))
	}
	return rows, count, nil
}

// auditFilter holds the filters of a list; "" matches every entry.
type auditFilter struct{ actor, action, object, result string }

// indexed returns the object to look up in the index, such as "key key_018c...". It
// returns "" if the filter has no complete object. The id of a key is complete.
func (f auditFilter) indexed() string {
	if strings.HasPrefix(f.object, "key_") {
		return "key " + f.object
	}
	if strings.Contains(f.object, " ") {
		return f.object
	}
	return ""
}

func (f auditFilter) matches(e AuditEntry) bool {
	if !wordsOf(e.Actor, f.actor) || !strings.Contains(e.Action, f.action) || f.result != "" && e.Result != f.result {
		return false
	}
	if f.object == "" || f.indexed() != "" {
		return true
	}
	if wordsOf(e.Object, f.object) {
		return true
	}
	for _, c := range e.Changes {
		if wordsOf(c.Object, f.object) {
			return true
		}
	}
	return false
}

// wordsOf reports whether name is asked, or begins with asked and a blank. An empty
// asked matches every name.
func wordsOf(name, asked string) bool {
	return asked == "" || name == asked || strings.HasPrefix(name, asked+" ")
}

// showEntry returns an entry as the endpoint shows it: the stored JSON and its hash.
func showEntry(l AuditRecord) any {
	var shown map[string]any
	if err := json.Unmarshal(l.Entry, &shown); err != nil {
		shown = map[string]any{"number": l.Number, "damaged": true}
	}
	shown["hash"] = fmt.Sprintf("%x", l.Hash)
	return shown
}

func (a *AuditLog) verify(w http.ResponseWriter, r *Request) error {
	number, known, err := readAuditHead(r.URL.Query())
	if err != nil {
		return err
	}
	var v AuditVerified
	problems := []string{}
	report := func(problem string) {
		if len(problems) < 100 {
			problems = append(problems, problem)
		}
	}
	err = a.o.Store.View(func(tx *Tx) error {
		if v, err = VerifyAudit(tx, report); err != nil || number == 0 {
			return err
		}
		return compareHead(tx, v.Head, number, known, report)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{
		"entries": v.Entries, "first": v.First, "last": v.Head.Number, "hash": fmt.Sprintf("%x", v.Head.Hash), "problems": problems,
	})
}

// readAuditHead reads from a query the number and hash of an entry that an auditor
// has kept. number is 0 if the query has neither.
func readAuditHead(q url.Values) (number uint64, hash []byte, err error) {
	if !q.Has("number") && !q.Has("hash") {
		return 0, nil, nil
	}
	number, err = strconv.ParseUint(q.Get("number"), 10, 64)
	hash, hexErr := hex.DecodeString(q.Get("hash"))
	if err != nil || number == 0 || hexErr != nil || len(hash) != sha256.Size {
		return 0, nil, ErrValidation.With("number and hash must be those of one entry: a whole number from 1, and 64 hex digits.")
	}
	return number, hash, nil
}

// compareHead reports a problem if the hash of entry number is not known, the hash
// that an auditor has kept. The hash of the last deleted entry is in head.
func compareHead(tx *Tx, head AuditHead, number uint64, known []byte, report func(string)) error {
	l, err := AuditRecordAt(tx, number)
	hash := l.Hash
	switch {
	case number == head.CutNumber:
		hash = head.CutHash
	case number < head.CutNumber:
		report(fmt.Sprintf("audit log: entry %d was taken away by the retention, so it cannot be compared", number))
		return nil
	case errors.Is(err, ErrNotFound):
		report(fmt.Sprintf("audit log: entry %d is missing", number))
		return nil
	case err != nil:
		return err
	}
	if !bytes.Equal(hash, known) {
		report(fmt.Sprintf("audit log: entry %d has another hash than the one that was kept: the chain was made anew", number))
	}
	return nil
}
