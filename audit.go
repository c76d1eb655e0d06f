// The audit family records who changed what, chained by hashes, in the transaction
// of the change itself. It never reads the log for anybody: admin_audit.go does.

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// AuditContext says who does what, for the audit log.
type AuditContext struct {
	// Actor is a kind, an id and a name: "token 3 ci", "operator 1 ann", "key
	// key_018c...", or "control socket", "latchkey" for the service itself.
	Actor   string
	Client  netip.Addr // from where, where somebody asked
	Action  string     // method and pattern of a route, or a verb: "login"
	Object  string     // what it is done to, where that is known before
	Request string     // request id
	Now     time.Time
	Latest  time.Time      // of Clock.Latest, where the deed makes or needs what ends
	Detail  map[string]any // what else is to be known; never a secret
}

// Late is the time by which logins and set-up links begin and end: Latest, or Now
// where that is later or nobody gave the other.
func (d AuditContext) Late() time.Time {
	if d.Latest.After(d.Now) {
		return d.Latest
	}
	return d.Now
}

// AuditEntry is one entry of the audit log. Entries only ever gain fields.
type AuditEntry struct {
	Number  uint64         `json:"number"` // 1, 2, 3 ...: none is left out
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`
	Client  string         `json:"client,omitempty"`
	Action  string         `json:"action"`
	Object  string         `json:"object,omitempty"` // such as "key key_018c..."
	Result  string         `json:"result"`           // done or refused
	Status  int            `json:"status,omitempty"` // of the answer, where it was refused
	Code    string         `json:"code,omitempty"`   // of the error, where it was refused
	Changes []Change       `json:"changes,omitempty"`
	Changed int            `json:"changed,omitempty"` // how many records, also those that Changes leaves out
	Detail  map[string]any `json:"detail,omitempty"`
	Request string         `json:"request_id,omitempty"`
}

// The results of an AuditEntry.
const (
	auditDone    = "done"
	auditRefused = "refused"
)

// AuditResults lists the results of an entry.
func AuditResults() []string { return []string{auditDone, auditRefused} }

// AuditRecord is an entry as it is stored. Hash is the SHA-256 of Previous, of the
// number and of the entry's bytes as they stand here, so an entry cannot be
// changed, and none taken out or put in, without all later ones.
type AuditRecord struct {
	Number   uint64          `json:"number"`
	Previous []byte          `json:"previous"` // Hash of the entry before
	Hash     []byte          `json:"hash"`
	Entry    json.RawMessage `json:"entry"`
}

var auditTable = Table[AuditRecord]{
	Name: "audit", Key: func(l AuditRecord) []byte { return IDKey(l.Number) },
	Indexes: []Index[AuditRecord]{{"object", func(l AuditRecord) (keys [][]byte) {
		e, err := l.Open()
		if err != nil {
			return nil // what is damaged is found by its number
		}
		for _, object := range e.objects() {
			keys = append(keys, append([]byte(object), 0))
		}
		return keys
	}}},
}

// objects lists what an entry is about, each once or more.
func (e AuditEntry) objects() (list []string) {
	if e.Object != "" {
		list = append(list, e.Object)
	}
	for _, c := range e.Changes {
		list = append(list, c.Object)
	}
	return list
}

// Open reads the entry of a link.
func (l AuditRecord) Open() (e AuditEntry, err error) {
	if err := json.Unmarshal(l.Entry, &e); err != nil {
		return e, fmt.Errorf("audit entry %d cannot be read: %w", l.Number, err)
	}
	return e, nil
}

func (l AuditRecord) sum() []byte {
	h := sha256.New()
	h.Write(l.Previous)
	h.Write(IDKey(l.Number))
	h.Write(l.Entry)
	return h.Sum(nil)
}

// AuditHead says where the chain of the audit log begins and ends.
type AuditHead struct {
	Number uint64 `json:"number"` // of the newest entry, 0 for none
	Hash   []byte `json:"hash"`
	// CutNumber and CutHash are of the newest entry that the retention took
	// away: the first one left follows on it.
	CutNumber uint64    `json:"cut_number"`
	CutHash   []byte    `json:"cut_hash"`
	CutAt     time.Time `json:"cut_at,omitzero"`
}

var auditHeadKey = []byte("audit")

// ReadAuditHead reads where the chain stands.
func ReadAuditHead(tx *Tx) (h AuditHead, err error) {
	value, err := tx.Get("meta", auditHeadKey)
	if err == nil && value != nil {
		err = json.Unmarshal(value, &h)
	}
	return h, err
}

func (h AuditHead) store(tx *Tx) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Put("meta", auditHeadKey, value)
}

// appendAudit adds an entry at the end of the chain. It gives the entry its
// number.
func appendAudit(tx *Tx, e AuditEntry) error {
	head, err := ReadAuditHead(tx)
	if err != nil {
		return err
	}
	e.Number = head.Number + 1
	e.At = e.At.UTC()
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode audit entry: %w", err)
	}
	l := AuditRecord{Number: e.Number, Previous: head.Hash, Entry: text}
	l.Hash = l.sum()
	if err := auditTable.Put(tx, l); err != nil {
		return err
	}
	head.Number, head.Hash = l.Number, l.Hash
	return head.store(tx)
}

func (d AuditContext) entry() AuditEntry {
	e := AuditEntry{At: d.Now, Actor: d.Actor, Action: d.Action, Object: d.Object, Result: auditDone, Detail: d.Detail, Request: d.Request}
	if d.Client.IsValid() {
		e.Client = d.Client.String()
	}
	return e
}

// Update is Store.Update for a change that somebody answers for: the change and
// its entry in the audit log are one transaction, so there is neither without
// the other. Where nothing was changed there is no entry.
func (d AuditContext) Update(store *Store, run func(*Tx) error) error {
	return store.Update(func(tx *Tx) error { return d.In(tx, run) })
}

// In runs a function in a transaction and adds the entry of what it did.
func (d AuditContext) In(tx *Tx, run func(*Tx) error) error {
	writes, outer := tx.Writes, tx.Trace
	trace := &ChangeSet{}
	tx.Trace = trace
	err := run(tx)
	tx.Trace = outer
	if err != nil || tx.Writes == writes || trace.Idle {
		return err
	}
	e := d.entry()
	e.Changes, e.Changed = trace.Changes, trace.Count
	if e.Object == "" && len(e.Changes) > 0 {
		e.Object = e.Changes[0].Object
	}
	return appendAudit(tx, e)
}

// Append adds an entry of something done that changes nothing in the store.
func (d AuditContext) Append(tx *Tx) error { return appendAudit(tx, d.entry()) }

// Refused adds an entry of something that was asked and refused.
func (d AuditContext) Refused(tx *Tx, status int, code string) error {
	e := d.entry()
	e.Result, e.Status, e.Code = auditRefused, status, code
	return appendAudit(tx, e)
}

// AuditRecords goes through the entries, oldest first or newest first. With
// object, unless it is "", only through those that are about it.
func AuditRecords(tx *Tx, object string, backwards bool) iter.Seq2[AuditRecord, error] {
	if object == "" {
		return auditTable.All(tx, backwards)
	}
	return func(yield func(AuditRecord, error) bool) {
		for _, key := range auditTable.Find(tx, "object", append([]byte(object), 0), backwards) {
			l, err := auditTable.Get(tx, key)
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// AuditRecordAt reads one entry by its number; ErrNotFound.
func AuditRecordAt(tx *Tx, number uint64) (AuditRecord, error) {
	return auditTable.Get(tx, IDKey(number))
}

// CountAudit is the number of entries.
func CountAudit(tx *Tx) (int, error) { return auditTable.Count(tx) }

// AuditVerified is what VerifyAudit found.
type AuditVerified struct {
	Entries  int       `json:"entries"`
	First    uint64    `json:"first"`
	Head     AuditHead `json:"-"`
	Problems []string  `json:"problems"`
}

// VerifyAudit goes through the chain and reports every entry that was changed,
// taken out, put in or moved. Who can write the file could chain all entries
// anew: against that, keep the number and hash of a head elsewhere.
func VerifyAudit(tx *Tx, report func(problem string)) (v AuditVerified, err error) {
	if v.Head, err = ReadAuditHead(tx); err != nil {
		return v, err
	}
	next, previous := v.Head.CutNumber+1, append([]byte{}, v.Head.CutHash...) // nil is for one that cannot be read
	v.First = next
	say := func(format string, args ...any) { report("audit log: " + fmt.Sprintf(format, args...)) }
	for key, stored := range tx.Range(auditTable.Name, nil) {
		v.Entries++
		number := next
		if len(key) == 8 {
			number = binary.BigEndian.Uint64(key)
		}
		if number > next {
			say("%s missing", entriesFrom(next, number-1))
		}
		if number > v.Head.Number {
			say("entry %d stands behind the end of the chain, entry %d: it was put in, or the end was changed", number, v.Head.Number)
		} else if number < next {
			say("entry %d stands before the beginning of the chain, entry %d: it was put in", number, next)
		}
		l, problem := openAuditRecord(key, stored)
		switch {
		case problem != "":
			say("entry %d %s", number, problem)
		case number == next && previous != nil && !bytes.Equal(l.Previous, previous):
			say("entry %d does not follow on the one before it: one of the two was put in, changed or moved", number)
		}
		next, previous = max(next, number+1), l.Hash
	}
	switch {
	case next <= v.Head.Number:
		say("%s missing, at the end", entriesFrom(next, v.Head.Number))
	case next == v.Head.Number+1 && previous != nil && !bytes.Equal(previous, v.Head.Hash):
		say("the end of the chain does not fit entry %d, the newest: one of the two was changed", v.Head.Number)
	}
	return v, nil
}

func entriesFrom(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("entry %d is", first)
	}
	return fmt.Sprintf("entries %d to %d are", first, last)
}

// openAuditRecord reads a stored entry and holds it against its own hash.
func openAuditRecord(key, stored []byte) (l AuditRecord, problem string) {
	value, err := Unseal(auditTable.Name, key, stored)
	if err == nil {
		err = json.Unmarshal(value, &l)
	}
	if err != nil {
		return l, "cannot be read: " + err.Error()
	}
	e, err := l.Open()
	switch {
	case !bytes.Equal(l.Hash, l.sum()) || err != nil:
		problem = "was changed: it does not match its hash"
	case !bytes.Equal(IDKey(l.Number), key) || e.Number != l.Number:
		problem = fmt.Sprintf("was moved: it is entry %d", e.Number)
	}
	return l, problem
}

// maxCut bounds how many entries one transaction takes away.
const maxCut = 1000

// CutAudit takes entries away from the old end of the chain: those from before
// a time, and those beyond a number; at most 1000 at once. Where the chain then
// begins is kept, so that it can be verified on, and an entry tells of it.
func CutAudit(tx *Tx, before time.Time, most int, now time.Time) (cut int, err error) {
	count, err := CountAudit(tx)
	if err != nil {
		return 0, err
	}
	head, err := ReadAuditHead(tx)
	if err != nil {
		return 0, err
	}
	var old []AuditRecord
	over := count > most
	for l, err := range auditTable.All(tx, false) {
		if err != nil {
			return 0, err
		}
		e, err := l.Open()
		if err != nil {
			return 0, err
		}
		// The entry that tells of the cut needs room too.
		if len(old) == maxCut || !(over && count-len(old) >= most) && !e.At.Before(before) {
			break
		}
		old = append(old, l)
	}
	if len(old) == 0 {
		return 0, nil
	}
	for _, l := range old {
		if err := auditTable.Delete(tx, IDKey(l.Number)); err != nil {
			return 0, err
		}
	}
	last := old[len(old)-1]
	head.CutNumber, head.CutHash, head.CutAt = last.Number, last.Hash, now.UTC()
	d := AuditContext{Actor: ActorSelf, Action: "cut audit log", Now: now, Detail: map[string]any{"first": old[0].Number, "last": last.Number, "hash": fmt.Sprintf("%x", last.Hash)}}
	return len(old), errors.Join(head.store(tx), d.Append(tx))
}

// ActorSelf is the actor of what the service does by itself.
const ActorSelf = "latchkey"

// AuditTables lists what is kept of the audit log in the store, for checks.
func AuditTables() []Checked { return []Checked{auditTable, auditChain{}} }

// auditChain checks the chain.
type auditChain struct{}

// Check reports what does not fit.
func (auditChain) Check(tx *Tx, report func(problem string)) error {
	_, err := VerifyAudit(tx, report)
	return err
}
