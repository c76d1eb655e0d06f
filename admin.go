// The admin family implements the admin endpoint, which is the HTTP API for operators.
// admin.go lists, creates and changes keys. The other files, in reading order, are
// admin_keyshow.go, admin_keyform.go, admin_keylist.go, admin_import.go, admin_verify.go and admin_explain.go for keys,
// admin_apply.go, admin_applyplan.go and admin_applykinds.go for files of keys and more, admin_login.go,
// admin_operators.go and admin_accounts.go for operators, then admin_audit.go, admin_usage.go,
// admin_history.go, admin_minutes.go, admin_whatif.go, admin_metrics.go, admin_status.go and admin_backup.go. The dashboard
// and the commands are clients of this endpoint. Only
// admin_accounts.go uses the package of a client: it implements dashboard.Accounts.

package main

import (
	"net/http"
	"time"
)

// admin serves the endpoints at which operators manage keys.
type admin struct {
	store   *Store
	keyring *Keyring
	limiter *Limiter
	tags    keyTagger
	rules   KeyRules
	form    *keyForm
}

// NewAdmin returns an admin for the keys in keyring. It accepts new and changed keys
// only if they follow rules. tags knows which keys have a tag.
func NewAdmin(store *Store, limiter *Limiter, tags keyTagger, rules KeyRules) *admin {
	keyring := tags.keyring
	form := NewKeyForm(keyring, rules)
	return &admin{store: store, keyring: keyring, limiter: limiter, tags: tags, rules: rules, form: form}
}

// AdminRoutes returns the routes for operators.
func (a *admin) AdminRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/admin/v1/keys", Handle: a.list, Heavy: HeavyWith("search", "format"), Lists: []string{"id"},
			Query: []string{
				"page", "limit", "status", "search", "owner", "environment", "permission", "unused_days", "tag", "sort", "order", "format", "sandbox",
			},
		},
		{Method: "POST", Path: "/admin/v1/keys", Handle: a.create},
		{Method: "GET", Path: "/admin/v1/keys/:id", Handle: a.get},
		{Method: "PATCH", Path: "/admin/v1/keys/:id", Handle: a.update},
		{Method: "POST", Path: "/admin/v1/keys/:id/revoke", Handle: a.revoke},
		{Method: "POST", Path: "/admin/v1/keys/:id/pause", NoBody: true, Handle: a.change(KeyPaused, func(k *Key, _ time.Time) { k.Paused = true })},
		{Method: "POST", Path: "/admin/v1/keys/:id/resume", NoBody: true, Handle: a.change(KeyResumed, (*Key).Resume)},
		{Method: "POST", Path: "/admin/v1/keys/:id/rotate", Handle: a.rotate},
		{Method: "POST", Path: "/admin/v1/keys/:id/rotate/finish", Handle: a.finish},
		{Method: "GET", Path: "/admin/v1/keys/:id/usage", Handle: a.usage},
		{Method: "GET", Path: "/admin/v1/permissions", Handle: a.permissions},
		{Method: "GET", Path: "/admin/v1/limits", Handle: a.limits},
	}
}

// FreeRoutes returns the routes at which a client reads or revokes the key that it
// sends. They need no permission and charge no limit.
func (a *admin) FreeRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/key", Handle: a.self},
		{Method: "DELETE", Path: "/api/v1/key", Handle: a.revokeSelf, Finishes: true},
		{Method: "POST", Path: "/api/v1/key/revoke", Handle: a.revokeSelf, Finishes: true},
	}
}

func (a *admin) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(keyBody())
	if err != nil {
		return err
	}
	name, err := RequestName(r.Header)
	if err != nil {
		return err
	}
	var key *Key
	var secret string
	err = r.Update(a.store, func(tx *Tx) error {
		if err := CheckRequest(tx, name, r.Earliest); err != nil {
			return err
		}
		key = newKey(r)
		if secret, err = a.issue(tx, r, key, body); err != nil {
			return err
		}
		return NoteRequest(tx, name, key.ID, r.Latest)
	})
	if err != nil {
		return err
	}
	return a.reveal(w, r, http.StatusCreated, issuedKey{key, secret})
}

// newKey returns a key that a request creates, without its fields.
func newKey(r *Request) *Key {
	return &Key{StoredKey: StoredKey{ID: NewKeyID(r.Now), CreatedAt: r.Now}}
}

// issue stores a new key with the fields of body, and returns its secret.
func (a *admin) issue(tx *Tx, r *Request, key *Key, body *Body) (secret string, err error) {
	if err := a.form.Fill(keyInput{tx: tx, request: r, body: body, key: key, create: true}); err != nil {
		return "", err
	}
	if secret, err = a.keyring.Create(tx, key); err != nil {
		return "", err
	}
	return secret, Publish(tx, KeyWebhookEvent(KeyCreated, key, r.Now))
}

// issuedKey is a key with its new secret. Latchkey does not store the secret.
type issuedKey struct {
	*Key
	secret string
}

// reveal answers with a key and its new secret, which no later answer can show.
func (a *admin) reveal(w http.ResponseWriter, r *Request, status int, issued issuedKey) error {
	shown, err := a.show(issued.Key, r)
	if err != nil {
		return err
	}
	shown["key"] = issued.secret
	return WriteJSON(w, status, shown)
}

// maxNamedKeys is the maximum number of keys that a list request can name.
const maxNamedKeys = 1000

func (a *admin) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(r.Parameters...)
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	f, err := readKeyQuery(q, a.keyring.Rights())
	if err != nil {
		return err
	}
	ids, err := r.QueryList("id")
	switch {
	case err != nil:
		return err
	case len(ids) > maxNamedKeys:
		return ErrValidation.With("id may appear at most %d times in the query; got %d.", maxNamedKeys, len(ids))
	case len(ids) > 0 && (!f.Empty() || q.Get("tag") != "" || q.Get("format") == "csv"):
		return ErrValidation.With("id cannot be used together with a filter, sort or format=csv.")
	}
	f.Now = r.Latest
	asCSV, err := readFormat(q)
	if err != nil {
		return err
	}
	if err := a.store.View(func(tx *Tx) error { return a.tags.Add(tx, q.Get("tag"), &f) }); err != nil {
		return err
	}
	if err := a.tags.Rank(&f, r.Now); err != nil {
		return err
	}
	if asCSV {
		return a.sendCSV(w, r, f)
	}
	var views []keyFigures
	count := 0
	err = r.View(a.store, func(tx *Tx) error {
		var keys []*Key
		var err error
		if len(ids) > 0 {
			keys, err = a.keyring.Named(tx, ids)
			count = len(keys)
			from, to := page.Bounds(count)
			keys = keys[from:to]
		} else {
			keys, count, err = a.keyring.List(r.Context(), tx, f, page.Bounds)
		}
		if err != nil {
			return err
		}
		views, err = a.figures(tx, keys, r)
		return err
	})
	if err != nil {
		return err
	}
	rows := make([]any, 0, len(views))
	for i := range views {
		shown, err := a.shown(&views[i], r)
		if err != nil {
			return err
		}
		rows = append(rows, shown)
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, "keys", rows))
}

// find returns the key whose id is in the path of the request. It returns ErrNotFound
// if there is no such key.
func (a *admin) find(r *Request) (key *Key, err error) {
	err = a.store.View(func(tx *Tx) error {
		key, err = a.keyring.Get(tx, r.Params.ByName("id"))
		return err
	})
	return key, err
}

func (a *admin) get(w http.ResponseWriter, r *Request) error {
	key, err := a.find(r)
	if err != nil {
		return err
	}
	return a.answer(w, r, key)
}

// answer answers with status 200, a key without its secret, and the webhooks that it created.
func (a *admin) answer(w http.ResponseWriter, r *Request, key *Key) error {
	shown, err := a.shownWithWebhooks(key, r)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// shownWithWebhooks returns the fields of show, and the webhooks that the key created.
func (a *admin) shownWithWebhooks(key *Key, r *Request) (map[string]any, error) {
	shown, err := a.show(key, r)
	if err != nil {
		return nil, err
	}
	err = a.store.View(func(tx *Tx) (err error) {
		shown["webhooks"], err = WebhooksOf(tx, key.ID)
		return err
	})
	return shown, err
}

func (a *admin) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	return a.save(w, r, func(tx *Tx, key *Key) error {
		if err := r.CheckFields(body, keyBody()); err != nil {
			return err
		}
		return a.form.Fill(keyInput{tx: tx, request: r, body: body, key: key})
	})
}

// change returns a handler that calls apply on the key in the path and publishes the
// webhook event named event. The request needs no body. If apply does not change the key,
// no event is published.
func (a *admin) change(event string, apply func(*Key, time.Time)) Handler {
	return func(w http.ResponseWriter, r *Request) error {
		return a.save(w, r, func(tx *Tx, key *Key) error {
			paused := key.Paused
			apply(key, r.Now)
			if key.Paused == paused {
				return nil
			}
			return Publish(tx, KeyWebhookEvent(event, key, r.Now))
		})
	}
}

// revoke revokes the key in the path. A request to revoke it again succeeds. With the
// field end_webhooks it also deletes the webhooks that the key created, even if the key
// was revoked before.
func (a *admin) revoke(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("end_webhooks"))
	if err != nil {
		return err
	}
	hooks := false
	if body.Bool("end_webhooks", &hooks); body.Err() != nil {
		return body.Err()
	}
	var key *Key
	ended := []map[string]any{}
	err = r.Update(a.store, func(tx *Tx) (err error) {
		if key, err = a.own(tx, r.Params.ByName("id")); key == nil {
			return err
		}
		switch {
		case err == nil:
			ended, _, err = a.end(tx, key, r.Now, hooks)
		case hooks:
			ended, err = EndWebhooksOf(tx, key.ID)
		default:
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	shown, err := a.shownWithWebhooks(key, r)
	if err != nil {
		return err
	}
	shown["ended_webhooks"] = ended
	return WriteJSON(w, http.StatusOK, shown)
}

// end revokes a key at now and publishes the event. With hooks it also deletes the webhooks that the
// key created. It returns those that it deleted and those that go on, which are also part of the event.
func (a *admin) end(tx *Tx, key *Key, now time.Time, hooks bool) (ended, left []map[string]any, err error) {
	ended = []map[string]any{}
	key.RevokedAt = now
	if err := a.keyring.Save(tx, key); err != nil {
		return nil, nil, err
	}
	if hooks {
		if ended, err = EndWebhooksOf(tx, key.ID); err != nil {
			return nil, nil, err
		}
	}
	if left, err = WebhooksOf(tx, key.ID); err != nil {
		return nil, nil, err
	}
	for _, row := range left {
		delete(row, "url") // it may contain a secret
	}
	event := KeyWebhookEvent(KeyRevoked, key, now)
	event.Body["webhooks"] = left
	return ended, left, Publish(tx, event)
}

// save calls apply on the key in the path, stores the key and answers with it. For a
// revoked key it returns ErrConflict.
func (a *admin) save(w http.ResponseWriter, r *Request, apply func(*Tx, *Key) error) error {
	var key *Key
	err := r.Update(a.store, func(tx *Tx) (err error) {
		if key, err = a.own(tx, r.Params.ByName("id")); err != nil {
			return err
		}
		if err := apply(tx, key); err != nil {
			return err
		}
		return a.keyring.Save(tx, key)
	})
	if err != nil {
		return err
	}
	return a.answer(w, r, key)
}

// own returns a copy of the key with this id, which the caller may change. If the key is
// revoked, own returns ErrConflict together with the cached key, which the caller must
// not change. With any other error the returned key is nil.
func (a *admin) own(tx *Tx, id string) (*Key, error) {
	key, err := a.keyring.Get(tx, id)
	if err != nil {
		return nil, err
	}
	if !key.RevokedAt.IsZero() {
		return key, ErrConflict.With("The key was revoked on %s. A revoked key cannot be changed; create a new key.", key.RevokedAt.UTC().Format(time.RFC3339))
	}
	return key.Clone(), nil
}

// rotate replaces the secret of a key and answers with the new secret. The previous
// secret stays valid for overlap_seconds, a field of the body. A repeated request with the same
// Idempotency-Key is refused: it would end the secret that the first one has shown.
func (a *admin) rotate(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("overlap_seconds"))
	if err != nil {
		return err
	}
	overlap, err := ReadOverlap(body)
	if err != nil {
		return err
	}
	name, err := RequestName(r.Header)
	if err != nil {
		return err
	}
	if name != "" {
		name = "rotate " + r.Params.ByName("id") + "\x00" + name // another than that of a creation
	}
	var key *Key
	var secret string
	err = r.Update(a.store, func(tx *Tx) (err error) {
		if err := CheckRequest(tx, name, r.Earliest); err != nil {
			return err
		}
		if key, err = a.own(tx, r.Params.ByName("id")); err != nil {
			return err
		}
		if err := NoteRequest(tx, name, key.ID, r.Latest); err != nil {
			return err
		}
		if secret, err = a.keyring.Rotate(tx, key, r.Latest, r.Latest.Add(overlap)); err != nil {
			return err
		}
		return Publish(tx, KeyWebhookEvent(KeyRotated, key, r.Now))
	})
	if err != nil {
		return err
	}
	return a.reveal(w, r, http.StatusOK, issuedKey{key, secret})
}

// finish ends all previous secrets of a key immediately. If one that is still valid was
// used within the last unused_for_seconds, a field of the body, finish ends no secret
// and returns ErrConflict.
func (a *admin) finish(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadOptionalFields(OnlyFields("unused_for_seconds"))
	if err != nil {
		return err
	}
	unused := 0
	body.Int("unused_for_seconds", &unused, 0, MaxOverlap)
	if err := body.Err(); err != nil {
		return err
	}
	return a.save(w, r, func(tx *Tx, key *Key) error {
		for _, alias := range key.Aliases {
			use, err := a.keyring.SecretUse(tx, key, alias.Serial)
			if err != nil {
				return err
			}
			if since := r.Now.Sub(use.At); since < time.Duration(unused)*time.Second && r.Latest.Before(alias.EndsAt) {
				return ErrConflict.With("The previous secret %s was used %s ago, from the address %s. Nothing was ended. Give that client the new secret first.", alias.Hint, since.Round(time.Second), AddrText(use.IP))
			}
		}
		return a.keyring.Drop(tx, key, func(PreviousSecret) bool { return true })
	})
}

func (a *admin) usage(w http.ResponseWriter, r *Request) error {
	key, err := a.find(r)
	if err != nil {
		return err
	}
	limits, err := ReadLimits(a.store, a.limiter, key, key.Rules(), r)
	if err != nil {
		return err
	}
	usage, err := limits.Usages(a.limiter, r)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"id": key.ID, "usage": usage})
}

func (a *admin) permissions(w http.ResponseWriter, r *Request) error {
	return WriteJSON(w, http.StatusOK, map[string]any{"permissions": a.keyring.Rights().Permissions(), "presets": a.keyring.Rights().Presets()})
}

func (a *admin) limits(w http.ResponseWriter, r *Request) error {
	rows := []any{}
	for _, l := range a.keyring.Rights().Limits() {
		over, err := a.limiter.Observed.Count("", l.Name)
		if err != nil {
			return err
		}
		rows = append(rows, map[string]any{
			"name": l.Name, "default": l.Max, "would_refuse": over, "kind": l.Kind(), "window_seconds": int(l.Window / time.Second), "scope": l.Scope(), "observe": l.Observe, "own": !l.Builtin, "recorded": triable(l),
		})
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"limits": rows})
}

// self answers with the key that the request was sent with. It leaves out the fields that
// only an operator may see: metadata, last uses and the other secrets.
func (a *admin) self(w http.ResponseWriter, r *Request) error {
	shown, err := a.show(r.Key, r)
	if err != nil {
		return err
	}
	for _, name := range []string{"ref", "metadata", "last_used_ip", "last_used_at", "last_used_by", "secrets", "carriers", "query_last_at", "query_last_ip"} {
		delete(shown, name)
	}
	shown["secret_ends_at"] = Seconds(r.Key.SecretEnds())
	return WriteJSON(w, http.StatusOK, shown)
}

// revokeSelf ends the secret that the request was sent with. If it is the current secret,
// the whole key is revoked. If it is a previous secret, only that secret ends: somebody
// who found it may not know that others use the key with the current secret. The webhooks
// that the key created go on; the audit entry and the event to the operator list them.
func (a *admin) revokeSelf(w http.ResponseWriter, r *Request) error {
	if !a.rules.SelfRevoke {
		return ErrPermission.With("A key cannot revoke itself here, because the setting keys.self_revoke is false. Ask the operator to revoke it.")
	}
	message, deed := "", r.Deed()
	deed.Detail = map[string]any{}
	err := r.UpdateAudited(a.store, deed, func(tx *Tx) error {
		message = "This API key is revoked."
		key, err := a.own(tx, r.Key.ID)
		if err != nil {
			if key != nil { // another request has revoked the key in the meantime
				return nil
			}
			return err
		}
		if r.Key.SecretSerial() == key.Serial {
			_, left, err := a.end(tx, key, r.Now, false)
			if len(left) > 0 {
				deed.Detail["webhooks"] = left
			}
			return err
		}
		message = "This previous secret of the API key is no longer valid. The secret that replaced it stays valid."
		err = a.keyring.Drop(tx, key, func(alias PreviousSecret) bool { return alias.Serial == r.Key.SecretSerial() })
		if err != nil {
			return err
		}
		return a.keyring.Save(tx, key)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"id": r.Key.ID, "message": message})
}
