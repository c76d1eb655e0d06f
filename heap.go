package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// HeapRoom is how many bytes are allocated at least from one run of the garbage
// collector to the next. The runtime's own rule is as much as is in use, which
// in this program is so little that every few hundred requests would pay for a
// run.
const HeapRoom = 16 << 20

// KeepHeapRoom sees to HeapRoom from now on, for the life of the process. Where
// the environment has GOGC it leaves the collector to that; a GOMEMLIMIT holds
// as ever. It may be called once.
func KeepHeapRoom() {
	if os.Getenv("GOGC") != "" {
		return
	}
	h := &heapRoom{sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: 100}
	h.after(&cycle{})
}

type heapRoom struct {
	sample  []metrics.Sample
	percent int64 // as it was set last
}

// cycle is garbage from the beginning: that it is found tells of a run of the
// collector.
type cycle struct{ _ *byte }

// after sets the room after each run, when the size of the heap is known. It
// runs on the one goroutine of the runtime that runs finalizers.
func (h *heapRoom) after(c *cycle) {
	metrics.Read(h.sample)
	percent := HeapPercent(h.sample[0].Value.Uint64())
	if was := h.percent; percent > was+was/8 || percent < was-was/8 { // to set it halts the program for a moment
		h.percent = percent
		debug.SetGCPercent(int(percent))
	}
	runtime.SetFinalizer(c, h.after)
}

// HeapPercent gives the GOGC that leaves HeapRoom to a heap with so many bytes
// in use, and never less than the runtime's own 100.
func HeapPercent(live uint64) int64 {
	return max(100, int64(HeapRoom*100/max(live, 1<<20)))
}
