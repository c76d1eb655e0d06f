package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/strictjson"
)

// KeyRules holds the operator's rules for new and changed keys.
type KeyRules struct {
	DefaultExpiry time.Duration // lifetime of a key that is created without expires_at; 0: MaxExpiry
	MaxExpiry     time.Duration // longest lifetime, from the request that sets it; 0: no limit
	MaxPerOwner   int           // maximum number of an owner's keys that are not revoked; 0: no limit
	Environments  []string      // the allowed environments; empty: any word (see IsWord)
	SelfRevoke    bool          // whether a key may revoke itself
}

// keyForm reads and checks the fields of keys in request bodies.
type keyForm struct {
	keyring *Keyring
	rules   KeyRules
}

// NewKeyForm returns a keyForm for keys in keyring. It accepts only keys that follow rules.
func NewKeyForm(keyring *Keyring, rules KeyRules) *keyForm {
	return &keyForm{keyring: keyring, rules: rules}
}

// keyInput holds a key and the request that creates or changes it.
type keyInput struct {
	tx      *Tx
	request *Request
	body    *Body // the fields to set
	key     *Key  // the key whose fields are set
	create  bool  // whether the key is new, so that fields which are not in body get their defaults
}

// Fill sets the fields of in.key that in.body has. The error is ErrMissing or ErrValidation
// with the name of the wrong field, or ErrConflict if the owner has too many keys. After an
// error the key may be partly changed, so it must not be stored.
func (f *keyForm) Fill(in keyInput) error {
	key, body := in.key, in.body
	body.String("name", NameLength, &key.Name)
	permissions := []string{}
	body.Strings("permissions", ListBound{MaxWords, AnyLength}, &permissions)
	allowed := []string{}
	body.Strings("allowed_ips", ListBound{MaxNetworks, AnyLength}, &allowed)
	if body.Has("query_allowed") {
		key.QueryAllowed = nil
		if body.Given("query_allowed") {
			key.QueryAllowed = new(bool)
			body.Bool("query_allowed", key.QueryAllowed)
		}
	}
	if err := body.Err(); err != nil {
		return err
	}
	if strings.TrimSpace(key.Name) == "" {
		return ErrMissing.With("name is missing. Name the program that uses the key, such as \"ci-runner\".")
	}
	if in.create && !body.Given("permissions") {
		return ErrMissing.With("permissions is missing. Send an array with at least one of %s.", strings.Join(f.keyring.Rights().Names(math.MaxUint64), ", "))
	}
	var err error
	if body.Given("permissions") {
		if err := key.Grant(f.keyring.Rights(), permissions); err != nil {
			return err
		}
	}
	if key.Permissions == 0 && len(key.OwnPermissions) == 0 {
		return ErrValidation.With("permissions must have at least one of %s.", strings.Join(f.keyring.Rights().Names(math.MaxUint64), ", "))
	}
	if body.Has("allowed_ips") {
		if key.AllowedIPs, err = ParseNetworks(allowed); err != nil {
			return err
		}
	}
	if err := f.fillRef(in); err != nil {
		return err
	}
	if err := f.fillExpiry(in); err != nil {
		return err
	}
	if err := f.fillEnvironment(key, body); err != nil {
		return err
	}
	if err := f.fillMaps(key, body); err != nil {
		return err
	}
	if err := fillSandbox(in); err != nil {
		return err
	}
	owner := key.Owner
	if err := f.fillOwner(in); err != nil {
		return err
	}
	return f.fillResources(in, owner)
}

// keyBody returns the members that the body of a key may have, and more, those that only an import has.
func keyBody(more ...string) BodyFields {
	return BodyFields{
		Set: append([]string{
			"name", "ref", "owner", "sandbox", "permissions", "limits", "environment", "allowed_ips", "resources", "query_allowed", "expires_at", "metadata",
		}, more...),
		Shown: []string{
			"id", "hint", "status", "created_at", "rotated_at", "revoked_at", "last_used_at", "last_used_by", "last_used_ip", "query_last_at", "query_last_ip",
			"carriers", "dormant_permissions", "secrets", "usage", "webhooks", "ended_webhooks",
		},
	}
}

// fillRef sets the ref of a key; null takes it away. It returns ErrConflict if another key that is not
// revoked has this ref, or has it as its id, which is the ref of a key without one in an export.
func (f *keyForm) fillRef(in keyInput) error {
	key, ref := in.key, in.key.Ref
	in.body.String("ref", WordLength, &ref)
	if err := in.body.Err(); err != nil || ref == key.Ref {
		return err
	}
	if ref == "" {
		key.Ref = ""
		return nil
	}
	if !IsRef(ref) {
		return ErrValidation.With("ref must have 1 to %d of the characters a-z, A-Z, 0-9, -, _, . and /, such as billing/ci; got %q.", WordLength, ref)
	}
	other, err := f.keyring.ByRef(in.tx, ref)
	if errors.Is(err, ErrNotFound) {
		if other, err = f.keyring.Get(in.tx, ref); err == nil && !other.RevokedAt.IsZero() {
			err = ErrNotFound
		}
	}
	switch {
	case err == nil && other.ID != key.ID:
		return ErrConflict.With("ref %q names the key %s already. Choose another, or revoke that key first.", ref, other.ID)
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	}
	key.Ref = ref
	return nil
}

// fillSandbox makes a new key a sandbox key if the body says so. This cannot change later, because the secret says what it is.
func fillSandbox(in keyInput) error {
	sandbox := in.key.Sandbox()
	if in.body.Bool("sandbox", &sandbox); in.body.Err() != nil || sandbox == in.key.Sandbox() {
		return in.body.Err()
	}
	if !in.create {
		return ErrValidation.With("sandbox is decided when a key is created. Create another key.")
	}
	in.key.Owner = SandboxOf(0) // fillOwner adds the owner
	return nil
}

// fillExpiry sets the time at which a key expires. A new key without expires_at in the body
// gets the lifetime DefaultExpiry, or MaxExpiry if that is 0. If both are 0 it never expires.
func (f *keyForm) fillExpiry(in keyInput) error {
	key, body, now := in.key, in.body, in.request.Latest
	body.Time("expires_at", &key.ExpiresAt)
	if err := body.Err(); err != nil {
		return err
	}
	longest := f.rules.MaxExpiry
	if in.create && !body.Has("expires_at") {
		length := f.rules.DefaultExpiry
		if length == 0 {
			length = longest
		}
		if length > 0 {
			key.ExpiresAt = now.Add(length)
		}
	}
	if !body.Has("expires_at") {
		return nil
	}
	switch {
	case body.Given("expires_at") && !key.ExpiresAt.After(now):
		return ErrValidation.With("expires_at is not in the future. The time of the server is %s.", now.UTC().Format(time.RFC3339))
	case longest > 0 && (key.ExpiresAt.IsZero() || key.ExpiresAt.After(now.Add(longest))):
		return ErrValidation.With("expires_at must be at most %s from now, which is %s. The setting keys.max_expiry is %s.",
			days(longest), now.Add(longest).UTC().Format(time.RFC3339), days(longest))
	}
	return nil
}

// days returns a duration as text: "30 days" if it is a whole number of days, otherwise
// for example "36h0m0s".
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// fillEnvironment sets the environment of a key. "" means that it has none.
func (f *keyForm) fillEnvironment(key *Key, body *Body) error {
	body.String("environment", AnyLength, &key.Environment)
	if err := body.Err(); err != nil || key.Environment == "" || !body.Has("environment") {
		return err
	}
	if list := f.rules.Environments; len(list) > 0 && !slices.Contains(list, key.Environment) {
		return ErrValidation.With("environment must be one of %s, as in the setting keys.environments; got %q.", strings.Join(list, ", "), key.Environment)
	}
	if !IsWord(key.Environment) {
		return ErrValidation.With("environment must have 1 to 32 of the characters a-z, 0-9, - and _ and begin with a letter, such as live; got %q.", key.Environment)
	}
	return nil
}

// fillMaps sets the limits and the metadata of a key. Limits that the body does not have keep
// their values. Metadata in the body replaces all metadata of the key.
func (f *keyForm) fillMaps(key *Key, body *Body) error {
	limits, metadata := map[string]any{}, map[string]any{}
	body.Map("limits", &limits)
	body.Map("metadata", &metadata)
	if err := body.Err(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) { // so that of two mistakes always the same one is named
		if key.Limits == nil {
			key.Limits = map[string]int{}
		}
		if err := f.setLimit(key.Limits, name, limits[name]); err != nil {
			return err
		}
	}
	if !body.Has("metadata") {
		return nil
	}
	before := key.Metadata
	key.Metadata = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		text, ok := metadata[name].(string)
		if err := CheckLength("a name in metadata", name, WordLength); err != nil {
			return err
		}
		if !ok {
			return ErrValidation.With("metadata.%s must be a string.", name)
		}
		if was, had := before[name]; !had || was != text {
			if err := CheckLength("metadata."+name, text, TagLength); err != nil {
				return err
			}
		}
		key.Metadata[name] = text
	}
	if len(key.Metadata) > MaxMetadata && len(key.Metadata) > len(before) {
		return ErrValidation.With("metadata has %s entries; the maximum is %s.", Figure(len(key.Metadata)), Figure(MaxMetadata))
	}
	return nil
}

// fillOwner sets the owner of a key. If there is no owner with this name, it creates the
// owner. It returns ErrConflict if the owner already has MaxPerOwner keys that are not
// revoked.
func (f *keyForm) fillOwner(in keyInput) error {
	key, body := in.key, in.body
	name := ""
	body.String("owner", NameLength, &name)
	if err := body.Err(); err != nil || !in.create && !body.Given("owner") {
		return err
	}
	o, err := EnsureOwner(in.tx, name, in.request.Now)
	if err != nil {
		return err
	}
	id := SameSpace(o.ID, key.Owner)
	another := in.create || id != key.Owner
	if limit := f.rules.MaxPerOwner; limit > 0 && another && f.keyring.CountLive(in.tx, id, limit) >= limit {
		return ErrConflict.With("The owner %q has %d keys that are not revoked. The setting keys.max_per_owner allows no more. Revoke a key, or raise the setting.", o.Name, limit)
	}
	key.Owner, key.OwnerName = id, o.Name
	return nil
}

// fillResources sets the objects that exist for a key, and for the webhooks that it created. null is no limit.
// before is the id of the owner before the change.
func (f *keyForm) fillResources(in keyInput, before uint64) error {
	key, listed := in.key, in.key.Resources
	if in.body.Has("resources") {
		var err error
		if key.Resources, err = readResources(in.body); err != nil {
			return err
		}
	}
	if key.Resources != nil && (in.body.Has("resources") || key.Owner != before) {
		if err := checkResources(in.tx, key); err != nil {
			return err
		}
	}
	if in.create || key.Resources.Equal(listed) {
		return nil
	}
	return LimitWebhooksOf(in.tx, key.ID, key.Resources)
}

// readResources reads the field resources. It returns nil if the field is null. The ids are in ascending order.
func readResources(body *Body) (*Resources, error) {
	if !body.Given("resources") {
		return nil, nil
	}
	kinds, err := body.Object(body.Raw("resources"))
	if err != nil || len(kinds.Names()) == 0 {
		return nil, ErrValidation.With(`resources must be an object with ids, such as {"agents": [8], "contacts": [31, 32]}, or null for no limit.`)
	}
	r, some := &Resources{}, false
	for _, kind := range kinds.Names() {
		ids := r.IDs(kind)
		if ids == nil {
			return nil, ErrValidation.With("resources must have only %s; got %q.", strings.Join(ResourceKinds(), ", "), kind)
		}
		if !kinds.Given(kind) {
			continue
		}
		err := strictjson.Decode(kinds.Raw(kind), ids)
		if slices.Sort(*ids); err != nil || len(*ids) == 0 {
			return nil, ErrValidation.With("resources must have an array with at least one id of %s, such as [8]. Leave %[1]s out so that they are not limited.", kind)
		}
		if *ids = slices.Compact(*ids); len(*ids) > MaxObjects {
			return nil, ErrValidation.With("resources must have at most %d %s; got %d. Put them into a team and list the team.", MaxObjects, kind, len(*ids))
		}
		some = true
	}
	if !some {
		return nil, ErrValidation.With("resources must have an id, such as {\"agents\": [8]}, or be null for no limit.")
	}
	return r, nil
}

// checkResources returns ErrValidation with the ids of a key's Resources that its owner does not see.
func checkResources(tx *Tx, key *Key) error {
	scope, err := ScopeOf(tx, key.Owner)
	if err != nil {
		return err
	}
	for _, kind := range ResourceKinds() {
		var missing []string
		for _, id := range *key.Resources.IDs(kind) {
			text := strconv.FormatUint(id, 10)
			switch kind {
			case "agents":
				_, err = FindAgent(tx, scope, text)
			case "contacts":
				_, err = FindContact(tx, scope, id)
			default:
				if err = nil; !slices.Contains(scope.Teams, id) {
					err = ErrNotFound
				}
			}
			if e, ok := errors.AsType[*Error](err); ok && e.Status == ErrNotFound.Status {
				missing = append(missing, text)
			} else if err != nil {
				return err
			}
		}
		if len(missing) > 0 {
			return ErrValidation.With("resources must have only %s that the owner %q sees; there are none with the ids %s.", kind, key.OwnerName, strings.Join(missing, ", "))
		}
	}
	return nil
}

// setLimit sets the limit called name in limits, the map of a key. value is from the JSON
// body. If it is nil, which is null in JSON, the key gets the default limit.
func (f *keyForm) setLimit(limits map[string]int, name string, value any) error {
	rule, ok := f.keyring.Rights().Limit(name)
	if !ok {
		return ErrValidation.With("limits: unknown limit %q. Known limits are %s.", name,
			strings.Join(f.keyring.Rights().LimitNames(func(l LimitRule) bool { return !l.Owner }), ", "))
	}
	if rule.Owner {
		return ErrValidation.With("limits.%s counts the requests of all keys of an owner together, so it cannot be set for one key. Set it for the owner.", name)
	}
	if value == nil {
		delete(limits, name)
		return nil
	}
	least := "1"
	if rule.MayBeOff() {
		least = "0 (no limit)"
	}
	number, ok := value.(json.Number)
	n, err := number.Int64()
	if !ok || err != nil || n < 0 || n == 0 && !rule.MayBeOff() || n > MaxLimit {
		return ErrValidation.With("limits.%s must be a whole number from %s to %d, or null for the default; got %v.", name, least, MaxLimit, value)
	}
	limits[name] = int(n)
	return nil
}

// statusAny is the filter for keys with any status.
const statusAny = "any"

// readKeyQuery reads the filters and the order from a query. It returns ErrValidation with
// the name of the parameter that is wrong.
func readKeyQuery(q url.Values, rights *Policy) (f KeyFilter, err error) {
	f = KeyFilter{
		Status: q.Get("status"), Environment: q.Get("environment"), Owner: q.Get("owner"), Sort: q.Get("sort"),
	}
	if f.Words, err = SearchWords(q); err != nil {
		return f, err
	}
	if _, err := ReadSpace(q); err != nil {
		return f, err
	}
	if q.Get("sandbox") != "" {
		f.Sandbox = new(WantsSandbox(q))
	}
	if states := append(append([]string{""}, KeyStates()...), StatusLive, statusAny); !slices.Contains(states, f.Status) {
		return f, ErrValidation.With("status must be one of %s; got %q.", strings.Join(states[1:], ", "), f.Status)
	}
	if f.Status == statusAny {
		f.Status = ""
	}
	if name := q.Get("permission"); name != "" {
		if f.Permission, err = rights.Parse([]string{name}); err != nil {
			return f, err
		}
	}
	if text := q.Get("unused_days"); text != "" {
		days, err := strconv.Atoi(text)
		if err != nil || days < 1 || days > 36500 {
			return f, ErrValidation.With("unused_days must be a whole number from 1 to 36500; got %q.", text)
		}
		f.Unused = time.Duration(days) * 24 * time.Hour
	}
	if sorts := []string{"", "created", "name", "last_used", "expires", sortRequests, sortRefused}; !slices.Contains(sorts, f.Sort) {
		return f, ErrValidation.With("sort must be one of %s; got %q.", strings.Join(sorts[1:], ", "), f.Sort)
	}
	switch order := q.Get("order"); order {
	case "":
		f.Ascending = f.Sort == "name" || f.Sort == "expires"
	case "asc", "desc":
		f.Ascending = order == "asc"
	default:
		return f, ErrValidation.With("order must be asc or desc; got %q.", order)
	}
	return f, nil
}
