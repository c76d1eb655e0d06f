// The owners family knows whose things are whose: owners, their teams, and what a
// key of theirs sees (Scope).

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultOwner is who owns what is made without a word about its owner.
const DefaultOwner = "admin"

// owner is a user of the service: keys act for one, and what they make is
// theirs. With a wallet (Balance not nil) a call is refused when it holds less
// than Rate.
type owner struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Balance   *float64  `json:"balance,omitempty"`
	Rate      float64   `json:"rate"` // per minute of a call, and the least that one needs
	CreatedAt time.Time `json:"created_at"`
}

var ownerTable = Table[owner]{
	Name: "owners", Audit: AuditPolicy{Object: "owner"},
	Key:     func(o owner) []byte { return IDKey(o.ID) },
	Indexes: []Index[owner]{{"name", func(o owner) [][]byte { return [][]byte{[]byte(o.Name)} }}},
}

// EnsureOwner finds the owner of a name, DefaultOwner for "", and makes a new
// one where there is none.
func EnsureOwner(tx *Tx, name string, now time.Time) (owner, error) {
	if name = strings.TrimSpace(name); name == "" {
		name = DefaultOwner
	}
	if len(name) > 200 {
		return owner{}, ErrValidation.With("owner is longer than 200 bytes.")
	}
	o, err := ownerTable.One(tx, "name", []byte(name))
	if !errors.Is(err, ErrNotFound) {
		return o, err
	}
	o = owner{Name: name, CreatedAt: now}
	if o.ID, err = ownerTable.NextID(tx); err != nil {
		return o, err
	}
	return o, ownerTable.Put(tx, o)
}

// FindOwner reads an owner; ErrNotFound where there is none.
func FindOwner(tx *Tx, id uint64) (owner, error) { return ownerTable.Get(tx, IDKey(id)) }

// OwnerNamed reads the owner of a name; ErrNotFound where there is none.
func OwnerNamed(tx *Tx, name string) (owner, error) { return ownerTable.One(tx, "name", []byte(name)) }

// OwnerName gives the name of an owner, "" where there is none.
func OwnerName(tx *Tx, id uint64) string {
	o, err := FindOwner(tx, id)
	if err != nil {
		return ""
	}
	return o.Name
}

// AllOwners reads the owners, oldest first.
func AllOwners(tx *Tx) (all []owner, err error) {
	for o, err := range ownerTable.All(tx, false) {
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// SaveOwner stores a changed owner.
func SaveOwner(tx *Tx, o owner) error { return ownerTable.Put(tx, o) }

// Brief is an owner as other objects show it.
func (o owner) Brief() map[string]any { return map[string]any{"id": o.ID, "name": o.Name} }

// owners serves the owners to the operator.
type owners struct {
	catalog AdminRecords[owner]
	keyring *Keyring
}

// NewOwners serves the owners of a store, with the limits that the keys of a
// keyring share. None can be deleted: what they made would belong to nobody.
func NewOwners(store *Store, keyring *Keyring) *owners {
	c := &owners{keyring: keyring}
	c.catalog = AdminRecords[owner]{Store: store, Name: "owners", Table: ownerTable, Save: c.save, Show: c.show, Match: matchOwner, Keep: true}
	return c
}

// OwnerTables returns the tables of owners, for checks.
func OwnerTables() []Checked { return []Checked{ownerTable, OwnerLimitTable} }

// AdminRoutes lists the endpoints.
func (c *owners) AdminRoutes() []Route { return c.catalog.Routes() }

func (c *owners) save(tx *Tx, r *Request, old *owner, b *Body) (owner, error) {
	var o owner
	name := ""
	b.String("name", &name)
	if old != nil {
		o = *old
		if b.Has("name") && name != o.Name {
			return o, ErrValidation.With("name of an owner cannot change: keys and teams refer to it.")
		}
	}
	if err := b.Err(); err != nil {
		return o, err
	}
	if old == nil {
		if strings.TrimSpace(name) == "" {
			return o, ErrMissing.With("name is missing. Say who the owner is.")
		}
		if ownerTable.Has(tx, "name", []byte(strings.TrimSpace(name))) {
			return o, ErrConflict.With("An owner named %q exists.", name)
		}
		var err error
		if o, err = EnsureOwner(tx, name, r.Now); err != nil {
			return o, err
		}
	}
	b.Number("rate", &o.Rate)
	if b.Has("balance") {
		o.Balance = nil
		if b.Given("balance") {
			o.Balance = new(float64)
			b.Number("balance", o.Balance)
		}
	}
	if err := b.Err(); err != nil {
		return o, err
	}
	if o.Rate < 0 {
		return o, ErrValidation.With("rate must not be negative.")
	}
	if err := c.limit(tx, o, b); err != nil {
		return o, err
	}
	return o, ownerTable.Put(tx, o)
}

// limit sets those limits of an owner that a body names: null is the default, 0
// no limit.
func (c *owners) limit(tx *Tx, o owner, b *Body) error {
	given := map[string]any{}
	b.Map("limits", &given)
	if err := b.Err(); err != nil || len(given) == 0 {
		return err
	}
	limits, err := LimitsOfOwner(tx, o.ID)
	if err != nil {
		return err
	}
	if limits = maps.Clone(limits); limits == nil {
		limits = map[string]int{}
	}
	for name, value := range given {
		if rule, ok := c.keyring.Rights().Limit(name); !ok || !rule.Owner {
			return ErrValidation.With("limits: owners have no limit %q, but %s.", name,
				strings.Join(c.keyring.Rights().LimitNames(func(l LimitRule) bool { return l.Owner }), ", "))
		}
		if value == nil {
			delete(limits, name)
			continue
		}
		number, _ := value.(json.Number)
		n, err := strconv.Atoi(string(number))
		if err != nil || n < 0 || n > MaxLimit {
			return ErrValidation.With("limits.%s must be a whole number from 0, for no limit, to %d, or null for the default; got %v.", name, MaxLimit, value)
		}
		limits[name] = n
	}
	return c.keyring.LimitOwner(tx, o.ID, limits)
}

func (c *owners) show(tx *Tx, o owner) (any, error) {
	own, err := LimitsOfOwner(tx, o.ID)
	limits := map[string]int{}
	for _, l := range c.keyring.Rights().Limits() {
		if n, ok := own[l.Name]; ok && l.Owner {
			limits[l.Name] = n
		} else if l.Owner {
			limits[l.Name] = l.Max
		}
	}
	return map[string]any{
		"id": o.ID, "name": o.Name, "balance": o.Balance, "rate": o.Rate, "limits": limits, "created_at": Seconds(o.CreatedAt),
	}, err
}

// matchOwner filters by a part of the name.
func matchOwner(_ *Tx, o owner, q url.Values) bool {
	return strings.Contains(strings.ToLower(o.Name), strings.ToLower(q.Get("search")))
}

// team lets several owners see the same objects.
type team struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Members   []uint64  `json:"members"` // owners
	CreatedAt time.Time `json:"created_at"`
}

var teamTable = Table[team]{
	Name: "teams", Audit: AuditPolicy{Object: "team"},
	Key: func(t team) []byte { return IDKey(t.ID) },
	Indexes: []Index[team]{{"member", func(t team) (keys [][]byte) {
		for _, m := range t.Members {
			keys = append(keys, IDKey(m))
		}
		return keys
	}}},
}

// Brief is a team as other objects show it.
func (t team) Brief() map[string]any { return map[string]any{"id": t.ID, "name": t.Name} }

// FindTeam reads a team; ErrNotFound where there is none.
func FindTeam(tx *Tx, id uint64) (team, error) { return teamTable.Get(tx, IDKey(id)) }

// TeamBrief is Brief of a team by its id, nil for none or one that is gone.
func TeamBrief(tx *Tx, id uint64) map[string]any {
	t, err := FindTeam(tx, id)
	if err != nil {
		return nil
	}
	return t.Brief()
}

// Scope is what an owner may see: what is theirs, and what belongs to their
// teams (contract 1.9).
type Scope struct {
	Owner uint64
	Teams []uint64
	All   bool // everything, whoever it belongs to
}

// ScopeOf gives what an owner may see.
func ScopeOf(tx *Tx, owner uint64) (Scope, error) {
	s := Scope{Owner: owner}
	for rest, key := range teamTable.Find(tx, "member", IDKey(owner), false) {
		if len(rest) == 0 {
			s.Teams = append(s.Teams, binary.BigEndian.Uint64(key))
		}
	}
	return s, nil
}

// Allows says whether a record of an owner and a team (0: none) is in scope.
func (s Scope) Allows(owner, team uint64) bool {
	return s.All || owner == s.Owner || team != 0 && slices.Contains(s.Teams, team)
}

// Keys gives the beginnings of the index entries in scope, as ScopeKeys makes
// them.
func (s Scope) Keys() [][]byte {
	keys := [][]byte{scopeKey('o', s.Owner)}
	for _, t := range s.Teams {
		keys = append(keys, scopeKey('t', t))
	}
	return keys
}

// ScopeKeys gives the beginnings of the index entries of a record of an owner
// and a team (0: none).
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

// CheckTeam says whether a record may be put into a team (0: none):
// ErrTeamNotFound, ErrTeamAccess where the owner is no member.
func CheckTeam(tx *Tx, s Scope, id uint64) error {
	if id == 0 {
		return nil
	}
	_, err := FindTeam(tx, id)
	if errors.Is(err, ErrNotFound) {
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

// teams serves the teams to the operator.
type teams struct{ catalog AdminRecords[team] }

// NewTeams serves the teams of a store. What belongs to a deleted one stays
// with its owner.
func NewTeams(store *Store) *teams {
	return &teams{AdminRecords[team]{Store: store, Name: "teams", Table: teamTable, Save: saveTeam, Show: showTeam}}
}

// TeamTables returns the tables of teams, for checks.
func TeamTables() []Checked { return []Checked{teamTable} }

// AdminRoutes lists the endpoints.
func (t *teams) AdminRoutes() []Route { return t.catalog.Routes() }

func saveTeam(tx *Tx, r *Request, old *team, b *Body) (team, error) {
	t := team{CreatedAt: r.Now}
	if old != nil {
		t = *old
	}
	var members []string
	b.String("name", &t.Name)
	b.Strings("members", &members)
	if err := b.Err(); err != nil {
		return t, err
	}
	if strings.TrimSpace(t.Name) == "" {
		return t, ErrMissing.With("name is missing. Give the team a name.")
	}
	if old == nil && !b.Given("members") {
		members = []string{DefaultOwner}
	}
	if old == nil || b.Has("members") {
		t.Members = []uint64{}
		for _, name := range members {
			o, err := EnsureOwner(tx, name, r.Now)
			if err != nil {
				return t, err
			}
			if !slices.Contains(t.Members, o.ID) {
				t.Members = append(t.Members, o.ID)
			}
		}
	}
	if old == nil {
		var err error
		if t.ID, err = teamTable.NextID(tx); err != nil {
			return t, err
		}
	}
	return t, teamTable.Put(tx, t)
}

func showTeam(tx *Tx, t team) (any, error) {
	members := []string{}
	for _, id := range t.Members {
		members = append(members, OwnerName(tx, id))
	}
	return map[string]any{"id": t.ID, "name": t.Name, "members": members, "created_at": Seconds(t.CreatedAt)}, nil
}
