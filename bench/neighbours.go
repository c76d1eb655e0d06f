package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// neighbour is something that one owner does while another one is measured.
type neighbour struct {
	name    string
	workers int
	method  string
	path    string // %d is replaced by a number that grows
	body    string // likewise
	idle    int    // number of idle connections
}

// neighbourhood lists what the worst neighbour does, one after the other and then all at once. The
// contact 1 has 240 KB, the 50 webhooks get each change of the event 1.
var neighbourhood = []neighbour{
	{name: "PATCH of a contact of 240 KB", workers: 20, method: "PATCH", path: "/api/v1/contacts/1/update", body: `{"tags": ["t%d"]}`},
	{name: "creates contacts", workers: 16, method: "POST", path: "/api/v1/contacts/create", body: `{"first_name": "n%d"}`},
	{name: "PATCH of an event for 50 webhooks", workers: 8, method: "PATCH", path: "/api/v1/calendar/events/1/update", body: `{"title": "t%d"}`},
	{name: "searches contacts", workers: 8, method: "GET", path: "/api/v1/contacts?search=none%d"},
	{name: "200 idle connections", idle: 200},
}

// resident is an owner with a key.
type resident struct {
	client *http.Client
	url    string
	key    string
}

// ask sends a request and returns the status of the answer, or 0 and the error.
func (r resident) ask(method, path, body string) (int, error) {
	q, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header.Set("X-API-Key", r.key)
	q.Header.Set("Content-Type", "application/json")
	a, err := r.client.Do(q)
	if err != nil {
		return 0, err
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return a.StatusCode, err
}

// noticed is what a quiet owner notices: the times of its requests, sorted.
type noticed struct{ gets, posts []time.Duration }

// at returns the time below which a share of the times is, in milliseconds.
func at(times []time.Duration, share float64) float64 {
	return times[min(len(times)-1, int(float64(len(times))*share))].Seconds() * 1000
}

// measure sends a GET and a POST in turn, with a pause, for some seconds.
func (r resident) measure(seconds int) (n noticed, err error) {
	const event = `{"title": "Visit", "start_time": "2030-01-01T10:00:00Z", "end_time": "2030-01-01T11:00:00Z"}`
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		for _, q := range []struct {
			method, path, body string
			want               int
			times              *[]time.Duration
		}{{"GET", "/api/v1/agents", "", 200, &n.gets}, {"POST", "/api/v1/calendar/events/create", event, 201, &n.posts}} {
			began := time.Now()
			status, err := r.ask(q.method, q.path, q.body)
			if err != nil || status != q.want {
				return n, fmt.Errorf("%s %s of the quiet owner: got %d, %v", q.method, q.path, status, err)
			}
			*q.times = append(*q.times, time.Since(began))
		}
	}
	slices.Sort(n.gets)
	slices.Sort(n.posts)
	return n, nil
}

// disturb does what neighbours do until the function that it returns is called. That one returns the
// number of answers by status.
func (r resident) disturb(list []neighbour) (stop func() string) {
	var group sync.WaitGroup
	var over atomic.Bool
	var serial atomic.Int64
	var mu sync.Mutex
	statuses := map[int]int{}
	var idle []net.Conn
	for _, n := range list {
		for range n.idle {
			if c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://")); err == nil {
				idle = append(idle, c)
			}
		}
		for range n.workers {
			group.Go(func() {
				for !over.Load() {
					path, body := n.path, n.body
					if strings.Contains(path, "%d") {
						path = fmt.Sprintf(path, serial.Add(1))
					}
					if strings.Contains(body, "%d") {
						body = fmt.Sprintf(body, serial.Add(1))
					}
					status, _ := r.ask(n.method, path, body)
					mu.Lock()
					statuses[status]++
					mu.Unlock()
				}
			})
		}
	}
	return func() string {
		over.Store(true)
		group.Wait()
		for _, c := range idle {
			_ = c.Close()
		}
		return strings.TrimPrefix(fmt.Sprint(statuses), "map")
	}
}

// settle creates what the neighbourhood needs.
func (r resident) settle() error {
	do := func(want int, method, path, body string) error {
		if status, err := r.ask(method, path, body); err != nil || status != want {
			return fmt.Errorf("%s %s of the neighbour: got %d, %v", method, path, status, err)
		}
		return nil
	}
	var values []string
	for i := range 8000 {
		values = append(values, fmt.Sprintf(`"number_%05d": "value %05d"`, i, i))
	}
	large := `{"first_name": "Large", "custom_context": {` + strings.Join(values, ",") + `}}`
	for range 20 {
		if err := do(201, "POST", "/api/v1/contacts/create", large); err != nil {
			return err
		}
	}
	text := strings.Repeat("x", 9000)
	if err := do(201, "POST", "/api/v1/calendar/events/create", `{"title": "Many", "description": "`+text+`", "start_time": "2030-01-01T10:00:00Z", "end_time": "2030-01-01T11:00:00Z"}`); err != nil {
		return err
	}
	for i := range 50 {
		if err := do(201, "POST", "/api/webhooks/create", fmt.Sprintf(`{"name": "w%d", "url": "https://hooks.example.net/%d", "subscribed_events": ["calendar.updated"]}`, i, i)); err != nil {
			return err
		}
	}
	return nil
}

// move creates a key of an owner on the running server of a store.
func move(home store, url, owner string) (resident, error) {
	out, err := home.run("", "keys", "create", "--name", owner, "--owner", owner, "--permission", "all", "--json",
		"--limit", "requests_per_minute_limit=10000000", "--limit", "calendar_events_per_day_limit=10000000")
	if err != nil {
		return resident{}, err
	}
	var made struct{ Key string }
	err = json.Unmarshal(out, &made)
	return resident{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 5 * time.Minute}, url, made.Key}, err
}

// neighbours measures the requests of a quiet owner alone and beside another owner at its worst. It
// prints a table for each build.
func (b *bench) neighbours() error {
	// The load of the neighbour comes from this process, so keep it off the server's core.
	if out, err := exec.Command("taskset", "-acp", loadCore, strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %w: %s", err, out)
	}
	for round := range b.rounds {
		for _, of := range b.builds() {
			home := store{bench: b, build: of, folder: fmt.Sprint("neighbours-", round)}
			s, err := home.starter()()
			if err != nil {
				return err
			}
			if err := s.stop(b.street(s, home, fmt.Sprintf("%s, round %d", of.name, round+1))); err != nil {
				return err
			}
		}
	}
	return nil
}

// street measures one server for neighbours. title is put above the table.
func (b *bench) street(s *server, home store, title string) error {
	if _, err := home.run("", "agents", "create", "--name", "Front desk", "--phone", "+4930555001"); err != nil {
		return err
	}
	quiet, err := move(home, s.url, "quiet")
	if err != nil {
		return err
	}
	worst, err := move(home, s.url, "worst")
	if err != nil {
		return err
	}
	if err := worst.settle(); err != nil {
		return err
	}
	cases := []struct {
		name string
		list []neighbour
	}{{"alone", nil}}
	for _, n := range neighbourhood {
		cases = append(cases, struct {
			name string
			list []neighbour
		}{n.name, []neighbour{n}})
	}
	cases = append(cases, struct {
		name string
		list []neighbour
	}{"all at once", neighbourhood})
	var table bytes.Buffer
	var alone noticed
	for i, c := range cases {
		stop := worst.disturb(c.list)
		time.Sleep(time.Second)
		before, written := b.spent(s)
		n, err := quiet.measure(b.seconds)
		after, writtenAfter := b.spent(s)
		answers := stop()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if i == 0 {
			alone = n
		}
		fmt.Fprintf(&table, "| %s | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.0f | %.1f |\n", c.name,
			at(n.gets, .5), at(n.gets, .99), at(n.gets, 1), at(n.gets, .99)/at(alone.gets, .99),
			at(n.posts, .5), at(n.posts, .99), at(n.posts, 1), at(n.posts, .99)/at(alone.posts, .99),
			100*(after-before).Seconds()/float64(b.seconds), float64(writtenAfter-written)/1e6/float64(b.seconds))
		log.Printf("%s: %-36s %d requests of the quiet owner; answers of its neighbour: %s", title, c.name, len(n.gets)+len(n.posts), answers)
	}
	fmt.Printf("\n%s: a quiet owner beside another one, times in ms; ratios are to the p99 alone\n\n", title)
	fmt.Println("| neighbour | GET p50 | p99 | max | ratio | POST p50 | p99 | max | ratio | CPU % | MB/s written |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	fmt.Println(table.String())
	return nil
}

var writeLine = regexp.MustCompile(`(?m)^write_bytes: (\d+)$`)

// spent returns the CPU time that a server has used and the bytes that it has had written to the
// disk, or 0 if the system does not say.
func (b *bench) spent(s *server) (time.Duration, int64) {
	cpu, _, _ := usage(s.command.Process.Pid)
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.command.Process.Pid))
	if m := writeLine.FindSubmatch(text); m != nil {
		n, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return cpu, n
	}
	return cpu, 0
}
