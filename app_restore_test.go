package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/clock"
)

// restoreApp restores a backup over the stopped service and starts it again.
func restoreApp(t *testing.T, a *testApp, from string, o RestoreAppOptions) RestoreResult {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	o.Config, o.From, o.Now = a.config, from, a.clocks.Wall
	result, err := RestoreApp(o)
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	return result
}

// TestRestore_CarriesOver ends everything that can be ended after a backup. The restore
// does not begin it again, unless it is asked to restore exactly.
func TestRestore_CarriesOver(t *testing.T) {
	for _, exactly := range []bool{false, true} {
		t.Run(fmt.Sprintf("exactly %t", exactly), func(t *testing.T) {
			a := newTestApp(t)
			by := AuditContext{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}
			for _, name := range []string{"ann", "bea", "cay", "dot"} {
				if _, err := a.Operators.Create(by, name, "correct horse battery", ""); err != nil {
					t.Fatal(err)
				}
			}
			login, err := a.sessions.Begin(by, 1, sessionStart{})
			if err != nil {
				t.Fatal(err)
			}
			ids, secrets := map[string]string{}, map[string]string{}
			for _, name := range []string{"kept", "revoked", "paused", "rotated", "finished", "shortened"} {
				ids[name], secrets[name] = a.key(`["can_read_agents"]`)
			}
			old := secrets["finished"]
			secrets["finished"] = a.rotate(ids["finished"], 86400)
			tokens := map[string]string{}
			for _, name := range []string{"kept", "revoked", "rotated", "replaced"} {
				tokens[name], _ = a.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": %q}`, name))["token"].(string)
			}
			joining := a.invite("eda", RoleViewer)
			backup := a.saveBackup()

			if _, err := a.Operators.Join(by, joining, "correct horse battery"); err != nil {
				t.Fatal(err)
			}
			a.operate(200, "POST", "/admin/v1/keys/"+ids["revoked"]+"/revoke", "")
			a.operate(200, "POST", "/admin/v1/keys/"+ids["paused"]+"/pause", "")
			rotated := a.rotate(ids["rotated"], 0)
			a.operate(200, "POST", "/admin/v1/keys/"+ids["finished"]+"/rotate/finish", "")
			a.operate(200, "PATCH", "/admin/v1/keys/"+ids["shortened"], fmt.Sprintf(`{"expires_at": %q}`, a.clock.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
			a.operate(200, "POST", "/admin/v1/tokens/2/revoke", "")
			a.operate(200, "POST", "/admin/v1/tokens/3/rotate", "")
			tokens["new"], _ = a.operate(200, "POST", "/admin/v1/tokens/4/rotate", `{"overlap_seconds": 0}`)["token"].(string)
			a.operate(200, "POST", "/admin/v1/operators/1/password", `{"password": "another horse battery"}`)
			a.operate(200, "DELETE", "/admin/v1/operators/2", "")
			a.operate(200, "PATCH", "/admin/v1/operators/3", `{"disabled": true}`)
			a.operate(200, "PATCH", "/admin/v1/operators/4", `{"role": "viewer"}`)
			a.clocks.Pass(2 * time.Hour)

			result := restoreApp(t, a, backup, RestoreAppOptions{Exactly: exactly})
			if result.NotCarried != "" || (len(result.Carried) == 0) != exactly {
				t.Errorf("carried over %q, %s", result.Carried, result.NotCarried)
			}
			ended, live := 401, 200
			if exactly {
				ended, live = 200, 401
			}
			a.wantCode("restored", map[string]int{
				secrets["kept"]: 200, secrets["revoked"]: ended, secrets["paused"]: ended, secrets["rotated"]: ended, rotated: live,
				secrets["finished"]: 200, old: ended, secrets["shortened"]: ended,
			})
			for name, want := range map[string]int{"kept": 200, "revoked": ended, "rotated": 200, "replaced": ended, "new": live} {
				if status, _ := a.scrape(tokens[name]); status != want {
					t.Errorf("token %s: got %d, want %d", name, status, want)
				}
			}
			if _, err := a.sessions.Find(login, sessionUse{At: a.clock.Now()}); err == nil {
				t.Error("a login outlives the restore")
			}
			_, first := a.Operators.Authenticate("ann", "correct horse battery")
			_, second := a.Operators.Authenticate("bea", "correct horse battery")
			if (first == nil) != exactly || (second == nil) != exactly {
				t.Errorf("the old password: %v; the deleted operator: %v", first, second)
			}
			_, disabled := a.Operators.Authenticate("cay", "correct horse battery")
			lowered, err := a.Operators.Authenticate("dot", "correct horse battery")
			if err != nil || (disabled == nil) != exactly || (lowered.role().Name == RoleAdmin) != exactly {
				t.Errorf("the disabled operator: %v; the other has the role %s, %v", disabled, lowered.role().Name, err)
			}
			_, joined := a.Operators.Authenticate("eda", "correct horse battery")
			if _, err := a.Operators.FindInvited(joining, a.clock.Now()); (joined == nil) == exactly || !errors.Is(err, ErrInvitation) {
				t.Errorf("the invited operator: %v; the invitation: %v, want it ended", joined, err)
			}
			if !exactly {
				for _, want := range []string{"was revoked on", "was paused", "another secret", "earlier end", "Admin token 2 (revoked) was revoked on", "Admin token 3 (rotated) got another secret", "Operator 1 (ann) got another password", "Operator 2 (bea) was deleted", "Operator 3 (cay) was disabled", "Operator 4 (dot) got the role viewer", "Operator 5 (eda) got another password"} {
					if !strings.Contains(strings.Join(result.Carried, "\n"), want) {
						t.Errorf("the list has no %q: %q", want, result.Carried)
					}
				}
			}
			var problems []any
			check := a.operate(200, "POST", "/admin/v1/check", "")
			if problems, _ = check["problems"].([]any); len(problems) > 0 {
				t.Errorf("check: %v", problems)
			}
			entries := auditEntries(t, a.Store)
			if last := entries[len(entries)-1]; last.Action != "restore" {
				t.Errorf("the log ends with %+v", last)
			}
		})
	}
}

// TestRestore_Gone restores a backup from before keys, tokens and operators were created, and names those that could
// be used. --exactly and a dry run name them too.
func TestRestore_Gone(t *testing.T) {
	a := newTestApp(t)
	a.key(`["can_read_agents"]`)
	a.token()
	backup := a.saveBackup()
	id, _ := a.key(`["can_read_agents"]`)
	ended, _ := a.key(`["can_read_agents"]`)
	a.operate(200, "POST", "/admin/v1/keys/"+ended+"/revoke", "")
	a.token()
	a.token()
	a.operate(200, "POST", "/admin/v1/tokens/3/revoke", "")
	by := AuditContext{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}
	if _, err := a.Operators.Create(by, "ann", "correct horse battery", ""); err != nil {
		t.Fatal(err)
	}
	created := a.clock.Now().UTC().Format(time.RFC3339)
	want := []string{
		fmt.Sprintf("Key %s (test), created on %s.", id, created),
		fmt.Sprintf("Admin token 2 (prometheus), created on %s.", created),
		fmt.Sprintf("Operator 1 (ann), created on %s.", created),
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []RestoreAppOptions{{RestoreOptions: RestoreOptions{DryRun: true}}, {RestoreOptions: RestoreOptions{DryRun: true}, Exactly: true}, {}} {
		o.Config, o.From, o.Now = a.config, backup, a.clocks.Wall
		result, err := RestoreApp(o)
		if err != nil || !slices.Equal(result.Gone, want) {
			t.Errorf("dry run %t, exactly %t: got %q, %v; want %q", o.DryRun, o.Exactly, result.Gone, err, want)
		}
		if result.WebhooksHeld {
			t.Error("webhooks are held back, though the backup has none")
		}
	}
	a.start()
	if since := a.operate(200, "GET", "/admin/v1/status", "")["webhooks_held_since"]; since != nil {
		t.Errorf("held since %v, though there is no webhook", since)
	}
}

// TestRestore_NotCarried restores over a database that cannot be read.
func TestRestore_NotCarried(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(`["can_read_agents"]`)
	backup := a.saveBackup()
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	path := storePath(a.config.Server.Data)
	if err := os.WriteFile(path, []byte(strings.Repeat("damage", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := RestoreApp(RestoreAppOptions{RestoreOptions: RestoreOptions{Config: a.config, From: backup, Now: a.clocks.Wall}})
	if err != nil || result.NotCarried == "" || len(result.Carried) > 0 {
		t.Errorf("got %+v, %v", result, err)
	}
	a.start()
	a.wantCode("restored", map[string]int{secret: 200})
}

// TestRestore_Webhooks holds the deliveries of a backup back until an operator releases
// or discards them.
func TestRestore_Webhooks(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		send       bool
		want       []string // the events that arrive
	}{
		{"released", "", false, []string{"key.created", "key.paused"}},
		{"discarded", `{"discard": true}`, false, []string{"key.paused"}},
		{"sent", "", true, []string{"key.created", "key.paused"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newReceiver(t)
			a := newHookApp(t)
			a.hook(v.URL, "", "key.created", "key.paused")
			id, _ := a.key(`["can_read_agents"]`)
			backup := a.saveBackup()
			a.clocks.Pass(time.Minute)
			if result := restoreApp(t, a, backup, RestoreAppOptions{SendWebhooks: tt.send}); result.WebhooksHeld == tt.send {
				t.Errorf("held back: got %t, want %t", result.WebhooksHeld, !tt.send)
			}
			a.clocks.Pass(time.Minute)
			a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
			a.send()
			status := a.operate(200, "GET", "/admin/v1/status", "")
			if held := status["webhooks_held_since"] != nil; held == tt.send {
				t.Errorf("held: %v", status["webhooks_held_since"])
			}
			if !tt.send {
				if n := len(eventsAt(v)); n > 0 {
					t.Errorf("%d deliveries were sent before their release", n)
				}
				a.operate(200, "POST", "/admin/v1/webhooks/release", tt.body)
				a.refuse("POST", "/admin/v1/webhooks/release", "", 409, "conflict", "not held back")
				a.send()
			}
			if got := eventsAt(v); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestRestore_Older checks and restores the copies that migrations have made of the fixtures of earlier formats, and the
// fixtures themselves, which have no MAC. They are whole, and are migrated before they become the database.
func TestRestore_Older(t *testing.T) {
	for format := 1; format < StoreFormat; format++ {
		f, data := readFixture(t, format)
		plain := filepath.Join(t.TempDir(), "plain.db")
		copyFile(t, plain, storePath(data))
		kept, err := Migrate(storePath(data), Migrations(), MigrateOptions{Keys: fixtureKeys(t, data), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		a := newTestApp(t, func(c *Config) { c.Keys.Prefix = fixturePrefix })
		overwrite(t, a.config.Server.Data, pepperFile, f.Pepper+"\n")
		for _, backup := range []string{plain, kept} {
			o := RestoreAppOptions{}
			o.Unverified, o.Other = backup == plain, true
			result, err := CheckStoreFile(backup, a.config, "", nil)
			if err != nil || len(result.Problems) > 0 || (result.NotVerified == "") != (format > 1 || backup == kept) {
				t.Errorf("format %d, %s: the check has the result %+v, %v", format, backup, result, err)
			}
			restoreApp(t, a, backup, o)
			a.wantCode("restored", map[string]int{f.Key: 200, f.Revoked: 401})
			if left, _ := filepath.Glob(filepath.Join(a.config.Server.Data, "*format*")); len(left) > 0 {
				t.Errorf("format %d: a copy of the copy is left: %v", format, left)
			}
			if err := json.Unmarshal(a.control("POST", "/admin/v1/check", "").Body.Bytes(), &result); err != nil || len(result.Problems) > 0 {
				t.Errorf("format %d, %s: the restored store has the result %+v, %v", format, backup, result, err)
			}
		}
		edit(t, kept, func(tx *Tx) error { return tx.Put("agents", IDKey(1), []byte(`{"id":1}`)) })
		if result, err := CheckStoreFile(kept, a.config, "", nil); err != nil || len(result.Problems) != 1 || !strings.Contains(result.Problems[0], "MAC of the backup") {
			t.Errorf("format %d, a changed copy: the check has the result %+v, %v", format, result, err)
		}
		edit(t, kept, func(tx *Tx) error { return tx.Put("keys", []byte("key_19c22bae68000000000"), []byte(`{}`)) })
		if result, err := CheckStoreFile(kept, a.config, "", nil); err != nil || len(result.Problems) == 0 || format > 1 && !strings.Contains(result.Problems[0], "no valid MAC") {
			t.Errorf("format %d, a forged key: the check has the result %+v, %v", format, result, err)
		}
	}
}

// TestRestore_ByHand puts copies and a backup in the place of the database, without a restore. The server uses them, and
// the check does not hold the MAC of the backup against what has changed since.
func TestRestore_ByHand(t *testing.T) {
	for format := 1; format <= StoreFormat; format++ {
		f, data := readFixture(t, format)
		keys, path := fixtureKeys(t, data), storePath(data)
		file, err := OpenFile(path, ReadOnly)
		if err != nil {
			t.Fatal(err)
		}
		file.Auth = NewAuthenticator(keys, file.Header.StoreID) // which signs the copy
		if err := errors.Join(file.CopyTo(path+".copy"), file.Close(), os.Rename(path+".copy", path)); err != nil {
			t.Fatal(err)
		}
		a := &testApp{t: t, config: defaultConfig(), log: &lockedBuffer{}}
		a.clocks = &testClocks{Reading: clock.Reading{Wall: epoch.Add(20 * time.Second), Boot: time.Hour + 20*time.Second, BootID: "one"}}
		a.config.Server.Data, a.config.Keys.Prefix = data, fixturePrefix
		for range 2 {
			a.start()
			a.wantCode("by hand", map[string]int{f.Key: 200, f.Revoked: 401})
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if result, err := CheckStoreFile(path, a.config, "", nil); err != nil || len(result.Problems) > 0 || result.NotVerified != "" {
				t.Errorf("format %d: the check has the result %+v, %v", format, result, err)
			}
		}
	}
}

// eventsAt returns the types of the events that a receiver has got, in their order.
func eventsAt(v *receiver) (types []string) {
	for _, r := range v.all() {
		types = append(types, r.event())
	}
	return types
}

// event returns the type of the event in a delivery.
func (r received) event() string {
	var v struct {
		Event string `json:"event_type"`
	}
	_ = json.Unmarshal([]byte(r.body), &v)
	return v.Event
}

// TestRestore_ReleasePage releases webhooks by the forms of the status page.
func TestRestore_ReleasePage(t *testing.T) {
	b := newDashboard(t)
	hold := func() {
		t.Helper()
		if err := b.Store.Update(func(tx *Tx) error { return HoldWebhooks(tx, b.clock.Now()) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, fields := range [][]string{{"discard", "on"}, nil} {
		hold()
		b.says(b.get("/status"), 200, "Webhooks are held back", "Held back since the restore")
		if w := b.post("/webhooks/release", fields...); w.Code != 303 || w.Header().Get("Location") != "/status" {
			t.Errorf("%v: got %d %s", fields, w.Code, w.Body)
		}
		if page := b.get("/status").Body.String(); strings.Contains(page, "held back") {
			t.Errorf("%v: the page still shows the hold", fields)
		}
	}
	b.says(b.post("/webhooks/release"), 409, "not held back")
}
