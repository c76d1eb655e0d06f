// The keys family knows what a key is, how it is found and what it may do. Read
// keys.go first, then keys_secret.go (peppers and hashes), keys_permissions.go,
// keys_cache.go (keys in memory) and keys_ring.go (find, save, rotate, sweep). It
// never sees a request and never stores a secret.

package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"latchkey/internal/keytext"
)

// Key is a stored API key: everything except the secret. A *Key that the
// Keyring returns may be shared with other requests, so do not change it;
// change a Clone.
type Key struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Hint         string            `json:"hint"`
	Permissions  Permission        `json:"permissions"`
	Limits       map[string]int    `json:"limits,omitempty"` // only those that differ from the default
	Environment  string            `json:"environment,omitempty"`
	Owner        uint64            `json:"owner"`
	OwnerName    string            `json:"owner_name"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	AllowedIPs   []netip.Prefix    `json:"allowed_ips,omitempty"` // empty: any address
	QueryAllowed *bool             `json:"query_allowed,omitempty"`
	Paused       bool              `json:"paused,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	ExpiresAt    time.Time         `json:"expires_at,omitzero"`
	RevokedAt    time.Time         `json:"revoked_at,omitzero"`
	Hash         []byte            `json:"hash,omitempty"`   // of the secret, under a pepper; never shown
	Serial       int               `json:"serial,omitempty"` // how many times the secret was rotated
	RotatedAt    time.Time         `json:"rotated_at,omitzero"`
	Aliases      []PreviousSecret  `json:"aliases,omitempty"` // oldest first
	// ExpiryNoticed is the ExpiresAt for which key.expiring was published.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`
	// OwnPermissions are the names of the permissions that the configuration
	// defines, including those that it no longer defines. Permissions has the
	// bits of those that exist now.
	OwnPermissions []string `json:"own_permissions,omitempty"`

	rights  *Policy
	dormant []string       // the OwnPermissions that no configuration defines now
	rules   []LimitRule    // every limit of the key and its owner
	short   []Limit        // see ShortLimits
	ofOwner map[string]int // the owner's limits that differ from the default
	ownerID string         // the id under which the Limiter counts the owner
	asked   int            // serial of the secret that found the key
	until   time.Time
}

// PreviousSecret is an earlier secret of a key. It is valid until EndsAt.
type PreviousSecret struct {
	Serial int       `json:"serial"`
	Hash   []byte    `json:"hash"`
	Hint   string    `json:"hint"`
	EndsAt time.Time `json:"ends_at"`
}

// KeyTable stores the keys. Only the Keyring writes to it.
var KeyTable = Table[*Key]{
	Name: "keys", Audit: AuditPolicy{Object: "key"},
	Key: func(k *Key) []byte { return []byte(k.ID) },
	Indexes: []Index[*Key]{
		{"owner", func(k *Key) [][]byte { return [][]byte{IDKey(k.Owner)} }},
		{"owner_live", func(k *Key) [][]byte {
			if !k.RevokedAt.IsZero() {
				return nil
			}
			return [][]byte{IDKey(k.Owner)}
		}},
		{"alias_end", func(k *Key) (ends [][]byte) {
			for _, a := range k.Aliases {
				ends = append(ends, IDKey(uint64(a.EndsAt.UnixNano())))
			}
			return ends
		}},
		{"expiring", func(k *Key) [][]byte {
			if k.ExpiresAt.IsZero() || !k.RevokedAt.IsZero() || k.ExpiryNoticed.Equal(k.ExpiresAt) {
				return nil
			}
			return [][]byte{IDKey(uint64(k.ExpiresAt.UnixNano()))}
		}},
	},
}

// The states of a key.
const (
	StatusActive  = "active"
	statusPaused  = "paused"
	statusExpired = "expired"
	StatusRevoked = "revoked"
)

// KeyStates returns the states of a key.
func KeyStates() []string {
	return []string{StatusActive, statusPaused, statusExpired, StatusRevoked}
}

// Status returns the state of the key at now, a time from Clock.Latest.
func (k *Key) Status(now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return StatusRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return statusExpired
	case k.Paused:
		return statusPaused
	}
	return StatusActive
}

// Check returns nil if the key is active and its secret is still valid.
// Otherwise it returns ErrKey with the reason. The client has already sent the
// whole secret, so the reason does not help an attacker who guesses.
func (k *Key) Check(now time.Time) error {
	switch k.Status(now) {
	case StatusRevoked:
		return ErrKey.With("This API key was revoked on %s. Create a new one.", k.RevokedAt.UTC().Format(time.RFC3339))
	case statusExpired:
		return ErrKey.With("This API key expired on %s. Create a new one or have its end moved.", k.ExpiresAt.UTC().Format(time.RFC3339))
	case statusPaused:
		return ErrKey.With("This API key is paused. Have it resumed.")
	}
	if !k.until.IsZero() && !now.Before(k.until) {
		return ErrKey.With("This API key was replaced, and its time beside the new one ended on %s. Use the new one.", k.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// BySecret returns a copy of k as seen through the secret with this hash, or
// nil if k no longer has that secret. A key without a stored Hash accepts any
// hash that is not one of its Aliases.
func (k *Key) BySecret(hash []byte) *Key {
	for _, a := range k.Aliases {
		if bytes.Equal(a.Hash, hash) {
			return k.view(a)
		}
	}
	if k.Hash != nil && !bytes.Equal(k.Hash, hash) {
		return nil
	}
	return k.view(PreviousSecret{Serial: k.Serial})
}

// Refreshed returns a copy of k as seen through the secret that found older, or
// nil if k no longer has that secret.
func (k *Key) Refreshed(older *Key) *Key {
	for _, a := range k.Aliases {
		if a.Serial == older.asked {
			return k.view(a)
		}
	}
	if k.Serial != older.asked {
		return nil
	}
	return k.view(PreviousSecret{Serial: k.Serial})
}

func (k *Key) view(a PreviousSecret) *Key {
	c := *k
	c.asked, c.until = a.Serial, a.EndsAt
	return &c
}

// SecretSerial returns the serial of the secret that found the key.
func (k *Key) SecretSerial() int { return k.asked }

// SecretEnds returns when the secret that found the key ends. It is the zero
// time for the current secret.
func (k *Key) SecretEnds() time.Time { return k.until }

// HasSecret reports whether the current secret or an earlier one of the key has
// this serial.
func (k *Key) HasSecret(serial int) bool {
	return k.Serial == serial || slices.ContainsFunc(k.Aliases, func(a PreviousSecret) bool { return a.Serial == serial })
}

// Has reports whether the key has at least one of the permissions in p.
func (k *Key) Has(p Permission) bool { return k.Permissions&p != 0 }

// Allows reports whether the key may be used from an address.
func (k *Key) Allows(from netip.Addr) bool {
	if len(k.AllowedIPs) == 0 {
		return true
	}
	from = from.Unmap()
	return slices.ContainsFunc(k.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(from) })
}

// AllowsQuery reports whether the key may be sent as ?api_key=. atAll is the
// setting of the service; the key can only restrict it.
func (k *Key) AllowsQuery(atAll bool) bool {
	return atAll && (k.QueryAllowed == nil || *k.QueryAllowed)
}

// ErrQueryKey is the error for a key that was sent as ?api_key= but must not
// be.
var ErrQueryKey = ErrKey.With("This key may not be sent as ?api_key=. Send it as Authorization: Bearer KEY.")

// Rules returns the limits that apply to the key: its own and those of its
// owner. The slice is shared; do not change it.
func (k *Key) Rules() []LimitRule { return k.rules }

// ShortLimits returns the limit that every request pays, if it is a single
// limit of the key itself and not only observed. Otherwise it returns nil: then
// charge k.Charge(nil, RequestsPerMinute, 1). The slice is shared; do not
// change it.
func (k *Key) ShortLimits() []Limit { return k.short }

// Charge appends to into the charges for using the limit name at a cost: one
// for the limit of the key, and one for each limit of its owner that is linked
// to it. For an unknown name it appends a limit of 0, which refuses every cost
// above 0.
func (k *Key) Charge(into []Charge, name string, cost int) []Charge {
	known := false
	for _, l := range k.rules {
		known = known || l.Name == name
		if l.Name == name || l.With == name && l.With != "" {
			into = append(into, k.ChargeOf(l, cost)...)
		}
	}
	if !known {
		_, known = k.rights.Limit(name) // an owner limit that is not set for this owner
	}
	if !known {
		into = append(into, Charge{ID: k.ID, Limit: Limit{Name: name, Window: time.Minute}, Cost: cost})
	}
	return into
}

// ChargeOf returns the charge for one of Rules at a cost. It returns nil if l
// is an owner limit with a Max of 0.
func (k *Key) ChargeOf(l LimitRule, cost int) []Charge {
	switch {
	case !l.Owner:
		return []Charge{{ID: k.ID, Limit: l.Limit, Cost: cost, Observe: l.Observe}}
	case l.Max > 0:
		return []Charge{{ID: k.ownerID, Limit: l.Limit, Cost: cost, Observe: l.Observe, Shared: true}}
	}
	return nil
}

// PermissionNames returns the names of the permissions that the key has now.
func (k *Key) PermissionNames() []string { return k.rights.Names(k.Permissions) }

// Holds returns PermissionNames as text for messages: separated by commas, or
// "none".
func (k *Key) Holds() string {
	if names := k.PermissionNames(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "none"
}

// Inactive returns the permissions of the key that the configuration does not
// define now. The key regains them when the configuration defines them again.
func (k *Key) Inactive() []string { return k.dormant }

// Grant replaces the permissions of k with names. A name that r does not define
// is accepted only if Inactive already lists it. For any other unknown name it
// returns ErrValidation, which lists the known ones, and leaves k unchanged.
func (k *Key) Grant(r *Policy, names []string) error {
	var known, dormant []string
	for _, name := range names {
		if slices.Contains(k.dormant, name) {
			dormant = append(dormant, name)
		} else {
			known = append(known, name)
		}
	}
	set, err := r.Parse(known)
	if err != nil {
		return err
	}
	k.rights, k.Permissions, k.OwnPermissions, k.dormant = r, set, append(r.Own(set), dormant...), dormant
	return nil
}

// Clone returns a copy of k that the caller may change.
func (k *Key) Clone() *Key {
	c := *k
	c.Limits, c.Metadata = maps.Clone(k.Limits), maps.Clone(k.Metadata)
	c.AllowedIPs, c.Aliases, c.OwnPermissions = slices.Clone(k.AllowedIPs), slices.Clone(k.Aliases), slices.Clone(k.OwnPermissions)
	return &c
}

// Resolve fills in what is derived from a stored key: its permissions under r
// and the limits that apply to it. owner maps the names of limits to the
// values of its owner that differ from the default. k keeps the map.
func (k *Key) Resolve(r *Policy, owner map[string]int) {
	var own Permission
	own, k.dormant = r.OfOwn(k.OwnPermissions)
	k.rights, k.Permissions, k.ownerID, k.ofOwner = r, k.Permissions.Builtin()|own, ownerCounterID(k.Owner), owner
	k.rules, k.short = slices.Clone(r.Limits()), nil
	for i := range k.rules {
		l := &k.rules[i]
		of := k.Limits
		if l.Owner {
			of = owner
		}
		if n, ok := of[l.Name]; ok {
			l.Max = n
		}
	}
	k.rules = slices.DeleteFunc(k.rules, func(l LimitRule) bool { return l.Owner && l.Max == 0 })
	if every := k.Charge(nil, RequestsPerMinute, 1); len(every) == 1 && !every[0].Observe {
		k.short = []Limit{every[0].Limit}
	}
}

// Rights returns the Policy for which k was last resolved.
func (k *Key) Rights() *Policy { return k.rights }

// Fit returns k as resolved for r: k itself if r is nil or already its Policy,
// else a copy.
func (k *Key) Fit(r *Policy) *Key {
	if r == nil || r == k.rights {
		return k
	}
	c := *k
	c.Resolve(r, k.ofOwner)
	return &c
}

// ownerCounterID returns the id under which the Limiter counts an owner.
func ownerCounterID(owner uint64) string { return fmt.Sprintf("owner_%d", owner) }

// ParseNetworks parses IPv4 and IPv6 addresses and CIDR ranges. An address
// becomes a range of one, and an IPv4-mapped IPv6 address becomes IPv4. It
// returns ErrValidation for the first entry that is neither.
func ParseNetworks(list []string) ([]netip.Prefix, error) {
	nets := []netip.Prefix{}
	for i, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
				a = a.Unmap()
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil || !p.IsValid() {
			return nil, ErrValidation.With("allowed_ips[%d] must be an address or a range such as 192.0.2.0/24 or 2001:db8::/32; got %q.", i, s)
		}
		if p.Addr().Is4In6() {
			p = netip.PrefixFrom(p.Addr().Unmap(), max(0, p.Bits()-96))
		}
		nets = append(nets, p.Masked())
	}
	return nets, nil
}

// NewKeyID returns a new key id. Ids sort by the millisecond of now. Two ids of
// the same millisecond can be equal, though that is rare.
func NewKeyID(now time.Time) string {
	return fmt.Sprintf("key_%011x%s", now.UnixMilli(), keytext.RandomHex(5))
}

// NewKeyIDs returns n new key ids in ascending order.
func NewKeyIDs(now time.Time, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = NewKeyID(now)
	}
	slices.Sort(ids)
	return ids
}
