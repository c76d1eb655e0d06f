package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestEngine_Faults has two nodes change a record while servers of etcd are killed and paused. All changes arrive at both, in order,
// each once.
func TestEngine_Faults(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 3)
	ctx := within(t, 60*time.Second)
	a, b := prepare(ctx, t, options(c, "a"), "one"), prepare(ctx, t, options(c, "b"), "one")
	sum := 0
	both := func(t *testing.T) {
		t.Helper()
		for range 3 {
			for _, n := range []*node{a, b} {
				if _, err := n.increment(ctx, false); err != nil {
					t.Fatal(err)
				}
				sum++
			}
		}
		head, err := a.e.Barrier(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []*node{a, b} {
			if err := n.reached(ctx, head); err != nil {
				t.Fatal(err)
			}
			if got := n.value(); got != fmt.Sprint(sum) {
				t.Errorf("%s has counted to %s, want %d", n.e.options.Node, got, sum)
			}
		}
	}
	both(t)
	t.Run("leader killed", func(t *testing.T) {
		leader := c.Leader()
		c.Kill(leader)
		both(t)
		c.Start(leader)
	})
	t.Run("leader paused", func(t *testing.T) {
		leader := c.Leader()
		c.Stop(leader)
		defer c.Continue(leader)
		both(t)
	})
}

// TestEngine_Gap follows from heads whose history etcd has removed.
func TestEngine_Gap(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 30*time.Second)
	a := open(t, options(c, "a"), "one")
	var heads []cluster.Head
	head := cluster.Head(0)
	commit := func() {
		t.Helper()
		var err error
		head, err = a.Commit(ctx, head, &cluster.Set{Node: "a", Nonce: uint64(len(heads)) + 1, Writes: []cluster.Write{{Bucket: "b", Key: []byte("k"), Value: []byte("v")}}})
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
	}
	compact := func() { // to now, which is after the last Set
		t.Helper()
		r, err := a.client.Put(ctx, "other", "")
		if err == nil {
			_, err = a.client.Compact(ctx, r.Header.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	follow := func(after cluster.Head) (got []cluster.Head, err error) {
		t.Helper()
		enough := errors.New("enough")
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = a.Follow(short, after, func(h cluster.Head, _ *cluster.Set) error {
			got = append(got, h)
			if h == heads[len(heads)-1] {
				return enough
			}
			return nil
		})
		if errors.Is(err, enough) {
			err = nil
		}
		return got, err
	}
	commit()
	commit()
	compact()
	if got, err := follow(heads[0]); !errors.Is(err, cluster.ErrGap) || len(got) > 0 {
		t.Errorf("got %v, %v from a head before removed history; want ErrGap", got, err)
	}
	if got, err := follow(0); !errors.Is(err, cluster.ErrGap) || len(got) > 0 {
		t.Errorf("got %v, %v from the beginning; want ErrGap", got, err)
	}
	commit()
	commit()
	if got, err := follow(heads[1]); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v; want the two Sets, since the removed history has none after the head", got, err)
	}
	if _, err := follow(heads[3] + 100); !errors.Is(err, cluster.ErrGap) {
		t.Errorf("got %v for a head that etcd does not have yet, want ErrGap", err)
	}
	if _, err := a.client.Put(ctx, "lk/one/r/b\x00k", "by hand"); err != nil {
		t.Fatal(err)
	}
	commit()
	if _, err := follow(heads[3]); !errors.Is(err, cluster.ErrGap) {
		t.Errorf("got %v for a record written by hand, want ErrGap", err)
	}

	// The history is removed while the watch is interrupted.
	at := position{head: heads[4], revision: int64(heads[4])}
	compact()
	if err := a.skip(ctx, &at); err != nil || at.head != heads[4] {
		t.Errorf("got %v, want to go on", err)
	}
	commit()
	compact()
	if err := a.skip(ctx, &at); !errors.Is(err, cluster.ErrGap) {
		t.Errorf("got %v, want ErrGap", err)
	}
}
