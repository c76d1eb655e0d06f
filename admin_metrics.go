package main

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"latchkey/internal/clock"
	"latchkey/internal/conns"
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
	Open        bool // serve the metrics to clients without a token
}

// Metrics counts requests, commits and attempts to deliver to webhooks. It serves all metrics
// of the service in the format of Prometheus. It is safe for concurrent use.
type Metrics struct {
	o        MetricsOptions
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	decided  *prometheus.CounterVec
	attempts *prometheus.CounterVec
	commits  prometheus.Histogram
	changes  prometheus.Histogram
	lookups  prometheus.Counter
	states   *prometheus.GaugeVec

	// A request looks up its counters in these maps without a lock or an allocation. To
	// add an entry, the whole map is replaced while mu is locked.
	mu        sync.Mutex
	routes    atomic.Pointer[map[routeName]*routeMeter]
	decisions atomic.Pointer[map[string]prometheus.Counter]

	counting     sync.Mutex
	counted      uint64    // generation of the key table at the last count of keys, plus 1; 0: never counted
	countedUntil time.Time // when the last count of keys is too old
}

type routeName struct{ method, route string }

// routeMeter holds the counters of one route.
type routeMeter struct {
	labels  []string // values of the labels door (the listener), method and route
	seconds prometheus.Observer
	codes   atomic.Pointer[[]codeMeter]
}

// codeMeter counts the requests of one route with one status.
type codeMeter struct {
	status int
	count  prometheus.Counter
}

// NewMetrics returns a Metrics with its own Prometheus registry. It also sets the function
// that o.Store calls after each commit.
func NewMetrics(o MetricsOptions) (*Metrics, error) {
	labels := []string{"door", "method", "route"}
	m := &Metrics{
		o: o, registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_requests_total", Help: "Answered requests."}, append(slices.Clone(labels), "code")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "latchkey_request_seconds", Help: "Time from the start of a request to the end of its answer.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5},
		}, labels),
		decided:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_decisions_total", Help: "Requests to the API listener, by decision: allowed, or the error code."}, []string{"decision"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "latchkey_webhook_attempts_total", Help: "Attempts to deliver an event to a webhook."}, []string{"result"}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "latchkey_store_commit_seconds", Help: "Duration of a commit, including the sync to disk.", Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		changes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "latchkey_store_commit_changes", Help: "Number of changes that were stored in one commit.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		}),
		states:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "latchkey_keys", Help: "Keys by state. Absent if there are 300,000 keys or more. Updated after a key has changed, and every ten minutes."}, []string{"state"}),
		lookups: prometheus.NewCounter(prometheus.CounterOpts{Name: "latchkey_key_lookups_total", Help: "Requests with a known key."}),
	}
	m.routes.Store(&map[routeName]*routeMeter{})
	m.decisions.Store(&map[string]prometheus.Counter{})
	for _, result := range []string{"delivered", "refused", "unreachable"} {
		m.attempts.WithLabelValues(result)
	}
	o.Store.Observe(m.committed)
	return m, m.register(append(append(m.gauges(), m.stored()...), tokenMetrics{o.Store, o.Clock}, m.requests, m.seconds, m.decided, m.attempts, m.commits, m.changes, m.lookups, m.states,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
}

func (m *Metrics) register(all ...prometheus.Collector) (err error) {
	for _, c := range all {
		err = errors.Join(err, m.registry.Register(c))
	}
	return err
}

// gauges returns the metrics that are computed for each answer.
func (m *Metrics) gauges() []prometheus.Collector {
	o := m.o
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "latchkey_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": ProgramVersion(), "go_version": runtime.Version()},
	})
	info.Set(1)
	return []prometheus.Collector{
		info,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "latchkey_key_cache_misses_total", Help: "Key look-ups that had to read the store."}, func() float64 {
			_, misses := o.Keyring.Cached()
			return float64(misses)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "latchkey_forged_records_total", Help: "Records that were refused because they have no valid MAC, each counted once."}, func() float64 {
			return float64(o.Store.Forged())
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "latchkey_log_lines_lost_total", Help: "Log lines that were lost, because the log was not read in time or could not be written."}, func() float64 {
			return float64(LostLines(o.Log))
		}),
		connectionMetrics(o.Connections),
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
		inFlight{o.Limiter},
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
			if last.IsZero() {
				return 0
			}
			return float64(last.Unix())
		}),
		gauge("last_backup_failed", "1 if the latest scheduled backup failed, else 0.", func() float64 {
			_, err := o.Backups.Last()
			return oneIf(err != nil)
		}),
	}
}

// inFlight collects the figures of the limits on requests in flight. Their only label is the name of a
// limit, of which the configuration has few.
type inFlight struct{ limiter *Limiter }

var (
	inFlightNow     = prometheus.NewDesc("latchkey_in_flight", "Requests that count in a limit on requests in flight now.", []string{"limit"}, nil)
	inFlightRefused = prometheus.NewDesc("latchkey_in_flight_refused_total", "Requests that a limit on requests in flight has refused.", []string{"limit"}, nil)
)

// Describe sends the descriptions of both metrics.
func (f inFlight) Describe(to chan<- *prometheus.Desc) {
	to <- inFlightNow
	to <- inFlightRefused
}

// Collect sends the present figures. The limits that count every request are always among them.
func (f inFlight) Collect(to chan<- prometheus.Metric) {
	now, refused := f.limiter.InFlight(), f.limiter.RefusedInFlight()
	for _, name := range []string{ConcurrentRequests, ConcurrentStreams} {
		now[name] += 0
		refused[name] += 0
	}
	for name, n := range now {
		to <- prometheus.MustNewConstMetric(inFlightNow, prometheus.GaugeValue, float64(n), name)
	}
	for name, n := range refused {
		to <- prometheus.MustNewConstMetric(inFlightRefused, prometheus.CounterValue, float64(n), name)
	}
}

// stored returns the metrics that are read from the store for each answer. Their value is -1
// if the store cannot be read.
func (m *Metrics) stored() []prometheus.Collector {
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
	read := func(name, help string, read func(tx *Tx) (float64, error)) prometheus.Collector {
		return gauge(name, help, value(read))
	}
	return []prometheus.Collector{
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
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "latchkey_webhook_dropped_total", Help: "Webhook deliveries that were dropped unsent because of a bound.",
		}, value(func(tx *Tx) (float64, error) {
			n, err := DroppedDeliveries(tx)
			return float64(n), err
		})),
	}
}

// connectionMetrics has the metrics of the connections of each listener. It returns the use of the
// listeners.
type connectionMetrics func() (listeners []conns.Usage, upstreams int)

// The metrics of connectionMetrics.
var (
	openConnections   = prometheus.NewDesc("latchkey_connections", "Open connections, by listener.", []string{"listener"}, nil)
	mostConnections   = prometheus.NewDesc("latchkey_connections_max", "Most open connections, by listener.", []string{"listener"}, nil)
	closedConnections = prometheus.NewDesc("latchkey_connections_closed_total", "Connections that were closed to make room or because they had no valid key, by listener and reason.", []string{"listener", "reason"}, nil)
)

// Describe sends the descriptions of the metrics.
func (c connectionMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- openConnections
	to <- mostConnections
	to <- closedConnections
}

// Collect sends the values of the metrics.
func (c connectionMetrics) Collect(to chan<- prometheus.Metric) {
	listeners, _ := c()
	for _, u := range listeners {
		to <- prometheus.MustNewConstMetric(openConnections, prometheus.GaugeValue, float64(u.Open), u.Name)
		to <- prometheus.MustNewConstMetric(mostConnections, prometheus.GaugeValue, float64(u.Limits.Max), u.Name)
		for reason, n := range u.Closed {
			to <- prometheus.MustNewConstMetric(closedConnections, prometheus.CounterValue, float64(n), u.Name, conns.Reason(reason).String())
		}
	}
}

// gauge returns a gauge whose value is the result of read. latchkey_ is put before name.
func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latchkey_" + name, Help: help}, read)
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
	return []Route{{Method: "GET", Path: "/metrics", Handle: m.serve, Public: m.o.Open}}
}

func (m *Metrics) serve(w http.ResponseWriter, r *Request) error {
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r.Request)
	return nil
}

// Watch counts an answered request. It is called for each request, so it allocates only for
// the first request with a route, status or error code.
func (m *Metrics) Watch(o *Outcome) {
	r := (*m.routes.Load())[routeName{o.Method, o.Route}]
	if r == nil {
		r = m.newRoute(o.Method, o.Route)
	}
	r.seconds.Observe(o.Took.Seconds())
	m.count(r, o.Status).Inc()
	if r.labels[0] != "api" {
		return
	}
	if o.Key != nil {
		m.lookups.Inc()
	}
	code := o.Code
	if code == "" {
		code = "allowed"
	}
	c := (*m.decisions.Load())[code]
	if c == nil {
		c = m.newDecision(code)
	}
	c.Inc()
}

// count returns the counter for a route and a status. It creates the counter if there is
// none.
func (m *Metrics) count(r *routeMeter, status int) prometheus.Counter {
	codes := r.codes.Load()
	for i := range *codes {
		if (*codes)[i].status == status {
			return (*codes)[i].count
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.requests.WithLabelValues(append(slices.Clone(r.labels), codeName(status))...)
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
// an unknown method, and routes beyond maxRoutes, share one set of counters: the client
// chooses the method, and must not be able to create any number of counters.
func (m *Metrics) newRoute(method, route string) *routeMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, all := routeName{method, route}, *m.routes.Load()
	label := name
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, method) || len(all) >= maxRoutes {
		label = routeName{"other", "-"}
		name = label
	}
	if r := all[name]; r != nil {
		return r
	}
	door := "api"
	if strings.HasPrefix(route, "/admin/") || route == "/metrics" {
		door = "admin"
	}
	r := &routeMeter{labels: []string{door, label.method, label.route}}
	r.seconds = m.seconds.WithLabelValues(r.labels...)
	r.codes.Store(&[]codeMeter{})
	more := maps.Clone(all)
	more[name] = r
	m.routes.Store(&more)
	return r
}

// newDecision returns the counter for a decision. It creates the counter if there is none.
func (m *Metrics) newDecision(code string) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.decided.WithLabelValues(code)
	more := maps.Clone(*m.decisions.Load())
	more[code] = c
	m.decisions.Store(&more)
	return c
}

// Attempted counts an attempt to deliver an event to a webhook, by its result.
func (m *Metrics) Attempted(a Attempt) {
	result := "delivered"
	switch {
	case a.Status == 0:
		result = "unreachable"
	case !a.Success():
		result = "refused"
	}
	m.attempts.WithLabelValues(result).Inc()
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
	m.states.Reset()
	if counts == nil {
		return nil
	}
	for _, state := range KeyStates() {
		m.states.WithLabelValues(state).Set(float64(counts[state]))
	}
	return nil
}
