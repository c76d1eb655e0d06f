package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// options returns the Options of a node that uses an etcd cluster.
func options(c *program.Etcd, node string) Options {
	return Options{Endpoints: c.Endpoints, CAFile: c.Files.CA, CertFile: c.Files.Cert, KeyFile: c.Files.Key, Node: node, Lease: time.Second}
}

// open opens an engine for a store, until the test ends.
func open(t testing.TB, o Options, store string) *Engine {
	t.Helper()
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	e.Use(store)
	return e
}

// within returns a context that ends with the test or after some time.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestEngine_Commit commits Sets, follows them and loads the records.
func TestEngine_Commit(t *testing.T) {
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
