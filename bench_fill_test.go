package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// filler fills a store for the measurements of lists in ./bench.
type filler struct {
	testing.TB
	app    *testApp
	owners uint64
	// contacts is how many contacts the calls are with; 0: with none, and the events have no agent
	contacts uint64
	scale    float64
	now      time.Time
	random   *rand.Rand
}

// each calls add for the numbers from 0 to n*scale, in transactions of 10,000.
func (f *filler) each(what string, n int, add func(tx *Tx, i int) error) {
	began := time.Now()
	n = int(float64(n) * f.scale)
	for done := 0; done < n; done += 10_000 {
		err := f.app.Store.Update(func(tx *Tx) error {
			for i := done; i < min(n, done+10_000); i++ {
				if err := add(tx, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	fmt.Printf("%d %s in %v\n", n, what, time.Since(began).Round(time.Millisecond))
}

// owner returns the owner of the record with this number.
func (f *filler) owner(i int) uint64 { return 1 + uint64(i)%f.owners }

func (f *filler) call(tx *Tx, i int) error {
	id, err := callTable.NextID(tx)
	at := f.now.Add(-time.Duration(i) * 3 * time.Second)
	agent := 1 + uint64(i)%1000
	c := call{
		Billing: billing{Status: billingPending},
		ID:      id, CallID: fmt.Sprintf("call_%d", id), Owner: f.owner(i), Agent: callAgent{agent, fmt.Sprint("Agent ", agent), fmt.Sprintf("assistant_%d", agent)},
		Status: callStates()[f.random.IntN(len(callStates()))], Type: callTypes()[f.random.IntN(len(callTypes()))], PhoneNumber: fmt.Sprintf("+4930%07d", i),
		CreatedAt: at, StartedAt: at.Add(time.Duration(f.random.IntN(3600)) * time.Second), EndedAt: at.Add(2 * time.Hour), Summary: "The caller asked for an appointment.",
	}
	if c.Status == callQueued {
		c.Status = callCompleted // the server would call again
	}
	if f.contacts > 0 {
		c.ContactID = 1 + uint64(i)*7919%f.contacts
	}
	return errors.Join(err, callTable.Put(tx, c))
}

func (f *filler) contact(tx *Tx, i int) error {
	id, err := contactTable.NextID(tx)
	first, last := []string{"Mara", "J\u00fcrgen", "Li", "Ana", "Peter"}[f.random.IntN(5)], fmt.Sprint("Lind", i)
	c := contact{
		ID: id, FirstName: first, LastName: last, Email: fmt.Sprintf("mail.%d@example.com", i), Company: "Company Ltd", Website: "https://example.com", Address: "Long Street 5",
		City: "Berlin", State: "BE", ZipCode: "10115", Country: "DE", Timezone: "Europe/Berlin", Status: []string{"lead", "customer"}[i%2], Stage: []string{"new", "contacted", "won"}[i%3],
		Tags: []string{fmt.Sprint("tag", i%20), "all"}, PhoneNumbers: []Phone{{ID: 1, PhoneNumber: fmt.Sprintf("+4930%07d", i), Primary: true}}, Owner: f.owner(i), CreatedAt: f.now,
	}
	return errors.Join(err, SaveContact(tx, c))
}

func (f *filler) event(tx *Tx, i int) error {
	start := f.now.Add(time.Duration(i-50_000) * time.Hour / 20).Truncate(time.Minute)
	e := event{Owner: f.owner(i), Title: fmt.Sprint("Event ", i), Kind: eventKinds()[0], Status: eventStates()[i%len(eventStates())], Start: start, End: start.Add(time.Hour), CreatedAt: f.now, UpdatedAt: f.now}
	if f.contacts > 0 {
		e.AgentID = 1 + uint64(i)%1000
	}
	if i%50 == 0 {
		e.End = start.Add(5 * longEvent)
	}
	_, err := saveEvent(tx, e)
	return err
}

func (f *filler) audit(tx *Tx, i int) error {
	actions := []string{"POST /admin/v1/keys", "PATCH /admin/v1/keys/:id", "POST /admin/v1/keys/:id/pause", "login", "PATCH /admin/v1/contacts/:id"}
	e := AuditEntry{
		At: f.now.Add(time.Duration(i-1_000_000) * time.Second), Actor: fmt.Sprintf("operator %d name%d", i%50, i%50), Client: "192.0.2.1", Action: actions[i%len(actions)],
		Object: fmt.Sprintf("key key_%d", i%20_000), Result: auditDone, Request: keytext.RandomHex(8),
	}
	if i%100 == 0 {
		e.Result, e.Status, e.Code = AuditRefused, 403, "forbidden"
	}
	return appendAudit(tx, e)
}

func (f *filler) key(tx *Tx, i int) error {
	key := &Key{StoredKey: StoredKey{
		ID: NewKeyID(f.now.Add(time.Duration(i) * time.Millisecond)), Name: fmt.Sprintf("program %d", f.random.IntN(1_000_000)), Permissions: []Permission{ReadCalls, ReadAgents, Ordinary}[i%3],
		Environment: []string{"live", "test", ""}[i%3], Owner: f.owner(i), OwnerName: fmt.Sprint("owner ", f.owner(i)), Paused: i%20 == 0, CreatedAt: f.now,
	}}
	if i%4 == 0 {
		key.ExpiresAt = f.now.Add(time.Duration(i-1000) * time.Minute)
	}
	if i%10 == 0 {
		key.RevokedAt = f.now
	}
	_, err := f.app.Keyring.Create(tx, key)
	if err == nil && i%2 == 0 {
		use := LastUse{At: f.now.Add(-time.Duration(i) * time.Minute)}
		err = errors.Join(addUse(tx, []byte(key.ID), use), KeyTable.SetValue(tx, []byte(key.ID), use.value()))
	}
	history := ring{}
	for hours := range int64(20) {
		history.Add(Slot{stepHour.Number(f.now) - 9*hours, Counts{uint64(i%1000) + 1, uint64(hours)}})
	}
	return errors.Join(err, tx.Put(usageBucket, subject{ofKey, key.ID}.key(), history.Append(nil)))
}

// totals stores the histories of the service, of 40 routes and of 12 error codes: 1,000,000 requests in
// 90 days.
func (f *filler) totals(tx *Tx) error {
	const requests, hours = 1_000_000, 90 * 24
	put := func(s subject, part uint64) error {
		r := ring{}
		for hour := range int64(hours) {
			r.Add(Slot{stepHour.Number(f.now) - hours + 1 + hour, Counts{requests / hours / part, uint64(hour % 9), 1, 0, uint64(hour % 2)}})
		}
		return tx.Put(usageBucket, s.key(), r.Append(nil))
	}
	err := put(subject{Kind: ofService}, 1)
	for i := range 40 {
		err = errors.Join(err, put(subject{ofRoute, fmt.Sprintf("/api/v1/route%d/:id", i)}, 40))
	}
	for i := range 12 {
		err = errors.Join(err, put(subject{ofCode, fmt.Sprintf("code_%d", i)}, 100))
	}
	return err
}

// webhook makes a webhook with a full log.
func (f *filler) webhook() {
	hook := f.app.operate(201, "POST", "/admin/v1/webhooks", `{"name": "bench", "url": "https://example.com/hook", "subscribed_events": ["key.created"]}`)
	id := uint64(hook["id"].(float64))
	f.each("attempts", maxAttempts*100, func(tx *Tx, _ int) error {
		return addReplayable(tx, Attempt{Webhook: id, At: f.now, Status: 200, Event: "key.created"}, []byte("{}"))
	})
}

// TestFillForBench fills the data folder that the variable LATCHKEY_BENCH_FILL names, for ./bench. It
// writes a key of the first owner to the file beside it. Without the variable it fills a temporary
// folder with little, so that the bench cannot break unnoticed.
func TestFillForBench(t *testing.T) {
	folder, f := os.Getenv("LATCHKEY_BENCH_FILL"), &filler{TB: t, owners: 3, scale: 0.0001, now: time.Now(), random: rand.New(rand.NewPCG(1, 2))}
	if folder != "" {
		var err, ownersErr error
		f.scale, err = strconv.ParseFloat(os.Getenv("LATCHKEY_BENCH_SCALE"), 64)
		f.owners, ownersErr = strconv.ParseUint(os.Getenv("LATCHKEY_BENCH_OWNERS"), 10, 64)
		if err := errors.Join(err, ownersErr); err != nil {
			t.Fatal(err)
		}
	}
	f.app = newTestApp(t, func(c *Config) {
		c.Audit.MaxEntries = 5_000_000
		if folder != "" {
			c.Server.Data = folder
		}
	})
	err := f.app.Store.Update(func(tx *Tx) error {
		for i := range f.owners {
			if _, err := EnsureOwner(tx, fmt.Sprint("owner ", i+1), f.now); err != nil {
				return err
			}
		}
		for i := range 1000 {
			a := Agent{ID: uint64(i) + 1, Name: fmt.Sprint("Agent ", i+1), AssistantID: fmt.Sprintf("assistant_%d", i+1), Role: roleInbound, Owner: f.owner(i), CreatedAt: f.now}
			if err := agentTable.Put(tx, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.each("calls", 1_000_000, f.call)
	f.each("contacts", 100_000, f.contact)
	f.each("events", 100_000, f.event)
	f.each("keys", 100_000, f.key)
	f.each("audit entries", 1_000_000, f.audit)
	if err := f.app.Store.Update(f.totals); err != nil {
		t.Fatal(err)
	}
	owner := f.owner(0)
	_, secret := f.app.key(everyPermission, fmt.Sprintf(`"owner": "owner %d", "limits": {"requests_per_minute_limit": 1000000000}`, owner))
	f.webhook() // after the key, so that nothing is delivered to it
	if folder != "" {
		if err := os.WriteFile(folder+".key", []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, path := range []string{"calls", "contacts", "events", "keys", "audit"} {
		if v := f.app.operate(200, "GET", "/admin/v1/"+path, ""); v["count"].(float64) == 0 && path != "events" {
			t.Errorf("%s: the list is empty", path)
		}
	}
}

// TestLists_Allocations bounds what one more row of a list costs the server: most of the time of a long
// page is the memory of its rows.
func TestLists_Allocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations cannot be counted with the race detector")
	}
	f := &filler{TB: t, owners: 1, scale: 0.001, random: rand.New(rand.NewPCG(1, 2))}
	f.app = newTestApp(t)
	f.now = f.app.clock.Now()
	err := f.app.Store.Update(func(tx *Tx) error {
		_, err := EnsureOwner(tx, "owner 1", f.now)
		return errors.Join(err, agentTable.Put(tx, Agent{ID: 1, Name: "Agent 1", AssistantID: "assistant_1", Role: roleInbound, Owner: 1, CreatedAt: f.now}))
	})
	if err != nil {
		t.Fatal(err)
	}
	f.each("calls", 150_000, f.call)
	f.each("contacts", 150_000, f.contact)
	f.each("events", 150_000, func(tx *Tx, i int) error { return f.event(tx, i+50_000) })
	f.each("keys", 150_000, f.key)
	f.each("audit entries", 150_000, f.audit)
	for _, list := range []struct {
		path, member string
		most         float64 // allocations for one row
	}{{"keys?sort=name", "keys", 70}, {"calls?", "calls", 65}, {"contacts?", "contacts", 70}, {"events?", "events", 55}, {"audit?", "entries", 80}} {
		cost := func(rows int) float64 {
			path := fmt.Sprintf("/admin/v1/%s&limit=%d", list.path, rows)
			if got, _ := f.app.operate(200, "GET", path, "")[list.member].([]any); len(got) != rows {
				t.Fatalf("%s: got %d rows, want %d", path, len(got), rows)
			}
			return testing.AllocsPerRun(5, func() { f.app.local.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)) })
		}
		if got := (cost(140) - cost(40)) / 100; got > list.most {
			t.Errorf("%s: a row costs %.1f allocations, want at most %v", list.path, got, list.most)
		}
	}
}
