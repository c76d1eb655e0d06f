package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func notice(lost uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lost) }

// sink is a writer that blocks while gate is locked, and fails while err is set.
type sink struct {
	gate chan struct{} // a write takes a value; nil: it does not block
	got  bytes.Buffer
	room int // bytes that are accepted; -1: any number
}

func (s *sink) Write(b []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if s.room >= 0 && len(b) > s.room {
		n, _ := s.got.Write(b[:s.room])
		s.room = 0
		return n, errors.New("no space left")
	}
	if s.room >= 0 {
		s.room -= len(b)
	}
	return s.got.Write(b)
}

func TestQueue_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{room: -1}
		q := New(s, 1<<10, notice)
		var want strings.Builder
		for i := range 500 {
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if _, err := io.WriteString(q, line); err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				time.Sleep(batchDelay + time.Millisecond)
			}
		}
		if !q.Close(time.Second) || s.got.String() != want.String() {
			t.Errorf("got %q", s.got.String())
		}
	})
}

// A reader that stops blocks nobody, and what was lost is counted when it goes on.
func TestQueue_Blocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{}), room: -1}
		q := New(s, 100, notice)
		for i := range 50 {
			_, _ = fmt.Fprintf(q, "line %05d\n", i) // 11 bytes
			synctest.Wait()
		}
		if q.Close(time.Second) {
			t.Error("got true from Close while the writer blocks")
		}
		close(s.gate)
		synctest.Wait()
		var want strings.Builder
		for i := range 9 {
			fmt.Fprintf(&want, "line %05d\n", i)
		}
		want.WriteString("lost 41\n")
		if s.got.String() != want.String() {
			t.Errorf("got %q, want %q", s.got.String(), want.String())
		}
	})
}

// A full disk loses lines, no more are counted than were lost, and no line is joined to a torn one.
func TestQueue_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{room: 16}
		q := New(s, 1000, notice)
		for i := range 6 {
			_, _ = fmt.Fprintf(q, "line %05d\n", i)
			q.Flush(time.Second)
		}
		s.room = -1
		_, _ = io.WriteString(q, "again\n")
		q.Flush(time.Second)
		if got, want := s.got.String(), "line 00000\nline \nlost 5\nagain\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if !q.Close(time.Second) {
			t.Error("got false from Close")
		}
	})
}

// Whatever the moments at which the goroutine looks, no buffer has two uses at once.
func TestQueue_Interleaved(t *testing.T) {
	s := &sink{room: -1}
	q := New(s, 1<<20, notice)
	var want strings.Builder
	for i := range 20_000 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		_, _ = io.WriteString(q, line)
		if i%7 == 0 {
			runtime.Gosched()
		}
	}
	if !q.Close(time.Minute) || s.got.String() != want.String() {
		t.Error("the lines were written in another form")
	}
}

func TestQueue_Allocs(t *testing.T) {
	q := New(io.Discard, 1<<20, notice)
	defer q.Close(time.Second)
	line := []byte(strings.Repeat("x", 200) + "\n")
	for range 10_000 {
		_, _ = q.Write(line)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = q.Write(line) }); n > 0.1 {
		t.Errorf("got %v allocations for a line, want none", n)
	}
}

// Lines are written together: after the delay, when a batch is full, at Flush and at Close.
func TestQueue_Batches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &counting{}
		q := New(w, 1<<20, notice)
		write := func(lines int) {
			for range lines {
				_, _ = io.WriteString(q, strings.Repeat("x", 99)+"\n")
			}
		}
		want := func(when string, writes, size int64) {
			t.Helper()
			synctest.Wait()
			if w.writes.Load() != writes || w.size.Load() != size {
				t.Errorf("%s: got %d writes with %d bytes, want %d with %d", when, w.writes.Load(), w.size.Load(), writes, size)
			}
		}
		write(10)
		want("before the delay", 0, 0)
		time.Sleep(batchDelay + time.Millisecond)
		want("after the delay", 1, 1000)
		write(5)
		q.Flush(0)
		want("at Flush", 2, 1500)
		q.Flush(time.Hour) // nothing waits
		write(1)
		q.Flush(time.Hour)
		want("at a Flush that waits", 3, 1600)
		write(batchBytes/100 + 1)
		want("when a batch is full", 4, 1600+(batchBytes/100+1)*100)
		write(3)
		if !q.Close(time.Second) {
			t.Error("got false from Close")
		}
		want("at Close", 5, 1600+(batchBytes/100+4)*100)
		if q.Lost() != 0 {
			t.Errorf("got %d lines lost", q.Lost())
		}
	})
}

// counting counts its writes.
type counting struct{ writes, size atomic.Int64 }

func (c *counting) Write(b []byte) (int, error) {
	c.writes.Add(1)
	c.size.Add(int64(len(b)))
	return len(b), nil
}

// Lost counts every line that was not written, once, and no notices.
func TestQueue_Lost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{room: 16}
		q := New(s, 1000, notice)
		for i := range 6 {
			_, _ = fmt.Fprintf(q, "line %05d\n", i)
			q.Flush(time.Second)
		}
		if q.Lost() != 5 {
			t.Errorf("got %d, want 5", q.Lost())
		}
		_ = q.Close(time.Second)
		_, _ = io.WriteString(q, "late\n")
		if q.Lost() != 6 {
			t.Errorf("got %d after Close, want 6", q.Lost())
		}
	})
}
