package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"latchkey/internal/cluster"
)

// The bounds of a page of Load. Two pages are in memory at a time.
const (
	firstPage = 256     // records
	maxPage   = 8192    // records
	pageBytes = 2 << 20 // bytes that a page should have
	pageTime  = 10 * time.Second
)

// ErrNoStore means that the etcd cluster has no store yet.
var ErrNoStore = errors.New("etcd has no Latchkey store yet; `latchkey cluster init` creates it")

// StoreInfo describes the store of an etcd cluster.
type StoreInfo struct {
	ID        string    `json:"id"`
	Format    int       `json:"format"` // of its records
	CreatedAt time.Time `json:"created_at"`
}

// Store returns the store of the etcd cluster, or ErrNoStore.
func (e *Engine) Store(ctx context.Context) (StoreInfo, error) {
	var info StoreInfo
	err := e.retry(ctx, attemptTime, func(ctx context.Context) error {
		r, err := e.client.Get(ctx, storeKey)
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return finalError{ErrNoStore}
		}
		if err := json.Unmarshal(r.Kvs[0].Value, &info); err != nil || info.ID == "" {
			return final("the key %s in etcd is damaged: it must have the id and the format of the store", storeKey)
		}
		return nil
	})
	return info, err
}

// page is a part of the records.
type page struct {
	records []*mvccpb.KeyValue
	err     error
}

// Load calls put for each record, see cluster.Engine. The next page is on its way while put gets the records of
// the one before.
func (e *Engine) Load(ctx context.Context, put func(cluster.Write) error) (cluster.Head, error) {
	ctx, cancel := e.until(ctx)
	defer cancel()
	l := loading{e: e, prefix: []byte(e.key("r/")), limit: firstPage}
	l.end = clientv3.GetPrefixRangeEnd(string(l.prefix))
	first, more, err := l.first(ctx)
	if err != nil {
		return 0, err
	}
	pages := make(chan page, 1)
	pages <- page{records: first}
	e.running.Go(func() {
		defer close(pages)
		l.rest(ctx, first, more, pages)
	})
	defer func() { // the goroutine uses what the caller may release
		cancel()
		for range pages {
		}
	}()
	for p := range pages {
		if p.err != nil {
			return 0, p.err
		}
		for _, kv := range p.records {
			bucket, key, ok := bytes.Cut(kv.Key[len(l.prefix):], []byte{0})
			if !ok {
				return 0, fmt.Errorf("etcd has a record without a bucket: %q", kv.Key)
			}
			if err := put(cluster.Write{Bucket: l.name(bucket), Key: key, Value: valueOf(kv)}); err != nil {
				return 0, err
			}
		}
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return l.head, nil
}

// loading is a run of Load.
type loading struct {
	e        *Engine
	prefix   []byte
	end      string // end of the range of all records
	revision int64
	head     cluster.Head
	limit    int64  // records of the next page
	bucket   string // of the last record
}

// name returns a bucket as a string. It makes one string for all records of a bucket.
func (l *loading) name(bucket []byte) string {
	if string(bucket) != l.bucket {
		l.bucket = string(bucket)
	}
	return l.bucket
}

// first reads the head and the first page of records at one revision.
func (l *loading) first(ctx context.Context) (records []*mvccpb.KeyValue, more bool, err error) {
	err = l.e.retry(ctx, pageTime, func(ctx context.Context) error {
		r, err := l.e.client.Txn(ctx).Then(clientv3.OpGet(l.e.key("head"), clientv3.WithKeysOnly()),
			clientv3.OpGet(string(l.prefix), clientv3.WithRange(l.end), clientv3.WithLimit(l.limit))).Commit()
		if err != nil {
			return err
		}
		l.revision, l.head = r.Header.Revision, headOf(r)
		got := r.Responses[1].GetResponseRange()
		records, more = got.Kvs, got.More
		return nil
	})
	return records, more, err
}

// rest sends the pages after one to pages.
func (l *loading) rest(ctx context.Context, last []*mvccpb.KeyValue, more bool, pages chan<- page) {
	for more {
		from := string(last[len(last)-1].Key) + "\x00"
		size := 0
		for _, kv := range last {
			size += len(kv.Key) + len(kv.Value)
		}
		l.limit = min(max(int64(len(last)*pageBytes/max(size, 1)), 1), 4*l.limit, maxPage)
		var p page
		p.err = l.e.retry(ctx, pageTime, func(ctx context.Context) error {
			r, err := l.e.client.Get(ctx, from, clientv3.WithRange(l.end), clientv3.WithLimit(l.limit), clientv3.WithRev(l.revision))
			if errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
				return final("the records took longer to load than etcd keeps its history (%s)", keptTime)
			}
			if err == nil {
				p.records, more = r.Kvs, r.More
			}
			return err
		})
		select {
		case pages <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil || len(p.records) == 0 {
			return
		}
		last = p.records
	}
}
