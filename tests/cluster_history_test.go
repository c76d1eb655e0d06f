//go:build linux

package tests

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What clients of several nodes were told is a history of deeds. The checks in this file look for what no cluster that keeps its
// promises could have answered. All times are those of the clients, which have one clock.

// deed is a request of a client and what became of it.
type deed struct {
	Kind      deedKind
	Object    string // the record or key
	Node      string
	Value     string        // written, or read
	Sent, Got time.Duration // Got: forever if nobody knows whether it has happened
}

// deedKind is what a deed does.
type deedKind int

// The kinds of deeds. A change that was certainly not made is none.
const (
	putRecord   deedKind = iota // a record was created with a value, or got a new one
	readRecord                  // a record was read from a state that had all changes which were answered before
	createKey                   // a key was created
	revokeKey                   // a key was revoked
	passedKey                   // a request with the key was served
	refusedKey                  // a request with the key was refused, from a state that has the key
	admittedKey                 // a request with the key was served, and counts against its short limit
)

// forever is the end of a deed that may still happen.
const forever = time.Duration(math.MaxInt64)

// String returns the deed as a line of a log.
func (d deed) String() string {
	got := fmt.Sprint(d.Got)
	if d.Got == forever {
		got = "unknown"
	}
	name := []string{"put", "read", "create", "revoke", "passed", "refused", "admitted"}[d.Kind]
	return fmt.Sprintf("%s to %s on %s: %s %s %q", d.Sent, got, d.Node, name, d.Object, d.Value)
}

// The models of one record and of one key, as seen on one node. The state is the value of the record, or one of the states of a key.
var (
	recordModel = porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, _ any) (bool, any) {
			d := input.(deed)
			if d.Kind == putRecord {
				return true, d.Value
			}
			return state == d.Value, state
		},
	}
	keyModel = porcupine.Model{
		Init: func() any { return "none" },
		Step: func(state, input, _ any) (bool, any) {
			switch input.(deed).Kind {
			case createKey:
				return state == "none", "active"
			case revokeKey:
				return state != "none", "revoked"
			case passedKey:
				return state == "active", state
			}
			return state == "revoked", state
		},
	}
)

// checkOrder looks for deeds that no order explains in which each happens between its beginning and its end. It looks at each
// object and node by itself: a node shows one state after the other, but it may show a change before another node does, and before
// the change is answered. So the deeds of a history are all changes, and what one node has answered. It returns the
// problems, and the number of histories whose check took too long.
func checkOrder(model porcupine.Model, all []deed, within time.Duration) (problems []string, undecided int) {
	objects := map[string][]deed{}
	for _, d := range all {
		objects[d.Object] = append(objects[d.Object], d)
	}
	for object, deeds := range objects {
		nodes := map[string]bool{}
		for _, d := range deeds {
			nodes[d.Node] = true
		}
		for node := range nodes {
			var history []porcupine.Operation
			for _, d := range deeds {
				if changes := d.Kind == putRecord || d.Kind == createKey || d.Kind == revokeKey; changes || d.Node == node {
					history = append(history, porcupine.Operation{Input: d, Call: int64(d.Sent), Return: int64(d.Got)})
				}
			}
			switch porcupine.CheckOperationsTimeout(model, history, within) {
			case porcupine.Illegal:
				text := fmt.Sprintf("no order explains what node %s has answered about %s:", node, object)
				for _, o := range history {
					text += "\n  " + o.Input.(deed).String()
				}
				problems = append(problems, text)
			case porcupine.Unknown:
				undecided++
			}
		}
	}
	return problems, undecided
}

// checkRevoked looks for requests that were sent after the revocation of their key was answered, and served. checkOrder finds them too;
// this needs no model.
func checkRevoked(all []deed) (problems []string) {
	revoked := map[string]time.Duration{}
	for _, d := range all {
		if d.Kind == revokeKey && d.Got != forever {
			if before, is := revoked[d.Object]; !is || d.Got < before {
				revoked[d.Object] = d.Got
			}
		}
	}
	for _, d := range all {
		if at, is := revoked[d.Object]; is && d.Kind == passedKey && d.Sent > at {
			problems = append(problems, fmt.Sprintf("a key passed after its revocation was answered at %s: %s", at, d))
		}
	}
	return problems
}

// checkWindows looks for a window of a short limit in which more requests were admitted than it allows. A request counts only if it was
// sent and answered within the window, so that it was certainly admitted in it. All deeds are of one key.
func checkWindows(admitted []deed, limit int, window time.Duration) (problems []string) {
	list := slices.Clone(admitted)
	slices.SortFunc(list, func(a, b deed) int { return int(a.Sent - b.Sent) })
	for i, first := range list {
		inside := 0
		for _, d := range list[i:] {
			if d.Sent-first.Sent >= window {
				break
			}
			if d.Got-first.Sent < window {
				inside++
			}
		}
		if inside > limit {
			return []string{fmt.Sprintf("limit %d: %d requests with %s passed within %s from %s on", limit, inside, first.Object, window, first.Sent)}
		}
	}
	return nil
}

// checkLimits is checkWindows for all keys. limits has the limit of each.
func checkLimits(all []deed, limits map[string]int, window time.Duration) (problems []string) {
	groups := map[string][]deed{}
	for _, d := range all {
		if d.Kind != admittedKey {
			continue
		}
		groups[d.Object] = append(groups[d.Object], d)
	}
	for _, list := range groups {
		problems = append(problems, checkWindows(list, limits[list[0].Object], window)...)
	}
	return problems
}

// ledgerEntry is something that was asked for once, and must be there at most once.
type ledgerEntry struct {
	name  string
	known bool   // it was answered with success, so it must be there
	value string // what must be in it; "" for anything
}

// checkLedger compares what was asked for with what is there: the values by name, as often as they are there. Each that was answered is there, whole,
// no other is there twice, and nothing is there that nobody has asked for.
func checkLedger(entries []ledgerEntry, there map[string][]string) (problems []string) {
	asked := map[string]bool{}
	for _, e := range entries {
		asked[e.name] = true
		switch found := there[e.name]; {
		case len(found) > 1:
			problems = append(problems, fmt.Sprintf("%s was asked for once and is there %d times", e.name, len(found)))
		case len(found) == 0 && e.known:
			problems = append(problems, e.name+" was answered with success and is not there")
		case len(found) == 1 && e.value != "" && found[0] != e.value:
			problems = append(problems, fmt.Sprintf("%s is there with %q, want %q", e.name, found[0], e.value))
		}
	}
	for name := range there {
		if !asked[name] {
			problems = append(problems, name+" is there, but nobody has asked for it")
		}
	}
	return problems
}

// checkUnique looks for ids that were given twice.
func checkUnique(ids []string) (problems []string) {
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			problems = append(problems, "the id "+id+" was given twice")
		}
		seen[id] = true
	}
	return problems
}

// TestClusterHistory_Checks has histories that a cluster may show, and others that it may not. The checks must tell them apart.
func TestClusterHistory_Checks(t *testing.T) {
	const ms = time.Millisecond
	order := func(m porcupine.Model) func([]deed) []string {
		return func(list []deed) []string {
			problems, undecided := checkOrder(m, list, time.Minute)
			if undecided > 0 {
				t.Error("a short history was not decided")
			}
			return problems
		}
	}
	records, keys := order(recordModel), order(keyModel)
	put := func(node, value string, sent, got time.Duration) deed {
		return deed{putRecord, "x", node, value, sent, got}
	}
	read := func(node, value string, sent, got time.Duration) deed {
		return deed{readRecord, "x", node, value, sent, got}
	}
	key := func(kind deedKind, node string, sent, got time.Duration) deed {
		return deed{kind, "k", node, "", sent, got}
	}
	admitted := func(node string, n int, sent, got time.Duration) (list []deed) {
		for range n {
			list = append(list, deed{admittedKey, "k", node, "", sent, got})
		}
		return list
	}
	windows := func(list []deed) []string { return checkWindows(list, 3, time.Second) }
	for what, tt := range map[string]struct {
		check   func([]deed) []string
		deeds   []deed
		refused bool
	}{
		"a value is read on each node":         {records, []deed{put("a", "1", 0, 1*ms), read("a", "1", 2*ms, 3*ms), read("b", "1", 2*ms, 3*ms)}, false},
		"a value that is being written":        {records, []deed{put("a", "1", 0, 1*ms), put("a", "2", 2*ms, 9*ms), read("b", "2", 3*ms, 4*ms), read("c", "1", 5*ms, 6*ms)}, false},
		"a node that goes back":                {records, []deed{put("a", "1", 0, 1*ms), put("a", "2", 2*ms, 9*ms), read("b", "2", 3*ms, 4*ms), read("b", "1", 5*ms, 6*ms)}, true},
		"an old value after an answer":         {records, []deed{put("a", "1", 0, 1*ms), put("a", "2", 2*ms, 3*ms), read("b", "1", 4*ms, 5*ms)}, true},
		"an unknown change that appears late":  {records, []deed{put("a", "1", 0, 1*ms), put("a", "2", 2*ms, forever), read("b", "1", 4*ms, 5*ms), read("b", "2", 6*ms, 7*ms)}, false},
		"an unknown change that is undone":     {records, []deed{put("a", "1", 0, 1*ms), put("a", "2", 2*ms, forever), read("b", "2", 4*ms, 5*ms), read("b", "1", 6*ms, 7*ms)}, true},
		"a value that nobody has written":      {records, []deed{put("a", "1", 0, 1*ms), read("b", "7", 4*ms, 5*ms)}, true},
		"a lost change":                        {records, []deed{put("a", "1", 0, 1*ms), put("b", "2", 2*ms, 3*ms), read("c", "1", 90*ms, 91*ms)}, true},
		"a key and its end":                    {keys, []deed{key(createKey, "a", 0, 1*ms), key(passedKey, "b", 2*ms, 3*ms), key(revokeKey, "c", 4*ms, 6*ms), key(refusedKey, "b", 7*ms, 8*ms)}, false},
		"either during a revocation":           {keys, []deed{key(createKey, "a", 0, 1*ms), key(revokeKey, "c", 2*ms, 9*ms), key(refusedKey, "a", 3*ms, 4*ms), key(passedKey, "b", 5*ms, 6*ms)}, false},
		"a key that comes back on a node":      {keys, []deed{key(createKey, "a", 0, 1*ms), key(revokeKey, "c", 2*ms, 9*ms), key(refusedKey, "b", 3*ms, 4*ms), key(passedKey, "b", 5*ms, 6*ms)}, true},
		"a revoked key passes":                 {keys, []deed{key(createKey, "a", 0, 1*ms), key(revokeKey, "c", 2*ms, 3*ms), key(passedKey, "b", 4*ms, 5*ms)}, true},
		"an unknown revocation, passed":        {keys, []deed{key(createKey, "a", 0, 1*ms), key(revokeKey, "c", 2*ms, forever), key(passedKey, "b", 4*ms, 5*ms)}, false},
		"an unknown revocation, refused":       {keys, []deed{key(createKey, "a", 0, 1*ms), key(revokeKey, "c", 2*ms, forever), key(refusedKey, "b", 4*ms, 5*ms)}, false},
		"a key is refused without a reason":    {keys, []deed{key(createKey, "a", 0, 1*ms), key(refusedKey, "b", 4*ms, 5*ms)}, true},
		"sent after a revocation, passed":      {checkRevoked, []deed{key(revokeKey, "a", 0, 1*ms), key(passedKey, "b", 2*ms, 3*ms)}, true},
		"sent before the end of a revocation":  {checkRevoked, []deed{key(revokeKey, "a", 0, 2*ms), key(revokeKey, "a", 0, forever), key(passedKey, "b", 1*ms, 3*ms)}, false},
		"three in a window":                    {windows, admitted("a", 3, 0, 1*ms), false},
		"four in a window, on two nodes":       {windows, append(admitted("a", 2, 0, 1*ms), admitted("b", 2, 998*ms, 999*ms)...), true},
		"four, of which one may be later":      {windows, append(admitted("a", 3, 0, 1*ms), admitted("b", 1, 999*ms, 1001*ms)...), false},
		"four in a window that begins earlier": {windows, append(admitted("a", 1, 0, 1*ms), admitted("b", 4, 600*ms, 1500*ms)...), true},
	} {
		slices.Reverse(tt.deeds) // the order in the list has no meaning
		if problems := tt.check(tt.deeds); (len(problems) > 0) != tt.refused {
			t.Errorf("%s: got %q, want it to be refused: %t", what, problems, tt.refused)
		}
	}
}

// TestClusterHistory_Ledger has the same for what is there at the end.
func TestClusterHistory_Ledger(t *testing.T) {
	entries := []ledgerEntry{{"a", true, "1"}, {"b", false, ""}}
	for what, tt := range map[string]struct {
		there map[string][]string
		want  string
	}{
		"all":          {map[string][]string{"a": {"1"}, "b": {"2"}}, ""},
		"without b":    {map[string][]string{"a": {"1"}}, ""},
		"without a":    {map[string][]string{"b": {"2"}}, "is not there"},
		"twice":        {map[string][]string{"a": {"1"}, "b": {"2", "2"}}, "2 times"},
		"half":         {map[string][]string{"a": {"0"}}, `want "1"`},
		"one too many": {map[string][]string{"a": {"1"}, "c": {"3"}}, "nobody"},
	} {
		if got := strings.Join(checkLedger(entries, tt.there), "; "); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", what, got, tt.want)
		}
	}
	if checkUnique([]string{"1", "2"}) != nil || checkUnique([]string{"1", "2", "1"}) == nil {
		t.Error("ids that were given twice are not found, or others are")
	}
}
