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

// How many refusals the audit log takes, so that who guesses can neither fill
// the disk nor push out what others did: by one address in a quarter of an
// hour, and of all in a minute and in a day. The others are counted.
const (
	refusedByAddress = 20
	refusedPerMinute = 60
	refusedPerDay    = 2000
)

// AuditOptions are what an AuditLog is made of.
type AuditOptions struct {
	Store *Store
	Clock *clock.Clock
	Keep  time.Duration // older entries are taken away
	Most  int           // entries
	Log   *slog.Logger
}

// AuditLog shows the audit log, writes down what was refused, and takes away
// what is too old. It is safe for concurrent use.
type AuditLog struct {
	o         AuditOptions
	addresses *Throttle

	mu     sync.Mutex
	known  budget // of who has shown a token or a login
	others budget // of everybody
	told   time.Time
}

// budget is how many refusals are still taken, and how many were not.
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

// NewAuditLog serves the audit log of a store.
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

// Watch notes what the admin endpoint refused: every change, and everything to
// who may not ask at all.
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

// Refused writes down something that was refused, unless there are too many.
// It does not wait until that is stored.
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

// Tend takes away what is too old or too much, and tells once an hour of how
// many refusals were not written down. It is to be called about once a minute.
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

// cut goes by whole days or a hundredth of the entries, so that it does not
// write an entry of its own for each one that it takes away.
func (a *AuditLog) cut(now time.Time) error {
	due := false
	before := a.o.Clock.Service(now).Add(-a.o.Keep) // a wall clock that was set wrong takes nothing away
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

// auditPage reads one page of all: numbers have no gaps, so it goes there at
// once.
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
			continue // taken out; to verify tells
		}
		if err != nil {
			return nil, 0, err
		}
		rows = append(rows, showEntry(l))
	}
	return rows, count, nil
}

// auditFilter is what a list is asked for; "" is everything.
type auditFilter struct{ actor, action, object, result string }

// indexed is an object that can be looked up, "" where the filter has none. A
// key is known by its id alone.
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

// wordsOf says whether a name is, or begins with the words, of what is asked.
func wordsOf(name, asked string) bool {
	return asked == "" || name == asked || strings.HasPrefix(name, asked+" ")
}

// showEntry gives an entry as the endpoint tells it: as it is stored, with its
// hash.
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

// readAuditHead reads the number and hash of an entry that somebody has kept.
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

// compareHead holds an entry against the hash that somebody has kept.
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
