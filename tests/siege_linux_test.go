package tests

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"latchkey/internal/certs/certstest"
	"latchkey/tests/program"
)

// siege is a server with a quiet owner and an operator, who must be answered as if they were alone, beside everything that can go
// wrong. In reading order: this file (the test, the server and what it is held to), siege_quiet_linux_test.go (what must be right),
// siege_attacks_linux_test.go (what goes on meanwhile), siege_hooks_linux_test.go (the receivers of webhooks).
type siege struct {
	*street
	*siegeUpstream
	span   time.Duration
	long   bool // with wrong clocks, and longer faults
	began  time.Time
	config string // path of the configuration
	ca     string // path of the authority of the admin listener
	serve  func() // starts the server
	keys   map[string]siegeKey
	worst  siegeKey
	slow   siegeKey
	token  string         // of the operator
	log    *siegeLog      // what the server logs
	clocks *siegeClocks   // nil: they are right
	hooks  *siegeReceiver // of webhooks

	signals sync.Mutex   // held while the process is stopped
	wrong   atomic.Int64 // wrong answers

	mu      sync.Mutex
	pauses  []pause
	tallies map[string]map[string]int // by kind, what came of it
}

// siegeKey is a key, or what an owner has.
type siegeKey struct{ ID, Key string }

// pause is a time in which the process was stopped.
type pause struct{ from, to time.Time }

// count counts what has come of an attack.
func (s *siege) count(kind, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tallies[kind] == nil {
		s.tallies[kind] = map[string]int{}
	}
	s.tallies[kind][result]++
}

// fault records an answer that is wrong.
func (s *siege) fault(format string, args ...any) {
	if s.wrong.Add(1) <= 50 {
		s.t.Errorf("after %s: %s", time.Since(s.began).Round(time.Millisecond), fmt.Sprintf(format, args...))
	}
}

// stopped returns how long of a time the process was stopped.
func (s *siege) stopped(from, to time.Time) (total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pauses {
		first, last := p.from, p.to
		if from.After(first) {
			first = from
		}
		if to.Before(last) {
			last = to
		}
		total += max(0, last.Sub(first))
	}
	return total
}

// siegeClocks are the clocks of the server. Its service clock goes on with each suspension of the machine that it is made to
// believe, so what is held against a limit must count them too.
type siegeClocks struct {
	*program.Clocks
	mu         sync.Mutex
	wall, boot time.Duration
	steps      []clockStep
}

// clockStep is a suspension of the machine that the server was made to believe.
type clockStep struct {
	at   time.Time
	took time.Duration
}

// setWall sets how far the wall clock is ahead.
func (c *siegeClocks) setWall(wall time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = wall
	return c.Set(c.wall+c.boot, c.boot)
}

// suspend lets the server believe that the machine was suspended.
func (c *siegeClocks) suspend(took time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot += took
	c.steps = append(c.steps, clockStep{time.Now(), took})
	return c.Set(c.wall+c.boot, c.boot)
}

// slept returns the suspensions until a time.
func (c *siegeClocks) slept(until time.Time) (total time.Duration) {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, step := range c.steps {
		if !step.at.After(until) {
			total += step.took
		}
	}
	return total
}

// noticed is the longest time until the server has noticed a suspension. It looks once a second, if it is not stopped.
const noticed = time.Minute

// admitted returns the deed of an admitted request, for checkWindows. Between two of them no more time passes for the server than
// between their times here: what the first one may not have counted yet is left out of it, and the last one has all.
func (s *siege) admitted(key string, sent, got time.Time) deed {
	return deed{Kind: admittedKey, Object: key, Sent: sent.Sub(s.began) + s.clocks.slept(sent.Add(-noticed)), Got: got.Sub(s.began) + s.clocks.slept(got)}
}

// siegeLog reads the log of the server, and stops now and then. It checks each line, and keeps only what is not the line of a request.
type siegeLog struct {
	out     *program.Output
	secrets []string // that must not be in it

	mu       sync.Mutex
	resumed  *sync.Cond
	paused   bool
	rest     []byte
	requests int            // lines of requests
	lost     int            // lines that the log says were lost
	others   map[string]int // other lines, by their level and message
	wrong    []string
}

// secretForm is the form of keys, tokens and secrets of webhooks.
var secretForm = regexp.MustCompile(`(klen|lka|whsec)_[0-9A-Za-z]{20}`)

// Write takes lines of the log. It waits while the reader stops.
func (l *siegeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.paused {
		l.resumed.Wait()
	}
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte{'\n'})
		if !whole {
			l.rest = slices.Clone(l.rest)
			return len(p), nil
		}
		l.rest = rest
		l.read(line)
	}
}

// read takes one line.
func (l *siegeLog) read(text []byte) {
	var line struct {
		Level, Msg string
		Lines      int
	}
	if err := json.Unmarshal(text, &line); err != nil {
		l.wrong = append(l.wrong, fmt.Sprintf("no line of JSON: %s", text))
	}
	if secretForm.Match(text) || slices.ContainsFunc(l.secrets, func(secret string) bool { return bytes.Contains(text, []byte(secret)) }) {
		l.wrong = append(l.wrong, fmt.Sprintf("a secret: %s", text))
	}
	if bytes.Contains(text, []byte("panic")) || bytes.Contains(text, []byte("goroutine ")) {
		l.wrong = append(l.wrong, fmt.Sprintf("a panic: %s", text))
	}
	if line.Msg == "request" {
		l.requests++
		return
	}
	l.lost += line.Lines
	if name := line.Level + " " + line.Msg; len(l.others) < 100 || l.others[name] > 0 {
		if l.others[name]++; l.others[name] <= 20 {
			fmt.Fprintf(l.out, "%s\n", text)
		}
	}
}

// forbid adds a secret, of which the first 12 characters behind the prefix may not be in the log.
func (l *siegeLog) forbid(secret string) {
	_, text, _ := strings.Cut(secret, "_")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets = append(l.secrets, text[:12])
}

// pause lets the reader stop, or go on.
func (l *siegeLog) pause(stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = stop
	l.resumed.Broadcast()
}

// siegeUpstream is what is behind the guarded routes.
type siegeUpstream struct {
	large        []byte
	inside, most atomic.Int64 // requests to /twice at the same time, now and at most
}

// sseText returns the events of a stream.
func sseText(name string, n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "data: %s %d\n\n", name, i)
	}
	return text.String()
}

// ServeHTTP answers by the first segment of the path after that of the route.
func (u *siegeUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, _ := io.Copy(io.Discard, r.Body)
	flush := http.NewResponseController(w).Flush
	pausing := func(d time.Duration) bool {
		select {
		case <-r.Context().Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	switch q := r.URL.Query(); r.URL.Path {
	case "/up/events":
		w.Header().Set("Content-Type", "text/event-stream")
		n, _ := strconv.Atoi(q.Get("n"))
		for i := range n {
			fmt.Fprintf(w, "data: %s %d\n\n", q.Get("name"), i)
			if flush() != nil || !pausing(50*time.Millisecond) {
				return
			}
		}
	case "/up/endless":
		w.Header().Set("Content-Type", "text/event-stream")
		for text := []byte("data: " + strings.Repeat("x", 8<<10) + "\n\n"); pausing(time.Millisecond); {
			if _, err := w.Write(text); err != nil || flush() != nil {
				return
			}
		}
	case "/up/large":
		_, _ = w.Write(u.large)
	case "/up/silent":
		pausing(time.Hour)
	case "/twice/x":
		now := u.inside.Add(1)
		for most := u.most.Load(); now > most && !u.most.CompareAndSwap(most, now); {
			most = u.most.Load()
		}
		time.Sleep(time.Duration(20+rand.IntN(100)) * time.Millisecond)
		u.inside.Add(-1)
		_, _ = io.WriteString(w, "twice")
	default:
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), size)
	}
}

// siegeConfig is the configuration. Reloads put other numbers and another route at its end.
const siegeConfig = `[[permission]]
name = "can_use"
description = "Use it."

[[limit]]
name = "per_two_seconds"
window = "2s"
default = 5

[[limit]]
name = "per_ten_seconds"
window = "10s"
default = 20

[[limit]]
name = "two_at_once"
kind = "concurrent"
default = 2

[[route]]
path = "/up/*rest"
permission = "can_use"
upstream = %[1]q

[[route]]
path = "/two/*rest"
permission = "can_use"
limits = ["per_two_seconds"]
upstream = %[1]q

[[route]]
path = "/ten/*rest"
permission = "can_use"
limits = ["per_ten_seconds"]
upstream = %[1]q

[[route]]
path = "/twice/*rest"
permission = "can_use"
limits = ["two_at_once"]
upstream = %[1]q

`

// configure writes the configuration with another end.
func (s *siege) configure(end string) error {
	text := fmt.Sprintf(siegeConfig, s.upstream.URL) + end
	if err := os.WriteFile(s.config+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(s.config+".new", s.config)
}

// allPermissions are those of the keys.
const allPermissions = `["can_use","can_read_agents","can_read_contacts","can_write_contacts","can_read_calendar","can_write_calendar","can_read_calls",
	"can_initiate_calls"]`

// newSiege starts the server.
func newSiege(t *testing.T, span time.Duration, long bool) *siege {
	t.Helper()
	dir := t.TempDir()
	s := &siege{
		siegeUpstream: &siegeUpstream{large: bytes.Repeat([]byte("0123456789abcdef"), 1<<19)},
		span:          span, long: long, config: filepath.Join(dir, "latchkey.toml"),
		keys: map[string]siegeKey{}, tallies: map[string]map[string]int{}, log: &siegeLog{out: &program.Output{}, others: map[string]int{}},
	}
	s.log.resumed = sync.NewCond(&s.log.mu)
	upstream := httptest.NewServer(s.siegeUpstream)
	t.Cleanup(upstream.Close)
	s.street = &street{wire: &wire{t: t, upstream: upstream}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 2 * time.Minute}}
	t.Cleanup(s.street.client.CloseIdleConnections)
	if err := s.configure(""); err != nil {
		t.Fatal(err)
	}
	authority := certstest.NewAuthority(t)
	cert, certKey := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	authority.Issue(cert, certKey, time.Now().Add(1000*time.Hour))
	s.ca = authority.File
	environ := []string{"LATCHKEY_ADMIN_TLS_CERT_FILE=" + cert, "LATCHKEY_ADMIN_TLS_KEY_FILE=" + certKey, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true",
		"LATCHKEY_SERVER_READ_TIMEOUT=30s", "LATCHKEY_SERVER_WRITE_TIMEOUT=1m", "LATCHKEY_KEYS_CACHE=1000", "LATCHKEY_LIMIT_CALLS_PER_DAY_LIMIT=1000000", "LATCHKEY_LIMIT_CALENDAR_EVENTS_PER_DAY_LIMIT=1000000"}
	path := program.Path(t)
	if long {
		root, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		s.clocks = &siegeClocks{Clocks: program.NewClocks(t)}
		path, environ = program.SteppedProgram(t, filepath.Clean(root)), append(environ, s.clocks.Environ())
	}
	data := filepath.Join(dir, "data")
	s.serve = func() {
		cmd := program.Command(t, "serve", "--config", s.config, "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		cmd.Env = append(cmd.Env, environ...)
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 1024 && exec "$0" "$@"`, path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		s.Server = program.ServeLog(t, cmd, data, s.log)
		s.log.out = s.Out
		s.wire.client = program.NewClient(data)
		s.doors = map[string]string{"api": strings.TrimPrefix(s.URL, "http://"), "admin": s.Admin}
	}
	s.serve()
	t.Cleanup(func() { // or it could not be killed, and its log would not end
		s.log.pause(false)
		_ = s.Cmd.Process.Signal(syscall.SIGCONT)
	})
	s.hooks = newSiegeReceiver(t, s)
	return s
}

// socket sends a request over the control socket, and returns the body of the answer, which must be success.
func (s *siege) socket(method, path, body string) ([]byte, error) {
	r, err := http.NewRequest(method, "http://control"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	a, err := (&http.Client{Transport: program.SocketTransport(s.Data), Timeout: quietBound}).Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode/100 != 2 {
		err = fmt.Errorf("%d %s", a.StatusCode, answer)
	}
	return answer, err
}

// newKey makes a key for an owner.
func (s *siege) newKey(owner, limits string) (made siegeKey) {
	s.t.Helper()
	s.operate("POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "owner": %[1]q, "permissions": %s, "limits": {%s}}`, owner, allPermissions, limits), &made)
	s.log.forbid(made.Key)
	return made
}

// figures are what the server says about itself.
func (s *siege) figures() map[string]float64 {
	text, err := s.socket("GET", "/metrics", "")
	if err != nil {
		s.fault("metrics: %v", err)
	}
	figures := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			name, _, _ = strings.Cut(name, "{")
			figures[name] += v // of all labels
		}
	}
	return figures
}

// holds returns what the process holds.
func (s *siege) holds() (h holding) {
	figures := s.figures()
	_, h.files = s.weight(s.t)
	h.kib, h.goroutines, h.goal = s.memory(s.t, anonymous), int(figures["go_goroutines"]), int(figures["go_memstats_next_gc_bytes"])>>10
	return h
}

// rest waits until the server has no more goroutines and files open than before, and returns what it holds then.
func (s *siege) rest(base holding) (now holding) {
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		s.upstream.Config.SetKeepAlivesEnabled(false) // or the server keeps its connections to the upstream for 90 s
		s.street.client.CloseIdleConnections()
		if now = s.holds(); now.rests(base) || time.Now().After(deadline) {
			return now
		}
	}
}

// rests reports whether h has no more goroutines and open files than base, but for a few that end later.
func (h holding) rests(base holding) bool {
	return h.goroutines <= base.goroutines+4 && h.files <= base.files+8
}

// TestProgram_Siege has everything go on at once, at random moments, beside a quiet owner, an operator, and keys whose limits are
// held against what passed. LATCHKEY_TEST_SIEGE=60m is the long form, which also sets the clocks of the server.
func TestProgram_Siege(t *testing.T) {
	program.NotQuick(t)
	span, text := 12*time.Second, os.Getenv("LATCHKEY_TEST_SIEGE")
	if text != "" {
		var err error
		if span, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	s := newSiege(t, span, text != "")
	s.began = time.Now()
	s.prepare()
	q := newQuiet(s)
	base := s.holds()
	around, end := context.WithCancel(context.Background()) // for what must be right; it goes on for a moment longer than the attacks
	var right sync.WaitGroup
	q.begin(around, &right)
	parts, medians := s.attack(span, 4)
	end()
	right.Wait()
	s.peace()
	q.complete()
	got := s.rest(base)
	if !got.rests(base) {
		t.Errorf("got %+v at the end, want no more than %+v", got, base)
	}
	s.checkLog()
	if long(span) {
		s.compareMemory(base, medians[3])
	}
	if exit := s.Stop(t); exit != 0 {
		t.Errorf("exit %d: %s", exit, s.Out.Tail())
	}
	if out, errs, exit := program.Run(t, "check", "--data", s.Data); exit != 0 {
		t.Errorf("check: exit %d: %s%s", exit, out, errs)
	}
	for _, wrong := range s.log.wrong {
		t.Error(wrong)
	}
	if n := s.wrong.Load(); n > 0 {
		t.Errorf("%d wrong answers in all", n)
	}
	s.report(q)
	t.Logf("at the begin %+v; after each quarter %+v; at the end %+v; medians of the memory of each quarter %v KiB", base, parts, got, medians)
}

// long reports whether the time is long enough for memory to be compared.
func long(span time.Duration) bool { return span >= 10*time.Minute }

// attack has everything go on for a time. It returns what the process holds at the end of each part of the time, and the median of
// the memory in it.
func (s *siege) attack(span time.Duration, n int) (parts []holding, medians []int) {
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var wrong sync.WaitGroup
	defer wrong.Wait()
	for _, d := range s.dangers() {
		wrong.Go(func() { s.repeat(ctx, d) })
	}
	for range n {
		until := time.After(span / time.Duration(n))
		var memory []int
		for tick, ended := time.Tick(min(time.Second, span/40)), false; !ended; {
			select {
			case <-tick:
				memory = append(memory, s.memory(s.t, anonymous))
				if len(memory)%60 == 0 { // a sign of life
					s.t.Logf("after %s: %d KiB, %d wrong answers", time.Since(s.began).Round(time.Second), memory[len(memory)-1], s.wrong.Load())
				}
			case <-until:
				ended = true
			}
		}
		slices.Sort(memory)
		parts, medians = append(parts, s.holds()), append(medians, memory[len(memory)/2])
	}
	return parts, medians
}

// memoryBound is how many times the memory of a new process an old one may need. The lists of the old one, such as that of the latest
// requests, are full, and its largest transactions are behind it.
const memoryBound = 1.5

// pageBytes is how many more bytes an old process may hold for each page of the database. The maps of bbolt's list of free pages keep
// the size that they had when most pages were free; about 45 bytes are needed for a page.
const pageBytes = 64

// compareMemory compares the memory of the last part of the time, and that of the process at rest, with those of a new process that
// has the same data and some minutes of the same attacks. So the memory may grow with the data, but not with time.
func (s *siege) compareMemory(base holding, busy int) {
	s.t.Helper()
	idle := s.idleHeap()
	if exit := s.Stop(s.t); exit != 0 {
		s.t.Errorf("exit %d: %s", exit, s.Out.Tail())
	}
	s.serve()
	s.hang()
	_, medians := s.attack(8*time.Minute, 2)
	s.peace()
	s.rest(base)
	newBusy, newIdle := medians[1], s.idleHeap()
	pages := int(s.figures()["latchkey_store_bytes"]) / os.Getpagesize()
	s.t.Logf("memory in the last quarter %d KiB, of a new process with the same data %d KiB; heap at rest %d and %d KiB, with %d pages in the database",
		busy, newBusy, idle, newIdle, pages)
	if float64(busy) > memoryBound*float64(newBusy) || float64(idle) > memoryBound*float64(newIdle)+float64(pages*pageBytes>>10) {
		s.t.Error("the memory grows with time")
	}
}

// idleHeap returns the least size in KiB of the heap in use at rest. Without work the garbage collector runs every two minutes, and
// what is kept for reuse is gone after the second run.
func (s *siege) idleHeap() int {
	least := math.MaxInt
	for range 27 {
		time.Sleep(10 * time.Second)
		least = min(least, s.holds().goal/heapGrowth)
	}
	return least
}

// heapGrowth is how many times its size the heap may have before it is collected again: the program sets GOGC=200.
const heapGrowth = 3

// checkLog holds the log against the counts of the server.
func (s *siege) checkLog() {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		figures := s.figures()
		answered, lost := int(figures["latchkey_requests_total"]), int(figures["latchkey_log_lines_lost_total"])
		s.log.mu.Lock()
		requests, told := s.log.requests, s.log.lost
		s.log.mu.Unlock()
		if right := told == lost && requests <= answered && answered <= requests+lost; right || time.Now().After(deadline) {
			if !right {
				s.t.Errorf("the log has %d requests and says that %d lines were lost; the server counts %d requests and %d lost lines", requests, told, answered, lost)
			}
			s.t.Logf("log: %d requests, %d lines lost of %d requests", requests, lost, answered)
			break
		}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for line := range strings.Lines(s.Out.String()) {
		if strings.Contains(line, `"level":"ERROR"`) && !strings.Contains(line, `"configuration not reloaded, previous configuration still in use"`) {
			s.t.Errorf("in the log: %s", line)
		}
	}
}

// report prints the figures.
func (s *siege) report(q *quiet) {
	for _, kind := range slices.Sorted(maps.Keys(s.tallies)) {
		s.t.Logf("%s: %v", kind, s.tallies[kind])
	}
	s.t.Logf("log: %v", s.log.others)
	var stopped time.Duration
	for _, p := range s.pauses {
		stopped += p.to.Sub(p.from)
	}
	s.t.Logf("the process was stopped %d times, for %s in all", len(s.pauses), stopped.Round(time.Millisecond))
	for _, kind := range slices.Sorted(maps.Keys(q.took)) {
		list := q.took[kind]
		slices.SortFunc(list, func(a, b latency) int { return cmp.Compare(a.net, b.net) })
		at := func(part float64) time.Duration {
			return list[int(part*float64(len(list)-1))].net.Round(10 * time.Microsecond)
		}
		gross := slices.MaxFunc(list, func(a, b latency) int { return cmp.Compare(a.gross, b.gross) }).gross
		s.t.Logf("%s: %d answers, p50 %s, p99 %s, max %s without the time for which the process was stopped, max %s with it",
			kind, len(list), at(0.5), at(0.99), at(1), gross.Round(time.Millisecond))
	}
}

// dial opens a connection from an address of this machine.
func (s *siege) dial(ctx context.Context, door, from string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(ctx, "tcp", s.doors[door])
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}
