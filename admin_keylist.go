package main

import (
	"encoding/csv"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The values of the parameter tag of the list of keys.
const (
	tagNeverUsed   = "never_used"
	tagExpiresSoon = "expires_soon"
	tagRateLimited = "rate_limited"
	tagSentInURL   = "sent_in_url"
	tagRotating    = "rotating"
)

// keyTags returns all values of the parameter tag.
func keyTags() []string {
	return []string{tagNeverUsed, tagExpiresSoon, tagRateLimited, tagSentInURL, tagRotating}
}

// readTag adds the filter that the parameter tag of a query names to f. Unless the query has a
// status, the tags about secrets that may still be used leave out revoked keys.
func (a *admin) readTag(r *Request, q url.Values, f *KeyFilter) error {
	tag := q.Get("tag")
	if tag == "" {
		return nil
	}
	if f.Status == "" && tag != tagNeverUsed && q.Get("status") == "" {
		f.Status = StatusLive
	}
	switch tag {
	case tagNeverUsed:
		f.NeverUsed = true
	case tagExpiresSoon:
		f.ExpiresBefore = f.Now.Add(ExpiresSoon)
		if f.Status == "" || f.Status == StatusLive {
			f.Status = StatusActive
		}
	case tagRateLimited:
		f.Only = a.history.Limited(r.Now)
	case tagRotating, tagSentInURL:
		return a.store.View(func(tx *Tx) (err error) {
			if f.Only = a.keyring.Rotating(tx, f.Now); tag == tagSentInURL {
				f.Only, err = a.keyring.SentInURL(tx)
			}
			return err
		})
	default:
		return ErrValidation.With("tag must be one of %s; got %q.", strings.Join(keyTags(), " "), tag)
	}
	return nil
}

// keyListColumns returns the names of the columns of the list of keys as CSV.
func keyListColumns() []string {
	return []string{"id", "name", "hint", "status", "owner", "environment", "permissions", "allowed_ips", "created_at", "expires_at", "revoked_at", "last_used_at", "last_used_ip", "note"}
}

// csvPart is the number of keys that sendCSV reads in one transaction, so that a slow client does not
// keep one open.
const csvPart = 2000

// sendCSV answers with all keys that f selects as CSV. A key that is created or revoked meanwhile may
// be missing or appear twice. If reading fails after the first lines, sendCSV breaks the connection, so
// that the client notices.
func (a *admin) sendCSV(w http.ResponseWriter, r *Request, f KeyFilter) error {
	var out *csv.Writer
	for from, count := 0, 1; from < count; from += csvPart {
		var lines [][]string
		err := r.View(a.store, func(tx *Tx) error {
			lines = lines[:0]
			keys, n, err := a.keyring.List(r.Context(), tx, f, func(count int) (int, int) { return min(from, count), min(from+csvPart, count) })
			count = n
			for _, key := range keys {
				use, bad := a.keyring.LastUse(tx, key.ID)
				if bad != nil {
					return bad
				}
				lines = append(lines, keyLine(key, use, f.Now))
			}
			return err
		})
		if err != nil && out == nil {
			return err
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if out == nil {
			out = newCSV(w, "keys", keyListColumns())
		}
		for _, line := range lines {
			if out.Write(line) != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	out.Flush()
	return nil
}

// keyLine returns a line of the list of keys as CSV, in a form that a spreadsheet does not run as
// formulas.
func keyLine(k *Key, use LastUse, now time.Time) []string {
	text := func(at *string) string {
		if at == nil {
			return ""
		}
		return *at
	}
	ip := ""
	if use.IP.IsValid() {
		ip = AddrText(use.IP)
	}
	var nets []string
	for _, n := range k.AllowedIPs {
		nets = append(nets, n.String())
	}
	line := []string{
		k.ID, k.Name, k.Hint, k.Status(now), k.OwnerName, k.Environment, strings.Join(k.PermissionNames(), " "), strings.Join(nets, " "),
		text(Seconds(k.CreatedAt)), text(Seconds(k.ExpiresAt)), text(Seconds(k.RevokedAt)), text(Seconds(use.At)), ip, k.Metadata["note"],
	}
	for i := range line {
		line[i] = plainCell(line[i])
	}
	return line
}
