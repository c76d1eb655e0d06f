package main

import (
	"fmt"
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

// LimitLabel is a limit as people read it.
func LimitLabel(name string) string {
	name = strings.TrimSuffix(name, "_limit")
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], "_", " ")
}

// Meters gives the meters of a key as the admin endpoint shows it: of the
// limits that its permissions let it use.
func Meters(key map[string]any) []Meter {
	var list []Meter
	usage, _ := key["usage"].(map[string]any)
	permissions, _ := key["permissions"].([]any)
	for _, l := range []struct {
		name  string
		needs any
	}{{RequestsPerMinute, nil}, {CallsPerDay, "can_initiate_calls"}, {EventsPerDay, "can_write_calendar"}} {
		u, ok := usage[l.name].(map[string]any)
		if !ok || l.needs != nil && !slices.Contains(permissions, l.needs) {
			continue
		}
		used, _ := u["used"].(float64)
		limit, _ := u["limit"].(float64)
		m := Meter{Label: LimitLabel(l.name), Used: int(used), Limit: int(limit), Percent: int(min(100, 100*used/max(1, limit)))}
		m.Free, _ = u["resets_at"].(string)
		list = append(list, m)
	}
	return list
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
