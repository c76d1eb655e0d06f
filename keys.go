package main

import (
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

// PermissionInfo names a permission and says what it allows.
type PermissionInfo struct {
	Bit         Permission `json:"-"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
}

// Permissions lists every permission in the contract's order.
func Permissions() []PermissionInfo {
	return []PermissionInfo{
		{ReadCalls, "can_read_calls", "List and read calls."},
		{InitiateCalls, "can_initiate_calls", "Start outbound calls."},
		{ReadAgents, "can_read_agents", "List agents."},
		{ReadContacts, "can_read_contacts", "List and read contacts and context variables; by the published rule also create and update contacts."},
		{ReadCalendar, "can_read_calendar", "Read events and availability."},
		{WriteCalendar, "can_write_calendar", "Create, update and cancel events."},
		{WriteContacts, "can_write_contacts", "Create and update contacts, write context variables and values."},
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
	// ExpiryNoticed is the ExpiresAt that key.expiring was raised for.
	ExpiryNoticed time.Time `json:"expiry_noticed,omitzero"`

	limits []Limit // all of them
	short  []Limit // those that every request pays
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
	return nil
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
	c.AllowedIPs = slices.Clone(k.AllowedIPs)
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
