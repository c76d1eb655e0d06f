package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Permission is a set of permissions, one bit each.
type Permission uint64

// The permissions of the contract (docs/contract.md, section 2.3). The stored list of keys contains
// the bits, so a permission must keep its bit.
const (
	ReadCalls Permission = 1 << iota
	InitiateCalls
	ReadAgents
	ReadContacts
	ReadCalendar
	WriteCalendar
	WriteContacts
)

// VerifyKeys lets a service verify other keys (POST /api/v1/verify). It is not
// part of the contract and must be granted by name: its holder can find out
// whether any text is a key.
const VerifyKeys Permission = 1 << 63

// Ordinary is the set of all permissions of the contract. The option "all" of the command line and
// the keys of the demo data get this set. Other permissions are granted by name, or by "all" if the
// contract is off. A key has names, so one that was created with "all" never gains a permission that
// is added later.
const Ordinary = ReadCalls | InitiateCalls | ReadAgents | ReadContacts | ReadCalendar | WriteCalendar | WriteContacts

// builtins is the set of all permissions that exist without a configuration.
const builtins = Ordinary | VerifyKeys

// Builtin returns the built-in permissions of p.
func (p Permission) Builtin() Permission { return p & builtins }

// PermissionInfo describes a permission. The forms and lists of the dashboard are built from it,
// so a new permission needs no change there.
type PermissionInfo struct {
	Bit         Permission `json:"-"`
	Name        string     `json:"name"`
	Label       string     `json:"label"` // for use in a sentence: "read calls"
	Description string     `json:"description"`
	Group       string     `json:"group"`  // heading in forms, a group constant
	Limits      []string   `json:"limits"` // names of the limits that count only requests for which this permission is needed
	Own         bool       `json:"own"`    // defined by the configuration
}

// The headings under which forms list permissions.
const (
	groupCalls    = "Calls and agents"
	groupContacts = "Contacts"
	groupCalendar = "Calendar"
	groupOther    = "Other"
)

// permissionPreset is a set of permissions for a common kind of key.
type permissionPreset struct {
	Name        string     `json:"name"`
	Label       string     `json:"label"`
	Permissions Permission `json:"permissions"`
}

// PermissionPresets returns the presets that forms offer.
func PermissionPresets() []permissionPreset {
	return []permissionPreset{
		{"read", "Read only", ReadCalls | ReadAgents | ReadContacts | ReadCalendar},
		{"caller", "Caller", ReadCalls | InitiateCalls | ReadAgents | ReadContacts},
		{"scheduler", "Scheduler", ReadContacts | ReadCalendar | WriteCalendar},
	}
}

// Permissions returns all built-in permissions, the permissions of the contract first and in its
// order. Policy.Permissions also returns the permissions that the configuration defines.
func Permissions() []PermissionInfo { return slices.Clone(builtinPermissions) }

// builtinPermissions are the elements of Permissions. Do not change them.
var builtinPermissions = []PermissionInfo{
	{Bit: ReadCalls, Name: "can_read_calls", Group: groupCalls, Description: "List and read calls."},
	{Bit: InitiateCalls, Name: "can_initiate_calls", Group: groupCalls, Limits: []string{CallsPerDay, OwnerCallsPerDay},
		Description: "Start outbound calls."},
	{Bit: ReadAgents, Name: "can_read_agents", Group: groupCalls, Description: "List agents."},
	{Bit: ReadContacts, Name: "can_read_contacts", Group: groupContacts,
		Description: "List and read contacts and context variables. Create and update contacts too, unless contract.contacts_write is can_write_contacts."},
	{Bit: ReadCalendar, Name: "can_read_calendar", Group: groupCalendar, Description: "Read events and availability."},
	{Bit: WriteCalendar, Name: "can_write_calendar", Group: groupCalendar, Limits: []string{EventsPerDay, OwnerEventsPerDay},
		Description: "Create, update and cancel events."},
	{Bit: WriteContacts, Name: "can_write_contacts", Group: groupContacts,
		Description: "Create and update contacts, write context variables and values."},
	{Bit: VerifyKeys, Name: "can_verify_keys", Group: groupOther,
		Description: "Verify and introspect other keys, for services that check the keys of their own clients. Not part of \"all\"."},
}

// Names returns the names of the built-in permissions in p, in the order of
// Permissions. To show a set, use Policy.Names or Key.PermissionNames.
func (p Permission) Names() []string {
	names := make([]string, 0, bits.OnesCount64(uint64(p&builtins)))
	for i := range builtinPermissions {
		if info := &builtinPermissions[i]; p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// parsePermissions returns the set of built-in permissions with these names.
// For an unknown name it returns ErrValidation with the known names.
func parsePermissions(names []string) (Permission, error) {
	var set Permission
	for _, name := range names {
		bit := builtinPermission(name)
		if bit == 0 {
			return 0, ErrValidation.With("permissions: unknown permission %q. Known are %s.", name, strings.Join(Permission(^uint64(0)).Names(), ", "))
		}
		set |= bit
	}
	return set, nil
}

// builtinPermission returns the built-in permission with this name, or 0 if there is none.
func builtinPermission(name string) Permission {
	for i := range builtinPermissions {
		if builtinPermissions[i].Name == name {
			return builtinPermissions[i].Bit
		}
	}
	return 0
}

// MarshalJSON writes the names of the built-in permissions in p, so that stored
// records do not depend on the order of the bits.
func (p Permission) MarshalJSON() ([]byte, error) { return json.Marshal(p.Names()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Permission) UnmarshalJSON(b []byte) error {
	if set, ok := readPermissions(b); ok {
		*p = set
		return nil
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	set, err := parsePermissions(names)
	*p = set
	return err
}

// readPermissions reads what MarshalJSON writes, without an allocation: a list of keys reads many of
// these. ok is false for any other JSON.
func readPermissions(b []byte) (set Permission, ok bool) {
	b, opened := bytes.CutPrefix(b, []byte("["))
	b, closed := bytes.CutSuffix(b, []byte("]"))
	for more := len(b) > 0; more; {
		var name []byte
		name, b, more = bytes.Cut(b, []byte(","))
		if len(name) < 2 || name[0] != '"' || name[len(name)-1] != '"' {
			return 0, false
		}
		bit := builtinPermission(string(name[1 : len(name)-1]))
		if bit == 0 {
			return 0, false
		}
		set |= bit
	}
	return set, opened && closed
}

// LimitRule is a limit of keys or owners. In a Policy, Max is the default. In Key.Rules, it is the
// value for this key or its owner. A Max of 0 means no limit, see MayBeOff.
type LimitRule struct {
	Limit
	Owner   bool   // all keys of an owner share the limit
	Observe bool   // counted, but never refuses a request
	With    string // for an owner limit: name of the key limit whose charges it counts too; "" if none
	Builtin bool   // exists without a configuration
}

// MayBeOff reports whether 0 is a valid value of the limit, which then limits nothing. This is so
// for limits of owners and for limits on requests in flight. A window of a key has at least 1.
func (l LimitRule) MayBeOff() bool { return l.Owner || l.Concurrent() }

// Scope returns "key" if each key has its own count, and "owner" if all keys of an owner share one.
func (l LimitRule) Scope() string {
	if l.Owner {
		return "owner"
	}
	return "key"
}

// BuiltinLimits returns the limits that exist without a configuration. defaults holds their Max by
// name. Each limit of the contract (docs/contract.md, section 1.6) and each limit on requests in
// flight exists twice: once for a key, and once for all keys of an owner together.
func BuiltinLimits(defaults map[string]int) []LimitRule {
	const day = 24 * time.Hour
	rules := []LimitRule{
		{Limit: Limit{Name: RequestsPerMinute, Window: time.Minute}},
		{Limit: Limit{Name: CallsPerDay, Window: day}},
		{Limit: Limit{Name: EventsPerDay, Window: day}},
		{Limit: Limit{Name: OwnerRequestsPerMinute, Window: time.Minute}, Owner: true, With: RequestsPerMinute},
		{Limit: Limit{Name: OwnerCallsPerDay, Window: day}, Owner: true, With: CallsPerDay},
		{Limit: Limit{Name: OwnerEventsPerDay, Window: day}, Owner: true, With: EventsPerDay},
		{Limit: Limit{Name: ConcurrentRequests}},
		{Limit: Limit{Name: ConcurrentStreams}},
		{Limit: Limit{Name: OwnerConcurrentRequests}, Owner: true, With: ConcurrentRequests},
		{Limit: Limit{Name: OwnerConcurrentStreams}, Owner: true, With: ConcurrentStreams},
	}
	for i := range rules {
		rules[i].Max, rules[i].Builtin = defaults[rules[i].Name], true
	}
	return rules
}

// Policy defines the permissions and limits that keys can have, both built-in and configured. It is
// immutable and safe for concurrent use.
type Policy struct {
	permissions []PermissionInfo
	limits      []LimitRule
}

// MaxOwnPermissions is the maximum number of permissions that a configuration may define.
const MaxOwnPermissions = 48

// firstOwn is the bit number of the first configured permission. The bits of configured
// permissions can change with each configuration, so the names are stored instead.
const firstOwn = 8

// NewPolicy returns a Policy with the built-in permissions, followed by the configured ones in own.
// It uses only Name, Description and Limits of own; a permission without a description is described
// by its name. limits lists all limits, including the built-in ones; the Policy keeps the slice.
func NewPolicy(own []PermissionInfo, limits []LimitRule) *Policy {
	r := &Policy{permissions: Permissions(), limits: limits}
	for i, p := range own {
		p.Bit, p.Own, p.Group = 1<<(firstOwn+i), true, groupOther
		r.permissions = append(r.permissions, p)
	}
	for i := range r.permissions {
		p := &r.permissions[i]
		p.Label = strings.ReplaceAll(strings.TrimPrefix(p.Name, "can_"), "_", " ")
		if p.Description == "" {
			p.Description = strings.ToUpper(p.Label[:1]) + p.Label[1:] + "."
		}
		if p.Limits == nil {
			p.Limits = []string{} // an array in JSON
		}
	}
	return r
}

// WithoutContract returns a copy of r without the permissions and limits of the contract, for a
// service that does not serve the endpoints of the contract.
func (r *Policy) WithoutContract() *Policy {
	gone := map[string]bool{}
	less := &Policy{}
	for _, p := range r.permissions {
		if p.Bit&Ordinary == 0 {
			less.permissions = append(less.permissions, p)
			continue
		}
		for _, limit := range p.Limits {
			gone[limit] = true
		}
	}
	for _, l := range r.limits {
		if !gone[l.Name] {
			less.limits = append(less.limits, l)
		}
	}
	return less
}

// HasContract reports whether r has the permissions of the contract, see WithoutContract.
func (r *Policy) HasContract() bool {
	return slices.ContainsFunc(r.permissions, func(p PermissionInfo) bool { return p.Bit&Ordinary != 0 })
}

// Absent returns the names of the built-in permissions in p that r does not have.
func (r *Policy) Absent(p Permission) (names []string) {
	for i := range builtinPermissions {
		if info := &builtinPermissions[i]; p&info.Bit != 0 && r.bit(info.Name) == 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// Presets returns the presets of which r has all permissions.
func (r *Policy) Presets() []permissionPreset {
	list := []permissionPreset{} // an array in JSON
	for _, preset := range PermissionPresets() {
		if len(r.Absent(preset.Permissions)) == 0 {
			list = append(list, preset)
		}
	}
	return list
}

// Permissions returns all permissions, the built-in permissions first. The slice is shared; do not
// change it.
func (r *Policy) Permissions() []PermissionInfo { return r.permissions }

// Limits returns all limits with their defaults, the built-in limits first. The slice is shared;
// do not change it.
func (r *Policy) Limits() []LimitRule { return r.limits }

// Limit returns the limit with this name, and reports whether it exists.
func (r *Policy) Limit(name string) (LimitRule, bool) {
	i := slices.IndexFunc(r.limits, func(l LimitRule) bool { return l.Name == name })
	if i < 0 {
		return LimitRule{}, false
	}
	return r.limits[i], true
}

// LimitNames returns the names of the limits for which include returns true.
func (r *Policy) LimitNames(include func(LimitRule) bool) (names []string) {
	for _, l := range r.limits {
		if include(l) {
			names = append(names, l.Name)
		}
	}
	return names
}

// Names returns the names of the permissions in p, the built-in permissions first. A nil Policy
// knows only the built-in permissions.
func (r *Policy) Names(p Permission) []string {
	if r == nil {
		return p.Names()
	}
	names := make([]string, 0, bits.OnesCount64(uint64(p)))
	for i := range r.permissions {
		if info := &r.permissions[i]; p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// Parse returns the set of the permissions with these names. For an unknown name it returns
// ErrValidation with the known names.
func (r *Policy) Parse(names []string) (set Permission, err error) {
	for _, name := range names {
		bit := r.bit(name)
		if bit == 0 {
			where := ""
			if name == "all" {
				where = ", which only the flag --permission knows"
			}
			return 0, ErrValidation.With("permissions: unknown permission %q%s. Known are %s.", name, where, strings.Join(r.Names(^Permission(0)), ", "))
		}
		set |= bit
	}
	return set, nil
}

// bit returns the permission with this name as a set of one. It returns 0 if there is none.
func (r *Policy) bit(name string) Permission {
	for i := range r.permissions {
		if r.permissions[i].Name == name {
			return r.permissions[i].Bit
		}
	}
	return 0
}

// Own returns the names of the permissions in p that the configuration defines.
func (r *Policy) Own(p Permission) (names []string) {
	for _, info := range r.permissions {
		if info.Own && p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// OfOwn returns the set of the permissions with these names. It returns the names that are not
// defined now in dormant. Unlike Parse it accepts unknown names.
func (r *Policy) OfOwn(names []string) (set Permission, dormant []string) {
	for _, name := range names {
		if bit := r.bit(name); bit != 0 {
			set |= bit
		} else {
			dormant = append(dormant, name)
		}
	}
	return set, dormant
}

// ownerLimits is the stored record of the limits that all keys of an owner share. Limits holds the
// values that differ from the default, by limit name; 0 means no limit.
type ownerLimits struct {
	Owner  uint64         `json:"owner"`
	Limits map[string]int `json:"limits"`
}

// OwnerLimitTable stores the limits of owners. Only the Keyring writes to it.
var OwnerLimitTable = Table[ownerLimits]{
	Name: "owner_limits", Signed: true,
	Secure: func(before, after *ownerLimits) bool {
		return before == nil || after == nil || !maps.Equal(before.Limits, after.Limits)
	},
	Key: func(o ownerLimits) []byte { return IDKey(o.Owner) },
}

// LimitsOfOwner returns the values of an owner's limits that differ from the default, by limit
// name. Those of a sandbox are the owner's. It returns nil if none was ever stored, and an error if the record is forged (see
// Authenticator): without it, an owner would get the default limits.
func LimitsOfOwner(tx *Tx, owner uint64) (map[string]int, error) {
	o, err := OwnerLimitTable.Get(tx, IDKey(LiveOwner(owner)))
	if errors.Is(err, ErrNotFound) && !IsForged(err) {
		return nil, nil
	}
	return o.Limits, err
}
