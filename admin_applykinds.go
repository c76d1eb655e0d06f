package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// applyKind is a kind of record that a file can have. Its functions make and change the records as the
// endpoints for single records do.
type applyKind struct {
	name, member string // such as "key", and "keys" in a body
	mark         string // the field by which people know an entry
	fields       []applyField
	// endpoints make the same changes to one record, by action. The caller of an apply needs the rights for them.
	endpoints map[string]string
	// end is the action that ends a record which the file does not have; "" for a kind that stays.
	end string
	// find returns the records that an entry can mean, the best one first.
	find func(tx *Tx, r *Request, entry *Body) ([]*applied, error)
	// all returns the records except those for which skip returns true, at most maxApply + 1 of them.
	all func(tx *Tx, r *Request, skip func(id any) bool) ([]*applied, error)
	// check returns what is wrong with the fields of a new record. The caller undoes what it stores.
	check func(tx *Tx, r *Request, body *Body) error
	// create stores a new record and returns it with its secret, or "" if it has none.
	create func(tx *Tx, r *Request, body *Body) (made *applied, secret string, err error)
	// change returns the record with the fields of patch, and a function that stores it.
	change func(tx *Tx, r *Request, was *applied, patch *Body) (after *applied, keep func() error, err error)
	// drop ends a record.
	drop func(tx *Tx, r *Request, was *applied) error
}

// applyField is a field of an entry. An entry without it means the default.
type applyField struct {
	name string
	// unset is the JSON that restores the default; "": null does, "keep": the default depends on the time of the
	// creation, so a record that exists keeps its value.
	unset string
	// sample is a valid value of a field that each new record needs, as JSON; "": the field may be left out.
	sample string
	// merged means that a change keeps the members which a body does not have, so that null must remove them.
	merged bool
	// shared means that whether other fields are valid depends on this one.
	shared bool
}

// keepAsIs is the unset of a field without a default that could be restored.
const keepAsIs = "keep"

// applied is a stored record in the form of a file.
type applied struct {
	id     any // a string or a uint64
	name   string
	fields map[string]any // only those that differ from the default
	record any            // *Key, owner, webhook or Token
}

// shownField is a field and how it is read from a record. show returns nil for the default.
type shownField[T any] struct {
	applyField
	show func(T) any
}

// fileFields returns the fields of a list, and a function that returns those of a record which differ from the default.
func fileFields[T any](list []shownField[T]) (fields []applyField, form func(T) map[string]any) {
	for _, f := range list {
		fields = append(fields, f.applyField)
	}
	return fields, func(v T) map[string]any {
		shown := map[string]any{}
		for _, f := range list {
			if value := f.show(v); value != nil {
				shown[f.name] = value
			}
		}
		return shown
	}
}

// unless returns v, or nil if it is the default.
func unless[T comparable](v, usual T) any {
	if v == usual {
		return nil
	}
	return v
}

// pointed returns the value that p points to, or nil.
func pointed[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

// filled returns m, or nil if it has no members.
func filled[V any](m map[string]V) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

// sortedTexts returns the sorted texts of list, or nil if it is empty.
func sortedTexts[T any](list []T, text func(T) string) any {
	var all []string
	for _, v := range list {
		all = append(all, text(v))
	}
	if all == nil {
		return nil
	}
	slices.Sort(all)
	return all
}

// limitsIn returns those of values that are limits of keys, or of owners.
func (a *applier) limitsIn(values map[string]int, scope string) map[string]int {
	values = maps.Clone(values)
	maps.DeleteFunc(values, func(name string, _ int) bool {
		rule, ok := a.keys.keyring.Rights().Limit(name)
		return !ok || rule.Scope() != scope
	})
	return values
}

// endNever is the value of expires_at for what never expires.
const endNever = "never"

// keyFields returns the fields of a key: a row for each field of the body that creates one, and paused.
func (a *applier) keyFields() []shownField[*Key] {
	rights := a.keys.keyring.Rights()
	permission := strconv.Quote(rights.Names(math.MaxUint64)[0])
	always, end := any(endNever), keepAsIs
	if a.keys.rules.DefaultExpiry == 0 && a.keys.rules.MaxExpiry == 0 {
		always, end = nil, ""
	}
	return []shownField[*Key]{
		{applyField{name: "ref"}, func(k *Key) any { return cmp.Or(k.Ref, k.ID) }},
		{applyField{name: "name", sample: `"sample"`}, func(k *Key) any { return k.Name }},
		{applyField{name: "owner", unset: strconv.Quote(DefaultOwner), shared: true}, func(k *Key) any { return unless(k.OwnerName, DefaultOwner) }},
		{applyField{name: "sandbox", unset: "false", shared: true}, func(k *Key) any { return unless(k.Sandbox(), false) }},
		{applyField{name: "permissions", sample: "[" + permission + "]"}, func(k *Key) any { return sortedTexts(k.PermissionNames(), strings.Clone) }},
		{applyField{name: "limits", merged: true}, func(k *Key) any { return filled(a.limitsIn(k.Limits, "key")) }},
		{applyField{name: "environment"}, func(k *Key) any { return unless(k.Environment, "") }},
		{applyField{name: "allowed_ips"}, func(k *Key) any { return sortedTexts(k.AllowedIPs, netip.Prefix.String) }},
		{applyField{name: "resources"}, func(k *Key) any { return filled(k.Resources.Lists()) }},
		{applyField{name: "query_allowed"}, func(k *Key) any { return pointed(k.QueryAllowed) }},
		{applyField{name: "expires_at", unset: end}, func(k *Key) any {
			if k.ExpiresAt.IsZero() {
				return always
			}
			return *Seconds(k.ExpiresAt)
		}},
		{applyField{name: "paused", unset: "false"}, func(k *Key) any { return unless(k.Paused, false) }},
		{applyField{name: "metadata"}, func(k *Key) any { return filled(k.Metadata) }},
	}
}

func (a *applier) keyKind() *applyKind {
	fields, form := fileFields(a.keyFields())
	show := func(k *Key) *applied { return &applied{k.ID, k.Name, form(k), k} }
	fill := func(tx *Tx, r *Request, key *Key, body *Body, create bool) error {
		readPaused(body, key, r.Now)
		return a.keys.form.Fill(keyInput{tx: tx, request: r, body: body, key: key, create: create})
	}
	return &applyKind{
		name: "key", member: "keys", mark: "ref", fields: fields, end: applyRevoke,
		endpoints: map[string]string{applyCreate: "POST /admin/v1/keys", applyChange: "PATCH /admin/v1/keys/:id", applyRevoke: "POST /admin/v1/keys/:id/revoke"},
		find: func(tx *Tx, _ *Request, entry *Body) ([]*applied, error) {
			ref := ""
			if entry.String("ref", AnyLength, &ref); entry.Err() != nil {
				return nil, entry.Err()
			}
			if ref == "" {
				return nil, ErrMissing.With("ref is missing. Give the key a ref of its own, such as billing/ci; its name may be that of other keys too.")
			}
			if !IsRef(ref) {
				return nil, nil // the creation says why
			}
			key, err := a.keys.keyring.ByRef(tx, ref)
			if errors.Is(err, ErrNotFound) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			return []*applied{show(key)}, nil
		},
		all: func(tx *Tx, _ *Request, skip func(any) bool) (list []*applied, err error) {
			for _, id := range KeyTable.Find(tx, "owner_live", nil, Forward) {
				if skip(string(id)) {
					continue
				}
				key, err := a.keys.keyring.Get(tx, string(id))
				if err != nil {
					return nil, err
				}
				if list = append(list, show(key)); len(list) > maxApply {
					break
				}
			}
			return list, nil
		},
		check: func(tx *Tx, r *Request, body *Body) error { return fill(tx, r, newKey(r), endless(body), true) },
		create: func(tx *Tx, r *Request, body *Body) (*applied, string, error) {
			key, body := newKey(r), endless(body)
			readPaused(body, key, r.Now)
			secret, err := a.keys.issue(tx, r, key, body)
			return show(key), secret, err
		},
		change: func(tx *Tx, r *Request, was *applied, patch *Body) (*applied, func() error, error) {
			before := was.record.(*Key)
			key := before.Clone()
			if err := fill(tx, r, key, endless(patch), false); err != nil {
				return nil, nil, err
			}
			return show(key), func() error { return a.keepKey(tx, r, before, key) }, nil
		},
		drop: func(tx *Tx, r *Request, was *applied) error {
			_, _, err := a.keys.end(tx, was.record.(*Key).Clone(), r.Now, false)
			return err
		},
	}
}

// readPaused pauses the key or resumes it at now, as the field paused of the body says.
func readPaused(body *Body, key *Key, now time.Time) {
	paused := key.Paused
	if body.Bool("paused", &paused); paused {
		key.Paused = true
		return
	}
	key.Resume(now)
}

// keepKey stores a changed key, and publishes the event that it was paused or resumed.
func (a *applier) keepKey(tx *Tx, r *Request, before, key *Key) error {
	if err := a.keys.keyring.Save(tx, key); err != nil || key.Paused == before.Paused {
		return err
	}
	event := KeyResumed
	if key.Paused {
		event = KeyPaused
	}
	return Publish(tx, KeyWebhookEvent(event, key, r.Now))
}

// endless returns a body in which the end of a key that never expires is null, as in the body that creates one.
func endless(body *Body) *Body {
	if string(body.Raw("expires_at")) == strconv.Quote(endNever) {
		return body.Replaced("expires_at", json.RawMessage("null"))
	}
	return body
}

func (a *applier) ownerKind() *applyKind {
	kind := &applyKind{
		name: "owner", member: "owners", mark: "name",
		fields:    []applyField{{name: "name", sample: `"sample"`, shared: true}, {name: "balance"}, {name: "rate"}, {name: "limits", merged: true}, {name: "storage_bytes"}},
		endpoints: map[string]string{applyCreate: "POST /admin/v1/owners", applyChange: "PATCH /admin/v1/owners/:id"},
	}
	kind.find = func(tx *Tx, _ *Request, entry *Body) ([]*applied, error) {
		name := ""
		if entry.String("name", NameLength, &name); entry.Err() != nil {
			return nil, entry.Err()
		}
		o, err := OwnerNamed(tx, strings.TrimSpace(name))
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		shown, err := a.showOwner(tx, o.ID)
		return []*applied{shown}, err
	}
	kind.all = func(tx *Tx, _ *Request, skip func(any) bool) (list []*applied, err error) {
		all, err := AllOwners(tx)
		for _, o := range all {
			if skip(o.ID) || err != nil || len(list) > maxApply {
				continue
			}
			var shown *applied
			shown, err = a.showOwner(tx, o.ID)
			list = append(list, shown)
		}
		return list, err
	}
	kind.check = func(tx *Tx, r *Request, body *Body) error {
		_, err := a.owners.Save(tx, r, nil, body)
		if errors.Is(err, ErrConflict) { // a check before this one has created it, or it is to be changed
			name := ""
			body.String("name", NameLength, &name)
			o, missing := OwnerNamed(tx, strings.TrimSpace(name))
			if missing == nil {
				_, err = a.owners.Save(tx, r, &o, body)
			}
		}
		return err
	}
	kind.create = func(tx *Tx, r *Request, body *Body) (*applied, string, error) {
		o, err := a.owners.Save(tx, r, nil, body)
		if err != nil {
			return nil, "", err
		}
		made, err := a.showOwner(tx, o.ID)
		return made, "", err
	}
	kind.change = func(tx *Tx, r *Request, was *applied, patch *Body) (*applied, func() error, error) {
		o, err := FindOwner(tx, was.id.(uint64))
		if err != nil {
			return nil, nil, err
		}
		if _, err := a.owners.Save(tx, r, &o, patch); err != nil {
			return nil, nil, err
		}
		if o.Name == DefaultOwner && patch.Has("storage_bytes") && !patch.Given("storage_bytes") {
			if err := LimitStorage(tx, o.ID, 0); err != nil { // as EnsureOwner creates this owner
				return nil, nil, err
			}
		}
		after, err := a.showOwner(tx, o.ID)
		return after, func() error { return nil }, err
	}
	return kind
}

// showOwner returns an owner in the form of a file.
func (a *applier) showOwner(tx *Tx, id uint64) (*applied, error) {
	o, err := FindOwner(tx, id)
	if err != nil {
		return nil, err
	}
	limits, err := LimitsOfOwner(tx, id)
	if err != nil {
		return nil, err
	}
	storage, err := StorageOf(tx, id)
	fields := map[string]any{"name": o.Name, "balance": pointed(o.Balance), "rate": unless(o.Rate, 0), "limits": filled(a.limitsIn(limits, "owner"))}
	// The default owner is created without a limit, other owners with that of the configuration.
	if usual := !storage.Own; o.Name == DefaultOwner && storage.Limit > 0 || o.Name != DefaultOwner && !usual {
		fields["storage_bytes"] = storage.Limit
	}
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	return &applied{o.ID, o.Name, fields, o}, err
}

func (a *applier) webhookKind() *applyKind {
	event := strconv.Quote(EventTypes()[0])
	return &applyKind{
		name: "webhook", member: "webhooks", mark: "url", end: applyDelete,
		fields: []applyField{
			{name: "name", sample: `"sample"`}, {name: "url", sample: `"https://example.com/"`}, {name: "subscribed_events", sample: "[" + event + "]"},
			{name: "owner", shared: true}, {name: "is_active", unset: "true"},
		},
		endpoints: map[string]string{applyCreate: "POST /admin/v1/webhooks", applyChange: "PATCH /admin/v1/webhooks/:id", applyDelete: "DELETE /admin/v1/webhooks/:id"},
		find:      findHooks,
		all: func(tx *Tx, _ *Request, skip func(any) bool) (list []*applied, err error) {
			hooks, err := AllWebhooks(tx)
			for _, w := range hooks {
				if w.CreatedBy == "" && !skip(w.ID) {
					list = append(list, &applied{w.ID, w.Name, w.Fields(tx), w})
				}
			}
			return list, err
		},
		check: func(tx *Tx, r *Request, body *Body) error {
			_, err := a.hooks.New(tx, r, body)
			return err
		},
		create: func(tx *Tx, r *Request, body *Body) (*applied, string, error) {
			w, secret, err := a.hooks.Create(tx, r, body)
			return &applied{w.ID, w.Name, w.Fields(tx), w}, secret, err
		},
		change: func(tx *Tx, r *Request, was *applied, patch *Body) (*applied, func() error, error) {
			w, err := a.hooks.Change(tx, r, was.id.(uint64), patch)
			return &applied{w.ID, w.Name, w.Fields(tx), w}, func() error { return nil }, err
		},
		drop: func(tx *Tx, _ *Request, was *applied) error { return RemoveWebhook(tx, was.id.(uint64)) },
	}
}

// findHooks returns the webhooks with the owner and the URL of an entry. Those that keys have created come last.
func findHooks(tx *Tx, _ *Request, entry *Body) (list []*applied, err error) {
	name, url := "", ""
	entry.String("owner", NameLength, &name)
	if entry.String("url", URLLength, &url); entry.Err() != nil {
		return nil, entry.Err()
	}
	id := uint64(0)
	if name = strings.TrimSpace(name); name != "" {
		o, err := OwnerNamed(tx, name)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		id = o.ID
	}
	hooks, err := WebhooksOfOwner(tx, id)
	var last []*applied
	for _, w := range hooks {
		switch one := (&applied{w.ID, w.Name, w.Fields(tx), w}); {
		case w.URL != url:
		case w.CreatedBy == "":
			list = append(list, one)
		default:
			last = append(last, one)
		}
	}
	return append(list, last...), err
}

func (a *applier) tokenKind() *applyKind {
	fields, form := fileFields([]shownField[Token]{
		{applyField{name: "name", sample: `"sample"`}, func(t Token) any { return t.Name }},
		{applyField{name: "scope"}, func(t Token) any { return unless(cmp.Or(t.Scope, ScopeAll), ScopeAll) }},
		{applyField{name: "allowed_ips"}, func(t Token) any { return sortedTexts(t.AllowedIPs, netip.Prefix.String) }},
		{applyField{name: "expires_at", unset: keepAsIs}, func(t Token) any {
			if t.ExpiresAt.IsZero() {
				return endNever
			}
			return *Seconds(t.ExpiresAt)
		}},
	})
	show := func(t Token) *applied { return &applied{t.ID, t.Name, form(t), t} }
	// active returns the tokens that can be used. One that has expired cannot become valid again.
	active := func(tx *Tx, r *Request, fits func(Token) bool) (list []*applied, err error) {
		for token, err := range TokenTable.All(tx, Forward) {
			if err != nil {
				return nil, err
			}
			if token.Status(r.Latest) == StatusActive && fits(token) {
				list = append(list, show(token))
			}
		}
		return list, nil
	}
	return &applyKind{
		name: "token", member: "tokens", mark: "name", fields: fields, end: applyRevoke,
		endpoints: map[string]string{applyCreate: "POST /admin/v1/tokens", applyRevoke: "POST /admin/v1/tokens/:id/revoke"},
		find: func(tx *Tx, r *Request, entry *Body) ([]*applied, error) {
			name := ""
			if entry.String("name", NameLength, &name); entry.Err() != nil {
				return nil, entry.Err()
			}
			return active(tx, r, func(t Token) bool { return t.Name == name })
		},
		all: func(tx *Tx, r *Request, skip func(any) bool) ([]*applied, error) {
			return active(tx, r, func(t Token) bool { return !skip(t.ID) })
		},
		check: func(_ *Tx, r *Request, body *Body) error {
			_, err := NewToken(r, body)
			return err
		},
		create: func(tx *Tx, r *Request, body *Body) (*applied, string, error) {
			token, secret, err := a.tokens.Create(tx, r, body)
			return show(token), secret, err
		},
		change: func(_ *Tx, r *Request, was *applied, patch *Body) (*applied, func() error, error) {
			token := was.record.(Token)
			scope, allowed := token.Scope, token.AllowedIPs
			if err := token.Fill(patch, r.Latest); err != nil {
				return nil, nil, err
			}
			if !patch.Has("scope") {
				token.Scope = scope
			}
			if !patch.Has("allowed_ips") {
				token.AllowedIPs = allowed
			}
			return show(token), func() error {
				return ErrConflict.With("The admin token %q exists with other values, and a token cannot be changed. Give the entry another name, which makes a new token.", token.Name)
			}, nil
		},
		drop: func(tx *Tx, r *Request, was *applied) error {
			if was.id == r.Caller.Token {
				return ErrConflict.With("The file does not have the admin token %q, which sends this request, so it would be revoked. Add it to the file, or send the request with another token.", was.name)
			}
			_, err := EndToken(tx, was.id.(uint64), r.Now)
			return err
		},
	}
}
