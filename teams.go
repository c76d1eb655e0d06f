package main

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// Team lets several owners see the same objects.
type Team struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Members   []uint64  `json:"members"` // owners
	CreatedAt time.Time `json:"created_at"`
}

var teamTable = Table[Team]{
	Name: "teams", Audit: Told{Object: "team"},
	Key: func(t Team) []byte { return IDKey(t.ID) },
	Indexes: []Index[Team]{{"member", func(t Team) (keys [][]byte) {
		for _, m := range t.Members {
			keys = append(keys, IDKey(m))
		}
		return keys
	}}},
}

// Brief is a team as other objects show it.
func (t Team) Brief() map[string]any { return map[string]any{"id": t.ID, "name": t.Name} }

// FindTeam reads a team; ErrNotFound where there is none.
func FindTeam(tx *Tx, id uint64) (Team, error) { return teamTable.Get(tx, IDKey(id)) }

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
	if _, err := FindTeam(tx, id); err != nil {
		return ErrTeamNotFound.With("No team with the id %d.", id)
	}
	if !slices.Contains(s.Teams, id) {
		return ErrTeamAccess
	}
	return nil
}

// Teams serves the teams to the operator.
type Teams struct{ catalog Catalog[Team] }

// NewTeams serves the teams of a store. What belongs to a deleted one stays
// with its owner.
func NewTeams(store *Store) *Teams {
	return &Teams{Catalog[Team]{Store: store, Name: "teams", Table: teamTable, Save: saveTeam, Show: showTeam}}
}

// Tables lists what it keeps in the store, for checks.
func (t *Teams) Tables() []Checked { return []Checked{teamTable} }

// AdminRoutes lists the endpoints.
func (t *Teams) AdminRoutes() []Route { return t.catalog.Routes() }

func saveTeam(tx *Tx, r *Request, old *Team, b *Body) (Team, error) {
	t := Team{CreatedAt: r.Now}
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

func showTeam(tx *Tx, t Team) (any, error) {
	members := []string{}
	for _, id := range t.Members {
		members = append(members, OwnerName(tx, id))
	}
	return map[string]any{"id": t.ID, "name": t.Name, "members": members, "created_at": Seconds(t.CreatedAt)}, nil
}
