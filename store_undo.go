package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// maxUndo is the largest number of writes of one change that an undoLog holds. It limits the memory
// that a large import needs for it.
const maxUndo = 50_000

// errNoUndo means that a change cannot be undone without the rest of its transaction.
var errNoUndo = errors.New("the change cannot be undone alone")

// undoLog records what the present change of a transaction has overwritten, so that the change can
// be undone if it fails, while the other changes of the transaction stay. Tx.Put, PutRaw, Delete and
// Table.NextID are the only ways to write; each adds an entry before it writes.
type undoLog struct {
	entries []undoEntry
	chunks  []func() error // each undoes a change of a chunk, see Tx.editChunk
	// Set if the change cannot be undone alone: it has written more than maxUndo times, or a page
	// was found damaged during one of its writes, so bbolt may have stopped in the middle of it.
	Lost bool
}

// undoEntry is the state of one thing before a write.
type undoEntry struct {
	bucket   string
	created  bool   // the bucket did not exist; the other fields are not set
	key      []byte // nil: the entry is about the bucket's sequence
	value    []byte // the value of the key
	existed  bool   // the key existed
	sequence uint64
}

// add adds an entry. It does nothing if the log is nil, as in a transaction with one change.
func (u *undoLog) add(e undoEntry) {
	if len(u.entries) == maxUndo {
		u.entries, u.chunks, u.Lost = nil, nil, true
	}
	if !u.Lost {
		u.entries = append(u.entries, e)
	}
}

// remember records the value of key before it is written. It does not copy the value: bbolt keeps a
// value that was stored or read valid and unchanged until the transaction ends.
func (tx *Tx) remember(bucket string, key []byte) {
	if tx.undo == nil || tx.undo.Lost {
		return
	}
	found, value := tx.Bolt.Bucket([]byte(bucket)).Cursor().Seek(key)
	existed := found != nil && bytes.Equal(found, key)
	if !existed {
		value = nil
	}
	tx.undo.add(undoEntry{bucket: bucket, key: bytes.Clone(key), value: value, existed: existed})
}

// rememberSequence records the sequence of a bucket before it changes.
func (tx *Tx) rememberSequence(bucket string) {
	if tx.undo != nil {
		tx.undo.add(undoEntry{bucket: bucket, sequence: tx.Bolt.Bucket([]byte(bucket)).Sequence()})
	}
}

// rememberBucket records that a bucket is about to be created.
func (tx *Tx) rememberBucket(bucket string) {
	if tx.undo != nil {
		tx.undo.add(undoEntry{bucket: bucket, created: true})
	}
}

// rememberChunk records how to undo a change of the data of lists, which is kept in chunks in memory
// and may have been stored together with the data of other changes. undo must use editChunk.
func (tx *Tx) rememberChunk(undo func() error) {
	if tx.undo != nil && !tx.undo.Lost {
		tx.undo.chunks = append(tx.undo.chunks, undo)
	}
}

// undone undoes an entry.
func (tx *Tx) undone(e undoEntry) error {
	b := tx.Bolt.Bucket([]byte(e.bucket))
	switch {
	case b == nil: // the write that the entry is about has failed
		return nil
	case e.created:
		return tx.Bolt.DeleteBucket([]byte(e.bucket))
	case e.key == nil:
		return b.SetSequence(e.sequence)
	case e.existed:
		return b.Put(e.key, e.value)
	}
	return b.Delete(e.key)
}

// txMark is the state of a transaction before a change.
type txMark struct {
	writes, bytes, changed, afters int
	written                        writtenMark
}

// begin prepares the transaction for a change by a Writer.
func (tx *Tx) begin(by Writer) txMark {
	tx.Writer, tx.Trace, tx.secure = by, nil, false
	tx.Touched, tx.TouchedMore = nil, 0 // not emptied: the caller of the last change may keep the list
	tx.undo.entries, tx.undo.chunks, tx.undo.Lost = tx.undo.entries[:0], tx.undo.chunks[:0], false
	tx.first = tx.written.mark()
	return txMark{tx.Writes, tx.Bytes, len(tx.Changed), len(tx.Afters), tx.first}
}

// revert undoes the change that began at a mark. It returns errNoUndo or an error of bbolt if the
// transaction must be rolled back as a whole.
func (tx *Tx) revert(m txMark) error {
	tx.Afters = tx.Afters[:m.afters]
	if tx.undo.Lost {
		return errNoUndo
	}
	entries := tx.undo.entries
	for i := len(entries) - 1; i >= 0; i-- {
		if err := tx.undone(entries[i]); err != nil {
			return fmt.Errorf("undo a change in %s: %w", entries[i].bucket, err)
		}
	}
	log := tx.undo
	tx.undo = nil // undoing is not undone
	defer func() { tx.undo = log }()
	for _, undo := range slices.Backward(log.chunks) {
		if err := undo(); err != nil {
			return fmt.Errorf("undo a change in a list: %w", err)
		}
	}
	tx.Writes, tx.Bytes, tx.Changed = m.writes, m.bytes, tx.Changed[:m.changed]
	tx.written.truncate(m.written)
	return nil
}
