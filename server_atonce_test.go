package main

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestServer_EveryRouteAtOnce reads every list and every page while one goroutine makes every change of operators
// and another one every change of keys. No answer is a server error. It is for the race detector, because most
// tests make one request after the other.
func TestServer_EveryRouteAtOnce(t *testing.T) {
	w := newStorageWalk(t)
	w.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	keyed, o := w.keyedChanges(), w.Server.o
	delete(w.admin, "POST /admin/v1/cluster/nodes/:name/remove") // joins a cluster, which a server does before it answers
	var succeeded atomic.Int64
	check := func(method, path string, got *httptest.ResponseRecorder) {
		if got.Code < 300 {
			succeeded.Add(1)
		}
		if got.Code == http.StatusInternalServerError {
			t.Errorf("%s %s: got %d %s", method, path, got.Code, got.Body)
		}
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	repeat := func(round func()) {
		others.Go(func() {
			for {
				round()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	repeat(func() {
		for _, name := range slices.Sorted(maps.Keys(keyed)) {
			method, _, _ := strings.Cut(name, " ")
			path, body := keyed[name].request()
			check(method, path, askDoor(w.api, method, path, body, "Authorization: Bearer "+w.secret))
		}
	})
	repeat(func() {
		for _, row := range slices.Concat(o.Keyed, o.Free, o.Open, o.Admin) {
			if path := fill(row.Path, "1"); row.Method == http.MethodGet {
				check(row.Method, path, askDoor(w.api, row.Method, path, "", "Authorization: Bearer "+w.secret))
				check(row.Method, path, askDoor(w.local, row.Method, path, ""))
			}
		}
	})
	repeat(func() {
		b := newBrowser(w.testApp)
		check("POST", "/login", b.post("/login", "name", "ann", "password", operatorPassword))
		for _, pattern := range pagePatterns(t) {
			method, path, _ := strings.Cut(pattern, " ")
			path = strings.ReplaceAll(path, "{id}", "1")
			if method != http.MethodGet {
				continue
			}
			r := b.request(method, path)
			ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second) // of a page that follows what happens
			check(method, path, b.send(r.WithContext(ctx)))
			cancel()
		}
	})
	for _, name := range slices.Sorted(maps.Keys(w.admin)) {
		method, _, _ := strings.Cut(name, " ")
		path, body := w.admin[name]()
		check(method, path, askDoor(w.local, method, path, body))
	}
	close(done)
	others.Wait()
	if n := succeeded.Load(); n < 200 {
		t.Errorf("only %d requests succeeded", n)
	}
}
