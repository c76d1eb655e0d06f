// Package etcd keeps the sequence of a cluster, and the list of its running nodes, in an etcd cluster.
//
// In reading order: etcd.go (the engine and its keys), connect.go (the checks before it is used), conn.go
// (a connection), errors.go
// (which errors are retried, and what to do about the others), commit.go (a Set becomes one transaction),
// watch.go (the Sets of all nodes), state.go (what the watch says about the other nodes), load.go (all records
// at once), create.go (a new store), members.go (leases and acknowledgements), permit.go (until when a node may answer),
// inspect.go (what operators see).
//
// All keys begin with "lk/". Of a store with an id, they begin with "lk/ID/":
//
//	lk/store             StoreInfo, written at the end of the creation of the store
//	r/BUCKET\0KEY        the value of a record
//	head                 header of the last Set; the revision of its last change is the Head
//	last/NODE            nonce of the last Set of a node
//	node/NODE            registration of a running node, under its lease
//	ack/NODE             the last Head that a running node has acknowledged, under its lease
//	want/NODE            a running node waits for its turn to commit, under its lease
//	known/NODE           the registration of a node that has ever joined
//	removed/NODE         the node may no longer join
package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/grpclog"

	"latchkey/internal/cluster"
)

// Options says which etcd to use, and as which node.
type Options struct {
	Endpoints []string             // URLs of the etcd servers, such as https://10.0.0.1:2379
	CAFile    string               // PEM file of the authority of their certificates; "": those of the system
	CertFile  string               // PEM file of the certificate of this node; "" if etcd asks for none
	KeyFile   string               // PEM file of its key
	Node      string               // name of this node
	Lease     time.Duration        // how long this node may answer without having heard of the others; 0: 3 s
	Log       *slog.Logger         // nil: nothing is logged
	Boot      func() time.Duration // time since the boot of the machine, with the time that it was suspended; nil: the machine's
}

// The times of the engine.
const (
	attemptTime = 500 * time.Millisecond // a request that takes longer is sent again, to the next server
	penTime     = 60 * time.Millisecond  // longest wait for the turn of another node
	markTime    = 5 * time.Minute        // interval between compactions of etcd's history
	keptTime    = 10 * time.Minute       // a node can be away for this long and still follow

	defaultLease = 3 * time.Second
)

// maxSend is the most bytes of a request.
const maxSend = 16 << 20

// storeKey is the key of the StoreInfo.
const storeKey = "lk/store"

// errClosed is the error of methods that run when the engine is closed.
var errClosed = errors.New("the connection to etcd was closed")

// Engine is a cluster.Engine, a cluster.Members and a cluster.Inspector. Its methods are safe for concurrent use, except Use.
type Engine struct {
	options  Options
	fakeBoot bool // the boot clock is not the machine's
	client   *clientv3.Client
	log      *slog.Logger
	prefix   string // of the keys of the store
	closing  context.Context
	close    context.CancelFunc
	running  sync.WaitGroup // goroutines of the engine

	state state // what the watch has reported

	commits chan struct{} // holds a value while a Commit runs: its nonce must not be overwritten before it is resolved
	wanted  atomic.Bool   // want/NODE may exist
	marks   marks

	self   self // this node as a member
	quotas quotas
}

var (
	_ cluster.Engine    = (*Engine)(nil)
	_ cluster.Members   = (*Engine)(nil)
	_ cluster.Inspector = (*Engine)(nil)
)

// quiet turns off the messages of grpc, which go to the standard error.
var quiet = sync.OnceFunc(func() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) })

// Open connects to etcd and checks that it can be used. The error says what to do. It is an ErrUnreachable if none of
// the servers can be reached, which may end without a change of the settings. The caller chooses a store by
// Use before it calls other methods than Store and Create, and calls Close at the end.
func Open(ctx context.Context, o Options) (*Engine, error) {
	quiet()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Lease = cmp.Or(o.Lease, defaultLease)
	fakeBoot := o.Boot != nil
	if !fakeBoot {
		o.Boot = bootTime
	}
	closing, end := context.WithCancel(context.Background())
	client, err := o.connect(ctx, closing)
	if err != nil {
		end()
		return nil, err
	}
	e := &Engine{options: o, client: client, log: o.Log, commits: make(chan struct{}, 1), closing: closing, close: end, fakeBoot: fakeBoot}
	e.state.start(o.Node, o.Boot)
	e.self.reason, e.self.due = errNotJoined, make(chan struct{}, 1)
	return e, nil
}

// connect checks the settings and the servers and returns a client, which may be used until closing ends.
func (o *Options) connect(ctx, closing context.Context) (*clientv3.Client, error) {
	config, err := o.config(closing)
	if err != nil {
		return nil, err
	}
	if err := o.probe(ctx, config); err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return client, nil
}

// Check checks the settings and the files that they name, without a connection. The error says what to do.
func (o Options) Check() error {
	if err := o.checkEndpoints(); err != nil {
		return err
	}
	_, err := o.security()
	return err
}

// config returns the settings of a client for all endpoints. It checks the settings without a connection. Connections of the
// client are looked after until ctx ends.
func (o *Options) config(ctx context.Context) (clientv3.Config, error) {
	if err := o.checkEndpoints(); err != nil {
		return clientv3.Config{}, err
	}
	security, err := o.security()
	if err != nil {
		return clientv3.Config{}, err
	}
	return clientv3.Config{
		Endpoints:          o.Endpoints,
		TLS:                security,
		DialTimeout:        dialTime,
		Logger:             zap.NewNop(),
		MaxCallSendMsgSize: maxSend,
		// For a connection without requests; gRPC sends pings at most every ten seconds. See conn for the others.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		PermitWithoutStream:  true,
		MaxUnaryRetries:      1, // the engine itself decides what is sent again, and knows the reason then
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dialer(ctx, security)), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: dialTime,
		}), grpc.WithChainUnaryInterceptor(failFast)},
	}, nil
}

// failFast lets a request fail at once, with the reason, if there is no connection. etcd's client would let it wait, so that its error
// would be that of its context.
func failFast(ctx context.Context, method string, req, reply any, to *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, to, append(options, grpc.WaitForReady(false))...)
}

// Use chooses the store with an id. It is called once, before other goroutines use the engine.
func (e *Engine) Use(id string) { e.prefix = "lk/" + id + "/" }

// Close releases the connections. It does not give up the lease, see Leave.
func (e *Engine) Close() error {
	e.close()
	err := e.client.Close()
	e.running.Wait()
	if errors.Is(err, context.Canceled) {
		return nil // the client's own context, which Close has ended
	}
	return err
}

// until returns a context that ends with ctx or when the engine is closed.
func (e *Engine) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.closing, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// key returns the key of a part of the store, such as "node/a".
func (e *Engine) key(parts ...string) string { return e.prefix + strings.Join(parts, "") }

// recordKey returns the key of a record.
func (e *Engine) recordKey(bucket string, key []byte) string {
	return e.prefix + "r/" + bucket + "\x00" + string(key)
}

// host returns the host and port of an endpoint that checkEndpoints has accepted.
func host(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint
	}
	return u.Host
}
