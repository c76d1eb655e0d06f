package dashboard

import (
	"runtime"
	"testing"
	"time"
)

// An idle service keeps the templates of all pages, so they share what they have in common.
func TestNew_Memory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d, err := New(Options{Now: time.Now, APIURL: func() string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	if after := heap(); after > before+2<<20 {
		t.Errorf("got %d KiB for the pages, want less than 2048", (after-before)>>10)
	}
	runtime.KeepAlive(d)
}
