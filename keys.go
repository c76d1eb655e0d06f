// The keys family defines API keys: what is stored of a key, how a key is found by its secret,
// and what it may do. Read keys.go first, then keys_secret.go (peppers and hashes),
// keys_permissions.go, keys_resources.go (the objects that exist for a key), keys_cache.go (keys in memory), keys_ring.go (find, save, rotate, sweep)
// and keys_list.go (filter, sort, search). The family never sees a request and never stores a secret.

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

// StoredKey is the stored record of an API key. It contains everything about the key except its
// secrets.
type StoredKey struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Ref          string            `json:"ref,omitempty"` // names the key in files, see Keyring.ByRef; "": none
	Hint         string            `json:"hint"`
	Permissions  Permission        `json:"permissions"`
	Limits       map[string]int    `json:"limits,omitempty"` // by limit name; only values that differ from the default
	Environment  string            `json:"environment,omitempty"`
	Owner        uint64            `json:"owner"`
	OwnerName    string            `json:"owner_name"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	AllowedIPs   []netip.Prefix    `json:"allowed_ips,omitempty"` // empty: any address
	Resources    *Resources        `json:"resources,omitempty"`   // the objects that exist for the key; nil: all that its owner sees
	QueryAllowed *bool             `json:"query_allowed,omitempty"`
	Paused       bool              `json:"paused,omitempty"`
	ResumedAt    time.Time         `json:"resumed_at,omitzero"` // when it was last resumed, which counts as a use for UnusedKey
	CreatedAt    time.Time         `json:"created_at"`
	ExpiresAt    time.Time         `json:"expires_at,omitzero"`
	RevokedAt    time.Time         `json:"revoked_at,omitzero"`
	Hash         []byte            `json:"hash,omitempty"`   // see Peppers.Hash; nil in a key of an early version
	Serial       int               `json:"serial,omitempty"` // number of the current secret; each rotation adds 1
	RotatedAt    time.Time         `json:"rotated_at,omitzero"`
	Aliases      []PreviousSecret  `json:"aliases,omitempty"` // previous secrets, oldest first
	// ExpiryNoticed is the value of ExpiresAt for which the webhook event key.expiring was last
	// published. It is zero if none was.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`
	// OwnPermissions holds the names of the key's permissions that are not built in. A name stays
	// here even if the configuration no longer defines it. Permissions has the bits of all
	// permissions that are defined now.
	OwnPermissions []string `json:"own_permissions,omitempty"`
}

// Key is an API key: its stored record and what follows from it. Resolve fills in the derived fields.
// A *Key that the Keyring returns may be shared with other requests, so do not change it; change a
// Clone.
type Key struct {
	StoredKey
	derived keyView
}

// keyView holds the fields of a Key that are not stored.
type keyView struct {
	rights  *Policy        // the Policy with which the key was last resolved
	dormant []string       // the OwnPermissions that no configuration defines now
	rules   []LimitRule    // see Key.Rules
	short   []Limit        // see Key.ShortLimits
	running []Charge       // see Key.Places
	streams []Charge       // see Key.StreamPlaces
	ofOwner map[string]int // the values of the owner's limits that differ from the default
	ownerID string         // the id under which the Limiter counts the owner
	asked   int            // see Key.SecretSerial
	until   time.Time      // see Key.SecretEnds
}

// PreviousSecret is a secret that a rotation of the key replaced. It is valid until EndsAt.
type PreviousSecret struct {
	Serial int       `json:"serial"`
	Hash   []byte    `json:"hash"`
	Hint   string    `json:"hint"`
	EndsAt time.Time `json:"ends_at"`
}

// mayLessThan reports whether a key can be used less than before: in fewer ways, at fewer addresses, less often,
// for a shorter time, for fewer objects, or with fewer secrets. Every other limit counts as a lower one, and
// every other list of objects as a shorter one.
func (k *StoredKey) mayLessThan(before *StoredKey) bool {
	query := func(k *StoredKey) bool { return k.QueryAllowed == nil || *k.QueryAllowed }
	return k.Paused && !before.Paused || !k.RevokedAt.IsZero() && before.RevokedAt.IsZero() || k.Owner != before.Owner ||
		k.Permissions&before.Permissions != before.Permissions || slices.ContainsFunc(before.OwnPermissions, func(p string) bool { return !slices.Contains(k.OwnPermissions, p) }) ||
		endsEarlier(k.ExpiresAt, before.ExpiresAt) || !maps.Equal(k.Limits, before.Limits) || query(before) && !query(k) ||
		!slices.Equal(k.AllowedIPs, before.AllowedIPs) && len(k.AllowedIPs) > 0 || !k.Resources.Equal(before.Resources) && k.Resources != nil ||
		!k.hasSecret(before.Hash, before.ExpiresAt) || slices.ContainsFunc(before.Aliases, func(p PreviousSecret) bool { return !k.hasSecret(p.Hash, p.EndsAt) })
}

// Sandbox reports whether the key is a sandbox key. Its Owner is then the owner's sandbox, and its OwnerName the name of the owner.
func (k *StoredKey) Sandbox() bool { return IsSandbox(k.Owner) }

// hasSecret reports whether the key has the secret with this hash, at least until a time; zero: without an end.
func (k *StoredKey) hasSecret(hash []byte, until time.Time) bool {
	return bytes.Equal(k.Hash, hash) || slices.ContainsFunc(k.Aliases, func(p PreviousSecret) bool {
		return bytes.Equal(p.Hash, hash) && !until.IsZero() && !p.EndsAt.Before(until)
	})
}

// endsEarlier reports whether one end is before another. Zero is no end.
func endsEarlier(one, other time.Time) bool {
	return !one.IsZero() && (other.IsZero() || one.Before(other))
}

// KeyTable stores the keys. Only the Keyring writes to it.
var KeyTable = Table[*StoredKey]{
	Name: "keys", Signed: true, Audit: AuditPolicy{Object: "key"},
	Key: func(k *StoredKey) []byte { return []byte(k.ID) },
	Secure: func(before, after **StoredKey) bool {
		return before != nil && (after == nil || (*after).mayLessThan(*before))
	},
	Rows: &RowList[*StoredKey]{Row: keyRowOf, Value: keyUseValue, Source: keyUsesBucket},
	Indexes: []Index[*StoredKey]{
		{"owner", func(k *StoredKey) [][]byte { return [][]byte{IDKey(k.Owner)} }},
		{"owner_live", func(k *StoredKey) [][]byte {
			if !k.RevokedAt.IsZero() {
				return nil
			}
			return [][]byte{IDKey(k.Owner)}
		}},
		{"ref", func(k *StoredKey) [][]byte {
			if k.Ref == "" || !k.RevokedAt.IsZero() {
				return nil
			}
			return [][]byte{[]byte(k.Ref)}
		}},
		{"alias_end", func(k *StoredKey) (ends [][]byte) {
			for _, a := range k.Aliases {
				ends = append(ends, IDKey(uint64(a.EndsAt.UnixNano())))
			}
			return ends
		}},
		{"expiring", func(k *StoredKey) [][]byte {
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
	StatusExpired = "expired"
	StatusRevoked = "revoked"
)

// KeyStates returns the states of a key.
func KeyStates() []string {
	return []string{StatusActive, statusPaused, StatusExpired, StatusRevoked}
}

// Status returns the state of the key at now, a time from Clock.Latest.
func (k *StoredKey) Status(now time.Time) string {
	return stateFacts{paused: k.Paused, revoked: !k.RevokedAt.IsZero(), expires: k.ExpiresAt}.at(now)
}

// stateFacts holds what the state of a key follows from. expires is zero if the key never expires.
type stateFacts struct {
	paused, revoked bool
	expires         time.Time
}

func (s stateFacts) at(now time.Time) string {
	switch {
	case s.revoked:
		return StatusRevoked
	case !s.expires.IsZero() && !now.Before(s.expires):
		return StatusExpired
	case s.paused:
		return statusPaused
	}
	return StatusActive
}

// Check returns nil if the key is active and its secret is still valid.
// Otherwise it returns ErrKey with the reason. The reason does not help an attacker to guess a
// secret, because the client must already have sent a correct one. now is from Clock.Latest.
func (k *Key) Check(now time.Time) error {
	switch k.Status(now) {
	case StatusRevoked:
		return ErrKey.With("This API key was revoked on %s. Create a new one.", k.RevokedAt.UTC().Format(time.RFC3339))
	case StatusExpired:
		return ErrKey.With("This API key expired on %s. Create a new key, or ask the operator to extend this one.", k.ExpiresAt.UTC().Format(time.RFC3339))
	case statusPaused:
		return ErrKey.With("This API key is paused. Ask the operator to resume it.")
	}
	if !k.derived.until.IsZero() && !now.Before(k.derived.until) {
		return ErrKey.With("This API key was replaced, and its old secret was valid until %s. Use the new secret.", k.derived.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// BySecret returns a copy of k whose SecretSerial and SecretEnds describe the secret with this
// hash. It returns nil if k does not have that secret now. A key without a stored Hash accepts any
// hash: one that is not in Aliases counts as its current secret.
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

// Refreshed returns a copy of k with the SecretSerial of older, an earlier state of the same key.
// It returns nil if k no longer has the secret with that serial.
func (k *Key) Refreshed(older *Key) *Key {
	for _, a := range k.Aliases {
		if a.Serial == older.derived.asked {
			return k.view(a)
		}
	}
	if k.Serial != older.derived.asked {
		return nil
	}
	return k.view(PreviousSecret{Serial: k.Serial})
}

// view returns a copy of k whose SecretSerial and SecretEnds are those of secret a.
func (k *Key) view(a PreviousSecret) *Key {
	c := *k
	c.derived.asked, c.derived.until = a.Serial, a.EndsAt
	return &c
}

// Hashes returns the hashes of the current secret and the previous secrets.
func (k *StoredKey) Hashes() (all [][]byte) {
	if k.Hash != nil {
		all = append(all, k.Hash)
	}
	for _, a := range k.Aliases {
		all = append(all, a.Hash)
	}
	return all
}

// SecretSerial returns the serial of the secret by which the key was found.
func (k *Key) SecretSerial() int { return k.derived.asked }

// SecretEnds returns the time until which the secret by which the key was found is valid. It
// returns the zero time for the current secret, which has no end of its own.
func (k *Key) SecretEnds() time.Time { return k.derived.until }

// HasSecret reports whether the current secret or a stored previous secret has this serial.
func (k *StoredKey) HasSecret(serial int) bool {
	return k.Serial == serial || slices.ContainsFunc(k.Aliases, func(a PreviousSecret) bool { return a.Serial == serial })
}

// Resume ends a pause at now. It does nothing if the key is not paused.
func (k *Key) Resume(now time.Time) {
	if k.Paused {
		k.Paused, k.ResumedAt = false, now
	}
}

// Has reports whether the key has at least one of the permissions in p.
func (k *StoredKey) Has(p Permission) bool { return k.Permissions&p != 0 }

// Allows reports whether a client with this address may use the key. If the key has allowed
// addresses, Allows returns false for the zero Addr, an unknown address.
func (k *StoredKey) Allows(client netip.Addr) bool {
	return AddressAllowed(k.AllowedIPs, client)
}

// AddressAllowed reports whether a client with this address may use a credential whose allowed
// addresses are nets. It returns true if nets is empty, and otherwise false for the zero Addr.
func AddressAllowed(nets []netip.Prefix, client netip.Addr) bool {
	if len(nets) == 0 {
		return true
	}
	client = client.Unmap().WithZone("")
	return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(client) })
}

// AllowsQuery reports whether the key may be sent as ?api_key=, if the service allows this at all.
func (k *StoredKey) AllowsQuery() bool { return k.QueryAllowed == nil || *k.QueryAllowed }

// ErrQueryKey is the error for a key that was sent as ?api_key= although this is not allowed.
var ErrQueryKey = ErrKey.With("This key may not be sent as ?api_key=. Send it as Authorization: Bearer KEY.")

// ErrSandboxKey is the error for a sandbox key where only live keys may be used.
var ErrSandboxKey = ErrPermission.With("This is a sandbox key, and sandbox keys are refused here. Use a live key, or ask the operator to set sandbox = true for this route.")

// Rules returns the limits that apply to the key: its own limits and the limits that its owner's
// keys share. The slice is shared; do not change it.
func (k *Key) Rules() []LimitRule { return k.derived.rules }

// ShortLimits returns the key's limit RequestsPerMinute, if that is the only limit to which an
// ordinary request is charged. It returns nil if the owner has such a limit too, or if the limit is
// in observe mode. Then use k.Charge(nil, RequestsPerMinute, 1). The slice is shared, so do not
// change it.
func (k *Key) ShortLimits() []Limit { return k.derived.short }

// Charge appends to list the charges for cost units of the limit with this name: one charge
// against the key's limit, and one against each limit of its owner that is linked to that limit.
// For an unknown name it appends a charge against a limit of 0, which refuses every cost above 0. It
// appends nothing for a limit on requests in flight, see Places.
func (k *Key) Charge(list []Charge, name string, cost int) []Charge {
	known := false
	for i := range k.derived.rules {
		l := &k.derived.rules[i]
		known = known || l.Name == name
		if (l.Name == name || l.With == name && l.With != "") && !l.Concurrent() {
			list = k.AppendCharge(list, l, cost)
		}
	}
	if !known {
		_, known = k.derived.rights.Limit(name) // an owner limit that is not set for this owner
	}
	if !known {
		list = append(list, Charge{ID: k.ID, Limit: Limit{Name: name, Window: time.Minute}, Cost: cost, Owner: k.Owner})
	}
	return list
}

// Places returns the charges for the places that a request takes in the limits on requests in
// flight: in ConcurrentRequests, and in those of names that are such limits. The slice may be shared,
// so do not change it.
func (k *Key) Places(names []string) []Charge {
	list := slices.Clip(k.derived.running)
	for _, name := range names {
		list = k.places(list, name)
	}
	return list
}

// StreamPlaces returns the charges for the places that a request takes when it becomes a stream,
// in exchange for those in ConcurrentRequests. The slice is shared, so do not change it.
func (k *Key) StreamPlaces() []Charge { return k.derived.streams }

// places appends to list the charges for one place in the limit with this name, if it limits
// requests in flight: one of the key and one of its owner, like Charge.
func (k *Key) places(list []Charge, name string) []Charge {
	for i := range k.derived.rules {
		if l := &k.derived.rules[i]; l.Concurrent() && (l.Name == name || l.With == name) {
			list = k.AppendCharge(list, l, 1)
		}
	}
	return list
}

// AppendCharge appends to list one charge of cost units against l, a limit from Rules. It appends
// nothing if l is off, see LimitRule.MayBeOff.
func (k *Key) AppendCharge(list []Charge, l *LimitRule, cost int) []Charge {
	switch {
	case l.Max == 0 && l.MayBeOff():
		return list
	case !l.Owner:
		return append(list, Charge{ID: k.ID, Limit: l.Limit, Cost: cost, Observe: l.Observe, Owner: k.Owner})
	}
	return append(list, Charge{ID: k.derived.ownerID, Limit: l.Limit, Cost: cost, Observe: l.Observe, Shared: true, Owner: k.Owner})
}

// PermissionNames returns the names of the permissions that the key has now.
func (k *Key) PermissionNames() []string { return k.derived.rights.Names(k.Permissions) }

// Holds returns PermissionNames as text for messages: separated by commas, or
// "none".
func (k *Key) Holds() string {
	if names := k.PermissionNames(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "none"
}

// Inactive returns the names of permissions that were granted to the key but that the
// configuration no longer defines, or that belong to the contract while it is switched off. The key
// regains them if the configuration has them again.
func (k *Key) Inactive() []string { return k.derived.dormant }

// Grant replaces the permissions of k with the permissions that have these names. A name that
// policy does not define is accepted only if Inactive already lists it. For any other unknown name
// Grant returns ErrValidation with the known names, and leaves k unchanged.
func (k *Key) Grant(policy *Policy, names []string) error {
	var known, dormant []string
	for _, name := range names {
		if slices.Contains(k.derived.dormant, name) {
			dormant = append(dormant, name)
		} else {
			known = append(known, name)
		}
	}
	set, err := policy.Parse(known)
	if err != nil {
		return err
	}
	k.derived.rights, k.Permissions, k.OwnPermissions, k.derived.dormant = policy, set, append(policy.Own(set), dormant...), dormant
	return nil
}

// Clone returns a copy of k that the caller may change.
func (k *Key) Clone() *Key {
	c := *k
	c.Limits, c.Metadata = maps.Clone(k.Limits), maps.Clone(k.Metadata)
	c.AllowedIPs, c.Aliases, c.OwnPermissions = slices.Clone(k.AllowedIPs), slices.Clone(k.Aliases), slices.Clone(k.OwnPermissions)
	return &c
}

// Resolve fills in the fields of k that are derived from its stored ones: its permissions under
// policy and the limits that apply to it. owner holds the values of its owner's limits that differ
// from the default, by limit name. k keeps the map.
func (k *Key) Resolve(policy *Policy, owner map[string]int) {
	var own Permission
	own, k.derived.dormant = policy.OfOwn(k.OwnPermissions)
	k.derived.dormant = append(k.derived.dormant, policy.Absent(k.Permissions)...)
	k.derived.rights, k.Permissions, k.derived.ownerID, k.derived.ofOwner = policy, k.Permissions.Builtin()|own, OwnerCounterID(k.Owner), owner
	k.derived.rules, k.derived.short = slices.Clone(policy.Limits()), nil
	for i := range k.derived.rules {
		l := &k.derived.rules[i]
		of := k.Limits
		if l.Owner {
			of = owner
		}
		if n, ok := of[l.Name]; ok {
			l.Max = n
		}
	}
	k.derived.rules = slices.DeleteFunc(k.derived.rules, func(l LimitRule) bool { return l.Owner && l.Max == 0 })
	if every := k.Charge(nil, RequestsPerMinute, 1); len(every) == 1 && !every[0].Observe {
		k.derived.short = []Limit{every[0].Limit}
	}
	k.derived.running, k.derived.streams = k.places(nil, ConcurrentRequests), k.places(nil, ConcurrentStreams)
}

// Rights returns the Policy with which k was last resolved. It is nil if k never was.
func (k *Key) Rights() *Policy { return k.derived.rights }

// Fit returns the key resolved with policy. It returns k itself if policy is nil or is the Policy
// with which k was last resolved, and otherwise a copy.
func (k *Key) Fit(policy *Policy) *Key {
	if policy == nil || policy == k.derived.rights {
		return k
	}
	c := *k
	c.Resolve(policy, k.derived.ofOwner)
	return &c
}

// OwnerCounterID returns the id under which the Limiter counts an owner.
func OwnerCounterID(owner uint64) string { return fmt.Sprintf("owner_%d", owner) }

// ParseNetworks parses a list of IPv4 and IPv6 addresses and CIDR ranges. It returns an address as
// a range of one address, and an IPv4-mapped IPv6 address as IPv4. It returns ErrValidation for
// the first entry that is not an address or a range.
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

// IsRef reports whether text can be the ref of a key.
func IsRef(text string) bool {
	return text != "" && len(text) <= WordLength && strings.Trim(text, refCharacters) == ""
}

const refCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./"

// NewKeyID returns a new key id. It begins with the millisecond of now, so later ids sort after
// earlier ones. In rare cases two ids of the same millisecond are equal.
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
