package main

import (
	"encoding/json"
	"errors"
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

// Ordinary is what "all" and samples mean: the contract's. VerifyKeys and the
// permissions of the configuration are granted by name alone, so that a key made
// with "all" gets nothing that is added later.
const Ordinary = ReadCalls | InitiateCalls | ReadAgents | ReadContacts | ReadCalendar | WriteCalendar | WriteContacts

// builtins is every permission that is not of the configuration.
const builtins = Ordinary | VerifyKeys

// Builtin leaves those of a set that are not of the configuration.
func (p Permission) Builtin() Permission { return p & builtins }

// PermissionInfo names a permission and says what it allows. Forms, lists and
// limit bars are made from it, so a new permission needs no other place.
type PermissionInfo struct {
	Bit         Permission `json:"-"`
	Name        string     `json:"name"`
	Label       string     `json:"label"` // in a sentence: "read calls"
	Description string     `json:"description"`
	Group       string     `json:"group"`  // heading in forms
	Limits      []string   `json:"limits"` // those that count only requests which need this permission
	Own         bool       `json:"own"`    // of the configuration
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

// PermissionPresets lists the presets that forms offer.
func PermissionPresets() []permissionPreset {
	return []permissionPreset{
		{"read", "Read only", ReadCalls | ReadAgents | ReadContacts | ReadCalendar},
		{"caller", "Caller", ReadCalls | InitiateCalls | ReadAgents | ReadContacts},
		{"scheduler", "Scheduler", ReadContacts | ReadCalendar | WriteCalendar},
	}
}

// Permissions lists every built-in permission, those of the contract first and
// in its order. Rights has those of the configuration too.
func Permissions() []PermissionInfo {
	return []PermissionInfo{
		{Bit: ReadCalls, Name: "can_read_calls", Group: groupCalls, Description: "List and read calls."},
		{Bit: InitiateCalls, Name: "can_initiate_calls", Group: groupCalls, Limits: []string{CallsPerDay, OwnerCallsPerDay},
			Description: "Start outbound calls."},
		{Bit: ReadAgents, Name: "can_read_agents", Group: groupCalls, Description: "List agents."},
		{Bit: ReadContacts, Name: "can_read_contacts", Group: groupContacts,
			Description: "List and read contacts and context variables; by the published rule also create and update contacts."},
		{Bit: ReadCalendar, Name: "can_read_calendar", Group: groupCalendar, Description: "Read events and availability."},
		{Bit: WriteCalendar, Name: "can_write_calendar", Group: groupCalendar, Limits: []string{EventsPerDay, OwnerEventsPerDay},
			Description: "Create, update and cancel events."},
		{Bit: WriteContacts, Name: "can_write_contacts", Group: groupContacts,
			Description: "Create and update contacts, write context variables and values."},
		{Bit: VerifyKeys, Name: "can_verify_keys", Group: groupOther,
			Description: "Verify and introspect other keys, for services that ask on behalf of their callers. Not part of \"all\"."},
	}
}

// Names lists the built-in permissions of a set in the contract's order. To
// show a set use Policy.Names or Key.PermissionNames.
func (p Permission) Names() []string {
	names := []string{}
	for _, info := range Permissions() {
		if p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// parsePermissions reads names of built-in permissions into a set; an unknown
// one is ErrValidation and lists the known ones.
func parsePermissions(names []string) (Permission, error) {
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

// MarshalJSON writes the built-in permissions of a set as their names, so that
// stored records do not depend on the order of the bits.
func (p Permission) MarshalJSON() ([]byte, error) { return json.Marshal(p.Names()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Permission) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	set, err := parsePermissions(names)
	*p = set
	return err
}

// LimitRule is a limit as it applies to keys: Max is its default, or what a
// key or an owner has.
type LimitRule struct {
	Limit
	Owner   bool   // counted over all keys of an owner; a Max of 0 is no limit
	Observe bool   // counted, and never in the way
	With    string // of an owner's: the limit of the key that it goes along with
	Builtin bool
}

// Scope is over what the limit counts: key or owner.
func (l LimitRule) Scope() string {
	if l.Owner {
		return "owner"
	}
	return "key"
}

// BuiltinLimits gives the limits that exist everywhere, with the given defaults.
// Each of the contract's has one beside it that all keys of an owner share.
func BuiltinLimits(defaults map[string]int) []LimitRule {
	const day = 24 * time.Hour
	rules := []LimitRule{
		{Limit: Limit{Name: RequestsPerMinute, Window: time.Minute}},
		{Limit: Limit{Name: CallsPerDay, Window: day}},
		{Limit: Limit{Name: EventsPerDay, Window: day}},
		{Limit: Limit{Name: OwnerRequestsPerMinute, Window: time.Minute}, Owner: true, With: RequestsPerMinute},
		{Limit: Limit{Name: OwnerCallsPerDay, Window: day}, Owner: true, With: CallsPerDay},
		{Limit: Limit{Name: OwnerEventsPerDay, Window: day}, Owner: true, With: EventsPerDay},
	}
	for i := range rules {
		rules[i].Max, rules[i].Builtin = defaults[rules[i].Name], true
	}
	return rules
}

// Policy are the permissions and limits that keys can have: the built-in ones
// and those of the configuration. They do not change, and are shared.
type Policy struct {
	permissions []PermissionInfo
	limits      []LimitRule
}

// MaxOwnPermissions is how many permissions a configuration can add.
const MaxOwnPermissions = 48

// firstOwn is the bit of the first permission of the configuration. Bits say
// nothing beyond a run of the program: what is stored has names.
const firstOwn = 8

// NewPolicy puts permissions of the configuration, by name and description,
// behind the built-in ones. limits are all that there are.
func NewPolicy(own []PermissionInfo, limits []LimitRule) *Policy {
	r := &Policy{permissions: Permissions(), limits: limits}
	for i, p := range own {
		p.Bit, p.Own, p.Group = 1<<(firstOwn+i), true, groupOther
		r.permissions = append(r.permissions, p)
	}
	for i := range r.permissions {
		p := &r.permissions[i]
		p.Label = strings.ReplaceAll(strings.TrimPrefix(p.Name, "can_"), "_", " ")
		if p.Limits == nil {
			p.Limits = []string{} // an array in JSON
		}
	}
	return r
}

// Permissions lists every permission, the built-in ones first. The slice is
// shared.
func (r *Policy) Permissions() []PermissionInfo { return r.permissions }

// Limits lists every limit, the built-in ones first, with its default. The
// slice is shared.
func (r *Policy) Limits() []LimitRule { return r.limits }

// Limit gives a limit by name, and whether there is one.
func (r *Policy) Limit(name string) (LimitRule, bool) {
	i := slices.IndexFunc(r.limits, func(l LimitRule) bool { return l.Name == name })
	if i < 0 {
		return LimitRule{}, false
	}
	return r.limits[i], true
}

// LimitNames lists the names of the limits for which a function says yes.
func (r *Policy) LimitNames(which func(LimitRule) bool) (names []string) {
	for _, l := range r.limits {
		if which(l) {
			names = append(names, l.Name)
		}
	}
	return names
}

// Names lists the permissions of a set, the built-in ones first. A nil Policy
// knows those alone.
func (r *Policy) Names(p Permission) []string {
	if r == nil {
		return p.Names()
	}
	names := []string{}
	for _, info := range r.permissions {
		if p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// Parse reads names into a set; an unknown one is ErrValidation and lists the
// known ones.
func (r *Policy) Parse(names []string) (set Permission, err error) {
	for _, name := range names {
		bit := r.bit(name)
		if bit == 0 {
			return 0, ErrValidation.With("permissions: unknown permission %q. Known are %s.", name, strings.Join(r.Names(^Permission(0)), ", "))
		}
		set |= bit
	}
	return set, nil
}

func (r *Policy) bit(name string) Permission {
	for _, info := range r.permissions {
		if info.Name == name {
			return info.Bit
		}
	}
	return 0
}

// Own tells the permissions of the configuration apart from the built-in ones.
func (r *Policy) Own(p Permission) (names []string) {
	for _, info := range r.permissions {
		if info.Own && p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// OfOwn gives the bits of those permissions of the configuration that stand in
// a list of names, and the names that no permission has now.
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

// ownerLimits are the numbers that an owner has in place of the defaults of the
// limits which all its keys share. 0 is no limit.
type ownerLimits struct {
	Owner  uint64         `json:"owner"`
	Limits map[string]int `json:"limits"`
}

// OwnerLimitTable keeps them; only the Keyring writes to it.
var OwnerLimitTable = Table[ownerLimits]{
	Name: "owner_limits",
	Key:  func(o ownerLimits) []byte { return IDKey(o.Owner) },
}

// LimitsOfOwner reads the numbers of an owner, nil where it has none.
func LimitsOfOwner(tx *Tx, owner uint64) (map[string]int, error) {
	o, err := OwnerLimitTable.Get(tx, IDKey(owner))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return o.Limits, err
}
