package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/clock"
	"latchkey/internal/cluster"
	"latchkey/internal/promtext"
)

// clusterEngine is what a node of a cluster needs of its etcd.
type clusterEngine interface {
	cluster.Engine
	cluster.Members
	cluster.Inspector
	// Store returns the store of the cluster.
	Store(ctx context.Context) (ClusterStore, error)
	// Create creates the store of the cluster, which must have none. each calls its argument for each record. After an
	// error there is no store, and Create can be called again.
	Create(ctx context.Context, id string, each func(put func(cluster.Write) error) error) error
	SetConfig(sum string)    // changes Node.Config of this node
	Running() []cluster.Node // the nodes with a lease, by name, without a request
	// Use chooses the store with this id. It is called once, before all other methods but Store and Create.
	Use(id string)
}

// ClusterStore describes the store of a cluster.
type ClusterStore struct {
	ID        string
	Format    int // of its records
	CreatedAt time.Time
}

// errUnreachable means that no etcd server can be reached at present.
var errUnreachable = errors.New("no etcd server can be reached")

// clusterPart is the part of an App about the other nodes of a cluster: a *membership, or alone.
type clusterPart interface {
	ClusterReporter
	metrics() []promtext.Metric           // see MetricsOptions.Cluster
	faults() int                          // how much needs attention, as of the last look
	shared() FolderSharing                // FolderOptions.Shared
	start(a *App) error                   // begins to renew the lease
	serving() func() error                // ServerOptions.Serving
	awaitServing() error                  // waits until the records may be used
	first() func() bool                   // whether this node does what one node does for all, see worker; nil: there are no others
	certificates(a *App) autocert.Cache   // ListenerOptions.ACME
	configured(running, loaded Config)    // a configuration was reloaded; running is that of the start
	work() []work                         // the background work about the other nodes
	door(pages http.Handler) http.Handler // shows browsers their own changes
	lost() <-chan error                   // receives the reason why the node may no longer be part of the cluster
	close() error                         // the store must be closed
}

// alone is the clusterPart of a server that is in no cluster.
type alone struct{}

func (alone) shared() FolderSharing                { return nil }
func (alone) start(*App) error                     { return nil }
func (alone) serving() func() error                { return nil }
func (alone) awaitServing() error                  { return nil }
func (alone) first() func() bool                   { return nil }
func (alone) certificates(*App) autocert.Cache     { return nil }
func (alone) configured(Config, Config)            {}
func (alone) work() []work                         { return nil }
func (alone) door(pages http.Handler) http.Handler { return pages }
func (alone) lost() <-chan error                   { return nil }
func (alone) close() error                         { return nil }
func (alone) metrics() []promtext.Metric           { return nil }
func (alone) faults() int                          { return 0 }

// ReportCluster implements ClusterReporter.
func (alone) ReportCluster(context.Context) map[string]any { return map[string]any{"enabled": false} }

// RemoveNode implements ClusterReporter.
func (alone) RemoveNode(context.Context, string) error {
	return ErrConflict.With("This server is part of no cluster, so it has no nodes.")
}

// ClusterSupport is what the program can do with clusters.
type ClusterSupport struct {
	join   func(c Config, log *slog.Logger) (clusterPart, error)
	check  func(c ClusterConfig) error                                          // checks the files that it names
	Create func(ctx context.Context, o ClusterInitOptions) (ClusterInit, error) // see InitCluster
	Nodes  func(ctx context.Context, c ClusterConfig) ([]cluster.Node, error)   // see ClusterAccess
	Remove func(ctx context.Context, c ClusterConfig, name string) error        // see ClusterAccess
}

// ClusterCommands returns what commands need for the cluster of a configuration. It returns an error that says what to do if
// there is none, or if the program has no client of etcd.
func ClusterCommands(c ClusterConfig) (*ClusterSupport, error) {
	switch {
	case !c.On():
		return nil, errNoCluster
	case clusters == nil:
		return nil, errNoClusters
	}
	return clusters, nil
}

// clusters is nil in a program without a client of etcd. It has functions, and App and Store have interfaces, so that such a
// program contains nothing that only a node of a cluster needs.
var clusters *ClusterSupport

// errNoClusters is the error of a program without a client of etcd.
var errNoClusters = errors.New("this build of latchkey cannot be part of a cluster, which needs a client of etcd: " +
	"install latchkey-cluster of the same version, which has it and is the same otherwise, or build with 'go build -tags cluster'")

// CheckCluster returns an error if the program cannot use the settings of a cluster. It connects to nothing.
func CheckCluster(c ClusterConfig) error {
	switch {
	case !c.On():
		return nil
	case clusters == nil:
		return errNoClusters
	}
	return clusters.check(c)
}

// joinCluster returns the clusterPart for a configuration.
func joinCluster(c Config, log *slog.Logger) (clusterPart, error) {
	switch {
	case !c.Cluster.On():
		return alone{}, nil
	case clusters == nil:
		return nil, fmt.Errorf("cluster.endpoints is set, but %w", errNoClusters)
	}
	return clusters.join(c, log)
}

// membership is the clusterPart of a node.
type membership struct {
	late     *lateEngine
	self     cluster.Node
	keyring  atomic.Pointer[Keyring] // nil until start
	store    *Store                  // nil until start
	log      *slog.Logger
	ctx      context.Context
	stop     context.CancelFunc
	ended    sync.WaitGroup
	failed   chan error             // see lost
	config   atomic.Pointer[string] // ConfigSum
	compared map[string][2]string   // by node: the ConfigSum of this node and of the other one when compare last saw them
	lease    time.Duration
	last     atomic.Pointer[clusterReport] // nil: nobody has looked yet
}

// dialTimes are how long an App waits for etcd when it starts, and how often it tries again later.
const (
	firstDial = 15 * time.Second
	nextDial  = time.Second
)

// newMembership connects to the cluster of a configuration. If etcd cannot be reached, but the data folder has a
// view of the cluster, it goes on without: the node does not serve until it can be reached.
func newMembership(c Config, log *slog.Logger) (clusterPart, error) {
	m := &membership{log: log, failed: make(chan error, 1), compared: map[string][2]string{}, lease: c.Cluster.Lease}
	m.ctx, m.stop = context.WithCancel(context.Background())
	host, _ := os.Hostname() // only for people
	m.self = cluster.Node{Name: c.Cluster.Name, Host: host, Version: ProgramVersion(), Format: StoreFormat, Started: time.Now().UTC(), Running: true}
	m.late = newLateEngine()
	m.configured(c, c)
	open := func() (clusterEngine, ClusterStore, error) {
		ctx, cancel := context.WithTimeout(m.ctx, firstDial)
		defer cancel()
		engine, err := dialCluster(ctx, c.Cluster, log)
		if err != nil {
			return nil, ClusterStore{}, err
		}
		store, err := engine.Store(ctx)
		if err == nil && store.Format != StoreFormat {
			err = fmt.Errorf("the records in etcd have format %d; this is latchkey %s, which has format %d: run the same version on all nodes", store.Format, ProgramVersion(), StoreFormat)
		}
		if err != nil {
			return nil, store, errors.Join(err, engine.Close())
		}
		engine.Use(store.ID)
		return engine, store, nil
	}
	engine, store, err := open()
	if err == nil {
		m.late.store = store
		m.late.set(engine)
		return m, nil
	}
	id, created, view := ViewOf(c.Server.Data)
	if !errors.Is(err, errUnreachable) || !view {
		return nil, err
	}
	log.Error("the cluster cannot be reached; this node answers no requests until it can", "error", err)
	m.late.store = ClusterStore{ID: id, CreatedAt: created}
	m.late.because(err)
	m.ended.Go(func() {
		for m.ctx.Err() == nil {
			select {
			case <-time.After(nextDial):
			case <-m.ctx.Done():
				return
			}
			engine, store, err := open()
			if err == nil && (store.ID != id || !store.CreatedAt.Equal(created)) {
				err = errors.Join(fmt.Errorf("the data folder belongs to another store (%s of %s) than the cluster (%s of %s); start the node again",
					id, created.Format(time.RFC3339), store.ID, store.CreatedAt.Format(time.RFC3339)), engine.Close())
			}
			if err == nil {
				m.late.set(engine)
				return
			}
			m.late.because(err)
		}
	})
	return m, nil
}

// shared returns what makes the database of a folder a view of the cluster.
func (m *membership) shared() FolderSharing {
	return &SharedFolder{StoreID: m.late.store.ID, CreatedAt: m.late.store.CreatedAt, ShareOptions: ShareOptions{
		Engine: m.late, Members: m.late, Node: m.self.Name, Tables: tables(), Applied: func(set *cluster.Set) {
			if k := m.keyring.Load(); k != nil {
				k.Applied(set)
			}
		},
	}}
}

// start begins to renew the lease. The keyring learns of the changes of other nodes from now on.
func (m *membership) start(a *App) error {
	m.store = a.Store
	m.keyring.Store(a.Keyring)
	if err := a.Keyring.Forget(); err != nil { // what was read before
		return err
	}
	m.ended.Go(m.watch)
	m.ended.Go(func() {
		if m.late.wait(m.ctx) != nil {
			return
		}
		self := m.self
		self.Config = *m.config.Load()
		err := m.late.engine.Join(m.ctx, self)
		m.late.engine.SetConfig(*m.config.Load()) // it may have been reloaded meanwhile
		if err == nil {
			err = m.late.engine.Keep(m.ctx, &localNode{store: a.Store, clock: a.clock, limiter: a.Limiter})
		}
		if err != nil && m.ctx.Err() == nil {
			m.failed <- fmt.Errorf("this node cannot be part of the cluster: %w", err)
		}
	})
	return nil
}

// localNode is this node as a cluster.Local. The time of the cluster is the service time.
type localNode struct {
	store   *Store
	clock   *clock.Clock
	limiter *Limiter
}

// Reach implements cluster.Local.
func (n *localNode) Reach(ctx context.Context, head cluster.Head) error {
	return n.store.Reach(ctx, head)
}

// Time implements cluster.Local.
func (n *localNode) Time() time.Time {
	n.clock.Catch() // a suspension that has just ended
	return n.clock.Steady(n.clock.Now())
}

// Shift implements cluster.Local.
func (n *localNode) Shift(d time.Duration) { n.clock.Shift(d) }

// Joined implements cluster.Local.
func (n *localNode) Joined() { n.limiter.Begin(n.Time()) }

// joinTime is how long a command waits until it may use the records of a cluster: another process of this node may
// have crashed, whose lease must end first.
const joinTime = 75 * time.Second

// awaitServing waits until the records may be used.
func (m *membership) awaitServing() error {
	serving := m.serving()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(joinTime); ; {
		err := serving()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-m.failed:
			return err
		case <-late:
			return err
		}
	}
}

// first returns a function that reports whether this node does what one node does for all.
func (m *membership) first() func() bool {
	return func() bool {
		e := m.late.now.Load()
		return e != nil && (*e).First()
	}
}

// certificates returns ListenerOptions.ACME.
func (m *membership) certificates(a *App) autocert.Cache {
	return &SharedACME{Store: a.Store, Peppers: a.peppers, Folder: ACMEFolder(a.folder.Path), Turn: m.first(), Clock: a.clock}
}

// configured registers what other nodes compare of the configuration, see ConfigSum.
func (m *membership) configured(running, loaded Config) {
	sum := ConfigSum(ConfigInForce(running, loaded))
	m.config.Store(&sum)
	if e := m.late.now.Load(); e != nil {
		(*e).SetConfig(sum)
	}
}

// work returns the background work about the other nodes.
func (m *membership) work() []work {
	return []work{{10 * time.Second, "compare the configuration with that of the other nodes", eachNode, func(time.Time) error {
		if e := m.late.now.Load(); e != nil {
			m.compare((*e).Running())
		}
		return nil
	}}}
}

// compare logs which nodes have another configuration than this one, once for each change.
func (m *membership) compare(nodes []cluster.Node) {
	own := *m.config.Load()
	for _, n := range nodes {
		if n.Name == m.self.Name || n.Config == "" {
			continue
		}
		before, seen := m.compared[n.Name]
		now := [2]string{own, n.Config}
		if m.compared[n.Name] = now; seen && before == now {
			continue
		}
		switch {
		case n.Config != own:
			m.log.Warn("another node of the cluster has a different configuration, so that it may decide differently about requests; compare the files, then reload or restart",
				"node", n.Name, "host", n.Host, "version", n.Version)
		case seen:
			m.log.Info("another node of the cluster has the same configuration again", "node", n.Name)
		}
	}
}

// headCookie is the cookie with which a browser shows the position of its last change, as programs do with
// the field Latchkey-At.
const headCookie = "latchkey_at"

// door returns a handler for browsers whose requests may reach another node each time: a page is shown from a
// state that has the changes that the browser has made.
func (m *membership) door(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cookie, err := r.Cookie(headCookie); err == nil {
			// A cookie that is no number, or that no change has reached, delays the page by a second at most.
			if head, err := strconv.ParseInt(cookie.Value, 10, 64); err == nil {
				ctx, cancel := context.WithTimeout(r.Context(), time.Second)
				_ = m.store.Reach(ctx, cluster.Head(head))
				cancel()
			}
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w = &headWriter{ResponseWriter: w, store: m.store}
		}
		pages.ServeHTTP(w, r)
	})
}

// headWriter sets headCookie.
type headWriter struct {
	http.ResponseWriter
	store *Store
	begun bool
}

// WriteHeader implements http.ResponseWriter.
func (w *headWriter) WriteHeader(status int) {
	if !w.begun {
		w.begun = true
		http.SetCookie(w.ResponseWriter, &http.Cookie{
			Name: headCookie, Value: strconv.FormatInt(int64(w.store.Head()), 10), Path: "/", MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *headWriter) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap returns the http.ResponseWriter behind it, for http.ResponseController.
func (w *headWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// lost returns a channel that receives the reason why the node may no longer be part of the cluster.
func (m *membership) lost() <-chan error { return m.failed }

// serving returns ServerOptions.Serving.
func (m *membership) serving() func() error {
	return func() error {
		if e := m.late.now.Load(); e != nil {
			return (*e).Serving()
		}
		return *m.late.reason.Load()
	}
}

// close ends the lease and the connection. The store must be closed.
func (m *membership) close() error {
	m.stop()
	m.ended.Wait()
	e := m.late.now.Load()
	if e == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := (*e).Leave(ctx); err != nil {
		m.log.Warn("the lease of this node could not be given up; the other nodes wait until it ends", "error", err)
	}
	return (*e).Close()
}

// lateEngine is a clusterEngine that may be opened later. Until then its methods wait.
type lateEngine struct {
	store  ClusterStore
	opened chan struct{} // closed when engine is set
	engine clusterEngine
	now    atomic.Pointer[clusterEngine] // engine, once it is set
	reason atomic.Pointer[error]         // why it is not set
	counts clusterCounts
}

// newLateEngine returns a lateEngine without an engine.
func newLateEngine() *lateEngine {
	return &lateEngine{opened: make(chan struct{}), counts: newClusterCounts()}
}

func (l *lateEngine) set(e clusterEngine) {
	l.engine = e
	l.now.Store(&e)
	close(l.opened)
}

func (l *lateEngine) because(err error) { l.reason.Store(&err) }

// wait waits until the engine is open.
func (l *lateEngine) wait(ctx context.Context) error {
	select {
	case <-l.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Turn implements cluster.Engine.
func (l *lateEngine) Turn(ctx context.Context) {
	if e := l.now.Load(); e != nil {
		(*e).Turn(ctx)
	}
}

// Commit implements cluster.Engine.
func (l *lateEngine) Commit(ctx context.Context, base cluster.Head, set *cluster.Set) (cluster.Head, error) {
	e := l.now.Load()
	if e == nil {
		return 0, errUnreachable
	}
	began := time.Now()
	head, err := (*e).Commit(ctx, base, set)
	l.counts.committed(time.Since(began), err)
	return head, err
}

// Barrier implements cluster.Engine.
func (l *lateEngine) Barrier(ctx context.Context) (cluster.Head, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.engine.Barrier(ctx)
}

// Follow implements cluster.Engine.
func (l *lateEngine) Follow(ctx context.Context, after cluster.Head, apply func(cluster.Head, *cluster.Set) error) error {
	if err := l.wait(ctx); err != nil {
		return err
	}
	return l.engine.Follow(ctx, after, apply)
}

// Load implements cluster.Engine.
func (l *lateEngine) Load(ctx context.Context, put func(cluster.Write) error) (cluster.Head, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.engine.Load(ctx, put)
}

// Acknowledge is that of cluster.Members.
func (l *lateEngine) Acknowledge(ctx context.Context, head cluster.Head) error {
	if err := l.wait(ctx); err != nil {
		return err
	}
	return l.engine.Acknowledge(ctx, head)
}

// Await is that of cluster.Members.
func (l *lateEngine) Await(ctx context.Context, head cluster.Head) (cluster.Effect, error) {
	if err := l.wait(ctx); err != nil {
		return cluster.Effect{}, err
	}
	effect, err := l.engine.Await(ctx, head)
	l.counts.awaited.Observe(effect.Took.Seconds())
	return effect, err
}

// Close implements cluster.Engine. The membership closes the engine.
func (l *lateEngine) Close() error { return nil }
