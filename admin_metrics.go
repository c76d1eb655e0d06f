package main

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	process "github.com/VictoriaMetrics/metrics"

	"latchkey/internal/clock"
	"latchkey/internal/conns"
	"latchkey/internal/promtext"
	"latchkey/internal/sorted"
)

// MetricsOptions configures Metrics.
type MetricsOptions struct {
	Store   *Store
	Keyring *Keyring
	Limiter *Limiter
	Backups *Backups
	Storage *StorageWatch
	Clock   *clock.Clock
	Folder  string       // the data folder
	Ready   func() error // returns why the service is not ready; nil: it is ready
	Config  func() ConfigStatus
	Log     *slog.Logger // its lost lines are counted
	// Connections returns the use of each listener, and the number of connections to upstreams.
	Connections func() (listeners []conns.Usage, upstreams int)
	Cluster     func() []promtext.Metric // returns the metrics of this node of a cluster
	Open        bool                     // serve the metrics to clients without a token
}

// Metrics counts requests, commits and attempts to deliver to webhooks. It serves all metrics
// of the service in the format of Prometheus. It is safe for concurrent use.
type Metrics struct {
	o        MetricsOptions
	commits  *promtext.Histogram // seconds
	changes  *promtext.Histogram
	lookups  atomic.Uint64
	attempts map[string]*atomic.Uint64 // by result; not changed after NewMetrics

	// A request looks up its counters in these maps without a lock or an allocation. To
	// add an entry, the whole map is replaced while mu is locked.
	mu        sync.Mutex
	routes    atomic.Pointer[map[routeName]*routeMeter]
	decisions atomic.Pointer[map[string]*atomic.Uint64]

	counting     sync.Mutex
	counted      uint64                         // generation of the key table at the last count of keys, plus 1; 0: never counted
	countedUntil time.Time                      // when the last count of keys is too old
	states       atomic.Pointer[map[string]int] // keys by state at the last count; nil if they were not counted
}

// routeName identifies the counters of a route. A guarded route may have the path of an admin route.
type routeName struct {
	method, route string
	admin         bool // see Outcome.Admin
}

// doorAPI is the value of the label door for the API listener.
const doorAPI = "api"

// routeMeter holds the counters of one route.
type routeMeter struct {
	door    string // the listener: doorAPI or admin
	name    routeName
	seconds *promtext.Histogram
	codes   atomic.Pointer[[]codeMeter]
}

// codeMeter counts the requests of one route with one status.
type codeMeter struct {
	status int
	count  *atomic.Uint64
}

// The results of attempts to deliver an event to a webhook.
const (
	attemptDelivered   = "delivered"
	attemptRefused     = "refused"
	attemptUnreachable = "unreachable"
)

// NewMetrics returns a Metrics. It also sets the function that o.Store calls after each commit.
func NewMetrics(o MetricsOptions) *Metrics {
	m := &Metrics{
		o:        o,
		commits:  promtext.NewHistogram(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5),
		changes:  promtext.NewHistogram(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
		attempts: map[string]*atomic.Uint64{attemptDelivered: {}, attemptRefused: {}, attemptUnreachable: {}},
	}
	m.routes.Store(&map[routeName]*routeMeter{})
	m.decisions.Store(&map[string]*atomic.Uint64{})
	o.Store.Observe(m.committed)
	return m
}

// all returns all metrics of the service in the order of their names, for one answer.
func (m *Metrics) all() []promtext.Metric {
	listeners, _ := m.o.Connections()
	all := slices.Concat(m.own(), m.gauges(), m.stored(), connectionMetrics(listeners), inFlightMetrics(m.o.Limiter), tokenMetrics(m.o.Store, m.o.Clock), m.o.Cluster())
	sorted.Func(all, func(a, b promtext.Metric) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// series returns a metric with a name that begins with latchkey_.
func series(kind promtext.Kind, name, help string, labels ...string) promtext.Metric {
	return promtext.Metric{Name: "latchkey_" + name, Help: help, Kind: kind, Labels: labels}
}

// from returns the metric with the function that collects its series.
func from(m promtext.Metric, collect func(to *promtext.Series)) promtext.Metric {
	m.Collect = collect
	return m
}

// own returns the metrics that Metrics itself counts.
func (m *Metrics) own() []promtext.Metric {
	const counter, gauge, histogram = promtext.KindCounter, promtext.KindGauge, promtext.KindHistogram
	return []promtext.Metric{
		from(series(counter, "requests_total", "Answered requests.", "code", "door", "method", "route"), func(to *promtext.Series) {
			for _, r := range *m.routes.Load() {
				for _, c := range *r.codes.Load() {
					to.Add(float64(c.count.Load()), codeName(c.status), r.door, r.name.method, r.name.route)
				}
			}
		}),
		from(series(histogram, "request_seconds", "Time from the start of a request to the end of its answer.", "door", "method", "route"), func(to *promtext.Series) {
			for _, r := range *m.routes.Load() {
				to.AddHistogram(r.seconds, r.door, r.name.method, r.name.route)
			}
		}),
		from(series(counter, "decisions_total", "Requests to the API listener, by decision: allowed, or the error code.", "decision"), func(to *promtext.Series) {
			addCounters(to, *m.decisions.Load())
		}),
		from(series(counter, "webhook_attempts_total", "Attempts to deliver an event to a webhook.", "result"), func(to *promtext.Series) {
			addCounters(to, m.attempts)
		}),
		from(series(histogram, "store_commit_seconds", "Duration of a commit, including the sync to disk."), func(to *promtext.Series) { to.AddHistogram(m.commits) }),
		from(series(histogram, "store_commit_changes", "Number of changes that were stored in one commit."), func(to *promtext.Series) { to.AddHistogram(m.changes) }),
		from(series(counter, "key_lookups_total", "Requests with a known key."), func(to *promtext.Series) { to.Add(float64(m.lookups.Load())) }),
		from(series(gauge, "keys", "Keys by state. Absent if there are 300,000 keys or more. Updated after a key has changed, and every ten minutes.", "state"), m.addStates),
	}
}

// addCounters adds a series for each counter, with its name as the only label.
func addCounters(to *promtext.Series, counters map[string]*atomic.Uint64) {
	for name, n := range counters {
		to.Add(float64(n.Load()), name)
	}
}

// addStates adds the number of keys in each state, if they were counted.
func (m *Metrics) addStates(to *promtext.Series) {
	counts := m.states.Load()
	if counts == nil {
		return
	}
	for _, state := range KeyStates() {
		to.Add(float64((*counts)[state]), state)
	}
}

// gauges returns the metrics that are computed for each answer.
func (m *Metrics) gauges() []promtext.Metric {
	o := m.o
	return []promtext.Metric{
		from(series(promtext.KindGauge, "build_info", "Always 1.", "go_version", "version"), func(to *promtext.Series) { to.Add(1, runtime.Version(), ProgramVersion()) }),
		total("key_cache_misses_total", "Key look-ups that had to read the store.", func() float64 {
			_, misses := o.Keyring.Cached()
			return float64(misses)
		}),
		total("forged_records_total", "Records that were refused because they have no valid MAC, each counted once.", func() float64 {
			return float64(o.Store.Forged())
		}),
		total("log_lines_lost_total", "Log lines that were lost, because the log was not read in time or could not be written.", func() float64 {
			return float64(LostLines(o.Log))
		}),
		gauge("upstream_connections", "Open connections to upstreams of guarded routes.", func() float64 {
			_, upstreams := o.Connections()
			return float64(upstreams)
		}),
		gauge("store_waiting_changes", "Changes that wait for a commit.", func() float64 {
			n, _ := o.Store.Waiting()
			return float64(n)
		}),
		gauge("store_longest_wait_seconds", "How long the oldest change has waited for a commit.", func() float64 {
			_, longest := o.Store.Waiting()
			return longest.Seconds()
		}),
		gauge("key_cache_entries", "Secrets in the key cache.", func() float64 {
			n, _ := o.Keyring.Cached()
			return float64(n)
		}),
		gauge("limiter_keys", "Keys and owners whose limits are counted in memory.", func() float64 { return float64(o.Limiter.Len()) }),
		gauge("ready", "1 if the service accepts requests, else 0.", func() float64 { return oneIf(o.Ready() == nil) }),
		gauge("config_loaded_timestamp_seconds", "When the configuration in use was loaded.", func() float64 { return float64(o.Config().LoadedAt.Unix()) }),
		gauge("config_reload_failed", "1 if the latest reload of the configuration failed, else 0.", func() float64 { return oneIf(o.Config().Err != nil) }),
		gauge("store_free_bytes", "Bytes in the database file that are free for new records.", func() float64 { return float64(o.Store.FreeBytes()) }),
		gauge("disk_low", "1 if little disk space is free, 2 if it is so little that keys can store nothing new, else 0.", func() float64 {
			_, low, refusing := o.Storage.Disk()
			return oneIf(low) + oneIf(refusing)
		}),
		gauge("disk_free_bytes", "Free bytes in the file system of the data folder, or -1 if not known.", func() float64 { return float64(DiskFree(o.Folder)) }),
		gauge("store_bytes", "Size of the database file.", func() float64 {
			n, err := o.Store.Size()
			return float64(n) - oneIf(err != nil)
		}),
		gauge("last_backup_timestamp_seconds", "When the newest scheduled backup was made, or 0 if there is none.", func() float64 {
			last, _ := o.Backups.Last()
			if last.At.IsZero() {
				return 0
			}
			return float64(last.At.Unix())
		}),
		gauge("last_backup_failed", "1 if the latest scheduled backup failed, else 0.", func() float64 {
			_, err := o.Backups.Last()
			return oneIf(err != nil)
		}),
	}
}

// inFlightMetrics returns the metrics of the limits on requests in flight. Their only label is the name of
// a limit, of which the configuration has few. The limits that count every request are always among them.
func inFlightMetrics(limiter *Limiter) []promtext.Metric {
	return []promtext.Metric{
		from(series(promtext.KindGauge, "in_flight", "Requests that count in a limit on requests in flight now.", "limit"), func(to *promtext.Series) { addByLimit(to, limiter.InFlight()) }),
		from(series(promtext.KindCounter, "in_flight_refused_total", "Requests that a limit on requests in flight has refused.", "limit"), func(to *promtext.Series) { addByLimit(to, limiter.RefusedInFlight()) }),
	}
}

// addByLimit adds a series for each limit on requests in flight.
func addByLimit[N int | uint64](to *promtext.Series, counts map[string]N) {
	for _, name := range []string{ConcurrentRequests, ConcurrentStreams} {
		counts[name] += 0
	}
	for name, n := range counts {
		to.Add(float64(n), name)
	}
}

// stored returns the metrics that are read from the store for each answer. Their value is -1
// if the store cannot be read.
func (m *Metrics) stored() []promtext.Metric {
	value := func(read func(tx *Tx) (float64, error)) func() float64 {
		return func() (value float64) {
			err := m.o.Store.View(func(tx *Tx) (err error) {
				value, err = read(tx)
				return err
			})
			if err != nil {
				return -1
			}
			return value
		}
	}
	read := func(name, help string, read func(tx *Tx) (float64, error)) promtext.Metric {
		return gauge(name, help, value(read))
	}
	return []promtext.Metric{
		read("keys_stored", "Keys in the store, in any state.", func(tx *Tx) (float64, error) {
			n, err := m.o.Keyring.Count(tx)
			return float64(n), err
		}),
		read("owner_bytes", "Bytes that the records of all owners need as they are stored.", func(tx *Tx) (sum float64, err error) {
			for s, err := range OwnersStorage(tx) {
				if err != nil {
					return 0, err
				}
				sum += float64(s.Bytes)
			}
			return sum, nil
		}),
		read("owners_full", "Owners whose storage is at least 80 % full.", func(tx *Tx) (float64, error) {
			list, err := FullOwners(tx)
			return float64(len(list)), err
		}),
		read("audit_entries", "Entries of the audit log.", func(tx *Tx) (float64, error) {
			n, err := CountAudit(tx)
			return float64(n), err
		}),
		read("webhook_backlog", "Webhook deliveries that are pending.", func(tx *Tx) (float64, error) {
			n, _, err := OutboxBacklog(tx)
			return float64(n), err
		}),
		read("webhook_oldest_seconds", "Age of the oldest pending webhook delivery, or 0 if there is none.", func(tx *Tx) (float64, error) {
			_, oldest, err := OutboxBacklog(tx)
			if oldest.IsZero() {
				return 0, err
			}
			return m.o.Clock.Now().Sub(oldest).Seconds(), err
		}),
		read("mail_backlog", "Events that wait to be mailed to the operators.", func(tx *Tx) (float64, error) {
			w, err := WaitingMails(tx)
			return float64(w.Events), err
		}),
		read("mail_failing_seconds", "For how long mails could not be sent, or 0 if they can.", func(tx *Tx) (float64, error) {
			w, err := WaitingMails(tx)
			if w.Failed.IsZero() {
				return 0, err
			}
			return m.o.Clock.Now().Sub(w.Failed).Seconds(), err
		}),
		total("webhook_dropped_total", "Webhook deliveries that were dropped unsent because of a bound.", value(func(tx *Tx) (float64, error) {
			n, err := DroppedDeliveries(tx)
			return float64(n), err
		})),
	}
}

// connectionMetrics returns the metrics of the connections of each listener, of which listeners is the use.
func connectionMetrics(listeners []conns.Usage) []promtext.Metric {
	each := func(add func(to *promtext.Series, u conns.Usage)) func(to *promtext.Series) {
		return func(to *promtext.Series) {
			for _, u := range listeners {
				add(to, u)
			}
		}
	}
	return []promtext.Metric{
		from(series(promtext.KindGauge, "connections", "Open connections, by listener.", "listener"), each(func(to *promtext.Series, u conns.Usage) { to.Add(float64(u.Open), u.Name) })),
		from(series(promtext.KindGauge, "connections_max", "Most open connections, by listener.", "listener"), each(func(to *promtext.Series, u conns.Usage) { to.Add(float64(u.Limits.Max), u.Name) })),
		from(series(promtext.KindCounter, "connections_closed_total", "Connections that were closed to make room or because they had no valid key, by listener and reason.", "listener", "reason"),
			each(func(to *promtext.Series, u conns.Usage) {
				for reason, n := range u.Closed {
					to.Add(float64(n), u.Name, conns.Reason(reason).String())
				}
			})),
	}
}

// gauge returns a gauge whose value is the result of read. latchkey_ is put before name.
func gauge(name, help string, read func() float64) promtext.Metric {
	return from(series(promtext.KindGauge, name, help), func(to *promtext.Series) { to.Add(read()) })
}

// total is like gauge, for a value that only grows.
func total(name, help string, read func() float64) promtext.Metric {
	return from(series(promtext.KindCounter, name, help), func(to *promtext.Series) { to.Add(read()) })
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// committed records a commit that stored a number of changes and took the time took.
func (m *Metrics) committed(changes int, duration time.Duration) {
	m.commits.Observe(duration.Seconds())
	m.changes.Observe(float64(changes))
}

// AdminRoutes returns the routes for operators.
func (m *Metrics) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/metrics", Handle: m.serve, Public: m.o.Open, Stale: true}}
}

func (m *Metrics) serve(w http.ResponseWriter, r *Request) error {
	return promtext.Serve(w, r.Request, func(w io.Writer) error {
		if err := promtext.Write(w, m.all()); err != nil {
			return err
		}
		process.WriteProcessMetrics(w) // with those of the Go runtime
		return nil
	})
}

// Watch counts an answered request. It is called for each request, so it allocates only for
// the first request with a route, status or error code.
func (m *Metrics) Watch(o *Outcome) {
	name := routeName{o.Method, o.Route, o.Admin}
	r := (*m.routes.Load())[name]
	if r == nil {
		r = m.newRoute(name)
	}
	r.seconds.Observe(o.Took.Seconds())
	m.count(r, o.Status).Add(1)
	if r.door != doorAPI {
		return
	}
	if o.Key != nil {
		m.lookups.Add(1)
	}
	code := o.Code
	if code == "" {
		code = "allowed"
	}
	c := (*m.decisions.Load())[code]
	if c == nil {
		c = m.newDecision(code)
	}
	c.Add(1)
}

// count returns the counter for a route and a status. It creates the counter if there is
// none.
func (m *Metrics) count(r *routeMeter, status int) *atomic.Uint64 {
	codes := r.codes.Load()
	for i := range *codes {
		if (*codes)[i].status == status {
			return (*codes)[i].count
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := new(atomic.Uint64)
	more := append(slices.Clone(*r.codes.Load()), codeMeter{status, c})
	r.codes.Store(&more)
	return c
}

// codeName returns the value of the label code for an HTTP status.
func codeName(status int) string {
	if status < 100 || status > 599 {
		return "none" // the connection broke before an answer
	}
	return string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})
}

// maxRoutes is the maximum number of routes with their own counters.
const maxRoutes = 2000

// newRoute returns the counters of a route. It creates them if there are none. Requests with
// an unknown method, and routes beyond maxRoutes, share one set of counters for each listener: the client
// chooses the method, and must not be able to create any number of counters.
func (m *Metrics) newRoute(name routeName) *routeMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := *m.routes.Load()
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, name.method) || len(all) >= maxRoutes {
		name.method, name.route = "other", "-"
	}
	if r := all[name]; r != nil {
		return r
	}
	door := doorAPI
	if name.admin {
		door = "admin"
	}
	r := &routeMeter{door: door, name: name, seconds: promtext.NewHistogram(.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5)}
	r.codes.Store(&[]codeMeter{})
	more := maps.Clone(all)
	more[name] = r
	m.routes.Store(&more)
	return r
}

// newDecision returns the counter for a decision. It creates the counter if there is none.
func (m *Metrics) newDecision(code string) *atomic.Uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := new(atomic.Uint64)
	more := maps.Clone(*m.decisions.Load())
	more[code] = c
	m.decisions.Store(&more)
	return c
}

// Attempted counts an attempt to deliver an event to a webhook, by its result.
func (m *Metrics) Attempted(a Attempt) {
	result := attemptDelivered
	switch {
	case a.Status == 0:
		result = attemptUnreachable
	case !a.Success():
		result = attemptRefused
	}
	m.attempts[result].Add(1)
}

// manyKeys is the number of keys at which CountKeys stops counting. Their rows would be too many to be
// kept in memory, so it would read all of them each minute.
const manyKeys = 300_000

// CountKeys counts the keys by state and sets the metric latchkey_keys. It does nothing if no
// key has changed and the last count is less than ten minutes old. If there are manyKeys or
// more, it removes the metric instead. Call it about once a minute. now must be from
// Clock.Latest.
func (m *Metrics) CountKeys(now time.Time) error {
	m.counting.Lock()
	defer m.counting.Unlock()
	generation := m.o.Store.Generation(KeyTable.Name).Load() + 1
	if m.counted == generation && now.Before(m.countedUntil) {
		return nil
	}
	var counts map[string]int
	err := m.o.Store.View(func(tx *Tx) error {
		total, err := KeyTable.Count(tx)
		if err == nil && total < manyKeys {
			counts, err = m.o.Keyring.CountStates(tx, now)
		}
		return err
	})
	if err != nil {
		return err
	}
	m.counted, m.countedUntil = generation, now.Add(10*time.Minute)
	if counts == nil {
		m.states.Store(nil)
	} else {
		m.states.Store(&counts)
	}
	return nil
}
