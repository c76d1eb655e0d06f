package main

import (
	"errors"
	"fmt"
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
		return a.Keyring.Import(tx, &Key{ID: NewKeyID(epoch), CreatedAt: epoch}, keytext.DigestOf("hunter2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Keyring.Find("hunter2"); err != nil {
		t.Errorf("an imported secret of another form: got %v", err)
	}
}

// One secret belongs to one key, also if both come in one transaction.
func TestKeyring_ImportTwice(t *testing.T) {
	a := newTestApp(t)
	one := func(tx *Tx, secret string) error {
		return a.Keyring.Import(tx, &Key{ID: NewKeyID(epoch), CreatedAt: epoch}, keytext.DigestOf(secret))
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
