package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchkey/internal/fold"
)

// listModel compares the lists of calls and contacts, of owners and of the operator, with a look at
// every record.
type listModel struct {
	*testApp
	random *rand.Rand
	keys   map[uint64]string // a key of each owner
	owners map[uint64]string // the names of the owners
}

func newListModel(t *testing.T) *listModel {
	m := &listModel{newTestApp(t), rand.New(rand.NewPCG(7, 11)), map[uint64]string{}, map[uint64]string{}}
	for i, name := range []string{"ann", "bob", "eve"} {
		id := m.operate(201, "POST", "/admin/v1/owners", fmt.Sprintf(`{"name": %q}`, name))["id"].(float64)
		m.owners[uint64(id)] = name
		_, m.keys[uint64(id)] = m.key(everyPermission, fmt.Sprintf(`"owner": %q`, name), `"limits": {"requests_per_minute_limit": 100000}`)
		m.operate(201, "POST", "/admin/v1/agents", fmt.Sprintf(`{"owner": %q, "name": "Agent %d"}`, name, i))
	}
	m.operate(201, "POST", "/admin/v1/teams", `{"name": "T", "members": ["ann", "bob"]}`)
	m.operate(201, "POST", "/admin/v1/teams", `{"name": "U", "members": ["ann"]}`)
	return m
}

// oneOf returns one of the values.
func oneOf[T any](m *listModel, values ...T) T { return values[m.random.IntN(len(values))] }

func (m *listModel) owner() uint64 { return oneOf(m, slices.Sorted(maps.Keys(m.owners))...) }

// change stores or deletes a record.
func (m *listModel) change() {
	id := m.random.Uint64N(40) + oneOf[uint64](m, 1, 50, 4090)
	at := epoch.Add(time.Duration(m.random.IntN(9)) * time.Minute)
	err := m.Store.Update(func(tx *Tx) error {
		switch m.random.IntN(10) {
		case 0:
			_ = callTable.Delete(tx, IDKey(id)) // there may be none
			return nil
		case 1:
			_ = contactTable.Delete(tx, IDKey(id))
			return nil
		case 2, 3, 4, 5:
			agent, err := GetAgent(tx, m.random.Uint64N(3)+1)
			if err != nil {
				return err
			}
			c := call{ID: id, CallID: fmt.Sprintf("call_%d", id), Owner: m.owner(), TeamID: m.random.Uint64N(3), Agent: callAgent{agent.ID, agent.Name, agent.AssistantID},
				Status: oneOf(m, callStates()...), Type: oneOf(m, callTypes()...), PhoneNumber: "+4930555044", CreatedAt: at, Billing: billing{Status: billingPending}}
			if m.random.IntN(2) == 0 {
				c.StartedAt = at.Add(time.Duration(m.random.IntN(20)) * time.Minute)
			}
			return callTable.Put(tx, c)
		default:
			return contactTable.Put(tx, contact{ID: id, Owner: m.owner(), TeamID: m.random.Uint64N(3), FirstName: oneOf(m, "Mara", "J\u00fcrgen", "Jo"), LastName: oneOf(m, "", "Lind", "Marander"),
				Email: oneOf(m, "", "jurg@example.net"), Stage: oneOf(m, "lead", "customer"), Status: oneOf(m, "active", "not_contacted"), Tags: oneOf(m, nil, []string{"VIP"}, []string{"VIP", "x"}), CreatedAt: at})
		}
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// wanted returns the ids of the calls or contacts that a list should have, in their order. owner is 0
// for the operator.
func (m *listModel) wanted(kind string, owner uint64, q url.Values) (ids []string) {
	type row struct {
		id uint64
		at time.Time
	}
	var rows []row
	is := func(name, value string) bool { return q.Get(name) == "" || q.Get(name) == value }
	err := m.Store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, owner)
		if err != nil {
			return err
		}
		for c, err := range callTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			if a, err := GetAgent(tx, c.Agent.ID); owner != 0 && q.Get("agent_id") != "" && (err != nil || a.Owner != owner) {
				continue // the owner sees the call, but not its agent
			}
			agent := q.Get("agent_id") == strconv.FormatUint(c.Agent.ID, 10) || is("agent_id", c.Agent.AssistantID)
			if kind == "calls" && (owner == 0 || scope.Has(c.place())) && is("status", c.Status) && is("type", c.Type) && is("owner", m.owners[c.Owner]) && agent {
				rows = append(rows, row{c.ID, c.sortTime()})
			}
		}
		for c, err := range contactTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			tag := q.Get("tag") == "" || slices.Contains(c.Tags, q.Get("tag"))
			if kind == "contacts" && (owner == 0 || scope.Has(c.place())) && is("stage", c.Stage) && is("status", c.Status) && is("owner", m.owners[c.Owner]) && tag &&
				fold.Match(fold.Words(q.Get("search")), c.FirstName, c.LastName, c.Email) {
				rows = append(rows, row{id: c.ID})
			}
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	slices.SortFunc(rows, func(a, b row) int {
		if owner == 0 {
			return cmp.Compare(b.id, a.id)
		}
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.id, a.id))
	})
	for _, r := range rows {
		if ids = append(ids, fmt.Sprint(r.id)); kind == "calls" && owner != 0 {
			ids[len(ids)-1] = fmt.Sprintf("call_%d", r.id)
		}
	}
	return ids
}

// compare reads all pages of a list with some filters.
func (m *listModel) compare() {
	owner, kind, q := oneOf(m, 0, m.owner()), oneOf(m, "calls", "contacts"), url.Values{}
	filters := map[string][]string{"status": callStates(), "type": callTypes(), "agent_id": {"1", "2", "9"}}
	if kind == "contacts" {
		filters = map[string][]string{"status": {"active", "lost"}, "stage": {"lead", "customer"}, "tag": {"VIP", "x", "y"}, "search": {"mar", "jurg lind", "LIND j\u00dcR", "z"}}
	}
	if owner == 0 {
		filters["owner"] = []string{"ann", "bob", "nobody"}
	}
	for name, values := range filters {
		if m.random.IntN(3) == 0 {
			q.Set(name, oneOf(m, values...))
		}
	}
	want := m.wanted(kind, owner, q)
	limit := m.random.IntN(6) + 1
	q.Set("limit", fmt.Sprint(limit))
	var got []string
	for page := 1; page <= len(want)/limit+2; page++ {
		q.Set("page", fmt.Sprint(page))
		path := "/admin/v1/" + kind
		if owner != 0 {
			path = "/api/v1/" + kind
		}
		w := askDoor(m.local, "GET", path+"?"+q.Encode(), "")
		if owner != 0 {
			w = m.ask("GET", path+"?"+q.Encode(), m.keys[owner], "")
		}
		answer := object(m.t, w.Body.String())
		if answer["count"] != float64(len(want)) || answer["pages"] != float64((len(want)+limit-1)/limit) {
			m.t.Fatalf("%s?%s of owner %d: got %d %s, want %d", path, q.Encode(), owner, w.Code, w.Body, len(want))
		}
		for _, row := range answer[kind].([]any) {
			got = append(got, fmt.Sprint(row.(map[string]any)["id"]))
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		m.t.Fatalf("%s %s of owner %d: got %v, want %v", kind, q.Encode(), owner, got, want)
	}
}

func TestLists_Model(t *testing.T) {
	m := newListModel(t)
	for range 300 {
		m.change()
		m.compare()
	}
	err := m.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, tables())
		if len(result.Problems) > 0 {
			t.Errorf("got %q", result.Problems)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
