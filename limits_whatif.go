package main

import (
	"errors"
	"time"
)

// Asked is how many units of RequestsPerMinute were asked for at one time, and how many of them were
// charged. The others were refused, by this limit or by another one that is charged together with it.
type Asked struct {
	At      time.Time // service time
	Units   int
	Charged int
}

// AskedOf returns the Asked for units whose charge has returned err. Nothing was asked for if it is
// neither nil nor ErrRateLimit: then the store has failed.
func AskedOf(now time.Time, units int, err error) Asked {
	switch {
	case err == nil:
		return Asked{now, units, units}
	case errors.Is(err, ErrRateLimit):
		return Asked{At: now, Units: units}
	}
	return Asked{}
}

// CellSpan is the length of a cell. Of the units that are asked for in a cell only the number is
// recorded, so a Replay knows the time of each to within CellSpan. The longer a cell, the further
// apart are Replay.Least and Replay.Most; the shorter, the more there is to store.
const CellSpan = time.Minute / 16

// CellOf returns the number of the cell that contains a service time.
func CellOf(at time.Time) int64 { return at.UnixNano() / int64(CellSpan) }

// CellBegin returns the service time at which a cell begins.
func CellBegin(cell int64) time.Time { return time.Unix(0, cell*int64(CellSpan)) }

// Replay finds what a limit would have done about units that were asked for in the past. It feeds
// them to the Windows by which a Limiter decides, which are empty at first. A Replay is not safe
// for concurrent use.
type Replay struct {
	Asked uint64 // units
	// Least and Most are bounds of how many of them the limit would have refused. They are equal if the
	// time of each unit is known.
	Least, Most uint64

	late, early Window    // for Least and Most
	all         [2]Window // admit every unit, with exact times and with parts
	peaks       [2]int    // most units that counted at once in each of all, if each is asked for as early as it can have been
}

// Replay returns a Replay of a limit that is counted in a window.
func (l *Limiter) Replay(limit Limit) *Replay {
	span := l.counted(limit).Window
	return &Replay{
		late: NewWindow(limit.Max, limit.Window), early: NewWindow(limit.Max, span),
		all: [2]Window{NewWindow(exactMax, span), NewWindow(exactMax+1, span)},
	}
}

// AskCell replays n units of which it is only known in which cell they were asked for.
func (r *Replay) AskCell(cell int64, n int) {
	from := CellBegin(cell)
	r.ask(from, from.Add(CellSpan-1), n)
}

// Ask replays a unit that was asked for at a time.
func (r *Replay) Ask(at time.Time) { r.ask(at, at, 1) }

// ask replays n units that were asked for between from and to. The calls must be in the order of
// time.
//
// Least is what the limit refuses if all units come at the end of their cells. Then units count
// together only if their cells begin less than a window apart, and such units count together
// wherever they are in their cells. Most is what it refuses if each unit is asked for at the
// beginning of its cell and counts from the end. Then all units count together that do so anywhere
// in their cells. A Window admits a unit whenever it can, and no other choice admits more, so the
// true number is in between.
func (r *Replay) ask(from, to time.Time, n int) {
	r.Asked += uint64(n)
	r.Least += refusedOf(&r.late, to, to, n)
	r.Most += refusedOf(&r.early, from, to, n)
	for i := range r.all {
		r.peaks[i] = max(r.peaks[i], r.all[i].Used(from)+n)
		r.all[i].Add(to, n)
	}
}

// refusedOf asks w for n units at from, counts those that it admits from to on, and returns how
// many it refuses.
func refusedOf(w *Window, from, to time.Time, n int) uint64 {
	admitted := min(n, max(0, w.Max-w.Used(from)))
	w.Add(to, admitted)
	return uint64(n - admitted)
}

// Enough returns a Max with which the limit would have refused nothing. It is the smallest one if
// the time of each unit is known, and otherwise the smallest one that is certain.
func (r *Replay) Enough() int {
	if r.peaks[0] <= exactMax {
		return r.peaks[0]
	}
	return max(r.peaks[1], exactMax+1)
}
