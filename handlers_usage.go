package main

import (
	"cmp"
	"time"

	"latchkey/internal/sorted"
	"latchkey/internal/strictjson"
)

// LimitFigures are limits of a key, and what the store knows of their use.
type LimitFigures struct {
	rules    []*LimitRule  // those that are not off
	charges  []Charge      // of no units, one for each of rules
	statuses []LimitStatus // one for each of charges
}

// LimitsIn reads the figures of limits of a key, in a transaction.
func LimitsIn(tx *Tx, limiter *Limiter, k *Key, rules []LimitRule, r *Request) (f LimitFigures, err error) {
	f.charges, f.rules = make([]Charge, 0, len(rules)), make([]*LimitRule, 0, len(rules))
	for i := range rules {
		before := len(f.charges)
		if f.charges = k.AppendCharge(f.charges, &rules[i], 0); len(f.charges) > before {
			f.rules = append(f.rules, &rules[i])
		}
	}
	f.statuses, err = limiter.StoredStatuses(tx, f.charges, r.Steady)
	return f, err
}

// ReadLimits is LimitsIn with a transaction of its own.
func ReadLimits(store *Store, limiter *Limiter, k *Key, rules []LimitRule, r *Request) (f LimitFigures, err error) {
	err = store.View(func(tx *Tx) error {
		f, err = LimitsIn(tx, limiter, k, rules, r)
		return err
	})
	return f, err
}

// Usages returns the usage of each limit, for an answer. Do not call it inside a transaction.
func (f LimitFigures) Usages(limiter *Limiter, r *Request) (limitUsages, error) {
	limiter.UpdateStatuses(f.statuses, f.charges, r.Steady)
	list := make(limitUsages, 0, len(f.rules))
	for i, s := range f.statuses {
		u := limitUsage{rule: f.rules[i], status: s, resets: s.ResetsAt(r.Now)}
		if u.rule.Observe {
			var err error
			if u.refused, err = limiter.Observed.Count(f.charges[i].ID, u.rule.Name); err != nil {
				return nil, err
			}
		}
		list = append(list, u)
	}
	sorted.Func(list, func(a, b limitUsage) int { return cmp.Compare(a.rule.Name, b.rule.Name) })
	return list, nil
}

// limitUsages are the usages of the limits of a key. As JSON they are an object by the names of the
// limits.
type limitUsages []limitUsage

// limitUsage is the usage of a limit.
type limitUsage struct {
	rule    *LimitRule
	status  LimitStatus
	resets  time.Time // zero if no units are used, and for a limit on requests in flight
	refused uint64    // how many requests the limit would have refused in observe mode
}

// AppendJSON appends the usages.
func (l limitUsages) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	for i := range l {
		m.Value(l[i].rule.Name, &l[i])
	}
	return m.End()
}

// MarshalJSON returns the object, for encoding/json.
func (l limitUsages) MarshalJSON() ([]byte, error) { return l.AppendJSON(nil) }

// AppendJSON appends the usage.
func (u *limitUsage) AppendJSON(data []byte) ([]byte, error) {
	m := strictjson.Begin(data)
	m.Text("kind", u.rule.Kind())
	m.Int("limit", u.status.Limit.Max)
	m.Bool("observe", u.rule.Observe)
	m.Int("remaining", u.status.Remaining())
	m.Time("resets_at", u.resets, SecondsLayout)
	m.Text("scope", u.rule.Scope())
	m.Int("used", u.status.Used)
	m.Int("window_seconds", int(u.rule.Window/time.Second))
	if u.rule.Observe {
		m.Value("would_refuse", u.refused)
	}
	return m.End()
}
