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

// AuditContext describes who does what, for the audit log.
type AuditContext struct {
	// Actor is a kind, an id and a name, such as "token 3 ci" or "operator 1
	// ann". It can also be "key key_018c...", "control socket", or "latchkey"
	// for the service itself.
	Actor   string
	Client  netip.Addr // address of the client; the zero Addr if there is none
	Action  string     // method and pattern of a route, or a verb such as "login"
	Object  string     // what is changed, "" if only the change itself shows it
	Request string     // request id
	Now     time.Time
	Latest  time.Time      // Clock.Latest, if the action creates or checks something that expires
	Detail  map[string]any // further facts; never a secret
}

// Late returns the later of Latest and Now. Logins and set-up links begin and
// end by it.
func (d AuditContext) Late() time.Time {
	if d.Latest.After(d.Now) {
		return d.Latest
	}
	return d.Now
}

// AuditEntry is one entry of the audit log. The type may gain fields but never
// lose one.
type AuditEntry struct {
	Number  uint64         `json:"number"` // 1, 2, 3 and so on, without gaps
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`
	Client  string         `json:"client,omitempty"`
	Action  string         `json:"action"`
	Object  string         `json:"object,omitempty"` // such as "key key_018c..."
	Result  string         `json:"result"`           // done or refused
	Status  int            `json:"status,omitempty"` // HTTP status of a refusal
	Code    string         `json:"code,omitempty"`   // error code of a refusal
	Changes []Change       `json:"changes,omitempty"`
	Changed int            `json:"changed,omitempty"` // number of changed records, also those not in Changes
	Detail  map[string]any `json:"detail,omitempty"`
	Request string         `json:"request_id,omitempty"`
}

// The values of AuditEntry.Result.
const (
	auditDone    = "done"
	auditRefused = "refused"
)

// AuditResults returns the values of AuditEntry.Result.
func AuditResults() []string { return []string{auditDone, auditRefused} }

// AuditRecord is an entry in its stored form. Hash is the SHA-256 of Previous,
// the number in eight bytes, big endian, and the bytes of Entry. So nobody can
// change, remove or insert an entry without changing all later ones.
type AuditRecord struct {
	Number   uint64          `json:"number"`
	Previous []byte          `json:"previous"` // Hash of the previous record; empty in the first
	Hash     []byte          `json:"hash"`
	Entry    json.RawMessage `json:"entry"`
}

var auditTable = Table[AuditRecord]{
	Name: "audit", Key: func(l AuditRecord) []byte { return IDKey(l.Number) },
	Indexes: []Index[AuditRecord]{{"object", func(l AuditRecord) (keys [][]byte) {
		e, err := l.Open()
		if err != nil {
			return nil // a damaged entry is found only by its number
		}
		for _, object := range e.objects() {
			keys = append(keys, append([]byte(object), 0))
		}
		return keys
	}}},
}

// objects returns the objects that an entry is about. One can appear twice.
func (e AuditEntry) objects() (list []string) {
	if e.Object != "" {
		list = append(list, e.Object)
	}
	for _, c := range e.Changes {
		list = append(list, c.Object)
	}
	return list
}

// Open decodes the entry of a record. It does not check the hash.
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

// AuditHead holds the end and the beginning of the hash chain of the audit log.
type AuditHead struct {
	Number uint64 `json:"number"` // of the newest entry, 0 if there is none
	Hash   []byte `json:"hash"`
	// CutNumber and CutHash belong to the newest entry that was removed by
	// retention. The first remaining entry follows it in the chain.
	CutNumber uint64    `json:"cut_number"`
	CutHash   []byte    `json:"cut_hash"`
	CutAt     time.Time `json:"cut_at,omitzero"`
}

var auditHeadKey = []byte("audit")

// ReadAuditHead returns the stored head of the chain, the zero AuditHead if
// there is none.
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

// appendAudit adds an entry with the next number to the end of the chain.
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

// Update is Store.Update for a change that is recorded in the audit log. The
// change and its entry are one transaction, so neither exists without the
// other. If run changes nothing there is no entry.
func (d AuditContext) Update(store *Store, run func(*Tx) error) error {
	return store.Update(func(tx *Tx) error { return d.In(tx, run) })
}

// In calls run in a transaction and adds an entry of what run changed. It adds
// none if run fails, writes nothing, or stores only records that do not differ.
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

// Append adds an entry of an action that changes nothing else in the store.
func (d AuditContext) Append(tx *Tx) error { return appendAudit(tx, d.entry()) }

// Refused adds an entry of a request that was refused with this HTTP status and
// error code.
func (d AuditContext) Refused(tx *Tx, status int, code string) error {
	e := d.entry()
	e.Result, e.Status, e.Code = auditRefused, status, code
	return appendAudit(tx, e)
}

// AuditRecords iterates over the entries of the audit log: oldest first if order is
// Forward, newest first if it is Backward. If object is not "", it yields only the
// entries about that object. It ends after the first error.
func AuditRecords(tx *Tx, object string, order Direction) iter.Seq2[AuditRecord, error] {
	if object == "" {
		return auditTable.All(tx, order)
	}
	return func(yield func(AuditRecord, error) bool) {
		for _, key := range auditTable.Find(tx, "object", append([]byte(object), 0), order) {
			l, err := auditTable.Get(tx, key)
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// AuditRecordAt returns the entry with this number, or ErrNotFound if there is
// none.
func AuditRecordAt(tx *Tx, number uint64) (AuditRecord, error) {
	return auditTable.Get(tx, IDKey(number))
}

// CountAudit returns the number of entries.
func CountAudit(tx *Tx) (int, error) { return auditTable.Count(tx) }

// AuditVerified is the result of VerifyAudit. Problems is not set, because
// VerifyAudit passes the problems to its parameter report.
type AuditVerified struct {
	Entries  int       `json:"entries"`
	First    uint64    `json:"first"`
	Head     AuditHead `json:"-"`
	Problems []string  `json:"problems"`
}

// VerifyAudit checks the chain and calls report for every entry that was
// changed, removed, inserted or moved. Somebody who can write the file could
// rebuild the whole chain. To detect that, keep the number and hash of a head
// elsewhere.
func VerifyAudit(tx *Tx, report func(problem string)) (v AuditVerified, err error) {
	if v.Head, err = ReadAuditHead(tx); err != nil {
		return v, err
	}
	next, previous := v.Head.CutNumber+1, append([]byte{}, v.Head.CutHash...) // not nil: nil means that the previous entry cannot be read
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
			say("entry %d is behind the end of the chain, entry %d: it was put in, or the end was changed", number, v.Head.Number)
		} else if number < next {
			say("entry %d is before the beginning of the chain, entry %d: it was put in", number, next)
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

// openAuditRecord decodes a stored record and checks it against its own hash
// and key. problem is "" if it is intact.
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

// maxCut is the most entries that one transaction removes.
const maxCut = 1000

// CutAudit removes the oldest entries: those from before the time before, and
// as many as needed to keep at most most entries. One call removes at most
// maxCut entries and returns their number. The head keeps the hash of the last
// removed entry, so that the rest can still be verified, and a new entry
// records the cut.
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
	for l, err := range auditTable.All(tx, Forward) {
		if err != nil {
			return 0, err
		}
		e, err := l.Open()
		if err != nil {
			return 0, err
		}
		// One entry less than most is kept, because the entry about the cut is
		// added.
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

// ActorSelf is the actor of actions of the service itself.
const ActorSelf = "latchkey"

// AuditTables returns the checks of the audit log for CheckStore.
func AuditTables() []Checked { return []Checked{auditTable, auditChain{}} }

// auditChain is the check of the hash chain.
type auditChain struct{}

// Check calls report for each problem in the chain.
func (auditChain) Check(tx *Tx, report func(problem string)) error {
	_, err := VerifyAudit(tx, report)
	return err
}
