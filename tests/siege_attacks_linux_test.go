package tests

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"latchkey/tests/program"
)

// danger is something that goes on beside the quiet owner, in rounds at random moments.
type danger struct {
	name string
	most time.Duration // a round lasts no longer
	run  func(ctx context.Context)
}

// repeat makes rounds until ctx ends.
func (s *siege) repeat(ctx context.Context, d danger) {
	pause := 2 * time.Second
	if s.long {
		pause = 20 * time.Second
	}
	for sleep(ctx, rand.N(pause/2)); ctx.Err() == nil; sleep(ctx, rand.N(pause)) {
		round, cancel := context.WithTimeout(ctx, d.most/4+rand.N(d.most*3/4))
		d.run(round)
		cancel()
		s.count(d.name, "rounds")
	}
}

// dangers lists what goes on.
func (s *siege) dangers() (list []danger) {
	most := 3 * time.Second
	if s.long {
		most = 15 * time.Second
	}
	add := func(name string, run func(ctx context.Context, name string)) {
		list = append(list, danger{name, most, func(ctx context.Context) { run(ctx, name) }})
	}
	for _, a := range attacks {
		add("neighbour, "+a.name, func(ctx context.Context, name string) { s.neighbour(ctx, name, a) })
	}
	for _, f := range []struct{ name, door, text string }{
		{"nothing sent", "api", ""},
		{"half a header", "api", "GET /healthz HTTP/1.1\r\nHost: local"},
		{"half a body", "api", "POST /api/v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"},
		{"answered, then silent", "api", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		{"with a key, then silent", "api", "GET /api/v1/key HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + s.slow.Key + "\r\n\r\n"},
		{"nothing sent to the admin listener", "admin", ""},
		{"half a TLS handshake", "admin", "\x16\x03\x01\x02\x00\x01"},
	} {
		add("flood, "+f.name, func(ctx context.Context, name string) { s.flood(ctx, name, f.door, f.text) })
	}
	add("flood, reset", s.resets)
	add("strangers with wrong keys", s.strangers)
	add("malformed requests", s.malformedOnes)
	keyed := "Host: localhost\r\nX-API-Key: " + s.slow.Key + "\r\n"
	for _, c := range []slowClient{
		{name: "header that drips", text: "GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\nA: ", drip: "x"},
		{name: "body that drips", text: "POST /api/v1/contacts/create HTTP/1.1\r\n" + keyed + "Content-Length: 100000\r\n\r\n{", drip: " "},
		{name: "body that drips to the upstream", text: "POST /up/echo HTTP/1.1\r\n" + keyed + "Content-Length: 100000\r\n\r\n", drip: "x"},
		{name: "chunks that drip to the upstream", text: "POST /up/echo HTTP/1.1\r\n" + keyed + "Transfer-Encoding: chunked\r\n\r\n", drip: "1\r\nx\r\n"},
		{name: "slow reader of a large answer of the upstream", text: "GET /up/large HTTP/1.1\r\n" + keyed + "\r\n", rate: 4 << 10},
		{name: "slow reader of 100 answers", text: strings.Repeat("GET /api/v1/contacts/3 HTTP/1.1\r\n"+keyed+"\r\n", 100), rate: 4 << 10},
		{name: "stream that is never read", text: "GET /up/endless HTTP/1.1\r\n" + keyed + "\r\n", rate: 0},
		{name: "slow reader of a stream", text: "GET /up/endless HTTP/1.1\r\n" + keyed + "\r\n", rate: 1 << 10},
		{name: "upstream that does not answer", text: "GET /up/silent HTTP/1.1\r\n" + keyed + "\r\n", rate: 1 << 10},
		{name: "slow reader of a backup", text: "GET /admin/v1/backup HTTP/1.1\r\nHost: " + s.Admin + "\r\nAuthorization: Bearer " + s.token + "\r\n\r\n", rate: 16 << 10,
			secured: true},
	} {
		add("slow client, "+c.name, func(ctx context.Context, name string) { s.slowly(ctx, name, c) })
		if s.long {
			list[len(list)-1].most = 90 * time.Second // longer than the timeouts of the server
		}
	}
	add("reader of the log stops", func(ctx context.Context, _ string) {
		s.log.pause(true)
		sleep(ctx, 10*time.Second)
		s.log.pause(false)
	})
	add("process stopped", s.suspend)
	add("reload", s.reload)
	made := 0
	add("backup", func(context.Context, string) { made++; s.backup(made) })
	if s.clocks != nil {
		add("wall clock set", s.setClock)
		add("machine suspended, by its clocks", s.sleepMachine)
	}
	return list
}

// prepare makes what the attacks need. The contacts 1 and 2 and the event 1 are those of the list attacks.
func (s *siege) prepare() {
	s.t.Helper()
	s.worst = s.newKey("worst", `"requests_per_minute_limit": 1000000`)
	s.slow = s.newKey("slow", `"requests_per_minute_limit": 1000000, "concurrent_requests": 1000`)
	s.key, s.id = s.slow.Key, s.slow.ID
	large := func(size int) string {
		return fmt.Sprintf(`{"first_name": "Large", "custom_context": {"text": %q}}`, strings.Repeat("x", size))
	}
	const event = `{"title": "Visit", "description": %q, "start_time": "2030-01-01T10:00:00Z", "end_time": "2030-01-01T11:00:00Z"}`
	s.must(s.worst.Key, 201, "POST", "/api/v1/contacts/create", `{"first_name": "Grows"}`)
	s.must(s.worst.Key, 201, "POST", "/api/v1/contacts/create", large(10_000))
	s.must(s.worst.Key, 201, "POST", "/api/v1/calendar/events/create", fmt.Sprintf(event, strings.Repeat("x", 2000)))
	s.hang()
	s.must(s.slow.Key, 201, "POST", "/api/v1/contacts/create", large(15_000)) // the contact 3
	var owners struct {
		Owners []struct {
			ID   uint64
			Name string
		}
	}
	s.operate("GET", "/admin/v1/owners", "", &owners)
	for _, o := range owners.Owners {
		if o.Name == "worst" || o.Name == "slow" {
			s.operate("PATCH", fmt.Sprintf("/admin/v1/owners/%d", o.ID), `{"storage_bytes": 33554432}`, nil)
		}
	}
	var token struct{ Token string }
	s.operate("POST", "/admin/v1/tokens", `{"name": "operator", "scope": "all"}`, &token)
	s.token = token.Token
	s.log.forbid(s.token)
}

// hang makes 50 webhooks whose receivers are as bad as can be.
func (s *siege) hang() {
	s.t.Helper()
	for i := range 50 {
		target := []string{"/hang", "/drip", "/reset", "/endless", "/error"}[i%5]
		webhook := fmt.Sprintf(`{"name": "w%d", "url": %q, "subscribed_events": ["calendar.updated"]}`, i, s.hooks.server.URL+target)
		s.must(s.worst.Key, 201, "POST", "/api/webhooks/create", webhook)
	}
}

// peace ends what the attacks have left.
func (s *siege) peace() {
	s.t.Helper()
	s.log.pause(false)
	if s.clocks != nil {
		if err := s.clocks.setWall(0); err != nil {
			s.t.Error(err)
		}
	}
	if err := s.configure(""); err != nil {
		s.t.Error(err)
	}
	s.operate("POST", "/admin/v1/reload", "", nil)
	var list struct {
		Webhooks []struct {
			ID    uint64
			Owner string
		}
	}
	s.operate("GET", "/admin/v1/webhooks?limit=100", "", &list)
	for _, w := range list.Webhooks {
		if w.Owner == "worst" {
			s.operate("DELETE", fmt.Sprintf("/admin/v1/webhooks/%d", w.ID), "", nil)
		}
	}
	s.hooks.release()
}

// neighbour makes an attack of the worst neighbour. Its requests may fail, but not be answered otherwise than is documented.
func (s *siege) neighbour(ctx context.Context, name string, a attack) {
	var workers sync.WaitGroup
	for range a.workers {
		workers.Go(func() {
			for i := 0; ctx.Err() == nil && (a.times == 0 || i < a.times); i++ {
				body := ""
				if a.body != nil {
					body = a.body(s.serial.Add(1))
				}
				status, err := s.send(s.worst.Key, a.method, a.path, body)
				if err == nil && status != a.success && !slices.Contains(refusals, status) {
					s.fault("%s: got %d, which is neither success nor a documented refusal", name, status)
				}
				s.count(name, result(status))
			}
		})
	}
	workers.Wait()
}

// result is a status as a text.
func result(status int) string {
	if status == 0 {
		return "no answer"
	}
	return fmt.Sprint(status)
}

// flood opens up to 1,200 connections, more than the server may have, and keeps them open. Each sends a text.
func (s *siege) flood(ctx context.Context, name, door, text string) {
	var all sync.WaitGroup
	for range rand.IntN(1200) {
		c, err := s.dial(ctx, door, "127.0.0.2")
		if err != nil {
			s.count(name, "no connection: "+broken(err))
			if sleep(ctx, 10*time.Millisecond); ctx.Err() != nil {
				break
			}
			continue
		}
		all.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer c.Close()
			_, _ = io.WriteString(c, text) // an error means that the server has closed the connection
			a, err := http.ReadResponse(bufio.NewReader(c), nil)
			switch {
			case err == nil:
				s.count(name, result(a.StatusCode))
				_, _ = io.Copy(io.Discard, c)
			case ctx.Err() != nil:
				s.count(name, "open to the end")
			default:
				s.count(name, "closed")
			}
		})
	}
	all.Wait()
}

// abort resets a connection.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// resets sends parts of requests and resets the connections.
func (s *siege) resets(ctx context.Context, name string) {
	const text = "POST /up/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: <key>\r\nContent-Length: 20\r\n\r\n01234567890123456789"
	request := strings.ReplaceAll(text, "<key>", s.slow.Key)
	for ctx.Err() == nil {
		c, err := s.dial(ctx, []string{"api", "api", "admin"}[rand.IntN(3)], "127.0.0.2")
		if err != nil {
			s.count(name, "no connection: "+broken(err))
			sleep(ctx, 10*time.Millisecond)
			continue
		}
		_, _ = io.WriteString(c, request[:rand.IntN(len(request)+1)])
		sleep(ctx, rand.N(5*time.Millisecond))
		abort(c)
		s.count(name, "reset")
	}
}

// strangers sends keys that are wrong, and right ones in wrong places.
func (s *siege) strangers(ctx context.Context, name string) {
	client := &http.Client{Transport: &http.Transport{DialContext: dialFrom("127.0.0.3")}, Timeout: quietBound}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		r, err := http.NewRequest("GET", s.URL+"/api/v1/agents", nil)
		if err != nil {
			s.fault("%v", err)
			return
		}
		switch rand.IntN(5) {
		case 0:
			r.URL.RawQuery = "api_key=" + newSecret("klen_")
		case 1:
			r.URL.Path = "/up/" + s.slow.Key
		case 2:
			r.Header.Set("User-Agent", s.slow.Key)
			r.Header.Set("Referer", "http://localhost/?api_key="+s.slow.Key)
		case 3:
			r.SetBasicAuth(s.slow.Key, s.token)
		default:
			r.Header.Set("X-API-Key", newSecret("klen_"))
		}
		a, err := client.Do(r)
		if err != nil {
			s.count(name, result(0))
			continue
		}
		_, _ = io.Copy(io.Discard, a.Body)
		_ = a.Body.Close()
		if a.StatusCode != 400 && a.StatusCode != 401 && a.StatusCode != 429 {
			s.fault("%s: got %d", name, a.StatusCode)
		}
		s.count(name, result(a.StatusCode))
		sleep(ctx, rand.N(5*time.Millisecond))
	}
}

// malformedOnes sends requests that are not as they should be.
func (s *siege) malformedOnes(ctx context.Context, name string) {
	for list := malformed(); ctx.Err() == nil; sleep(ctx, rand.N(20*time.Millisecond)) {
		tt := list[rand.IntN(len(list))]
		answers, _ := s.talk("api", tt.request, true)
		if len(answers) == 0 {
			s.count(name, result(0))
		}
		for _, a := range answers {
			if a.status == 500 || a.status == 503 {
				s.fault("%s, %s: got %s", name, tt.name, a)
			}
			s.count(name, result(a.status))
		}
	}
}

// slowClient is a client that sends or reads slowly.
type slowClient struct {
	name, text string
	drip       string // sent again and again after the text; "": it reads
	rate       int    // bytes that it reads in a second; 0: none
	secured    bool   // at the admin listener
}

// slowly has up to 8 clients at once.
func (s *siege) slowly(ctx context.Context, name string, client slowClient) {
	var all sync.WaitGroup
	for range 1 + rand.IntN(8) {
		all.Go(func() { s.count(name, s.slowOne(ctx, client)) })
	}
	all.Wait()
}

// slowOne is one of them. It returns what came of it.
func (s *siege) slowOne(ctx context.Context, client slowClient) string {
	door := "api"
	if client.secured {
		door = "admin"
	}
	raw, err := s.dial(ctx, door, "127.0.0.2")
	if err != nil {
		return "no connection"
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	_ = raw.SetReadBuffer(4 << 10)
	c := net.Conn(raw)
	if client.secured {
		c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it is 127.0.0.1
	}
	if _, err := io.WriteString(c, client.text); err != nil {
		return "closed"
	}
	if client.drip != "" {
		go func() {
			for ctx.Err() == nil {
				if _, err := io.WriteString(c, client.drip); err != nil {
					return
				}
				sleep(ctx, 20*time.Millisecond+rand.N(200*time.Millisecond))
			}
		}()
	}
	in := bufio.NewReaderSize(c, 1<<10)
	a, err := http.ReadResponse(in, nil)
	if err != nil {
		if ctx.Err() != nil {
			return "left before an answer"
		}
		return "closed"
	}
	status := result(a.StatusCode)
	if client.drip != "" {
		return status
	}
	if client.rate == 0 {
		<-ctx.Done()
		abort(raw)
		return status + ", left in the middle"
	}
	for ctx.Err() == nil {
		if _, err := io.CopyN(io.Discard, in, int64(client.rate/10)); err != nil {
			break
		}
		sleep(ctx, 100*time.Millisecond)
	}
	if ctx.Err() != nil {
		return status + ", left in the middle"
	}
	return status + ", to its end"
}

// suspend stops the process for up to 10 seconds, mostly for less.
func (s *siege) suspend(ctx context.Context, _ string) {
	x := rand.Float64()
	longest := 2 * time.Second
	if s.long {
		longest = 10 * time.Second
	}
	s.signals.Lock()
	defer s.signals.Unlock()
	s.halt(ctx, time.Duration(x*x*float64(longest)), nil)
}

// halt stops the process for a time, and does something meanwhile. The caller holds signals.
func (s *siege) halt(ctx context.Context, d time.Duration, do func()) {
	p := pause{from: time.Now()}
	if err := s.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.fault("%v", err)
	}
	if do != nil {
		do()
	}
	sleep(ctx, d)
	if err := s.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.fault("%v", err)
	}
	p.to = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauses = append(s.pauses, p)
}

// setClock sets the wall clock of the server, by up to a minute or by up to 11 hours: an Idempotency-Key is known for 24.
func (s *siege) setClock(_ context.Context, name string) {
	by := 2*rand.N(time.Minute) - time.Minute
	if rand.IntN(3) == 0 {
		by = 2*rand.N(11*time.Hour) - 11*time.Hour
	}
	if err := s.clocks.setWall(by); err != nil {
		s.fault("%s: %v", name, err)
	}
}

// sleepMachine lets the server believe that the machine was suspended for up to a minute.
func (s *siege) sleepMachine(ctx context.Context, name string) {
	s.signals.Lock()
	defer s.signals.Unlock()
	s.halt(ctx, rand.N(time.Second), func() {
		if err := s.clocks.suspend(rand.N(time.Minute)); err != nil {
			s.fault("%s: %v", name, err)
		}
	})
}

// reload changes the configuration, and has it loaded by SIGHUP or by the operator. A broken one must change nothing.
func (s *siege) reload(_ context.Context, name string) {
	end, right := "", true
	switch rand.IntN(3) {
	case 0:
		end = fmt.Sprintf("[[route]]\npath = \"/other/*rest\"\npermission = \"can_use\"\nupstream = %q\n", s.upstream.URL)
	case 1:
		end, right = "[[route]]\nunknown = 1\n", false
	}
	if err := s.configure(end); err != nil {
		s.fault("%s: %v", name, err)
		return
	}
	if rand.IntN(2) == 0 {
		if err := s.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
			s.fault("%s: %v", name, err)
		}
		s.count(name, "by SIGHUP")
		return
	}
	_, err := s.socket("POST", "/admin/v1/reload", "")
	if (err == nil) != right {
		s.fault("%s: got %v; the configuration is right: %t", name, err, right)
	}
	s.count(name, "by the operator")
}

// dialFrom returns a function that opens connections from an address of this machine.
func dialFrom(address string) func(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: quietBound, LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return d.DialContext
}

// backup makes a backup over the control socket, and checks every fourth one.
func (s *siege) backup(i int) {
	path := filepath.Join(filepath.Dir(s.config), "copy.db")
	f, err := os.Create(path)
	if err != nil {
		s.fault("%v", err)
		return
	}
	defer os.Remove(path)
	a, err := (&http.Client{Transport: program.SocketTransport(s.Data), Timeout: 5 * time.Minute}).Get("http://control/admin/v1/backup")
	if err == nil {
		_, err = io.Copy(f, a.Body)
		_ = a.Body.Close()
	}
	if err = errors.Join(err, f.Close()); err != nil || a.StatusCode != 200 {
		s.fault("backup: %v", err)
		return
	}
	s.count("backups", "made")
	if i%4 == 0 {
		if out, err := program.Command(s.t, "check", path, "--data", s.Data).CombinedOutput(); err != nil {
			s.fault("check of a backup: %v: %s", err, out)
		}
		s.count("backups", "checked")
	}
}
