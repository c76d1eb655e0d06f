package main

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KeyQuery is what a list of keys is asked for.
type KeyQuery struct {
	status, search, environment, owner string // "" is everything
	permission                         Permission
	unused                             time.Duration // 0 is everything
	sort                               string
	ascending                          bool
}

// statusLive finds the keys of every status but revoked.
const statusLive = "live"

// ReadKeyQuery reads the parameters of a list; ErrValidation names the one
// that does not fit.
func ReadKeyQuery(q url.Values, rights *Rights) (f KeyQuery, err error) {
	f = KeyQuery{
		status: q.Get("status"), search: strings.ToLower(strings.TrimSpace(q.Get("search"))), environment: q.Get("environment"), owner: q.Get("owner"),
		sort: q.Get("sort"),
	}
	if states := []string{"", StatusActive, StatusPaused, StatusExpired, StatusRevoked, statusLive}; !slices.Contains(states, f.status) {
		return f, ErrValidation.With("status must be one of%s; got %q.", strings.Join(states, " "), f.status)
	}
	if name := q.Get("permission"); name != "" {
		if f.permission, err = rights.Parse([]string{name}); err != nil {
			return f, err
		}
	}
	if text := q.Get("unused_days"); text != "" {
		days, err := strconv.Atoi(text)
		if err != nil || days < 1 || days > 36500 {
			return f, ErrValidation.With("unused_days must be a whole number from 1 to 36500; got %q.", text)
		}
		f.unused = time.Duration(days) * 24 * time.Hour
	}
	if sorts := []string{"", "created", "name", "last_used", "expires"}; !slices.Contains(sorts, f.sort) {
		return f, ErrValidation.With("sort must be one of%s; got %q.", strings.Join(sorts, " "), f.sort)
	}
	switch order := q.Get("order"); order {
	case "":
		f.ascending = f.sort == "name" || f.sort == "expires"
	case "asc", "desc":
		f.ascending = order == "asc"
	default:
		return f, ErrValidation.With("order must be asc or desc; got %q.", order)
	}
	if f.sort == "" && f.ascending {
		f.sort = "created"
	}
	return f, nil
}

// maxSorted is how many keys a list sorts: it holds what they sort by in
// memory.
const maxSorted = 200_000

// Page gives the keys of one page and how many there are on all. Without a
// filter and in the order in which they are stored, newest first, it reads the
// page alone; else it goes through all keys.
func (f KeyQuery) Page(tx *Tx, keyring *Keyring, page Page, now time.Time) (keys []*Key, count int, err error) {
	if f == (KeyQuery{}) || f == (KeyQuery{sort: "created"}) {
		if count, err = keyring.Count(tx); err != nil {
			return nil, 0, err
		}
		seen := 0
		err = keyring.Each(tx, func(k *Key) bool {
			if seen++; seen > (page.Number-1)*page.Limit {
				keys = append(keys, k)
			}
			return len(keys) < page.Limit
		})
		return keys, count, err
	}
	rows, err := f.all(tx, keyring, now)
	if err != nil {
		return nil, 0, err
	}
	f.order(rows)
	from, to := page.Bounds(len(rows))
	for _, row := range rows[from:to] {
		key, err := keyring.Get(tx, row.id)
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, key)
	}
	return keys, len(rows), nil
}

// keyRow is what a key is sorted by.
type keyRow struct {
	id, name string
	at       int64
}

// all gives the keys that fit, newest first.
func (f KeyQuery) all(tx *Tx, keyring *Keyring, now time.Time) (rows []keyRow, err error) {
	var failed error
	err = keyring.Each(tx, func(k *Key) bool {
		if !f.matches(k, now) {
			return true
		}
		row := keyRow{id: k.ID}
		var use Use
		if f.unused > 0 || f.sort == "last_used" {
			if use, failed = keyring.LastUse(tx, k.ID); failed != nil {
				return false
			}
		}
		if since := now.Sub(latest(use.At, k.CreatedAt)); f.unused > 0 && since < f.unused {
			return true
		}
		switch f.sort {
		case "name":
			row.name = strings.ToLower(k.Name)
		case "last_used":
			row.at = orBefore(use.At)
		case "expires":
			if row.at = orBefore(k.ExpiresAt); k.ExpiresAt.IsZero() {
				row.at = 1<<63 - 1 // never is last
			}
		}
		rows = append(rows, row)
		if len(rows) > maxSorted {
			failed = ErrValidation.With("More than %d keys fit, too many to filter and sort. Narrow the list by owner, environment or search.", maxSorted)
		}
		return failed == nil
	})
	return rows, errors.Join(err, failed)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// orBefore is a time to sort by; never is before every time.
func orBefore(at time.Time) int64 {
	if at.IsZero() {
		return -1 << 63
	}
	return at.UnixNano()
}

func (f KeyQuery) order(rows []keyRow) {
	sign := -1
	if f.ascending {
		sign = 1
	}
	switch f.sort {
	case "name", "last_used", "expires":
		slices.SortStableFunc(rows, func(a, b keyRow) int { return sign * cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.at, b.at)) })
	case "created":
		if f.ascending {
			slices.Reverse(rows)
		}
	}
}

func (f KeyQuery) matches(k *Key, now time.Time) bool {
	status := k.Status(now)
	if f.status == statusLive && status == StatusRevoked || f.status != "" && f.status != statusLive && status != f.status {
		return false
	}
	if f.environment != "" && k.Environment != f.environment || f.owner != "" && k.OwnerName != f.owner || f.permission != 0 && !k.Has(f.permission) {
		return false
	}
	text := strings.ToLower(strings.Join([]string{k.ID, k.Name, k.Hint, k.OwnerName, k.Environment, k.Metadata["note"]}, "\n"))
	return strings.Contains(text, f.search)
}
