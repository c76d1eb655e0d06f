package main

import (
	"encoding/binary"
	"errors"
	"net/url"
	"slices"
)

// Scope describes which records an owner may see. These are the owner's own
// records and the records of the owner's teams (contract 1.9). A scope of a key
// leaves out what the Resources of the key do not list.
type Scope struct {
	Owner uint64
	Teams []uint64
	All   bool       // whether Has accepts the records of all owners; Query ignores All
	only  *Resources // nil: the scope leaves out nothing
}

// ScopeOf returns the scope of an owner. It reads the owner's teams in tx. A
// handler of the API needs ScopeOfKey instead.
func ScopeOf(tx *Tx, owner uint64) (Scope, error) {
	s := Scope{Owner: owner}
	for rest, key := range teamTable.Find(tx, "member", IDKey(owner), Forward) {
		if len(rest) == 0 {
			s.Teams = append(s.Teams, binary.BigEndian.Uint64(key))
		}
	}
	return s, nil
}

// ScopeOfKey returns the scope of a key: that of its owner, without what is not
// in its Resources.
func ScopeOfKey(tx *Tx, k *Key) (Scope, error) {
	s, err := ScopeOf(tx, k.Owner)
	return s.Within(k.Resources), err
}

// Within returns the part of the scope that resources list. nil is all of it.
func (s Scope) Within(resources *Resources) Scope {
	s.only = resources
	return s
}

// Limited reports whether the scope is that of a key with Resources.
func (s Scope) Limited() bool { return s.only != nil }

// Has reports whether the scope includes the record with this place.
func (s Scope) Has(p Place) bool {
	return (s.All || p.Owner == s.Owner || p.Team != 0 && slices.Contains(s.Teams, p.Team)) && s.only.Has(p)
}

// CheckStored returns ErrPermission if the scope leaves out a record that a
// request is about to store. A key must not store what it could not see
// afterwards.
func (s Scope) CheckStored(p Place) error {
	if s.only.Has(p) {
		return nil
	}
	return ErrPermission.With("This key is limited to %s by its resources, and would not see what this request stores. Make it belong to one of them, or use a key that is not limited.", s.only)
}

// Query returns q for the records of one kind in scope. Their table must have a
// set "scope" of ScopeKeys, and the sets that Resources.Demands names. All is
// ignored.
func (s Scope) Query(kind RecordKind, q Query) Query {
	q.Any = filtersOf("scope", s.keys())
	if s.only == nil {
		return q
	}
	var teams [][]byte
	for _, id := range s.only.Teams {
		teams = append(teams, scopeKey('t', id))
	}
	for _, d := range s.only.Demands(Place{Kind: kind}) {
		var ids [][]byte
		for _, id := range d.IDs {
			ids = append(ids, IDKey(id))
		}
		q.AnyOf = append(q.AnyOf, append(filtersOf(d.Set, ids), filtersOf("scope", teams)...))
	}
	return q
}

// filtersOf returns a filter for each value of a set.
func filtersOf(set string, values [][]byte) (filters []Filter) {
	for _, value := range values {
		filters = append(filters, Filter{set, value})
	}
	return filters
}

// keys returns the entries of the records of the owner and of each team.
func (s Scope) keys() [][]byte {
	keys := [][]byte{scopeKey('o', s.Owner)}
	for _, t := range s.Teams {
		keys = append(keys, scopeKey('t', t))
	}
	return keys
}

// OwnerFilter returns the filter of the records of the owner that the parameter
// "owner" of q names, or of the owner's sandbox if WantsSandbox, for tables with
// a set "scope" of ScopeKeys. It returns ErrNotFound if there is no such owner.
func OwnerFilter(tx *Tx, q url.Values) (Filter, error) {
	id, err := SpaceNamed(tx, q)
	return Filter{"scope", scopeKey('o', id)}, err
}

// OwnRecords returns the query of the records of an owner or a sandbox, for
// tables with a set "scope" of ScopeKeys.
func OwnRecords(owner uint64) Query { return Query{All: []Filter{{"scope", scopeKey('o', owner)}}} }

// SpaceNamed returns the id of the owner that the parameter "owner" of q names,
// or of the owner's sandbox if WantsSandbox.
func SpaceNamed(tx *Tx, q url.Values) (uint64, error) {
	o, err := OwnerNamed(tx, q.Get("owner"))
	if WantsSandbox(q) {
		return SandboxOf(o.ID), err
	}
	return o.ID, err
}

// ReadFilter returns the filter for the query parameter with this name. The value
// of "owner" is the name of an owner, see OwnerFilter. Other parameters have the
// name of their set and a value of it.
func ReadFilter(tx *Tx, q url.Values, name string) (Filter, error) {
	if name == "owner" {
		return OwnerFilter(tx, q)
	}
	return Filter{name, []byte(q.Get(name))}, nil
}

// ScopeKeys returns the index entries of a record. There is one entry for the
// record's owner and one for its team. team is 0 if the record belongs to no
// team. A table may append its sort order to the entries.
func ScopeKeys(owner, team uint64) [][]byte {
	keys := [][]byte{scopeKey('o', owner)}
	if team != 0 {
		keys = append(keys, scopeKey('t', team))
	}
	return keys
}

func scopeKey(kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, id)
}

// CheckTeam returns nil if the owner of scope s may put a record into the team
// with this id. The id 0 means no team and is always accepted. CheckTeam
// returns ErrTeamNotFound if there is no such team or if the scope leaves it
// out, and ErrTeamAccess if the owner is not a member.
func CheckTeam(tx *Tx, s Scope, id uint64) error {
	if id == 0 {
		return nil
	}
	_, err := FindTeam(tx, id)
	if errors.Is(err, ErrNotFound) || err == nil && !s.HasTeam(id) {
		return ErrTeamNotFound.With("No team with the id %d.", id)
	}
	if err != nil {
		return err
	}
	if !slices.Contains(s.Teams, id) {
		return ErrTeamAccess
	}
	return nil
}

// HasTeam reports whether the scope leaves the team with this id in. The owner
// need not be a member.
func (s Scope) HasTeam(id uint64) bool { return s.only.HasTeam(id) }

// TeamBrief returns the id and the name of the team with this id, for use
// inside other objects. It returns nil if id is 0, if the scope leaves the team
// out, or if it cannot be read, for example because it was deleted.
func (s Scope) TeamBrief(tx *Tx, id uint64) map[string]any {
	if id == 0 || !s.HasTeam(id) {
		return nil
	}
	t, err := teamTable.Shared(tx, IDKey(id))
	if err != nil {
		return nil
	}
	return t.Brief()
}
