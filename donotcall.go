package main

import (
	"net/url"
	"strings"
	"time"
)

// blocked is a number on the operator's do-not-call list.
type blocked struct {
	ID        uint64    `json:"id"`
	Phone     string    `json:"phone_number"`
	Reason    string    `json:"reason"`
	CreatedAt time.Time `json:"created_at"`
}

var blockedTable = Table[blocked]{
	Name: "do_not_call", Audit: Told{Object: "number", Personal: true},
	Key:     func(b blocked) []byte { return IDKey(b.ID) },
	Indexes: []Index[blocked]{{"phone", func(b blocked) [][]byte { return [][]byte{[]byte(b.Phone)} }}},
}

// Blocked says whether a number is on the operator's list, which holds for all
// owners.
func Blocked(tx *Tx, phone string) (bool, error) {
	for rest := range blockedTable.Find(tx, "phone", []byte(phone), false) {
		if len(rest) == 0 {
			return true, nil
		}
	}
	return false, nil
}

// DoNotCalls serves the do-not-call list to the operator.
type DoNotCalls struct{ catalog Catalog[blocked] }

// NewDoNotCalls serves the list of a store.
func NewDoNotCalls(store *Store) *DoNotCalls {
	return &DoNotCalls{Catalog[blocked]{
		Store: store, Name: "do_not_call", Path: "do-not-call", Table: blockedTable, Save: saveBlocked,
		Show: func(_ *Tx, b blocked) (any, error) {
			return map[string]any{"id": b.ID, "phone_number": b.Phone, "reason": b.Reason, "created_at": Seconds(b.CreatedAt)}, nil
		},
		Match: func(_ *Tx, b blocked, q url.Values) bool {
			search := strings.ToLower(q.Get("search"))
			return (q.Get("phone_number") == "" || q.Get("phone_number") == b.Phone) &&
				(strings.Contains(b.Phone, search) || strings.Contains(strings.ToLower(b.Reason), search))
		},
	}}
}

// Tables lists what it keeps in the store, for checks.
func (d *DoNotCalls) Tables() []Checked { return []Checked{blockedTable} }

// AdminRoutes lists the endpoints.
func (d *DoNotCalls) AdminRoutes() []Route { return d.catalog.Routes() }

// saveBlocked stores a number; one that is listed stays the entry it is.
func saveBlocked(tx *Tx, r *Request, old *blocked, b *Body) (blocked, error) {
	v := blocked{CreatedAt: r.Now}
	if old != nil {
		v = *old
	}
	b.String("phone_number", &v.Phone)
	b.String("reason", &v.Reason)
	if err := b.Err(); err != nil {
		return v, err
	}
	if !ValidPhone(v.Phone) {
		return v, ErrValidation.With("phone_number must be an E.164 number such as +4930555044; got %q.", v.Phone)
	}
	if same, err := blockedTable.One(tx, "phone", []byte(v.Phone)); err == nil && same.ID != v.ID {
		return same, nil
	}
	if old == nil {
		var err error
		if v.ID, err = blockedTable.NextID(tx); err != nil {
			return v, err
		}
	}
	return v, blockedTable.Put(tx, v)
}
