package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/sockpath"
)

// listPaths has the lists of the API to measure, with filters and pairs of filters. Each is measured
// on its first page and, if it has as many, on the 1,000th and the last page.
var listPaths = []string{
	"/api/v1/calls", "/api/v1/calls?status=completed", "/api/v1/calls?status=failed&type=inbound", "/api/v1/calls?agent_id=1", "/api/v1/calls?agent_id=1&status=completed",
	"/api/v1/contacts", "/api/v1/contacts?search=lind9+mara", "/api/v1/contacts?search=nobody", "/api/v1/contacts?stage=new&tag=tag3", "/api/v1/contacts?status=lead&search=jurgen",
	"/api/v1/calendar/events?start_date=2000-01-01&end_date=2100-01-01", "/api/v1/calendar/events?start_date=2000-01-01&end_date=2100-01-01&status=confirmed", "/api/v1/calendar/events",
}

// adminListPaths has the lists of the admin endpoint to measure.
var adminListPaths = []string{
	"/admin/v1/calls", "/admin/v1/calls?status=completed&type=inbound", "/admin/v1/calls?owner=owner+1&status=failed", "/admin/v1/contacts?search=lind9+mara", "/admin/v1/contacts?owner=owner+1&search=nobody",
	"/admin/v1/events?start_date=2000-01-01&end_date=2100-01-01", "/admin/v1/events?start_date=2000-01-01&end_date=2100-01-01&status=confirmed&owner=owner+1", "/admin/v1/events",
	"/admin/v1/keys", "/admin/v1/keys?status=live", "/admin/v1/keys?status=expired", "/admin/v1/keys?status=live&sort=name", "/admin/v1/keys?sort=last_used", "/admin/v1/keys?sort=expires&order=desc",
	"/admin/v1/keys?search=program+99", "/admin/v1/keys?search=nothing", "/admin/v1/keys?owner=owner+1&environment=live", "/admin/v1/keys?permission=can_read_calls&unused_days=30",
	"/admin/v1/audit", "/admin/v1/audit?actor=operator", "/admin/v1/audit?actor=operator+7&result=refused", "/admin/v1/audit?action=keys", "/admin/v1/audit?action=POST&result=done",
	"/admin/v1/audit?kind=paused", "/admin/v1/audit?object=program+99", "/admin/v1/audit?actor=name7&kind=login", "/admin/v1/audit?from=2020-01-01&result=refused",
	"/admin/v1/keys?limit=1000", "/admin/v1/calls?limit=1000", "/admin/v1/contacts?limit=1000", "/admin/v1/keys?search=program+9&sort=last_used", "/admin/v1/keys?status=live&sort=expires&environment=test",
	"/admin/v1/audit?actor=operator+7&action=keys", "/admin/v1/audit?object=key&result=refused", "/admin/v1/audit?action=login&object=none", "/admin/v1/audit?limit=1000",
	"/admin/v1/refusals", "/admin/v1/refusals?code=not_found", "/admin/v1/refusals?key=none", "/admin/v1/usage", "/admin/v1/usage?step=day", "/admin/v1/keys/" + keyHole + "/history",
	"/admin/v1/webhooks", "/admin/v1/webhooks/1/logs", "/admin/v1/status", "/metrics",
	"/admin/v1/audit?object=key", "/admin/v1/audit?object=key+key_77", "/admin/v1/audit?object=none", "/admin/v1/owners", "/admin/v1/owners?search=owner+99", "/admin/v1/agents?search=agent+99",
}

// keyHole is replaced by the id of a key.
const keyHole = "KEY"

// dashboardPaths has the pages of the dashboard to measure. Their columns count and page are empty.
var dashboardPaths = []string{
	"/keys", "/keys?status=live&sort=name", "/keys?search=program+99", "/keys?sort=last_used&page=1000", "/keys/" + keyHole, "/calls", "/calls?status=completed&page=1000", "/contacts", "/contacts?search=lind9+mara",
	"/calendar", "/activity", "/owners", "/owners?search=owner+99", "/webhooks", "/status",
	"/", "/?range=90d", "/requests", "/requests?status=4xx", "/keys/" + keyHole + "/usage", "/keys/" + keyHole + "/requests", "/agents", "/calendar/events", "/webhooks/1", "/contacts/77", "/operators", "/account",
}

// lists measures all lists on stores of one owner and of 1,000 owners.
func (b *bench) lists() error {
	for _, owners := range []int{1, 1000} {
		folder := fmt.Sprintf("lists-%d", owners)
		began := time.Now()
		fill := command("go", "test", "-count=1", "-timeout=30m", "-run", "^TestFillForBench$", "-v", ".")
		fill.Env = append(os.Environ(), "LATCHKEY_BENCH_FILL="+filepath.Join(b.dir, folder), fmt.Sprintf("LATCHKEY_BENCH_OWNERS=%d", owners), fmt.Sprintf("LATCHKEY_BENCH_SCALE=%g", b.scale))
		if err := fill.Run(); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		size, err := os.Stat(filepath.Join(b.dir, folder, "latchkey.db"))
		if err != nil {
			return err
		}
		fmt.Printf("\n%d owners: filled in %v, %d MB\n", owners, time.Since(began).Round(time.Second), size.Size()>>20)
		if err := b.listsOf(folder); err != nil {
			return err
		}
	}
	return nil
}

// listsOf measures the lists of one store.
func (b *bench) listsOf(folder string) error {
	secret, err := os.ReadFile(filepath.Join(b.dir, folder+".key"))
	if err != nil {
		return err
	}
	s, err := store{bench: b, build: b.builds()[0], folder: folder}.starter()()
	if err != nil {
		return err
	}
	socket, release, err := sockpath.Short(filepath.Join(b.dir, folder, "control.sock"))
	if err != nil {
		return s.stop(err)
	}
	defer release()
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	m := &measuredServer{socket: admin, api: s.url, secret: string(secret)}
	if err := m.prepare(); err != nil {
		return s.stop(err)
	}
	fmt.Printf("started in %v\n%-110s %9s %8s %8s %8s %8s %8s %8s\n", s.ready.Round(time.Millisecond), "list", "count", "p50 ms", "p99 ms", "max ms", "bytes", "KB", "objects")
	var all []listRequest
	for _, path := range listPaths {
		all = append(all, listRequest{m, http.DefaultClient, s.url, path, string(secret)})
	}
	for _, path := range adminListPaths {
		all = append(all, listRequest{m, admin, "http://latchkey", path, ""})
	}
	for _, path := range dashboardPaths {
		all = append(all, listRequest{m, m.browser, m.dashboard, path, ""})
	}
	for _, l := range all {
		l.path = strings.ReplaceAll(l.path, keyHole, m.key)
		if err := l.measure(); err != nil {
			return s.stop(err)
		}
	}
	cpu, rss, err := usage(s.command.Process.Pid)
	fmt.Printf("after all lists: %v of CPU, RSS %d MB\n", cpu.Round(time.Millisecond), rss>>20)
	return s.stop(err)
}

// measuredServer is a server whose lists are measured.
type measuredServer struct {
	socket    *http.Client // of the admin endpoint
	api       string       // URL of the API
	secret    string       // key of the API
	dashboard string       // URL of the dashboard
	browser   *http.Client // with a login
	key       string       // id of a key
}

// refusedRequests is the number of refused requests that the server can remember.
const refusedRequests = 10_000

// prepare creates an operator, logs in to the dashboard and has requests refused.
func (m *measuredServer) prepare() error {
	const password = "a long password for measurements"
	var status struct {
		Listening map[string]string
	}
	var keys struct {
		Keys []struct{ ID string }
	}
	err := errors.Join(m.ask(http.MethodGet, "/admin/v1/status", "", &status), m.ask(http.MethodGet, "/admin/v1/keys?page=100&limit=1", "", &keys),
		m.ask(http.MethodPost, "/admin/v1/operators", fmt.Sprintf(`{"name": "bench", "password": %q}`, password), nil))
	if err != nil || len(keys.Keys) == 0 {
		return errors.Join(err, errors.New("the store has too few keys"))
	}
	m.key, m.dashboard = keys.Keys[0].ID, "http://"+status.Listening["admin"]
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	m.browser = &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequest(http.MethodPost, m.dashboard+"/login", strings.NewReader(url.Values{"name": {"bench"}, "password": {password}}.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if err := statusOf(m.browser, r, http.StatusSeeOther); err != nil {
		return err
	}
	for range refusedRequests {
		r, err := http.NewRequest(http.MethodGet, m.api+"/api/v1/calls/18446744073709551615", nil)
		if err != nil {
			return err
		}
		r.Header.Set("X-API-Key", m.secret)
		if err := statusOf(http.DefaultClient, r, http.StatusNotFound); err != nil {
			return err
		}
	}
	return nil
}

// statusOf sends a request and returns an error if the answer has another status.
func statusOf(client *http.Client, r *http.Request, status int) error {
	got, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, got.Body)
	if err = errors.Join(err, got.Body.Close()); err == nil && got.StatusCode != status {
		err = fmt.Errorf("%s %s: got status %d, want %d", r.Method, r.URL.Path, got.StatusCode, status)
	}
	return err
}

// ask sends a request to the admin endpoint and decodes the answer into v, unless v is nil.
func (m *measuredServer) ask(method, path, body string, v any) error {
	r, err := http.NewRequest(method, "http://latchkey"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	got, err := m.socket.Do(r)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	answer, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d, %s, %v", method, path, got.StatusCode, bytes.TrimSpace(answer), err)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

// allocated returns how many bytes and objects the server has allocated so far.
func (m *measuredServer) allocated() (size, objects float64, err error) {
	got, err := m.socket.Get("http://latchkey/metrics")
	if err != nil {
		return 0, 0, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		return 0, 0, err
	}
	value := func(name string) (v float64) {
		_, rest, _ := strings.Cut(string(text), "\n"+name+" ")
		line, _, _ := strings.Cut(rest, "\n")
		v, parseErr := strconv.ParseFloat(line, 64)
		err = errors.Join(err, parseErr)
		return v
	}
	return value("go_memstats_alloc_bytes_total"), value("go_memstats_mallocs_total"), err
}

// listRequest is a list to measure. key is a secret of the API, or "" for the admin endpoint and the
// dashboard.
type listRequest struct {
	server    *measuredServer
	client    *http.Client
	url, path string
	key       string
}

// listAnswer is what the measurement reads of an answer.
type listAnswer struct {
	Count, Pages int
}

// listRounds is how often a page is requested.
const listRounds = 100

// measure prints the times of the first page, the 1,000th and the last, and what the server allocates
// for each request.
func (l listRequest) measure() error {
	_, answer, err := l.get(1)
	if err != nil {
		return err
	}
	pages := []int{1}
	for _, page := range []int{1000, answer.Pages} {
		if page > pages[len(pages)-1] && page <= answer.Pages {
			pages = append(pages, page)
		}
	}
	for _, page := range pages {
		var times []time.Duration
		size := 0
		sizeBefore, objectsBefore, err := l.server.allocated()
		if err != nil {
			return err
		}
		for range listRounds {
			began := time.Now()
			if size, _, err = l.get(page); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		allocated, objects, err := l.server.allocated()
		if err != nil {
			return err
		}
		slices.Sort(times)
		ms := func(i int) float64 { return times[i].Seconds() * 1000 }
		fmt.Printf("%-110s %9d %8.2f %8.2f %8.2f %8d %8.0f %8.0f\n", l.at(page), answer.Count, ms(listRounds/2), ms(listRounds-2), ms(listRounds-1), size,
			(allocated-sizeBefore)/listRounds/1024, (objects-objectsBefore)/listRounds)
	}
	return nil
}

// at returns the path of a page.
func (l listRequest) at(page int) string {
	joint := "?"
	if strings.Contains(l.path, "?") {
		joint = "&"
	}
	if strings.Contains(l.path, "page=") || page == 1 {
		return l.path
	}
	return fmt.Sprintf("%s%spage=%d", l.path, joint, page)
}

// get requests a page. It returns the size of the answer in bytes and its counts.
func (l listRequest) get(page int) (size int, answer listAnswer, err error) {
	r, err := http.NewRequest(http.MethodGet, l.url+l.at(page), nil)
	if err != nil {
		return 0, answer, err
	}
	if l.key != "" {
		r.Header.Set("X-API-Key", l.key)
	}
	got, err := l.client.Do(r)
	if err != nil {
		return 0, answer, err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != http.StatusOK {
		return 0, answer, fmt.Errorf("GET %s: status %d, %s, %v", l.at(page), got.StatusCode, bytes.TrimSpace(body), err)
	}
	if !strings.HasPrefix(got.Header.Get("Content-Type"), "application/json") {
		return len(body), answer, nil // a page or the metrics
	}
	return len(body), answer, json.Unmarshal(body, &answer)
}
