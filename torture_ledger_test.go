package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/tests/program"
)

// ledger is what clients were told: every acknowledged operation and when its
// answer came. What a store holds afterwards is held against it. It is safe
// for concurrent use.
type ledger struct {
	mu       sync.Mutex
	begun    time.Time // when the set-up was done: before it nothing is held
	limited  string    // secret of a key with a limit a minute
	caller   string    // secret of the key that calls and makes events
	callerID string
	operator string
	admin    string // URL of the admin listener, "" where nobody logs in

	keys     map[string]*deedKey  // by id
	calls    map[string]time.Time // by id
	events   map[uint64]time.Time
	people   map[string]time.Time // names of operators
	sessions map[string]time.Time // tokens
	admitted []answer             // of the limited key
	mix      *mix
	asked    int // calls and events asked for, answered or not

	refused  int // answers of 503
	relapsed int // requests let through after one, in a sequence of them
}

// deedKey is the life of one key.
type deedKey struct {
	secret        string
	made          time.Time
	next          string // the secret after a rotation
	rotated       time.Time
	tried         time.Time // when its revocation was asked for
	revoked       time.Time // and acknowledged
	rotationTried time.Time
}

// ledgerLimit is the limit a minute of the limited key.
const ledgerLimit = 500

const ledgerPassword = "a long enough passphrase"

// newLedger makes what the load needs on a fresh server: an agent, a webhook
// that hears of everything and answers nothing, an operator and keys.
func newLedger(t testing.TB, p *program.Server) *ledger {
	t.Helper()
	program.NotQuick(t)
	l := &ledger{keys: map[string]*deedKey{}, calls: map[string]time.Time{}, events: map[uint64]time.Time{}, people: map[string]time.Time{}, sessions: map[string]time.Time{}, operator: "ann"}
	must := func(path string, body, into any) {
		t.Helper()
		if err := p.Socket().Do(context.Background(), "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	must("/admin/v1/agents", map[string]any{"name": "A", "phone_number": "+4930555001"}, nil)
	must("/admin/v1/operators", map[string]any{"name": l.operator, "password": ledgerPassword}, nil)
	var made struct{ ID, Key string }
	must("/admin/v1/keys", map[string]any{"name": "limited", "permissions": []string{"can_read_agents"}, "limits": map[string]int{RequestsPerMinute: ledgerLimit}}, &made)
	l.limited = made.Key
	must("/admin/v1/keys", map[string]any{"name": "caller", "permissions": []string{"can_initiate_calls", "can_read_calls", "can_read_calendar", "can_write_calendar"},
		"limits": map[string]int{RequestsPerMinute: 10_000_000, CallsPerDay: 100_000, EventsPerDay: 1_000_000}}, &made)
	l.caller, l.callerID = made.Key, made.ID
	must("/admin/v1/webhooks", map[string]any{"name": "all", "url": "http://127.0.0.1:1/", "subscribed_events": []string{"call.queued", KeyCreated, "calendar.created"}}, nil)
	l.mix = newMix(must)
	l.admin, l.begun = "http://"+p.Admin, time.Now()
	return l
}

// load does a mix of everything until stop is closed, or for a number of
// rounds each where that is not 0, and gives what waits for its end.
func (l *ledger) load(p *program.Server, stop chan struct{}, rounds int) (wait func()) {
	var wg sync.WaitGroup
	for _, work := range append(l.mixed(), l.ask, l.call, l.schedule, l.churn, l.hire, l.logIn) {
		wg.Go(func() {
			for n := 0; rounds == 0 || n < rounds; n++ {
				select {
				case <-stop:
					return
				default:
					work(p, n)
				}
			}
		})
	}
	return wg.Wait
}

// round does one of everything, one after another.
func (l *ledger) round(p *program.Server, n int) {
	for _, work := range append(l.mixed(), l.ask, l.call, l.schedule, l.churn, l.hire, l.logIn, l.ask, l.call) {
		work(p, n)
	}
}

// copy gives a ledger of its own with the same entries.
func (l *ledger) copy() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &ledger{begun: l.begun, limited: l.limited, caller: l.caller, callerID: l.callerID, operator: l.operator, asked: l.asked, admitted: slices.Clone(l.admitted)}
	c.calls, c.events, c.people, c.sessions = maps.Clone(l.calls), maps.Clone(l.events), maps.Clone(l.people), maps.Clone(l.sessions)
	c.mix = l.mix.copy()
	c.keys = map[string]*deedKey{}
	for id, k := range l.keys {
		one := *k
		c.keys[id] = &one
	}
	return c
}

// note counts refusals for want of the store, and successes after one.
func (l *ledger) note(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if status == http.StatusServiceUnavailable {
		l.refused++
	} else if status/100 == 2 && l.refused > 0 {
		l.relapsed++
	}
}

// batchItem sends to the control socket.
func (l *ledger) post(p *program.Server, path string, body, into any) (at time.Time, err error) {
	err = p.Socket().Do(context.Background(), "POST", path, body, into)
	at = time.Now()
	var said *program.StatusError
	switch {
	case err == nil:
		l.note(http.StatusOK)
	case errors.As(err, &said):
		l.note(said.Status)
	default:
		time.Sleep(time.Millisecond) // the server has ended: what ends it and what looks at the store need the processor
	}
	return at, err
}

func (l *ledger) ask(p *program.Server, _ int) {
	a, _ := do("GET", p.URL+"/api/v1/agents", l.limited, nil)
	if l.note(a.status); a.status == 200 {
		l.mu.Lock()
		l.admitted = append(l.admitted, a)
		l.mu.Unlock()
	}
}

// create posts with the caller's key and gives the body of a 201.
func (l *ledger) create(p *program.Server, path, body string, into any) (time.Time, bool) {
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	a, data := do("POST", p.URL+path, l.caller, []byte(body))
	l.note(a.status)
	return a.got, a.status == 201 && json.Unmarshal(data, into) == nil
}

func (l *ledger) call(p *program.Server, _ int) {
	var made struct {
		CallID string `json:"call_id"`
	}
	if at, ok := l.create(p, "/api/v1/calls", `{"phone_number": "+4930555044", "agent_id": 1}`, &made); ok {
		l.mu.Lock()
		l.calls[made.CallID] = at
		l.mu.Unlock()
	}
}

func (l *ledger) schedule(p *program.Server, n int) {
	start := l.begun.AddDate(1, 0, 0).Add(time.Duration(n) * time.Hour).UTC()
	var made struct{ ID uint64 }
	body := fmt.Sprintf(`{"title": "Fitting", "start_time": %q, "end_time": %q}`, start.Format(time.RFC3339), start.Add(time.Hour).Format(time.RFC3339))
	if at, ok := l.create(p, "/api/v1/calendar/events/create", body, &made); ok {
		l.mu.Lock()
		l.events[made.ID] = at
		l.mu.Unlock()
	}
}

// churn makes a key, revokes every other one and rotates half of the rest.
func (l *ledger) churn(p *program.Server, n int) {
	post := func(path string, body, into any) (time.Time, error) {
		return l.post(p, "/admin/v1/keys"+path, body, into)
	}
	var made struct{ ID, Key string }
	at, err := post("", map[string]any{"name": "churn", "permissions": []string{"can_read_agents"}}, &made)
	if err != nil {
		return
	}
	k := &deedKey{secret: made.Key, made: at}
	l.mu.Lock()
	l.keys[made.ID] = k
	if n%4 == 0 {
		k.rotationTried = time.Now()
	}
	if n%2 == 1 {
		k.tried = time.Now()
	}
	l.mu.Unlock()
	if n%4 == 0 {
		if at, err := post("/"+made.ID+"/rotate", map[string]any{"overlap_seconds": 0}, &made); err == nil {
			l.mu.Lock()
			k.next, k.rotated = made.Key, at
			l.mu.Unlock()
		}
	}
	if n%2 == 1 {
		if at, err := post("/"+made.ID+"/revoke", nil, nil); err == nil {
			l.mu.Lock()
			k.revoked = at
			l.mu.Unlock()
		}
	}
}

func (l *ledger) hire(p *program.Server, _ int) {
	name := "op" + keytext.RandomHex(4)
	if at, err := l.post(p, "/admin/v1/operators", map[string]any{"name": name, "password": ledgerPassword}, nil); err == nil {
		l.mu.Lock()
		l.people[name] = at
		l.mu.Unlock()
	}
}

func (l *ledger) logIn(p *program.Server, _ int) {
	form := url.Values{"name": {l.operator}, "password": {ledgerPassword}}.Encode()
	r, err := http.NewRequest("POST", "http://"+p.Admin+"/login", strings.NewReader(form))
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	w, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return
	}
	defer w.Body.Close()
	l.note(w.StatusCode)
	for _, cookie := range w.Cookies() {
		if w.StatusCode == 303 && strings.Contains(cookie.Name, "latchkey_session") {
			l.mu.Lock()
			l.sessions[cookie.Value] = time.Now()
			l.mu.Unlock()
		}
	}
}

// complete fails the test where something of the mix was never acknowledged,
// so that nothing was shown of it.
func (l *ledger) complete(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for what, n := range map[string]int{
		"keys": len(l.keys), "calls": len(l.calls), "events": len(l.events), "operators": len(l.people), "sessions": len(l.sessions), "limited requests": len(l.admitted),
	} {
		if n == 0 {
			t.Errorf("no %s were acknowledged, so nothing is shown of them", what)
		}
	}
	if missing := l.mix.missing(); len(missing) > 0 {
		t.Errorf("not one %q was acknowledged, so nothing is shown of them", missing)
	}
}

// counts says how much was acknowledged.
func (l *ledger) counts() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	revoked, rotated := 0, 0
	for _, k := range l.keys {
		if !k.revoked.IsZero() {
			revoked++
		}
		if k.next != "" {
			rotated++
		}
	}
	return fmt.Sprintf("%d keys, %d revocations, %d rotations, %d calls, %d events, %d operators, %d sessions, %d limited requests, %s",
		len(l.keys), revoked, rotated, len(l.calls), len(l.events), len(l.people), len(l.sessions), len(l.admitted), l.mix.counts())
}

// inspect opens a data folder with the real code, the clock standing at a
// time, and says what of that which was acknowledged before is missing, or
// does not fit. The folder may have what was asked for until a later time. It
// is changed by it.
func (l *ledger) inspect(data string, at, until time.Time) (problems []string, err error) {
	config := defaultConfig()
	config.Server.Data, config.Webhooks.AllowPrivateTargets = data, true
	app, err := OpenApp(AppOptions{Config: config, Clock: clock.NewClockFrom(func() clock.Reading { return clock.Reading{Wall: at} }), Create: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	return l.hold(app, at, until)
}

// hold is inspect for a store that is open.
func (l *ledger) hold(app *App, at, until time.Time) (problems []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if l.begun.IsZero() || !l.begun.Before(at) {
		return nil, nil
	}
	l.holdKeys(app, at, until, report)
	err = app.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, tables())
		if err != nil {
			return err
		}
		problems = append(problems, result.Problems...)
		return errors.Join(l.holdRecords(tx, at, report), l.mix.hold(app, tx, at, until, report))
	})
	for token, acknowledged := range l.sessions {
		if _, e := app.sessions.Find(token, sessionUse{At: at}); e != nil && acknowledged.Before(at) {
			report("a login was acknowledged and is not there: %v", e)
		}
	}
	used := 0
	for _, a := range l.admitted {
		if a.got.Before(at) && until.Sub(a.sent) < time.Minute { // time has gone on to until in the folder
			used++
		}
	}
	if k, _, e := app.Keyring.Find(l.limited); e != nil {
		report("the limited key: %v", e)
	} else if list, e := app.Limiter.Statuses(k.Charge(nil, RequestsPerMinute, 0), app.clock.Steady(at)); e != nil || list[0].Used < used {
		report("%d requests were let through within a minute, %v count (%v)", used, list, e)
	}
	return problems, err
}

// holdKeys holds the keys against what was told of them before a time, and what
// was asked for until another.
func (l *ledger) holdKeys(app *App, at, until time.Time, report func(string, ...any)) {
	before := func(t time.Time) bool { return !t.IsZero() && t.Before(at) }
	asked := func(t time.Time) bool { return !t.IsZero() && t.Before(until) }
	works := func(secret string) bool {
		k, _, err := app.Keyring.Find(secret)
		return err == nil && k.Check(at) == nil
	}
	for id, k := range l.keys {
		switch {
		case before(k.revoked):
			if works(k.secret) || k.next != "" && works(k.next) {
				report("the key %s was revoked, which was acknowledged, and works", id)
			}
		case asked(k.tried):
		case before(k.rotated):
			if !works(k.next) || works(k.secret) {
				report("the key %s was rotated, which was acknowledged: the new secret works %v, the old one %v", id, works(k.next), works(k.secret))
			}
		case before(k.made):
			if !works(k.secret) && !asked(k.rotationTried) {
				report("the key %s was made, which was acknowledged, and does not work", id)
			}
		}
	}
}

// holdRecords holds the records against what was told of them before a time,
// and against what was charged for them and told to the webhook.
func (l *ledger) holdRecords(tx *Tx, at time.Time, report func(string, ...any)) error {
	for id, acknowledged := range l.calls {
		if _, err := callTable.One(tx, "call_id", []byte(id)); err != nil && acknowledged.Before(at) {
			report("the call %s was acknowledged: %v", id, err)
		}
	}
	for id, acknowledged := range l.events {
		if _, err := appointmentTable.Get(tx, IDKey(id)); err != nil && acknowledged.Before(at) {
			report("the event %d was acknowledged: %v", id, err)
		}
	}
	for name, acknowledged := range l.people {
		if _, err := OperatorTable.One(tx, "name", []byte(name)); err != nil && acknowledged.Before(at) {
			report("the operator %s was acknowledged: %v", name, err)
		}
	}
	calls, err1 := countLive(tx, &callTable)
	events, err2 := countLive(tx, &appointmentTable)
	keys, err3 := KeyTable.Count(tx)
	queue, err4 := findQueue(tx, 1)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	if extra := calls + events - len(l.calls) - len(l.events); extra > l.asked-len(l.calls)-len(l.events) {
		report("%d calls and events are stored, %d were asked for", calls+events, l.asked)
	}
	if told := int(queue.Next) - 1; told != calls+events+keys-2 { // the first two were made before the webhook
		report("%d calls, %d events and %d keys are stored, the webhook is told of %d", calls, events, keys, told)
	}
	for limit, stored := range map[string]int{CallsPerDay: calls, EventsPerDay: events} {
		w, err := new(Limiter).readDurable(tx, l.callerID, Limit{limit, 1_000_000, 24 * time.Hour})
		if err != nil {
			return err
		}
		if used := w.Used(at); used != stored {
			report("%s: %d are stored and %d charged", limit, stored, used)
		}
	}
	return nil
}

// countLive returns the number of records that are in no sandbox.
func countLive[T any](tx *Tx, table *Table[T]) (n int, err error) {
	for record, err := range table.All(tx, Forward) {
		if err != nil {
			return 0, err
		}
		if !IsSandbox(table.Owner(record)) {
			n++
		}
	}
	return n, nil
}

// do sends a request and gives what came back; a zero status is no answer.
func do(method, url, key string, body []byte) (answer, []byte) {
	return doBy(http.DefaultClient, method, url, key, body)
}

// doBy is do by a client.
func doBy(client *http.Client, method, url, key string, body []byte) (answer, []byte) {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-API-Key", key)
	a := answer{sent: time.Now()}
	w, err := client.Do(r)
	if err != nil {
		return a, nil
	}
	defer w.Body.Close()
	var data bytes.Buffer
	if _, err := data.ReadFrom(w.Body); err != nil {
		return a, nil
	}
	a.got, a.status = time.Now(), w.StatusCode
	return a, data.Bytes()
}

// answer is one request and what came of it, on the client's own clock.
type answer struct {
	sent, got time.Time
	status    int // 0: none came
}

// memoryDir is a temporary folder in memory, where there is one: images and
// copies are opened and synced so often that a disk would hold the test up.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// inMemory has a test that makes very many changes not wait for a disk.
func inMemory(t testing.TB) func(*Config) {
	return func(c *Config) { c.Server.Data = filepath.Join(memoryDir(t), "data") }
}

// inspectCopy is inspect for a copy of a data folder, which it leaves nothing of.
func (l *ledger) inspectCopy(t testing.TB, data string) (problems []string, err error) {
	folder := copyFolder(t, data)
	defer dropCopy(t, folder)
	now := time.Now()
	return l.inspect(folder, now, now)
}

// dropCopy removes what copyFolder made before the test ends: a thousand copies
// fill the memory.
func dropCopy(t testing.TB, folder string) {
	if err := os.RemoveAll(filepath.Dir(folder)); err != nil {
		t.Error(err)
	}
}

// copyFolder copies the files of a data folder to a new one.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(memoryDir(t), "copy")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{storeFile, pepperFile, markFile} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
