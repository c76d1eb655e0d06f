package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"latchkey/tests/program"
)

// mix is the part of a ledger about contacts, imports, applied files, admin tokens and sandboxes, and it sends
// random requests to all other endpoints. All of it belongs to owners of its own. It is safe for concurrent use.
type mix struct {
	key, sandbox string // secrets
	roaming      string // secret of the random requests, which may revoke it
	counter      uint64 // id of a contact whose first name is the number of its last change

	mu      sync.Mutex
	asked   []time.Time // when the n-th change of counter was asked for
	told    []time.Time // when it was acknowledged; zero if it was not
	lives   map[string]*life
	batches map[string]*mixBatch
	faults  []string // answers that no request may get

	doc  *openapi3.T
	ops  []mixOperation
	from *inventor
	ids  map[string][]string // of records that the random requests created, by the name of their collection
}

// life is what clients were told of one record.
type life struct{ made, tried, ended time.Time } // tried: when its end was asked for

// mixBatch is a number of records that are stored together.
type mixBatch struct {
	size int
	told time.Time // zero if it was not acknowledged
}

// mixOperation is an operation of the API or the admin endpoint.
type mixOperation struct {
	method, path string
	*openapi3.Operation
}

// mixOwner is the owner of the records of a mix.
const mixOwner = "mix"

// mixLeft are the operations that the random requests leave out: they would change what the rest of a ledger counts on, or
// they have a load of their own.
var mixLeft = regexp.MustCompile(`^(recordCall|claimCall|adminCreateEvent|applyFile|import\w+|createSchedule|downloadBackup|checkStore|\w*Operator\w*|createSetupLink|endSessions?|confirmPassword|listFactors|addApp|offerApp|createRecoveryCodes|createEnrollLink|getReference\w*|adminUpdateBusinessContext|removeNode)$`)

// newMix creates what the load needs.
func newMix(must func(path string, body, into any)) *mix {
	doc, err := description()
	if err != nil {
		panic(err)
	}
	m := &mix{
		lives: map[string]*life{}, batches: map[string]*mixBatch{}, doc: doc, ids: map[string][]string{},
		from: &inventor{Rand: rand.New(rand.NewPCG(rand.Uint64(), 0)), receiver: "http://127.0.0.1:1/", ids: map[string][]string{}},
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		for method, op := range doc.Paths.Value(path).Operations() {
			if !mixLeft.MatchString(op.OperationID) {
				m.ops = append(m.ops, mixOperation{method, path, op})
			}
		}
	}
	var made struct{ Key string }
	create := func(more map[string]any, permissions ...string) string {
		body := map[string]any{"name": "mix", "owner": mixOwner, "permissions": permissions, "limits": map[string]int{RequestsPerMinute: 10_000_000, CallsPerDay: 1_000_000, EventsPerDay: 1_000_000}}
		maps.Copy(body, more)
		must("/admin/v1/keys", body, &made)
		return made.Key
	}
	m.key = create(nil, "can_read_contacts", "can_write_contacts")
	m.sandbox = create(map[string]any{"sandbox": true}, "can_initiate_calls", "can_read_agents")
	var one struct{ ID uint64 }
	must("/admin/v1/contacts", map[string]any{"first_name": "0", "owner": mixOwner}, &one)
	m.counter = one.ID
	return m
}

// copy returns a mix of its own with the same entries.
func (m *mix) copy() *mix {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &mix{key: m.key, sandbox: m.sandbox, roaming: m.roaming, counter: m.counter, asked: slices.Clone(m.asked), told: slices.Clone(m.told), doc: m.doc, ops: m.ops}
	c.from = &inventor{Rand: rand.New(rand.NewPCG(rand.Uint64(), 0)), receiver: m.from.receiver, ids: map[string][]string{}}
	c.lives, c.batches, c.ids = map[string]*life{}, map[string]*mixBatch{}, map[string][]string{}
	for name, l := range m.lives {
		one := *l
		c.lives[name] = &one
	}
	for name, b := range m.batches {
		one := *b
		c.batches[name] = &one
	}
	return c
}

// mixed returns the parts of the load that a mix follows, each for one client.
func (l *ledger) mixed() []func(p *program.Server, n int) {
	return []func(p *program.Server, n int){l.count, l.importRows, l.apply, l.tokens, l.try, l.remove, l.wander}
}

// send sends JSON with a key and decodes the answer to a success.
func (l *ledger) send(p *program.Server, method, path, key string, body, into any) (time.Time, bool) {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	a, data := do(method, p.URL+path, key, data)
	l.note(a.status)
	return a.got, a.status/100 == 2 && (into == nil || json.Unmarshal(data, into) == nil)
}

// count changes the contact that counts the changes.
func (l *ledger) count(p *program.Server, _ int) {
	m := l.mix
	m.mu.Lock()
	m.asked, m.told = append(m.asked, time.Now()), append(m.told, time.Time{})
	n := len(m.asked)
	m.mu.Unlock()
	if at, ok := l.send(p, "PATCH", fmt.Sprintf("/api/v1/contacts/%d/update", m.counter), m.key, map[string]any{"first_name": fmt.Sprint(n)}, nil); ok {
		m.mu.Lock()
		m.told[n-1] = at
		m.mu.Unlock()
	}
}

// begin adds a batch, which done acknowledges.
func (m *mix) begin(kind string, size int) (label string, done func(at time.Time, err error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	label = fmt.Sprintf("%s %d", kind, len(m.batches))
	b := &mixBatch{size: size}
	m.batches[label] = b
	return label, func(at time.Time, err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err == nil {
			b.told = at
		}
	}
}

// importRows imports 20 contacts.
func (l *ledger) importRows(p *program.Server, _ int) {
	label, done := l.mix.begin("import", 20)
	rows := make([]map[string]any, 20)
	for i := range rows {
		rows[i] = map[string]any{"first_name": fmt.Sprint(i), "last_name": label, "owner": mixOwner}
	}
	done(l.post(p, "/admin/v1/contacts/import", rows, nil))
}

// apply applies a file of an owner, two keys, a webhook and a token.
func (l *ledger) apply(p *program.Server, _ int) {
	label, done := l.mix.begin("file", 5)
	ref := strings.ReplaceAll(label, " ", "-")
	key := func(n int) map[string]any {
		return map[string]any{"name": label, "owner": label, "ref": fmt.Sprint(ref, "/", n), "permissions": []string{"can_read_agents"}}
	}
	done(l.post(p, "/admin/v1/apply", map[string]any{
		"owners": []any{map[string]any{"name": label, "limits": map[string]int{OwnerRequestsPerMinute: 100}}},
		"keys":   []any{key(1), key(2)},
		"webhooks": []any{map[string]any{
			"name": label, "owner": label, "url": "https://hooks.example.net/" + ref, "subscribed_events": []string{"calendar.updated"}, "is_active": false,
		}},
		"tokens": []any{map[string]any{"name": label, "scope": "metrics"}},
	}, nil))
}

// live adds a record that was made.
func (m *mix) live(name string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lives[name] = &life{made: at}
}

// end ends records by a request.
func (m *mix) end(names []string, request func() (time.Time, bool)) {
	m.mu.Lock()
	for _, name := range names {
		m.lives[name].tried = time.Now()
	}
	m.mu.Unlock()
	if at, ok := request(); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, name := range names {
			m.lives[name].ended = at
		}
	}
}

// tokens creates an admin token, and revokes every other one.
func (l *ledger) tokens(p *program.Server, n int) {
	var made struct{ ID uint64 }
	at, err := l.post(p, "/admin/v1/tokens", map[string]any{"name": "mix", "scope": "metrics"}, &made)
	if err != nil {
		return
	}
	name := fmt.Sprint("token ", made.ID)
	if l.mix.live(name, at); n%2 == 0 {
		l.mix.end([]string{name}, func() (time.Time, bool) {
			at, err := l.post(p, fmt.Sprintf("/admin/v1/tokens/%d/revoke", made.ID), nil, nil)
			return at, err == nil
		})
	}
}

// remove creates a contact, and deletes every other one.
func (l *ledger) remove(p *program.Server, n int) {
	var made struct{ ID uint64 }
	at, ok := l.send(p, "POST", "/api/v1/contacts/create", l.mix.key, map[string]any{"first_name": "Mara", "tags": []string{"a", "b"}, "custom_context": map[string]string{"plan": "b"}}, &made)
	if !ok {
		return
	}
	name := fmt.Sprint("contact ", made.ID)
	if l.mix.live(name, at); n%2 == 0 {
		l.mix.end([]string{name}, func() (time.Time, bool) {
			err := p.Socket().Do(context.Background(), "DELETE", fmt.Sprintf("/admin/v1/contacts/%d", made.ID), nil, nil)
			return time.Now(), err == nil
		})
	}
}

// try makes a call in the sandbox, and empties the sandbox after three or if it has no agent.
func (l *ledger) try(p *program.Server, _ int) {
	m := l.mix
	var names []string // of the calls since the last time
	m.mu.Lock()
	for name, one := range m.lives {
		if strings.HasPrefix(name, "trial ") && one.tried.IsZero() {
			names = append(names, name)
		}
	}
	m.mu.Unlock()
	empty := func() {
		m.end(names, func() (time.Time, bool) {
			at, err := l.post(p, "/admin/v1/sandbox/reset", map[string]any{"owner": mixOwner}, nil)
			return at, err == nil
		})
	}
	if len(names) >= 3 {
		empty()
		return
	}
	var agents struct{ Agents []struct{ ID uint64 } }
	var made struct {
		CallID string `json:"call_id"`
	}
	a, data := do("GET", p.URL+"/api/v1/agents", m.sandbox, nil)
	switch {
	case a.status != 200 || json.Unmarshal(data, &agents) != nil:
	case len(agents.Agents) == 0: // the random requests have deleted them; the sandbox gets new ones
		empty()
	default:
		if at, ok := l.send(p, "POST", "/api/v1/calls", m.sandbox, map[string]any{"phone_number": "+4930555044", "agent_id": agents.Agents[0].ID}, &made); ok {
			m.live("trial "+made.CallID, at)
		}
	}
}

var pathParameter = regexp.MustCompile(`\{[a-z_]+\}`)

// wander sends a random request. What is created belongs to the mix's owner or to its sandbox, and no other record is named.
func (l *ledger) wander(p *program.Server, _ int) {
	m := l.mix
	m.mu.Lock()
	op := m.ops[m.from.IntN(len(m.ops))]
	kind := strings.Split(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(op.path, "/admin"), "/api"), "/v1"), "/")[1]
	m.from.wrong = m.from.IntN(4) == 0
	path := pathParameter.ReplaceAllStringFunc(op.path, func(string) string {
		if known := m.ids[kind]; len(known) > 0 && m.from.IntN(8) > 0 {
			return known[m.from.IntN(len(known))]
		}
		return "999999"
	})
	query := url.Values{}
	for _, q := range op.Parameters {
		if q.Value.In == "query" && (q.Value.Required || m.from.IntN(4) == 0) {
			query.Add(q.Value.Name, fmt.Sprint(m.from.value(q.Value.Name, q.Value.Schema.Value, 0)))
		}
	}
	var body any
	if s := bodySchema(op.Operation); s != nil {
		body = m.from.value("", s, 0)
		if fields, ok := body.(map[string]any); ok {
			if _, named := s.Properties["owner"]; named && op.OperationID != "resetSandbox" {
				fields["owner"] = mixOwner
			}
			if _, named := s.Properties["phone_number"]; named {
				fields["phone_number"] = fmt.Sprintf("+4930555%03d", 100+m.from.IntN(900))
			}
			if op.OperationID == "resetSandbox" {
				fields["owner"] = "nobody"
			}
		}
	}
	m.mu.Unlock()
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	if body == nil {
		text = nil
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	status, data := l.random(p, op, path, text)
	m.mu.Lock()
	defer m.mu.Unlock()
	var made map[string]any
	switch {
	case status >= 500 && status != 503 && status != 507 && status != 502: // 502: a webhook cannot be delivered
		m.faults = append(m.faults, fmt.Sprintf("%s %s: %d %.200s", op.method, path, status, data))
	case status/100 == 2 && op.method == "POST" && !strings.Contains(op.path, "{") && json.Unmarshal(data, &made) == nil:
		if id, ok := made["id"]; ok && len(m.ids[kind]) < 200 {
			m.ids[kind] = append(m.ids[kind], strings.TrimSuffix(fmt.Sprint(id), ".0"))
		}
	}
}

// random sends a request to an operation: those of the API with a sandbox key of its own, all others by the control socket. A
// status of 0 is no answer.
func (l *ledger) random(p *program.Server, op mixOperation, path string, body []byte) (status int, data []byte) {
	base, client := p.URL, http.DefaultClient
	if strings.HasPrefix(op.path, "/admin/") || op.path == "/metrics" {
		transport := program.SocketTransport(p.Data)
		defer transport.CloseIdleConnections()
		base, client = "http://localhost", &http.Client{Transport: transport}
	}
	a, data := doBy(client, op.method, base+path, l.mix.roaming, body)
	if a.status == http.StatusUnauthorized {
		var made struct{ Key string }
		if _, err := l.post(p, "/admin/v1/keys", map[string]any{
			"name": "roaming", "owner": mixOwner, "sandbox": true, "limits": map[string]int{RequestsPerMinute: 10_000_000},
			"permissions": []string{"can_read_calls", "can_initiate_calls", "can_read_agents", "can_read_contacts", "can_write_contacts", "can_read_calendar", "can_write_calendar"},
		}, &made); err == nil {
			l.mix.roaming = made.Key
		}
	}
	return a.status, data
}

// hold says what is missing of that which was acknowledged before a time, or stored without being asked for until another.
func (m *mix) hold(app *App, tx *Tx, at, until time.Time, report func(string, ...any)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	counter, err := contactTable.Get(tx, IDKey(m.counter))
	if err != nil {
		return err
	}
	least, most := 0, 0
	for i := range m.asked {
		if m.told[i].Before(at) && !m.told[i].IsZero() {
			least = i + 1
		}
		if m.asked[i].Before(until) {
			most = i + 1
		}
	}
	var n int
	if _, err := fmt.Sscan(counter.FirstName, &n); err != nil || n < least || n > most {
		report("a contact was changed %d times, which was acknowledged, and %d times at most; it has %q", least, most, counter.FirstName)
	}
	stored := map[string]int{}
	for c, err := range contactTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		stored[c.LastName]++
	}
	for k, err := range KeyTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		stored[k.Name]++
	}
	for h, err := range webhookTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		stored[h.Name]++
	}
	for o, err := range ownerTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		stored[o.Name]++
	}
	revoked := map[string]bool{}
	for t, err := range TokenTable.All(tx, Forward) {
		if err != nil {
			return err
		}
		stored[t.Name]++
		if name := fmt.Sprint("token ", t.ID); t.RevokedAt.IsZero() {
			stored[name]++
		} else {
			revoked[name] = true
		}
	}
	for label, b := range m.batches {
		acknowledged := !b.told.IsZero() && b.told.Before(at)
		if got := stored[label]; got != 0 && got != b.size || acknowledged && got == 0 {
			report("%s (acknowledged: %v): %d of %d records are stored", label, acknowledged, got, b.size)
		}
	}
	for name, l := range m.lives {
		kind, id, _ := strings.Cut(name, " ")
		there := stored[name] > 0
		switch kind {
		case "contact":
			var number uint64
			if _, err := fmt.Sscan(id, &number); err != nil {
				return err
			}
			_, err := contactTable.Get(tx, IDKey(number))
			there = err == nil
		case "trial":
			there = callTable.Has(tx, "call_id", []byte(id))
		}
		ended, asked := !l.ended.IsZero() && l.ended.Before(at), !l.tried.IsZero() && l.tried.Before(until)
		if ended && there || !asked && !there && l.made.Before(at) {
			report("%s: it is there: %v; its end was acknowledged: %v, asked for: %v", name, there, ended, asked)
		}
		if kind == "token" && ended && !revoked[name] {
			report("%s was revoked, which was acknowledged, and is not", name)
		}
	}
	if len(m.faults) > 0 {
		report("answers that no request may get: %q", m.faults[:min(5, len(m.faults))])
	}
	return nil
}

// missing returns what was never acknowledged.
func (m *mix) missing() (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	for label, b := range m.batches {
		kind, _, _ := strings.Cut(label, " ")
		seen[kind] = seen[kind] || !b.told.IsZero()
	}
	for name, l := range m.lives {
		kind, _, _ := strings.Cut(name, " ")
		seen[kind], seen[kind+" ended"] = true, seen[kind+" ended"] || !l.ended.IsZero()
	}
	seen["change"] = slices.ContainsFunc(m.told, func(at time.Time) bool { return !at.IsZero() })
	for _, kind := range []string{"change", "import", "file", "contact", "contact ended", "token", "token ended", "trial", "trial ended"} {
		if !seen[kind] {
			list = append(list, kind)
		}
	}
	return list
}

// counts says how much was acknowledged.
func (m *mix) counts() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes, imports, files, ends := 0, 0, 0, 0
	for _, at := range m.told {
		if !at.IsZero() {
			changes++
		}
	}
	for label, b := range m.batches {
		if b.told.IsZero() {
			continue
		}
		if strings.HasPrefix(label, "import") {
			imports++
		} else {
			files++
		}
	}
	kinds := map[string]int{}
	for name, l := range m.lives {
		kind, _, _ := strings.Cut(name, " ")
		if kinds[kind]++; !l.ended.IsZero() {
			ends++
		}
	}
	return fmt.Sprintf("%d changes of a contact, %d imports, %d applied files, %d contacts, %d admin tokens and %d calls in a sandbox, of which %d deleted or revoked", changes, imports, files, kinds["contact"], kinds["token"], kinds["trial"], ends)
}
