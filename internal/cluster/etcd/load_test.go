package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// fill calls put for n records of a size, in two buckets.
func fill(n, size int) func(put func(cluster.Write) error) error {
	return func(put func(cluster.Write) error) error {
		value := []byte(strings.Repeat("v", size))
		for i := range n {
			w := cluster.Write{Bucket: "calls", Key: fmt.Appendf(nil, "%08d", i), Value: value}
			if i%2 == 1 {
				w.Bucket = "keys"
			}
			if err := put(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestEngine_Create creates a store, once, and loads it.
func TestEngine_Create(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 60*time.Second)
	e := open(t, options(c, "a"), "one")
	if _, err := e.Store(ctx); !errors.Is(err, ErrNoStore) {
		t.Errorf("got %v, want ErrNoStore", err)
	}
	if err := e.Create(ctx, "a/b", 1, fill(0, 0), nil); err == nil {
		t.Error("created a store whose id has a slash")
	}
	broken := errors.New("the backup ends early")
	err := e.Create(ctx, "one", 7, func(put func(cluster.Write) error) error {
		return errors.Join(fill(4500, 1)(func(w cluster.Write) error { w.Bucket = "old"; return put(w) }), broken)
	}, nil)
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the source", err)
	}
	if _, err := e.Store(ctx); !errors.Is(err, ErrNoStore) {
		t.Errorf("got %v after an interrupted creation, want ErrNoStore", err)
	}
	const records = 9_000
	told := 0
	if err := e.Create(ctx, "one", 7, fill(records, 300), func(n int) { told = n }); err != nil {
		t.Fatal(err)
	}
	if told != records {
		t.Errorf("told of %d records, want %d", told, records)
	}
	if info, err := e.Store(ctx); err != nil || info.ID != "one" || info.Format != 7 || time.Since(info.CreatedAt) > time.Minute {
		t.Errorf("got %+v, %v", info, err)
	}
	if err := e.Create(ctx, "two", 7, fill(1, 1), nil); !errors.Is(err, ErrStoreExists) {
		t.Errorf("got %v for a second store, want ErrStoreExists", err)
	}
	n, last := 0, ""
	head, err := e.Load(ctx, func(w cluster.Write) error {
		if now := w.Bucket + "\x00" + string(w.Key); now <= last {
			t.Errorf("got %q after %q", now, last)
		} else {
			last = now
		}
		n++
		return nil
	})
	if err != nil || n != records {
		t.Errorf("got %d records, %v; want %d", n, err, records)
	}
	if got, err := e.Barrier(ctx); err != nil || got != head {
		t.Errorf("got %d, %v; want the head %d", got, err, head)
	}
	if _, err := e.Load(ctx, func(cluster.Write) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of put", err)
	}
	stopped, cancel := context.WithCancel(ctx)
	if _, err := e.Load(stopped, func(cluster.Write) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	if err := e.Follow(ctx, 0, func(cluster.Head, *cluster.Set) error { return nil }); !errors.Is(err, cluster.ErrGap) {
		t.Errorf("got %v when following from before the creation, want ErrGap", err)
	}
}

// BenchmarkEngine_Load measures how many records a second a new node gets.
func BenchmarkEngine_Load(b *testing.B) {
	c := program.StartEtcd(b, 1)
	e := open(b, options(c, "a"), "one")
	const records = 200_000
	began := time.Now()
	if err := e.Create(b.Context(), "one", 7, fill(records, 300), nil); err != nil {
		b.Fatal(err)
	}
	created := records / time.Since(began).Seconds()
	for b.Loop() {
		n := 0
		if _, err := e.Load(b.Context(), func(cluster.Write) error { n++; return nil }); err != nil || n != records {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(created, "created/s")
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "loaded/s")
}

// BenchmarkEngine_Commit measures the changes of one client: sets of ten records of 300 bytes.
func BenchmarkEngine_Commit(b *testing.B) {
	c := program.StartEtcd(b, 1)
	e := open(b, options(c, "a"), "one")
	set := &cluster.Set{Node: "a"}
	for i := range 10 {
		set.Writes = append(set.Writes, cluster.Write{Bucket: "calls", Key: fmt.Append(nil, i), Value: make([]byte, 300)})
	}
	head := cluster.Head(0)
	var took []time.Duration
	for b.Loop() {
		set.Nonce++
		began := time.Now()
		var err error
		if head, err = e.Commit(b.Context(), head, set); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
