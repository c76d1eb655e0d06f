package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// heavyRequest is a request with a key of an owner; owner 0 is an operator.
func heavyRequest(ctx context.Context, owner uint64) *Request {
	r := &Request{Request: httptest.NewRequest("GET", "/", nil).WithContext(ctx)}
	if owner > 0 {
		r.Key = &Key{StoredKey: StoredKey{Owner: owner}}
	}
	return r
}

func TestHeavyTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h HeavyTurns
		enter := func(owner uint64) (leave func(), err error) { return h.Enter(heavyRequest(t.Context(), owner)) }
		var leaves []func()
		for _, owner := range []uint64{1, 1, 2, 2} {
			leave, err := enter(owner)
			if err != nil {
				t.Fatalf("owner %d: %v", owner, err)
			}
			leaves = append(leaves, leave)
		}
		begun := time.Now()
		_, err := enter(1)
		e := Public(err)
		if !errors.Is(err, ErrRateLimit) || e.RetryAfter != time.Second || !strings.Contains(e.Message, "2 searches, imports or exports of this key's owner") || time.Since(begun) != heavyWait {
			t.Errorf("a third of an owner: got %v after %s", err, time.Since(begun))
		}
		go func() { time.Sleep(heavyWait / 2); leaves[0]() }()
		leave, err := enter(1)
		if err != nil {
			t.Errorf("a third that waits until another has ended: %v", err)
		}
		leaves[0] = leave
		ctx, cancel := context.WithTimeout(t.Context(), heavyWait/4)
		defer cancel()
		begun = time.Now()
		_, err = h.Enter(heavyRequest(ctx, 2))
		if !errors.Is(err, ErrBroken) || time.Since(begun) != heavyWait/4 {
			t.Errorf("a third whose client hangs up: got %v after %s", err, time.Since(begun))
		}
		for range heavyOfOperators {
			leave, err := enter(0)
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		go func() { time.Sleep(time.Hour); leaves[len(leaves)-1]() }()
		if _, err := enter(0); err != nil {
			t.Errorf("an operator, after an hour: %v", err)
		}
	})
}

func TestHeavyTurns_forgets(t *testing.T) {
	var h HeavyTurns
	for owner := range uint64(100) {
		leave, err := h.Enter(heavyRequest(t.Context(), owner))
		if err != nil {
			t.Fatal(err)
		}
		leave()
	}
	if len(h.holders) != 0 {
		t.Errorf("got %d owners in memory, want none", len(h.holders))
	}
}

// TestRoutes_Heavy walks all endpoints. Imports are heavy, and so is each list with a search in it.
func TestRoutes_Heavy(t *testing.T) {
	a := newTestApp(t)
	paths := object(t, string(openAPI))["paths"].(map[string]any)
	found := 0
	for _, row := range append(append([]Route{}, a.routes.Keyed...), a.routes.Admin...) {
		heavy := func(query string) bool {
			r := &Request{Request: httptest.NewRequest(row.Method, "/?"+query, nil)}
			if err := r.CheckQuery(); err != nil {
				t.Fatal(err)
			}
			return row.Heavy != nil && row.Heavy(r)
		}
		if strings.HasSuffix(row.Path, "/import") {
			if found++; !heavy("") {
				t.Errorf("%s %s is an import, and not heavy", row.Method, row.Path)
			}
		}
		described := strings.ReplaceAll(row.Path, "/:id", "/{id}")
		methods, _ := paths[described].(map[string]any)
		operation, _ := methods[strings.ToLower(row.Method)].(map[string]any)
		if !strings.Contains(fmt.Sprint(operation["parameters"]), "name:search") {
			continue
		}
		if found++; !heavy("search=x") || heavy("search=") || heavy("page=2") {
			t.Errorf("%s %s: a search is heavy, and a page without it is not", row.Method, row.Path)
		}
	}
	if found < 12 {
		t.Errorf("found %d imports and searches; the walk misses some", found)
	}
}

// TestServer_Heavy has two searches of an owner running. A third is refused, which is no limit of its
// key, and one of another owner passes.
func TestServer_Heavy(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission, `"owner": "ann"`)
	_, other := a.key(everyPermission, `"owner": "ben"`)
	if w := a.ask("GET", "/api/v1/contacts?search=x", key, ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	found, _, err := a.Keyring.Find(key)
	if err != nil {
		t.Fatal(err)
	}
	var leaves []func()
	for range heavyOfOwner {
		leave, err := a.Server.heavy.Enter(heavyRequest(t.Context(), found.Owner))
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leave)
	}
	w := a.ask("GET", "/api/v1/contacts?search=x", key, "")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"error":"rate_limit_exceeded"`) {
		t.Errorf("a third search: got %d %v %s", w.Code, w.Header(), w.Body)
	}
	a.notices.mu.Lock()
	if len(a.notices.seen) != 0 {
		t.Errorf("got the notice %v that a limit of the key is reached", a.notices.seen)
	}
	a.notices.mu.Unlock()
	for path, key := range map[string]string{"/api/v1/contacts": key, "/api/v1/contacts?search=": key, "/api/v1/contacts?search=x": other} {
		if w := a.ask("GET", path, key, ""); w.Code != 200 {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	a.operate(200, "GET", "/admin/v1/contacts?search=x", "")
	for _, leave := range leaves {
		leave()
	}
	if w := a.ask("GET", "/api/v1/contacts?search=x", key, ""); w.Code != 200 {
		t.Errorf("after the others: got %d %s", w.Code, w.Body)
	}
}
