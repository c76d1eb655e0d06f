package main

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"
)

// Clock tells two times. Wall time is for records and people and may step.
// Service time is for limits: it goes on with the time that really passes,
// also over suspend and restart, and never back. All methods are safe for
// concurrent use.
type Clock struct {
	read  func() Reading
	wall  func() time.Time // the wall clock alone, which is much quicker to read
	start Reading
	base  time.Time    // service time at start
	known bool         // base continues a stamp of the same boot
	sleep atomic.Int64 // nanoseconds that the machine was suspended since start
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
	return &Clock{read: read, wall: wall, start: now, base: now.Wall.Round(0)}
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
	switch {
	case last.BootID != "" && last.BootID == c.start.BootID && c.start.Boot >= last.Boot:
		c.base, c.known = last.Service.Add(c.start.Boot-last.Boot), true
	case last.Service.After(c.base):
		c.base = last.Service
	}
	return nil
}

// Continued says whether the stamp that Resume was given is of this boot of the
// machine, so that it still holds at the next start. It is so, too, where the
// machine does not tell its boots apart.
func (c *Clock) Continued() bool { return c.known || c.start.BootID == "" }

// Stamp gives the service time in the form that Resume reads.
func (c *Clock) Stamp() []byte {
	now := c.read()
	b, err := json.Marshal(clockStamp{Service: c.Service(now.Wall), Boot: now.Boot, BootID: now.BootID})
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

// Catch adds the time that the machine was suspended, which Go's monotonic
// clock leaves out. It is to be called about every second; until then limits
// only err on the strict side.
func (c *Clock) Catch() {
	now := c.read()
	if now.BootID == "" {
		return
	}
	missed := now.Boot - c.start.Boot - now.Wall.Sub(c.start.Wall)
	if missed > time.Duration(c.sleep.Load())+time.Second/2 {
		c.sleep.Store(int64(missed))
	}
}
