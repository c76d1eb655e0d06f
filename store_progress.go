package main

import "go.etcd.io/bbolt"

// Progress receives how much of one step of a long piece of work is done: done of total records or
// pages, or 0 of 0 if the number is not known. step says what is being done, such as "copying
// records". If Progress returns an error, the work ends, undoes what it has begun, and returns that
// error. Progress is called for each record, so it must be fast. A nil Progress ignores all reports.
type Progress func(step string, done, total int64) error

// Report calls p, unless that is nil, and returns its error.
func (p Progress) Report(step string, done, total int64) error {
	if p == nil {
		return nil
	}
	return p(step, done, total)
}

// recordCount counts the records of one step and reports each. A nil recordCount does nothing.
type recordCount struct {
	progress    Progress
	step        string
	done, total int64
}

// count returns a recordCount for a step that reads every record of the transaction once. It returns nil
// if tx has no Progress.
func (tx *Tx) count(step string) *recordCount { return newCounter(tx.Progress, tx.Bolt, step) }

// newCounter returns a recordCount for a step that reads every record of b once, or nil if p is nil.
func newCounter(p Progress, b *bbolt.Tx, step string) *recordCount {
	if p == nil {
		return nil
	}
	c := &recordCount{progress: p, step: step}
	_ = b.ForEach(func(_ []byte, bucket *bbolt.Bucket) error { // the function returns no error
		c.total += int64(bucket.Stats().KeyN)
		return nil
	})
	return c
}

// countBucket is like count, for a step that reads every record of one bucket once.
func (tx *Tx) countBucket(step, name string) *recordCount {
	if tx.Progress == nil {
		return nil
	}
	c := &recordCount{progress: tx.Progress, step: step}
	if b := tx.open(name); b != nil {
		c.total = int64(b.Stats().KeyN)
	}
	return c
}

// next reports one more record. It returns the error of the Progress.
func (c *recordCount) next() error {
	if c == nil {
		return nil
	}
	c.done = min(c.done+1, c.total)
	return c.progress.Report(c.step, c.done, c.total)
}
