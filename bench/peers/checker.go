package main

import (
	"bufio"
	"crypto/sha256"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	permission = "can_read_agents" // that a request needs
	perMinute  = 1_000_000         // requests that a key may send in a minute
)

// checker is a handler that answers requests with a known key. It is safe for concurrent use.
type checker struct {
	path    string
	body    []byte
	clients map[[sha256.Size]byte]*client // by the hash of the key
}

// client is what is known of a key.
type client struct {
	permissions []string

	mu                sync.Mutex
	window            int64 // the current minute, since 1970
	current, previous int64 // requests in that minute and in the one before
}

// newChecker returns a checker of the keys in a file, which answers requests for path with body.
func newChecker(keys, path string, body []byte) (*checker, error) {
	f, err := os.Open(keys)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &checker{path: path, body: body, clients: map[[sha256.Size]byte]*client{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		c.clients[sha256.Sum256(lines.Bytes())] = &client{permissions: []string{permission, "can_initiate_calls"}}
	}
	return c, lines.Err()
}

func (c *checker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fields := w.Header()
	fields.Set("Content-Type", "application/json")
	if r.URL.Path != c.path {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	who := c.clients[sha256.Sum256([]byte(r.Header.Get("X-API-Key")))]
	if who == nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !slices.Contains(who.permissions, permission) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	left, reset, ok := who.take(time.Now())
	fields.Set("RateLimit-Limit", strconv.Itoa(perMinute))
	fields.Set("RateLimit-Remaining", strconv.FormatInt(left, 10))
	fields.Set("RateLimit-Reset", strconv.FormatInt(reset, 10))
	if !ok {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	fields.Set("Content-Length", strconv.Itoa(len(c.body)))
	_, _ = w.Write(c.body)
}

// take counts a request. It returns how many are left, and in how many seconds the minute ends. ok is
// false if none was left.
func (c *client) take(now time.Time) (left, reset int64, ok bool) {
	second := now.Unix()
	reset = 60 - second%60
	c.mu.Lock()
	defer c.mu.Unlock()
	switch minute := second / 60; minute {
	case c.window:
	case c.window + 1:
		c.window, c.current, c.previous = minute, 0, c.current
	default:
		c.window, c.current, c.previous = minute, 0, 0
	}
	used := c.current + c.previous*reset/60
	if used >= perMinute {
		return 0, reset, false
	}
	c.current++
	return perMinute - used - 1, reset, true
}
