package main

import (
	"slices"
	"strings"
	"time"
)

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

// Rights are the permissions and limits that keys can have: the built-in ones
// and those of the configuration. They do not change, and are shared.
type Rights struct {
	permissions []PermissionInfo
	limits      []LimitRule
}

// MaxOwnPermissions is how many permissions a configuration can add.
const MaxOwnPermissions = 48

// firstOwn is the bit of the first permission of the configuration. Bits say
// nothing beyond a run of the program: what is stored has names.
const firstOwn = 8

// NewRights puts permissions of the configuration, by name and description,
// behind the built-in ones. limits are all that there are.
func NewRights(own []PermissionInfo, limits []LimitRule) *Rights {
	r := &Rights{permissions: Permissions(), limits: limits}
	for i, p := range own {
		p.Bit, p.Own = 1<<(firstOwn+i), true
		r.permissions = append(r.permissions, p)
	}
	return r
}

// Permissions lists every permission, the built-in ones first. The slice is
// shared.
func (r *Rights) Permissions() []PermissionInfo { return r.permissions }

// Limits lists every limit, the built-in ones first, with its default. The
// slice is shared.
func (r *Rights) Limits() []LimitRule { return r.limits }

// Limit gives a limit by name, and whether there is one.
func (r *Rights) Limit(name string) (LimitRule, bool) {
	i := slices.IndexFunc(r.limits, func(l LimitRule) bool { return l.Name == name })
	if i < 0 {
		return LimitRule{}, false
	}
	return r.limits[i], true
}

// LimitNames lists the names of the limits for which a function says yes.
func (r *Rights) LimitNames(which func(LimitRule) bool) (names []string) {
	for _, l := range r.limits {
		if which(l) {
			names = append(names, l.Name)
		}
	}
	return names
}

// Names lists the permissions of a set, the built-in ones first. A nil Rights
// knows those alone.
func (r *Rights) Names(p Permission) []string {
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
func (r *Rights) Parse(names []string) (set Permission, err error) {
	for _, name := range names {
		bit := r.bit(name)
		if bit == 0 {
			return 0, ErrValidation.With("permissions: unknown permission %q. Known are %s.", name, strings.Join(r.Names(^Permission(0)), ", "))
		}
		set |= bit
	}
	return set, nil
}

func (r *Rights) bit(name string) Permission {
	for _, info := range r.permissions {
		if info.Name == name {
			return info.Bit
		}
	}
	return 0
}

// Own tells the permissions of the configuration apart from the built-in ones.
func (r *Rights) Own(p Permission) (names []string) {
	for _, info := range r.permissions {
		if info.Own && p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// OfOwn gives the bits of those permissions of the configuration that stand in
// a list of names, and the names that no permission has now.
func (r *Rights) OfOwn(names []string) (set Permission, dormant []string) {
	for _, name := range names {
		if bit := r.bit(name); bit != 0 {
			set |= bit
		} else {
			dormant = append(dormant, name)
		}
	}
	return set, dormant
}
