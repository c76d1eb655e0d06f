package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Checked is a table whose records and indexes can be held against each other.
type Checked interface {
	// Check reports what does not fit; the error is for a store that cannot be
	// read.
	Check(tx *Tx, report func(problem string)) error
}

// CheckResult says what a check went through.
type CheckResult struct {
	Records  int      `json:"records"`
	Entries  int      `json:"index_entries"`
	Problems []string `json:"problems"`
}

// maxProblems is how many problems a check lists: a damaged file can have more
// than anyone reads.
const maxProblems = 100

// CheckStore goes through the whole store in one transaction: the pages of the
// file, the checksum of every record, every index entry, and the tables.
func CheckStore(tx *Tx, tables []Checked) (CheckResult, error) {
	result := CheckResult{Problems: []string{}}
	report := func(problem string) {
		if len(result.Problems) < maxProblems {
			result.Problems = append(result.Problems, problem)
		}
	}
	tx.CheckPages(report)
	if len(result.Problems) > 0 {
		return result, nil // what hangs from bad pages cannot be walked
	}
	counts := map[string]int{}
	err := tx.Walk(func(bucket string, key, stored []byte) error {
		if table, _, index := strings.Cut(bucket, "/"); index {
			result.Entries++
			checkEntry(tx, bucket, table, key, stored, report)
			return nil
		}
		result.Records++
		counts[bucket]++
		value, err := Unseal(bucket, key, stored)
		if err != nil {
			report(err.Error())
		}
		if bucket == "counts" && err == nil && len(value) == 8 {
			counts["\x00"+string(key)] = int(binary.BigEndian.Uint64(value))
		}
		return nil
	})
	if err != nil {
		return result, err
	}
	for name, said := range counts {
		if table, ok := strings.CutPrefix(name, "\x00"); ok && counts[table] != said {
			report(fmt.Sprintf("%s: holds %d records, its count says %d", table, counts[table], said))
		}
	}
	for _, t := range tables {
		if err := t.Check(tx, report); err != nil {
			return result, err
		}
	}
	return result, nil
}

// checkEntry holds an index entry against the record it ends with.
func checkEntry(tx *Tx, bucket, table string, entry, value []byte, report func(string)) {
	key, err := EntryKey(bucket, entry, value)
	if err != nil {
		report(err.Error())
		return
	}
	if !tx.Has(table, key) {
		report(fmt.Sprintf("%s/%x: leads to no record", bucket, entry))
	}
}

// Check reports records that cannot be read or stand under another key than
// theirs, and indexes that lack an entry or have one too many.
func (t Table[T]) Check(tx *Tx, report func(problem string)) error {
	wanted := make([]int, len(t.Indexes))
	for v, err := range t.All(tx, false) {
		if err != nil {
			report(err.Error())
			return nil // the walk ends there
		}
		key := t.Key(v)
		if !tx.Has(t.Name, key) {
			report(fmt.Sprintf("%s/%x: stands under another key", t.Name, key))
		}
		for i, ix := range t.Indexes {
			bucket := t.Name + "/" + ix.Name
			seen := map[string]bool{}
			for _, k := range ix.Keys(v) {
				entry := append(bytes.Clone(k), key...)
				if seen[string(entry)] {
					continue
				}
				seen[string(entry)] = true
				wanted[i]++
				if !tx.Has(bucket, entry) {
					report(fmt.Sprintf("%s/%x: lacks its entry in the index %s", t.Name, key, ix.Name))
				}
			}
		}
	}
	for i, ix := range t.Indexes {
		if found := tx.Count(t.Name + "/" + ix.Name); found != wanted[i] {
			report(fmt.Sprintf("%s: the index %s has %d entries, the records make %d", t.Name, ix.Name, found, wanted[i]))
		}
	}
	return nil
}
