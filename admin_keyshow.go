package main

import (
	"slices"
	"time"

	"latchkey/internal/strictjson"
)

// keyFigures is a key and what answers show of it besides its record. readFigures reads all that is
// in the store, in one transaction for all keys of a list; shown adds what is in memory.
type keyFigures struct {
	*Key
	use     LastUse
	secrets secretUses
	limits  LimitFigures
}

// secretUses are the valid secrets of a key.
type secretUses []secretUse

// AppendJSON appends an array of objects.
func (l secretUses) AppendJSON(data []byte) ([]byte, error) { return strictjson.AppendList(data, l) }

// secretUse is a valid secret of a key and its last use.
type secretUse struct {
	PreviousSecret
	present bool // it is the current secret
	use     LastUse
}

// show returns the JSON fields of a key in answers: its settings, its last use, its valid
// secrets and the usage of its limits. The text of a secret is never among them.
func (a *admin) show(k *Key, r *Request) (map[string]any, error) {
	var v keyFigures
	err := a.store.View(func(tx *Tx) (err error) {
		if k, err = a.keyring.Resolved(tx, k); err == nil {
			v, err = a.readFigures(tx, k, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a.shown(&v, r)
}

// figures returns the keyFigures of keys that were read in the same transaction.
func (a *admin) figures(tx *Tx, keys []*Key, r *Request) ([]keyFigures, error) {
	list := make([]keyFigures, 0, len(keys))
	for _, k := range keys {
		v, err := a.readFigures(tx, k, r)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// readFigures reads what the store has about a key, which must be resolved.
func (a *admin) readFigures(tx *Tx, k *Key, r *Request) (v keyFigures, err error) {
	v.Key = k
	if v.use, err = a.keyring.LastUse(tx, k.ID); err != nil {
		return v, err
	}
	if v.secrets, err = a.secrets(tx, &v, r.Latest); err != nil {
		return v, err
	}
	v.limits, err = LimitsIn(tx, a.limiter, k, k.Rules(), r)
	return v, err
}

// secrets returns each secret of a key that is valid at now, with its last use. The current secret is
// first. The previous secrets follow, latest first. For a revoked key the list is empty.
func (a *admin) secrets(tx *Tx, v *keyFigures, now time.Time) (secretUses, error) {
	k, list := v.Key, secretUses{}
	if k.Status(now) == StatusRevoked {
		return list, nil
	}
	add := func(secret PreviousSecret) error {
		s := secretUse{PreviousSecret: secret, present: secret.Serial == k.Serial, use: v.use}
		if k.Serial != 0 { // otherwise the key has only had one secret
			var err error
			if s.use, err = a.keyring.SecretUse(tx, k, secret.Serial); err != nil {
				return err
			}
		}
		list = append(list, s)
		return nil
	}
	err := add(PreviousSecret{Serial: k.Serial, Hint: k.Hint})
	for _, alias := range slices.Backward(k.Aliases) {
		if err != nil {
			break
		}
		if alias.EndsAt.IsZero() || now.Before(alias.EndsAt) {
			err = add(alias)
		}
	}
	return list, err
}

// AppendJSON appends the hint of a secret, its end and its last use.
func (s *secretUse) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Time("ends_at", s.EndsAt, SecondsLayout)
	m.Text("hint", s.Hint)
	m.Time("last_used_at", s.use.At, SecondsLayout)
	m.Value("last_used_by", carrierOf(s.use))
	m.Value("last_used_ip", AddrOrNone(s.use.IP))
	m.Bool("present", s.present)
	return m.End()
}

// carrierOf returns how the key of a use was sent, or nil if it was never used.
func carrierOf(use LastUse) any {
	if use.At.IsZero() {
		return nil
	}
	return use.Carrier
}

// shown returns the JSON fields of a key in answers. Do not call it inside a transaction.
func (a *admin) shown(v *keyFigures, r *Request) (map[string]any, error) {
	usage, err := v.limits.Usages(a.limiter, r)
	if err != nil {
		return nil, err
	}
	k, use, limits, rules := v.Key, v.use, map[string]int{}, v.Rules()
	for i := range rules {
		if l := &rules[i]; !l.Owner {
			limits[l.Name] = l.Max
		}
	}
	shown := map[string]any{
		"id": k.ID, "name": k.Name, "ref": TextOrNone(k.Ref), "hint": k.Hint, "permissions": k.PermissionNames(), "limits": limits,
		"environment": k.Environment, "owner": k.OwnerName, "sandbox": k.Sandbox(), "metadata": k.Metadata, "allowed_ips": k.AllowedIPs, "resources": k.Resources,
		"query_allowed": k.QueryAllowed, "status": k.Status(r.Latest), "created_at": Seconds(k.CreatedAt), "expires_at": Seconds(k.ExpiresAt),
		"revoked_at": Seconds(k.RevokedAt), "rotated_at": Seconds(k.RotatedAt), "secrets": v.secrets, "usage": usage,
		"last_used_at": Seconds(use.At), "last_used_ip": AddrOrNone(use.IP), "last_used_by": carrierOf(use),
		"carriers":      map[string]uint64{CarrierBearer: use.Bearer, CarrierHeader: use.Header, CarrierQuery: use.Query},
		"query_last_at": Seconds(use.QueryAt), "query_last_ip": AddrOrNone(use.QueryIP),
	}
	if list := k.Inactive(); len(list) > 0 {
		shown["dormant_permissions"] = list
	}
	if k.Metadata == nil {
		shown["metadata"] = map[string]string{}
	}
	if k.AllowedIPs == nil {
		shown["allowed_ips"] = []string{}
	}
	return shown, nil
}
