package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// RestoreAppOptions are the options of RestoreApp.
type RestoreAppOptions struct {
	RestoreOptions
	Exactly      bool // carry nothing over from the previous database
	SendWebhooks bool // send the pending webhook deliveries of the backup
}

// RestoreApp restores a backup, see RestoreStore. A restore ends all logins, the set-up
// link and all invitations. Unless o.Exactly is set, it does not undo what has ended since the backup, as far
// as the previous database shows it: keys that were revoked, paused or rotated, admin
// tokens that were revoked or rotated, operators who were deleted, disabled or got a lower role,
// changes of passwords, and second factors that were removed or used. Unless o.SendWebhooks is set, the webhooks of the backup are held back, because its deliveries may
// have been sent since. An entry in the audit log of the restored database, which ends at
// the time of the backup, explains why later entries are missing.
func RestoreApp(o RestoreAppOptions) (RestoreResult, error) {
	if o.Config.Cluster.On() {
		return RestoreResult{}, errors.New("this server is a node of a cluster, whose records are in etcd: stop all nodes, and create the store of a new, empty etcd with 'latchkey cluster init --from FILE'")
	}
	o.Tables = tables()
	if !o.Exactly {
		o.Plan = endedSince
	}
	o.Gone = createdSince
	held := false
	o.Amend = func(tx *Tx, plan []Carried) error {
		by := AuditContext{Now: o.Now, Actor: "command line", Action: "restore", Detail: map[string]any{"backup": filepath.Base(o.From), "carried_over": len(plan)}}
		return by.In(tx, func(tx *Tx) error {
			for _, c := range plan {
				if err := c.Apply(tx); err != nil {
					return fmt.Errorf("%s: %w", c.What, err)
				}
			}
			if err := EndLogins(tx); err != nil || o.SendWebhooks {
				return err
			}
			n, err := CountWebhooks(tx)
			if held = n > 0; err != nil || !held {
				return err
			}
			return HoldWebhooks(tx, o.Now)
		})
	}
	result, err := RestoreStore(o.RestoreOptions)
	result.WebhooksHeld = held
	return result, err
}

// maxGone is how many of the keys that a backup does not have are named.
const maxGone = 1000

// createdSince returns sentences about the keys, admin tokens and operators that were created after the backup, and
// that can be used until the restore. It names at most maxGone keys.
func createdSince(previous, backup *Tx) (gone []string, err error) {
	add := func(kind string, id any, name string, at time.Time) {
		gone = append(gone, fmt.Sprintf("%s %v (%s), created on %s.", kind, id, name, at.UTC().Format(time.RFC3339)))
	}
	more := 0
	for k, err := range KeyTable.All(previous, Forward) {
		if err != nil {
			return nil, err
		}
		if _, err := KeyTable.Get(backup, []byte(k.ID)); !k.RevokedAt.IsZero() || !errors.Is(err, ErrNotFound) {
			if err != nil && !errors.Is(err, ErrNotFound) {
				return nil, err
			}
			continue
		}
		if len(gone) == maxGone {
			more++
			continue
		}
		add("Key", k.ID, k.Name, k.CreatedAt)
	}
	if more > 0 {
		gone = append(gone, fmt.Sprintf("%d more keys.", more))
	}
	for t, err := range TokenTable.All(previous, Forward) {
		if err != nil {
			return nil, err
		}
		if _, err := TokenTable.Get(backup, IDKey(t.ID)); errors.Is(err, ErrNotFound) && t.RevokedAt.IsZero() {
			add("Admin token", t.ID, t.Name, t.CreatedAt)
		} else if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	for op, err := range OperatorTable.All(previous, Forward) {
		if err != nil {
			return nil, err
		}
		if _, err := OperatorTable.Get(backup, IDKey(op.ID)); errors.Is(err, ErrNotFound) {
			add("Operator", op.ID, op.Name, op.CreatedAt)
		} else if err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// endedSince returns what has ended between the backup and the previous database.
func endedSince(previous, backup *Tx) (plan []Carried, err error) {
	for _, find := range []func(previous, backup *Tx) ([]Carried, error){keysEnded, tokensEnded, operatorsEnded, factorsEnded} {
		found, err := find(previous, backup)
		if err != nil {
			return nil, err
		}
		plan = append(plan, found...)
	}
	return plan, nil
}

// keysEnded returns the keys that were revoked or paused since the backup, that got an
// earlier end, or whose secret was replaced.
func keysEnded(previous, backup *Tx) (plan []Carried, err error) {
	for now, err := range KeyTable.All(previous, Forward) {
		if err != nil {
			return nil, err
		}
		was, err := KeyTable.Get(backup, []byte(now.ID))
		if errors.Is(err, ErrNotFound) {
			continue // created since
		}
		if err != nil {
			return nil, err
		}
		next, why := endKey(was, now)
		if why == "" {
			continue
		}
		plan = append(plan, Carried{
			What:  fmt.Sprintf("Key %s (%s) %s.", now.ID, now.Name, why),
			Apply: func(tx *Tx) error { return errors.Join(moveSecrets(tx, was, next), KeyTable.Put(tx, next)) },
		})
	}
	return plan, nil
}

// endKey returns a copy of was, a key in a backup, to which everything is applied that has
// ended in now, the later state of the same key. why completes a sentence that begins with
// the key; it is "" if nothing has ended.
func endKey(was, now *StoredKey) (next *StoredKey, why string) {
	k := *was
	if !sameSecrets(was, now) {
		k.Hash, k.Hint, k.Serial, k.RotatedAt, k.Aliases = now.Hash, now.Hint, now.Serial, now.RotatedAt, now.Aliases
		why = "got another secret, or a previous secret was ended"
	}
	if !now.ExpiresAt.IsZero() && (was.ExpiresAt.IsZero() || now.ExpiresAt.Before(was.ExpiresAt)) {
		k.ExpiresAt, why = now.ExpiresAt, "got an earlier end, "+now.ExpiresAt.UTC().Format(time.RFC3339)
	}
	if now.Paused && !was.Paused {
		k.Paused, why = true, "was paused"
	}
	if !now.RevokedAt.IsZero() && was.RevokedAt.IsZero() {
		k.RevokedAt, why = now.RevokedAt, "was revoked on "+now.RevokedAt.UTC().Format(time.RFC3339)
	}
	return &k, why
}

// sameSecrets reports whether two states of a key have the same secrets.
func sameSecrets(a, b *StoredKey) bool {
	return a.Serial == b.Serial && bytes.Equal(a.Hash, b.Hash) &&
		slices.EqualFunc(a.Aliases, b.Aliases, func(x, y PreviousSecret) bool {
			return x.Serial == y.Serial && bytes.Equal(x.Hash, y.Hash) && x.EndsAt.Equal(y.EndsAt)
		})
}

// moveSecrets replaces the hashes by which the key was is found with those of next.
func moveSecrets(tx *Tx, was, next *StoredKey) error {
	for _, hash := range was.Hashes() {
		if err := tx.Delete("key_hashes", hash); err != nil {
			return err
		}
	}
	for _, hash := range next.Hashes() {
		if err := tx.PutSigned("key_hashes", hash, []byte(next.ID)); err != nil {
			return err
		}
	}
	return nil
}

// tokensEnded returns the admin tokens that were revoked since the backup, or whose secret was
// replaced.
func tokensEnded(previous, backup *Tx) (plan []Carried, err error) {
	for now, err := range TokenTable.All(previous, Forward) {
		if err != nil {
			return nil, err
		}
		was, err := TokenTable.Get(backup, IDKey(now.ID))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		why := ""
		if err != nil {
			continue // created since
		}
		if !was.SameSecrets(now) {
			was.TakeSecrets(now)
			why = "got another secret, or a previous secret was ended"
		}
		if !now.RevokedAt.IsZero() && was.RevokedAt.IsZero() {
			was.RevokedAt, why = now.RevokedAt, "was revoked on "+now.RevokedAt.UTC().Format(time.RFC3339)
		}
		if why == "" {
			continue
		}
		plan = append(plan, Carried{
			What:  fmt.Sprintf("Admin token %d (%s) %s.", now.ID, now.Name, why),
			Apply: func(tx *Tx) error { return TokenTable.Put(tx, was) },
		})
	}
	return plan, nil
}

// operatorsEnded returns the operators who were deleted, disabled or got a lower role since the
// backup, and those who got another password.
func operatorsEnded(previous, backup *Tx) (plan []Carried, err error) {
	for was, err := range OperatorTable.All(backup, Forward) {
		if err != nil {
			return nil, err
		}
		now, err := OperatorTable.Get(previous, IDKey(was.ID))
		if errors.Is(err, ErrNotFound) {
			plan = append(plan, Carried{
				What: fmt.Sprintf("Operator %d (%s) was deleted.", was.ID, was.Name),
				Apply: func(tx *Tx) error {
					return errors.Join(EndFactors(tx, was.ID), OperatorTable.Delete(tx, IDKey(was.ID)))
				},
			})
			continue
		}
		if err != nil {
			return nil, err
		}
		next, why := was.Ended(now)
		if len(why) == 0 {
			continue
		}
		plan = append(plan, Carried{
			What:  fmt.Sprintf("Operator %d (%s) %s.", was.ID, was.Name, strings.Join(why, " and ")),
			Apply: func(tx *Tx) error { return OperatorTable.Put(tx, next) },
		})
	}
	return plan, nil
}

// factorsEnded returns the second factors that were removed or used since the backup.
func factorsEnded(previous, backup *Tx) (plan []Carried, err error) {
	ended, err := FactorsEnded(previous, backup)
	for _, one := range ended {
		plan = append(plan, Carried(one))
	}
	return plan, err
}
