package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// A grown store is a fixture of testdata/stores whose records were copied, each time under other ids,
// with the indexes, counters, checksums and MACs of its own format. So the program of that format
// reads it as it reads the fixture, and a migration has work for as long as a test needs.

// grownBucket says how the records of a bucket are copied.
type grownBucket struct {
	family string // of the records; the copies of a family are numbered from 1
	// key is the layout of the keys: I is the id of the record, O that of an owner, A that of an
	// agent, S a scope (o or t and the id of an owner or team), # a hash, a digit so many bytes that stay, * a text of
	// any length.
	key string
}

var grownBuckets = map[string]grownBucket{
	"admin_tokens": {"token", "I"}, "admin_tokens/hash": {"token", "#I"},
	"agents": {"agent", "I"}, "agents/assistant": {"agent", "*I"}, "agents/scope": {"agent", "SI"},
	"audit": {"entry", "I"}, "audit/object": {"entry", "*I"},
	"business_context": {"owner", "I"}, "business_context_authors": {"owner", "I"},
	"call_tallies": {"call", "SO2A"}, "calls": {"call", "I"}, "calls/call_id": {"call", "*I"}, "calls/queue": {"call", "8I"}, "calls/scope": {"call", "S82AI"},
	"contacts": {"contact", "I"}, "contacts/phone": {"contact", "*I"}, "contacts/scope": {"contact", "SI"},
	"do_not_call": {"number", "I"}, "do_not_call/phone": {"number", "*I"},
	"events": {"event", "I"}, "events/remind": {"event", "8I"}, "events/start": {"event", "S881I"}, "events/uuid": {"event", "*I"},
	"key_activity": {"key", "*8"}, "key_hashes": {"key", "#"}, "key_places": {"key", "*"}, "key_uses": {"key", "*"},
	"keys": {"key", "*"}, "keys/alias_end": {"key", "8*"}, "keys/owner": {"key", "O*"}, "keys/owner_live": {"key", "O*"},
	"meters": {"key", "*"}, "quotas": {"key", "*"}, "usage_history": {"key", "*"},
	"operators": {"operator", "I"}, "operators/name": {"operator", "*I"},
	"owners": {"owner", "I"}, "owners/name": {"owner", "*I"},
	"schedules": {"schedule", "I"}, "schedules/owner": {"schedule", "OI"},
	"teams": {"team", "I"}, "teams/member": {"team", "OI"},
	"variables": {"variable", "I"}, "variables/name": {"variable", "O*I"}, "variables_seeded": {"owner", "I"},
	"webhook_outbox": {"delivery", "8I"},
}

// grownShares are how many copies of each family a store has for one of the owners.
var grownShares = map[string]int{
	"owner": 1, "variable": 1, "schedule": 1, "team": 1, "token": 1, "operator": 1, "agent": 2, "number": 3, "entry": 2, "key": 6, "event": 12, "contact": 12, "call": 24, "delivery": 6,
}

// grower copies the records of a store.
type grower struct {
	f      *File
	copies map[string]int    // how many are made, by family
	ids    map[string]uint64 // the largest id in the fixture, by family
	head   AuditRecord       // the newest entry of the audit log
}

// growStore copies the records of the store at path until the file has about size bytes. It leaves the file compacted. keys
// sign the records.
func growStore(t testing.TB, path string, size int64, keys [][]byte) {
	t.Helper()
	const few = 10
	var sizes [2]int64
	for i, owners := range []int{0, few} {
		var err error
		if sizes[i], err = growOnce(path+".grown", path, owners, keys); err == nil {
			err = os.Remove(path + ".grown")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	owners := int((size - sizes[0]) * few / (sizes[1] - sizes[0]))
	_, err := growOnce(path+".grown", path, max(1, owners), keys)
	if err := errors.Join(err, os.Rename(path+".grown", path)); err != nil {
		t.Fatal(err)
	}
}

// growOnce writes a grown copy of the store at from to path, and returns the size of the file.
func growOnce(path, from string, owners int, keys [][]byte) (size int64, err error) {
	source, err := OpenFile(from, ReadOnly)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(source.Rewrite(path+".new"), source.Close()); err != nil {
		return 0, err
	}
	f, err := OpenFile(path+".new", ReadWrite)
	if err != nil {
		return 0, err
	}
	f.DB.NoSync = true       // Rewrite syncs
	if f.Header.Format > 1 { // earlier records are not signed
		f.Auth = NewAuthenticator(keys, f.Header.StoreID)
	}
	g := &grower{f: f, copies: map[string]int{}, ids: map[string]uint64{}}
	for family, share := range grownShares {
		g.copies[family] = share * owners
	}
	if err := errors.Join(g.freshen(time.Now()), g.grow()); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Rewrite(path), f.Close(), os.Remove(path+".new")); err != nil {
		return 0, err
	}
	if f, err = OpenFile(path, ReadOnly); err != nil {
		return 0, err
	}
	err = f.View(func(tx *Tx) error {
		size = tx.Bolt.Size() // the file may be longer
		return nil
	})
	return size, errors.Join(err, f.Close())
}

// freshen moves the used units of the daily limits to the last hour, so that they still count.
func (g *grower) freshen(now time.Time) error {
	return g.f.Update(func(tx *Tx) error {
		units := map[string]int{}
		for key, stored := range tx.Range("quotas", nil) {
			value, err := Unseal("quotas", key, stored)
			if err != nil {
				return err
			}
			w, _, err := readWindow(value, exactMax, 24*time.Hour)
			if units[string(key)] = w.used; err != nil {
				return err
			}
		}
		for key, n := range units {
			w := NewWindow(exactMax, 24*time.Hour)
			w.Add(now.Add(-time.Hour), n)
			if err := tx.Put("quotas", []byte(key), w.Append(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// grow copies all buckets and makes what follows from the records.
func (g *grower) grow() error {
	type stored struct{ key, value []byte }
	records, sequences := map[string][]stored{}, map[string]uint64{}
	err := g.f.View(func(tx *Tx) error {
		return tx.Bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
			how, ok := grownBuckets[string(name)]
			if !ok {
				return nil
			}
			if sequences[string(name)] = b.Sequence(); how.key == "I" {
				last, _ := b.Cursor().Last()
				g.ids[how.family] = max(g.ids[how.family], binary.BigEndian.Uint64(last))
			}
			return b.ForEach(func(key, value []byte) error {
				if string(name) != "usage_history" || key[0] == 'k' { // the others are of the service
					records[string(name)] = append(records[string(name)], stored{bytes.Clone(key), bytes.Clone(value)})
				}
				return nil
			})
		})
	})
	if err != nil {
		return err
	}
	g.ids["delivery"] = 2 // in the queue of one webhook
	for _, bucket := range slices.Sorted(maps.Keys(records)) {
		family := grownBuckets[bucket].family
		const batch = 2000
		for first := 1; first <= g.copies[family]; first += batch {
			err := g.f.Update(func(tx *Tx) error {
				for n := first; n < min(first+batch, g.copies[family]+1); n++ {
					for _, r := range records[bucket] {
						if err := (recordCopy{g, family, n}).store(tx, bucket, r.key, r.value); err != nil {
							return fmt.Errorf("copy %d of %s/%x: %w", n, bucket, r.key, err)
						}
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	err = g.f.Update(func(tx *Tx) error {
		for bucket, sequence := range sequences {
			if sequence > 0 {
				if err := tx.Bolt.Bucket([]byte(bucket)).SetSequence(sequence * uint64(1+g.copies[grownBuckets[bucket].family])); err != nil {
					return err
				}
			}
		}
		return errors.Join(g.count(tx), g.storeHead(tx), g.queue(tx))
	})
	if err != nil {
		return err
	}
	return g.derive()
}

// count multiplies the numbers of records of each table.
func (g *grower) count(tx *Tx) error {
	for table, how := range grownBuckets {
		value, err := tx.Get("counts", []byte(table))
		if err == nil && value != nil {
			err = tx.Put("counts", []byte(table), IDKey(binary.BigEndian.Uint64(value)*uint64(1+g.copies[how.family])))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// storeHead stores the new end of the audit log.
func (g *grower) storeHead(tx *Tx) error {
	if g.head.Number == 0 {
		return nil
	}
	return AuditHead{Number: g.head.Number, Hash: g.head.Hash}.store(tx)
}

// queue adds the copied deliveries to the numbers of their webhooks.
func (g *grower) queue(tx *Tx) error {
	waiting := map[uint64]int{}
	for key := range tx.Range("webhook_outbox", nil) {
		waiting[binary.BigEndian.Uint64(key)]++
	}
	for webhook, n := range waiting {
		key := IDKey(webhook)
		value, err := tx.Get("webhook_queues", key)
		if err != nil {
			return err
		}
		text := regexp.MustCompile(`"next":\d+,"waiting":\d+`).ReplaceAllString(string(value), fmt.Sprintf(`"next":%d,"waiting":%d`, 1+2*(1+g.copies["delivery"]), n))
		if err := tx.Put("webhook_queues", key, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// derive makes the lists of formats 3 and 4 from the records.
func (g *grower) derive() error {
	switch g.f.Header.Format {
	case 3:
		if err := g.f.rebuild(deriveLists); err != nil {
			return err
		}
		return g.f.Update(func(tx *Tx) error {
			for _, step := range []func(*Tx) error{addLists, addKeyRows, countOwners, (*Tx).dropRebuilt} {
				if err := step(tx); err != nil {
					return err
				}
			}
			return nil
		})
	case StoreFormat:
		return g.f.Repair(tables())
	}
	return nil
}

// recordCopy is one copy of the records of a family.
type recordCopy struct {
	g      *grower
	family string
	n      int
}

// number returns which copy of another family this one refers to; 0 is the original.
func (c recordCopy) number(family string) int {
	if family == c.family {
		return c.n
	}
	return c.n % (1 + c.g.copies[family])
}

// id returns the id of the record of a family in the place of that with an id in the fixture.
func (c recordCopy) id(family string, id uint64) uint64 {
	return id + c.g.ids[family]*uint64(c.number(family))
}

// hash returns the hash in the place of another.
func (c recordCopy) hash(family string, b []byte) []byte {
	sum := sha256.Sum256(fmt.Appendf(bytes.Clone(b), "/%d", c.number(family)))
	return sum[:]
}

// store stores the copy of a record or index entry.
func (c recordCopy) store(tx *Tx, bucket string, key, stored []byte) error {
	name, err := c.key(bucket, key)
	if err != nil {
		return err
	}
	if strings.Contains(bucket, "/") {
		return tx.PutRaw(bucket, name, sealEntry(name, int(stored[0])))
	}
	value, err := Unseal(bucket, key, stored)
	if err != nil {
		return err
	}
	switch {
	case bucket == "call_tallies":
		had, err := tx.Get(bucket, name)
		n := binary.BigEndian.Uint64(value)
		if had != nil {
			n += binary.BigEndian.Uint64(had)
		}
		return errors.Join(err, tx.Put(bucket, name, IDKey(n)))
	case bucket == "audit":
		if value, err = c.entry(tx, value); err != nil {
			return err
		}
	default:
		value = []byte(c.text(string(value)))
	}
	if c.g.f.Auth != nil && isSigned(bucket, name) {
		return tx.PutSigned(bucket, name, value)
	}
	return tx.Put(bucket, name, value)
}

// key returns the key in the place of another.
func (c recordCopy) key(bucket string, key []byte) (name []byte, err error) {
	sizes := map[rune]int{'I': 8, 'O': 8, 'A': 8, 'S': 9, '#': 32}
	for digit := range 10 {
		sizes['0'+rune(digit)] = digit
	}
	layout, fixed := grownBuckets[bucket].key, 0
	for _, part := range layout {
		fixed += sizes[part]
	}
	sizes['*'] = len(key) - fixed
	for _, part := range layout {
		if len(key) < sizes[part] || sizes[part] < 0 {
			return nil, fmt.Errorf("the key does not have the layout %s", layout)
		}
		own, families := key[:sizes[part]], map[rune]string{'I': c.family, 'O': "owner", 'A': "agent"}
		key = key[sizes[part]:]
		switch part {
		case 'I', 'O', 'A':
			name = append(name, IDKey(c.id(families[part], binary.BigEndian.Uint64(own)))...)
		case 'S':
			family := map[byte]string{'o': "owner", 't': "team"}[own[0]]
			name = append(append(name, own[0]), IDKey(c.id(family, binary.BigEndian.Uint64(own[1:])))...)
		case '#':
			name = append(name, c.hash(c.family, own)...)
		case '*':
			text := c.text(string(own))
			if bucket == "owners/name" || bucket == "operators/name" {
				text = fmt.Sprintf("%s-%d", text, c.n)
			}
			name = append(name, text...)
		default:
			name = append(name, own...)
		}
	}
	if len(key) > 0 {
		return nil, fmt.Errorf("the key does not have the layout %s", layout)
	}
	return name, nil
}

// entry returns the copy of an audit entry, at the end of the chain.
func (c recordCopy) entry(tx *Tx, value []byte) ([]byte, error) {
	if c.g.head.Number == 0 {
		head, err := ReadAuditHead(tx)
		if err != nil {
			return nil, err
		}
		c.g.head = AuditRecord{Number: head.Number, Hash: head.Hash}
	}
	var l AuditRecord
	if err := json.Unmarshal(value, &l); err != nil {
		return nil, err
	}
	l.Number, l.Previous = c.id("entry", l.Number), c.g.head.Hash
	l.Entry = json.RawMessage(c.text(string(l.Entry)))
	l.Hash = l.sum()
	c.g.head = AuditRecord{Number: l.Number, Hash: l.Hash}
	return json.Marshal(l)
}

// grownText finds in a record, or a part of a key, what differs between copies.
var grownText = regexp.MustCompile(`(key|call|assistant|whd)_[0-9a-f]{16,}` +
	`|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}` +
	`|\+4930555[0-9]{3}` +
	`|"hash":"[^"]{44}"` +
	`|"(owner_name|name)":"[^"]*"` +
	`|"(at|timestamp)":"2026-02-03T09:00:00Z"` +
	`|"body":"[^"]*"` +
	`|"email":"` +
	`|https://hooks\.example\.net` +
	`|^\{"(id|number)":[0-9]+` +
	`|"agent":\{"id":[0-9]+` +
	`|"members":\[[0-9,]+\]` +
	`|"(owner|team_id|contact_id|agent_id|ai_agent_id|number)":[0-9]+` +
	`|\b(agent|call|contact|event|number|operator|owner|schedule|team|token|variable) [0-9]+\b`)

// text returns a text in the place of another.
func (c recordCopy) text(s string) string { return grownText.ReplaceAllStringFunc(s, c.replace) }

// replace returns what is in the place of a match of grownText.
func (c recordCopy) replace(old string) string {
	hexText := func(head int, family string) string {
		return old[:head] + fmt.Sprintf("%x", c.hash(family, []byte(old)))[:len(old)-head]
	}
	number := func(family, text string) string {
		id, _ := strconv.ParseUint(text, 10, 64)
		return fmt.Sprint(c.id(family, id))
	}
	name, value, member := strings.Cut(old, ":")
	switch {
	case strings.HasPrefix(old, "key_"):
		return hexText(len("key_19c22bae680"), "key") // the time stays
	case strings.HasPrefix(old, "call_"):
		return hexText(len("call_"), "call")
	case strings.HasPrefix(old, "assistant_"):
		return hexText(len("assistant_"), "agent")
	case strings.HasPrefix(old, "whd_"):
		return hexText(len("whd_"), "delivery")
	case strings.HasPrefix(old, "+"):
		return fmt.Sprintf("+49305%06d%s", c.n, old[len(old)-3:])
	case old == "https://hooks.example.net":
		return old
	case name == `"hash"`:
		b, err := base64.StdEncoding.DecodeString(strings.Trim(value, `"`))
		if err != nil {
			return old
		}
		return name + `:"` + base64.StdEncoding.EncodeToString(c.hash(c.family, b)) + `"`
	case name == `"owner_name"`:
		return fmt.Sprintf(`%s-%d"`, strings.TrimSuffix(old, `"`), c.number("owner"))
	case name == `"name"`:
		if slices.Contains([]string{"owner", "operator", "token", "team"}, c.family) {
			return fmt.Sprintf(`%s-%d"`, strings.TrimSuffix(old, `"`), c.n)
		}
		return old
	case name == `"at"` || name == `"timestamp"`:
		if c.family != "delivery" {
			return old
		}
		return name + `:"` + epoch.Add(time.Duration(c.n)*time.Second).UTC().Format(time.RFC3339) + `"`
	case name == `"body"`:
		b, err := base64.StdEncoding.DecodeString(strings.Trim(value, `"`))
		if err != nil {
			return old
		}
		return name + `:"` + base64.StdEncoding.EncodeToString([]byte(c.text(string(b)))) + `"`
	case name == `"email"`:
		return fmt.Sprintf(`%s%d.`, old, c.n)
	case name == `"agent"`:
		return `"agent":{"id":` + number("agent", old[len(`"agent":{"id":`):])
	case name == `"members"`:
		return regexp.MustCompile(`\d+`).ReplaceAllStringFunc(old, func(id string) string { return number("owner", id) })
	case old[0] == '{' || name == `"number"`:
		return name + ":" + number(c.family, value)
	case member:
		family := map[string]string{`"owner"`: "owner", `"team_id"`: "team", `"contact_id"`: "contact", `"agent_id"`: "agent", `"ai_agent_id"`: "agent"}[name]
		return name + ":" + number(family, value)
	}
	family, id, _ := strings.Cut(old, " ")
	return family + " " + number(family, id)
}
