package main

import (
	"errors"
	"time"
)

// PublishUse publishes key.new_network or key.in_url for a notice about the key with this id, in the transaction
// that stores the use.
func PublishUse(tx *Tx, keyring *Keyring, id string, n KeyNotice) error {
	event := keyNetwork
	if n.Kind == ActivityCarrier {
		event = keyInURL
	}
	if wanted, err := eventWanted(tx, event); err != nil || !wanted {
		return err
	}
	key, err := keyring.Get(tx, id)
	if err != nil {
		return err
	}
	e := KeyWebhookEvent(event, key, n.Use.At)
	e.Body["use"] = map[string]any{
		"at": Seconds(n.Use.At), "network": TextOrNone(NetworkOfUse(n.Use.IP)), "client": AddrOrNone(n.Use.IP), "carrier": n.Use.Carrier,
	}
	return Publish(tx, e)
}

// pauseSlack is how much longer than NoticeOptions.PauseUnused a key must be unused before it is paused. Its last use may be
// known to another node alone for keys.last_used_interval, which is at most an hour.
const pauseSlack = time.Hour

// unusedSearch is what one call of OperatorEvents.Unused looks for.
type unusedSearch struct {
	keyring *Keyring
	now     time.Time
	notice  time.Duration // how long a key with a notice is unused; 0: there are no notices
	pause   time.Duration // how long a key that is paused is unused; 0: none is paused
}

// due returns the key with this id if there is to be a notice of it, or if it is to be paused. Otherwise the Key of u is nil.
func (s *unusedSearch) due(tx *Tx, id string) (u UnusedKey, pause bool, err error) {
	span := s.notice
	if span == 0 || s.pause > 0 && s.pause < span {
		span = s.pause
	}
	u, err = s.keyring.Unused(tx, id, s.now.Add(-span)) // it may have been used meanwhile
	if err != nil || u.Key == nil || u.Status(s.now) != StatusActive {
		return UnusedKey{}, false, err
	}
	unused := s.now.Sub(u.Since)
	if s.pause > 0 && unused >= s.pause {
		return u, true, nil
	}
	if noted, err := u.Noted(tx); err != nil || noted || s.notice == 0 || unused < s.notice {
		return UnusedKey{}, false, err
	}
	return u, false, nil
}

// Unused publishes key.unused for active keys that were neither used nor created nor resumed for NoticeOptions.Unused,
// once until the key is used again, and pauses those that were not for NoticeOptions.PauseUnused. It looks at a part of
// the keys at each call. If nobody receives key.unused, it marks no key. now is from Clock.Latest. Call it about once a
// minute, from one goroutine.
func (n *OperatorEvents) Unused(now time.Time) error {
	s := unusedSearch{keyring: n.keyring, now: now, notice: n.o.Unused}
	if n.o.PauseUnused > 0 {
		s.pause = n.o.PauseUnused + pauseSlack
	}
	if wanted, err := EventWanted(n.store, keyUnused); err != nil {
		return err
	} else if !wanted {
		s.notice = 0
	}
	if s.notice == 0 && s.pause == 0 {
		return nil
	}
	var ids []string
	damaged := n.store.View(func(tx *Tx) (err error) {
		ids, n.lookedAt, err = n.keyring.UnusedIDs(tx, n.lookedAt, func(id string) (bool, error) {
			u, _, err := s.due(tx, id)
			return u.Key != nil, err
		})
		return err
	})
	_, err := n.store.UpdateEach(Writer{}, len(ids), func(tx *Tx, i int) error {
		u, pause, err := s.due(tx, ids[i])
		switch {
		case err != nil || u.Key == nil:
			return err
		case pause:
			return n.pauseUnused(tx, u, now)
		}
		if err := u.NoteUnused(tx); err != nil {
			return err
		}
		e := KeyWebhookEvent(keyUnused, u.Key, now)
		e.Body["last_used_at"] = Seconds(u.Used)
		return Publish(tx, e)
	})
	return errors.Join(damaged, err)
}

// pauseUnused pauses a key that nobody uses.
func (n *OperatorEvents) pauseUnused(tx *Tx, u UnusedKey, now time.Time) error {
	by := AuditContext{Actor: ActorSelf, Action: "pause unused key", Now: now, Detail: map[string]any{"unused_since": Seconds(u.Since)}}
	return by.In(tx, func(tx *Tx) error {
		u.Paused = true
		if err := n.keyring.Save(tx, u.Key); err != nil {
			return err
		}
		e := KeyWebhookEvent(KeyPaused, u.Key, now)
		e.Body["reason"], e.Body["last_used_at"] = "unused", Seconds(u.Used)
		return Publish(tx, e)
	})
}
