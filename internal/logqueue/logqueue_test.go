package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
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
				synctest.Wait()
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
			synctest.Wait()
		}
		s.room = -1
		_, _ = io.WriteString(q, "again\n")
		synctest.Wait()
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
