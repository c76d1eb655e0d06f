//go:build linux

package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// compareFiles compares the database files of nodes that were stopped: their records, and the indexes and lists that follow from those,
// byte for byte. It returns the differences.
func compareFiles(paths []string) (problems []string) {
	var first map[string]string
	for i, path := range paths {
		contents, err := fileContents(path)
		if err != nil {
			return append(problems, err.Error())
		}
		if i == 0 {
			first = contents
			continue
		}
		for at, value := range first {
			if other, is := contents[at]; !is || other != value {
				problems = append(problems, fmt.Sprintf("%q is %q in %s, but %q in %s", at, value, paths[0], other, path))
			}
		}
		for at := range contents {
			if _, is := first[at]; !is {
				problems = append(problems, fmt.Sprintf("%q is in %s, but not in %s", at, path, paths[0]))
			}
		}
		if len(first) == 0 {
			problems = append(problems, path+" is empty")
		}
	}
	return problems
}

// fileContents returns what the nodes of a cluster have in common in a database file, by bucket and key.
func fileContents(path string) (map[string]string, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	contents := map[string]string{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			bucket := string(name)
			if bucket == "local" || bucket == "rebuild" || strings.Contains(bucket, "_list~") {
				return nil // of this file alone; rows have numbers in the order in which they came
			}
			if n := b.Sequence(); n > 0 && !strings.ContainsAny(bucket, "/~") {
				contents[bucket+" sequence"] = fmt.Sprint(n)
			}
			return b.ForEach(func(key, value []byte) error {
				if bucket != "meta" || string(key) != "stamp" && string(key) != "header" && string(key) != "backup_mac" {
					contents[bucket+"/"+string(key)] = string(value)
				}
				return nil
			})
		})
	})
	return contents, err
}

// TestClusterViews_Compare has files that differ in one record, or in one that only one of them has.
func TestClusterViews_Compare(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, records map[string]string) string {
		path := filepath.Join(dir, name)
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			for at, value := range records {
				bucket, key, _ := strings.Cut(at, " ")
				b, err := tx.CreateBucketIfNotExists([]byte(bucket))
				if err == nil {
					err = b.Put([]byte(key), []byte(value))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || db.Close() != nil {
			t.Fatal(err)
		}
		return path
	}
	one := file("one", map[string]string{"keys a": "1", "keys/owner a": "", "local applied": "1", "keys_list~rows a": "1"})
	for name, tt := range map[string]struct {
		records map[string]string
		same    bool
	}{
		"the same":          {map[string]string{"keys a": "1", "keys/owner a": "", "local applied": "2", "keys_list~rows a": "2"}, true},
		"another value":     {map[string]string{"keys a": "2", "keys/owner a": ""}, false},
		"one less":          {map[string]string{"keys/owner a": ""}, false},
		"one more":          {map[string]string{"keys a": "1", "keys/owner a": "", "calls a": ""}, false},
		"an index is wrong": {map[string]string{"keys a": "1", "keys/owner b": ""}, false},
	} {
		if problems := compareFiles([]string{one, file(name, tt.records)}); (len(problems) == 0) != tt.same {
			t.Errorf("%s: got %q", name, problems)
		}
	}
}
