// The owners family holds owners and their teams (owners.go), and scopes (owners_scope.go). A scope
// decides which records an owner may see, and which of them a key of that owner.

package main

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/bytesize"
	"latchkey/internal/strictjson"
)

// owner is a user of the service. Each key belongs to one owner, who also owns
// the records that the key creates. A new call is refused if Balance is less
// than Rate.
type owner struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Balance   *float64  `json:"balance,omitempty"` // money left; nil if calls cost the owner nothing
	Rate      float64   `json:"rate"`              // price of one call minute
	CreatedAt time.Time `json:"created_at"`
}

var ownerTable = Table[owner]{
	Name: "owners", Audit: AuditPolicy{Object: "owner"},
	Key:     func(o owner) []byte { return IDKey(o.ID) },
	Indexes: []Index[owner]{{"name", func(o owner) [][]byte { return [][]byte{[]byte(o.Name)} }}},
	List:    &Listing[owner]{Text: func(o owner) []string { return []string{o.Name} }},
}

// OwnerObject returns what the audit log calls the owner with this id.
func OwnerObject(id uint64) string { return ownerTable.Audit.Object + " " + strconv.FormatUint(id, 10) }

// EnsureOwner returns the owner called name, or DefaultOwner if name is blank.
// It creates the owner if there is none. It returns ErrValidation if name has
// more than NameLength characters. DefaultOwner may store any number of bytes.
func EnsureOwner(tx *Tx, name string, now time.Time) (owner, error) {
	if name = strings.TrimSpace(name); name == "" {
		name = DefaultOwner
	}
	if err := CheckLength("owner", name, NameLength); err != nil {
		return owner{}, err
	}
	o, err := ownerTable.One(tx, "name", []byte(name))
	if !errors.Is(err, ErrNotFound) {
		return o, err
	}
	o = owner{Name: name, CreatedAt: now}
	if o.ID, err = ownerTable.NextID(tx); err != nil {
		return o, err
	}
	if name == DefaultOwner {
		if err := LimitStorage(tx, o.ID, 0); err != nil {
			return o, err
		}
	}
	return o, ownerTable.Put(tx, o)
}

// KeepOwner returns ErrValidation if a body that changes a record names another owner than that of the record. what is the kind of
// record, such as "agent".
func KeepOwner(tx *Tx, b *Body, owner uint64, what string) error {
	name := ""
	b.String("owner", NameLength, &name)
	if err := b.Err(); err != nil || !b.Has("owner") || strings.TrimSpace(name) == OwnerName(tx, owner) {
		return err
	}
	return ErrValidation.With("owner of a record cannot change here. Create another %s instead.", what)
}

// FindOwner returns the owner with this id. It returns ErrNotFound if there is
// none. A sandbox has the name of its owner and no balance, so its calls cost nothing.
func FindOwner(tx *Tx, id uint64) (owner, error) {
	o, err := ownerTable.Get(tx, IDKey(LiveOwner(id)))
	if IsSandbox(id) {
		o.ID, o.Balance, o.Rate = id, nil, 0
	}
	return o, err
}

// OwnerNamed returns the owner called name. It returns ErrNotFound if there is
// none.
func OwnerNamed(tx *Tx, name string) (owner, error) { return ownerTable.One(tx, "name", []byte(name)) }

// OwnerName returns the name of the owner with this id, or "" if the owner
// cannot be read. That of a sandbox is its owner's.
func OwnerName(tx *Tx, id uint64) string {
	o, err := ownerTable.Shared(tx, IDKey(LiveOwner(id)))
	if err != nil {
		return ""
	}
	return o.Name
}

// AllOwners returns all owners, oldest first.
func AllOwners(tx *Tx) (all []owner, err error) {
	for o, err := range ownerTable.All(tx, Forward) {
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// SaveOwner stores a changed owner under its id.
func SaveOwner(tx *Tx, o owner) error { return ownerTable.Put(tx, o) }

// Brief returns the id and the name of the owner, for use inside other objects.
func (o owner) Brief() map[string]any { return map[string]any{"id": o.ID, "name": o.Name} }

// Owners serves the admin endpoints for owners.
type Owners struct {
	catalog AdminRecords[owner]
	store   *Store
	keyring *Keyring
	limiter *Limiter
}

// NewOwners returns the endpoints for the owners in store. They also change the
// limits that all keys of an owner share. keyring stores and applies these
// limits, and limiter counts what is used of them. There is no endpoint that
// deletes an owner, because the owner's records would then belong to nobody.
func NewOwners(store *Store, keyring *Keyring, limiter *Limiter) *Owners {
	c := &Owners{store: store, keyring: keyring, limiter: limiter}
	c.catalog = AdminRecords[owner]{
		Store: store, Name: "owners", Table: ownerTable, Save: c.Save, Show: c.show, Filters: []string{"search", "storage"},
		Words: map[string][]string{"storage": {"low"}}, AnyOf: fullOwners, Keep: true,
		Body: BodyFields{Set: []string{"name", "balance", "rate", "limits", "storage_bytes"}, Shown: []string{"id", "own_limits", "storage", "created_at"}},
	}
	return c
}

// fullOwners returns the filters for the owners with little storage left.
func fullOwners(tx *Tx, _ string) (list []Filter, err error) {
	full, err := FullOwners(tx)
	if err == nil && len(full) == 0 {
		err = ErrNotFound
	}
	for _, s := range full {
		o, bad := ownerTable.Get(tx, IDKey(s.Owner))
		if bad != nil {
			return nil, bad
		}
		list = append(list, Filter{"name", []byte(o.Name)})
	}
	return list, err
}

// OwnerTables returns the tables of owners, of their limits and of their storage limits, for store
// checks.
func OwnerTables() []Checked { return append(StorageTables(), &ownerTable, &OwnerLimitTable) }

// AdminRoutes returns the admin endpoints for owners.
func (c *Owners) AdminRoutes() []Route {
	return append(c.catalog.Routes(), Route{Method: "GET", Path: "/admin/v1/owners/:id/usage", Handle: c.usage})
}

// usage answers with what is used of the limits that all keys of an owner share. A limit that is off
// is not in the answer.
func (c *Owners) usage(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	k := &Key{StoredKey: StoredKey{Owner: id}} // the limits count by the owner, whichever key is used
	err = r.View(c.store, func(tx *Tx) error {
		if _, err := FindOwner(tx, id); err != nil {
			return err
		}
		own, err := LimitsOfOwner(tx, id)
		k.Resolve(c.keyring.Rights(), own)
		return err
	})
	if err != nil {
		return err
	}
	rules := slices.DeleteFunc(slices.Clone(k.Rules()), func(l LimitRule) bool { return !l.Owner })
	limits, err := ReadLimits(c.store, c.limiter, k, rules, r)
	if err != nil {
		return err
	}
	usage, err := limits.Usages(c.limiter, r)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"id": id, "usage": usage})
}

// Save stores an owner with the fields of a body and returns it. old is nil for a new owner.
func (c *Owners) Save(tx *Tx, r *Request, old *owner, b *Body) (owner, error) {
	var o owner
	name := ""
	b.String("name", NameLength, &name)
	if old != nil {
		o = *old
		if b.Has("name") && strings.TrimSpace(name) != o.Name {
			return o, ErrValidation.With("name of an owner cannot change, because keys and teams refer to it.")
		}
	}
	if err := b.Err(); err != nil {
		return o, err
	}
	if old == nil {
		if strings.TrimSpace(name) == "" {
			return o, ErrMissing.With("name is missing. Send a name for the owner.")
		}
		if ownerTable.Has(tx, "name", []byte(strings.TrimSpace(name))) {
			return o, ErrConflict.With("An owner named %q already exists.", name)
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
	if err := errors.Join(c.limit(tx, o, b), limitOwnerStorage(tx, o, b)); err != nil {
		return o, err
	}
	return o, ownerTable.Put(tx, o)
}

// limit sets the owner limits that the body contains and leaves the others
// unchanged. In the body, null restores the default and 0 means unlimited.
func (c *Owners) limit(tx *Tx, o owner, b *Body) error {
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
	for _, name := range slices.Sorted(maps.Keys(given)) { // so that of two mistakes always the same one is named
		value := given[name]
		if rule, ok := c.keyring.Rights().Limit(name); !ok || !rule.Owner {
			return ErrValidation.With("limits: %q is not a limit of owners. The limits of owners are %s.", name,
				strings.Join(c.keyring.Rights().LimitNames(func(l LimitRule) bool { return l.Owner }), ", "))
		}
		if value == nil {
			delete(limits, name)
			continue
		}
		number, _ := value.(json.Number)
		n, err := strconv.Atoi(string(number))
		if err != nil || n < 0 || n > MaxLimit {
			return ErrValidation.With("limits.%s must be a whole number from 0 (no limit) to %d, or null for the default; got %v.", name, MaxLimit, value)
		}
		limits[name] = n
	}
	return c.keyring.LimitOwner(tx, o.ID, limits)
}

// limitOwnerStorage sets the storage limit of an owner if the body contains it: null restores the
// default and 0 means no limit.
func limitOwnerStorage(tx *Tx, o owner, b *Body) error {
	if !b.Has("storage_bytes") {
		return nil
	}
	if !b.Given("storage_bytes") {
		return DefaultStorage(tx, o.ID)
	}
	var limit int64
	if err := strictjson.Decode(b.Raw("storage_bytes"), &limit); err != nil || limit < 0 || limit > bytesize.Max {
		return ErrValidation.With("storage_bytes must be a whole number of bytes from 0 (no limit) to %d, or null for the default; got %s.", int64(bytesize.Max), b.Raw("storage_bytes"))
	}
	return LimitStorage(tx, o.ID, limit)
}

// showStorage returns how much an owner stores, as JSON, in which limit is null if there is none. own
// is the owner's own limit, or nil if the owner has the default.
func showStorage(tx *Tx, id uint64) (shown map[string]any, own any, err error) {
	s, err := StorageOf(tx, id)
	shown = map[string]any{"bytes": s.Bytes, "limit": nil}
	if s.Limit > 0 {
		shown["limit"] = s.Limit
	}
	if s.Own {
		own = s.Limit
	}
	return shown, own, err
}

func (c *Owners) show(tx *Tx, o owner) (any, error) {
	own, err := LimitsOfOwner(tx, o.ID)
	limits, owns := map[string]int{}, map[string]int{}
	for _, l := range c.keyring.Rights().Limits() {
		if n, ok := own[l.Name]; ok && l.Owner {
			limits[l.Name], owns[l.Name] = n, n
		} else if l.Owner {
			limits[l.Name] = l.Max
		}
	}
	if err != nil {
		return nil, err
	}
	storage, ownStorage, err := showStorage(tx, o.ID)
	return map[string]any{
		"id": o.ID, "name": o.Name, "balance": o.Balance, "rate": o.Rate, "limits": limits, "own_limits": owns, "created_at": Seconds(o.CreatedAt),
		"storage": storage, "storage_bytes": ownStorage,
	}, err
}

// team is a group of owners. All members see the records of the team.
type team struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Members   []uint64  `json:"members"` // ids of owners
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
	List: &Listing[team]{},
}

// Brief returns the id and the name of the team, for use inside other objects.
func (t team) Brief() map[string]any { return map[string]any{"id": t.ID, "name": t.Name} }

// FindTeam returns the team with this id. It returns ErrNotFound if there is
// none.
func FindTeam(tx *Tx, id uint64) (team, error) { return teamTable.Get(tx, IDKey(id)) }

// teams serves the admin endpoints for teams.
type teams struct{ catalog AdminRecords[team] }

// NewTeams returns the endpoints for the teams in store. If a team is deleted,
// its records stay with their owners.
func NewTeams(store *Store) *teams {
	return &teams{AdminRecords[team]{
		Store: store, Name: "teams", Table: teamTable, Save: saveTeam, Show: showTeam,
		Body: BodyFields{Set: []string{"name", "members"}, Shown: []string{"id", "created_at"}},
	}}
}

// TeamTables returns the table of teams, for store checks.
func TeamTables() []Checked { return []Checked{&teamTable} }

// AdminRoutes returns the admin endpoints for teams.
func (t *teams) AdminRoutes() []Route { return t.catalog.Routes() }

func saveTeam(tx *Tx, r *Request, old *team, b *Body) (team, error) {
	t := team{CreatedAt: r.Now}
	if old != nil {
		t = *old
	}
	var members []string
	b.String("name", NameLength, &t.Name)
	b.Strings("members", ListBound{MaxMembers, NameLength}, &members)
	if err := b.Err(); err != nil {
		return t, err
	}
	if strings.TrimSpace(t.Name) == "" {
		return t, ErrMissing.With("name is missing. Send a name for the team.")
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
