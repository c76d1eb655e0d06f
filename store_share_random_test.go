package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/cluster"
	"latchkey/internal/cluster/fake"
)

// orderedEngine is an Engine that notes in which order its store gets the Sets of the others.
type orderedEngine struct {
	cluster.Engine
	mu    sync.Mutex
	last  cluster.Head
	wrong []string
}

// Follow implements cluster.Engine.
func (e *orderedEngine) Follow(ctx context.Context, after cluster.Head, apply func(cluster.Head, *cluster.Set) error) error {
	e.mu.Lock()
	if after < e.last {
		e.wrong = append(e.wrong, fmt.Sprintf("the store follows from %d on, although it has %d", after, e.last))
	}
	e.last = after
	e.mu.Unlock()
	return e.Engine.Follow(ctx, after, func(head cluster.Head, set *cluster.Set) error {
		err := apply(head, set)
		e.mu.Lock()
		defer e.mu.Unlock()
		if head <= e.last {
			e.wrong = append(e.wrong, fmt.Sprintf("the Set at %d comes after the one at %d", head, e.last))
		}
		if err == nil {
			e.last = head
		}
		return err
	})
}

// randomNode is one of the stores of TestShare_Random.
type randomNode struct {
	name   string
	path   string
	engine *orderedEngine
	store  *Store
	made   []randomChange // what it has acknowledged, in this order
}

// randomChange appends a number to items, and deletes one.
type randomChange struct {
	number   int
	items    []uint64
	deletes  uint64 // 0: none
	head     cluster.Head
	ran      *int // how often its function for afterwards has run
	mu       *sync.Mutex
	restarts bool // the store is closed and opened again instead
}

// open opens the store of the node.
func (n *randomNode) open() error {
	ownStores.Store(n.path, true) // no shadow
	defer ownStores.Delete(n.path)
	s, err := OpenStore(n.path, nil)
	if err == nil {
		err = ShareStore(s, ShareOptions{Engine: n.engine, Node: n.name, Tables: []Checked{&itemTable, &thingTable}, Mark: ViewMark(n.path)})
	}
	if err == nil {
		err = markView(ViewMark(n.path), "one")
	}
	n.store = s
	return err
}

// change makes a change.
func (n *randomNode) change(c *randomChange) error {
	effect, err := n.store.UpdateWith(Writer{}, func(tx *Tx) error {
		for _, id := range c.items {
			one, err := itemTable.Get(tx, IDKey(id))
			if err != nil && !isNotFound(err) {
				return err
			}
			one.ID = id
			one.Fields = append(slices.Clone(one.Fields), fmt.Sprint("n", c.number))
			one.At = uint64(len(one.Fields))
			if err := itemTable.Put(tx, one); err != nil {
				return err
			}
		}
		if c.deletes != 0 {
			if err := tx.Put("trash", IDKey(c.deletes), []byte(fmt.Sprint("n", c.number))); err != nil {
				return err
			}
			if c.number%2 == 0 {
				if err := tx.Delete("trash", IDKey(c.deletes)); err != nil {
					return err
				}
			}
		}
		tx.After(func() {
			c.mu.Lock()
			*c.ran++
			c.mu.Unlock()
		})
		return nil
	})
	c.head = effect.Head
	return err
}

// isNotFound reports whether a record does not exist.
func isNotFound(err error) bool { return err != nil && Public(err).Code == ErrNotFound.Code }

// TestShare_Random lets two to five stores change the same records at once, while their engine makes mistakes and stores are
// opened again. Each change is made once, and its function for afterwards has run once; the order in the records is that of the heads, and
// that in which each store has acknowledged its changes; all views are equal.
func TestShare_Random(t *testing.T) {
	root, runs := memoryDir(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		log := fake.New(rapid.Uint64().Draw(t, "seed"), 0)
		share := func(name string, most float64) float64 {
			return rapid.Float64Range(0, most).Draw(t, name)
		}
		var nodes []*randomNode
		for i := range rapid.IntRange(2, 5).Draw(t, "stores") {
			n := &randomNode{name: fmt.Sprint("node", i), path: filepath.Join(root, fmt.Sprint(runs, "-", i, ".db"))}
			if err := CreateStore(n.path, "test", epoch); err != nil {
				t.Fatal(err)
			}
			n.engine = &orderedEngine{Engine: log.Engine(fake.Faults{Moved: share("moved", 0.4), Unsure: share("unsure", 0.4), Gap: share("gap", 0.2), Delay: share("delay", 0.5)})}
			if err := n.open(); err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
		}
		var mu sync.Mutex
		number := 0
		draw := rapid.Custom(func(t *rapid.T) randomChange {
			return randomChange{
				items:   rapid.SliceOfNDistinct(rapid.Uint64Range(1, 4), 1, 3, rapid.ID).Draw(t, "items"),
				deletes: rapid.Uint64Range(0, 3).Draw(t, "deletes"), restarts: rapid.IntRange(0, 9).Draw(t, "restarts") == 0,
			}
		})
		plans := make([][]*randomChange, len(nodes))
		for i := range nodes {
			for _, c := range rapid.SliceOfN(draw, 1, 12).Draw(t, "changes") {
				number++
				c.number, c.ran, c.mu = number, new(int), &mu
				plans[i] = append(plans[i], &c)
			}
		}
		problems := make([][]string, len(nodes))
		var running sync.WaitGroup
		for i, n := range nodes {
			running.Go(func() {
				for _, c := range plans[i] {
					if c.restarts {
						if err := errors.Join(n.store.Close(), n.open()); err != nil {
							problems[i] = append(problems[i], err.Error())
							return
						}
						continue
					}
					err := n.change(c)
					mu.Lock()
					ran := *c.ran
					mu.Unlock()
					if err != nil || ran != 1 {
						problems[i] = append(problems[i], fmt.Sprintf("%s: change %d: %v; its function for afterwards ran %d times", n.name, c.number, err, ran))
						continue
					}
					n.made = append(n.made, *c)
				}
			})
		}
		running.Wait()
		for i, n := range nodes {
			problems[i] = append(problems[i], n.engine.wrong...)
		}
		if all := slices.Concat(problems...); len(all) > 0 {
			t.Fatal(all)
		}
		checkShared(t, log, nodes)
		for _, n := range nodes {
			if err := errors.Join(n.store.Close(), os.Remove(n.path)); err != nil {
				t.Error(err)
			}
		}
	})
}

// checkShared compares the views with one another and with what the stores have acknowledged.
func checkShared(t *rapid.T, log *fake.Log, nodes []*randomNode) {
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := n.store.Reach(ctx, log.Head())
		cancel()
		if err != nil {
			t.Fatal(err, n.store.Err())
		}
		if n != nodes[0] {
			compareViews(nodes[0].store, n.store)
		}
	}
	heads := map[string]cluster.Head{} // by the text that a change appends
	wanted := map[uint64]int{}
	for _, n := range nodes {
		before := cluster.Head(0)
		for _, c := range n.made {
			if c.head <= before {
				t.Errorf("%s: change %d has the head %d, the one before it %d", n.name, c.number, c.head, before)
			}
			before = c.head
			heads[fmt.Sprint("n", c.number)] = c.head
			for _, id := range c.items {
				wanted[id]++
			}
		}
	}
	err := nodes[0].store.View(func(tx *Tx) error {
		for id, want := range wanted {
			one, err := itemTable.Get(tx, IDKey(id))
			if err != nil {
				return err
			}
			if len(one.Fields) != want {
				t.Errorf("item %d: %d changes were acknowledged, and %d made", id, want, len(one.Fields))
			}
			if !slices.IsSortedFunc(one.Fields, func(a, b string) int { return int(heads[a] - heads[b]) }) {
				t.Errorf("item %d: the order of the changes is not that of their heads: %v, %v", id, one.Fields, heads)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
