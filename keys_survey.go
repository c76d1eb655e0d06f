package main

import (
	"context"
	"fmt"
	"math/bits"
	"time"
)

// KeySurvey counts the keys that deserve attention. Revoked keys are not counted.
type KeySurvey struct {
	Active     int
	Expiring   int // end within 7 days
	Expired    int
	NeverUsed  int // active, older than a day, and never used
	Idle30     int // active, neither used nor created within 30 days
	Idle90     int
	WithoutEnd int // active, without an end
	Rotating   int // previous secrets that are still valid
}

// Survey counts keys. now is from Clock.Latest. Survey ends with an error when ctx is done. It reads the
// rows that lists read, so its cost is that of a list.
func (k *Keyring) Survey(ctx context.Context, tx *Tx, now time.Time) (found KeySurvey, err error) {
	s := keySelection{filter: KeyFilter{Now: now}, unstored: k.unstoredUses()}
	if s.stored, err = KeyTable.RowValues(tx); err != nil {
		return found, err
	}
	if s.rows, err = k.rows.Read(ctx, tx, KeyTable.Name); err != nil {
		return found, err
	}
	for _, chunk := range s.rows.Chunks {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		for left := chunk.Present; left != 0; left &= left - 1 {
			i := bits.TrailingZeros64(left)
			number := chunk.Number*RowsPerChunk + uint64(i)
			r, ok := readKeyRow(chunk.Row(i))
			if !ok {
				return found, fmt.Errorf("key list, row %d: this is not a row of a key; stop the server and run latchkey check --repair", number)
			}
			found.add(&r, s.lastUse(number, r.id), now)
		}
	}
	for range KeyTable.Find(tx, "alias_end", nil, Forward) {
		found.Rotating++
	}
	return found, nil
}

// add counts a key with this row that was last used at used.
func (s *KeySurvey) add(r *keyRow, used, now time.Time) {
	const day = 24 * time.Hour
	switch r.at(now) {
	case StatusExpired:
		s.Expired++
		return
	case StatusActive:
	default:
		return
	}
	s.Active++
	if r.expires.IsZero() {
		s.WithoutEnd++
	} else if r.expires.Sub(now) < 7*day {
		s.Expiring++
	}
	if used.IsZero() && now.Sub(r.created) >= day {
		s.NeverUsed++
	}
	idle := now.Sub(latest(used, r.created))
	if idle >= 30*day {
		s.Idle30++
	}
	if idle >= 90*day {
		s.Idle90++
	}
}
