package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// A session in use goes on until it is a week old, at both sides of every bound.
func TestSessions_Find(t *testing.T) {
	const idle, most = 12 * time.Hour, 7 * 24 * time.Hour
	for _, tt := range []struct {
		name string
		at   []time.Duration // after the login, of one request each
		want error           // of the last of them; the others pass
	}{
		{"at once", []time.Duration{0}, nil},
		{"idle for as long as it may be", []time.Duration{idle - 1}, nil},
		{"idle for too long", []time.Duration{idle}, ErrNotFound},
		{"in use, and then idle for as long as it may be", []time.Duration{time.Hour, time.Hour + idle - 1}, nil},
		{"in use, and then idle for too long", []time.Duration{time.Hour, time.Hour + idle}, ErrNotFound},
		{"a use after a minute counts", []time.Duration{seenStep, seenStep + idle - 1}, nil},
		{"a use within the first minute does not", []time.Duration{seenStep - 1, idle}, ErrNotFound},
		{"in use until its end", everyHalf(idle, most-1), nil},
		{"in use for too long", everyHalf(idle, most), ErrNotFound},
		{"the clock is a minute behind", []time.Duration{-time.Minute}, nil},
		{"the clock is further behind", []time.Duration{-time.Minute - 1}, ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewSessions(newTestStore(t), idle, most)
			if err := s.store.Update(func(tx *Tx) error { return OperatorTable.Put(tx, operator{ID: 7, Password: "x"}) }); err != nil {
				t.Fatal(err)
			}
			token, err := s.Begin(AuditContext{Actor: ActorSelf, Action: "test", Now: epoch}, 7, sessionStart{})
			if err != nil {
				t.Fatal(err)
			}
			for i, at := range tt.at {
				want := error(nil)
				if i == len(tt.at)-1 {
					want = tt.want
				}
				if found, err := s.Find(token, sessionUse{At: epoch.Add(at)}); !errors.Is(err, want) || err == nil && found.Operator != 7 {
					t.Fatalf("after %s: got operator %d, %v; want %v", at, found.Operator, err, want)
				}
			}
		})
	}
}

// everyHalf lists times half a span apart, and the end as the last of them.
func everyHalf(span, end time.Duration) (at []time.Duration) {
	for next := span / 2; next < end; next += span / 2 {
		at = append(at, next)
	}
	return append(at, end)
}

// Whoever opens a page every 11 hours stays logged in until the week is over.
func TestDashboard_SessionInUse(t *testing.T) {
	b := newDashboard(t)
	for began := b.clocks.Read().Wall; b.clocks.Read().Wall.Sub(began) < 7*24*time.Hour-11*time.Hour; {
		b.clocks.Pass(11 * time.Hour)
		if w := b.get("/keys"); w.Code != 200 {
			t.Fatalf("in use for %s: got %d, want 200", b.clocks.Read().Wall.Sub(began), w.Code)
		}
	}
	b.clocks.Pass(11 * time.Hour)
	if w := b.get("/keys"); w.Code != 303 {
		t.Errorf("after a week: got %d, want to be sent to the login", w.Code)
	}
}

// testCost makes hashing fast for the tests that are not about its cost.
var testCost = hashCost{memory: 64, passes: 1, lanes: 1}

// logins is a store with one operator, who has logged in, or with none yet and
// a set-up link.
type logins struct {
	*Operators
	*Sessions
	by           AuditContext
	token, setup string
}

func newLogins(t *testing.T, withOperator bool) (l logins) {
	t.Helper()
	store := newTestStore(t)
	l = logins{Operators: NewOperators(store), Sessions: NewSessions(store, 12*time.Hour, 7*24*time.Hour), by: AuditContext{Actor: ActorSelf, Action: "test", Now: epoch}}
	l.cost = testCost
	var err error
	if withOperator {
		if _, err = l.Create(l.by, "Ann", operatorPassword, ""); err == nil {
			l.token, err = l.Begin(l.by, 1, sessionStart{})
		}
	} else {
		l.setup, err = l.SetupToken(l.by)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// loginUses are the ways to read and to change who may log in, the readers first
// and those of a store without an operator with "set up" in their names.
var loginUses = []struct {
	name   string
	writes bool
	use    func(l logins) error
}{
	{"find the session", false, func(l logins) error { _, err := l.Sessions.Find(l.token, sessionUse{At: epoch}); return err }},
	{"find the operator", false, func(l logins) error { _, err := l.Operators.Find(1); return err }},
	{"authenticate", false, func(l logins) error { _, err := l.Authenticate("ann", operatorPassword); return err }},
	{"look for any operator", false, func(l logins) error { _, err := l.Any(); return err }},
	{"check the link to set up", false, func(l logins) error { return l.SetupHolds(l.setup, epoch) }},
	{"use the session", true, func(l logins) error {
		_, err := l.Sessions.Find(l.token, sessionUse{At: epoch.Add(time.Hour)})
		return err
	}},
	{"begin a session", true, func(l logins) error { _, err := l.Begin(l.by, 1, sessionStart{}); return err }},
	{"end the session", true, func(l logins) error { return l.End(l.by, l.token) }},
	{"end all sessions", true, func(l logins) error { return l.EndAll(l.by, 1) }},
	{"sweep the sessions", true, func(l logins) error { return l.Sweep(epoch.Add(30 * 24 * time.Hour)) }},
	{"create another operator", true, func(l logins) error { _, err := l.Create(l.by, "Eve", operatorPassword, ""); return err }},
	{"change the password", true, func(l logins) error { return l.SetPassword(l.by, 1, operatorPassword, nil) }},
	{"set up", true, func(l logins) error { _, err := l.Create(l.by, "Ann", operatorPassword, l.setup); return err }},
	{"make a link to set up", true, func(l logins) error { _, err := l.SetupToken(l.by); return err }},
}

// TestOperators_Faults reads and changes who may log in, in a good store, in one
// that is closing and in one with damage. A damaged record is an error, and never
// one that is not there.
func TestOperators_Faults(t *testing.T) {
	damage := map[string][]string{
		"sessions":          {"find the session", "use the session", "end the session", "end all sessions", "sweep the sessions", "change the password"},
		"sessions/operator": {"end all sessions", "change the password"},
		"sessions/created":  {"sweep the sessions"},
		"operators":         {"find the operator", "authenticate", "change the password", "end all sessions"},
		"operators/name":    {"authenticate"},
		"counts":            {"look for any operator", "begin a session", "create another operator"},
		"meta":              {"check the link to set up", "set up"},
	}
	for _, tt := range loginUses {
		withOperator := !strings.Contains(tt.name, "set up")
		if err := tt.use(newLogins(t, withOperator)); err != nil {
			t.Errorf("%s: got %v", tt.name, err)
		}
		closing := newLogins(t, withOperator)
		refuseWrites(t, closing.Operators.store)
		want := map[bool]error{true: ErrUnavailable}[tt.writes]
		if err := tt.use(closing); !errors.Is(err, want) {
			t.Errorf("%s, while the store is closing: got %v, want %v", tt.name, err, want)
		}
		for bucket, uses := range damage {
			if !slices.Contains(uses, tt.name) {
				continue
			}
			damaged := newLogins(t, withOperator)
			damageRecords(t, damaged.Operators.store, bucket)
			if err := tt.use(damaged); err == nil || Public(err) != ErrServer {
				t.Errorf("%s, with damage in %s: got %v, want what is wrong", tt.name, bucket, err)
			}
		}
	}
}

// A name that is taken stays so when the record is damaged, and its index.
func TestOperators_NameTaken(t *testing.T) {
	for bucket, want := range map[string]error{"": ErrConflict, "operators": ErrConflict, "operators/name": ErrServer} {
		l := newLogins(t, true)
		if bucket != "" {
			damageRecords(t, l.Operators.store, bucket)
		}
		if _, err := l.Create(l.by, "ANN", operatorPassword, ""); err == nil || !errors.Is(Public(err), want) {
			t.Errorf("damage in %q: got %v, want %v", bucket, err, want)
		}
	}
}

// Whatever is wrong with a login, it is refused as one and names no operator.
func TestOperators_Refused(t *testing.T) {
	l := newLogins(t, true)
	for _, tt := range [][2]string{
		{"ann", ""}, {"ann", "wrong"}, {"ann", operatorPassword + "x"}, {"ann", strings.Repeat("p", maxPassword)}, {"ann", strings.Repeat("p", maxPassword+1)},
		{"", operatorPassword}, {"eve", operatorPassword}, {"ann ", operatorPassword},
	} {
		if op, err := l.Authenticate(tt[0], tt[1]); !errors.Is(err, ErrLogin) || op.ID != 0 || op.Name != "" {
			t.Errorf("%q with %.20q: got operator %d, %v; want ErrLogin", tt[0], tt[1], op.ID, err)
		}
	}
	for _, name := range []string{"Ann", "ann", "ANN"} {
		if op, err := l.Authenticate(name, operatorPassword); err != nil || op.ID != 1 {
			t.Errorf("%s: got operator %d, %v; want 1", name, op.ID, err)
		}
	}
}

// Where nobody can say whether there is an operator, nobody is told that there is
// one, and no link holds.
func TestOperators_CountDamaged(t *testing.T) {
	for _, tt := range loginUses {
		if !strings.Contains(tt.name, "set up") {
			continue
		}
		l := newLogins(t, true)
		l.setup = "any"
		damageRecords(t, l.Operators.store, "counts")
		if err := tt.use(l); err == nil || Public(err) != ErrServer {
			t.Errorf("%s: got %v, want what is wrong", tt.name, err)
		}
	}
}

// TestOperators_Bounds tries names, passwords and links at both sides of their bounds.
func TestOperators_Bounds(t *testing.T) {
	l := newLogins(t, true)
	for _, tt := range []struct {
		what, name, password string
		want                 error
	}{
		{"no name", "", operatorPassword, ErrValidation},
		{"spaces", " \t", operatorPassword, ErrValidation},
		{"the longest name", strings.Repeat("n", 100), operatorPassword, nil},
		{"a longer name", strings.Repeat("n", 101), operatorPassword, ErrValidation},
		{"the shortest password", "short", "horse 7 gl", nil},
		{"a shorter password", "shorter", "012345678", ErrValidation},
		{"a short password of many bytes", "bytes", "\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc", ErrValidation},
		{"the longest password", "long", strings.Repeat("p", maxPassword), nil},
		{"a longer password", "longer", strings.Repeat("p", maxPassword+1), ErrValidation},
	} {
		if _, err := l.Create(l.by, tt.name, tt.password, ""); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, err, tt.want)
		} else if op, err := l.Authenticate(tt.name, tt.password); tt.want == nil && (err != nil || op.Name != tt.name) {
			t.Errorf("%s: the login gives %v, %v", tt.what, op.Name, err)
		}
	}
	l = newLogins(t, false)
	for after, want := range map[time.Duration]error{0: nil, setupSpan - time.Millisecond: nil, setupSpan: ErrSetup} {
		if err := l.SetupHolds(l.setup, epoch.Add(after)); !errors.Is(err, want) {
			t.Errorf("the link after %s: got %v, want %v", after, err, want)
		}
	}
}

// The endpoints of the operators tell of a damaged record, too.
func TestOperators_EndpointsDamaged(t *testing.T) {
	b := newDashboard(t)
	repair := damageRecords(t, b.Store, "operators")
	for _, ask := range [][3]string{
		{"GET", "/admin/v1/operators"}, {"DELETE", "/admin/v1/operators/1"}, {"POST", "/admin/v1/operators/1/password", `{"password": "another password"}`},
	} {
		b.operate(500, ask[0], ask[1], ask[2])
	}
	b.operate(409, "POST", "/admin/v1/operators", `{"name": "ann", "password": "another password"}`)
	repair()
	if n := b.operate(200, "GET", "/admin/v1/operators", "")["count"]; n != 1.0 {
		t.Errorf("got %v operators, want the one as before", n)
	}
	if w := b.get("/keys"); w.Code != 200 {
		t.Errorf("got %d, want the login as before", w.Code)
	}
}
