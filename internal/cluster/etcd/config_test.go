package etcd

import (
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestEngine_Config has a node register another configuration while it runs: the next renewal tells the others, and it is
// still registered after the node has joined again.
func TestEngine_Config(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 30*time.Second)
	a, b := open(t, options(c, "a"), "one"), open(t, options(c, "b"), "one")
	a.SetConfig("before Join") // Join replaces it
	if err := a.Join(ctx, cluster.Node{Config: "first", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	want := func(what, config string) {
		t.Helper()
		if err := b.look(ctx); err != nil {
			t.Fatal(err)
		}
		list := b.Running()
		if len(list) != 1 || list[0].Name != "a" || list[0].Config != config || list[0].Host != "h" || !list[0].Running {
			t.Errorf("%s: got %+v, want %q", what, list, config)
		}
	}
	want("the registration", "first")
	a.SetConfig("second")
	want("before the renewal", "first")
	if err := a.renew(ctx, &anyHead{}); err != nil {
		t.Fatal(err)
	}
	want("after the renewal", "second")
	if nodes, err := b.Nodes(ctx); err != nil || len(nodes) != 1 || nodes[0].Config != "second" {
		t.Errorf("got %+v, %v", nodes, err)
	}
	if err := a.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Join(ctx, a.self.registration()); err != nil {
		t.Fatal(err)
	}
	want("after it has joined again", "second")
}
