// The audit family records who changed what. It writes each entry in the transaction of the change
// itself, and chains the entries by hashes. It serves no requests: admin_audit.go does.

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

// AuditContext describes an action for the audit log: who does what, and when.
type AuditContext struct {
	// Actor is a kind, an id and a name, such as "token 3 ci" or "operator 1
	// ann". It can also be "key key_018c...", "control socket", or "latchkey"
	// for the service itself.
	Actor   string
	Client  netip.Addr     // address of the client; the zero Addr if there is none
	Action  string         // method and pattern of a route, or a verb such as "login"
	Object  string         // such as "key key_018c..."; "": the first object that the action changes
	Request string         // request id
	Now     time.Time      // wall time of the entry
	Latest  time.Time      // from Clock.Latest; zero unless the action creates or checks something that expires
	Detail  map[string]any // further facts; never a secret
}

// Late returns the later of Latest and Now. Use it for the times at which logins and set-up links
// begin and expire.
func (d AuditContext) Late() time.Time {
	if d.Latest.After(d.Now) {
		return d.Latest
	}
	return d.Now
}

// AuditEntry is one entry of the audit log. A new version may add fields but must not remove any,
// because entries are never rewritten.
type AuditEntry struct {
	Number  uint64         `json:"number"` // 1, 2, 3 and so on, without gaps
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`
	Client  string         `json:"client,omitempty"`
	Action  string         `json:"action"`
	Object  string         `json:"object,omitempty"` // such as "key key_018c..."
	Result  string         `json:"result"`           // see AuditResults
	Status  int            `json:"status,omitempty"` // HTTP status of a refusal
	Code    string         `json:"code,omitempty"`   // error code of a refusal
	Changes []Change       `json:"changes,omitempty"`
	Changed int            `json:"changed,omitempty"` // number of changed records, including those left out of Changes
	Detail  map[string]any `json:"detail,omitempty"`
	Request string         `json:"request_id,omitempty"`
}

// The values of AuditEntry.Result.
const (
	auditDone    = "done"
	AuditRefused = "refused"
)

// AuditResults returns the values of AuditEntry.Result.
func AuditResults() []string { return []string{auditDone, AuditRefused} }

// AuditRecord is the stored form of an entry. Hash is the SHA-256 of Previous, followed by the
// number in eight bytes (big endian) and the bytes of Entry. So nobody can change, remove or insert
// an entry without changing all later entries.
type AuditRecord struct {
	Number   uint64          `json:"number"`
	Previous []byte          `json:"previous"` // Hash of the previous record; empty in the first record
	Hash     []byte          `json:"hash"`
	Entry    json.RawMessage `json:"entry"` // an AuditEntry
}

var auditTable = Table[AuditRecord]{
	Name: "audit", Key: func(l AuditRecord) []byte { return IDKey(l.Number) },
	List: &Listing[AuditRecord]{Sets: []Index[AuditRecord]{{setOfFacts, AuditRecord.facts}, {setOfActions, AuditRecord.actions}}},
}

// objects returns the objects that an entry is about. The list can contain an object twice.
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
		return e, fmt.Errorf("decode audit entry %d: %w", l.Number, err)
	}
	return e, nil
}

// sum returns the value that Hash must have.
func (l AuditRecord) sum() []byte {
	h := sha256.New()
	h.Write(l.Previous)
	h.Write(IDKey(l.Number))
	h.Write(l.Entry)
	return h.Sum(nil)
}

// AuditHead describes both ends of the hash chain of the audit log.
type AuditHead struct {
	Number uint64 `json:"number"` // of the newest entry; 0 if there was never one
	Hash   []byte `json:"hash"`   // of the newest entry
	// CutNumber and CutHash are the number and hash of the newest entry that CutAudit has removed.
	// The oldest remaining entry follows this entry in the chain. CutAt is the time of the removal.
	CutNumber uint64    `json:"cut_number"`
	CutHash   []byte    `json:"cut_hash"`
	CutAt     time.Time `json:"cut_at,omitzero"`
}

var auditHeadKey = []byte("audit")

// ReadAuditHead returns the stored head of the chain. It returns the zero AuditHead if none is
// stored, and an error if the head has no valid MAC. The MAC of the head protects the whole chain:
// nobody without the pepper can change an entry, not even by computing all later hashes anew.
func ReadAuditHead(tx *Tx) (AuditHead, error) {
	h, forged, err := readHead(tx)
	if forged != nil {
		return h, fmt.Errorf("audit log: %v", forged) // not ErrNotFound, so that no new chain begins here
	}
	return h, err
}

// readHead reads the head even if it has no valid MAC; then forged is not nil.
func readHead(tx *Tx) (h AuditHead, forged, err error) {
	value, err := tx.GetSigned("meta", auditHeadKey)
	if IsForged(err) {
		forged = err
		value, err = tx.Get("meta", auditHeadKey)
	}
	if err == nil && value != nil {
		err = json.Unmarshal(value, &h)
	}
	return h, forged, err
}

// store replaces the stored head of the chain.
func (h AuditHead) store(tx *Tx) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.PutSigned("meta", auditHeadKey, value)
}

// appendAudit numbers an entry and adds it to the end of the chain.
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

// entry returns an entry of the action, with the result done and without changes.
func (d AuditContext) entry() AuditEntry {
	e := AuditEntry{At: d.Now, Actor: d.Actor, Action: d.Action, Object: d.Object, Result: auditDone, Detail: d.Detail, Request: d.Request}
	if d.Client.IsValid() {
		e.Client = AddrText(d.Client)
	}
	return e
}

// AddrText returns the text of a client's address, or "unknown" for the zero Addr. Every text that
// contains an address uses it.
func AddrText(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}

// Update is like Store.Update, but also records the changes of run in the audit log. It adds the
// entry in the transaction of the changes, so neither exists without the other. It adds no entry if
// run changes nothing.
func (d AuditContext) Update(store *Store, run func(*Tx) error) error {
	return store.Update(func(tx *Tx) error { return d.In(tx, run) })
}

// In calls run in an open transaction and adds an audit entry with the changes that run made. It
// adds no entry if run fails, writes nothing, or only rewrites records without a difference.
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

// Append adds an entry for an action that changes nothing else in the store.
func (d AuditContext) Append(tx *Tx) error { return appendAudit(tx, d.entry()) }

// Refused adds an entry for a request that was refused with this HTTP status and error code.
func (d AuditContext) Refused(tx *Tx, status int, code string) error {
	e := d.entry()
	e.Result, e.Status, e.Code = AuditRefused, status, code
	return appendAudit(tx, e)
}

// AuditRecords iterates over the entries of the audit log, oldest first. It ends after the first
// error.
func AuditRecords(tx *Tx) iter.Seq2[AuditRecord, error] { return auditTable.All(tx, Forward) }

// AuditRecordAt returns the record with this number. It returns ErrNotFound if there is none.
func AuditRecordAt(tx *Tx, number uint64) (AuditRecord, error) {
	return auditTable.Get(tx, IDKey(number))
}

// CountAudit returns the number of stored entries.
func CountAudit(tx *Tx) (int, error) { return auditTable.Count(tx) }

// AuditVerified is the result of VerifyAudit.
type AuditVerified struct {
	Entries  int       `json:"entries"`  // number of stored entries
	First    uint64    `json:"first"`    // number that the oldest entry should have
	Head     AuditHead `json:"-"`        // the stored head
	Problems []string  `json:"problems"` // left empty by VerifyAudit, for the caller to fill
}

// VerifyAudit checks the chain and calls report for every entry that was changed, removed, inserted
// or moved, and for a head without a valid MAC. It cannot detect that somebody has put back an
// earlier state of the whole log. To detect that, compare a head that was kept elsewhere, such as in
// the log of the service.
func VerifyAudit(tx *Tx, report func(problem string)) (v AuditVerified, err error) {
	var forged error
	if v.Head, forged, err = readHead(tx); err != nil && forged == nil {
		return v, err
	}
	next, previous := v.Head.CutNumber+1, append([]byte{}, v.Head.CutHash...) // not nil, which would mean that the previous entry cannot be decoded
	v.First = next
	say := func(format string, args ...any) { report("audit log: " + fmt.Sprintf(format, args...)) }
	if forged != nil {
		say("the head of the chain has no valid MAC: somebody without the pepper has changed the log")
	}
	if err != nil {
		return v, nil // a forged head that cannot be decoded
	}
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
			say("entry %d is after the end of the chain, entry %d: it was inserted, or the end was changed", number, v.Head.Number)
		} else if number < next {
			say("entry %d is before the beginning of the chain, entry %d: it was inserted", number, next)
		}
		l, problem := openAuditRecord(key, stored)
		switch {
		case problem != "":
			say("entry %d %s", number, problem)
		case number == next && previous != nil && !bytes.Equal(l.Previous, previous):
			say("entry %d does not match the hash of the entry before it: one of the two was inserted, changed or moved", number)
		}
		next, previous = max(next, number+1), l.Hash
	}
	switch {
	case next <= v.Head.Number:
		say("%s missing, at the end", entriesFrom(next, v.Head.Number))
	case next == v.Head.Number+1 && previous != nil && !bytes.Equal(previous, v.Head.Hash):
		say("the end of the chain does not match the newest entry, %d: one of the two was changed", v.Head.Number)
	}
	return v, nil
}

// entriesFrom returns the subject and the verb of a message about the entries first to last.
func entriesFrom(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("entry %d is", first)
	}
	return fmt.Sprintf("entries %d to %d are", first, last)
}

// openAuditRecord decodes a stored record and checks that its hash, number and key agree. problem is
// "" if the record is intact; otherwise it completes a message that begins with the entry.
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

// maxCut is the maximum number of entries that one CutAudit removes.
const maxCut = 1000

// CutAudit removes the entries that are older than cutoff. It also removes the oldest entries until
// at most maxEntries are left. One call removes at most maxCut entries and returns their number. The
// head keeps the hash of the last removed entry, so that the rest can still be verified. If entries
// were removed, a new entry records this.
func CutAudit(tx *Tx, cutoff time.Time, maxEntries int, now time.Time) (cut int, err error) {
	count, err := CountAudit(tx)
	if err != nil {
		return 0, err
	}
	head, err := ReadAuditHead(tx)
	if err != nil {
		return 0, err
	}
	var old []AuditRecord
	over := count > maxEntries
	for l, err := range auditTable.All(tx, Forward) {
		if err != nil {
			return 0, err
		}
		e, err := l.Open()
		if err != nil {
			return 0, err
		}
		// Keep one entry less than maxEntries, because the entry about the cut is added below.
		if len(old) == maxCut || !(over && count-len(old) >= maxEntries) && !e.At.Before(cutoff) {
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

// ActorSelf is the AuditContext.Actor for actions of the service itself.
const ActorSelf = "latchkey"

// AuditTables returns the tables and checks that CheckStore runs on the audit log.
func AuditTables() []Checked { return []Checked{&auditTable, auditChain{}} }

// auditChain checks the hash chain of the audit log.
type auditChain struct{}

// Derive does nothing, because a chain that was made anew would hide what was changed.
func (auditChain) Derive(*Tx, func(DerivedEntry) error) error { return nil }

// Adopt does nothing, like Derive.
func (auditChain) Adopt(*Tx) error { return nil }

// Check calls report for each problem in the chain.
func (auditChain) Check(tx *Tx, report func(problem string)) error {
	_, err := VerifyAudit(tx, report)
	return err
}

// Naming returns nil, because these are no records with names.
func (auditChain) Naming() *Naming { return nil }
