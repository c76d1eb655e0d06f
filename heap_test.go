package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestHeapPercent(t *testing.T) {
	for live, want := range map[uint64]int64{0: 1600, 4 << 20: 400, 8 << 20: 200, 16 << 20: 100, 1 << 30: 100} {
		if got := HeapPercent(live); got != want {
			t.Errorf("%d MiB in use: got %d, want %d", live>>20, got, want)
		}
	}
}

// TestKeepHeapRoom counts how often the collector runs while this much garbage
// is made, with and without the room.
func TestKeepHeapRoom(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	runs := func() uint32 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range 4000 {
			runtime.KeepAlive(make([]byte, 32<<10+i)) // of no constant size, so on the heap
		}
		runtime.ReadMemStats(&after)
		return after.NumGC - before.NumGC
	}
	debug.SetGCPercent(10) // stands for a heap in which very little is in use
	without := runs()
	t.Setenv("GOGC", "10")
	KeepHeapRoom() // does nothing
	if got := runs(); got < without/2 {
		t.Errorf("with GOGC set: %d runs of the collector, want about %d", got, without)
	}
	t.Setenv("GOGC", "")
	KeepHeapRoom()
	runtime.GC()
	if got := runs(); got > without/2 {
		t.Errorf("%d runs of the collector, want far fewer than the %d without the room", got, without)
	}
}
