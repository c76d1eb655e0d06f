package main

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"latchkey/internal/fold"
)

// AuditFilter selects entries of the audit log. An empty field is no filter; an entry must pass all
// others.
type AuditFilter struct {
	Actor  string // the actor, or its first words: "operator" and "operator 1" select "operator 1 ann"
	Action string // a part of the action
	Object string // the id of a key, any other object, or the first word of objects, such as "key"
	Result string // one of AuditResults
	// Actions reports whether entries with an action are selected; nil: all of them.
	Actions func(action string) bool
	// ActorIDs and ObjectIDs are other words for Actor and Object, such as "operator 1" or "key key_018c...":
	// one of them is enough.
	ActorIDs, ObjectIDs []string
	// From and To are the times between which the entries were written; To itself is not included. A zero
	// time is no bound. If the wall clock was set back, the place of an entry in the log counts.
	From, To time.Time
	Before   uint64 // selects the entries with a smaller number; 0: all
}

// Empty reports whether the filter selects all entries.
func (f AuditFilter) Empty() bool {
	return f.Actor == "" && f.Action == "" && f.Object == "" && f.Result == "" && f.Actions == nil && f.From.IsZero() && f.To.IsZero() && f.Before == 0
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
	factName   = "name "   // the name of an object at the time, in the form of fold.Search
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
	for _, c := range e.Changes {
		if c.Name != "" {
			facts = append(facts, []byte(factName+fold.Search(c.Name)))
		}
	}
	return facts
}

// AuditActors iterates over the actors of the entries that begin with a prefix, such as "operator 1 ann lee",
// and over their first words, such as "operator 1 ann". It leaves out those of about 250 bytes or more.
func AuditActors(tx *Tx, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for value, err := range auditTable.SetValuesFrom(tx, setOfFacts, []byte(factActor+prefix)) {
			if !yield(strings.TrimPrefix(string(value), factActor), err) {
				return
			}
		}
	}
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
	q, some, err := f.query(ctx, tx)
	if err != nil || !some {
		return nil, 0, err
	}
	return auditTable.Page(tx, q, bounds)
}

// query returns the query for the entries that the filter selects. some is false if there are none.
func (f AuditFilter) query(ctx context.Context, tx *Tx) (q Query, some bool, err error) {
	q.Context = ctx
	if f.Result != "" {
		q.All = append(q.All, Filter{setOfFacts, []byte(factResult + f.Result)})
	}
	if f.Actor != "" {
		q.AnyOf = append(q.AnyOf, factFilters(factActor, append([]string{f.Actor}, f.ActorIDs...)...))
	}
	if f.Object != "" {
		one := factFilters(factObject, append(f.ObjectIDs, f.one())...)
		q.AnyOf = append(q.AnyOf, slices.Concat(one, factFilters(factKind, f.kind()), factFilters(factName, fold.Search(f.Object))))
	}
	if f.Action != "" || f.Actions != nil {
		for action, err := range auditTable.SetValues(tx, setOfActions) {
			if err != nil {
				return q, false, err
			}
			if strings.Contains(string(action), f.Action) && (f.Actions == nil || f.Actions(string(action))) {
				q.Any = append(q.Any, Filter{setOfActions, action})
			}
		}
		if len(q.Any) == 0 {
			return q, false, nil
		}
	}
	return f.limit(tx, q)
}

// factFilters returns the filters for a kind of facts that have one of values. It leaves out "".
func factFilters(kind string, values ...string) (list []Filter) {
	for _, value := range values {
		if value != "" {
			list = append(list, Filter{setOfFacts, []byte(kind + value)})
		}
	}
	return list
}

// limit adds the bounds of the numbers of the entries to a query. some is false if no entry is within
// them.
func (f AuditFilter) limit(tx *Tx, q Query) (limited Query, some bool, err error) {
	head, err := ReadAuditHead(tx)
	if err != nil {
		return q, false, err
	}
	first, end := head.CutNumber+1, head.Number+1
	if f.Before > 0 {
		end = min(end, f.Before)
	}
	if !f.From.IsZero() {
		if first, err = auditSince(tx, f.From, first, end); err != nil {
			return q, false, err
		}
	}
	if !f.To.IsZero() {
		if end, err = auditSince(tx, f.To, first, end); err != nil {
			return q, false, err
		}
	}
	q.FirstID, q.LastID = first, end-1
	return q, first < end, nil
}

// auditSince returns the number of the first entry from first on, and before end, that was written at a
// time or later. It returns end if there is none. The entries are in the order of time, so a few of them
// are enough to find it.
func auditSince(tx *Tx, at time.Time, first, end uint64) (uint64, error) {
	for first < end {
		middle := first + (end-first)/2
		l, err := AuditRecordAt(tx, middle)
		var e AuditEntry
		if err == nil {
			e, err = l.Open()
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return 0, err
		}
		if err == nil && !e.At.Before(at) { // a missing entry counts as earlier; verify reports it
			end = middle
		} else {
			first = middle + 1
		}
	}
	return end, nil
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
