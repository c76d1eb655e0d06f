package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"latchkey/tests/program"
)

// What clients saw while they used one key all at once is held against a key
// that does one thing at a time: some order of the requests, each between its
// beginning and its end, must explain every answer. LATCHKEY_HISTORIES sets
// how many such rounds there are; a change gets by with few.
const histories = 25

// A deed is what one client does.
type deed struct {
	kind  string // ask, call, pause, resume, revoke, pass
	pass  time.Duration
	other bool // by the other key of the owner
	most  int  // what both keys may ask together, 0 for no bound
}

// state is the key as the model has it.
type state struct {
	Now             time.Duration
	Paused, Revoked bool
	Minute, Day     []time.Duration // when units were admitted
	Other           []time.Duration // the same of the other key's minute
	Both            []time.Duration // of what both share
}

const historyLimit = 5

// after does a deed to a state and gives the status it is answered with.
func (d deed) after(s state) (state, int) {
	spend := func(units *[]time.Duration, window time.Duration, status int) int {
		counted := live(*units, s.Now-window)
		if len(counted) >= historyLimit {
			return 429
		}
		*units = append(counted, s.Now)
		return status
	}
	switch d.kind {
	case "pass":
		s.Now += d.pass
		return s, 0
	case "pause", "resume":
		if s.Revoked {
			return s, 409
		}
		s.Paused = d.kind == "pause"
		return s, 200
	case "revoke":
		s.Revoked = true
		return s, 200
	}
	if s.Paused || s.Revoked {
		return s, 401
	}
	if d.kind == "call" {
		return s, spend(&s.Day, 24*time.Hour, 201)
	}
	if d.most > 0 {
		before := s
		if s.Both = live(s.Both, s.Now-time.Minute); len(s.Both) >= d.most {
			return before, 429
		}
		own := &s.Minute
		if d.other {
			own = &s.Other
		}
		status := spend(own, time.Minute, 200)
		if status == 429 {
			return before, 429
		}
		s.Both = append(s.Both, s.Now)
		return s, status
	}
	return s, spend(&s.Minute, time.Minute, 200)
}

// live leaves out what is over.
func live(units []time.Duration, since time.Duration) []time.Duration {
	return slices.DeleteFunc(slices.Clone(units), func(at time.Duration) bool { return at <= since })
}

// oneAtATime is the model for porcupine. Its states are JSON, to be compared.
var oneAtATime = porcupine.Model{
	Init: func() any { return "{}" },
	Step: func(before, input, output any) (bool, any) {
		var s state
		if err := json.Unmarshal([]byte(before.(string)), &s); err != nil {
			panic(err)
		}
		s, want := input.(deed).after(s)
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return want == output.(int), string(b)
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " -> ", output) },
}

func TestHistories(t *testing.T) {
	rounds := program.Long(t, "LATCHKEY_HISTORIES", histories)
	a := newCallApp(t)
	// Time passes only where the state of the key stays: a request that was let
	// in before a pause may be counted after it, at a later time, so it has no
	// one moment at which it does both.
	for _, tt := range []struct {
		name, limits string
		deeds        []string
		refusal      int
		most         int // of both keys of the owner
	}{
		{"minute", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "pass"}, 429, 0},
		{"owner", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "pass"}, 429, 7},
		{"day", `{"requests_per_minute_limit": 1000000, "calls_per_day_limit": 5}`, []string{"call", "call", "call", "pass"}, 429, 0},
		{"state", `{"requests_per_minute_limit": 5}`, []string{"ask", "ask", "ask", "ask", "pause", "resume", "resume", "revoke"}, 401, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rounds, seen := rounds, map[int]int{}
			if tt.most > 0 {
				rounds = max(1, rounds/3)
			}
			for round := range rounds {
				a.clocks.Pass(time.Hour) // the refusals of the last round made the address slow
				seed := rand.Uint64()
				owner := `"owner": "admin"` // who has the agent that calls need
				if tt.most > 0 {
					owner = fmt.Sprintf(`"owner": "%s %d"`, tt.name, round)
				}
				id, secret := a.key(everyPermission, `"limits": `+tt.limits, owner)
				plan := historyPlan{id: id, secrets: [2]string{secret, secret}, deeds: tt.deeds, most: tt.most, random: rand.New(rand.NewPCG(seed, 0))}
				if tt.most > 0 {
					_, plan.secrets[1] = a.key(everyPermission, `"limits": `+tt.limits, owner)
					a.limitOwner(fmt.Sprintf("%s %d", tt.name, round), OwnerRequestsPerMinute, tt.most)
				}
				events := a.history(plan)
				for _, e := range events {
					seen[e.Output.(int)]++
				}
				if result := porcupine.CheckOperationsTimeout(oneAtATime, events, time.Minute); result != porcupine.Ok {
					for _, e := range events {
						t.Logf("client %d, %d to %d: %v -> %v", e.ClientId, e.Call, e.Return, e.Input, e.Output)
					}
					t.Fatalf("seed %d: no order explains these answers (%s)", seed, result)
				}
			}
			if seen[tt.refusal] == 0 { // or the rounds have shown nothing
				t.Errorf("no %d among the answers: %v", tt.refusal, seen)
			}
		})
	}
}

// historyPlan is what a history is made of.
type historyPlan struct {
	id      string
	secrets [2]string // two of one owner; the second is that of every other client
	deeds   []string
	most    int
	random  *rand.Rand
}

// history lets clients use keys at once and notes what they saw, and when by
// a counter that orders what one client saw after another.
func (a *testApp) history(p historyPlan) []porcupine.Operation {
	const each = 9
	clients := 6
	if p.most > 0 { // two keys have many more orders, all of which are tried
		clients = 4
	}
	var ticks atomic.Int64
	var mu sync.Mutex
	var events []porcupine.Operation
	var wg sync.WaitGroup
	for client := range clients {
		var plan []deed
		for range each {
			plan = append(plan, deed{
				kind: p.deeds[p.random.IntN(len(p.deeds))], pass: time.Duration(1+p.random.IntN(40)) * time.Second, other: client%2 == 1, most: p.most,
			})
		}
		wg.Go(func() {
			for _, d := range plan {
				e := porcupine.Operation{ClientId: client, Input: d, Call: ticks.Add(1)}
				e.Output = a.do(d, p.id, p.secrets[client%2])
				e.Return = ticks.Add(1)
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return events
}

func (a *testApp) do(d deed, id, secret string) int {
	switch d.kind {
	case "pass":
		a.clocks.Pass(d.pass)
		return 0
	case "ask":
		return a.ask("GET", "/api/v1/agents", secret, "").Code
	case "call":
		return a.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555044", "agent_id": 1}`).Code
	}
	return a.control("POST", "/admin/v1/keys/"+id+"/"+d.kind, "").Code
}
