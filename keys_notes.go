package main

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// keyNotes is what was noted about one secret of a key since the last Flush, for the activity of the key.
type keyNotes struct {
	places   []LastUse     // the first use at each address and by each carrier; their counts are not set
	requests []KeyActivity // refusals and writes through guarded routes, one for all that are alike
	missed   int           // number of requests that were not noted, because there was no room
	missedAt time.Time     // when the last of them was made
}

// The largest numbers of notes. A secret can have maxNotes places and as many kinds of requests, and all secrets together
// maxAllNotes of both, which is a few megabytes.
const (
	maxNotes    = 16
	maxAllNotes = 20_000
)

// noteRoom counts the notes of all secrets that are not stored yet. The zero value is ready to use.
type noteRoom struct{ used atomic.Int64 }

// take reports whether there is room for another note, and takes it.
func (r *noteRoom) take() bool {
	if r.used.Add(1) <= maxAllNotes {
		return true
	}
	r.used.Add(-1)
	return false
}

// dayOf returns the number of the day since 1970.
func dayOf(at time.Time) int64 { return at.Unix() / (24 * 60 * 60) }

// notePlace notes where a use came from, once for each place. h.mu must be locked.
func (h *CacheEntry) notePlace(use LastUse, room *noteRoom) {
	h.placed = dayOf(use.At)
	if h.notes == nil {
		h.notes = &keyNotes{}
	}
	n := h.notes
	switch {
	case slices.ContainsFunc(n.places, func(p LastUse) bool { return p.IP == use.IP && p.Carrier == use.Carrier }):
	case len(n.places) < maxNotes && room.take():
		n.places = append(n.places, LastUse{At: use.At, IP: use.IP, Carrier: use.Carrier})
	default:
		n.miss(use.At)
	}
}

func (n *keyNotes) miss(at time.Time) { n.missed, n.missedAt = n.missed+1, later(n.missedAt, at) }

// noteRequest notes a request. It returns true if the entry must be listed for the next Flush.
func (h *CacheEntry) noteRequest(e KeyActivity, room *noteRoom) (first bool) {
	h.mu.Lock()
	if h.notes == nil {
		h.notes = &keyNotes{}
	}
	n := h.notes
	at := 0
	for at < len(n.requests) && !n.requests[at].like(&e) {
		at++
	}
	switch {
	case at < len(n.requests):
		n.requests[at] = n.requests[at].with(&e)
	case len(n.requests) < maxNotes && room.take():
		n.requests = append(n.requests, e)
	default:
		n.miss(e.At)
	}
	h.mu.Unlock()
	return !h.listed.Load() && !h.listed.Swap(true)
}

// with returns the notes together with later ones. Both may be nil.
func (n *keyNotes) with(more *keyNotes) *keyNotes {
	if n == nil || more == nil {
		if n == nil {
			return more
		}
		return n
	}
	n.places, n.requests = append(n.places, more.places...), append(n.requests, more.requests...)
	n.missed, n.missedAt = n.missed+more.missed, later(n.missedAt, more.missedAt)
	return n
}

// size returns the number of notes that noteRoom counts.
func (n *keyNotes) size() int { return len(n.places) + len(n.requests) }

// Note notes a request, for the activity of the key in entry h. It is kept in memory until the next Flush.
func (k *Keyring) Note(h *CacheEntry, e KeyActivity) {
	if h.noteRequest(e, &k.notes) {
		k.list(h)
	}
}

// notesPart is the number of secrets whose notes are stored in one transaction, so that others do not wait long for it.
const notesPart = 500

// storeNotes stores what Flush has taken from entries. What cannot be stored is left to the next Flush.
func (k *Keyring) storeNotes(taken []*usesOfKey) error {
	var some []takenUse
	for _, u := range taken {
		for _, t := range u.entries {
			if t.notes != nil {
				some = append(some, t)
			}
		}
	}
	var faults error
	for part := range slices.Chunk(some, notesPart) {
		var damaged error
		done, err := k.store.UpdateEach(Writer{}, len(part), func(tx *Tx, i int) error {
			if bad := k.storeNotesOf(tx, part[i]); bad != nil {
				tx.After(func() { damaged = errors.Join(damaged, bad) })
			}
			return nil
		})
		for i, t := range part {
			if i < done {
				k.notes.used.Add(-int64(t.notes.size()))
			} else if t.entry.Return(LastUse{}, t.notes) {
				k.list(t.entry)
			}
		}
		faults = errors.Join(faults, damaged, err)
	}
	return faults
}

// storeNotesOf stores what was noted about one secret, and what its uses cause.
func (k *Keyring) storeNotesOf(tx *Tx, t takenUse) error {
	news, err := storeNotes(tx, t.key.ID, t.notes)
	for _, n := range news {
		if err == nil && k.noticed != nil {
			err = k.noticed(tx, t.key.ID, n)
		}
	}
	return err
}
