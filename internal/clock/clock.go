// Package clock reads wall time and a steady time that also advances across
// suspend and restart.
package clock

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Clock tells two times. Wall time is for records and people and may step.
// Service time is for limits: it goes on with the time that really passes,
// also over suspend and restart, and never back. What ends at a date goes by
// both (Latest). All methods are safe for concurrent use.
type Clock struct {
	read  func() Reading
	wall  func() time.Time // the wall clock alone, which is much quicker to read
	start Reading
	base  time.Time    // service time at start
	known bool         // base continues a stamp of the same boot
	sleep atomic.Int64 // nanoseconds that the machine was suspended since start
	least atomic.Int64 // nanoseconds from the service time to the least that it can be

	mu    sync.Mutex    // of what settle has noted
	gap   time.Duration // by how much the wall clock was ahead of the least
	since time.Time     // service time from which on it was
}

// Reading is what the machine's clocks say at one moment.
type Reading struct {
	Wall   time.Time     // with Go's monotonic reading, which stands still in suspend
	Boot   time.Duration // since the machine started, suspend included; 0 where unknown
	BootID string        // which start that was, "" where unknown
}

// clockStamp is the service time that each commit stores.
type clockStamp struct {
	Service time.Time     `json:"service"`
	Least   time.Time     `json:"least,omitzero"` // not from before it was noted
	Boot    time.Duration `json:"boot"`
	BootID  string        `json:"boot_id"`
}

// NewClock starts a clock on the machine's own (ReadClocks).
func NewClock() *Clock {
	c := NewClockFrom(ReadClocks)
	c.wall = time.Now
	return c
}

// NewClockFrom starts a clock on other readings.
func NewClockFrom(read func() Reading) *Clock {
	now := read()
	wall := func() time.Time { return read().Wall }
	return &Clock{read: read, wall: wall, start: now, base: now.Wall.Round(0), since: now.Wall.Round(0)}
}

// Resume puts the service time after the one in a stamp of an earlier run. In
// the same boot of the machine it is that time plus what has passed since, so
// a step of the wall clock has no effect. After a reboot it is the wall clock,
// or the stamp where the wall clock has fallen behind it. It is called once,
// before the clock is used.
func (c *Clock) Resume(stamp []byte) error {
	if stamp == nil {
		return nil
	}
	var last clockStamp
	if err := json.Unmarshal(stamp, &last); err != nil {
		return fmt.Errorf("clock stamp: %w", err)
	}
	least := c.base
	switch {
	case last.BootID != "" && last.BootID == c.start.BootID && c.start.Boot >= last.Boot:
		passed := c.start.Boot - last.Boot
		c.base, c.known = last.Service.Add(passed), true
		if least = c.base; !last.Least.IsZero() {
			least = last.Least.Add(passed)
		}
	case last.Service.After(c.base):
		c.base = last.Service
	}
	if last.Least.After(least) {
		least = last.Least
	}
	c.least.Store(int64(least.Sub(c.base)))
	c.since = c.base
	return nil
}

// Continued says whether the stamp that Resume was given is of this boot of the
// machine, so that it still holds at the next start. It is so, too, where the
// machine does not tell its boots apart.
func (c *Clock) Continued() bool { return c.known || c.start.BootID == "" }

// Stamp gives the service time in the form that Resume reads.
func (c *Clock) Stamp() []byte {
	now := c.read()
	b, err := json.Marshal(clockStamp{Service: c.Service(now.Wall), Least: c.leastAt(now.Wall), Boot: now.Boot, BootID: now.BootID})
	if err != nil {
		panic(err) // a time, a number and a text always encode
	}
	return b
}

// Now reads the wall clock.
func (c *Clock) Now() time.Time { return c.wall() }

// Service gives the service time for a time that Now has given.
func (c *Clock) Service(now time.Time) time.Time {
	return c.base.Add(now.Sub(c.start.Wall) + time.Duration(c.sleep.Load()))
}

// Latest gives the time by which keys, earlier secrets and logins end, for a
// time that Now has given: the wall clock, or where that was set back the least
// that it can be. So nothing that has ended begins again.
func (c *Clock) Latest(now time.Time) time.Time {
	if least := c.leastAt(now); now.Before(least) {
		return least
	}
	return now
}

// Earliest is the earlier of the two, for what takes away what has ended: a wall
// clock that is ahead for a while takes nothing away.
func (c *Clock) Earliest(now time.Time) time.Time {
	if least := c.leastAt(now); least.Before(now) {
		return least
	}
	return now
}

// Behind is by how much the wall clock was set back behind the least that it can
// be, 0 where it was not.
func (c *Clock) Behind(now time.Time) time.Duration {
	return max(0, c.leastAt(now).Sub(now.Round(0)))
}

// leastAt is the least that the wall clock can be: it goes on like the service
// time, but does not stay ahead for ever where a machine has started with a wall
// clock that was years ahead (settle).
func (c *Clock) leastAt(now time.Time) time.Time {
	return c.Service(now).Add(time.Duration(c.least.Load()))
}

// Catch adds the time that the machine was suspended, which Go's monotonic
// clock leaves out. It is to be called about every second; until then limits
// only err on the strict side.
func (c *Clock) Catch() {
	now := c.read()
	if now.BootID != "" {
		missed := now.Boot - c.start.Boot - now.Wall.Sub(c.start.Wall)
		if missed > time.Duration(c.sleep.Load())+time.Second/2 {
			c.sleep.Store(int64(missed))
		}
	}
	c.settle(now.Wall)
}

const (
	// settled is for how long a wall clock has to go steadily to be believed
	// against what it said before.
	settled = 24 * time.Hour
	// steady is what it may drift meanwhile.
	steady = time.Minute
)

// settle believes a wall clock that is elsewhere than it was once it has been so
// for a day of running. Without it keys that end at a date would be of no use
// for years after a start with a clock that was years ahead.
func (c *Clock) settle(wall time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap := wall.Round(0).Sub(c.leastAt(wall))
	switch service := c.Service(wall); {
	case gap.Abs() < steady:
		c.gap, c.since = 0, service
	case (gap - c.gap).Abs() >= steady:
		c.gap, c.since = gap, service
	case service.Sub(c.since) >= settled:
		c.least.Add(int64(gap))
		c.gap, c.since = 0, service
	}
}

// Instant gives the moment at which the wall clock of a zone shows so many
// minutes after midnight of a date. A time that the clock skips is the moment
// at which it skips; of one that it shows twice it is the first, or with late
// the second.
func Instant(date time.Time, minutes int, zone *time.Location, late bool) time.Time {
	wall := time.Date(date.Year(), date.Month(), date.Day(), 0, minutes, 0, 0, time.UTC)
	var hits []time.Time
	var shifted time.Time
	for _, near := range []time.Duration{-26 * time.Hour, 26 * time.Hour} {
		_, offset := wall.Add(near).In(zone).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second).In(zone)
		if _, now := t.Zone(); now == offset {
			hits = append(hits, t)
		}
		if shifted.IsZero() {
			shifted = t // by the offset of before: it lies past the gap
		}
	}
	switch {
	case len(hits) == 0:
		start, _ := shifted.ZoneBounds()
		return start
	case late:
		return slices.MaxFunc(hits, time.Time.Compare)
	}
	return slices.MinFunc(hits, time.Time.Compare)
}
