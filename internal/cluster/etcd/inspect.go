package etcd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"latchkey/internal/cluster"
)

// Left returns for how long this node may answer requests, see cluster.Inspector.
func (e *Engine) Left() time.Duration {
	p := e.self.permit.Load()
	if p == nil || !p.holds(e.options.Boot) {
		return 0
	}
	return max(p.ends-e.options.Boot(), 0)
}

// Known returns the last Head that this node has heard of, see cluster.Inspector.
func (e *Engine) Known() cluster.Head {
	e.state.mu.Lock()
	defer e.state.mu.Unlock()
	return e.state.head
}

// Servers asks each etcd server for its state, see cluster.Inspector.
func (e *Engine) Servers(ctx context.Context) (list []cluster.Server, members int) {
	ctx, cancel := e.until(ctx)
	defer cancel()
	list = make([]cluster.Server, len(e.options.Endpoints))
	var asking sync.WaitGroup
	for i, endpoint := range e.options.Endpoints {
		asking.Go(func() { list[i] = e.server(ctx, endpoint) })
	}
	asking.Go(func() {
		r, err := e.client.MemberList(ctx)
		if err != nil {
			return
		}
		for _, m := range r.Members {
			if !m.IsLearner {
				members++
			}
		}
	})
	asking.Wait()
	return list, members
}

// server asks one etcd server for its state.
func (e *Engine) server(ctx context.Context, endpoint string) cluster.Server {
	s := cluster.Server{URL: endpoint}
	r, err := e.client.Status(ctx, endpoint)
	if err != nil {
		if s.Err = explain(err); s.Err == nil {
			s.Err = unreachable(err)
		}
		return s
	}
	s.Version, s.Bytes, s.Used, s.Quota = r.Version, r.DbSize, r.DbSizeInUse, r.DbSizeQuota
	s.Led, s.Leader = r.Leader != 0, r.Leader != 0 && r.Leader == r.Header.MemberId
	for _, name := range []string{"NOSPACE", "CORRUPT"} {
		if slices.ContainsFunc(r.Errors, func(text string) bool { return strings.Contains(text, name) }) {
			s.Alarms = append(s.Alarms, name)
		}
	}
	if s.Quota == 0 {
		s.Quota = e.quotas.of(endpoint, func() (int64, error) { return e.readQuota(ctx, endpoint) })
	}
	return s
}

// quotas are the quotas of servers, which change only when a server starts again.
type quotas struct {
	mu    sync.Mutex
	known map[string]knownQuota
}

// knownQuota is a quota as it was read at a time.
type knownQuota struct {
	bytes int64
	at    time.Time
}

// quotaTime is how long a quota is not read again.
const quotaTime = 10 * time.Minute

// of returns the quota of a server, or 0 if it cannot be read.
func (q *quotas) of(endpoint string, read func() (int64, error)) int64 {
	q.mu.Lock()
	there, ok := q.known[endpoint]
	q.mu.Unlock()
	if ok && time.Since(there.at) < quotaTime {
		return there.bytes
	}
	bytes, err := read()
	if err != nil {
		return there.bytes
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known == nil {
		q.known = map[string]knownQuota{}
	}
	q.known[endpoint] = knownQuota{bytes, time.Now()}
	return bytes
}

// errNoQuota means that the metrics of an etcd server do not have its quota.
var errNoQuota = errors.New("the metrics of etcd do not have its quota")

// readQuota reads the quota from the metrics of an etcd server: before 3.6 its status does not have it.
func (e *Engine) readQuota(ctx context.Context, endpoint string) (int64, error) {
	security, err := e.options.security()
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{TLSClientConfig: security, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(endpoint, "/")+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	for lines := bufio.NewScanner(io.LimitReader(answer.Body, 1<<22)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "etcd_server_quota_backend_bytes "); ok {
			bytes, err := strconv.ParseFloat(text, 64)
			return int64(bytes), err
		}
	}
	return 0, errNoQuota
}
