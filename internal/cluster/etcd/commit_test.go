package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestEngine_Commit commits Sets, follows them and loads the records.
func TestEngine_Commit(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	a := open(t, options(c, "a"), "one")
	ctx := within(t, 20*time.Second)
	first, err := a.Commit(ctx, 0, &cluster.Set{Node: "a", Nonce: 1, Secure: true, Writes: []cluster.Write{
		{Bucket: "keys", Key: []byte("2"), Value: []byte("two")}, {Bucket: "keys", Key: []byte("1"), Value: []byte{}}, {Bucket: "agents", Key: []byte{0, 1}, Value: []byte("x")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.Commit(ctx, 0, &cluster.Set{Node: "a", Nonce: 1}); err != nil || again != first {
		t.Errorf("got %d, %v from the same Set again; want %d", again, err, first)
	}
	if _, err := a.Commit(ctx, 0, &cluster.Set{Node: "a", Nonce: 2}); !errors.Is(err, cluster.ErrMoved) {
		t.Errorf("got %v for an old base, want ErrMoved", err)
	}
	second, err := a.Commit(ctx, first, &cluster.Set{Node: "a", Nonce: 3, Writes: []cluster.Write{{Bucket: "keys", Key: []byte("2")}}})
	if err != nil || second <= first {
		t.Fatalf("got %d, %v; want a head after %d", second, err, first)
	}
	if head, err := a.Barrier(ctx); err != nil || head != second {
		t.Errorf("got %d, %v from Barrier; want %d", head, err, second)
	}
	stop := errors.New("enough")
	got := ""
	err = a.Follow(ctx, 0, func(head cluster.Head, set *cluster.Set) error {
		got += fmt.Sprintf("%d %s %d %v %q;", head-first, set.Node, set.Nonce, set.Secure, set.Writes)
		if head == second {
			return stop
		}
		return nil
	})
	want := fmt.Sprintf(`0 a 1 true [{"agents" "\x00\x01" "x"} {"keys" "1" ""} {"keys" "2" "two"}];%d a 3 false [{"keys" "2" ""}];`, second-first)
	if !errors.Is(err, stop) || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
	got = ""
	head, err := a.Load(ctx, func(w cluster.Write) error {
		got += fmt.Sprintf("%s %q=%q;", w.Bucket, w.Key, w.Value)
		return nil
	})
	if want := `agents "\x00\x01"="x";keys "1"="";`; err != nil || head != second || got != want {
		t.Errorf("got %d %v %s; want %d %s", head, err, got, second, want)
	}
}

// TestEngine_Sequence has 16 goroutines of each of three nodes increment a common record. No increment is lost or made twice,
// all nodes see the same Sets in the same order, and none of them waits while the others go on.
func TestEngine_Sequence(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 3)
	ctx := within(t, 50*time.Second)
	const committers, each = 16, 3
	var nodes []*node
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, start(ctx, t, options(c, name), "one"))
	}
	var committing sync.WaitGroup
	var least [3]int64 // increments of each node when the first node was done
	var first sync.Once
	var counts [3]atomic.Int64
	for i, n := range nodes {
		for range committers {
			committing.Go(func() {
				for range each {
					if _, err := n.increment(ctx, false); err != nil {
						t.Error(err)
						return
					}
					if counts[i].Add(1) == committers*each {
						first.Do(func() {
							for k := range counts {
								least[k] = counts[k].Load()
							}
						})
					}
				}
			})
		}
	}
	committing.Wait()
	last, err := nodes[0].e.Barrier(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if err := n.reached(ctx, last); err != nil {
			t.Fatal(err)
		}
	}
	want := nodes[0].seen()
	unique := map[string]bool{}
	for _, one := range want {
		unique[one] = true
	}
	if len(want) != 3*committers*each || len(unique) != len(want) {
		t.Errorf("got %d Sets, %d different ones; want %d", len(want), len(unique), 3*committers*each)
	}
	for _, n := range nodes {
		if got := n.seen(); !slices.Equal(got, want) {
			t.Errorf("%s saw other Sets than a", n.e.options.Node)
		}
		if got := n.value(); got != fmt.Sprint(3*committers*each) {
			t.Errorf("%s has counted to %s, want %d", n.e.options.Node, got, 3*committers*each)
		}
	}
	for k, n := range least {
		if n < committers*each/5 {
			t.Errorf("node %d had %d changes when another had all of its %d; want more than a fifth", k, n, committers*each)
		}
	}
	t.Logf("changes when the first node was done: %v", least)
}

// TestEngine_Unsure has answers and requests be lost. Nobody can say then whether a Set was added, until the same Commit finds out.
func TestEngine_Unsure(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 50*time.Second)
	p := newProxy(t, c.Endpoints[0])
	o := options(c, "a")
	o.Endpoints = []string{p.URL}
	a, b := open(t, o, "one"), open(t, options(c, "b"), "one")
	nonce := uint64(0)
	next := func(node string) *cluster.Set {
		nonce++
		return &cluster.Set{Node: node, Nonce: nonce, Writes: []cluster.Write{{Bucket: "b", Key: []byte("k"), Value: fmt.Append(nil, nonce)}}}
	}
	unsure := func(base cluster.Head, set *cluster.Set) {
		t.Helper()
		if _, err := a.Commit(within(t, 700*time.Millisecond), base, set); !errors.Is(err, cluster.ErrUnsure) {
			t.Fatalf("got %v, want ErrUnsure", err)
		}
	}
	barrier := func() cluster.Head {
		t.Helper()
		head, err := b.Barrier(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return head
	}
	commit := func(e *Engine, base cluster.Head, set *cluster.Set) cluster.Head {
		t.Helper()
		head, err := e.Commit(ctx, base, set)
		if err != nil {
			t.Fatal(err)
		}
		return head
	}
	base := commit(a, 0, next("a"))

	t.Run("answer lost", func(t *testing.T) {
		set := next("a")
		p.holds(answers)
		unsure(base, set)
		made := barrier()
		if made == base {
			t.Fatal("the Set was not added")
		}
		p.holds()
		p.cut()
		if head := commit(a, base, set); head != made || barrier() != made {
			t.Errorf("got %d, want the head %d of the first attempt", head, made)
		}
		base = made
	})
	t.Run("request lost", func(t *testing.T) {
		set := next("a")
		p.holds(requests)
		unsure(base, set)
		p.cut()
		p.holds()
		if barrier() != base {
			t.Fatal("the Set was added")
		}
		head := commit(a, base, set)
		if head <= base || barrier() != head {
			t.Errorf("got %d after %d", head, base)
		}
		base = head
	})
	t.Run("request late", func(t *testing.T) {
		set := next("a")
		p.holds(requests)
		unsure(base, set)
		other := commit(b, base, next("b"))
		p.holds()
		if _, err := a.Commit(ctx, base, set); !errors.Is(err, cluster.ErrMoved) {
			t.Errorf("got %v, want ErrMoved", err)
		}
		if barrier() != other {
			t.Error("the late request was executed")
		}
		base = other
	})
	t.Run("server gone", func(t *testing.T) {
		p.refuse(true)
		unsure(base, next("a"))
		short := within(t, 300*time.Millisecond)
		if _, err := a.Barrier(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "etcd cannot be reached: ") {
			t.Errorf("got %v from Barrier", err)
		}
		p.refuse(false)
		if head, err := a.Barrier(ctx); err != nil || head != base {
			t.Errorf("got %d, %v; want %d", head, err, base)
		}
	})
	t.Run("closed", func(t *testing.T) {
		p.holds(requests)
		ended := make(chan error)
		go func() {
			_, err := a.Barrier(ctx)
			ended <- err
		}()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err == nil {
			t.Error("Barrier has succeeded")
		}
	})
}

// TestMarks removes the history of etcd that is older than ten minutes, every five minutes.
func TestMarks(t *testing.T) {
	var m marks
	start := time.Now()
	for _, step := range []struct {
		after    time.Duration
		revision int64
		want     int64
	}{
		{0, 1, 0}, {time.Minute, 2, 0}, {6 * time.Minute, 3, 0}, {9 * time.Minute, 4, 0}, {11 * time.Minute, 5, 1}, {12 * time.Minute, 6, 0},
		{16 * time.Minute, 7, 3}, {60 * time.Minute, 8, 7}, {65 * time.Minute, 9, 0},
	} {
		if got := m.reached(step.revision, start.Add(step.after)); got != step.want {
			t.Errorf("after %s: got %d, want %d", step.after, got, step.want)
		}
	}
}
