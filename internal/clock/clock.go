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

// Clock reads two times. Wall time is for records and people, and may step.
// Service time is for limits: it advances with real time, also across suspend and
// restart, and never goes back. The clock also derives a lower bound of the wall
// time from it, so that expired keys stay expired if the wall clock is set back
// (see Latest). All methods except Resume are safe for concurrent use.
type Clock struct {
	read  func() Reading
	wall  func() time.Time // reads only the wall clock, which is much faster
	start Reading
	base  time.Time    // service time at start
	known bool         // base continues a stamp of the same boot
	sleep atomic.Int64 // nanoseconds that the machine was suspended since start
	least atomic.Int64 // nanoseconds from the service time to the lower bound of the wall time

	mu    sync.Mutex    // guards gap and since, which settle writes
	gap   time.Duration // wall clock minus its lower bound; 0 while they agree
	since time.Time     // service time at which gap was set
}

// Reading holds the machine's clocks at one moment.
type Reading struct {
	Wall   time.Time     // with Go's monotonic reading, which stops during suspend
	Boot   time.Duration // since the machine started, including suspend; 0 if unknown
	BootID string        // identifies that start; "" if unknown
}

// clockStamp is the JSON form of a stamp. The store keeps one with each commit.
type clockStamp struct {
	Service time.Time     `json:"service"`
	Least   time.Time     `json:"least,omitzero"` // the lower bound of the wall time; zero in stamps of old versions
	Boot    time.Duration `json:"boot"`
	BootID  string        `json:"boot_id"`
}

// NewClock returns a clock that reads the machine's clocks (see ReadClocks).
func NewClock() *Clock {
	c := NewClockFrom(ReadClocks)
	c.wall = time.Now
	return c
}

// NewClockFrom returns a clock that reads its times from read, which must be safe
// for concurrent use.
func NewClockFrom(read func() Reading) *Clock {
	now := read()
	wall := func() time.Time { return read().Wall }
	return &Clock{read: read, wall: wall, start: now, base: now.Wall.Round(0), since: now.Wall.Round(0)}
}

// Resume continues the service time from a stamp of an earlier run. In the same
// boot of the machine it is the stamp's time plus the time passed since, so a step
// of the wall clock has no effect. After a reboot, or if the boot is unknown, it
// is the later of the wall clock and the stamp's time. With a nil stamp Resume
// does nothing. It returns an error if the stamp cannot be decoded. Call it once,
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

// Continued reports whether the stamp passed to Resume is from this boot of the
// machine, so that the next run can still resume from it. It also returns true if
// the boot is unknown.
func (c *Clock) Continued() bool { return c.known || c.start.BootID == "" }

// Stamp returns the present service time in the form that Resume reads.
func (c *Clock) Stamp() []byte {
	now := c.read()
	b, err := json.Marshal(clockStamp{Service: c.Service(now.Wall), Least: c.leastAt(now.Wall), Boot: now.Boot, BootID: now.BootID})
	if err != nil {
		panic(err) // a time, a number and a text always encode
	}
	return b
}

// Now returns the wall time.
func (c *Clock) Now() time.Time { return c.wall() }

// Service returns the service time at now, which must come from Now.
func (c *Clock) Service(now time.Time) time.Time {
	return c.base.Add(now.Sub(c.start.Wall) + time.Duration(c.sleep.Load()))
}

// Latest returns the later of now, which must come from Now, and the lower bound of
// the wall time. Keys, previous secrets and logins expire by it, so none becomes
// valid again if the wall clock is set back.
func (c *Clock) Latest(now time.Time) time.Time {
	if least := c.leastAt(now); now.Before(least) {
		return least
	}
	return now
}

// Earliest returns the earlier of now, which must come from Now, and the lower bound
// of the wall time. Expired entries are deleted by it, so a wall clock that is
// ahead for a while deletes nothing too early.
func (c *Clock) Earliest(now time.Time) time.Time {
	if least := c.leastAt(now); least.Before(now) {
		return least
	}
	return now
}

// Behind returns how far the wall clock is behind its lower bound, or 0 if it is
// not.
func (c *Clock) Behind(now time.Time) time.Duration {
	return max(0, c.leastAt(now).Sub(now.Round(0)))
}

// leastAt returns the lower bound of the wall time at now. It advances with the
// service time. Only settle moves it, so that it does not stay years ahead after a
// start with a wrong wall clock.
func (c *Clock) leastAt(now time.Time) time.Time {
	return c.Service(now).Add(time.Duration(c.least.Load()))
}

// Catch adds the time of a suspend to the service time, since Go's monotonic clock
// leaves it out. It also lets the clock adapt to a wall clock that was set. Call
// it about once a second. Until it is called after a suspend, limits are too
// strict, never too generous.
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
	// settled is how long a wall clock that was set must run steadily before
	// it is trusted.
	settled = 24 * time.Hour
	// steady is how far it may drift during that time.
	steady = time.Minute
)

// settle trusts a wall clock that was set to another time after it has kept that
// time for a day of running, and moves the lower bound there. Otherwise, after a
// start with a clock that is years ahead, keys with an expiry date would be
// unusable for years.
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

// Instant returns the moment at which clocks in zone show the time that is minutes
// after midnight of date. If the clocks skip that time, it returns the moment of
// the skip. If they show it twice, it returns the first moment, or the second
// if late.
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
			shifted = t // by the offset before the change, so it lies after the gap
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
