package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"latchkey/internal/cluster"
)

// ErrStoreExists means that the etcd cluster already has a store.
var ErrStoreExists = errors.New("etcd already has a Latchkey store; a second one needs an etcd cluster of its own")

// probeBytes is the size of a request that etcd accepts only if it accepts the largest Sets as well: it accepts requests of
// --max-request-bytes and half a MiB.
const probeBytes = cluster.MaxBytes + 3<<19

// fillTime is how long etcd may take for a part of the records of a new store.
const fillTime = 10 * time.Second

// Create creates the store with an id, for records of a format. It fails with ErrStoreExists if etcd has one. each calls put for each
// record; put copies what it gets. If progress is not nil, it is called with the number of records that etcd has. The records of an earlier call
// with that id that was interrupted are removed. The store exists once Create returns nil, and not before.
func (e *Engine) Create(ctx context.Context, id string, format int, each func(put func(cluster.Write) error) error, progress func(records int)) error {
	if id == "" || strings.ContainsAny(id, "/\x00") || id == "store" {
		return fmt.Errorf("%q cannot be the id of a store", id)
	}
	switch _, err := e.Store(ctx); {
	case err == nil:
		return ErrStoreExists
	case !errors.Is(err, ErrNoStore):
		return err
	}
	n := creation{e: e, prefix: "lk/" + id + "/", progress: progress}
	if err := n.probe(ctx); err != nil {
		return err
	}
	if err := n.clear(ctx); err != nil {
		return err
	}
	if err := each(func(w cluster.Write) error { return n.put(ctx, w) }); err != nil {
		return err
	}
	if err := n.flush(ctx); err != nil {
		return err
	}
	return n.finish(ctx, StoreInfo{ID: id, Format: format, CreatedAt: time.Now().UTC()})
}

// creation is a run of Create.
type creation struct {
	e        *Engine
	prefix   string
	progress func(int)
	ops      []clientv3.Op
	size     int // bytes of ops
	records  int // number of those that etcd has
}

// probe checks that etcd accepts the largest Sets.
func (n *creation) probe(ctx context.Context) error {
	return n.e.retry(ctx, fillTime, func(ctx context.Context) error {
		_, err := n.e.client.Get(ctx, n.prefix+strings.Repeat("x", probeBytes), clientv3.WithCountOnly())
		return err
	})
}

// clear removes the records of an interrupted creation.
func (n *creation) clear(ctx context.Context) error {
	end := clientv3.GetPrefixRangeEnd(n.prefix)
	for more := true; more; {
		err := n.e.retry(ctx, fillTime, func(ctx context.Context) error {
			r, err := n.e.client.Get(ctx, n.prefix, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(cluster.MaxWrites))
			if err != nil || len(r.Kvs) == 0 {
				more = false
				return err
			}
			more = r.More
			return n.unlessExists(ctx, clientv3.OpDelete(n.prefix, clientv3.WithRange(string(r.Kvs[len(r.Kvs)-1].Key)+"\x00")))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unlessExists executes operations unless etcd has a store.
func (n *creation) unlessExists(ctx context.Context, ops ...clientv3.Op) error {
	r, err := n.e.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(storeKey), "=", 0)).Then(ops...).Else(clientv3.OpGet(storeKey)).Commit()
	if err != nil || r.Succeeded {
		return err
	}
	var there StoreInfo
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 && json.Unmarshal(kvs[0].Value, &there) == nil && "lk/"+there.ID+"/" == n.prefix {
		return errDone
	}
	return finalError{ErrStoreExists}
}

// errDone means that this store exists, by an attempt whose answer was lost.
var errDone = finalError{errors.New("the store exists already")}

// put adds a record.
func (n *creation) put(ctx context.Context, w cluster.Write) error {
	size := len(w.Bucket) + len(w.Key) + len(w.Value)
	if len(n.ops) == cluster.MaxWrites || len(n.ops) > 0 && n.size+size > cluster.MaxBytes {
		if err := n.flush(ctx); err != nil {
			return err
		}
	}
	n.ops = append(n.ops, clientv3.OpPut(n.prefix+"r/"+w.Bucket+"\x00"+string(w.Key), string(w.Value)))
	n.size += size
	return nil
}

// flush writes the collected records.
func (n *creation) flush(ctx context.Context) error {
	if len(n.ops) == 0 {
		return nil
	}
	err := n.e.retry(ctx, fillTime, func(ctx context.Context) error { return n.unlessExists(ctx, n.ops...) })
	if err != nil {
		return err
	}
	n.records += len(n.ops)
	n.ops, n.size = n.ops[:0], 0
	if n.progress != nil {
		n.progress(n.records)
	}
	return nil
}

// finish makes the store exist.
func (n *creation) finish(ctx context.Context, info StoreInfo) error {
	store, err := json.Marshal(info)
	if err != nil {
		return err
	}
	head, err := json.Marshal(header{})
	if err != nil {
		return err
	}
	err = n.e.retry(ctx, fillTime, func(ctx context.Context) error {
		return n.unlessExists(ctx, clientv3.OpPut(n.prefix+"head", string(head)), clientv3.OpPut(storeKey, string(store)))
	})
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}
