package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"latchkey/tests/program"
)

// edit changes the database file of a stopped service, as somebody without the
// pepper can do.
func edit(t *testing.T, path string, change func(*Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(b *bbolt.Tx) error { return change(&Tx{Bolt: b}) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// signedNow returns the bucket, key and stored bytes of all signed records in a file.
func signedNow(t *testing.T, path string) (list [][3][]byte) {
	t.Helper()
	edit(t, path, func(tx *Tx) error {
		return tx.Walk(func(bucket string, key, stored []byte) error {
			if isSigned(bucket, key) {
				list = append(list, [3][]byte{[]byte(bucket), bytes.Clone(key), bytes.Clone(stored)})
			}
			return nil
		})
	})
	return list
}

// TestMAC_Tables compares the tables that sign their records with the list by
// which a migration signs them and a check verifies them.
func TestMAC_Tables(t *testing.T) {
	var got, want []string
	for _, table := range tables() {
		if t, ok := table.(anyTable); ok && t.settings().signed {
			got = append(got, t.settings().name)
		}
	}
	for bucket, only := range signedRecords {
		if only == nil && bucket != "key_hashes" { // not a Table
			want = append(want, bucket)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the signed tables are %v, signedRecords lists %v", got, want)
	}
}

// TestMAC_EveryRecord changes every signed record of a store in each way that
// somebody without the pepper can: the check of the file reports each.
func TestMAC_EveryRecord(t *testing.T) {
	a := newTestApp(t)
	fillStore(a)
	if _, err := a.sessions.Begin(AuditContext{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}, 1, sessionStart{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Store.Update(func(tx *Tx) error { _, err := addFactor(tx, factor{Operator: 1, Kind: factorTOTP}); return err }); err != nil {
		t.Fatal(err)
	}
	a.limitOwner("ann", OwnerRequestsPerMinute, 50)
	path, config := storePath(a.config.Server.Data), a.config
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	if result, err := CheckStoreFile(path, config, "", nil); err != nil || len(result.Problems) > 0 || result.NotVerified != "" {
		t.Fatalf("before: got %+v, %v", result, err)
	}
	seen := map[string]bool{}
	for _, r := range signedNow(t, path) {
		bucket, key, stored := string(r[0]), r[1], r[2]
		seen[bucket] = true
		value, mac, err := unseal(bucket, key, stored)
		if err != nil || mac == nil {
			t.Fatalf("%s/%x is not signed: %v", bucket, key, err)
		}
		other := bytes.Clone(value)
		other[len(other)/2] ^= 1
		broken := bytes.Clone(mac)
		broken[0] ^= 1
		for name, record := range map[string][]byte{
			"other value":       sealRecord(signedVersion, key, append(other, mac...)),
			"other MAC":         sealRecord(signedVersion, key, append(bytes.Clone(value), broken...)),
			"no MAC":            sealRecord(recordVersion, key, value),
			"MAC of a constant": sealRecord(signedVersion, key, append(bytes.Clone(value), make([]byte, macSize)...)),
		} {
			edit(t, path, func(tx *Tx) error { return tx.PutRaw(bucket, key, record) })
			result, err := CheckStoreFile(path, config, "", nil)
			if err != nil || !strings.Contains(strings.Join(result.Problems, "\n"), fmt.Sprintf("%s/%x", bucket, key)) {
				t.Errorf("%s/%x, %s: got %q, %v", bucket, key, name, result.Problems, err)
			}
		}
		edit(t, path, func(tx *Tx) error { return tx.PutRaw(bucket, key, stored) })
	}
	for bucket := range signedRecords {
		if !seen[bucket] {
			t.Errorf("the store of the test has no record in %s", bucket)
		}
	}
	// A valid record of another key is not valid in this place.
	edit(t, path, func(tx *Tx) error {
		var keys, values [][]byte
		for key, stored := range tx.Range("keys", nil) {
			keys, values = append(keys, bytes.Clone(key)), append(values, bytes.Clone(stored))
		}
		contents := values[1][5:]
		return tx.PutRaw("keys", keys[0], sealRecord(signedVersion, keys[0], contents))
	})
	if result, err := CheckStoreFile(path, config, "", nil); err != nil || len(result.Problems) == 0 {
		t.Errorf("a record in the place of another: got %+v, %v", result, err)
	}
}

// TestMAC_Serving serves a store in which a key, an admin token, a session and an
// operator were changed: they open nothing, and the service goes on.
func TestMAC_Serving(t *testing.T) {
	a := newTestApp(t)
	fillStore(a)
	_, good := a.key(`["can_read_agents"]`)
	bad, changed := a.key(`["can_read_agents"]`)
	token, _ := a.operate(201, "POST", "/admin/v1/tokens", `{"name": "changed"}`)["token"].(string)
	session, err := a.sessions.Begin(AuditContext{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}, 1, sessionStart{})
	if err != nil {
		t.Fatal(err)
	}
	path := storePath(a.config.Server.Data)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	replace := func(tx *Tx, bucket string, key []byte, old, now string) error {
		value, err := tx.Get(bucket, key)
		if err == nil && !bytes.Contains(value, []byte(old)) {
			err = fmt.Errorf("%s/%s has no %q: %s", bucket, key, old, value)
		}
		if err != nil {
			return err
		}
		return tx.Put(bucket, key, bytes.Replace(value, []byte(old), []byte(now), 1))
	}
	edit(t, path, func(tx *Tx) error {
		var sessions [][]byte
		for key := range tx.Range("sessions", nil) {
			sessions = append(sessions, bytes.Clone(key))
		}
		return errors.Join(
			replace(tx, "keys", []byte(bad), `"can_read_agents"`, `"can_read_calls","can_read_agents"`),
			replace(tx, "admin_tokens", IDKey(2), `"changed"`, `"renamed"`),
			replace(tx, "sessions", sessions[0], `"operator":1`, `"operator":2`),
		)
	})
	a.start()

	for secret, want := range map[string]int{good: 200, changed: 401} {
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	if w := a.ask("GET", "/api/v1/calls", changed, ""); w.Code != 401 {
		t.Errorf("with the permission that was put in: got %d", w.Code)
	}
	r, w := httptest.NewRequest("GET", "/admin/v1/keys", nil), httptest.NewRecorder()
	r.Header.Set("Authorization", "Bearer "+token)
	if a.admin.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("the changed token: got %d %s, want 401", w.Code, w.Body)
	}
	if _, err := a.sessions.Find(session, sessionUse{At: a.clock.Now()}); !errors.Is(err, ErrNotFound) {
		t.Errorf("the changed session: got %v, want ErrNotFound", err)
	}
	if list := a.operate(200, "GET", "/admin/v1/keys?limit=100", ""); strings.Contains(fmt.Sprint(list), bad) {
		t.Errorf("the list shows the changed key: %v", list)
	}
	if !strings.Contains(a.log.String(), "record refused") || !strings.Contains(a.log.String(), bad) {
		t.Errorf("the log does not name the changed key: %s", a.log)
	}
}

// TestMAC_Backup restores backups that were changed, have no MAC, or claim an
// older format without MACs.
func TestMAC_Backup(t *testing.T) {
	program.NotQuick(t)
	data := filepath.Join(t.TempDir(), "data")
	run := func(want int, args ...string) string {
		t.Helper()
		stdout, stderr, exit := program.Run(t, append(args, "--data", data)...)
		if exit != want {
			t.Errorf("%v: got %d, want %d: %s%s", args, exit, want, stdout, stderr)
		}
		return stdout + stderr
	}
	p := program.Serve(t, data)
	run(0, "contacts", "create", "--owner", "ann", "--first-name", "Mara", "--company", "North")
	run(0, "keys", "create", "--name", "k", "--permission", "can_read_calls")
	whole := filepath.Join(t.TempDir(), "whole.db")
	run(0, "backup", whole)
	p.Stop(t)
	run(0, "check", whole)
	copied := func(name string, change func(*Tx) error) string {
		path := filepath.Join(t.TempDir(), name)
		bytes, err := os.ReadFile(whole)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		edit(t, path, change)
		return path
	}
	contact := func(tx *Tx) error {
		value, err := tx.Get("contacts", IDKey(1))
		return errors.Join(err, tx.Put("contacts", IDKey(1), bytes.Replace(value, []byte("North"), []byte("South"), 1)))
	}
	stripped := func(tx *Tx) error { return tx.Delete("meta", sealKey) }
	older := func(tx *Tx) error {
		header, err := tx.Get("meta", []byte("header"))
		header = bytes.Replace(bytes.Replace(header, fmt.Appendf(nil, `"format":%d`, StoreFormat), []byte(`"format":1`), 1), fmt.Appendf(nil, `"min_reader":%d`, StoreFormat), []byte(`"min_reader":1`), 1)
		err = errors.Join(err, stripped(tx), tx.Put("meta", []byte("header"), header))
		_ = tx.Walk(func(bucket string, key, stored []byte) error {
			if isSigned(bucket, key) {
				value, _, _ := unseal(bucket, key, stored)
				err = errors.Join(err, tx.Put(bucket, bytes.Clone(key), bytes.Clone(value)))
			}
			return nil
		})
		return errors.Join(err, tx.Bolt.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if isListBucket(string(name)) || string(name) == ownerBytesBucket { // made by the migration to format 3
				return tx.Bolt.DeleteBucket(bytes.Clone(name))
			}
			return nil
		}))
	}
	changed := copied("changed.db", contact)
	if out := run(1, "check", changed); !strings.Contains(out, "MAC of the backup") {
		t.Errorf("check of a changed backup: %s", out)
	}
	for name, path := range map[string]string{"changed after it was made": changed, "has no MAC": copied("stripped.db", stripped), "made by an earlier version": copied("older.db", older)} {
		for _, flag := range []string{"--dry-run=true", "--dry-run=false"} {
			if out := run(1, "restore", path, flag); !strings.Contains(out, name) || !strings.Contains(out, "--unverified") {
				t.Errorf("%s: got %s", path, out)
			}
		}
		run(0, "restore", path, "--unverified", "--dry-run")
	}
	run(0, "restore", whole)
	run(0, "check")
	if out := run(0, "restore", copied("older.db", older), "--unverified"); !strings.Contains(out, "Restored 1 keys") {
		t.Errorf("got %s", out)
	}
	run(0, "keys", "list")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	stdout, stderr, exit := program.Run(t, "check", whole, "--data", elsewhere)
	if exit != 3 || !strings.Contains(stderr, "not verified") || !strings.Contains(stdout, " 0 problems") {
		t.Errorf("check without a pepper: got %d %s%s, want 3", exit, stdout, stderr)
	}
}

// TestMAC_Retired signs under one pepper and reads with another as the current one.
func TestMAC_Retired(t *testing.T) {
	keys := [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)}
	was, now := NewAuthenticator(keys[:1], "x"), NewAuthenticator([][]byte{keys[1], keys[0]}, "x")
	mac := was.sign("keys", []byte("k"), []byte("v"))
	if !now.valid("keys", []byte("k"), []byte("v"), mac) {
		t.Error("a MAC under a retired pepper is refused")
	}
	for name, ok := range map[string]bool{
		"other store":  NewAuthenticator(keys[:1], "y").valid("keys", []byte("k"), []byte("v"), mac),
		"other bucket": was.valid("key", []byte("sk"), []byte("v"), mac),
		"other key":    was.valid("keys", []byte("kv"), []byte(""), mac),
		"other pepper": NewAuthenticator(keys[1:], "x").valid("keys", []byte("k"), []byte("v"), mac),
	} {
		if ok {
			t.Errorf("%s: the MAC is accepted", name)
		}
	}
}

// TestMAC_Contents wants different MACs of backups whose records are the same bytes in the same order, in other buckets.
func TestMAC_Contents(t *testing.T) {
	type record [2]string
	type bucket struct {
		name     string
		sequence uint64
		records  []record
	}
	zeros := string(make([]byte, 8))
	seen := map[string]int{}
	for i, buckets := range [][]bucket{
		{{"A", 0, []record{{"a", "1"}, {"B", zeros}, {"C", "3"}}}},
		{{"A", 0, []record{{"a", "1"}}}, {"B", 0, []record{{"C", "3"}}}},
		{{"A", 0, []record{{"a", "1"}}}, {"B", 1, []record{{"C", "3"}}}},
		{{"A", 0, []record{{"a", "1"}}}, {"B", 0, nil}, {"C", 0, nil}},
		{{"A", 0, nil}, {"B", 0, []record{{"a", "1"}, {"C", "3"}}}},
		{{"A", 0, []record{{"a", "1B"}}}},
		{{"A", 0, []record{{"a1", "B"}}}},
		{{"Aa", 0, []record{{"1", "B"}}}},
	} {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(b *bbolt.Tx) error {
			for _, one := range buckets {
				into, err := b.CreateBucket([]byte(one.name))
				if err != nil {
					return err
				}
				err = into.SetSequence(one.sequence)
				for _, r := range one.records {
					err = errors.Join(err, into.Put([]byte(r[0]), []byte(r[1])))
				}
				if err != nil {
					return err
				}
			}
			mac, err := NewAuthenticator([][]byte{make([]byte, 32)}, "id").contents(&Tx{Bolt: b}, make([]byte, 32))
			if before, ok := seen[string(mac)]; ok {
				t.Errorf("contents %d and %d have the same MAC", before, i)
			}
			seen[string(mac)] = i
			return err
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPutSigned_Refused stores what the database refuses, with and without an Authenticator: this is an error.
func TestPutSigned_Refused(t *testing.T) {
	s := newTestStore(t)
	auth := NewAuthenticator([][]byte{make([]byte, pepperSize)}, "x")
	for _, with := range []*Authenticator{nil, auth} {
		err := s.Update(func(tx *Tx) error {
			tx.Auth = with
			if err := tx.PutSigned("signed", nil, []byte("v")); err == nil {
				t.Errorf("with an Authenticator %t: a record without a key is stored", with != nil)
			}
			return errChange
		})
		if !errors.Is(err, errChange) {
			t.Error(err)
		}
	}
}
