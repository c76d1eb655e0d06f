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
	if !begins(e.Actor, f.Actor) || !strings.Contains(e.Action, f.Action) || f.Result != "" && e.Result != f.Result {
		return false
	}
	return f.Object == "" || slices.ContainsFunc(e.objects(), func(object string) bool {
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
		e.Changes = append(e.Changes, Change{Object: word("changed", "key key_1", "contact 7", "key key_2")})
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
				word("actor filter", "", "", "operator", "operator 1", "operator 1 ann", "oper", "latchkey"), word("action filter", "", "", "POST", "keys/", "in", "none"),
				word("object filter", "", "", "key", "key_1", "key key_12", "owner 1", "owner", "contact 7", "contact 8"), word("result filter", "", "", "done", "refused"),
			}
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
