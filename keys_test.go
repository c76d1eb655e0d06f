package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// A secret that cannot be one of ours is refused without reading the store, as
// long as no key was imported. Scans and typing errors cost no disk access.
func TestKeyring_FindReadsOnlyWhatCanBeAKey(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(`["can_read_agents"]`)
	unknown := keytext.NewSecret("klen_")
	swapped := secret[:6] + secret[7:8] + secret[6:7] + secret[8:]
	if secret[6] == secret[7] {
		swapped = secret[:6] + "--" + secret[8:]
	}
	for _, step := range []struct {
		name, secret string
		found        bool
		reads        uint64
	}{
		{"empty", "", false, 0},
		{"the prefix alone", "klen_", false, 0},
		{"a word", "hunter2", false, 0},
		{"two characters swapped", swapped, false, 0},
		{"a character missing", secret[:len(secret)-1], false, 0},
		{"a character too many", secret + "0", false, 0},
		{"another prefix", keytext.NewSecret("other_"), false, 0},
		{"well-formed but unknown", unknown, false, 1},
		{"known", secret, true, 1},
		{"known, from memory", secret, true, 0},
	} {
		_, before := a.Keyring.Cached()
		_, _, err := a.Keyring.Find(step.secret)
		_, after := a.Keyring.Cached()
		if (err == nil) != step.found || err != nil && !errors.Is(err, ErrKey) || after-before != step.reads {
			t.Errorf("%s: got %v after %d reads, want found %v after %d", step.name, err, after-before, step.found, step.reads)
		}
	}
	err := a.Store.Update(func(tx *Tx) error {
		return a.Keyring.Import(tx, &Key{StoredKey: StoredKey{ID: NewKeyID(epoch), CreatedAt: epoch}}, keytext.DigestOf("hunter2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Keyring.Find("hunter2"); err != nil {
		t.Errorf("an imported secret of another form: got %v", err)
	}
}

// TestKey_ChargeUnknown charges a limit that does not exist: it refuses every cost above 0. One that only some owners have
// charges nothing.
func TestKey_ChargeUnknown(t *testing.T) {
	k := &Key{StoredKey: StoredKey{ID: "k", Owner: 7}}
	k.Resolve(defaultConfig().Rights(), nil)
	for _, cost := range []int{0, 1} {
		list := k.Charge(nil, "unknown", cost)
		if len(list) != 1 || list[0].Limit.Max != 0 || list[0].Limit.Name != "unknown" || list[0].Cost != cost || list[0].ID != "k" || list[0].Owner != 7 || list[0].Observe {
			t.Fatalf("got %+v, want one charge of %d against a limit of 0", list, cost)
		}
		_, err := NewLimiter(newTestStore(t), epoch).SpendAll(list, epoch, nil)
		if (err != nil) != (cost > 0) || err != nil && !errors.Is(err, ErrRateLimit) {
			t.Errorf("a cost of %d: got %v", cost, err)
		}
	}
	if list := k.Charge(nil, OwnerRequestsPerMinute, 1); list != nil {
		t.Errorf("a limit that the owner does not have: got %+v", list)
	}
}

// TestKeyring_SandboxSecret wants the mark of sandboxes in the secrets of sandbox keys, of the first and of later ones, and in
// no other.
func TestKeyring_SandboxSecret(t *testing.T) {
	a := newTestApp(t)
	mark := a.Keyring.prefix + keytext.SandboxMark
	for _, owner := range []uint64{1, SandboxOf(1)} {
		err := a.Store.Update(func(tx *Tx) error {
			key := &Key{StoredKey: StoredKey{ID: NewKeyID(epoch), Owner: owner, CreatedAt: epoch}}
			first, err := a.Keyring.Create(tx, key)
			if err != nil {
				return err
			}
			second, err := a.Keyring.Rotate(tx, key.Clone(), epoch, epoch)
			for _, secret := range []string{first, second} {
				if strings.HasPrefix(secret, mark) != IsSandbox(owner) || !strings.HasPrefix(secret, a.Keyring.prefix) {
					t.Errorf("owner %d: got a secret that begins with %.12s", owner, secret)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestNewKeyID wants ids of the documented form, which sort by their times.
func TestNewKeyID(t *testing.T) {
	form := regexp.MustCompile(`^key_[0-9a-f]{21}$`)
	for at := time.UnixMilli(0); at.Year() < 2500; at = at.Add(7777 * time.Hour) {
		ids := append(NewKeyIDs(at, 3), NewKeyID(at.Add(time.Millisecond)))
		for _, id := range ids {
			if !form.MatchString(id) || !slices.IsSorted(ids) {
				t.Fatalf("got %v at %v", ids, at)
			}
		}
	}
}

// TestSecure says of each change whether it takes rights away.
func TestSecure(t *testing.T) {
	yes, no := true, false
	key := func(change func(*StoredKey)) *StoredKey {
		k := &StoredKey{ID: "key_1", Permissions: ReadCalls | ReadAgents, Owner: 1, Hash: []byte("one"), Limits: map[string]int{"requests_per_minute_limit": 5}, QueryAllowed: &yes, ExpiresAt: epoch.Add(time.Hour)}
		change(k)
		return k
	}
	before := key(func(*StoredKey) {})
	for what, tt := range map[string]struct {
		change func(*StoredKey)
		secure bool
	}{
		"nothing":                {func(*StoredKey) {}, false},
		"a name":                 {func(k *StoredKey) { k.Name = "other" }, false},
		"one more permission":    {func(k *StoredKey) { k.Permissions |= ReadContacts }, false},
		"a later end":            {func(k *StoredKey) { k.ExpiresAt = epoch.Add(2 * time.Hour) }, false},
		"no end":                 {func(k *StoredKey) { k.ExpiresAt = time.Time{} }, false},
		"a noticed end":          {func(k *StoredKey) { k.ExpiryNoticed = epoch }, false},
		"a permission less":      {func(k *StoredKey) { k.Permissions = ReadCalls }, true},
		"a pause":                {func(k *StoredKey) { k.Paused = true }, true},
		"a revocation":           {func(k *StoredKey) { k.RevokedAt = epoch }, true},
		"an earlier end":         {func(k *StoredKey) { k.ExpiresAt = epoch }, true},
		"addresses":              {func(k *StoredKey) { k.AllowedIPs = append(k.AllowedIPs, netip.MustParsePrefix("192.0.2.0/24")) }, true},
		"fewer objects":          {func(k *StoredKey) { k.Resources = &Resources{Agents: []uint64{8}} }, true},
		"another limit":          {func(k *StoredKey) { k.Limits = nil }, true},
		"no query":               {func(k *StoredKey) { k.QueryAllowed = &no }, true},
		"another owner":          {func(k *StoredKey) { k.Owner = 2 }, true},
		"another secret at once": {func(k *StoredKey) { k.Hash = []byte("two") }, true},
		"another secret with overlap": {func(k *StoredKey) {
			k.Hash = []byte("two")
			k.Aliases = []PreviousSecret{{Hash: []byte("one"), EndsAt: epoch.Add(time.Hour)}}
		}, false},
		"a short overlap": {func(k *StoredKey) {
			k.Hash = []byte("two")
			k.Aliases = []PreviousSecret{{Hash: []byte("one"), EndsAt: epoch}}
		}, true},
	} {
		after := key(tt.change)
		if got := KeyTable.Secure(&before, &after); got != tt.secure {
			t.Errorf("%s: got %t, want %t", what, got, tt.secure)
		}
	}
	endless := key(func(k *StoredKey) { k.ExpiresAt = time.Time{} })
	if !KeyTable.Secure(&endless, &before) || KeyTable.Secure(&endless, &endless) {
		t.Error("an end takes rights away from a key without one")
	}
	if KeyTable.Secure(nil, &before) || !KeyTable.Secure(&before, nil) {
		t.Error("a new key takes no rights away, and a deleted one does")
	}
}

// TestKey_Places resolves keys with the limits on requests in flight of all kinds.
func TestKey_Places(t *testing.T) {
	c := defaultConfig()
	c.Concurrent = []concurrentRow{{Name: "exports", Default: 3, Scope: "key"}, {Name: "reports", Default: 4, Scope: "owner"}, {Name: "free", Scope: "key"}}
	c.Limits = []limitRow{{Name: "per_hour", Window: time.Hour, Default: 5, Scope: "key"}}
	names := func(list []Charge) string {
		var all []string
		for _, c := range list {
			all = append(all, fmt.Sprint(c.Limit.Name, ":", c.Limit.Max, ":", c.ID))
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	for _, tt := range []struct {
		name                   string
		limits, owner          map[string]int
		running, on, streaming string
	}{
		{"the defaults", nil, nil, "concurrent_requests:64:k", "concurrent_requests:64:k exports:3:k reports:4:owner_7", "concurrent_streams:1000:k"},
		{"values of the key", map[string]int{ConcurrentRequests: 2, "exports": 0, "free": 1}, nil, "concurrent_requests:2:k", "concurrent_requests:2:k free:1:k reports:4:owner_7", "concurrent_streams:1000:k"},
		{"no limit", map[string]int{ConcurrentRequests: 0, ConcurrentStreams: 0}, map[string]int{"reports": 0}, "", "exports:3:k", ""},
		{"values of the owner", nil, map[string]int{OwnerConcurrentRequests: 9, OwnerConcurrentStreams: 8}, "concurrent_requests:64:k owner_concurrent_requests:9:owner_7",
			"concurrent_requests:64:k exports:3:k owner_concurrent_requests:9:owner_7 reports:4:owner_7", "concurrent_streams:1000:k owner_concurrent_streams:8:owner_7"},
	} {
		k := &Key{StoredKey: StoredKey{ID: "k", Owner: 7, Limits: tt.limits}}
		k.Resolve(c.Rights(), tt.owner)
		got := []string{names(k.Places(nil)), names(k.Places([]string{"exports", "reports", "free", "per_hour"})), names(k.StreamPlaces())}
		if want := []string{tt.running, tt.on, tt.streaming}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, want)
		}
		for _, name := range []string{ConcurrentRequests, "exports", "reports", "free"} {
			if list := k.Charge(nil, name, 1); list != nil {
				t.Errorf("%s: got the charges %v for %s, which has no units", tt.name, list, name)
			}
		}
		if len(k.Charge(nil, "per_hour", 1)) != 1 || k.ShortLimits() == nil {
			t.Errorf("%s: a limit in a window is not charged, or a request has more than the limit per minute", tt.name)
		}
	}
}

// One secret belongs to one key, also if both come in one transaction.
func TestKeyring_ImportTwice(t *testing.T) {
	a := newTestApp(t)
	one := func(tx *Tx, secret string) error {
		return a.Keyring.Import(tx, &Key{StoredKey: StoredKey{ID: NewKeyID(epoch), CreatedAt: epoch}}, keytext.DigestOf(secret))
	}
	err := a.Store.Update(func(tx *Tx) error { return errors.Join(one(tx, "a"), one(tx, "b"), one(tx, "a")) })
	if !errors.Is(err, ErrConflict) {
		t.Errorf("in one transaction: got %v, want ErrConflict", err)
	}
	for i, want := range []error{nil, ErrConflict} {
		if err := a.Store.Update(func(tx *Tx) error { return one(tx, "a") }); !errors.Is(err, want) {
			t.Errorf("transaction %d: got %v, want %v", i, err, want)
		}
	}
	_ = a.Store.View(func(tx *Tx) error {
		if n, err := a.Keyring.Count(tx); n != 1 || err != nil || tx.Count("key_hashes") != 1 {
			t.Errorf("got %d keys and %d hashes, %v; want one of each", n, tx.Count("key_hashes"), err)
		}
		return nil
	})
}

// A rotation without an overlap removes the old secret from the store, and the
// record of its last use; one with an overlap keeps both until it ends.
func TestKeyring_RotateRemovesOldSecret(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(`["can_read_agents"]`)
	for i, step := range []struct{ overlap, hashes int }{{0, 1}, {0, 1}, {60, 2}, {60, 3}, {0, 1}} {
		a.ask("GET", "/api/v1/agents", secret, "")
		if err := a.Keyring.Flush(); err != nil {
			t.Fatal(err)
		}
		secret = a.rotate(id, step.overlap)
		_ = a.Store.View(func(tx *Tx) error {
			if n := tx.Count("key_hashes"); n != step.hashes {
				t.Errorf("rotation %d: got %d hashes, want %d", i, n, step.hashes)
			}
			if n := tx.Count("key_uses"); n != step.hashes {
				t.Errorf("rotation %d: got %d last uses, want %d: of the key and its earlier secrets", i, n, step.hashes)
			}
			return nil
		})
	}
}

// Expiring gives what ends at the bound too, and no more keys than asked for.
func TestKeyring_ExpiringBounds(t *testing.T) {
	a := newTestApp(t)
	var ids []string
	for i := range 3 {
		id, _ := a.key(`["can_read_agents"]`, fmt.Sprintf(`"expires_at": %q`, *Seconds(epoch.Add(time.Duration(i+1) * time.Hour))))
		ids = append(ids, id)
	}
	for _, tt := range []struct {
		by   time.Duration
		most int
		want int
	}{
		{time.Hour - 1, 10, 0}, {time.Hour, 10, 1}, {time.Hour + 1, 10, 1}, {2*time.Hour - 1, 10, 1}, {2 * time.Hour, 10, 2},
		{3 * time.Hour, 10, 3}, {3 * time.Hour, 3, 3}, {3 * time.Hour, 2, 2}, {3 * time.Hour, 1, 1},
	} {
		_ = a.Store.View(func(tx *Tx) error {
			keys, err := a.Keyring.Expiring(tx, epoch.Add(tt.by), tt.most)
			if err != nil || len(keys) != tt.want {
				t.Errorf("by %s, at most %d: got %d keys, %v; want %d", tt.by, tt.most, len(keys), err, tt.want)
			}
			for i, key := range keys {
				if key.ID != ids[i] {
					t.Errorf("by %s: key %d is %s, want the first to expire first", tt.by, i, key.ID)
				}
			}
			return nil
		})
	}
}

// A changed limit of an owner counts at once for all keys of the owner that are
// in memory, by whichever secret, and for no other key.
func TestKeyring_LimitOwnerInMemory(t *testing.T) {
	a := newTestApp(t)
	first, secret := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	earlier := secret
	secret = a.rotate(first, 3600)
	_, second := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	_, other := a.key(`["can_read_agents"]`, `"owner": "bob"`)
	limit := func(secret string) int {
		t.Helper()
		key, _, err := a.Keyring.Find(secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range key.Rules() {
			if l.Name == OwnerRequestsPerMinute {
				return l.Max
			}
		}
		return 0
	}
	before := limit(other)
	mine := []string{earlier, secret, second}
	for _, s := range mine {
		limit(s) // puts it into memory
	}
	key, _, err := a.Keyring.Find(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Store.Update(func(tx *Tx) error {
		return a.Keyring.LimitOwner(tx, key.Owner, map[string]int{OwnerRequestsPerMinute: 7})
	}); err != nil {
		t.Fatal(err)
	}
	for i, s := range mine {
		if got := limit(s); got != 7 {
			t.Errorf("secret %d: got a limit of %d, want 7", i, got)
		}
	}
	if got := limit(other); got != before || got == 7 {
		t.Errorf("another owner: got a limit of %d, want %d", got, before)
	}
}

func TestPeppers(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, file := range []string{one, two} {
		if err := CreatePepper(file); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
		}
	}
	if err := CreatePepper(one); err == nil {
		t.Error("an existing pepper was overwritten")
	}
	load := func(value, file string, retired ...string) Peppers {
		t.Helper()
		p, err := LoadPeppers(value, file, retired)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	d := keytext.DigestOf("secret")
	first, second := load("", one), load("", two)
	if bytes.Equal(first.Hash(d), second.Hash(d)) || bytes.Contains(first.Hash(d), d[:8]) {
		t.Error("the hash does not depend on the pepper, or shows the digest")
	}
	store := newTestStore(t)
	for _, tt := range []struct {
		name string
		p    Peppers
		ok   bool
	}{
		{"the first time", first, true}, {"the same", first, true}, {"another", second, false},
		{"another with the first retired", load("", two, one), true}, {"from then on that one", second, true}, {"no longer the first", first, false},
	} {
		if err := tt.p.Verify(store); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	text, _ := os.ReadFile(one)
	if got := load(string(text), "not there"); !bytes.Equal(got.Hash(d), first.Hash(d)) {
		t.Error("a pepper given as a value is not the one of the file")
	}
}

func TestLoadPeppers_Bad(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ value, file, want string }{
		{"", filepath.Join(dir, "none"), "put the file back"},
		{"", short, "64 hex digits"},
		{"hunter2", "", "LATCHKEY_KEYS_PEPPER must be at least 64 hex digits"},
	} {
		_, err := LoadPeppers(tt.value, tt.file, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "abcdef") {
			t.Errorf("got %v, want %q and no part of the pepper", err, tt.want)
		}
	}
}

// TestPeppers_Encrypt opens what was sealed before the pepper was changed.
func TestPeppers_Encrypt(t *testing.T) {
	old, now := bytes.Repeat([]byte{1}, pepperSize), bytes.Repeat([]byte{2}, pepperSize)
	sealed, err := Peppers{list: [][]byte{old}}.Encrypt("p", []byte("b"), "whsec_x")
	if err != nil || bytes.Contains(sealed, []byte("whsec")) {
		t.Fatalf("got %q, %v", sealed, err)
	}
	if again, _ := (Peppers{list: [][]byte{old}}).Encrypt("p", []byte("b"), "whsec_x"); bytes.Equal(again, sealed) {
		t.Error("the same text is sealed the same way twice")
	}
	if got, err := (Peppers{list: [][]byte{now, old}}).Decrypt("p", []byte("b"), sealed); got != "whsec_x" || err != nil {
		t.Errorf("with the old pepper retired: got %q, %v", got, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := (Peppers{list: [][]byte{old}}).Decrypt("p", []byte("b"), bad); err == nil {
			t.Errorf("opened with byte %d changed", i)
		}
	}
	if _, err := (Peppers{list: [][]byte{now}}).Decrypt("p", []byte("b"), sealed); err == nil || !strings.Contains(err.Error(), "retired_pepper_files") {
		t.Errorf("without the old pepper: got %v", err)
	}
}

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

// checkLength is how many characters at the end of a key are its checksum.
const checkLength = 6

// near gives a key that differs from another in its last characters alone, and
// has a checksum that fits.
func near(key string, n int) string {
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := []byte(key)
	cut := len(b) - checkLength
	for i := cut - 1; n > 0; i-- {
		b[i] = base62[n%62]
		n /= 62
	}
	sum := crc32.ChecksumIEEE(b[:cut])
	for i := len(b) - 1; i >= cut; i-- {
		b[i] = base62[sum%62]
		sum /= 62
	}
	return string(b)
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
		guess := keytext.NewSecret("klen_")
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
	real := a.Keyring.peppers.Hash(keytext.DigestOf(key))
	for i := range 2000 {
		guess := near(key, i+1)
		if guess == key {
			continue
		}
		if hash := a.Keyring.peppers.Hash(keytext.DigestOf(guess)); string(hash[:4]) == string(real[:4]) {
			t.Errorf("%d characters of a key are enough for 4 bytes of its hash", len(key)-checkLength-2)
		}
	}
	n := times(t, "LATCHKEY_TEST_TIMING", 0)
	var sum, squares [2]float64
	for i := range 2 * n {
		guess := keytext.NewSecret("klen_")
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
