package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Admin serves the operator's endpoints for keys.
type Admin struct {
	store    *Store
	keyring  *Keyring
	limiter  *Limiter
	defaults []Limit
}

// NewAdmin serves the keys of a keyring.
func NewAdmin(store *Store, keyring *Keyring, limiter *Limiter, defaults []Limit) *Admin {
	return &Admin{store: store, keyring: keyring, limiter: limiter, defaults: defaults}
}

// AdminRoutes lists the endpoints.
func (a *Admin) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/keys", Handle: a.list},
		{Method: "POST", Path: "/admin/v1/keys", Handle: a.create},
		{Method: "POST", Path: "/admin/v1/keys/import", Handle: a.importKeys},
		{Method: "GET", Path: "/admin/v1/keys/:id", Handle: a.get},
		{Method: "PATCH", Path: "/admin/v1/keys/:id", Handle: a.update},
		{Method: "POST", Path: "/admin/v1/keys/:id/revoke", Handle: a.change(KeyRevoked, func(k *Key, now time.Time) { k.RevokedAt = now })},
		{Method: "POST", Path: "/admin/v1/keys/:id/pause", Handle: a.change(KeyPaused, func(k *Key, _ time.Time) { k.Paused = true })},
		{Method: "POST", Path: "/admin/v1/keys/:id/resume", Handle: a.change(KeyResumed, func(k *Key, _ time.Time) { k.Paused = false })},
		{Method: "GET", Path: "/admin/v1/keys/:id/usage", Handle: a.usage},
		{Method: "GET", Path: "/admin/v1/permissions", Handle: a.permissions},
		{Method: "GET", Path: "/admin/v1/limits", Handle: a.limits},
	}
}

// Routes lists what a key may ask about itself. It costs nothing.
func (a *Admin) Routes() []Route {
	return []Route{{Method: "GET", Path: "/api/v1/key", Handle: a.self}}
}

func (a *Admin) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	var key *Key
	var secret string
	err = a.store.Update(func(tx *Tx) error {
		key = &Key{ID: NewKeyID(r.Now), CreatedAt: r.Now}
		if err := a.fill(tx, r, key, body, true); err != nil {
			return err
		}
		if secret, err = a.keyring.Create(tx, key); err != nil {
			return err
		}
		return Raise(tx, KeyEvent(KeyCreated, key, r.Now))
	})
	if err != nil {
		return err
	}
	shown, err := a.show(key, r)
	if err != nil {
		return err
	}
	shown["key"] = secret
	w.Header().Set("Cache-Control", "no-store")
	return WriteJSON(w, http.StatusCreated, shown)
}

// fill sets what a body says of a key.
func (a *Admin) fill(tx *Tx, r *Request, key *Key, body *Body, create bool) error {
	body.String("name", &key.Name)
	body.String("environment", &key.Environment)
	permissions := key.Permissions.Names()
	body.Strings("permissions", &permissions)
	allowed := []string{}
	body.Strings("allowed_ips", &allowed)
	body.Time("expires_at", &key.ExpiresAt)
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
	if strings.TrimSpace(key.Name) == "" || len(key.Name) > 200 {
		return ErrMissing.With("name is missing or longer than 200 bytes. Say where the key will live, such as \"ci-runner\".")
	}
	if create && !body.Given("permissions") {
		return ErrMissing.With("permissions is missing. Give an array with at least one of %s.", strings.Join(Permission(math.MaxUint64).Names(), ", "))
	}
	var err error
	if key.Permissions, err = ParsePermissions(permissions); err != nil {
		return err
	}
	if key.Permissions == 0 {
		return ErrValidation.With("permissions must hold at least one of %s.", strings.Join(Permission(math.MaxUint64).Names(), ", "))
	}
	if body.Given("expires_at") && !key.ExpiresAt.After(r.Now) {
		return ErrValidation.With("expires_at is not in the future.")
	}
	if body.Has("allowed_ips") {
		if key.AllowedIPs, err = ParseNetworks(allowed); err != nil {
			return err
		}
	}
	return a.fillMaps(tx, r, key, body, create)
}

// fillMaps sets the limits, the metadata and the owner of a key.
func (a *Admin) fillMaps(tx *Tx, r *Request, key *Key, body *Body, create bool) error {
	limits, metadata, owner := map[string]any{}, map[string]any{}, ""
	body.Map("limits", &limits)
	body.Map("metadata", &metadata)
	body.String("owner", &owner)
	if err := body.Err(); err != nil {
		return err
	}
	for name, value := range limits {
		if key.Limits == nil {
			key.Limits = map[string]int{}
		}
		if err := setLimit(key.Limits, a.defaults, name, value); err != nil {
			return err
		}
	}
	if body.Has("metadata") {
		key.Metadata = map[string]string{}
		for name, value := range metadata {
			text, ok := value.(string)
			if !ok {
				return ErrValidation.With("metadata.%s must be a string.", name)
			}
			key.Metadata[name] = text
		}
	}
	if !create && !body.Given("owner") {
		return nil
	}
	o, err := EnsureOwner(tx, owner, r.Now)
	key.Owner, key.OwnerName = o.ID, o.Name
	return err
}

const maxLimit = 1_000_000_000

// setLimit sets one limit of a key; null puts the default back.
func setLimit(limits map[string]int, known []Limit, name string, value any) error {
	if !slices.ContainsFunc(known, func(l Limit) bool { return l.Name == name }) {
		var names []string
		for _, l := range known {
			names = append(names, l.Name)
		}
		return ErrValidation.With("limits: unknown limit %q. Known are %s.", name, strings.Join(names, ", "))
	}
	if value == nil {
		delete(limits, name)
		return nil
	}
	number, ok := value.(json.Number)
	n, err := number.Int64()
	if !ok || err != nil || n < 1 || n > maxLimit {
		return ErrValidation.With("limits.%s must be a whole number from 1 to %d, or null for the default; got %v.", name, maxLimit, value)
	}
	limits[name] = int(n)
	return nil
}

func (a *Admin) list(w http.ResponseWriter, r *Request) error {
	q := r.URL.Query()
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	status, search := q.Get("status"), strings.ToLower(q.Get("search"))
	if states := []string{"", StatusActive, StatusPaused, StatusExpired, StatusRevoked}; !slices.Contains(states, status) {
		return ErrValidation.With("status must be one of%s; got %q.", strings.Join(states, " "), status)
	}
	var keys []*Key
	count := 0
	err = a.store.View(func(tx *Tx) error {
		all := status == "" && search == ""
		if count, err = a.keyring.Count(tx); err != nil {
			return err
		}
		seen := 0
		err := a.keyring.Each(tx, func(k *Key) bool {
			if all || matches(k, status, search, r.Now) {
				// Of all keys the page ends the search; a filter has to count on.
				if seen++; seen > (page.Number-1)*page.Limit && len(keys) < page.Limit {
					keys = append(keys, k)
				}
			}
			return !all || len(keys) < page.Limit
		})
		if !all {
			count = seen
		}
		return err
	})
	if err != nil {
		return err
	}
	rows := []any{}
	for _, k := range keys {
		shown, err := a.show(k, r)
		if err != nil {
			return err
		}
		rows = append(rows, shown)
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "keys", rows))
}

func matches(k *Key, status, search string, now time.Time) bool {
	if status != "" && k.Status(now) != status {
		return false
	}
	text := strings.ToLower(strings.Join([]string{k.ID, k.Name, k.Hint, k.OwnerName, k.Environment}, "\n"))
	return strings.Contains(text, search)
}

// find reads the key that the path names.
func (a *Admin) find(r *Request) (key *Key, err error) {
	err = a.store.View(func(tx *Tx) error {
		key, err = a.keyring.Get(tx, r.Params.ByName("id"))
		return err
	})
	return key, err
}

func (a *Admin) get(w http.ResponseWriter, r *Request) error {
	key, err := a.find(r)
	if err != nil {
		return err
	}
	return a.answer(w, r, key)
}

// answer shows a key.
func (a *Admin) answer(w http.ResponseWriter, r *Request, key *Key) error {
	shown, err := a.show(key, r)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

func (a *Admin) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	return a.save(w, r, func(tx *Tx, key *Key) error { return a.fill(tx, r, key, body, false) })
}

// change makes the handler of a change that needs no body, and the event that
// tells of it. Pausing what is paused tells nothing.
func (a *Admin) change(event string, apply func(*Key, time.Time)) Handler {
	return func(w http.ResponseWriter, r *Request) error {
		return a.save(w, r, func(tx *Tx, key *Key) error {
			paused := key.Paused
			apply(key, r.Now)
			if event != KeyRevoked && key.Paused == paused {
				return nil
			}
			return Raise(tx, KeyEvent(event, key, r.Now))
		})
	}
}

// save changes the key that the path names and shows it. A revoked key stays
// as it is: revoking it again succeeds, anything else is ErrConflict.
func (a *Admin) save(w http.ResponseWriter, r *Request, apply func(*Tx, *Key) error) error {
	var key *Key
	err := a.store.Update(func(tx *Tx) (err error) {
		if key, err = a.keyring.Get(tx, r.Params.ByName("id")); err != nil {
			return err
		}
		if !key.RevokedAt.IsZero() {
			if strings.HasSuffix(r.URL.Path, "/revoke") {
				return nil
			}
			return ErrConflict.With("The key was revoked on %s, which is final.", key.RevokedAt.UTC().Format(time.RFC3339))
		}
		key = key.Clone()
		if err := apply(tx, key); err != nil {
			return err
		}
		key.Ready(a.defaults)
		return a.keyring.Save(tx, key)
	})
	if err != nil {
		return err
	}
	return a.answer(w, r, key)
}

func (a *Admin) usage(w http.ResponseWriter, r *Request) error {
	key, err := a.find(r)
	if err != nil {
		return err
	}
	usage, err := a.standings(key, r)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"id": key.ID, "usage": usage})
}

// importKeys stores keys that exist elsewhere by the SHA-256 of their secret:
// all of them or none.
func (a *Admin) importKeys(w http.ResponseWriter, r *Request) error {
	data, err := r.ReadAll()
	if err != nil {
		return err
	}
	if trimmed := strings.TrimSpace(string(data)); strings.HasPrefix(trimmed, "[") {
		data = []byte(`{"keys":` + trimmed + `}`)
	}
	body, err := ParseBody(data)
	if err != nil {
		return err
	}
	rows := body.Bodies("keys")
	if err := body.Err(); err != nil {
		return err
	}
	err = a.store.Update(func(tx *Tx) error {
		for i, row := range rows {
			if err := a.importKey(tx, r, row); err != nil {
				return Public(err).With("keys[%d]: %s", i, Public(err).Message)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"count": len(rows), "message": fmt.Sprintf("Imported %d keys.", len(rows))})
}

func (a *Admin) importKey(tx *Tx, r *Request, row *Body) error {
	digest := ""
	key := &Key{ID: NewKeyID(r.Now), CreatedAt: r.Now}
	row.String("sha256", &digest)
	row.String("hint", &key.Hint)
	if err := a.fill(tx, r, key, row, true); err != nil {
		return err
	}
	d, err := ParseDigest(strings.ToLower(digest))
	if err != nil {
		return ErrValidation.With("sha256 %s of the secret.", err)
	}
	if err := a.keyring.Import(tx, key, d); err != nil {
		return err
	}
	return Raise(tx, KeyEvent(KeyCreated, key, r.Now))
}

func (a *Admin) permissions(w http.ResponseWriter, r *Request) error {
	return WriteJSON(w, http.StatusOK, map[string]any{"permissions": Permissions()})
}

func (a *Admin) limits(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	for _, l := range a.defaults {
		rows = append(rows, map[string]any{"name": l.Name, "default": l.Max, "window_seconds": int(l.Window / time.Second)})
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"limits": rows})
}

// self shows a key to its holder.
func (a *Admin) self(w http.ResponseWriter, r *Request) error {
	shown, err := a.show(r.Key, r)
	if err != nil {
		return err
	}
	for _, name := range []string{"metadata", "last_used_ip", "last_used_at", "last_used_by"} {
		delete(shown, name)
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// show gives a key as the admin endpoint tells it.
func (a *Admin) show(k *Key, r *Request) (map[string]any, error) {
	k = k.Clone()
	k.Ready(a.defaults)
	var use Use
	err := a.store.View(func(tx *Tx) (err error) {
		use, err = a.keyring.LastUse(tx, k.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	usage, err := a.standings(k, r)
	if err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for _, l := range k.AllLimits() {
		limits[l.Name] = l.Max
	}
	shown := map[string]any{
		"id": k.ID, "name": k.Name, "hint": k.Hint, "permissions": k.Permissions, "limits": limits,
		"environment": k.Environment, "owner": k.OwnerName, "metadata": k.Metadata, "allowed_ips": k.AllowedIPs,
		"query_allowed": k.QueryAllowed, "status": k.Status(r.Now), "created_at": Seconds(k.CreatedAt), "expires_at": Seconds(k.ExpiresAt),
		"revoked_at": Seconds(k.RevokedAt), "last_used_at": Seconds(use.At), "last_used_ip": nil, "last_used_by": nil, "usage": usage,
	}
	if !use.At.IsZero() {
		shown["last_used_ip"], shown["last_used_by"] = use.IP.String(), use.Carrier
	}
	if k.Metadata == nil {
		shown["metadata"] = map[string]string{}
	}
	if k.AllowedIPs == nil {
		shown["allowed_ips"] = []string{}
	}
	return shown, nil
}

// standings gives how the limits of a key stand; a time at which more is free
// is null when nothing is used.
func (a *Admin) standings(k *Key, r *Request) (map[string]any, error) {
	list, err := a.limiter.Standings(k.ID, k.AllLimits(), r.Moment)
	if err != nil {
		return nil, err
	}
	usage := map[string]any{}
	for _, s := range list {
		var resets *string
		if s.Used > 0 {
			resets = Seconds(r.Now.Add(s.Next + time.Second - 1))
		}
		usage[s.Limit.Name] = map[string]any{"limit": s.Limit.Max, "used": s.Used, "remaining": s.Remaining(), "resets_at": resets}
	}
	return usage, nil
}
