package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// passes reports whether an entry passes the filter, as the documentation says it.
func (f AuditFilter) passes(e AuditEntry) bool {
	begins := func(text, filter string) bool {
		return filter == "" || text == filter || strings.HasPrefix(text, filter+" ")
	}
	if f.Before > 0 && e.Number >= f.Before || f.Actions != nil && !f.Actions(e.Action) {
		return false
	}
	actor := begins(e.Actor, f.Actor) || slices.ContainsFunc(f.ActorIDs, func(id string) bool { return begins(e.Actor, id) })
	if !actor || !strings.Contains(e.Action, f.Action) || f.Result != "" && e.Result != f.Result {
		return false
	}
	named := func(c Change) bool { return c.Name != "" && strings.EqualFold(c.Name, f.Object) }
	return f.Object == "" || slices.ContainsFunc(e.Changes, named) || slices.ContainsFunc(e.objects(), func(object string) bool {
		kind, rest, _ := strings.Cut(object, " ")
		return f.Object == kind || f.Object == object || kind == "key" && strings.HasPrefix(f.Object, "key_") && f.Object == rest
	})
}

func drawAudit(rt *rapid.T) AuditEntry {
	word := func(name string, list ...string) string { return rapid.SampledFrom(list).Draw(rt, name) }
	e := AuditEntry{
		At: epoch.Add(time.Duration(rapid.IntRange(-50, 0).Draw(rt, "age")) * time.Hour), Actor: word("actor", "latchkey", "operator 1 ann", "operator 11 bo", "token 1 ann", "operator 1 ann b"),
		Action: word("action", "POST /admin/v1/keys", "POST /admin/v1/keys/:id/pause", "login", ""), Object: word("object", "", "key key_1", "key key_12", "owner 1"),
		Result: word("result", AuditResults()...),
	}
	for range rapid.IntRange(0, 2).Draw(rt, "changes") {
		e.Changes = append(e.Changes, Change{Object: word("changed", "key key_1", "contact 7", "key key_2"), Name: word("name", "", "crm", "Cr\u00edm", "Site")})
	}
	return e
}

func TestAuditFilter_Page(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := newTestApp(t)
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			err := a.Store.Update(func(tx *Tx) error {
				for range rapid.IntRange(0, 40).Draw(rt, "entries") {
					if err := appendAudit(tx, drawAudit(rt)); err != nil {
						return err
					}
				}
				if !rapid.Bool().Draw(rt, "cut") {
					return nil
				}
				_, err := CutAudit(tx, epoch.Add(-40*time.Hour), rapid.IntRange(10, 60).Draw(rt, "most"), epoch)
				return err
			})
			if err != nil {
				rt.Fatal(err)
			}
			word := func(name string, list ...string) string { return rapid.SampledFrom(list).Draw(rt, name) }
			f := AuditFilter{
				Actor: word("actor filter", "", "", "operator", "operator 1", "operator 1 ann", "oper", "latchkey"), Action: word("action filter", "", "", "POST", "keys/", "in", "none"),
				Object: word("object filter", "", "", "CRM", "site", "key", "key_1", "key key_12", "owner 1", "owner", "contact 7", "contact 8"), Result: word("result filter", "", "", "done", "refused"),
			}
			if f.Actor != "" && rapid.Bool().Draw(rt, "more actors") {
				f.ActorIDs = []string{"token 1", "operator 11"}
			}
			if rapid.Bool().Draw(rt, "few actions") {
				f.Actions = func(action string) bool { return action != "login" }
			}
			f.Before = uint64(rapid.IntRange(0, 100).Draw(rt, "before"))
			wantAuditPage(rt, a, f)
		}
		wantChecked(rt, a, &auditTable)
	})
}

// wantAuditPage compares a page of the audit log with the entries that pass one by one.
func wantAuditPage(rt *rapid.T, a *testApp, f AuditFilter) {
	err := a.Store.View(func(tx *Tx) error {
		var want []uint64
		for l, err := range AuditRecords(tx) {
			e, openErr := l.Open()
			if err = errors.Join(err, openErr); err != nil {
				return err
			}
			if f.passes(e) {
				want = append(want, l.Number)
			}
		}
		slices.Reverse(want)
		from := rapid.IntRange(0, len(want)).Draw(rt, "from")
		to := rapid.IntRange(from, len(want)).Draw(rt, "to")
		entries, count, err := f.Page(context.Background(), tx, func(count int) (int, int) { return min(from, count), min(to, count) })
		var got []uint64
		for _, l := range entries {
			got = append(got, l.Number)
		}
		if count != len(want) || !slices.Equal(got, want[from:to]) {
			rt.Errorf("%+v: got %d entries, %d to %d are %v; want %d, %v", f, count, from, to, got, len(want), want[from:to])
		}
		return err
	})
	if err != nil {
		rt.Fatal(err)
	}
}

// TestAuditFilter_Times selects by the times of entries.
func TestAuditFilter_Times(t *testing.T) {
	a := newTestApp(t)
	at := func(hours int) time.Time { return epoch.Add(time.Duration(hours) * time.Hour) }
	err := a.Store.Update(func(tx *Tx) error {
		for i := range 300 {
			if err := appendAudit(tx, AuditEntry{At: at(i / 3), Actor: "latchkey", Action: "test", Result: auditDone}); err != nil {
				return err
			}
		}
		_, err := CutAudit(tx, at(20), 1000, at(100))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from, to time.Time
		want     int
	}{
		{time.Time{}, at(25), 15}, {at(0), at(20), 0}, {at(20), at(21), 3}, {at(50), at(60), 30}, {at(50), time.Time{}, 151}, {at(99), at(100), 3}, {at(101), time.Time{}, 0},
		{at(60), at(50), 0}, {at(30).Add(time.Minute), at(31).Add(time.Minute), 3},
	} {
		err := a.Store.View(func(tx *Tx) error {
			records, count, err := AuditFilter{From: tt.from, To: tt.to}.Page(t.Context(), tx, func(count int) (int, int) { return 0, count })
			if err != nil {
				return err
			}
			if count != tt.want || len(records) != tt.want {
				t.Errorf("%v to %v: got %d entries, %d shown; want %d", tt.from, tt.to, count, len(records), tt.want)
			}
			for _, l := range records {
				if e, err := l.Open(); err != nil || e.At.Before(tt.from) || !tt.to.IsZero() && !e.At.Before(tt.to) {
					t.Errorf("%v to %v: got an entry of %v, %v", tt.from, tt.to, e.At, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
