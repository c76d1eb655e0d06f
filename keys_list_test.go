package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/fold"
)

// naiveKeys selects and sorts keys as KeyFilter says, one by one.
func naiveKeys(k *Keyring, tx *Tx, f KeyFilter) (ids []string, err error) {
	type one struct {
		id, name          string
		used, expires, at time.Time
	}
	var all []one
	err = k.Each(tx, func(key *Key) bool {
		use, useErr := k.LastUse(tx, key.ID)
		if useErr == nil && f.selects(key) && f.Now.Sub(latest(use.At, key.CreatedAt)) >= f.Unused && (!f.NeverUsed || use.At.IsZero()) && f.tagged([]byte(key.ID), key.ExpiresAt) {
			all = append(all, one{key.ID, fold.Search(key.Name), use.At, key.ExpiresAt, key.CreatedAt})
		}
		return useErr == nil
	})
	never := time.Unix(1<<40, 0)
	slices.SortStableFunc(all, func(a, b one) (order int) {
		switch f.Sort {
		case "name":
			order = cmp.Compare(a.name, b.name)
		case "last_used":
			order = cmp.Compare(a.used.UnixMilli(), b.used.UnixMilli())
		case SortCounts:
			order = cmp.Compare(f.Counts[a.id], f.Counts[b.id])
		case "expires":
			for _, end := range []*time.Time{&a.expires, &b.expires} {
				if end.IsZero() {
					*end = never
				}
			}
			order = cmp.Compare(a.expires.UnixMilli(), b.expires.UnixMilli())
		default:
			order = cmp.Compare(a.id, b.id)
		}
		if !f.Ascending {
			order = -order
		}
		return order
	})
	for _, o := range all {
		ids = append(ids, o.id)
	}
	return ids, err
}

// drawKey sets the fields of a key that lists look at.
func drawKey(rt *rapid.T, key *Key) {
	now := epoch
	key.Name = rapid.SampledFrom([]string{"Alpha", "alpha", "J\u00fcrgen's", "jurgen", "beta long name of a key", "beta long name 2"}).Draw(rt, "name")
	key.Environment = rapid.SampledFrom([]string{"", "live", "test"}).Draw(rt, "environment")
	key.Owner = uint64(rapid.IntRange(1, 2).Draw(rt, "owner"))
	key.OwnerName = fmt.Sprint("owner ", key.Owner)
	key.Permissions = rapid.SampledFrom([]Permission{ReadCalls, ReadAgents, ReadCalls | ReadAgents}).Draw(rt, "permissions")
	key.Paused = rapid.Bool().Draw(rt, "paused")
	key.RevokedAt = rapid.SampledFrom([]time.Time{{}, {}, now}).Draw(rt, "revoked")
	key.ExpiresAt = rapid.SampledFrom([]time.Time{{}, now, now.Add(time.Hour), now.Add(-time.Hour), now.Add(time.Millisecond)}).Draw(rt, "expires")
	key.CreatedAt = now.Add(-time.Duration(rapid.IntRange(0, 3).Draw(rt, "age")) * 24 * time.Hour)
	if key.Metadata = nil; rapid.Bool().Draw(rt, "has note") {
		key.Metadata = map[string]string{"note": "in the vault"}
	}
}

// drawKeyFilter draws a filter.
func drawKeyFilter(rt *rapid.T) KeyFilter {
	return KeyFilter{
		Now:         epoch.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(rt, "hours later")) * time.Hour),
		Status:      rapid.SampledFrom(append(KeyStates(), "", "", StatusLive)).Draw(rt, "status filter"),
		Words:       fold.Words(rapid.SampledFrom([]string{"", "", "ALPHA", "jurgen", "vault owner", "2 live", "nothing"}).Draw(rt, "search")),
		Environment: rapid.SampledFrom([]string{"", "", "live", "none"}).Draw(rt, "environment filter"),
		Owner:       rapid.SampledFrom([]string{"", "", "owner 1", "nobody"}).Draw(rt, "owner filter"),
		Permission:  rapid.SampledFrom([]Permission{0, 0, ReadCalls, ReadAgents, WriteCalendar}).Draw(rt, "permission filter"),
		Unused:      time.Duration(rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(rt, "unused")) * 24 * time.Hour,
		NeverUsed:   rapid.IntRange(0, 3).Draw(rt, "never used") == 0,
		Sort:        rapid.SampledFrom([]string{"", "created", "name", "last_used", "expires", SortCounts}).Draw(rt, "sort"),
		Ascending:   rapid.Bool().Draw(rt, "ascending"),
	}
}

// wantKeyList compares a list of keys with naiveKeys.
func wantKeyList(rt *rapid.T, a *testApp, f KeyFilter) {
	err := a.Store.View(func(tx *Tx) error {
		if f.Sort == SortCounts {
			f.Counts = map[string]uint64{}
			if err := a.Keyring.Each(tx, func(key *Key) bool {
				if n := uint64(key.ID[len(key.ID)-1]) % 4; n > 0 {
					f.Counts[key.ID] = n
				}
				return true
			}); err != nil {
				return err
			}
		}
		want, err := naiveKeys(a.Keyring, tx, f)
		from := rapid.IntRange(0, len(want)).Draw(rt, "from")
		to := rapid.IntRange(from, len(want)).Draw(rt, "to")
		keys, count, listErr := a.Keyring.List(context.Background(), tx, f, func(count int) (int, int) { return min(from, count), min(to, count) })
		var got []string
		for _, key := range keys {
			got = append(got, key.ID)
		}
		if count != len(want) || !slices.Equal(got, want[from:to]) {
			rt.Errorf("%+v: got %d keys, %d to %d are %v; want %d, %v", f, count, from, to, got, len(want), want[from:to])
		}
		return errors.Join(err, listErr)
	})
	if err != nil {
		rt.Fatal(err)
	}
}

func TestKeyring_List(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := newTestApp(t)
		var ids []string
		save := func(key *Key) {
			drawKey(rt, key)
			if err := a.Store.Update(func(tx *Tx) error { return a.Keyring.Save(tx, key) }); err != nil {
				rt.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 150).Draw(rt, "keys") {
			key := &Key{StoredKey: StoredKey{ID: NewKeyID(epoch.Add(time.Duration(len(ids)%7) * time.Second))}}
			save(key)
			ids = append(ids, key.ID)
		}
		for range rapid.IntRange(0, 8).Draw(rt, "steps") {
			id := rapid.SampledFrom(ids).Draw(rt, "id")
			switch rapid.SampledFrom([]string{"change", "use", "flush", "repair"}).Draw(rt, "step") {
			case "change":
				key := &Key{StoredKey: StoredKey{ID: id}}
				save(key)
			case "use":
				key := &Key{StoredKey: StoredKey{ID: id}}
				h := &CacheEntry{}
				h.key.Store(key)
				a.Keyring.memory.gone[id] = append(a.Keyring.memory.gone[id], h)
				a.Keyring.Used(h, LastUse{At: epoch.Add(-time.Duration(rapid.IntRange(0, 50).Draw(rt, "hours")) * time.Hour)})
			case "flush":
				if err := a.Keyring.Flush(); err != nil {
					rt.Fatal(err)
				}
			case "repair":
				if err := a.Store.Update(repairInside(&KeyTable)); err != nil {
					rt.Fatal(err)
				}
			}
			wantKeyList(rt, a, drawKeyFilter(rt))
		}
		wantKeyList(rt, a, drawKeyFilter(rt))
		wantChecked(rt, a, &KeyTable)
	})
}

// keptKeys are many keys whose lists are kept in memory.
type keptKeys struct {
	*testApp
	ids []string
}

// save saves n keys, or fewer than 9 that are mostly old ones. The transaction ends with an error.
func (k *keptKeys) save(rt *rapid.T, n int, end error) {
	ids, keys := k.ids, []*Key{} // drawn here, because rapid may end the test in Draw
	for range n {
		id := NewKeyID(epoch.Add(time.Duration(len(ids)%7) * time.Second))
		if n < 9 && rapid.Bool().Draw(rt, "old") {
			id = rapid.SampledFrom(ids).Draw(rt, "id")
		} else {
			ids = append(ids, id)
		}
		key := &Key{StoredKey: StoredKey{ID: id, Name: fmt.Sprint("key ", len(ids)*7919%1000), Owner: 1, OwnerName: "owner 1", CreatedAt: epoch}}
		if n < 9 || len(ids)%9 == 0 {
			drawKey(rt, key)
		}
		keys = append(keys, key)
	}
	err := k.Store.Update(func(tx *Tx) error {
		for _, key := range keys {
			if err := k.Keyring.Save(tx, key); err != nil {
				return err
			}
		}
		return end
	})
	if err == nil {
		k.ids = ids
	}
	if err != end {
		rt.Fatal(err)
	}
}

// step makes a change of the keys or their uses.
func (k *keptKeys) step(rt *rapid.T) {
	update := func(run func(tx *Tx) error) {
		if err := k.Store.Update(run); err != nil {
			rt.Fatal(err)
		}
	}
	id := rapid.SampledFrom(k.ids).Draw(rt, "id")
	switch rapid.SampledFrom([]string{"save", "save", "fail", "lose", "delete", "use", "use many", "flush", "repair", "other"}).Draw(rt, "step") {
	case "save":
		k.save(rt, rapid.IntRange(1, 8).Draw(rt, "saved"), nil)
	case "fail":
		k.save(rt, rapid.IntRange(1, 8).Draw(rt, "failed"), errFails)
	case "lose": // cannot be undone alone
		err := k.Store.Update(func(tx *Tx) error {
			tx.undo.Lost = true
			return errors.Join(KeyTable.Delete(tx, []byte(id)), errFails)
		})
		if !errors.Is(err, errFails) {
			rt.Fatal(err)
		}
	case "delete":
		update(func(tx *Tx) error { return KeyTable.Delete(tx, []byte(id)) })
		k.ids = slices.DeleteFunc(k.ids, func(other string) bool { return other == id })
	case "use":
		k.use(rt, id)
	case "use many":
		for _, id := range k.ids {
			k.use(rt, id)
		}
	case "flush":
		if err := k.Keyring.Flush(); err != nil {
			rt.Fatal(err)
		}
	case "repair":
		update(repairInside(&KeyTable))
	case "other": // a commit without keys
		update(func(tx *Tx) error { return tx.Put("x", []byte("x"), nil) })
	}
}

// use records a use of a key that is not stored yet.
func (k *keptKeys) use(rt *rapid.T, id string) {
	h := &CacheEntry{}
	h.key.Store(&Key{StoredKey: StoredKey{ID: id}})
	k.Keyring.memory.gone[id] = append(k.Keyring.memory.gone[id], h)
	k.Keyring.Used(h, LastUse{At: epoch.Add(-time.Duration(rapid.IntRange(0, 50).Draw(rt, "hours")) * time.Hour)})
}

// TestKeyring_ListKept lists so many keys that the orders of a list are kept, and changes few of them
// between the lists. Older transactions go on to see the keys as they were.
func TestKeyring_ListKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := &keptKeys{testApp: newTestApp(t)}
		k.Keyring.maxSorted = 0
		k.save(rt, 3*RowsPerChunk, nil)
		for range 2 {
			wantKeyList(rt, k.testApp, drawKeyFilter(rt))
			err := k.Store.View(func(old *Tx) error {
				before, err := k.Keyring.rows.Read(t.Context(), old, KeyTable.Name)
				for range rapid.IntRange(1, 4).Draw(rt, "steps") {
					k.step(rt)
					for range 2 {
						wantKeyList(rt, k.testApp, drawKeyFilter(rt))
					}
				}
				after, afterErr := k.Keyring.rows.Read(t.Context(), old, KeyTable.Name)
				if err == nil && afterErr == nil && !slices.EqualFunc(before.Chunks, after.Chunks, func(x, y *RowChunk) bool { return bytes.Equal(x.stored, y.stored) }) {
					rt.Error("an older transaction got newer rows")
				}
				return errors.Join(err, afterErr)
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// TestRowCache_ReadsWhatChanged wants that a list after a commit reads only the rows that the commit
// has changed, and that it reads all if it cannot know them.
func TestRowCache_ReadsWhatChanged(t *testing.T) {
	k := &keptKeys{testApp: newTestApp(t)}
	rapid.Check(t, func(rt *rapid.T) {
		if k.ids == nil {
			k.save(rt, 5*RowsPerChunk, nil)
		}
		read := func() (rows *CachedRows[keyFacts]) {
			err := k.Store.View(func(tx *Tx) (err error) {
				rows, err = k.Keyring.rows.Read(t.Context(), tx, KeyTable.Name)
				return err
			})
			if err != nil {
				rt.Fatal(err)
			}
			return rows
		}
		before := read()
		if err := k.Store.Update(func(tx *Tx) error { return tx.Put("x", []byte("x"), nil) }); err != nil {
			rt.Fatal(err)
		}
		if read() != before {
			rt.Error("rows were read again after a commit that changed none")
		}
		if rapid.Bool().Draw(rt, "forgotten") { // as after many changes
			k.Store.rowLog.add(int64(before.seen.Load()), make([]recordPlace, maxRowChanges+1))
		}
		id := rapid.SampledFrom(k.ids).Draw(rt, "id")
		if err := k.Store.Update(func(tx *Tx) error { return k.Keyring.Save(tx, &Key{StoredKey: StoredKey{ID: id, Name: id}}) }); err != nil {
			rt.Fatal(err)
		}
		after, changed := read(), 0
		for i, c := range after.Chunks {
			if c != before.Chunks[i] {
				changed++
			}
			facts, err := (&CachedRows[keyFacts]{Chunks: after.Chunks, read: readKeyRow}).ChunkFacts(i, new([RowsPerChunk]keyFacts))
			if err != nil || *facts != *after.facts[i] {
				rt.Errorf("chunk %d: the facts do not fit the rows (%v)", i, err)
			}
		}
		if changed > 1 {
			rt.Errorf("%d chunks were read again; want 1", changed)
		}
		wantKeyList(rt, k.testApp, drawKeyFilter(rt))
	})
}

// wantChecked wants no problem in the store.
func wantChecked(rt *rapid.T, a *testApp, table Checked) {
	err := a.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, []Checked{table})
		if len(result.Problems) > 0 {
			rt.Errorf("got %v", result.Problems)
		}
		return err
	})
	if err != nil {
		rt.Fatal(err)
	}
}

// TestRowList_Damage spoils the list of keys: the check reports it, and a repair makes it good.
func TestRowList_Damage(t *testing.T) {
	slots, rows, values := rowBuckets(KeyTable.Name)
	for name, spoil := range map[string]func(tx *Tx, id string) error{
		"no number":     func(tx *Tx, id string) error { return tx.Delete(slots, []byte(id)) },
		"wrong number":  func(tx *Tx, id string) error { return tx.Put(slots, []byte(id), IDKey(99)) },
		"no row":        func(tx *Tx, _ string) error { return tx.Delete(rows, IDKey(0)) },
		"not a row":     func(tx *Tx, _ string) error { return tx.Put(rows, IDKey(0), []byte("damaged")) },
		"a row more":    func(tx *Tx, _ string) error { return tx.Put(rows, IDKey(7), (&rowChunk{3: []byte("more")}).encode()) },
		"another value": func(tx *Tx, _ string) error { return tx.Put(values, IDKey(0), (&rowValues{1: 5}).encode()) },
		"a value more":  func(tx *Tx, _ string) error { return tx.Put(values, IDKey(2), (&rowValues{1: 5}).encode()) },
		"not values":    func(tx *Tx, _ string) error { return tx.Put(values, IDKey(0), []byte("damaged")) },
	} {
		t.Run(name, func(t *testing.T) {
			a := newTestApp(t)
			id, _ := a.key(`["can_read_calls"]`)
			if err := a.Store.Update(func(tx *Tx) error { return spoil(tx, id) }); err != nil {
				t.Fatal(err)
			}
			for _, wanted := range []int{1, 0} {
				err := a.Store.View(func(tx *Tx) error {
					result, err := CheckStore(tx, []Checked{&KeyTable})
					if (len(result.Problems) > 0) != (wanted > 0) {
						t.Errorf("got %v, want %d or more problems", result.Problems, wanted)
					}
					return err
				})
				if err = errors.Join(err, a.Store.Update(repairInside(&KeyTable))); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestAddKeyRows compares the rows that the migration makes with those that a change of the key makes.
func TestAddKeyRows(t *testing.T) {
	a := newTestApp(t)
	every := &Key{StoredKey: StoredKey{
		ID: NewKeyID(epoch), Name: "\u00c4 name", Hint: "lk_hint", Permissions: builtins, OwnPermissions: []string{"one", "two"}, Environment: "live",
		Owner: 3, OwnerName: "Ann", Metadata: map[string]string{"note": "vault"}, Paused: true, CreatedAt: epoch.Add(5 * time.Nanosecond), ExpiresAt: epoch, RevokedAt: epoch,
	}}
	bare := &Key{StoredKey: StoredKey{ID: NewKeyID(epoch), Name: "b"}}
	slots, rows, values := rowBuckets(KeyTable.Name)
	err := a.Store.Update(func(tx *Tx) error {
		err := errors.Join(a.Keyring.Save(tx, every), a.Keyring.Save(tx, bare), addUse(tx, []byte(bare.ID), LastUse{At: epoch}), tx.flushChunks())
		for _, bucket := range []string{slots, rows, values} {
			if tx.Bolt.Bucket([]byte(bucket)) != nil {
				err = errors.Join(err, tx.Bolt.DeleteBucket([]byte(bucket)))
			}
		}
		return errors.Join(err, addKeyRows(tx))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = a.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, []Checked{&KeyTable})
		if len(result.Problems) > 0 {
			t.Errorf("got %v", result.Problems)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAdminKeys_ByID lists keys by their ids, as the live updates of the dashboard do.
func TestAdminKeys_ByID(t *testing.T) {
	a := newTestApp(t)
	first, _ := a.key(`["can_read_calls"]`)
	second, _ := a.key(`["can_read_agents"]`)
	for query, want := range map[string][]any{
		"id=" + first + "&id=" + second: {first, second}, "id=" + second: {second}, "id=key_none&id=" + first: {first}, "id=key_none": {},
		"id=" + second + "&id=" + first + "&limit=1&page=2": {first},
	} {
		ids := []any{}
		for _, row := range a.operate(200, "GET", "/admin/v1/keys?"+query, "")["keys"].([]any) {
			ids = append(ids, row.(map[string]any)["id"])
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s: got %v, want %v", query, ids, want)
		}
	}
	for _, query := range []string{"id=a&status=live", "id=a&sort=name", "id=a&search=x", strings.Repeat("id=a&", maxNamedKeys+1)} {
		if w := a.control("GET", "/admin/v1/keys?"+query, ""); w.Code != 400 || !strings.Contains(w.Body.String(), "id ") {
			t.Errorf("%.40s: got %d %s, want 400", query, w.Code, w.Body)
		}
	}
}

// The row of a key with permissions of the configuration fits the record for a program that does not
// know them, such as check.
func TestKeyRow_OwnPermissions(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Permissions = []permissionRow{{Name: "can_use", Description: "use"}} })
	a.key(`["can_use", "can_read_agents"]`)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	result, err := CheckStoreFile(storePath(a.config.Server.Data), a.config, "", nil)
	if err != nil || len(result.Problems) > 0 {
		t.Errorf("got %q, %v", result.Problems, err)
	}
	a.start()
}

// TestKeyring_ListDamaged damages each part of the list of keys: a list that needs it fails, and is not shorter.
func TestKeyring_ListDamaged(t *testing.T) {
	slots, rows, values := rowBuckets(KeyTable.Name)
	for _, tt := range []struct {
		name   string
		filter KeyFilter
		needs  []string
	}{
		{"all", KeyFilter{Now: epoch}, []string{rows}},
		{"by name", KeyFilter{Now: epoch, Sort: "name"}, []string{rows}},
		{"by the last use", KeyFilter{Now: epoch, Sort: "last_used"}, []string{slots, rows, values}},
		{"never used", KeyFilter{Now: epoch, NeverUsed: true}, []string{slots, rows, values}},
		{"unused", KeyFilter{Now: epoch, Unused: time.Hour}, []string{slots, rows, values}},
	} {
		for _, bucket := range []string{slots, rows, values} {
			a := newTestApp(t)
			_, stored := a.key(everyPermission)
			_, secret := a.key(everyPermission)
			a.ask("GET", "/api/v1/agents", stored, "")
			if err := a.Keyring.Flush(); err != nil {
				t.Fatal(err)
			}
			a.ask("GET", "/api/v1/agents", secret, "") // its use is stored later
			damageRecords(t, a.Store, bucket)
			for name, within := range map[string]func(func(*Tx) error) error{"View": a.Store.View, "Update": a.Store.Update} {
				needed := slices.Contains(tt.needs, bucket) || bucket == values && name == "View" // the rows are kept in memory with their values
				err := within(func(tx *Tx) error {
					_, _, err := a.Keyring.List(t.Context(), tx, tt.filter, func(count int) (int, int) { return 0, count })
					return err
				})
				if (err != nil) != needed {
					t.Errorf("%s in %s, with damage in %s: got %v", tt.name, name, bucket, err)
				}
			}
			if err := a.Store.Update(repairInside(&KeyTable)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
