package main

import (
	"cmp"
	"slices"
	"time"
)

// Week is seven days of a calendar, from a Monday on, in a time zone.
type Week struct {
	Monday time.Time // midnight of UTC that stands for the date
	Zone   *time.Location
}

// WeekOf gives the week of a moment.
func WeekOf(at time.Time, zone *time.Location) Week {
	local := at.In(zone)
	date := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
	return Week{date.AddDate(0, 0, -(int(date.Weekday())+6)%7), zone}
}

// Day is the date of a day of the week, Monday being 0, as Monday is one.
func (w Week) Day(n int) time.Time { return w.Monday.AddDate(0, 0, n) }

// Part is the part of something on one day, in minutes of that day's wall
// clock, and where it stands beside others at the same time: in which lane of
// how many.
type Part struct {
	From, To    int
	Lane, Lanes int
	Index       int // of what it is a part of
	Before      bool
	After       bool // it began before the day, goes on after it
}

// MinutesOfDay is the length of a day's grid. On a day that is an hour longer
// or shorter the wall clock still goes from 0 to 24.
const MinutesOfDay = 24 * 60

// PartOn gives the part of a span on a day of the week; none where ok is false.
func (w Week) PartOn(n int, start, end time.Time) (p Part, ok bool) {
	day := w.Day(n)
	first, last := Instant(day, 0, w.Zone, false), Instant(day, MinutesOfDay, w.Zone, false)
	if !start.Before(last) || !end.After(first) {
		return p, false
	}
	p.To = MinutesOfDay
	if p.Before = start.Before(first); !p.Before {
		p.From = clockMinutes(start.In(w.Zone))
	}
	if p.After = end.After(last); end.Before(last) {
		p.To = clockMinutes(end.In(w.Zone))
	}
	return p, true
}

func clockMinutes(t time.Time) int { return t.Hour()*60 + t.Minute() }

// SideBySide puts the parts of a day into lanes, so that none hides another,
// in the order of their beginning. Each is taken to be at least so many
// minutes long, which is what it needs to be seen.
func SideBySide(parts []Part, least int) {
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Or(a.From-b.From, b.To-a.To) })
	for begin := 0; begin < len(parts); {
		// A group ends where one begins after all before it have ended.
		var ends []int // of the last in each lane
		end := begin
		for latest := 0; end < len(parts) && (end == begin || parts[end].From < latest); end++ {
			p := &parts[end]
			p.To = max(p.To, p.From+least)
			p.Lane = slices.IndexFunc(ends, func(to int) bool { return to <= p.From })
			if p.Lane < 0 {
				p.Lane, ends = len(ends), append(ends, 0)
			}
			ends[p.Lane] = p.To
			latest = max(latest, p.To)
		}
		for i := begin; i < end; i++ {
			parts[i].Lanes = len(ends)
		}
		begin = end
	}
}
