package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Permission is a set of what a key may do, a bit each.
type Permission uint64

// The permissions of the contract (2.3).
const (
	ReadCalls Permission = 1 << iota
	InitiateCalls
	ReadAgents
	ReadContacts
	ReadCalendar
	WriteCalendar
	WriteContacts
)

// VerifyKeys lets a service ask about other keys (POST /api/v1/verify). It is
// none of the contract's, and it has to be asked for by name: whoever has it can
// learn whether any text is a key.
const VerifyKeys Permission = 1 << 63

// Ordinary is what "all" and samples mean: everything but VerifyKeys.
const Ordinary = ^VerifyKeys

// PermissionInfo names a permission and says what it allows.
type PermissionInfo struct {
	Bit         Permission `json:"-"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
}

// Permissions lists every permission, those of the contract first and in its
// order.
func Permissions() []PermissionInfo {
	return []PermissionInfo{
		{ReadCalls, "can_read_calls", "List and read calls."},
		{InitiateCalls, "can_initiate_calls", "Start outbound calls."},
		{ReadAgents, "can_read_agents", "List agents."},
		{ReadContacts, "can_read_contacts", "List and read contacts and context variables; by the published rule also create and update contacts."},
		{ReadCalendar, "can_read_calendar", "Read events and availability."},
		{WriteCalendar, "can_write_calendar", "Create, update and cancel events."},
		{WriteContacts, "can_write_contacts", "Create and update contacts, write context variables and values."},
		{VerifyKeys, "can_verify_keys", "Verify and introspect other keys, for services that ask on behalf of their callers. Not part of \"all\"."},
	}
}

// Names lists the permissions of a set in the contract's order.
func (p Permission) Names() []string {
	names := []string{}
	for _, info := range Permissions() {
		if p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// ParsePermissions reads names into a set; an unknown one is ErrValidation and
// lists the known ones.
func ParsePermissions(names []string) (Permission, error) {
	var set Permission
	for _, name := range names {
		i := slices.IndexFunc(Permissions(), func(info PermissionInfo) bool { return info.Name == name })
		if i < 0 {
			return 0, ErrValidation.With("permissions: unknown permission %q. Known are %s.", name, strings.Join(Permission(^uint64(0)).Names(), ", "))
		}
		set |= Permissions()[i].Bit
	}
	return set, nil
}

// MarshalJSON writes a set as its names, so that stored records do not depend
// on the order of the bits.
func (p Permission) MarshalJSON() ([]byte, error) { return json.Marshal(p.Names()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Permission) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	set, err := ParsePermissions(names)
	*p = set
	return err
}

// BuiltinLimits gives the limits of every key, with the given defaults.
func BuiltinLimits(defaults map[string]int) []Limit {
	return []Limit{
		{RequestsPerMinute, defaults[RequestsPerMinute], time.Minute},
		{CallsPerDay, defaults[CallsPerDay], 24 * time.Hour},
		{EventsPerDay, defaults[EventsPerDay], 24 * time.Hour},
	}
}

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
	Aliases      []Alias           `json:"aliases,omitempty"` // oldest first
	// ExpiryNoticed is the ExpiresAt that key.expiring was raised for.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`

	limits []Limit // all of them
	short  []Limit // those that every request pays
	asked  int     // serial of the secret by which the key was found
	until  time.Time
}

// Alias is an earlier secret of a key that holds until its end.
type Alias struct {
	Serial int       `json:"serial"`
	Hash   []byte    `json:"hash"`
	Hint   string    `json:"hint"`
	EndsAt time.Time `json:"ends_at"`
}

// KeyTable keeps the keys; only the Keyring writes to it.
var KeyTable = Table[*Key]{
	Name: "keys",
	Key:  func(k *Key) []byte { return []byte(k.ID) },
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
	StatusPaused  = "paused"
	StatusExpired = "expired"
	StatusRevoked = "revoked"
)

// Status is the state of the key at a time.
func (k *Key) Status(now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return StatusRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return StatusExpired
	case k.Paused:
		return StatusPaused
	}
	return StatusActive
}

// Check is ErrKey with the reason unless the key is active. Whoever asks has
// shown the whole secret, so the reason tells nothing to a guesser.
func (k *Key) Check(now time.Time) error {
	switch k.Status(now) {
	case StatusRevoked:
		return ErrKey.With("This API key was revoked on %s. Create a new one.", k.RevokedAt.UTC().Format(time.RFC3339))
	case StatusExpired:
		return ErrKey.With("This API key expired on %s. Create a new one or have its end moved.", k.ExpiresAt.UTC().Format(time.RFC3339))
	case StatusPaused:
		return ErrKey.With("This API key is paused. Have it resumed.")
	}
	if !k.until.IsZero() && !now.Before(k.until) {
		return ErrKey.With("This API key was replaced, and its time beside the new one ended on %s. Use the new one.", k.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// Under gives the key as it is for the secret of a hash, nil where the key no
// longer has that secret.
func (k *Key) Under(hash []byte) *Key {
	for _, a := range k.Aliases {
		if bytes.Equal(a.Hash, hash) {
			return k.as(a)
		}
	}
	if k.Hash != nil && !bytes.Equal(k.Hash, hash) {
		return nil
	}
	return k.as(Alias{Serial: k.Serial})
}

// Again gives the key as it is for the secret by which an older copy of it was
// found, nil where the key no longer has that secret.
func (k *Key) Again(older *Key) *Key {
	for _, a := range k.Aliases {
		if a.Serial == older.asked {
			return k.as(a)
		}
	}
	if k.Serial != older.asked {
		return nil
	}
	return k.as(Alias{Serial: k.Serial})
}

func (k *Key) as(a Alias) *Key {
	c := *k
	c.asked, c.until = a.Serial, a.EndsAt
	return &c
}

// Asked gives the serial of the secret by which the key was found.
func (k *Key) Asked() int { return k.asked }

// Until is when the secret ends by which the key was found, the zero time
// where it is the present one.
func (k *Key) Until() time.Time { return k.until }

// HasSecret says whether the key has a secret of this serial.
func (k *Key) HasSecret(serial int) bool {
	return k.Serial == serial || slices.ContainsFunc(k.Aliases, func(a Alias) bool { return a.Serial == serial })
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

// Limit gives one of the key's limits by name. A name that does not exist
// gives a limit of 0, which lets nothing through.
func (k *Key) Limit(name string) Limit {
	for _, l := range k.limits {
		if l.Name == name {
			return l
		}
	}
	return Limit{Name: name, Window: time.Minute}
}

// AllLimits lists the limits of the key. The slice is shared.
func (k *Key) AllLimits() []Limit { return k.limits }

// ShortLimits lists the limits that every request pays. The slice is shared.
func (k *Key) ShortLimits() []Limit { return k.short }

// Clone gives a copy to change.
func (k *Key) Clone() *Key {
	c := *k
	c.Limits, c.Metadata = maps.Clone(k.Limits), maps.Clone(k.Metadata)
	c.AllowedIPs, c.Aliases = slices.Clone(k.AllowedIPs), slices.Clone(k.Aliases)
	return &c
}

// Ready gives the key the limits that follow from its own numbers and the
// defaults.
func (k *Key) Ready(defaults []Limit) {
	k.limits, k.short = slices.Clone(defaults), nil
	for i := range k.limits {
		l := &k.limits[i]
		if n, ok := k.Limits[l.Name]; ok {
			l.Max = n
		}
		if l.Short() {
			k.short = append(k.short, *l)
		}
	}
}

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
	return fmt.Sprintf("key_%011x%s", now.UnixMilli(), RandomHex(5))
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
