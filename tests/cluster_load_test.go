//go:build linux

package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/tests/program"
)

// clusterLoad is what clients of all nodes of a cluster do while it has faults, and what they are told. It is safe for concurrent use.
type clusterLoad struct {
	nodes []string
	urls  map[string]string // of the API, by node
	begun time.Time
	ended chan struct{}

	clients map[string]*http.Client // of the API, by node
	sockets map[string]*http.Client // of the control socket, by node
	fresh   *http.Client            // each request comes from another address, so that none is slowed down for wrong keys
	address atomic.Uint32
	serial  atomic.Int64

	writer string         // a key that reads and writes contacts
	limits map[string]int // secrets of keys with a short limit
	ids    map[string]string

	mu       sync.Mutex
	deeds    []deed
	at       int64 // the largest Latchkey-At of the answers
	records  []*loadRecord
	contacts []ledgerEntry // by first name
	calls    []ledgerEntry // by phone number
	given    []string      // ids of contacts, calls and keys
	keys     []loadKey
	days     []*dayKey
	problems []string

	requests, unknown, refused int
	changed                    []time.Duration            // when changes were acknowledged
	answered                   map[string]time.Duration   // by node: the last answer other than 503
	silence                    map[string]time.Duration   // by node: the longest time without one
	kinds                      map[string]int             // answers with success, by kind of request
	waits                      map[string][]time.Duration // how long they took
}

// loadRecord is a contact that clients use.
type loadRecord struct {
	id            string
	deeds, unsure int
}

// loadKey is a key that was created. Revoked means that this was acknowledged, or that nobody knows.
type loadKey struct {
	id, secret, at  string
	revoked, unsure bool
}

// dayKey is a key with a limit of calls per day, and an owner of its own.
type dayKey struct {
	id, secret, owner string
	agent             int
}

// The limits in the load.
const (
	loadTimeout   = 4 * time.Second // of a request
	freshTimeout  = time.Second     // of one with a key that is being revoked
	missedTime    = 6 * time.Second // how long a revoked key is used on nodes that do not answer
	loadCalls     = 25              // calls per day of a key
	recordDeeds   = 40              // requests about a contact, before another one is used
	recordUnsure  = 3               // changes of a contact whose fate is unknown; each makes the check much slower
	loadContacts  = 6               // contacts in use at the same time
	shortWindow   = time.Minute
	wordsNotMade  = "was not made"
	wordsNoAnswer = "so it does not answer"
	wordsNotYet   = "does not have the change"
)

// newClusterLoad creates what the load needs.
func newClusterLoad(c *clusterTest, names []string, urls map[string]string) *clusterLoad {
	c.Helper()
	l := &clusterLoad{
		nodes: names, urls: urls, begun: time.Now(), ended: make(chan struct{}), limits: map[string]int{}, ids: map[string]string{},
		clients: map[string]*http.Client{}, sockets: map[string]*http.Client{}, answered: map[string]time.Duration{}, silence: map[string]time.Duration{},
		kinds: map[string]int{}, waits: map[string][]time.Duration{},
	}
	for _, name := range names {
		l.clients[name] = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20}, Timeout: loadTimeout}
		l.sockets[name] = &http.Client{Transport: program.SocketTransport(c.folder(name)), Timeout: loadTimeout}
		c.Cleanup(l.clients[name].CloseIdleConnections)
	}
	l.fresh = &http.Client{Timeout: freshTimeout, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		n := l.address.Add(1)
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+n%200), byte(n/200%250), byte(1+n/50000%250))}}
		return d.DialContext(ctx, network, address)
	}}}
	create := func(body string) made {
		m := c.change(names[0], "POST", "/admin/v1/keys", body)
		if m.Code != http.StatusCreated {
			c.Fatalf("create a key: %d %s", m.Code, m.Fault)
		}
		l.saw(m.At)
		return m
	}
	l.writer = create(`{"name": "writer", "owner": "ann", "permissions": ["can_read_contacts", "can_write_contacts"], "limits": {"requests_per_minute_limit": 1000000}}`).Key
	for _, limit := range []int{5, 20, 60} {
		m := create(fmt.Sprintf(`{"name": "short", "permissions": ["can_read_agents"], "limits": {"requests_per_minute_limit": %d}}`, limit))
		l.limits[m.Key] = limit
	}
	return l
}

// run starts the load, and returns a function that ends it and waits.
func (l *clusterLoad) run(seed uint64) (stop func()) {
	var working sync.WaitGroup
	for i, work := range []func(*rand.Rand){l.workRecord, l.workRecord, l.workRecord, l.workKey, l.workKey, l.workLimit, l.workLimit, l.workCall, l.workCall, l.workAudit} {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for !l.over() {
				work(rng)
				time.Sleep(time.Duration(5+rng.IntN(30)) * time.Millisecond)
			}
		})
	}
	return func() {
		close(l.ended)
		working.Wait()
		for _, name := range l.nodes {
			l.noteAnswer(name, false)
		}
	}
}

// over reports whether the load should end.
func (l *clusterLoad) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// now returns the time of the clients.
func (l *clusterLoad) now() time.Duration { return time.Since(l.begun) }

// problem records something that may not happen.
func (l *clusterLoad) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// did records a deed.
func (l *clusterLoad) did(d deed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deeds = append(l.deeds, d)
}

// saw takes the Latchkey-At of an answer.
func (l *clusterLoad) saw(head string) {
	if at, err := strconv.ParseInt(head, 10, 64); err == nil {
		l.mu.Lock()
		l.at = max(l.at, at)
		l.mu.Unlock()
	}
}

// latest returns the largest Latchkey-At of all answers.
func (l *clusterLoad) latest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strconv.FormatInt(l.at, 10)
}

// clusterAsk is a request to a node.
type clusterAsk struct {
	kind               string // for the figures
	node, method, path string
	body               string
	key, at, repeat    string // X-API-Key, Latchkey-At and Idempotency-Key
	fresh              bool   // from an address that was not used yet
}

// reply is what became of a request.
type reply struct {
	status    int  // 0: no answer
	unsent    bool // there was no connection, and no attempt before
	body      []byte
	head      string
	sent, got time.Duration
}

// The outcomes of a change.
type outcome int

const (
	done    outcome = iota
	notMade         // certainly
	unsure
)

// outcome returns the outcome of a change.
func (r reply) outcome() outcome {
	switch {
	case r.status/100 == 2:
		return done
	case r.unsent:
		return notMade
	case r.status/100 == 4 || r.status == http.StatusInsufficientStorage:
		return notMade
	case r.status == http.StatusServiceUnavailable && (strings.Contains(string(r.body), wordsNotMade) || strings.Contains(string(r.body), wordsNoAnswer) || strings.Contains(string(r.body), wordsNotYet)):
		return notMade
	}
	return unsure
}

// end returns when a change has ended, see deed.
func (r reply) end() time.Duration {
	if r.outcome() == done {
		return r.got
	}
	return forever
}

// send sends a request. One without a key goes to the control socket.
func (l *clusterLoad) send(a clusterAsk) (r reply) {
	client, url := l.clients[a.node], l.urls[a.node]
	switch {
	case a.key == "":
		client, url = l.sockets[a.node], "http://latchkey"
	case a.fresh:
		client = l.fresh
	}
	request, err := http.NewRequest(a.method, url+a.path, strings.NewReader(a.body))
	if err != nil {
		panic(err) // the test has written it
	}
	for name, value := range map[string]string{"X-API-Key": a.key, "Latchkey-At": a.at, "Idempotency-Key": a.repeat} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	if a.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	r.sent = l.now()
	answer, err := client.Do(request)
	if err == nil {
		defer answer.Body.Close()
		if r.body, err = io.ReadAll(answer.Body); err == nil {
			r.status, r.head = answer.StatusCode, answer.Header.Get("Latchkey-At")
		}
	}
	var dial *net.OpError
	r.unsent = errors.As(err, &dial) && dial.Op == "dial" && a.repeat == "" // http.Client repeats those with an Idempotency-Key
	r.got = l.now()
	l.count(a, r)
	return r
}

// count adds a request to the figures.
func (l *clusterLoad) count(a clusterAsk, r reply) {
	change := a.method != http.MethodGet
	if change {
		l.saw(r.head)
	}
	l.mu.Lock()
	l.requests++
	switch {
	case r.status/100 == 2:
		l.kinds[a.kind]++
		l.waits[a.kind] = append(l.waits[a.kind], r.got-r.sent)
		if change {
			l.changed = append(l.changed, r.got)
		}
	case change && r.outcome() == unsure:
		l.unknown++
	case r.status == 0 || r.status == http.StatusServiceUnavailable:
		l.refused++
	}
	l.mu.Unlock()
	if a.key != "" {
		l.noteAnswer(a.node, r.status != 0 && r.status != http.StatusServiceUnavailable)
	}
	if r.status == http.StatusInternalServerError {
		l.problem("%s %s on %s: %d %s", a.method, a.path, a.node, r.status, r.body)
	}
}

// noteAnswer notes whether a node has answered a request now.
func (l *clusterLoad) noteAnswer(node string, answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.silence[node] = max(l.silence[node], now-l.answered[node])
	if answers {
		l.answered[node] = now
	}
}

// gap returns the longest time in which no change was acknowledged on any node.
func (l *clusterLoad) gap() (longest time.Duration) {
	slices.Sort(l.changed)
	for i := range l.changed[1:] {
		longest = max(longest, l.changed[i+1]-l.changed[i])
	}
	return longest
}

// token returns a text that was not used yet.
func (l *clusterLoad) token(prefix string) string { return fmt.Sprint(prefix, l.serial.Add(1)) }

// pick returns one of the nodes.
func (l *clusterLoad) pick(rng *rand.Rand) string { return l.nodes[rng.IntN(len(l.nodes))] }

// loadContact is an answer about a contact. Each change of the load sets both names.
type loadContact struct {
	ID        int64
	FirstName string `json:"first_name"`
	LastName  string `json:"last_name"`
	Company   string
}

// workRecord creates, changes or reads a contact.
func (l *clusterLoad) workRecord(rng *rand.Rand) {
	l.mu.Lock()
	l.records = slices.DeleteFunc(l.records, func(r *loadRecord) bool { return r.deeds >= recordDeeds || r.unsure >= recordUnsure })
	var record *loadRecord
	if len(l.records) >= loadContacts || len(l.records) > 0 && rng.IntN(10) > 0 {
		record = l.records[rng.IntN(len(l.records))]
		record.deeds++
	}
	l.mu.Unlock()
	node, value := l.pick(rng), l.token("v")
	switch {
	case record == nil:
		l.createRecord(node, value)
	case rng.IntN(2) == 0:
		l.readRecord(node, record.id)
	default:
		r := l.send(clusterAsk{kind: "change a contact", node: node, method: "PATCH", path: "/api/v1/contacts/" + record.id + "/update", body: fmt.Sprintf(`{"last_name": %q, "company": %q}`, value, value), key: l.writer})
		if r.outcome() == notMade {
			return
		}
		l.did(deed{putRecord, "contact " + record.id, node, value, r.sent, r.end()})
		if r.outcome() == unsure {
			l.mu.Lock()
			record.unsure++
			l.mu.Unlock()
		}
	}
}

// createRecord creates a contact.
func (l *clusterLoad) createRecord(node, value string) {
	name := l.token("Oda")
	r := l.send(clusterAsk{kind: "create a contact", node: node, method: "POST", path: "/api/v1/contacts/create", body: fmt.Sprintf(`{"first_name": %q, "last_name": %q, "company": %q}`, name, value, value), key: l.writer})
	var c loadContact
	known := r.outcome() == done && json.Unmarshal(r.body, &c) == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.outcome() != notMade {
		l.contacts = append(l.contacts, ledgerEntry{name: name, known: known})
	}
	if known {
		id := strconv.FormatInt(c.ID, 10)
		l.given = append(l.given, "contact "+id)
		l.records = append(l.records, &loadRecord{id: id})
		l.deeds = append(l.deeds, deed{putRecord, "contact " + id, node, value, r.sent, r.got})
	}
}

// readRecord reads a contact, from a state that has all changes that were answered.
func (l *clusterLoad) readRecord(node, id string) bool {
	r := l.send(clusterAsk{kind: "read a contact", node: node, method: "GET", path: "/api/v1/contacts/" + id, key: l.writer, at: l.latest()})
	var c loadContact
	switch {
	case r.status == http.StatusNotFound:
		l.problem("contact %s, whose creation was answered, is not found on %s: %s", id, node, r.body)
	case r.status != http.StatusOK:
		return false
	case json.Unmarshal(r.body, &c) != nil || c.LastName != c.Company:
		l.problem("contact %s on %s has half of a change: %s", id, node, r.body)
	default:
		l.did(deed{readRecord, "contact " + id, node, c.LastName, r.sent, r.got})
	}
	return true
}

// workKey creates a key, uses it on all nodes and revokes it meanwhile.
func (l *clusterLoad) workKey(rng *rand.Rand) {
	node := l.pick(rng)
	r := l.send(clusterAsk{kind: "create a key", node: node, method: "POST", path: "/admin/v1/keys", body: `{"name": "churn", "permissions": ["can_read_agents"], "limits": {"requests_per_minute_limit": 1000000}}`})
	var m made
	if r.outcome() != done || json.Unmarshal(r.body, &m) != nil {
		return
	}
	key := loadKey{id: m.ID, secret: m.Key, at: r.head}
	l.did(deed{createKey, key.id, node, "", r.sent, r.got})
	for range 4 {
		l.useKey(l.pick(rng), key)
	}
	revoked := make(chan struct{})
	ender, used := l.pick(rng), key
	go func() {
		defer close(revoked)
		r := l.send(clusterAsk{kind: "revoke a key", node: ender, method: "POST", path: "/admin/v1/keys/" + key.id + "/revoke"})
		if r.outcome() != notMade {
			l.did(deed{revokeKey, key.id, ender, "", r.sent, r.end()})
			key.revoked, key.unsure = true, r.outcome() == unsure
		}
	}()
	var using sync.WaitGroup
	for _, name := range l.nodes {
		using.Go(func() {
			// A node that does not answer is asked for a while after the revocation: it may have missed it.
			var since time.Time
			for after := 0; after < 3 && (since.IsZero() || time.Since(since) < missedTime); {
				select {
				case <-revoked:
					if since.IsZero() {
						since = time.Now()
					}
				default:
				}
				if l.useKey(name, used) && !since.IsZero() {
					after++
				}
				time.Sleep(15 * time.Millisecond)
			}
		})
	}
	using.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = append(l.keys, key)
	l.given = append(l.given, "key "+key.id)
}

// useKey uses a key on a node that must have its creation.
func (l *clusterLoad) useKey(node string, key loadKey) bool {
	r := l.send(clusterAsk{kind: "use a key", node: node, method: "GET", path: "/api/v1/agents", key: key.secret, at: key.at, fresh: true})
	switch r.status {
	case http.StatusOK:
		l.did(deed{passedKey, key.id, node, "", r.sent, r.got})
	case http.StatusUnauthorized:
		l.did(deed{refusedKey, key.id, node, "", r.sent, r.got})
	default:
		return false
	}
	return true
}

// workLimit uses a key with a short limit.
func (l *clusterLoad) workLimit(rng *rand.Rand) {
	for secret, limit := range l.limits {
		node := l.pick(rng)
		if r := l.send(clusterAsk{kind: "use a limited key", node: node, method: "GET", path: "/api/v1/agents", key: secret}); r.status == http.StatusOK {
			l.did(deed{admittedKey, fmt.Sprint("limit ", limit), node, "", r.sent, r.got})
		}
	}
}

// workCall makes a call. If nobody knows whether it was made, it is repeated with the same Idempotency-Key on other nodes.
func (l *clusterLoad) workCall(rng *rand.Rand) {
	day := l.day(rng)
	if day == nil {
		return
	}
	n := l.serial.Add(1)
	phone := fmt.Sprintf("+4930%07d", n)
	entry := ledgerEntry{name: phone, value: day.owner}
	first := ""
	for try := 0; ; try++ {
		r := l.send(clusterAsk{kind: "make a call", node: l.pick(rng), method: "POST", path: "/api/v1/calls", body: fmt.Sprintf(`{"phone_number": %q, "agent_id": %d}`, phone, day.agent), key: day.secret, repeat: phone, at: l.latest()})
		if r.status == http.StatusTooManyRequests {
			l.mu.Lock()
			l.days = slices.DeleteFunc(l.days, func(d *dayKey) bool { return d == day })
			if try > 0 { // an attempt before this one may have been made
				l.calls = append(l.calls, entry)
			}
			l.mu.Unlock()
			return
		}
		if r.outcome() == done {
			var c struct {
				CallID string `json:"call_id"`
			}
			if json.Unmarshal(r.body, &c) != nil || c.CallID == "" {
				l.problem("a call without an id: %s", r.body)
			}
			if first == "" {
				l.mu.Lock()
				entry.known = true
				l.calls, l.given = append(l.calls, entry), append(l.given, c.CallID)
				l.mu.Unlock()
			} else if first != c.CallID {
				l.problem("the call %s is %s when it is repeated with the same Idempotency-Key", first, c.CallID)
			}
			if first != "" || rng.IntN(4) > 0 {
				return
			}
			first = c.CallID
		} else if r.outcome() == notMade && !r.unsent && r.status != http.StatusServiceUnavailable && r.status != http.StatusConflict {
			l.problem("a call was refused: %d %s", r.status, r.body)
			return
		}
		if l.over() {
			if first == "" {
				l.mu.Lock()
				l.calls = append(l.calls, entry)
				l.mu.Unlock()
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// day returns a key with calls left, and creates one if there are few. It returns nil if that was not possible.
func (l *clusterLoad) day(rng *rand.Rand) *dayKey {
	l.mu.Lock()
	if len(l.days) > 2 {
		defer l.mu.Unlock()
		return l.days[rng.IntN(len(l.days))]
	}
	l.mu.Unlock()
	d := &dayKey{owner: l.token("owner")}
	r := l.send(clusterAsk{kind: "create a key", node: l.pick(rng), method: "POST", path: "/admin/v1/keys",
		body: fmt.Sprintf(`{"name": "day", "owner": %q, "permissions": ["can_initiate_calls"], "limits": {"requests_per_minute_limit": 1000000, "calls_per_day_limit": %d}}`, d.owner, loadCalls)})
	var m made
	if r.outcome() != done || json.Unmarshal(r.body, &m) != nil {
		return nil
	}
	d.id, d.secret = m.ID, m.Key
	r = l.send(clusterAsk{kind: "create an agent", node: l.pick(rng), method: "POST", path: "/admin/v1/agents", body: fmt.Sprintf(`{"name": "A", "phone_number": "+4930555001", "owner": %q}`, d.owner)})
	var agent struct{ ID int }
	if r.outcome() != done || json.Unmarshal(r.body, &agent) != nil {
		return nil
	}
	d.agent = agent.ID
	l.mu.Lock()
	defer l.mu.Unlock()
	l.days = append(l.days, d)
	l.ids[d.owner] = d.id
	return d
}

// workAudit verifies the audit log of a node now and then.
func (l *clusterLoad) workAudit(rng *rand.Rand) {
	time.Sleep(time.Second)
	l.audit(l.pick(rng))
}

// audit verifies the audit log of a node, and returns the hash of its last entry, or "" if the node does not answer.
func (l *clusterLoad) audit(node string) string {
	r := l.send(clusterAsk{kind: "verify the audit log", node: node, method: "GET", path: "/admin/v1/audit/verify", at: l.latest()})
	var verified struct {
		Hash     string
		Entries  int
		Problems []any
	}
	if r.status != http.StatusOK {
		return ""
	}
	if json.Unmarshal(r.body, &verified) != nil || len(verified.Problems) > 0 || verified.Entries == 0 {
		l.problem("the audit log on %s: %s", node, r.body)
	}
	return fmt.Sprint(verified.Entries, " ", verified.Hash)
}
