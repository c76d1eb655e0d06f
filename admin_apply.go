package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/sorted"
	"latchkey/internal/strictjson"
)

// applier serves the endpoints that bring the stored keys, owners, webhooks and admin tokens to the state of a
// file, and that return the present state in the form of such a file. One transaction makes all changes of a
// request, or none.
type applier struct {
	store  *Store
	keys   *admin
	owners *Owners
	hooks  *WebhookAdmin
	tokens *Tokens
}

// ApplyParts are the parts of the service whose records an applier changes.
type ApplyParts struct {
	Keys   *admin
	Owners *Owners
	Hooks  *WebhookAdmin
	Tokens *Tokens
}

// NewApplier returns an applier for the records in store.
func NewApplier(store *Store, p ApplyParts) *applier {
	return &applier{store: store, keys: p.Keys, owners: p.Owners, hooks: p.Hooks, tokens: p.Tokens}
}

// AdminRoutes returns the routes for operators.
func (a *applier) AdminRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/admin/v1/apply", Handle: a.apply, Slow: true, Heavy: HeavyAlways},
		{Method: "GET", Path: "/admin/v1/export", Handle: a.export, Slow: true, Heavy: HeavyAlways},
	}
}

// kinds returns the kinds of records in the order in which they are applied: keys and webhooks have owners.
func (a *applier) kinds() []*applyKind {
	return []*applyKind{a.ownerKind(), a.keyKind(), a.webhookKind(), a.tokenKind()}
}

// maxApply is the largest number of entries of a kind, and of changes, in one request.
const maxApply = 10_000

// The actions of a plan.
const (
	applyCreate = "create"
	applyChange = "change"
	applyRevoke = "revoke" // the record stays and can be looked up
	applyDelete = "delete"
)

// applyStep is a change of a plan.
type applyStep struct {
	Action string      `json:"action"`
	Kind   string      `json:"kind"`
	ID     any         `json:"id"`  // null for a new record
	Ref    any         `json:"ref"` // of a key; null for other kinds
	Name   string      `json:"name"`
	Secret bool        `json:"secret"` // the change makes a secret
	Fields []applyDiff `json:"fields"`
}

// applyDiff is a field that a change concerns. null is the default.
type applyDiff struct {
	Field  string `json:"field"` // "limits.NAME" for a member of limits
	Before any    `json:"before"`
	After  any    `json:"after"`
}

// applySecret is the secret of a new record, which Latchkey does not store.
type applySecret struct {
	Kind   string `json:"kind"`
	ID     any    `json:"id"`
	Ref    any    `json:"ref"`
	Name   string `json:"name"`
	Secret string `json:"secret"`
}

// applyFault is a mistake in an entry.
type applyFault struct {
	Kind    string `json:"kind"`
	Row     int    `json:"row"`   // of the entry among those of its kind, from 1
	Field   any    `json:"field"` // null if the mistake concerns the whole entry
	Message string `json:"message"`
}

// applyRun is one run of the transaction of an apply.
type applyRun struct {
	tx      *Tx
	request *Request
	prune   bool
	steps   []applyStep
	secrets []applySecret
	faults  []applyFault
}

// apply brings what is stored to the state in the body. With dry_run the same transaction is undone and the answer
// is the plan. With fingerprint, that of a plan, the changes are made only if they are still those of the plan.
func (a *applier) apply(w http.ResponseWriter, r *Request) error {
	fields := OnlyFields("dry_run", "prune", "fingerprint")
	for _, kind := range a.kinds() {
		fields.Set = append(fields.Set, kind.member)
	}
	body, err := r.ReadFields(fields)
	if err != nil {
		return err
	}
	dry, prune, fingerprint := false, false, ""
	body.Bool("dry_run", &dry)
	body.Bool("prune", &prune)
	body.String("fingerprint", AnyLength, &fingerprint)
	entries := map[string][]*Body{}
	for _, kind := range a.kinds() {
		if body.Given(kind.member) {
			entries[kind.member] = body.Bodies(kind.member)
		}
		if n := len(entries[kind.member]); n > maxApply {
			return ErrValidation.With("%s has %s entries; the maximum is %s.", kind.member, Figure(n), Figure(maxApply))
		}
	}
	if err := body.Err(); err != nil {
		return err
	}
	var run *applyRun
	digest := ""
	err = r.Update(a.store, func(tx *Tx) (err error) {
		run = &applyRun{tx: tx, request: r, prune: prune, steps: []applyStep{}, secrets: []applySecret{}}
		for _, kind := range a.kinds() {
			if list, given := entries[kind.member]; given {
				if err := run.kind(kind, list); err != nil {
					return err
				}
			}
		}
		if digest, err = run.fingerprint(); err != nil {
			return err
		}
		switch err := run.refused(); {
		case err != nil:
			return err
		case dry:
			return errors.Join(tx.Fits(), ErrUndo)
		case fingerprint != "" && fingerprint != digest:
			return ErrConflict.With("What is stored has changed since the plan was made, so that other changes would be made now. Nothing was changed. Make a new plan with dry_run.")
		}
		return nil
	})
	if large, ok := errors.AsType[*Oversized](err); ok {
		return large.Refusal.With("The changes are more than a cluster takes at once; about %d %% of them would fit. Nothing was changed. Apply the file in parts, without prune.", int(100*large.Share))
	}
	if err != nil && !errors.Is(err, ErrUndo) {
		return err
	}
	answer := map[string]any{"dry_run": dry, "count": len(run.steps), "plan": run.steps, "fingerprint": digest, "secrets": run.secrets, "message": "Applied."}
	switch {
	case len(run.steps) == 0:
		answer["message"] = "Nothing to change."
	case dry:
		answer["message"] = "This is only the plan. Nothing was changed."
	}
	if dry {
		answer["secrets"] = []any{}
	}
	return WriteJSON(w, http.StatusOK, answer)
}

// refused returns an error with all mistakes of the entries, or nil if there are none.
func (run *applyRun) refused() error {
	if len(run.faults) == 0 {
		return checkPlanSize(len(run.steps))
	}
	first := run.faults[0]
	return ErrValidation.With("%s %d: %s Nothing was changed.", first.Kind, first.Row, first.Message).WithField("errors", run.faults).WithField("error_count", len(run.faults))
}

// fingerprint returns a text that differs for plans that differ.
func (run *applyRun) fingerprint() (string, error) {
	data, err := strictjson.Encode(run.steps)
	return fmt.Sprintf("%x", sha256.Sum256(data))[:32], err
}

// fault adds a mistake. It returns err if the client did not cause it; then the transaction must fail.
func (run *applyRun) fault(f applyFault, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status >= http.StatusInternalServerError {
		return err
	}
	f.Message = e.Message
	run.faults = append(run.faults, f)
	return nil
}

// kind applies the entries of one kind. Records that are not in the file end first, because they make room for new
// ones, but they are last in the plan.
func (run *applyRun) kind(kind *applyKind, entries []*Body) error {
	type match struct {
		was  *applied
		body *Body
		row  int
	}
	seen, matches := map[any]int{}, make([]match, 0, len(entries))
	for i, body := range entries {
		body, err := run.known(kind, i+1, body)
		if err != nil {
			return err
		}
		found, err := kind.find(run.tx, run.request, body)
		if err != nil {
			if err := run.explain(kind, i+1, body, err, nil); err != nil {
				return err
			}
			continue
		}
		free := slices.IndexFunc(found, func(was *applied) bool { return seen[was.id] == 0 })
		m := match{body: body, row: i + 1}
		if free >= 0 {
			m.was = found[free]
			seen[m.was.id] = m.row
		}
		matches = append(matches, m)
	}
	var ends []applyStep
	if run.prune && kind.end != "" && len(run.faults) == 0 {
		var err error
		if ends, err = run.ends(kind, seen); err != nil {
			return err
		}
	}
	for _, m := range matches {
		var err error
		if m.was == nil {
			err = run.create(kind, m.row, m.body, seen)
		} else {
			err = run.change(kind, m.row, m.body, m.was)
		}
		if err != nil {
			return err
		}
	}
	run.steps = append(run.steps, ends...)
	return nil
}

// known returns an entry without members that are null, which count as left out, and adds a mistake for each member
// that entries of its kind cannot have.
func (run *applyRun) known(kind *applyKind, row int, body *Body) (*Body, error) {
	for _, name := range body.Names() {
		is := slices.ContainsFunc(kind.fields, func(f applyField) bool { return f.name == name })
		if is && body.Given(name) {
			continue
		}
		body = body.Replaced(name, nil)
		if is {
			continue
		}
		var names []string
		for _, f := range kind.fields {
			names = append(names, f.name)
		}
		if err := run.fault(applyFault{Kind: kind.name, Row: row, Field: name}, UnknownField(name, names)); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// create makes a record for an entry.
func (run *applyRun) create(kind *applyKind, row int, body *Body, seen map[any]int) error {
	if kind.name != "webhook" && kind.name != "token" { // of these, several can have the same name
		found, err := kind.find(run.tx, run.request, body)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			name := found[0].fields[kind.mark]
			return run.fault(applyFault{Kind: kind.name, Row: row, Field: kind.mark}, ErrConflict.With("%s %q appears twice: %s %d has it too.", kind.mark, name, kind.name, seen[found[0].id]))
		}
	}
	made, secret, err := kind.create(run.tx, run.request, body)
	if err != nil {
		return run.explain(kind, row, body, err, nil)
	}
	if err := Permit(run.request, kind.endpoints[applyCreate]); err != nil {
		return err
	}
	seen[made.id] = row
	shown := maps.Clone(made.fields)
	maps.DeleteFunc(shown, func(name string, _ any) bool { return !body.Has(name) }) // such as the usual end, which depends on the time
	diffs, err := differences(nil, shown)
	if err != nil {
		return err
	}
	run.steps = append(run.steps, applyStep{Action: applyCreate, Kind: kind.name, Ref: made.fields["ref"], Name: made.name, Secret: secret != "", Fields: diffs})
	if secret != "" {
		run.secrets = append(run.secrets, applySecret{kind.name, made.id, made.fields["ref"], made.name, secret})
	}
	return nil
}

// change brings a record to the state of an entry.
func (run *applyRun) change(kind *applyKind, row int, body *Body, was *applied) error {
	patch, err := kind.patch(body, was)
	if err != nil || len(patch.Names()) == 0 {
		return err
	}
	after, keep, err := kind.change(run.tx, run.request, was, patch)
	if err != nil {
		return run.explain(kind, row, patch, err, was)
	}
	diffs, err := differences(was.fields, after.fields)
	if err != nil || len(diffs) == 0 {
		return err
	}
	if endpoint := kind.endpoints[applyChange]; endpoint != "" {
		if err := Permit(run.request, endpoint); err != nil {
			return err
		}
	}
	if err := keep(); err != nil {
		return run.fault(applyFault{Kind: kind.name, Row: row, Field: strings.Split(diffs[0].Field, ".")[0]}, err)
	}
	run.steps = append(run.steps, applyStep{Action: applyChange, Kind: kind.name, ID: was.id, Ref: was.fields["ref"], Name: was.name, Fields: diffs})
	return nil
}

// checkPlanSize returns an error if a plan with so many changes has more than one request may make.
func checkPlanSize(changes int) error {
	if changes <= maxApply {
		return nil
	}
	return ErrValidation.With("The plan has more than %s changes, the maximum of one request. Nothing was changed. Apply a file with fewer entries, or without prune.", Figure(maxApply))
}

// ends ends the records that are not among seen, and returns the steps.
func (run *applyRun) ends(kind *applyKind, seen map[any]int) (steps []applyStep, err error) {
	list, err := kind.all(run.tx, run.request, func(id any) bool { return seen[id] > 0 })
	if err != nil {
		return nil, err
	}
	if err := checkPlanSize(len(list)); err != nil {
		return nil, err
	}
	for _, was := range list {
		if err := Permit(run.request, kind.endpoints[kind.end]); err != nil {
			return nil, err
		}
		if err := kind.drop(run.tx, run.request, was); err != nil {
			return nil, err
		}
		steps = append(steps, applyStep{Action: kind.end, Kind: kind.name, ID: was.id, Ref: was.fields["ref"], Name: was.name, Fields: []applyDiff{}})
	}
	return steps, nil
}

// export answers with what is stored in the form that apply accepts, without secrets: all owners, the keys that are not
// revoked, the webhooks that no key has created, and the admin tokens that can be used.
func (a *applier) export(w http.ResponseWriter, r *Request) error {
	answer := map[string]any{}
	err := r.View(a.store, func(tx *Tx) error {
		for _, kind := range a.kinds() {
			list, err := kind.all(tx, r, func(any) bool { return false })
			if err != nil {
				return err
			}
			if len(list) > maxApply {
				return ErrConflict.With("There are more than %s %s, the maximum of one file.", Figure(maxApply), kind.member)
			}
			rows := make([]map[string]any, 0, len(list))
			for _, one := range list {
				rows = append(rows, one.fields)
			}
			if kind.name == "key" {
				sorted.Func(rows, func(a, b map[string]any) int { return strings.Compare(a["ref"].(string), b["ref"].(string)) })
			}
			answer[kind.member] = rows
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, answer)
}
