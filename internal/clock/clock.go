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

// Clock reads two times. The wall time is for records and people. It jumps if somebody sets the
// system clock. The service time is for limits. It advances with real time, also while the machine
// is suspended or the program is stopped, and never goes back. From the service time the Clock also
// derives a lower bound of the wall time. With it, expired keys stay expired if the wall clock is
// set back (see Latest). All methods except Resume are safe for concurrent use.
type Clock struct {
	read  func() Reading
	wall  func() time.Time // reads only the wall clock; much faster than read
	start Reading
	base  time.Time    // service time at start
	known bool         // base was computed from a stamp of the same boot of the machine
	sleep atomic.Int64 // nanoseconds that the machine was suspended since start
	shift atomic.Int64 // nanoseconds by which Shift has moved the service time
	least atomic.Int64 // nanoseconds from elapsed to the lower bound of the wall time

	mu    sync.Mutex    // guards gap and since, which settle writes
	gap   time.Duration // wall clock minus its lower bound; 0 if they differ by less than a minute
	since time.Time     // service time at which gap was set
}

// Reading holds the machine's clocks at one moment.
type Reading struct {
	Wall   time.Time     // with Go's monotonic reading, which stops during suspend
	Boot   time.Duration // time since the machine was booted, including suspend; 0 if unknown
	BootID string        // identifies the boot; "" if unknown
}

// clockStamp is the JSON form of a stamp. The store writes a new stamp with each commit.
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

// Resume continues the service time of an earlier run of the program. stamp is the result of Stamp
// in that run. If the machine was not rebooted since, the service time is the stamp's time plus the
// time that has passed, and the wall clock has no effect. After a reboot, or if the boot is unknown,
// it is the later of the wall time and the stamp's time. Resume does nothing if stamp is nil. It
// returns an error if stamp cannot be decoded. Call it once, before the clock is used.
func (c *Clock) Resume(stamp []byte) error {
	if stamp == nil {
		return nil
	}
	var last clockStamp
	if err := json.Unmarshal(stamp, &last); err != nil {
		return fmt.Errorf("decode clock stamp: %w", err)
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

// Continued reports whether the stamp that was passed to Resume is from the current boot of the
// machine, so that a later run can still resume from it. It returns true too if the boot is unknown.
func (c *Clock) Continued() bool { return c.known || c.start.BootID == "" }

// Stamp returns the current service time in the form that Resume reads.
func (c *Clock) Stamp() []byte {
	now := c.read()
	b, err := json.Marshal(clockStamp{Service: c.Steady(now.Wall), Least: c.leastAt(now.Wall), Boot: now.Boot, BootID: now.BootID})
	if err != nil {
		panic(err) // times, numbers and texts can always be encoded
	}
	return b
}

// Now returns the wall time.
func (c *Clock) Now() time.Time { return c.wall() }

// Steady returns the service time at now. now must be a result of Now.
func (c *Clock) Steady(now time.Time) time.Time {
	return c.elapsed(now).Add(time.Duration(c.shift.Load()))
}

// elapsed is Steady without what Shift has added.
func (c *Clock) elapsed(now time.Time) time.Time {
	return c.base.Add(now.Sub(c.start.Wall) + time.Duration(c.sleep.Load()))
}

// Shift moves the service time by d, which may be negative: the nodes of a cluster have one service time. The
// lower bound of the wall time stays as it is.
func (c *Clock) Shift(d time.Duration) { c.shift.Add(int64(d)) }

// Latest returns the later of now and the lower bound of the wall time at now. now must be a result
// of Now. Use it to check whether something has expired: then nothing becomes valid again if the
// wall clock is set back.
func (c *Clock) Latest(now time.Time) time.Time {
	_, latest := c.Bounds(now)
	return latest
}

// Earliest returns the earlier of now and the lower bound of the wall time at now. now must be a
// result of Now. Use it to delete things that have expired: then nothing is deleted too early if
// the wall clock is ahead for a while.
func (c *Clock) Earliest(now time.Time) time.Time {
	earliest, _ := c.Bounds(now)
	return earliest
}

// Bounds returns Earliest and Latest of the same time.
func (c *Clock) Bounds(now time.Time) (earliest, latest time.Time) {
	least := c.leastAt(now)
	if least.Before(now) {
		return least, now
	}
	return now, least
}

// Behind returns how far the wall clock is behind its lower bound at now. It returns 0 if it is not
// behind. now must be a result of Now.
func (c *Clock) Behind(now time.Time) time.Duration {
	return max(0, c.leastAt(now).Sub(now.Round(0)))
}

// leastAt returns the lower bound of the wall time at now. The lower bound advances with the service
// time. Besides, only settle changes it, so that it does not stay years ahead if the program was
// once started with a wrong wall clock.
func (c *Clock) leastAt(now time.Time) time.Time {
	return c.elapsed(now).Add(time.Duration(c.least.Load()))
}

// Catch adds the time for which the machine was suspended to the service time, because Go's
// monotonic clock does not include it. It also adapts the lower bound of the wall time to a wall
// clock that was set. Call it about once a second. Until it is called after a suspend, limits are
// too strict, but never too generous.
func (c *Clock) Catch() {
	now := c.read()
	if missed := c.missed(now); missed > time.Duration(c.sleep.Load())+suspended {
		for range 2 { // the goroutine may have been interrupted between the readings of the two clocks
			missed = min(missed, c.missed(c.read()))
		}
		if missed > time.Duration(c.sleep.Load())+suspended {
			c.sleep.Store(int64(missed))
		}
	}
	c.settle(now.Wall)
}

// suspended is the shortest suspension that Catch adds to the service time.
const suspended = 10 * time.Millisecond

// missed returns for how long the machine was suspended since start, according to a reading.
func (c *Clock) missed(now Reading) time.Duration {
	if now.BootID == "" {
		return 0
	}
	return now.Boot - c.start.Boot - now.Wall.Sub(c.start.Wall)
}

const (
	// settled is how long a wall clock must run steadily before settle accepts its time.
	settled = 24 * time.Hour
	// steady is how far the wall clock may drift from the service time while it runs steadily.
	steady = time.Minute
)

// settle sets the lower bound of the wall time to the wall clock after the wall clock has run
// steadily for a day. Otherwise keys with an expiry date could be unusable for years if the program
// was once started with a clock that was years ahead.
func (c *Clock) settle(wall time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap := wall.Round(0).Sub(c.leastAt(wall))
	switch service := c.elapsed(wall); {
	case gap.Abs() < steady:
		c.gap, c.since = 0, service
	case (gap - c.gap).Abs() >= steady:
		c.gap, c.since = gap, service
	case service.Sub(c.since) >= settled:
		c.least.Add(int64(gap))
		c.gap, c.since = 0, service
	}
}

// Instant returns the moment at which clocks in zone show the time that is minutes after midnight of
// date. If the clocks skip that time, it returns the moment of the skip. If they show it twice, it
// returns the first moment.
func Instant(date time.Time, minutes int, zone *time.Location) time.Time {
	return slices.MinFunc(instants(date, minutes, zone), time.Time.Compare)
}

// LastInstant is like Instant, but if the clocks show the time twice it returns the second moment.
func LastInstant(date time.Time, minutes int, zone *time.Location) time.Time {
	return slices.MaxFunc(instants(date, minutes, zone), time.Time.Compare)
}

// instants returns the moments at which clocks in zone show the time that is minutes after midnight
// of date, in no particular order. There are two if the clocks are put back over that time. If they
// are put forward over it, instants returns the moment at which that happens.
func instants(date time.Time, minutes int, zone *time.Location) []time.Time {
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
			shifted = t // uses the offset before the change, so it is after the skipped time
		}
	}
	if len(hits) == 0 {
		start, _ := shifted.ZoneBounds()
		return []time.Time{start}
	}
	return hits
}
