package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/keytext"
)

// Finding a key that is in memory must not allocate: every request does it.
func TestKeyring_FindAllocations(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(`["can_read_agents"]`)
	if _, _, err := a.Keyring.Find(secret); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := a.Keyring.Find(secret); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

// A start must not read the keys, or a million of them would be waited for.
func TestKeyring_StartsEmpty(t *testing.T) {
	a := newTestApp(t)
	var secrets []string
	for range 20 {
		_, secret := a.key(`["can_read_agents"]`)
		secrets = append(secrets, secret)
	}
	a.restart()
	if n := len(a.Keyring.memory.byID); n != 0 {
		t.Errorf("got %d keys in memory after the start, want 0", n)
	}
	for _, secret := range secrets {
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
			t.Errorf("got %d %s, want 200", w.Code, w.Body)
		}
	}
	if n := len(a.Keyring.memory.byID); n != len(secrets) {
		t.Errorf("got %d keys in memory, want the %d that were used", n, len(secrets))
	}
}

// How a key comes is counted for each way, over restarts and beside each other.
func TestKeyring_carriers(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000}`)
	counts := func() string {
		key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
		return fmt.Sprint(key["carriers"], " ", key["query_last_at"], " ", key["query_last_ip"])
	}
	send := func(times int, query, header string) {
		var wg sync.WaitGroup
		for range times {
			wg.Go(func() {
				r := httptest.NewRequest("GET", "/api/v1/agents"+query, nil)
				if header != "" {
					r.Header.Set(header, secret)
				}
				w := httptest.NewRecorder()
				if a.api.ServeHTTP(w, r); w.Code != 200 {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
	}
	if got := counts(); got != "map[bearer:0 header:0 query:0] <nil> <nil>" {
		t.Errorf("never used: got %s", got)
	}
	send(7, "", "X-API-Key")
	send(3, "?api_key="+secret, "")
	a.clocks.Pass(time.Minute)
	a.ask("GET", "/api/v1/agents", secret, "")
	const first = "map[bearer:1 header:7 query:3] 2026-02-03T09:00:00Z 192.0.2.1"
	if got := counts(); got != first {
		t.Errorf("before it is stored: got %s, want %s", got, first)
	}
	for range 2 { // storing it counts nothing twice
		if err := a.Keyring.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := counts(); got != first {
			t.Errorf("stored: got %s, want %s", got, first)
		}
	}
	a.restart()
	send(2, "", "X-API-Key")
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", "")
	send(1, "", "X-API-Key") // by the earlier secret
	a.restart()
	if got, want := counts(), "map[bearer:1 header:10 query:3] 2026-02-03T09:00:00Z 192.0.2.1"; got != want {
		t.Errorf("after a rotation: got %s, want %s", got, want)
	}
	if w := a.ask("GET", "/api/v1/key", secret, ""); object(t, w.Body.String())["carriers"] != nil {
		t.Errorf("the holder sees how others send it: %s", w.Body)
	}
}

// A record of before carriers were counted is read, and counted on.
func TestKeyring_carriersOfOld(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(everyPermission)
	err := a.Store.Update(func(tx *Tx) error {
		return tx.Put("key_uses", []byte(id), []byte(`{"at":"2026-01-01T00:00:00Z","ip":"192.0.2.9","carrier":"query"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if key["last_used_by"] != "query" || fmt.Sprint(key["carriers"]) != "map[bearer:0 header:0 query:0]" {
		t.Errorf("got %v", key)
	}
	a.ask("GET", "/api/v1/agents", secret, "")
	a.restart()
	key = a.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if key["last_used_by"] != "bearer" || fmt.Sprint(key["carriers"]) != "map[bearer:1 header:0 query:0]" {
		t.Errorf("got %v", key)
	}
}

// rotate gives a key a new secret.
func (a *testApp) rotate(id string, overlap int) string {
	a.t.Helper()
	return a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", fmt.Sprintf(`{"overlap_seconds": %d}`, overlap))["key"].(string)
}

// wantCode asks for the agents with each secret.
func (a *testApp) wantCode(when string, want map[string]int) {
	a.t.Helper()
	for secret, status := range want {
		a.Server.throttle = NewThrottle(60, time.Minute)
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != status {
			a.t.Errorf("%s, %s: got %d %s, want %d", when, keytext.Hint(secret, "klen_"), w.Code, w.Body, status)
		}
	}
}

func TestAdmin_Rotate(t *testing.T) {
	a := newTestApp(t)
	id, first := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	a.wantCode("before", map[string]int{first: 200})
	made := a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", "")
	second := made["key"].(string)
	if made["id"] != id || !keytext.WellFormed(second, "klen_") || second == first || made["hint"] != keytext.Hint(second, "klen_") || made["rotated_at"] != "2026-02-03T09:00:00Z" {
		t.Errorf("got %v, want the same id with another key", made)
	}
	a.wantCode("in the overlap", map[string]int{first: 200, second: 200})
	a.restart()
	a.wantCode("after a restart", map[string]int{first: 200, second: 200})
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)[RequestsPerMinute].(map[string]any)
	if usage["used"] != 5.0 {
		t.Errorf("got %v units used by both secrets, want 5 of one limit", usage["used"])
	}
	a.clocks.Pass(24*time.Hour - time.Nanosecond)
	a.wantCode("a nanosecond before the end", map[string]int{first: 200, second: 200})
	a.clocks.Pass(time.Nanosecond)
	a.wantCode("at the end", map[string]int{first: 401, second: 200})
	if w := a.ask("GET", "/api/v1/agents", first, ""); !strings.Contains(w.Body.String(), "2026-02-04T09:00:00Z") {
		t.Errorf("got %s, want it to say when the secret ended", w.Body)
	}
	a.restart()
	a.wantCode("at the end, after a restart", map[string]int{first: 401, second: 200})
	third := a.rotate(id, 0)
	a.wantCode("without overlap", map[string]int{first: 401, second: 401, third: 200})
	a.restart()
	a.wantCode("without overlap, after a restart", map[string]int{first: 401, second: 401, third: 200})
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate", `{"overlap_seconds": -1}`, 400, "validation_error", "overlap_seconds")
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate", `{"overlap_seconds": 2592001}`, 400, "validation_error", "overlap_seconds")
	a.refuse("POST", "/admin/v1/keys/none/rotate", "", 404, "not_found", "")
}

// TestAdmin_RotateAliases is about several earlier secrets at once.
func TestAdmin_RotateAliases(t *testing.T) {
	a := newTestApp(t)
	id, first := a.key(`["can_read_agents"]`)
	second := a.rotate(id, 3600)
	third := a.rotate(id, 60)
	fourth := a.rotate(id, 60)
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate", "", 409, "conflict", "3 earlier secrets")
	a.wantCode("all of them", map[string]int{first: 200, second: 200, third: 200, fourth: 200})
	a.clocks.Pass(time.Minute)
	a.wantCode("after the short overlaps", map[string]int{first: 200, second: 401, third: 401, fourth: 200})
	fifth := a.rotate(id, 60) // the two that are over count no more
	a.wantCode("rotated again", map[string]int{first: 200, fourth: 200, fifth: 200, second: 401})
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate/finish", "")
	a.wantCode("finished", map[string]int{first: 401, fourth: 401, fifth: 200})
	a.rotate(id, 3600)
	sixth := a.rotate(id, 0) // as for a leak: of whichever secret
	a.wantCode("no overlap ends all earlier ones", map[string]int{fifth: 401, sixth: 200})
	seventh := a.rotate(id, 3600)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	a.wantCode("revoked", map[string]int{sixth: 401, seventh: 401})
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate", "", 409, "conflict", "revoked")
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate/finish", "", 409, "conflict", "revoked")
}

func TestAdmin_RotateShowsWhoUsesWhat(t *testing.T) {
	a := newTestApp(t)
	id, first := a.key(`["can_read_agents"]`)
	a.wantCode("first", map[string]int{first: 200})
	a.clocks.Pass(time.Minute)
	second := a.rotate(id, 7200)
	look := func(when, present, earlier, ip string) {
		t.Helper()
		list := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["secrets"].([]any)
		if len(list) != 2 {
			t.Fatalf("%s: got %d secrets, want 2", when, len(list))
		}
		now, old := list[0].(map[string]any), list[1].(map[string]any)
		if now["present"] != true || now["hint"] != keytext.Hint(second, "klen_") || now["ends_at"] != nil || fmt.Sprint(now["last_used_at"]) != present {
			t.Errorf("%s: present: got %v, want use at %s", when, now, present)
		}
		if old["present"] != false || old["hint"] != keytext.Hint(first, "klen_") || old["ends_at"] != "2026-02-03T11:01:00Z" || fmt.Sprint(old["last_used_at"]) != earlier || fmt.Sprint(old["last_used_ip"]) != ip {
			t.Errorf("%s: earlier: got %v, want use at %s from %s", when, old, earlier, ip)
		}
	}
	look("rotated", "<nil>", "2026-02-03T09:00:00Z", "192.0.2.1")
	a.clocks.Pass(time.Minute)
	a.wantCode("second", map[string]int{second: 200})
	a.clocks.Pass(time.Minute)
	r := httptest.NewRequest("GET", "/api/v1/agents?api_key="+first, nil)
	r.RemoteAddr = "198.51.100.7:1"
	a.api.ServeHTTP(httptest.NewRecorder(), r)
	for _, when := range []string{"both used", "after a restart"} {
		look(when, "2026-02-03T09:02:00Z", "2026-02-03T09:03:00Z", "198.51.100.7")
		if got := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["last_used_at"]; got != "2026-02-03T09:03:00Z" {
			t.Errorf("%s: the key: got last use at %v, want that of either secret", when, got)
		}
		a.restart()
	}
	a.refuse("POST", "/admin/v1/keys/"+id+"/rotate/finish", `{"unused_for_seconds": 600}`, 409, "conflict", "198.51.100.7")
	a.wantCode("not finished", map[string]int{second: 200})
	a.clocks.Pass(10 * time.Minute)
	if w := a.ask("GET", "/api/v1/key", first, ""); !strings.Contains(w.Body.String(), `"secret_ends_at":"2026-02-03T11:01:00Z"`) || strings.Contains(w.Body.String(), "secrets") {
		t.Errorf("got %s, want the holder of the earlier secret to learn its end and no more", w.Body)
	}
	a.clocks.Pass(10 * time.Minute)
	if got := a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate/finish", `{"unused_for_seconds": 600}`)["secrets"].([]any); len(got) != 1 {
		t.Errorf("finished: got %d secrets, want 1", len(got))
	}
	a.wantCode("finished", map[string]int{first: 401, second: 200})
}

// TestKeyring_Sweep looks into the store for what is over.
func TestKeyring_Sweep(t *testing.T) {
	a := newTestApp(t)
	count := func(bucket string) (n int) {
		_ = a.Store.View(func(tx *Tx) error {
			if b := tx.Bolt.Bucket([]byte(bucket)); b != nil {
				n = b.Stats().KeyN
			}
			return nil
		})
		return n
	}
	var ids, secrets []string
	for range 5 {
		id, first := a.key(`["can_read_agents"]`)
		a.ask("GET", "/api/v1/agents", first, "")
		secrets = append(secrets, a.rotate(id, 60))
		a.ask("GET", "/api/v1/agents", first, "")
		ids = append(ids, id)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+ids[4]+"/revoke", "")
	if err := a.Keyring.Flush(); err != nil {
		t.Fatal(err)
	}
	a.clocks.Pass(time.Minute - time.Second)
	for _, step := range []struct{ hashes, ends, uses int }{{10, 5, 10}, {5, 0, 5}, {5, 0, 5}} {
		if err := a.Keyring.Sweep(a.clocks.Read().Wall); err != nil {
			t.Fatal(err)
		}
		if h, e, u := count("key_hashes"), count("keys/alias_end"), count("key_uses"); h != step.hashes || e != step.ends || u != step.uses {
			t.Errorf("got %d hashes, %d ends, %d uses; want %+v", h, e, u, step)
		}
		a.clocks.Pass(time.Second)
	}
	a.wantCode("swept", map[string]int{secrets[0]: 200, secrets[4]: 401})
	if got := a.operate(200, "GET", "/admin/v1/keys/"+ids[0], "")["last_used_at"]; got == nil {
		t.Error("the key has lost its last use with the earlier secret")
	}
}

// TestKeyring_ImportedCanRotate gives a foreign key a secret of our form.
func TestKeyring_ImportedCanRotate(t *testing.T) {
	a := newTestApp(t)
	made := a.operate(201, "POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "old", "sha256": "%x", "permissions": ["can_read_agents"]}]`, keytext.DigestOf("sk-one")))
	id := made["keys"].([]any)[0].(map[string]any)["id"].(string)
	second := a.rotate(id, 60)
	a.wantCode("overlap", map[string]int{"sk-one": 200, second: 200})
	a.clocks.Pass(time.Minute)
	a.wantCode("over", map[string]int{"sk-one": 401, second: 200})
}

// TestKeyring_RotateUnderLoad asks with the secrets that must hold while they
// are rotated: each request that starts after a secret was answered and ends
// before its end must pass.
func TestKeyring_RotateUnderLoad(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.Cache = 1000 })
	id, secret := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
	var current, previous atomic.Pointer[string]
	current.Store(&secret)
	var wg sync.WaitGroup
	var asked atomic.Int64
	stop := make(chan struct{})
	for worker := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Read before the request, so that a rotation in between makes it the
				// earlier secret, which holds as well.
				s := current.Load()
				if p := previous.Load(); worker%2 == 1 && p != nil {
					s = p
				}
				if w := a.ask("GET", "/api/v1/agents", *s, ""); w.Code != 200 {
					select {
					case <-stop: // ended on purpose
					default:
						t.Errorf("got %d %s in the overlap", w.Code, w.Body)
					}
					return
				}
				asked.Add(1)
			}
		})
	}
	for range 2 { // as many as an earlier secret in use may be behind
		old := current.Load()
		next := a.rotate(id, 3600)
		current.Store(&next)
		previous.Store(old)
		for n := asked.Load(); asked.Load() < n+200 && !t.Failed(); {
		}
	}
	close(stop)
	wg.Wait()
	revoked := make(chan struct{})
	var last string
	wg.Go(func() {
		defer close(revoked)
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	})
	w := httptest.NewRecorder() // meanwhile; either comes first
	a.local.ServeHTTP(w, httptest.NewRequest("POST", "/admin/v1/keys/"+id+"/rotate", nil))
	<-revoked
	wg.Wait()
	if w.Code == 200 {
		var made struct{ Key string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil {
			t.Fatal(err)
		}
		last = made.Key
	} else if w.Code != 409 {
		t.Errorf("rotate beside revoke: got %d %s", w.Code, w.Body)
	}
	for _, s := range []string{*current.Load(), *previous.Load(), last} {
		if s != "" {
			a.wantCode("revoked", map[string]int{s: 401})
		}
	}
}

// TestKeyring_RotationModel holds the service against a list of secrets and
// their ends, over rotations, finishes, restarts and the passing of time.
func TestKeyring_RotationModel(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.Cache = 1000 })
	rapid.Check(t, func(rt *rapid.T) {
		id, secret := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
		type old struct {
			secret string
			end    time.Time
		}
		var earlier []old
		now := func() time.Time { return a.clocks.Read().Wall }
		holding := func() (n int) {
			for _, o := range earlier {
				if now().Before(o.end) {
					n++
				}
			}
			return n
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0, 1:
				overlap := rapid.SampledFrom([]int{0, 1, 60}).Draw(rt, "overlap")
				if overlap > 0 && holding() == MaxPreviousSecrets {
					continue
				}
				if overlap == 0 {
					for i := range earlier {
						earlier[i].end = time.Time{}
					}
				}
				earlier = append(earlier, old{secret, now().Add(time.Duration(overlap) * time.Second)})
				secret = a.rotate(id, overlap)
			case 2:
				a.clocks.Pass(time.Duration(rapid.SampledFrom([]int{1, 59, 60}).Draw(rt, "pass")) * time.Second)
			case 3:
				a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate/finish", "")
				for i := range earlier {
					earlier[i].end = time.Time{}
				}
			case 4:
				if err := a.Keyring.Sweep(now()); err != nil {
					rt.Fatal(err)
				}
			}
			want := map[string]int{secret: 200}
			for _, o := range earlier {
				want[o.secret] = 401
				if now().Before(o.end) {
					want[o.secret] = 200
				}
			}
			a.wantCode("model", want)
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
	if got := a.Keyring.memory.byID; len(got) > 1100 {
		t.Errorf("got %d keys in memory", len(got))
	}
}

// TestKeyring_Holders checks that memory forgets secrets that are dropped or
// pushed out.
func TestKeyring_Holders(t *testing.T) {
	a := newTestApp(t)
	a.Keyring.memory.perShard = 1
	for i := range 100 {
		id, first := a.key(`["can_read_agents"]`)
		second := a.rotate(id, 60)
		a.wantCode("both", map[string]int{first: 200, second: 200})
		if i%2 == 0 {
			a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate/finish", "")
		}
	}
	held, linked := 0, 0
	for i := range a.Keyring.memory.shards {
		held += len(a.Keyring.memory.shards[i].keys)
	}
	for _, h := range a.Keyring.memory.byID {
		for ; h != nil; h = h.next {
			linked++
		}
	}
	if held > 64 || held != linked {
		t.Errorf("got %d secrets in memory, %d of them by id; want as many and at most 64", held, linked)
	}
}

// TestKeyring_LastUseOfEndedSecret ends a secret, and pushes others out of
// memory, before their use is stored: it is told all the same, then and after.
func TestKeyring_LastUseOfEndedSecret(t *testing.T) {
	a := newTestApp(t)
	a.Keyring.memory.perShard = 1
	wantUse := func(when, id string) {
		t.Helper()
		key := a.operate(200, "GET", "/admin/v1/keys/"+id, "")
		if carriers, _ := key["carriers"].(map[string]any); key["last_used_at"] == nil || carriers[CarrierBearer] != 1.0 {
			t.Errorf("%s: got last use %v, carriers %v; want one as bearer", when, key["last_used_at"], key["carriers"])
		}
	}
	ended, first := a.key(`["can_read_agents"]`)
	a.ask("GET", "/api/v1/agents", first, "")
	a.rotate(ended, 0)
	wantUse("the secret that was used is ended", ended)
	revoked, second := a.key(`["can_read_agents"]`)
	a.ask("GET", "/api/v1/agents", second, "")
	a.operate(200, "POST", "/admin/v1/keys/"+revoked+"/revoke", "")
	wantUse("the key is revoked", revoked)
	for range 100 { // more than there is room for
		_, other := a.key(`["can_read_agents"]`)
		a.ask("GET", "/api/v1/agents", other, "")
	}
	wantUse("pushed out", ended)
	wantUse("pushed out", revoked)
	if err := a.Keyring.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := len(a.Keyring.memory.gone); n != 0 {
		t.Errorf("got %d keys that have left memory and are held, want none once their use is stored", n)
	}
	wantUse("stored", ended)
	wantUse("stored", revoked)
}

func TestServer_SelfRevoke(t *testing.T) {
	a := newTestApp(t)
	for _, way := range []struct{ method, path string }{{"DELETE", "/api/v1/key"}, {"POST", "/api/v1/key/revoke"}} {
		id, first := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1}`)
		second := a.rotate(id, 3600)
		if w := a.ask(way.method, way.path, first, ""); w.Code != 200 || !strings.Contains(w.Body.String(), "previous secret") {
			t.Errorf("%s %s with the earlier secret: got %d %s", way.method, way.path, w.Code, w.Body)
		}
		a.wantCode("the earlier secret ended itself", map[string]int{first: 401, second: 200}) // free of charge: the one unit is there
		if w := a.ask(way.method, way.path, second, ""); w.Code != 200 || !strings.Contains(w.Body.String(), id) {
			t.Errorf("%s %s: got %d %s", way.method, way.path, w.Code, w.Body)
		}
		a.wantCode("revoked itself", map[string]int{second: 401})
		a.restart()
		a.wantCode("revoked itself, after a restart", map[string]int{second: 401})
		if got := a.operate(200, "GET", "/admin/v1/keys/"+id, "")["status"]; got != "revoked" {
			t.Errorf("got status %v, want revoked", got)
		}
	}
	b := newTestApp(t, func(c *Config) { c.Keys.SelfRevoke = false })
	_, key := b.key(`["can_read_agents"]`)
	if w := b.ask("DELETE", "/api/v1/key", key, ""); w.Code != 403 || code(w) != "permission_denied" {
		t.Errorf("switched off: got %d %s, want 403", w.Code, w.Body)
	}
	b.wantCode("not revoked", map[string]int{key: 200})
}

// A changed limit of an owner holds for every key of the owner that is in memory,
// by whichever secret, once it is stored, and for nobody else.
func TestKeyring_OwnerLimitInMemory(t *testing.T) {
	a := newTestApp(t)
	secrets := map[string]string{}
	for _, owner := range []string{"ann", "bob"} {
		for _, name := range []string{"first", "second"} {
			_, secrets[owner+" "+name] = a.key(everyPermission, `"owner": "`+owner+`"`)
		}
	}
	id, earlier := a.key(everyPermission, `"owner": "ann"`)
	secrets["ann earlier"], secrets["ann rotated"] = earlier, a.rotate(id, 3600)
	owner := func(name string) (id uint64) {
		err := a.Store.View(func(tx *Tx) error {
			o, err := OwnerNamed(tx, name)
			id = o.ID
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	want := func(when string, ann int) {
		t.Helper()
		for whose, secret := range secrets {
			key, holder, err := a.Keyring.Find(secret)
			if err != nil {
				t.Fatal(err)
			}
			most := 0
			for _, c := range key.Charge(nil, RequestsPerMinute, 1) {
				if c.Limit.Name == OwnerRequestsPerMinute {
					most = c.Limit.Max
				}
			}
			if asked := map[bool]int{true: ann, false: 0}[whose[:3] == "ann"]; most != asked || holder.Key() != key {
				t.Errorf("%s, %s: got a limit of %d, want %d", when, whose, most, asked)
			}
		}
	}
	change := func(most int, then error) {
		t.Helper()
		err := a.Store.Update(func(tx *Tx) error {
			return errors.Join(a.Keyring.LimitOwner(tx, owner("ann"), map[string]int{OwnerRequestsPerMinute: most}), then)
		})
		if !errors.Is(err, then) {
			t.Fatal(err)
		}
	}
	want("before", 0)
	_, misses := a.Keyring.Cached()
	for _, most := range []int{7, 9, 0, 5} {
		change(most, nil)
		want(fmt.Sprint("with ", most), most)
	}
	change(8, errors.New("given up"))
	want("after a change that was given up", 5)
	if _, now := a.Keyring.Cached(); now != misses {
		t.Errorf("got %d reads of the store, want the keys from memory", now-misses)
	}
}

// What was read of a key before its owner's limit changed is not kept after it.
func TestKeyCache_OwnerLimitWhileRead(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(everyPermission, `"owner": "ann"`)
	key, err := a.Keyring.read(keytext.DigestOf(secret))
	if err != nil {
		t.Fatal(err)
	}
	c := newKeyCache(100)
	since := c.Changes()
	c.ChangeOwner(key.Owner, func(*Key) {})
	if h := c.Keep(keytext.DigestOf(secret), key, since); h != nil {
		t.Error("a key that was read before the change is kept")
	}
	if h := c.Keep(keytext.DigestOf(secret), key, c.Changes()); h == nil {
		t.Error("a key that was read after the change is not kept")
	}
}

// A damaged record of one key does not keep Flush from storing the uses of the others.
func TestKeyring_FlushDamaged(t *testing.T) {
	a := newTestApp(t)
	bad, badKey := a.key(everyPermission)
	good, goodKey := a.key(everyPermission)
	for _, key := range []string{badKey, goodKey} {
		if w := a.ask("GET", "/api/v1/calls", key, ""); w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	err := a.Store.Update(func(tx *Tx) error {
		return tx.PutRaw("key_uses", []byte(bad), []byte("damaged"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Keyring.Flush(); err == nil {
		t.Error("Flush reports no damaged use")
	}
	err = a.Store.View(func(tx *Tx) error {
		use, err := storedUse(tx, []byte(good))
		if err == nil && use.Bearer != 1 {
			t.Errorf("got %+v for the good key, want one use", use)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Counts that a Flush cannot store are not lost: they are part of answers, and the next Flush stores
// them.
func TestFlush_KeepsCounts(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission)
	for range 3 {
		if w := a.ask("GET", "/api/v1/calls", key, ""); w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	charge := Charge{ID: id, Limit: Limit{"few", 1, time.Minute}}
	a.Limiter.Observed.Note(charge, epoch)
	refuseWrites(t, a.Store)
	for range 2 {
		for name, flush := range map[string]func() error{
			"keys": a.Keyring.Flush, "history": a.App.history.Flush, "observed": func() error { return a.Limiter.Observed.Flush(epoch) },
		} {
			if err := flush(); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: got %v, want ErrUnavailable", name, err)
			}
		}
	}
	entry := a.Keyring.dirty
	if len(entry) != 1 || entry[0].Noted().Bearer != 3 {
		t.Errorf("got %d keys with unstored uses, want one with 3", len(entry))
	}
	if n := entry[0].notes; n == nil || n.size() != 1 || a.Keyring.notes.used.Load() != 1 {
		t.Errorf("got the notes %+v, and %d counted, want one", n, a.Keyring.notes.used.Load())
	}
	if n, err := a.Limiter.Observed.Count(id, "few"); n != 1 || err != nil {
		t.Errorf("got %d, %v observed refusals, want 1", n, err)
	}
	if _, sum := totals(t, a.App.history, subject{ofKey, id}, period{stepHour, 1, epoch}); sum.Total() != 3 {
		t.Errorf("got %v in the history, want 3 requests", sum)
	}
}

// TestKeyring_DamageReachesCaller has every operation of the Keyring meet damage in the buckets of keys and owners, and writes
// that fail.
func TestKeyring_DamageReachesCaller(t *testing.T) {
	a, f := opsApp(t)
	buckets := slices.DeleteFunc(storedBuckets(t, a.Store), func(name string) bool { return !strings.HasPrefix(name, "key") && !strings.HasPrefix(name, "owner") })
	for _, op := range storedOps(a, f) {
		if !strings.HasPrefix(op.name, "Keyring.") {
			continue
		}
		lost, refused := op.lostDamage(t, a.Store, buckets)
		for _, text := range append(lost, op.lostWriteErrors(t, a.Store)...) {
			t.Errorf("%s: no error: %s", op.name, text)
		}
		if refused == 0 && op.name != "Keyring.Count" { // it reads a count, which is in another bucket
			t.Errorf("%s: fails for no damage, so this shows nothing", op.name)
		}
	}
}
