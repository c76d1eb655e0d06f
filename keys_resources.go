package main

import (
	"slices"
	"strconv"
	"strings"
)

// Resources are the objects that exist for a key, by their ids. A kind that has no ids is not limited, unless
// teams are listed. Resources may be shared, so do not change them.
type Resources struct {
	Agents   []uint64 `json:"agents,omitempty"`
	Contacts []uint64 `json:"contacts,omitempty"`
	Teams    []uint64 `json:"teams,omitempty"`
}

// ResourceKinds returns the kinds of objects that Resources can list.
func ResourceKinds() []string { return []string{"agents", "contacts", "teams"} }

// IDs returns the ids of one of ResourceKinds.
func (r *Resources) IDs(kind string) *[]uint64 {
	return map[string]*[]uint64{"agents": &r.Agents, "contacts": &r.Contacts, "teams": &r.Teams}[kind]
}

// Lists returns the ids by kind, without the kinds that have none. r may be nil.
func (r *Resources) Lists() map[string][]uint64 {
	lists := map[string][]uint64{}
	for _, kind := range ResourceKinds() {
		if r != nil && len(*r.IDs(kind)) > 0 {
			lists[kind] = *r.IDs(kind)
		}
	}
	return lists
}

// Equal reports whether r and other list the same objects. Either may be nil, which lists none.
func (r *Resources) Equal(other *Resources) bool {
	if r == nil || other == nil {
		return r == other
	}
	return slices.Equal(r.Agents, other.Agents) && slices.Equal(r.Contacts, other.Contacts) && slices.Equal(r.Teams, other.Teams)
}

// String returns the objects as text for messages, such as "agents 8, 9 and contacts 31".
func (r *Resources) String() string {
	var kinds []string
	for _, kind := range ResourceKinds() {
		var ids []string
		for _, id := range *r.IDs(kind) {
			ids = append(ids, strconv.FormatUint(id, 10))
		}
		if len(ids) > 0 {
			kinds = append(kinds, kind+" "+strings.Join(ids, ", "))
		}
	}
	return strings.Join(kinds, " and ")
}

// RecordKind is a kind of records that Resources limit.
type RecordKind int

// The kinds of records that Resources limit.
const (
	AgentRecord RecordKind = iota + 1
	ContactRecord
	CallRecord
	EventRecord // a calendar event
)

// Place is where a record belongs, by which a Scope includes it or not. An id is 0 if there is no such object.
type Place struct {
	Kind        RecordKind
	Owner, Team uint64
	// Agent and Contact are those of a call or an event. For an agent or a contact, it is the id of the record.
	Agent, Contact uint64
}

// Demand is what Resources ask of a record: one of their ids is that of its agent or contact.
type Demand struct {
	Set string // the set with this id in the lists of the records
	IDs []uint64
	id  uint64
}

// Demands returns what r asks of a record, all of which it must meet unless its team is listed. Listed teams bring
// their agents, contacts, calls and events, so they limit agents and contacts too, also if none of these are listed.
// An event has no contact, so those of unlisted agents exist for no limited key.
func (r *Resources) Demands(p Place) (list []Demand) {
	agent, contact := Demand{"agent", r.Agents, p.Agent}, Demand{"contact", r.Contacts, p.Contact}
	add := func(limited bool, d Demand) {
		if limited {
			list = append(list, d)
		}
	}
	switch p.Kind {
	case AgentRecord:
		agent.Set = IDSet
		add(r.LimitsAgents(), agent)
	case ContactRecord:
		contact.Set = IDSet
		add(len(r.Contacts)+len(r.Teams) > 0, contact)
	case CallRecord:
		add(r.LimitsAgents(), agent)
		add(len(r.Contacts) > 0, contact)
	case EventRecord:
		add(true, agent)
	default:
		add(true, Demand{}) // nothing meets it
	}
	return list
}

// LimitsAgents reports whether some agents do not exist for a key with these resources.
func (r *Resources) LimitsAgents() bool { return r != nil && len(r.Agents)+len(r.Teams) > 0 }

// Has reports whether the record with this place exists for a key with these resources. nil limits nothing.
func (r *Resources) Has(p Place) bool {
	if r == nil || p.Team != 0 && slices.Contains(r.Teams, p.Team) {
		return true
	}
	return !slices.ContainsFunc(r.Demands(p), func(d Demand) bool { return !slices.Contains(d.IDs, d.id) })
}

// HasTeam reports whether the team with this id exists for a key with these resources.
func (r *Resources) HasTeam(id uint64) bool {
	return r == nil || len(r.Teams) == 0 || slices.Contains(r.Teams, id)
}
