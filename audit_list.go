package main

import (
	"context"
	"strings"
)

// AuditFilter selects entries of the audit log. An empty field is no filter; an entry must pass all
// others.
type AuditFilter struct {
	Actor  string // the actor, or its first words: "operator" and "operator 1" select "operator 1 ann"
	Action string // a part of the action
	Object string // the id of a key, any other object, or the first word of objects, such as "key"
	Result string // one of AuditResults
}

// The sets of the audit log. A fact is one of the kinds of facts and what follows it. The actions are
// in a set of their own, whose values are few, so that a filter can look at all of them.
const (
	setOfFacts   = "fact"
	setOfActions = "action"
)

// The kinds of facts about an entry.
const (
	factActor  = "actor "  // the actor, or its first words
	factResult = "result " // the result
	factObject = "object " // an object, such as "key key_018c..."
	factKind   = "kind "   // the first word of an object
)

// facts returns the facts about an entry. A damaged entry has none.
func (l AuditRecord) facts() (facts [][]byte) {
	e, err := l.Open()
	if err != nil {
		return nil
	}
	facts = [][]byte{[]byte(factResult + e.Result)}
	for i := range len(e.Actor) {
		if e.Actor[i] == ' ' {
			facts = append(facts, []byte(factActor+e.Actor[:i]))
		}
	}
	facts = append(facts, []byte(factActor+e.Actor))
	for _, object := range e.objects() {
		if object == "" {
			continue
		}
		kind, _, _ := strings.Cut(object, " ")
		facts = append(facts, []byte(factObject+object), []byte(factKind+kind))
	}
	return facts
}

// actions returns the action of an entry. A longer one is cut, because the values of the set must be
// less than 255 bytes.
func (l AuditRecord) actions() [][]byte {
	const longest = 200
	e, err := l.Open()
	if err != nil {
		return nil
	}
	return [][]byte{[]byte(e.Action[:min(len(e.Action), longest)])}
}

// Page returns a part of the entries that the filter selects, newest first, and the number of all of
// them. bounds returns the part as a half-open range of positions, for that number.
func (f AuditFilter) Page(ctx context.Context, tx *Tx, bounds func(count int) (from, to int)) (entries []AuditRecord, count int, err error) {
	q := Query{Context: ctx}
	for _, fact := range []struct{ kind, value string }{{factActor, f.Actor}, {factResult, f.Result}, {factObject, f.one()}, {factKind, f.kind()}} {
		if fact.value != "" {
			q.All = append(q.All, Filter{setOfFacts, []byte(fact.kind + fact.value)})
		}
	}
	if f.Action != "" {
		for action, err := range auditTable.SetValues(tx, setOfActions) {
			if err != nil {
				return nil, 0, err
			}
			if strings.Contains(string(action), f.Action) {
				q.Any = append(q.Any, Filter{setOfActions, action})
			}
		}
		if len(q.Any) == 0 {
			return nil, 0, nil
		}
	}
	return auditTable.Page(tx, q, bounds)
}

// one returns the object that the filter names, as entries have it, such as "key key_018c...". It
// returns "" if the filter names no single object. The id of a key names one.
func (f AuditFilter) one() string {
	if strings.HasPrefix(f.Object, "key_") {
		return "key " + f.Object
	}
	if strings.Contains(f.Object, " ") {
		return f.Object
	}
	return ""
}

// kind returns the first word of the objects that the filter selects, or "" if it names one object
// or none.
func (f AuditFilter) kind() string {
	if f.one() != "" {
		return ""
	}
	return f.Object
}
