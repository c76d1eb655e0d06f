package clock

import (
	"testing"
	"time"
)

var epoch = time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)

// fakeClocks are machine clocks that a test sets.
type fakeClocks struct{ Reading }

func (f *fakeClocks) read() Reading { return f.Reading }

// pass lets real time go by: all clocks go on.
func (f *fakeClocks) pass(d time.Duration) {
	f.Wall = f.Wall.Add(d)
	f.Boot += d
}

func TestClock_Resume(t *testing.T) {
	before := &fakeClocks{Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}}
	first := NewClockFrom(before.read)
	before.pass(10 * time.Minute)
	stamp := first.Stamp() // service time 09:10
	for _, tt := range []struct {
		name string
		now  Reading
		want time.Duration // service time after epoch
	}{
		{"same boot", Reading{epoch.Add(15 * time.Minute), 75 * time.Minute, "one"}, 15 * time.Minute},
		{"same boot, wall clock an hour ahead", Reading{epoch.Add(75 * time.Minute), 75 * time.Minute, "one"}, 15 * time.Minute},
		{"same boot, wall clock a day behind", Reading{epoch.Add(-24 * time.Hour), 75 * time.Minute, "one"}, 15 * time.Minute},
		{"reboot", Reading{epoch.Add(20 * time.Minute), time.Second, "two"}, 20 * time.Minute},
		{"reboot, wall clock behind", Reading{epoch.Add(-time.Hour), time.Second, "two"}, 10 * time.Minute},
		{"no boot clock", Reading{Wall: epoch.Add(20 * time.Minute)}, 20 * time.Minute},
	} {
		clocks := &fakeClocks{tt.now}
		c := NewClockFrom(clocks.read)
		if err := c.Resume(stamp); err != nil {
			t.Fatal(err)
		}
		if got := c.Steady(c.Now()).Sub(epoch); got != tt.want {
			t.Errorf("%s: got service time %s, want %s", tt.name, got, tt.want)
		}
	}
	if err := first.Resume([]byte("x")); err == nil {
		t.Error("a damaged stamp is taken")
	}
}

func TestClock_Suspend(t *testing.T) {
	clocks := &fakeClocks{Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}}
	c := NewClockFrom(clocks.read)
	clocks.Boot += 8 * time.Hour // only the boot clock goes on in suspend
	c.Catch()
	if got := c.Steady(c.Now()).Sub(epoch); got != 8*time.Hour {
		t.Errorf("got %s, want 8h", got)
	}
}

// TestClock_Shift moves the service time, which changes neither the wall time nor its lower bound.
func TestClock_Shift(t *testing.T) {
	clocks := &fakeClocks{Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}}
	c := NewClockFrom(clocks.read)
	for _, d := range []time.Duration{time.Hour, -3 * time.Hour} {
		before := c.Steady(c.Now())
		c.Shift(d)
		if got := c.Steady(c.Now()).Sub(before); got != d {
			t.Errorf("after a shift by %s the service time has moved by %s", d, got)
		}
		if late, early := c.Latest(c.Now()), c.Earliest(c.Now()); !late.Equal(epoch) || !early.Equal(epoch) || c.Behind(c.Now()) != 0 {
			t.Errorf("after a shift by %s the wall time is between %s and %s", d, early, late)
		}
	}
	next := NewClockFrom(clocks.read)
	if err := next.Resume(c.Stamp()); err != nil {
		t.Fatal(err)
	}
	if got := next.Steady(next.Now()).Sub(epoch); got != -2*time.Hour {
		t.Errorf("a later run goes on at %s, want -2h", got)
	}
}

func TestReadClocks(t *testing.T) {
	c := NewClock()
	one := c.Steady(c.Now())
	two := c.Steady(c.Now())
	if two.Before(one) {
		t.Errorf("service time went back from %s to %s", one, two)
	}
}
