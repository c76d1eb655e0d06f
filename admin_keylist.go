package main

import (
	"encoding/csv"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The values of the parameter tag of the list of keys.
const (
	tagNeverUsed    = "never_used"
	tagExpiresSoon  = "expires_soon"
	tagNeverExpires = "never_expires"
	tagRateLimited  = "rate_limited"
	tagSentInURL    = "sent_in_url"
	tagRotating     = "rotating"
	tagStillSent    = "still_sent"
)

// keyTags returns all values of the parameter tag.
func keyTags() []string {
	return []string{tagNeverUsed, tagExpiresSoon, tagNeverExpires, tagRateLimited, tagSentInURL, tagRotating, tagStillSent}
}

// keyTagger knows which keys have a tag.
type keyTagger struct {
	keyring  *Keyring
	history  *History
	refusals *Refusals
}

// NewKeyTagger returns a keyTagger of the keys in keyring. history knows which keys a limit has refused,
// and refusals which keys were sent after their end.
func NewKeyTagger(keyring *Keyring, history *History, refusals *Refusals) keyTagger {
	return keyTagger{keyring, history, refusals}
}

// Add adds the filter of a tag to f. Tags of what a key may yet do select active keys, unless f has
// another status than StatusLive. Tags of a secret that was seen or is valid leave out revoked keys, unless f
// has a status.
func (g keyTagger) Add(tx *Tx, tag string, f *KeyFilter) (err error) {
	switch tag {
	case tagNeverUsed, tagExpiresSoon, tagNeverExpires:
		if f.Status == "" || f.Status == StatusLive {
			f.Status = StatusActive
		}
	case tagRateLimited, tagSentInURL, tagRotating:
		if f.Status == "" {
			f.Status = StatusLive
		}
	}
	switch tag {
	case "":
	case tagNeverUsed:
		f.NeverUsed = true
	case tagExpiresSoon:
		f.ExpiresBefore = f.Now.Add(ExpiresSoon)
	case tagNeverExpires:
		f.WithoutEnd = true
	case tagRateLimited:
		f.Only = g.history.Limited(f.Now)
	case tagSentInURL:
		f.Only, err = g.keyring.SentInURL(tx)
	case tagRotating:
		f.Only = g.keyring.Rotating(tx, f.Now)
	case tagStillSent:
		f.Only = g.refusals.endedKeys()
	default:
		err = ErrValidation.With("tag must be one of %s; got %q.", strings.Join(keyTags(), ", "), tag)
	}
	return err
}

// The values of the parameter sort of the list of keys that sort by the history.
const (
	sortRequests = "requests"
	sortRefused  = "refused"
)

// Rank makes f sort by the requests of the last 24 hours, or by those of them that were refused, if its order
// is sortRequests or sortRefused. Do not call it inside a transaction.
func (g keyTagger) Rank(f *KeyFilter, now time.Time) error {
	count := Counts.Total
	switch f.Sort {
	case sortRequests:
	case sortRefused:
		count = Counts.Refused
	default:
		return nil
	}
	ranked, err := g.history.Ranked(ofKey, period{Step: stepHour, Last: 24, Now: now})
	f.Sort, f.Counts = SortCounts, make(map[string]uint64, ranked.Count)
	for _, one := range ranked.Part(0, ranked.Count) {
		if n := count(one.sum); n > 0 {
			f.Counts[one.name] = n
		}
	}
	return err
}

// CountLive returns the number of live keys, which are not sandbox keys, with a tag and a status, which may be "". It is the
// number in the list with these filters.
func (g keyTagger) CountLive(r *Request, tx *Tx, tag, status string) (count int, err error) {
	f := KeyFilter{Now: r.Latest, Status: status, Sandbox: new(false)}
	if err := g.Add(tx, tag, &f); err != nil || f.Only != nil && len(f.Only) == 0 {
		return 0, err
	}
	_, count, err = g.keyring.List(r.Context(), tx, f, func(int) (from, to int) { return 0, 0 })
	return count, err
}

// keyListColumns returns the names of the columns of the list of keys as CSV.
func keyListColumns() []string {
	return []string{"id", "name", "hint", "status", "owner", "environment", "permissions", "allowed_ips", "created_at", "expires_at", "revoked_at", "last_used_at", "last_used_ip", "note", "sandbox"}
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
		text(Seconds(k.CreatedAt)), text(Seconds(k.ExpiresAt)), text(Seconds(k.RevokedAt)), text(Seconds(use.At)), ip, k.Metadata["note"], strconv.FormatBool(k.Sandbox()),
	}
	for i := range line {
		line[i] = plainCell(line[i])
	}
	return line
}
