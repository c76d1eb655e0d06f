package main

import (
	"encoding/binary"
	"math"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// times reads how often to do something from the environment.
func times(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// near gives a key that differs from another in its last characters alone, and
// has a checksum that fits.
func near(key string, n int) string {
	body := []byte(key[:len(key)-secretCheck])
	for i := len(body) - 1; n > 0; i-- {
		body[i] = base62[n%62]
		n /= 62
	}
	return string(body) + check(string(body))
}

// TestServer_Guessing sends unknown keys, random and near to a real one, from
// more and more addresses (LATCHKEY_TEST_GUESSES): none passes, a good key is
// always served, and once the table of addresses is full no memory is taken.
func TestServer_Guessing(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Log.Access = false }) // the test keeps the log in memory
	_, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 10000000}`)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	n := times(t, "LATCHKEY_TEST_GUESSES", 22_000)
	half := int64(0)
	for i := range n {
		guess := NewSecret("klen_")
		if i%2 == 0 {
			guess = near(key, i+1)
		}
		r, w := httptest.NewRequest("GET", "/api/v1/agents", nil), httptest.NewRecorder()
		r.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i)<<4))), 1).String()
		r.Header.Set("X-API-Key", guess)
		if a.api.ServeHTTP(w, r); w.Code != 401 && guess != key {
			t.Fatalf("guess %d: got %d %s", i, w.Code, w.Body)
		}
		if i%1000 == 0 {
			a.clocks.Pass(time.Second)
			if w := askDoor(a.api, "GET", "/api/v1/agents", "", "X-API-Key: "+key); w.Code != 200 {
				t.Fatalf("the good key beside %d guesses: got %d, want 200", i, w.Code)
			}
		}
		if i == n/2 {
			half = heap()
		}
	}
	if grown := heap() - half; grown > 4<<20 {
		t.Errorf("%d guesses take %d bytes", n/2, grown)
	}
	if got := len(a.Server.throttle.seen); got > throttleTable {
		t.Errorf("%d addresses are kept, want at most %d", got, throttleTable)
	}
}

// TestKeyring_Timing: a look-up can tell by its time only how much of what is
// looked up fits, and that is an HMAC of the key. With LATCHKEY_TEST_TIMING it
// measures, too, and says how far apart guesses near to a key and others are.
func TestKeyring_Timing(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(`["can_read_agents"]`)
	real := a.Keyring.peppers.Hash(DigestOf(key))
	for i := range 2000 {
		guess := near(key, i+1)
		if guess == key {
			continue
		}
		if hash := a.Keyring.peppers.Hash(DigestOf(guess)); string(hash[:4]) == string(real[:4]) {
			t.Errorf("%d characters of a key are enough for 4 bytes of its hash", len(key)-secretCheck-2)
		}
	}
	n := times(t, "LATCHKEY_TEST_TIMING", 0)
	var sum, squares [2]float64
	for i := range 2 * n {
		guess := NewSecret("klen_")
		if i%2 == 0 {
			guess = near(key, i+1)
		}
		began := time.Now()
		_, _, err := a.Keyring.Find(guess)
		took := float64(time.Since(began))
		if err == nil {
			t.Fatal("a guess passes")
		}
		took = min(took, 50_000) // what the system did meanwhile is not about the key
		sum[i%2] += took
		squares[i%2] += took * took
	}
	if n > 1 {
		var mean, variance [2]float64
		for i := range 2 {
			mean[i] = sum[i] / float64(n)
			variance[i] = (squares[i] - sum[i]*mean[i]) / float64(n-1)
		}
		t.Logf("%d each: %.0f ns near to a key, %.0f ns others, t = %.2f", n, mean[0], mean[1], (mean[0]-mean[1])/math.Sqrt((variance[0]+variance[1])/float64(n)))
	}
}
