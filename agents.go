// The agents family holds the voice agents, which make and answer calls, and
// the do-not-call list, the phone numbers that no agent may call.

package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/keytext"
)

// Agent is a voice agent, which makes or answers calls (contract 4).
type Agent struct {
	ID          uint64    `json:"id"`
	AssistantID string    `json:"assistant_id"`
	Name        string    `json:"name"`
	Role        string    `json:"role"`
	PhoneNumber string    `json:"phone_number,omitempty"`
	Model       string    `json:"model"`
	VoiceID     string    `json:"voice_id"`
	TeamID      uint64    `json:"team_id,omitempty"`
	Owner       uint64    `json:"owner"`
	MinutesUsed float64   `json:"minutes_used"`
	TotalCalls  int       `json:"total_calls"`
	CreatedAt   time.Time `json:"created_at"`
}

var agentTable = Table[Agent]{
	Owner: func(a Agent) uint64 { return a.Owner },
	Name:  "agents", Audit: AuditPolicy{Object: "agent"},
	Key: func(a Agent) []byte { return IDKey(a.ID) },
	Indexes: []Index[Agent]{
		{"assistant", func(a Agent) [][]byte { return [][]byte{[]byte(a.AssistantID)} }},
	},
	List: &Listing[Agent]{
		Sets: []Index[Agent]{{"scope", func(a Agent) [][]byte { return ScopeKeys(a.Owner, a.TeamID) }}, SandboxSet(func(a Agent) uint64 { return a.Owner })},
		Text: func(a Agent) []string { return []string{a.Name} },
	},
}

// GetAgent returns the agent with this id, no matter which owner has it. It
// returns ErrNotFound if there is no such agent. Handlers of the API need FindAgent.
func GetAgent(tx *Tx, id uint64) (Agent, error) { return agentTable.Shared(tx, IDKey(id)) }

// FindAgent returns the agent whose id or assistant id is ref. It returns
// ErrAgentNotFound if there is no such agent or if scope s does not include it.
func FindAgent(tx *Tx, s Scope, ref string) (a Agent, err error) {
	if id, e := strconv.ParseUint(ref, 10, 64); e == nil {
		a, err = GetAgent(tx, id)
	} else {
		a, err = assistant(tx, s, ref)
	}
	if errors.Is(err, ErrNotFound) || err == nil && !s.Has(a.place()) {
		return Agent{}, ErrAgentNotFound
	}
	return a, err
}

// AgentBrief returns Agent.Brief of the agent with this id. It returns nil if there is no such agent, or if s is the
// scope of a limited key and does not include it.
func AgentBrief(tx *Tx, s Scope, id uint64) map[string]any {
	a, err := GetAgent(tx, id)
	if err != nil || s.Limited() && !s.Has(a.place()) {
		return nil
	}
	return a.Brief()
}

// place returns where the agent belongs.
func (a Agent) place() Place {
	return Place{Kind: AgentRecord, Owner: a.Owner, Team: a.TeamID, Agent: a.ID}
}

// assistant returns the agent with this assistant id in scope s. The copy of an agent in a sandbox has the assistant id
// of the agent. Like Table.One, it checks that the record has this id, because an index entry has no MAC.
func assistant(tx *Tx, s Scope, id string) (Agent, error) {
	for rest, key := range agentTable.Find(tx, "assistant", []byte(id), Forward) {
		if len(rest) > 0 {
			continue
		}
		a, err := agentTable.Get(tx, key)
		if err == nil && a.AssistantID != id {
			err = fmt.Errorf("agents/assistant/%x: the index entry does not belong to its record", id)
		}
		if err != nil || s.Has(a.place()) {
			return a, err
		}
	}
	return Agent{}, ErrNotFound
}

// SaveAgent stores a changed agent under its id.
func SaveAgent(tx *Tx, a Agent) error { return agentTable.Put(tx, a) }

// Brief returns the id, the name and the assistant id of the agent, for use
// inside other objects.
func (a Agent) Brief() map[string]any {
	return map[string]any{"id": a.ID, "name": a.Name, "assistant_id": a.AssistantID}
}

// agentRow is the JSON form of an agent in lists. PhoneNumber and TeamID are nil
// if the agent has none.
type agentRow struct {
	ID           uint64  `json:"id"`
	AssistantID  string  `json:"assistant_id"`
	Name         string  `json:"name"`
	Role         string  `json:"role"`
	PhoneNumber  *string `json:"phone_number"`
	MinutesUsed  float64 `json:"minutes_used"`
	TotalCalls   int     `json:"total_calls"`
	Model        string  `json:"model"`
	VoiceID      string  `json:"voice_id"`
	CanMakeCalls bool    `json:"can_make_calls"`
	TeamID       *uint64 `json:"team_id"`
}

// row returns the agent in the form in which lists show it to a caller with this scope.
func (a Agent) row(s Scope) agentRow {
	row := agentRow{
		ID: a.ID, AssistantID: a.AssistantID, Name: a.Name, Role: a.Role, MinutesUsed: a.MinutesUsed,
		TotalCalls: a.TotalCalls, Model: a.Model, VoiceID: a.VoiceID, CanMakeCalls: a.PhoneNumber != "",
	}
	if a.PhoneNumber != "" {
		row.PhoneNumber = &a.PhoneNumber
	}
	if a.TeamID != 0 && s.HasTeam(a.TeamID) {
		row.TeamID = &a.TeamID
	}
	return row
}

// maxReady is the maximum number of owners whose list of agents is cached.
const maxReady = 1024

// agents serves the endpoints for agents. Clients request the list often, but
// it seldom changes. So the answer is cached for each owner.
type agents struct {
	store   *Store
	catalog AdminRecords[Agent]
	agents  *atomic.Uint64 // generation of the table of agents, see Store.Generation
	teams   *atomic.Uint64 // generation of the table of teams
	ready   sync.Map       // cached lists, *readyList by owner id
	count   atomic.Int64   // number of lists in ready
}

// readyList is a cached list of agents, with the generations of the tables from which it was
// built. It is valid until the generation of one of these tables changes.
type readyList struct {
	agents, teams uint64
	body          []byte
}

// NewAgents returns the endpoints for the agents in store.
func NewAgents(store *Store) *agents {
	a := &agents{store: store, agents: store.Generation("agents"), teams: store.Generation("teams")}
	a.catalog = AdminRecords[Agent]{
		Store: store, Name: "agents", Table: agentTable, Save: saveAgent, Show: showAgent, Filters: []string{"search", "owner"}, Filter: ReadFilter,
		Body: BodyFields{
			Set:   []string{"name", "role", "phone_number", "model", "voice_id", "team_id", "owner"},
			Shown: []string{"id", "assistant_id", "minutes_used", "total_calls", "can_make_calls", "sandbox", "created_at"},
		},
	}
	return a
}

// maxCopies is how many agents CopyAgents copies, those that were created first.
const maxCopies = 100

// CopyAgents adds copies of the agents in a scope to a sandbox, with the same assistant ids. If none of them can make calls, it
// also adds a sample agent that can.
func CopyAgents(tx *Tx, from Scope, sandbox uint64, now time.Time) error {
	ids, err := agentTable.IDs(tx, from.Query(AgentRecord, Query{}))
	if err != nil {
		return err
	}
	calls := false
	add := func(a Agent) (err error) {
		a.Owner, a.TeamID, a.MinutesUsed, a.TotalCalls, a.CreatedAt = sandbox, 0, 0, 0, now
		calls = calls || a.PhoneNumber != ""
		if a.ID, err = agentTable.NextID(tx); err != nil {
			return err
		}
		return agentTable.Put(tx, a)
	}
	for _, id := range ids[:min(len(ids), maxCopies)] {
		a, err := GetAgent(tx, id)
		if err == nil {
			err = add(a)
		}
		if err != nil {
			return err
		}
	}
	if calls {
		return nil
	}
	return add(Agent{AssistantID: "assistant_" + keytext.RandomHex(8), Name: "Sandbox agent", Role: roleOutbound, PhoneNumber: "+4930555100"})
}

// AgentTables returns the table of agents, for store checks.
func AgentTables() []Checked { return []Checked{&agentTable} }

// Routes returns the endpoints for keys.
func (a *agents) Routes() []Route {
	return []Route{{Method: "GET", Path: "/api/v1/agents", Permission: ReadAgents, Handle: a.list}}
}

// AdminRoutes returns the admin endpoints for agents.
func (a *agents) AdminRoutes() []Route { return a.catalog.Routes() }

func (a *agents) list(w http.ResponseWriter, r *Request) error {
	if r.Key.Resources.LimitsAgents() {
		rows, err := a.rows(r.Key)
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, map[string]any{"agents": rows})
	}
	// The generations are read before the tables. If a table changes in between,
	// the list is cached with an old generation, so the next request rebuilds it.
	agents, teams := a.agents.Load(), a.teams.Load()
	if kept, ok := a.ready.Load(r.Key.Owner); ok {
		if list := kept.(*readyList); list.agents == agents && list.teams == teams {
			return WriteBody(w, http.StatusOK, list.body)
		}
	}
	rows, err := a.rows(r.Key)
	if err != nil {
		return err
	}
	body, err := EncodeJSON(map[string]any{"agents": rows})
	if err != nil {
		return err
	}
	if _, had := a.ready.Swap(r.Key.Owner, &readyList{agents, teams, body}); !had && a.count.Add(1) > maxReady {
		a.ready.Clear()
		a.count.Store(0)
	}
	return WriteBody(w, http.StatusOK, body)
}

// rows returns the agents that the key may see, oldest first.
func (a *agents) rows(key *Key) ([]agentRow, error) {
	rows := []agentRow{}
	err := a.store.View(func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, key)
		if err != nil {
			return err
		}
		all := func(count int) (from, to int) { return 0, count }
		agents, _, err := agentTable.Page(tx, scope.Query(AgentRecord, Query{}), all)
		for _, agent := range slices.Backward(agents) {
			rows = append(rows, agent.row(scope))
		}
		return err
	})
	return rows, err
}

// The roles of agents.
const (
	roleInbound  = "inbound agent"
	roleOutbound = "outbound agent"
)

func agentRoles() []string { return []string{roleInbound, roleOutbound} }

func saveAgent(tx *Tx, r *Request, old *Agent, b *Body) (Agent, error) {
	a := Agent{Role: roleInbound, CreatedAt: r.Now}
	if old != nil {
		a = *old
	}
	owner := ""
	b.String("name", NameLength, &a.Name)
	b.Word("role", &a.Role, agentRoles()...)
	b.String("phone_number", AnyLength, &a.PhoneNumber)
	b.String("model", NameLength, &a.Model)
	b.String("voice_id", NameLength, &a.VoiceID)
	b.ID("team_id", &a.TeamID)
	b.String("owner", NameLength, &owner)
	if err := b.Err(); err != nil {
		return a, err
	}
	if strings.TrimSpace(a.Name) == "" {
		return a, ErrMissing.With("name is missing. Send a name for the agent.")
	}
	if a.PhoneNumber != "" && !ValidPhone(a.PhoneNumber) {
		return a, ErrValidation.With("phone_number must be an E.164 number such as +4930555001, or null for no number; got %q.", a.PhoneNumber)
	}
	if old == nil {
		o, err := EnsureOwner(tx, owner, r.Now)
		if err != nil {
			return a, err
		}
		a.Owner, a.AssistantID = o.ID, "assistant_"+keytext.RandomHex(8)
		if a.ID, err = agentTable.NextID(tx); err != nil {
			return a, err
		}
	} else if err := KeepOwner(tx, b, a.Owner, "agent"); err != nil {
		return a, err
	}
	scope, err := ScopeOf(tx, a.Owner)
	if err != nil {
		return a, err
	}
	if old == nil || a.TeamID != old.TeamID {
		if err := CheckTeam(tx, scope, a.TeamID); err != nil {
			return a, err
		}
	}
	return a, agentTable.Put(tx, a)
}

func showAgent(tx *Tx, a Agent) (any, error) {
	return struct {
		agentRow
		Owner     string  `json:"owner"`
		Sandbox   bool    `json:"sandbox"`
		CreatedAt *string `json:"created_at"`
	}{a.row(Scope{All: true}), OwnerName(tx, a.Owner), IsSandbox(a.Owner), Seconds(a.CreatedAt)}, nil
}

// blocked is an entry in the operator's do-not-call list.
type blocked struct {
	ID        uint64    `json:"id"`
	Phone     string    `json:"phone_number"`
	Reason    string    `json:"reason"`
	CreatedAt time.Time `json:"created_at"`
}

var blockedTable = Table[blocked]{
	Name: "do_not_call", Audit: AuditPolicy{Object: "number", Personal: true},
	Key:     func(b blocked) []byte { return IDKey(b.ID) },
	Indexes: []Index[blocked]{{"phone", func(b blocked) [][]byte { return [][]byte{[]byte(b.Phone)} }}},
	List:    &Listing[blocked]{Text: func(b blocked) []string { return []string{b.Phone, b.Reason} }},
}

// Blocked reports whether a phone number is on the do-not-call list. The list
// applies to the calls of all owners.
func Blocked(tx *Tx, phone string) (bool, error) {
	for rest := range blockedTable.Find(tx, "phone", []byte(phone), Forward) {
		if len(rest) == 0 {
			return true, nil
		}
	}
	return false, nil
}

// doNotCalls serves the admin endpoints for the do-not-call list.
type doNotCalls struct{ catalog AdminRecords[blocked] }

// NewDoNotCalls returns the endpoints for the do-not-call list in store.
func NewDoNotCalls(store *Store) *doNotCalls {
	return &doNotCalls{AdminRecords[blocked]{
		Store: store, Name: "do_not_call", Path: "do-not-call", Table: blockedTable, Save: saveBlocked,
		Show: func(_ *Tx, b blocked) (any, error) {
			return map[string]any{"id": b.ID, "phone_number": b.Phone, "reason": b.Reason, "created_at": Seconds(b.CreatedAt)}, nil
		},
		Body:    BodyFields{Set: []string{"phone_number", "reason"}, Shown: []string{"id", "created_at"}},
		Filters: []string{"search", "phone_number"},
		Filter: func(_ *Tx, q url.Values, name string) (Filter, error) {
			return Filter{"phone", []byte(q.Get(name))}, nil
		},
	}}
}

// DoNotCallTables returns the table of the do-not-call list, for store checks.
func DoNotCallTables() []Checked { return []Checked{&blockedTable} }

// AdminRoutes returns the admin endpoints for the do-not-call list.
func (d *doNotCalls) AdminRoutes() []Route { return d.catalog.Routes() }

// saveBlocked creates an entry if old is nil, and changes old otherwise. If
// another entry has the same number, it returns that entry and stores nothing.
func saveBlocked(tx *Tx, r *Request, old *blocked, b *Body) (blocked, error) {
	v := blocked{CreatedAt: r.Now}
	if old != nil {
		v = *old
	}
	b.String("phone_number", AnyLength, &v.Phone)
	b.String("reason", ReasonLength, &v.Reason)
	if err := b.Err(); err != nil {
		return v, err
	}
	if !ValidPhone(v.Phone) {
		return v, ErrValidation.With("phone_number must be an E.164 number such as +4930555044; got %q.", v.Phone)
	}
	same, err := blockedTable.One(tx, "phone", []byte(v.Phone))
	if err == nil && same.ID != v.ID {
		return same, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return v, err
	}
	if old == nil {
		if v.ID, err = blockedTable.NextID(tx); err != nil {
			return v, err
		}
	}
	return v, blockedTable.Put(tx, v)
}
