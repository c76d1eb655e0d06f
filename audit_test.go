package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// auditEntries gives the entries of a store, oldest first.
func auditEntries(t testing.TB, s *Store) (all []AuditEntry) {
	t.Helper()
	if err := s.Update(func(*Tx) error { return nil }); err != nil { // behind what is queued
		t.Fatal(err)
	}
	err := s.View(func(tx *Tx) error {
		for l, err := range AuditRecords(tx) {
			if err != nil {
				return err
			}
			e, err := l.Open()
			if err != nil {
				return err
			}
			all = append(all, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// auditProblems verifies the chain.
func auditProblems(t testing.TB, s *Store) []string {
	t.Helper()
	problems := []string{}
	err := s.View(func(tx *Tx) error {
		_, err := VerifyAudit(tx, func(p string) { problems = append(problems, p) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return problems
}

// unaudited are the endpoints that are not GET and leave no entry, and why.
var unaudited = map[string]string{
	"POST /admin/v1/keys/:id/explain":    "spends and changes nothing",
	"POST /admin/v1/keys/lookup":         "changes nothing",
	"POST /admin/v1/limits/what-if":      "spends and changes nothing",
	"POST /admin/v1/confirm":             "only for a login; TestConfirm reads its entries",
	"POST /admin/v1/factors/totp":        "stores nothing",
	"POST /admin/v1/factors":             "only for a login; TestFactors_Others reads its entries",
	"PATCH /admin/v1/factors/:id":        "only for a login",
	"DELETE /admin/v1/factors/:id":       "only for a login",
	"POST /admin/v1/recovery-codes":      "only for a login; TestFactors_Others reads its entries",
	"POST /admin/v1/check":               "changes nothing",
	"POST /admin/v1/backups/:name/check": "changes nothing",
	"POST /admin/v1/calls/:id/heartbeat": "lengthens the lease that the entry of the claim tells of, every few seconds",
}

// auditText is the audit log as the endpoint tells it.
func auditText(t testing.TB, a *testApp) string {
	t.Helper()
	got := a.control("GET", "/admin/v1/audit?limit=1000", "")
	if got.Code != 200 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	return got.Body.String()
}

func wantNoSecrets(t testing.TB, where, text string, secrets []string) {
	t.Helper()
	if len(secrets) == 0 {
		t.Errorf("%s: there are no secrets to look for", where)
	}
	for _, s := range secrets {
		for _, form := range []string{s, url.QueryEscape(s)} {
			if at := strings.Index(text, form); at >= 0 {
				t.Errorf("%s holds the secret %q: ...%s", where, s, text[max(0, at-100):min(len(text), at+len(form)+20)])
			}
		}
	}
}

func TestAudit_BeforeAndAfter(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_calls"]`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "new name", "metadata": {"long": "`+strings.Repeat("x", 300)+`"}}`)
	all := auditEntries(t, a.Store)
	e := all[len(all)-1]
	if len(e.Changes) != 1 || e.Changes[0].Object != "key "+id || e.Changes[0].Did != "changed" {
		t.Fatalf("got %+v", e)
	}
	c := e.Changes[0]
	if strings.Join(c.Fields, " ") != "metadata name" || c.Before["name"] != "test" || c.After["name"] != "new name" {
		t.Errorf("got %+v, want the old and the new name, and no more fields than were changed", c)
	}
	n := len(all)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"name": "new name"}`)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/resume", "")
	if got := len(auditEntries(t, a.Store)); got != n {
		t.Errorf("what changed nothing left %d entries", got-n)
	}
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Grace"}`)
	all = auditEntries(t, a.Store)
	c = all[len(all)-1].Changes[0]
	if c.After != nil || !strings.Contains(strings.Join(c.Fields, " "), "first_name") {
		t.Errorf("of a person: got %+v, want the names of the fields alone", c)
	}
}

// A change whose entry cannot be stored does not happen, and a change that is
// refused in its transaction leaves no entry that says it was done.
func TestAudit_OneTransaction(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_calls"]`)
	before := len(auditEntries(t, a.Store))
	failed := errors.New("refused")
	err := AuditContext{Actor: "x", Action: "y", Now: epoch}.Update(a.Store, func(tx *Tx) error {
		if err := agentTable.Put(tx, Agent{ID: 77}); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) || len(auditEntries(t, a.Store)) != before {
		t.Errorf("got %v and %d entries", err, len(auditEntries(t, a.Store))-before)
	}
	// The head is damaged, so no entry can follow on it.
	if err := a.Store.Update(func(tx *Tx) error { return tx.Put("meta", auditHeadKey, []byte("{")) }); err != nil {
		t.Fatal(err)
	}
	if got := a.control("POST", "/admin/v1/keys/"+id+"/revoke", ""); got.Code != 500 {
		t.Errorf("revoke: got %d, want 500", got.Code)
	}
	if v := a.operate(200, "GET", "/admin/v1/keys/"+id, ""); v["status"] != StatusActive {
		t.Errorf("without its entry the key was made %v", v["status"])
	}
}

func TestAudit_Tampering(t *testing.T) {
	a := newTestApp(t)
	for range 10 {
		a.key(`["can_read_calls"]`)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	path := storePath(a.config.Server.Data)
	read := func(tx *Tx, n uint64) AuditRecord {
		l, err := auditTable.Get(tx, IDKey(n))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	put := func(tx *Tx, at uint64, l AuditRecord) error {
		value, err := json.Marshal(l)
		return errors.Join(err, tx.Put(auditTable.Name, IDKey(at), value))
	}
	other := func(l AuditRecord) AuditRecord {
		l.Entry = json.RawMessage(strings.Replace(string(l.Entry), "control socket", "token 1 mallory", 1))
		return l
	}
	last := uint64(10)
	for _, tt := range []struct {
		name   string
		tamper func(tx *Tx) error
		want   []string // a part of each problem
	}{
		{"nothing", func(*Tx) error { return nil }, nil},
		{"changed", func(tx *Tx) error { return put(tx, 4, other(read(tx, 4))) }, []string{"entry 4 was changed"}},
		{"changed and hashed anew", func(tx *Tx) error {
			l := other(read(tx, 4))
			l.Hash = l.sum()
			return put(tx, 4, l)
		}, []string{"entry 5 does not match the hash of the entry before it"}},
		{"removed", func(tx *Tx) error { return tx.Delete(auditTable.Name, IDKey(4)) }, []string{"entry 4 is missing"}},
		{"several removed", func(tx *Tx) error {
			return errors.Join(tx.Delete(auditTable.Name, IDKey(4)), tx.Delete(auditTable.Name, IDKey(5)))
		}, []string{"entries 4 to 5 are missing"}},
		{"first removed", func(tx *Tx) error { return tx.Delete(auditTable.Name, IDKey(1)) }, []string{"entry 1 is missing"}},
		{"last removed", func(tx *Tx) error { return tx.Delete(auditTable.Name, IDKey(last)) }, []string{"entry 10 is missing, at the end"}},
		{"swapped", func(tx *Tx) error {
			l, m := read(tx, 3), read(tx, 6)
			return errors.Join(put(tx, 3, m), put(tx, 6, l))
		}, []string{"entry 3 was moved: it is entry 6", "entry 4 does not match the hash", "entry 6 was moved: it is entry 3", "entry 7 does not match the hash"}},
		{"inserted behind", func(tx *Tx) error {
			l := read(tx, last)
			n := AuditRecord{Number: last + 1, Previous: l.Hash, Entry: json.RawMessage(strings.Replace(string(l.Entry), `"number":10`, `"number":11`, 1))}
			n.Hash = n.sum()
			return put(tx, last+1, n)
		}, []string{"entry 11 is after the end"}},
		{"inserted over the following", func(tx *Tx) error {
			l := read(tx, 4)
			n := AuditRecord{Number: 5, Previous: l.Hash, Entry: json.RawMessage(strings.Replace(string(l.Entry), `"number":4`, `"number":5`, 1))}
			n.Hash = n.sum()
			return put(tx, 5, n)
		}, []string{"entry 6 does not match the hash"}},
		{"damaged", func(tx *Tx) error { return tx.PutRaw(auditTable.Name, IDKey(7), []byte{1, 2, 3, 4, 5, 6}) }, []string{"entry 7 cannot be read"}},
		{"last changed and hashed anew", func(tx *Tx) error {
			l := other(read(tx, last))
			l.Hash = l.sum()
			return put(tx, last, l)
		}, []string{"the end of the chain does not match the newest entry, 10"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			b, err := db.Begin(true)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Rollback()
			tx := &Tx{Bolt: b}
			if err := tt.tamper(tx); err != nil {
				t.Fatal(err)
			}
			var got []string
			if _, err := VerifyAudit(tx, func(p string) { got = append(got, p) }); err != nil {
				t.Fatal(err)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("got %q, want %q", got[i], tt.want[i])
				}
			}
		})
	}
}

// TestAudit_HeadLogged looks for the head of the chain in the log: once an hour, and
// when an operator verifies the chain.
func TestAudit_HeadLogged(t *testing.T) {
	a := newTestApp(t)
	a.redacted = true // the log of a real server replaces what looks like a secret
	a.restart()
	heads := func() int { return strings.Count(a.log.String(), `"head":"`) }
	tend := func(want int, when string) {
		t.Helper()
		if err := tendAudit(a.audit, a.clock.Now()); err != nil || heads() != want {
			t.Errorf("%s: got %d heads in the log, want %d; %v", when, heads(), want, err)
		}
	}
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	tend(1, "at the start")
	a.clocks.Pass(59 * time.Minute)
	tend(1, "59 minutes later")
	a.clocks.Pass(time.Minute)
	tend(2, "an hour later")
	v := a.operate(200, "GET", "/admin/v1/audit/verify", "")
	if want := fmt.Sprintf(`"head":"%v:%v"`, v["last"], v["hash"]); heads() != 3 || !strings.Contains(a.log.String(), want) {
		t.Errorf("verify logs no %s", want)
	}
	var text bytes.Buffer
	config := a.config
	config.Log.Format = "text"
	a.audit.o.Log = NewLog(&text, config, LogSink{}).Logger
	a.operate(200, "GET", "/admin/v1/audit/verify", "")
	if want := fmt.Sprintf(" head=%v:%v\n", v["last"], v["hash"]); !strings.Contains(text.String(), want) {
		t.Errorf("verify logs no %q as text, but %q", want, &text)
	}
}

// TestAudit_ForgedHead rebuilds the chain after a change, with all hashes, as somebody
// can who writes to the file and does not have the pepper.
func TestAudit_ForgedHead(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	path, config := storePath(a.config.Server.Data), a.config
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *Tx) error {
		l, err := AuditRecordAt(tx, 1)
		if err != nil {
			return err
		}
		l.Entry = bytes.Replace(l.Entry, []byte("control socket"), []byte("somebody else"), 1)
		l.Hash = l.sum()
		value, err := json.Marshal(l)
		head, _, _ := readHead(tx)
		head.Hash = l.Hash
		return errors.Join(err, tx.Put("audit", IDKey(1), value), head.store(tx))
	})
	result, err := CheckStoreFile(path, config, "", nil)
	if err != nil || !strings.Contains(strings.Join(result.Problems, "\n"), "the head of the chain has no valid MAC") {
		t.Errorf("check: got %+v, %v", result, err)
	}
	a.start()
	v := a.operate(200, "GET", "/admin/v1/audit/verify", "")
	if !strings.Contains(fmt.Sprint(v["problems"]), "has no valid MAC") {
		t.Errorf("verify: got %v", v)
	}
	a.operate(500, "POST", "/admin/v1/agents", `{"name": "B"}`)
	if w := a.operate(200, "GET", "/admin/v1/agents", ""); w["count"] != 1.0 {
		t.Errorf("a change without an entry in the log: %v", w)
	}
}

func TestAudit_Retention(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Audit.Keep, c.Audit.MaxEntries = 48*time.Hour, 1000 })
	for n := range 5 {
		a.operate(201, "POST", "/admin/v1/agents", fmt.Sprintf(`{"name": "A%d"}`, n))
	}
	a.clocks.Pass(47 * time.Hour)
	tend := func() []AuditEntry {
		t.Helper()
		if err := tendAudit(a.audit, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
		if p := auditProblems(t, a.Store); len(p) > 0 {
			t.Errorf("the chain: %q", p)
		}
		return auditEntries(t, a.Store)
	}
	if got := tend(); len(got) != 5 {
		t.Errorf("before their time: got %d entries, want 5", len(got))
	}
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "late"}`)
	a.clocks.Pass(2 * time.Hour)
	got := tend()
	if len(got) != 2 || got[0].Number != 6 || got[1].Action != "cut audit log" || got[1].Detail["last"] != float64(5) {
		t.Errorf("by age: got %+v, want the late one and what tells of the cut", got)
	}
	a.restart()
	if w := a.operate(200, "POST", "/admin/v1/check", ""); len(w["problems"].([]any)) > 0 {
		t.Errorf("check: %v", w["problems"])
	}
	by := AuditContext{Actor: "control socket", Action: "fill", Now: a.clock.Now()}
	for range 1100 {
		a.Store.Queue(by.Append, func(error) {})
	}
	auditEntries(t, a.Store) // once all are stored
	got = tend()
	if len(got) != 1000 || got[999].Action != "cut audit log" {
		t.Errorf("by number: got %d entries, the last %+v", len(got), got[len(got)-1])
	}
	if again := tend(); len(again) != 1000 {
		t.Errorf("again: got %d entries, want 1000", len(again))
	}
}

// tendAudit does all background work about the audit log.
func tendAudit(a *AuditLog, now time.Time) error {
	return errors.Join(a.RecordSkipped(now), a.Cut(now), a.LogHead(now))
}
