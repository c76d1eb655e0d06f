// The sandbox family fills and empties the sandboxes of owners. That a sandbox is an owner of its own is decided by its id, see
// SandboxOf in store_owners.go. How calls of a sandbox play out is in calls_sandbox.go.

package main

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// sandbox is the record of a sandbox that was filled.
type sandbox struct {
	Owner uint64    `json:"owner"` // the owner whose sandbox it is
	At    time.Time `json:"at"`    // when it was filled
}

var sandboxTable = Table[sandbox]{Name: "sandboxes", Key: func(s sandbox) []byte { return IDKey(s.Owner) }}

// SandboxTables returns the table of sandboxes, for store checks.
func SandboxTables() []Checked { return []Checked{&sandboxTable} }

// Sandboxes fills the sandboxes of owners and serves the endpoint that empties them.
type Sandboxes struct{ store *Store }

// NewSandboxes returns the Sandboxes in store.
func NewSandboxes(store *Store) *Sandboxes { return &Sandboxes{store} }

// AdminRoutes returns the admin endpoint for sandboxes.
func (s *Sandboxes) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/sandbox/reset", Handle: s.reset, Slow: true}}
}

// Fill fills a sandbox if it was not filled since it was last emptied: with copies of the agents that the owner may use and with sample
// contacts, so that a client finds what the documented calls need.
func (s *Sandboxes) Fill(owner uint64, now time.Time) error {
	key, filled := IDKey(LiveOwner(owner)), false
	err := s.store.View(func(tx *Tx) error {
		filled = tx.Has(sandboxTable.Name, key)
		return nil
	})
	if err != nil || filled {
		return err
	}
	return s.store.Update(func(tx *Tx) error {
		if tx.Has(sandboxTable.Name, key) {
			return nil
		}
		scope, err := ScopeOf(tx, LiveOwner(owner))
		if err != nil {
			return err
		}
		return errors.Join(
			CopyAgents(tx, scope, owner, now),
			AddSampleContacts(tx, owner, now),
			sandboxTable.Put(tx, sandbox{Owner: LiveOwner(owner), At: now}),
		)
	})
}

// clearedAtOnce is how many records of each kind one transaction of a reset deletes. Other writes wait for it.
const clearedAtOnce = 500

// reset deletes everything in the sandbox of an owner. Its keys stay valid, and the next request with one of them fills the
// sandbox again. The audit entry is part of the last transaction.
func (s *Sandboxes) reset(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(OnlyFields("owner"))
	if err != nil {
		return err
	}
	name := ""
	if body.String("owner", NameLength, &name); body.Err() != nil {
		return body.Err()
	}
	if name = strings.TrimSpace(name); name == "" {
		return ErrMissing.With("owner is missing. Send the name of the owner whose sandbox is to be emptied.")
	}
	var owner uint64
	err = s.store.View(func(tx *Tx) error {
		o, err := OwnerNamed(tx, name)
		if errors.Is(err, ErrNotFound) {
			return ErrNotFound.With("There is no owner %q.", name)
		}
		owner = o.ID
		return err
	})
	if err != nil {
		return err
	}
	total, n := 0, clearedAtOnce
	for n >= clearedAtOnce {
		if err := s.store.Update(func(tx *Tx) (err error) { n, err = clearSandbox(tx, owner); return err }); err != nil {
			return err
		}
		total += n
	}
	deed := r.Deed()
	deed.Object = OwnerObject(owner)
	deed.Detail = map[string]any{"owner": name, "records": total}
	err = s.store.Update(func(tx *Tx) error {
		_, err := clearSandbox(tx, owner) // what was added meanwhile
		if bad := sandboxTable.Delete(tx, IDKey(owner)); !errors.Is(bad, ErrNotFound) {
			err = errors.Join(err, bad)
		}
		return errors.Join(err, deed.Append(tx)) // also if the sandbox was empty already
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"owner": name, "count": total, "message": "The sandbox is empty. The next request with one of its keys fills it again."})
}

// clearSandbox deletes up to clearedAtOnce records of each kind in the sandbox of an owner and returns how many records it has deleted.
func clearSandbox(tx *Tx, owner uint64) (total int, err error) {
	space := SandboxOf(owner)
	tables := slices.Concat(CallTables(), EventTables(), ContactTables(), AgentTables(), VariableTables())
	total, err = DeleteSome(tx, tables, OwnRecords(space), clearedAtOnce)
	hooks, bad := ClearWebhooks(tx, space, clearedAtOnce)
	total, err = total+hooks, errors.Join(err, bad)
	return total, errors.Join(err, ClearBusinessContext(tx, space))
}
