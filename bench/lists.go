package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	"/admin/v1/audit?object=key", "/admin/v1/audit?object=key+key_77", "/admin/v1/audit?object=none", "/admin/v1/owners", "/admin/v1/owners?search=owner+99", "/admin/v1/agents?search=agent+99",
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
	fmt.Printf("started in %v\n%-110s %9s %8s %8s %8s %8s\n", s.ready.Round(time.Millisecond), "list", "count", "p50 ms", "p99 ms", "max ms", "bytes")
	for _, path := range listPaths {
		if err := measureList(listRequest{http.DefaultClient, s.url, path, string(secret)}); err != nil {
			return s.stop(err)
		}
	}
	for _, path := range adminListPaths {
		if err := measureList(listRequest{admin, "http://latchkey", path, ""}); err != nil {
			return s.stop(err)
		}
	}
	cpu, rss, err := usage(s.command.Process.Pid)
	fmt.Printf("after all lists: %v of CPU, RSS %d MB\n", cpu.Round(time.Millisecond), rss>>20)
	return s.stop(err)
}

// listRequest is a list to measure. key is a secret of the API, or "" for the admin endpoint.
type listRequest struct {
	client    *http.Client
	url, path string
	key       string
}

// listAnswer is what the measurement reads of an answer.
type listAnswer struct {
	Count, Pages int
}

// measureList prints the times of the first page, the 1,000th and the last.
func measureList(l listRequest) error {
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
		for range 100 {
			began := time.Now()
			if size, _, err = l.get(page); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		slices.Sort(times)
		ms := func(i int) float64 { return times[i].Seconds() * 1000 }
		fmt.Printf("%-110s %9d %8.2f %8.2f %8.2f %8d\n", l.at(page), answer.Count, ms(50), ms(98), ms(99), size)
	}
	return nil
}

// at returns the path of a page.
func (l listRequest) at(page int) string {
	joint := "?"
	if strings.Contains(l.path, "?") {
		joint = "&"
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
	return len(body), answer, json.Unmarshal(body, &answer)
}
