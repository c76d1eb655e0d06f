package main

import (
	"encoding/json"
	"slices"
	"strings"
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

// PermissionInfo names a permission and says what it allows.
type PermissionInfo struct {
	Bit         Permission `json:"-"`
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Own         bool       `json:"own"` // of the configuration
}

// Permissions lists every built-in permission, those of the contract first and
// in its order. Rights has those of the configuration too.
func Permissions() []PermissionInfo {
	return []PermissionInfo{
		{Bit: ReadCalls, Name: "can_read_calls", Description: "List and read calls."},
		{Bit: InitiateCalls, Name: "can_initiate_calls", Description: "Start outbound calls."},
		{Bit: ReadAgents, Name: "can_read_agents", Description: "List agents."},
		{Bit: ReadContacts, Name: "can_read_contacts", Description: "List and read contacts and context variables; by the published rule also create and update contacts."},
		{Bit: ReadCalendar, Name: "can_read_calendar", Description: "Read events and availability."},
		{Bit: WriteCalendar, Name: "can_write_calendar", Description: "Create, update and cancel events."},
		{Bit: WriteContacts, Name: "can_write_contacts", Description: "Create and update contacts, write context variables and values."},
		{Bit: VerifyKeys, Name: "can_verify_keys", Description: "Verify and introspect other keys, for services that ask on behalf of their callers. Not part of \"all\"."},
	}
}

// Names lists the built-in permissions of a set in the contract's order. To
// show a set use Rights.Names or Key.PermissionNames.
func (p Permission) Names() []string {
	names := []string{}
	for _, info := range Permissions() {
		if p&info.Bit != 0 {
			names = append(names, info.Name)
		}
	}
	return names
}

// ParsePermissions reads names of built-in permissions into a set; an unknown
// one is ErrValidation and lists the known ones.
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

// MarshalJSON writes the built-in permissions of a set as their names, so that
// stored records do not depend on the order of the bits.
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
