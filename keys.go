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

// Key is an API key as it is stored: everything but the secret. A *Key that
// the Keyring has given is shared and must not be changed; Clone gives one's own.
type Key struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Hint         string            `json:"hint"`
	Permissions  Permission        `json:"permissions"`
	Limits       map[string]int    `json:"limits,omitempty"` // where other than the default
	Environment  string            `json:"environment,omitempty"`
	Owner        uint64            `json:"owner"`
	OwnerName    string            `json:"owner_name"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	AllowedIPs   []netip.Prefix    `json:"allowed_ips,omitempty"` // none: from everywhere
	QueryAllowed *bool             `json:"query_allowed,omitempty"`
	Paused       bool              `json:"paused,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	ExpiresAt    time.Time         `json:"expires_at,omitzero"`
	RevokedAt    time.Time         `json:"revoked_at,omitzero"`
	Hash         []byte            `json:"hash,omitempty"`   // where the secret is found; never shown
	Serial       int               `json:"serial,omitempty"` // how often the secret was rotated
	RotatedAt    time.Time         `json:"rotated_at,omitzero"`
	Aliases      []PreviousSecret  `json:"aliases,omitempty"` // oldest first
	// ExpiryNoticed is the ExpiresAt that key.expiring was raised for.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`
	// OwnPermissions are those of the configuration, by name, also while no
	// configuration has them. Permissions has the bits of those that exist.
	OwnPermissions []string `json:"own_permissions,omitempty"`

	rights  *Policy
	dormant []string       // of OwnPermissions: those that do not exist now
	rules   []LimitRule    // all limits of the key and its owner
	short   []Limit        // what every request pays, nil where that takes Every
	ofOwner map[string]int // limits of the owner in place of the defaults
	ownerID string         // by which the limits of the owner are counted
	asked   int            // serial of the secret by which the key was found
	until   time.Time
}

// PreviousSecret is an earlier secret of a key that holds until its end.
type PreviousSecret struct {
	Serial int       `json:"serial"`
	Hash   []byte    `json:"hash"`
	Hint   string    `json:"hint"`
	EndsAt time.Time `json:"ends_at"`
}

// KeyTable keeps the keys; only the Keyring writes to it.
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

// KeyStates lists the states of a key.
func KeyStates() []string {
	return []string{StatusActive, statusPaused, statusExpired, StatusRevoked}
}

// Status is the state of the key at a time, which is to be of Clock.Latest.
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

// Check is ErrKey with the reason unless the key is active. Whoever asks has
// shown the whole secret, so the reason tells nothing to a guesser.
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

// Under gives the key as it is for the secret of a hash, nil where the key no
// longer has that secret.
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

// Again gives the key as it is for the secret by which an older copy of it was
// found, nil where the key no longer has that secret.
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

// Asked gives the serial of the secret by which the key was found.
func (k *Key) SecretSerial() int { return k.asked }

// Until is when the secret ends by which the key was found, the zero time
// where it is the present one.
func (k *Key) SecretEnds() time.Time { return k.until }

// HasSecret says whether the key has a secret of this serial.
func (k *Key) HasSecret(serial int) bool {
	return k.Serial == serial || slices.ContainsFunc(k.Aliases, func(a PreviousSecret) bool { return a.Serial == serial })
}

// Has says whether the key has at least one of the permissions.
func (k *Key) Has(p Permission) bool { return k.Permissions&p != 0 }

// Allows says whether the key may be used from an address.
func (k *Key) Allows(from netip.Addr) bool {
	if len(k.AllowedIPs) == 0 {
		return true
	}
	from = from.Unmap()
	return slices.ContainsFunc(k.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(from) })
}

// AllowsQuery says whether the key may be sent as ?api_key=, where that is
// allowed at all.
func (k *Key) AllowsQuery(atAll bool) bool {
	return atAll && (k.QueryAllowed == nil || *k.QueryAllowed)
}

// ErrQueryKey refuses a key that was sent as ?api_key=.
var ErrQueryKey = ErrKey.With("This key may not be sent as ?api_key=. Send it as Authorization: Bearer KEY.")

// Rules lists the limits of the key and of its owner, as they are for it. The
// slice is shared.
func (k *Key) Rules() []LimitRule { return k.rules }

// ShortLimits lists the limits of the key alone that every request pays, nil
// where there is more to it: then it is those of Charge for RequestsPerMinute.
// The slice is shared.
func (k *Key) ShortLimits() []Limit { return k.short }

// Charge appends the charges of a use of a limit: of the key's, and of that
// which all keys of its owner share. A name that does not exist gives a limit
// of 0, which lets nothing through.
func (k *Key) Charge(into []Charge, name string, cost int) []Charge {
	known := false
	for _, l := range k.rules {
		known = known || l.Name == name
		if l.Name == name || l.With == name && l.With != "" {
			into = append(into, k.ChargeOf(l, cost)...)
		}
	}
	if !known {
		_, known = k.rights.Limit(name) // an owner's, of which this one has none
	}
	if !known {
		into = append(into, Charge{ID: k.ID, Limit: Limit{Name: name, Window: time.Minute}, Cost: cost})
	}
	return into
}

// ChargeOf gives the charge of one of Rules, none where the owner has no such
// limit.
func (k *Key) ChargeOf(l LimitRule, cost int) []Charge {
	switch {
	case !l.Owner:
		return []Charge{{ID: k.ID, Limit: l.Limit, Cost: cost, Observe: l.Observe}}
	case l.Max > 0:
		return []Charge{{ID: k.ownerID, Limit: l.Limit, Cost: cost, Observe: l.Observe, Shared: true}}
	}
	return nil
}

// PermissionNames lists the permissions that the key has now.
func (k *Key) PermissionNames() []string { return k.rights.Names(k.Permissions) }

// Holds lists them in words.
func (k *Key) Holds() string {
	if names := k.PermissionNames(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "none"
}

// Dormant lists the permissions of the key that no configuration has now. It
// has them again as soon as one does.
func (k *Key) Inactive() []string { return k.dormant }

// Grant gives the key these permissions in place of all that it has. Of those
// that do not exist it takes only what it has already. An unknown one is
// ErrValidation and lists the known ones.
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

// Clone gives a copy to change.
func (k *Key) Clone() *Key {
	c := *k
	c.Limits, c.Metadata = maps.Clone(k.Limits), maps.Clone(k.Metadata)
	c.AllowedIPs, c.Aliases, c.OwnPermissions = slices.Clone(k.AllowedIPs), slices.Clone(k.Aliases), slices.Clone(k.OwnPermissions)
	return &c
}

// Ready gives the key the permissions and limits that follow from what is
// stored of it, what exists, and the limits that its owner has in place of the
// defaults.
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

// Policy are the permissions and limits that the key is made ready for.
func (k *Key) Rights() *Policy { return k.rights }

// Fit gives the key as it is for these permissions and limits; nil are those
// that it has.
func (k *Key) Fit(r *Policy) *Key {
	if r == nil || r == k.rights {
		return k
	}
	c := *k
	c.Resolve(r, k.ofOwner)
	return &c
}

// ownerCounterID is the id by which the limits of an owner are counted.
func ownerCounterID(owner uint64) string { return fmt.Sprintf("owner_%d", owner) }

// ParseNetworks reads addresses and CIDR ranges, of IPv4 and IPv6.
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

// NewKeyID makes the id of a key: it sorts by the time it was made.
func NewKeyID(now time.Time) string {
	return fmt.Sprintf("key_%011x%s", now.UnixMilli(), keytext.RandomHex(5))
}

// NewKeyIDs makes ids of keys in the order in which they sort.
func NewKeyIDs(now time.Time, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = NewKeyID(now)
	}
	slices.Sort(ids)
	return ids
}
