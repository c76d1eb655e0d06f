package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"latchkey/internal/cluster"
	"latchkey/internal/cluster/fake"
)

// Every tenth test that opens a store shares it with a second view over a fake engine that makes mistakes,
// and LATCHKEY_TEST_ENGINE=fake makes all of them do so. At the end of each store, its file must equal the
// second view, which was made from the Sets alone. So the tests prove that changes can run again and that
// Sets have all that changes write.

// sharedFaults are the mistakes of the fake engine in tests that are not about it.
var sharedFaults = fake.Faults{Moved: 0.1, Unsure: 0.03, Gap: 0.02, Delay: 0.05}

// testName matches the name of a test in the path of its temporary folder.
var testName = regexp.MustCompile(`^(Test[A-Za-z_]*|Fuzz[A-Za-z_]*)`)

// sharesAll reports whether the store at a path is shared in tests.
func sharesAll(path string) bool {
	for part := range strings.SplitSeq(path, string(filepath.Separator)) {
		if name := testName.FindString(part); name != "" {
			h := fnv.New32a()
			h.Write([]byte(name))
			return unsharedTests[name] == "" && !strings.Contains(name, "Damage") && !strings.HasSuffix(name, "Allocations") && (os.Getenv("LATCHKEY_TEST_ENGINE") == "fake" || h.Sum32()%10 == 0)
		}
	}
	return false
}

// damagedRecord matches the errors of a view about a record that cannot be read.
var damagedRecord = regexp.MustCompile(`checksum does not match|does not have the format|invalid character|cannot unmarshal|unexpected end of JSON`)

// unsharedTests lists the tests whose stores are not shared, and why. Neither are those of tests about damage, which
// change what follows from records, and of those that count allocations.
var unsharedTests = map[string]string{
	"TestOperators_NameTaken":           "damages an index",
	"TestOwners_EveryTable":             "has a table of its own",
	"TestOwners_Limit":                  "has a table of its own",
	"TestOwners_OwnLimit":               "has a table of its own",
	"TestOwners_Counters":               "has a table of its own",
	"TestOwners_DiskLow":                "has a table of its own",
	"TestStore_WatchDisk":               "has a table of its own",
	"TestOwners_Migration":              "has a table of its own",
	"TestOwnersStorage":                 "writes the counts itself",
	"TestFullOwners":                    "writes the counts itself",
	"TestTakeRecord":                    "has a table of its own",
	"TestPage_Model":                    "has a table of its own",
	"TestPage_LongTexts":                "has a table of its own",
	"TestShareBodies":                   "runs a migration",
	"TestObservations_NotStored":        "makes a record that cannot be written",
	"TestRowCache_Model":                "has a table of its own",
	"TestTable_SetValue":                "has a table of its own",
	"TestStore_WriteErrorReachesCaller": "makes records that cannot be written",
	"TestEnsureOwner":                   "makes records that cannot be written",
	"TestRebuild_NotDeleted":            "writes data that follows from records",
	"TestWalk_ShortEntry":               "writes data that follows from records",
	"TestDeleteSome":                    "has a table of its own",
	"TestStore_Undo":                    "counts how often changes run",
	"TestEventQuery":                    "draws random values inside changes",
	"TestOperators_Faults":              "damages counts and indexes",
}

func init() {
	shareOpened = func(s *Store) {
		if sharesAll(s.path) {
			shareWithShadow(s, sharedFaults)
		}
	}
}

// ownStores prevents that the shadow of a store has a shadow of its own.
var ownStores sync.Map

// shareWithShadow shares a store with a second view. When the store is closed, the process panics if the
// views differ.
func shareWithShadow(s *Store, faults fake.Faults) {
	if _, is := ownStores.Load(s.path); is {
		return
	}
	shadowPath := s.path + ".shadow"
	must := func(err error) {
		if err != nil {
			panic(fmt.Errorf("the shadow of %s: %w", s.path, err))
		}
	}
	os.Remove(shadowPath)
	if compact(s.db, shadowPath, nil, nil) != nil {
		return // a test about a damaged file
	}
	var start cluster.Head
	must(s.View(func(tx *Tx) (err error) {
		start, err = appliedHead(tx)
		return err
	}))
	log := fake.New(uint64(len(s.path)), start)
	must(s.View(func(tx *Tx) error {
		for at, value := range sharedRecords(tx) {
			log.Seed(at.bucket, []byte(at.key), value)
		}
		return nil
	}))
	ownStores.Store(shadowPath, true)
	shadow, err := OpenStore(shadowPath, nil)
	ownStores.Delete(shadowPath)
	must(err)
	must(shadow.Update(func(tx *Tx) error { return tx.setApplied(start) }))
	follower := sameAuth{log.Engine(fake.Faults{Gap: faults.Gap}), s, shadow}
	must(ShareStore(shadow, ShareOptions{Engine: follower, Node: "shadow", Tables: tables()}))
	must(ShareStore(s, ShareOptions{Engine: log.Engine(faults), Node: "main", Tables: tables(), MaxWrites: 1 << 30, MaxBytes: 1 << 40, Closed: func() error {
		defer os.Remove(shadowPath)
		if s.Failing() {
			return shadow.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.replica.(*replica).turn.Lock()
		head := s.replica.(*replica).head
		s.replica.(*replica).turn.Unlock()
		if err := shadow.Reach(ctx, head); err != nil && shadow.Failing() && damagedRecord.MatchString(shadow.Err().Error()) {
			return shadow.Close() // the test has stored a damaged record
		} else if err != nil {
			must(errors.Join(err, shadow.Err()))
		}
		compareViews(s, shadow)
		_ = s.db.Update(func(b *bbolt.Tx) error { return b.DeleteBucket([]byte(localBucket)) }) // the next run is alone, or another cluster
		return shadow.Close()
	}}))
}

// sameAuth is an Engine of a shadow. The shadow gets the Authenticator of its store before each Set.
type sameAuth struct {
	cluster.Engine
	store, shadow *Store
}

// Follow implements cluster.Engine.
func (e sameAuth) Follow(ctx context.Context, after cluster.Head, apply func(cluster.Head, *cluster.Set) error) error {
	return e.Engine.Follow(ctx, after, func(head cluster.Head, set *cluster.Set) error {
		e.shadow.auth = e.store.auth
		return apply(head, set)
	})
}

// compareViews panics if two views at the same Head differ.
func compareViews(s, shadow *Store) {
	contents := func(s *Store) map[string]string {
		all := map[string]string{}
		err := s.View(func(tx *Tx) error {
			for at, value := range sharedRecords(tx) {
				all[at.bucket+"\x00"+at.key] = string(value)
			}
			return tx.Walk(func(bucket string, key, stored []byte) error {
				// The numbers of rows depend on the order in which a view got its records.
				if isDerived(bucket) && !strings.Contains(bucket, "_list~") {
					all[bucket+"\x00"+string(key)] = string(stored)
				}
				return nil
			})
		})
		if err != nil {
			return nil
		}
		return all
	}
	mine, other := contents(s), contents(shadow)
	known := map[string]bool{"counts": true, ownerBytesBucket: true}
	for name := range s.replica.(*replica).tables {
		known[name] = true
	}
	if mine == nil || other == nil {
		return // a test about a damaged file
	}
	for at, value := range mine {
		bucket, key, _ := strings.Cut(at, "\x00")
		table, _, _ := strings.Cut(strings.ReplaceAll(bucket, "~", "/"), "/")
		if isDerived(bucket) && (!known[table] || bucket == "counts" && !known[key]) {
			continue // of a table that only a test has
		}
		if other[at] != value {
			panic(fmt.Sprintf("%s: %s/%x is %q in the file, but %q in the view made from the Sets", s.path, bucket, key, value, other[at]))
		}
	}
	for at := range other {
		if _, ok := mine[at]; !ok {
			panic(fmt.Sprintf("%s: %q is only in the view made from the Sets", s.path, at))
		}
	}
}
