package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"latchkey/internal/clock"
)

// The maximum numbers of refusals that the audit log records, so that an attacker can
// neither fill the disk nor push out other entries. Refusals beyond them are only
// counted.
const (
	refusedByAddress = 20   // in 15 minutes, for one client network without a valid token or login
	refusedPerMinute = 60   // for each of the two budgets of AuditLog
	refusedPerDay    = 2000 // for each of the two budgets of AuditLog
)

// AuditOptions configures an AuditLog.
type AuditOptions struct {
	Store *Store
	Clock *clock.Clock
	Keep  time.Duration // entries older than this are deleted
	Most  int           // maximum number of entries; beyond it the oldest are deleted
	Log   *slog.Logger
	// Naming finds the names of records, and Keyring those of keys, so that entries can be found by a name.
	Naming  []*Naming
	Keyring *Keyring
}

// AuditLog serves the audit log, records refused requests in it, and deletes old
// entries. It is safe for concurrent use.
type AuditLog struct {
	o         AuditOptions
	addresses *Throttle // counts the refusals of unknown callers, by client network

	mu        sync.Mutex
	known     budget    // for callers with a valid token or login
	unknown   budget    // for all other callers
	countedAt time.Time // when RecordSkipped last added an entry, wall clock; zero: not in this run
	headAt    time.Time // when LogHead last ran to its end, wall clock; zero: not in this run
}

// budget limits how many refusals are recorded in a minute and in a day.
type budget struct {
	minute, day Window
	skipped     int // refusals that were not recorded, since the last entry about them
}

func newBudget() budget {
	return budget{minute: NewWindow(refusedPerMinute, time.Minute), day: NewWindow(refusedPerDay, 24*time.Hour)}
}

// take counts one refusal and reports whether the audit log may record it.
func (b *budget) take(now time.Time) bool {
	if b.minute.Wait(now, 1) > 0 || b.day.Wait(now, 1) > 0 {
		b.skipped++
		return false
	}
	b.minute.Add(now, 1)
	b.day.Add(now, 1)
	return true
}

// NewAuditLog returns an AuditLog for the log in o.Store.
func NewAuditLog(o AuditOptions) *AuditLog {
	return &AuditLog{o: o, addresses: NewThrottle(refusedByAddress, 15*time.Minute), known: newBudget(), unknown: newBudget()}
}

// AdminRoutes returns the routes for operators.
func (a *AuditLog) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/audit", Handle: a.list, Slow: true, Heavy: HeavyWith("format"), Query: auditParameters()},
		{Method: "GET", Path: "/admin/v1/audit/verify", Handle: a.verify, Query: []string{"number", "hash"}},
	}
}

// Watch records a request in the audit log if the admin endpoint refused it with a 4xx
// status. It records a refused GET or HEAD request only if the status is 401, 403 or 429.
func (a *AuditLog) Watch(o *Outcome) {
	if o.Status < 400 || o.Status >= 500 || !o.Admin || !strings.HasPrefix(o.Route, "/admin/") {
		return
	}
	reads := o.Method == http.MethodGet || o.Method == http.MethodHead
	if reads && o.Status != http.StatusUnauthorized && o.Status != http.StatusForbidden && o.Status != http.StatusTooManyRequests {
		return
	}
	by := AuditContext{
		Actor: o.Actor, Client: o.Client, Action: o.Method + " " + o.Route, Object: RouteObject(o.Route, o.Params), Request: o.ID, Now: o.Began,
	}
	a.Refused(by, &Error{Status: o.Status, Code: o.Code})
}

// Refused adds an entry to the audit log: the action of by was refused because of why. If
// there are too many refusals, it only counts this one. An empty by.Actor becomes
// "nobody". Refused does not wait for the disk. If the entry cannot be stored, it logs
// the error.
func (a *AuditLog) Refused(by AuditContext, why *Error) {
	now := a.o.Clock.Steady(by.Now)
	if by.Actor == "" {
		by.Actor = "nobody"
	}
	allowed := false
	if by.Actor == "nobody" {
		allowed = a.takeUnknown(by.Client, now)
	} else {
		allowed = a.takeKnown(now)
	}
	if !allowed {
		return
	}
	a.o.Store.Queue(func(tx *Tx) error { return by.Refused(tx, why.Status, why.Code) }, func(err error) {
		if err != nil && !errors.Is(err, ErrUnavailable) {
			a.o.Log.Error("refusal not stored in the audit log", "error", err)
		}
	})
}

// takeKnown counts a refusal of a caller with a valid token or login. It reports whether the
// audit log may record the refusal.
func (a *AuditLog) takeKnown(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known.take(now)
}

// takeUnknown counts a refusal of any other caller, whose address is from. It reports whether
// the audit log may record the refusal.
func (a *AuditLog) takeUnknown(from netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addresses.Fail(from, now) > 0 {
		a.unknown.skipped++
		return false
	}
	return a.unknown.take(now)
}

// LogHead logs the number and hash of the newest entry, at most once an hour. Call it about once a minute. now must be from
// Clock.Now. If the log of
// the service is kept on another machine, these lines show whether somebody has put back an
// earlier state of the database: compare one with latchkey audit verify --head.
func (a *AuditLog) LogHead(now time.Time) error {
	a.mu.Lock()
	due := a.headAt.IsZero() || now.Sub(a.headAt) >= time.Hour || now.Before(a.headAt)
	a.mu.Unlock()
	if !due {
		return nil
	}
	var head AuditHead
	err := a.o.Store.View(func(tx *Tx) (err error) {
		head, err = ReadAuditHead(tx)
		return err
	})
	if err != nil {
		return err
	}
	a.writeHead("head of the audit log", head)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.headAt = now
	return nil
}

// writeHead writes a head to the log of the service, in the form that --head of latchkey
// audit verify accepts. It writes nothing if there is no entry yet.
func (a *AuditLog) writeHead(message string, head AuditHead) {
	if head.Number > 0 {
		a.o.Log.Info(message, "head", loggedHead(fmt.Sprintf("%d:%x", head.Number, head.Hash)))
	}
}

// loggedHead is a head for the log. It has a type of its own, because a text of 64 hex digits is taken for a secret
// and replaced, see redactor.
type loggedHead string

// RecordSkipped adds an entry with the numbers of refusals that were not recorded. It adds
// none if there were no such refusals, or if the last entry is less than an hour old. Call it about
// once a minute. now must be from Clock.Now.
func (a *AuditLog) RecordSkipped(now time.Time) error {
	a.mu.Lock()
	known, unknown := a.known.skipped, a.unknown.skipped
	due := known+unknown > 0 && (a.countedAt.IsZero() || now.Sub(a.countedAt) >= time.Hour || now.Before(a.countedAt))
	a.mu.Unlock()
	if !due {
		return nil
	}
	by := AuditContext{Actor: ActorSelf, Action: "refusals not written down", Now: now, Detail: map[string]any{"of_strangers": unknown, "of_known": known}}
	if err := a.o.Store.Update(by.Append); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known.skipped, a.unknown.skipped, a.countedAt = a.known.skipped-known, a.unknown.skipped-unknown, now
	return nil
}

// Cut deletes entries that are older than Keep, at most once a day. It deletes the entries
// beyond Most once there are more than Most/100 of them. Each deletion adds an entry to
// the log, so deleting single entries would gain nothing. Call it about once a minute. now must be
// from Clock.Now.
func (a *AuditLog) Cut(now time.Time) error {
	due := false
	before := a.o.Clock.Steady(now).Add(-a.o.Keep) // by the service clock, so that a wrong wall clock deletes nothing
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
		for l, err := range AuditRecords(tx) {
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

func (a *AuditLog) verify(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	kept, err := readAuditHead(q)
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
		if v, err = VerifyAudit(tx, report); err != nil || kept.number == 0 {
			return err
		}
		return compareHead(tx, v.Head, kept, report)
	})
	if err != nil {
		return err
	}
	if len(problems) == 0 {
		a.writeHead("audit log verified", v.Head)
	}
	return WriteJSON(w, http.StatusOK, map[string]any{
		"entries": v.Entries, "first": v.First, "last": v.Head.Number, "hash": fmt.Sprintf("%x", v.Head.Hash), "problems": problems,
	})
}

// keptEntry is the number and the hash of an entry. An auditor has kept them to check the
// log later.
type keptEntry struct {
	number uint64 // 0: the auditor has kept none
	hash   []byte
}

// readAuditHead reads the kept entry from a query. It returns the zero keptEntry if the query
// has neither a number nor a hash.
func readAuditHead(q url.Values) (keptEntry, error) {
	if q.Get("number") == "" && q.Get("hash") == "" {
		return keptEntry{}, nil
	}
	number, err := strconv.ParseUint(q.Get("number"), 10, 64)
	hash, hexErr := hex.DecodeString(q.Get("hash"))
	if err != nil || number == 0 || hexErr != nil || len(hash) != sha256.Size {
		return keptEntry{}, ErrValidation.With("Send number and hash of the same entry: number is a whole number from 1, hash has 64 hex digits.")
	}
	return keptEntry{number, hash}, nil
}

// compareHead compares the hash of an entry with the hash that an auditor has kept. It calls
// report with the problem if they differ or the entry is missing. The hash of the last
// deleted entry is in head, so that entry can be compared too.
func compareHead(tx *Tx, head AuditHead, kept keptEntry, report func(string)) error {
	number := kept.number
	l, err := AuditRecordAt(tx, number)
	hash := l.Hash
	switch {
	case number == head.CutNumber:
		hash = head.CutHash
	case number < head.CutNumber:
		report(fmt.Sprintf("audit log: entry %d was deleted because the log keeps only newer entries, so its hash cannot be compared", number))
		return nil
	case errors.Is(err, ErrNotFound):
		report(fmt.Sprintf("audit log: entry %d is missing", number))
		return nil
	case err != nil:
		return err
	}
	if !bytes.Equal(hash, kept.hash) {
		report(fmt.Sprintf("audit log: the hash of entry %d differs from the hash that was kept, so the log was rewritten", number))
	}
	return nil
}
