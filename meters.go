package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Meter shows how a limit stands.
type Meter struct {
	Label       string
	Used, Limit int
	Percent     int
	Free        string
}

// Says is the meter as a text.
func (m Meter) Says() string { return fmt.Sprintf("%s: %d of %d", m.Label, m.Used, m.Limit) }

// Level is "full" where nothing is left, "high" where little is, or "".
func (m Meter) Level() string {
	switch {
	case m.Percent >= 100:
		return "full"
	case m.Percent >= 80:
		return "high"
	}
	return ""
}

// NextFree says when the next unit is free.
func (m Meter) NextFree(now time.Time) string {
	if m.Free == "" {
		return "nothing used"
	}
	return "next unit free " + Until(m.Free, now)
}

// Carrier says for people by which of the ways a key was sent.
func Carrier(way any) string {
	switch way {
	case CarrierBearer:
		return "bearer token"
	case CarrierHeader:
		return "X-API-Key"
	case CarrierQuery:
		return "?api_key= in the address"
	}
	return fmt.Sprint(way)
}

// LimitLabel is a limit as people read it.
func LimitLabel(name string) string {
	name = strings.TrimSuffix(name, "_limit")
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], "_", " ")
}

// Meters gives the meters of a key as the admin endpoint shows it: of the
// limits that its permissions let it use, the shortest window first.
func Meters(key map[string]any) []Meter {
	var list []Meter
	usage, _ := key["usage"].(map[string]any)
	permissions, _ := key["permissions"].([]any)
	window := func(name string) float64 {
		u, _ := usage[name].(map[string]any)
		seconds, _ := u["window_seconds"].(float64)
		return seconds
	}
	names := slices.SortedFunc(maps.Keys(usage), func(a, b string) int {
		return cmp.Or(cmp.Compare(window(a), window(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		u, ok := usage[name].(map[string]any)
		needs := map[string]any{CallsPerDay: "can_initiate_calls", EventsPerDay: "can_write_calendar"}[strings.TrimPrefix(name, "owner_")]
		if !ok || needs != nil && !slices.Contains(permissions, needs) {
			continue
		}
		used, _ := u["used"].(float64)
		limit, _ := u["limit"].(float64)
		m := Meter{Label: LimitLabel(name), Used: int(used), Limit: int(limit), Percent: int(min(100, 100*used/max(1, limit)))}
		if u["observe"] == true {
			m.Label += " (observed)"
		}
		m.Free, _ = u["resets_at"].(string)
		list = append(list, m)
	}
	return list
}

// State is how a key stands, for people: a word and the class of its label.
type State struct{ Word, Class string }

// soon is how long before its end a key is told of as expiring.
const soon = 7 * 24 * time.Hour

// StateOf gives the first that applies: revoked, expired, paused, refused for
// a limit in the last minutes, at its end soon, never used, active.
func StateOf(key map[string]any, limited bool, now time.Time) State {
	status, _ := key["status"].(string)
	if status != StatusActive {
		return State{DisplayWord(status), status}
	}
	ends, _ := key["expires_at"].(string)
	at, err := time.Parse(time.RFC3339, ends)
	switch {
	case limited:
		return State{"Rate-limited", "failed"}
	case err == nil && at.Sub(now) < soon:
		return State{"Expires soon", "paused"}
	case key["last_used_at"] == nil:
		return State{"Never used", "unused"}
	}
	return State{"Active", StatusActive}
}

// Until says how long from now a time is, as the admin endpoint writes it.
func Until(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil:
		return "never"
	case !t.After(now):
		return Ago(at, now)
	}
	left := t.Sub(now)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(left / unit.length); n > 1 {
			return fmt.Sprintf("in %d %ss", n, unit.name)
		} else if n == 1 {
			return "in 1 " + unit.name
		}
	}
	return "in less than a minute"
}

// Ago says how long before now a time was, as the admin endpoint writes it.
func Ago(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "never"
	}
	since := now.Sub(t)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(since / unit.length); n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		} else if n == 1 {
			return "1 " + unit.name + " ago"
		}
	}
	return "just now"
}
