package main

import (
	"context"
	"math/bits"
	"time"
)

// ExpiresSoon is how long before its expiry a key is reported.
const ExpiresSoon = 7 * 24 * time.Hour

// KeySurvey counts the live keys that deserve attention. Revoked keys and sandbox keys are not counted.
type KeySurvey struct {
	Active     int
	Expiring   int // active, and end within ExpiresSoon
	NeverUsed  int // active, and never used
	Idle90     int // active, neither used nor created within 90 days
	WithoutEnd int // active, without an end

	Sandbox map[string]bool // ids of all sandbox keys
}

// Survey counts keys. now is from Clock.Latest. Survey ends with an error when ctx is done. It reads the
// rows that lists read, so its cost is that of a list.
func (k *Keyring) Survey(ctx context.Context, tx *Tx, now time.Time) (found KeySurvey, err error) {
	s := keySelection{filter: KeyFilter{Now: now}}
	if s.rows, err = k.rows.Read(ctx, tx, KeyTable.Name); err != nil {
		return found, err
	}
	if err := s.readUses(tx, k.unstoredUses()); err != nil {
		return found, err
	}
	found.Sandbox = map[string]bool{}
	space := &[RowsPerChunk]keyFacts{}
	for i, chunk := range s.rows.Chunks {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		facts, err := s.rows.ChunkFacts(i, space)
		if err != nil {
			return found, err
		}
		for left := chunk.Present; left != 0; left &= left - 1 {
			bit := bits.TrailingZeros64(left)
			if facts[bit].flags&rowSandbox != 0 {
				found.Sandbox[string(facts[bit].id.of(chunk.Row(bit)))] = true
				continue
			}
			used := time.Time{}
			if at := int64(s.uses.At(chunk.Number*RowsPerChunk + uint64(bit))); at != 0 {
				used = time.Unix(0, at)
			}
			found.add(&facts[bit], used, now)
		}
	}
	return found, nil
}

// add counts a key that was last used at used, or never if that is the zero time.
func (s *KeySurvey) add(k *keyFacts, used, now time.Time) {
	const day = 24 * time.Hour
	if k.state(now) != StatusActive {
		return
	}
	s.Active++
	created := k.created.time()
	if expires := k.expires.time(); expires.IsZero() {
		s.WithoutEnd++
	} else if expires.Sub(now) < ExpiresSoon {
		s.Expiring++
	}
	if used.IsZero() {
		s.NeverUsed++
	}
	if now.Sub(latest(used, created)) >= 90*day {
		s.Idle90++
	}
}
