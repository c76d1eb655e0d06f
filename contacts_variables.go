package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/sorted"
	"latchkey/internal/strictjson"
)

// The types of context variables, followed by their contexts (contract 6). A variable has a value
// for each contact, or one value for the business of the owner.
const (
	variableText    = "text"
	variableNumber  = "number"
	variableDate    = "date"
	variableBoolean = "boolean"
	variableSelect  = "select"
	contextContact  = "contact"
	contextBusiness = "business"
)

func variableTypes() []string {
	return []string{variableText, variableNumber, variableDate, variableBoolean, variableSelect}
}

func contextTypes() []string { return []string{contextContact, contextBusiness} }

// Variable is the definition of a context variable. It determines which values the variable
// accepts.
type Variable struct {
	ID          uint64    `json:"id"`
	Owner       uint64    `json:"owner"`
	Name        string    `json:"name"`
	DisplayName string    `json:"display_name"`
	Description string    `json:"description,omitempty"`
	Type        string    `json:"variable_type"`
	Context     string    `json:"context_type"`
	Options     []string  `json:"select_options,omitempty"` // accepted values if Type is select, otherwise nil
	Default     bool      `json:"is_default,omitempty"`     // built-in, so it cannot be deleted
	CreatedAt   time.Time `json:"created_at"`
	Authors
}

var variableTable = Table[Variable]{
	Name: "variables", Bounded: "context variable", Audit: AuditPolicy{Object: "variable"},
	Owner: func(v Variable) uint64 { return v.Owner },
	Key:   func(v Variable) []byte { return IDKey(v.ID) },
	Indexes: []Index[Variable]{
		{"name", func(v Variable) [][]byte { return [][]byte{variableKey(v.Owner, v.Context, v.Name)} }},
	},
	List: &Listing[Variable]{
		Sets: []Index[Variable]{
			{"scope", func(v Variable) [][]byte { return ScopeKeys(v.Owner, 0) }},
			SandboxSet(func(v Variable) uint64 { return v.Owner }),
			{"context_type", func(v Variable) [][]byte { return [][]byte{[]byte(v.Context)} }},
		},
		Text: func(v Variable) []string { return []string{v.Name} },
	},
}

func variableKey(owner uint64, kind, name string) []byte {
	return append(IDKey(owner), kind+"\x00"+name...)
}

// builtin returns the definitions that every owner has from the start (contract 6.1). The contract
// does not list them, so this list is Latchkey's own.
func builtin() []Variable {
	return []Variable{
		{Name: "preferred_language", DisplayName: "Preferred Language", Description: "Language to speak with the contact", Type: variableText, Context: contextContact, Default: true},
		{Name: "company_name", DisplayName: "Company Name", Description: "Name of the business, as agents say it", Type: variableText, Context: contextBusiness, Default: true},
	}
}

// seedVariables stores the built-in definitions of an owner when it is called for the first time
// for this owner. Later calls do nothing.
func seedVariables(tx *Tx, owner uint64, now time.Time) error {
	if tx.Has("variables_seeded", IDKey(owner)) {
		return nil
	}
	defer tx.AsService()()
	for _, v := range builtin() {
		if variableTable.Has(tx, "name", variableKey(owner, v.Context, v.Name)) {
			continue
		}
		var err error
		if v.ID, err = variableTable.NextID(tx); err != nil {
			return err
		}
		v.Owner, v.CreatedAt = owner, now
		if err := variableTable.Put(tx, v); err != nil {
			return err
		}
	}
	return tx.Put("variables_seeded", IDKey(owner), []byte{1})
}

// findVariable returns the owner's definition with this name. kind is its context, contextContact
// or contextBusiness. It returns ErrNotFound if there is no such definition.
func findVariable(tx *Tx, owner uint64, kind, name string) (Variable, error) {
	return variableTable.One(tx, "name", variableKey(owner, kind, name))
}

// addVariable stores a new definition and returns it with its id. It returns ErrDuplicate if the
// owner already has a definition with this name and context. It returns ErrValidation if the owner
// already has as many definitions as Bounds.Variables allows.
func addVariable(tx *Tx, v Variable) (Variable, error) {
	_, err := findVariable(tx, v.Owner, v.Context, v.Name)
	if err == nil {
		return v, ErrDuplicate.With("A %s variable named %s already exists.", v.Context, v.Name)
	}
	if !errors.Is(err, ErrNotFound) {
		return v, err
	}
	count := 0
	for range variableTable.Find(tx, "name", IDKey(v.Owner), Forward) {
		count++
	}
	if most := tx.Bounds.Variables; most > 0 && count >= most {
		return v, ErrValidation.With("There are %s context variables; the maximum is %s (variables). Delete one first.", Figure(count), Figure(most))
	}
	if v.ID, err = variableTable.NextID(tx); err != nil {
		return v, err
	}
	return v, variableTable.Put(tx, v)
}

// variables serves the endpoints for the definitions of context variables.
type variables struct {
	store   *Store
	catalog AdminRecords[Variable]
}

// NewVariables returns the endpoints for the definitions of context variables in store.
func NewVariables(store *Store) *variables {
	return &variables{store, AdminRecords[Variable]{
		Store: store, Name: "variables", Table: variableTable, Save: saveVariable, Show: showVariable, Filter: ReadFilter, Drop: mayDrop,
		Body: BodyFields{
			Set:   []string{"name", "display_name", "variable_type", "context_type", "description", "select_options", "owner"},
			Shown: []string{"id", "is_default", "sandbox", "created_at", "created_by", "updated_by"},
		},
		Filters: []string{"search", "context_type", "owner"}, Words: map[string][]string{"context_type": contextTypes()},
	}}
}

// ClearBusinessContext removes all values from the business context of an owner or a sandbox.
func ClearBusinessContext(tx *Tx, owner uint64) error {
	if !tx.Has(businessBucket, IDKey(owner)) {
		return nil
	}
	return OwnedBucket(businessBucket).Put(tx, owner, []byte("{}"))
}

// VariableTables returns the table of definitions and the bucket of business contexts, for store
// checks.
func VariableTables() []Checked { return []Checked{&variableTable, OwnedBucket(businessBucket)} }

// Routes returns the API endpoints for definitions.
func (v *variables) Routes() []Route {
	return []Route{
		// The first list of an owner stores the built-in definitions. It must not fail if storage is full.
		{Method: "GET", Path: "/api/v1/context-variables", Permission: ReadContacts, Handle: v.list, Finishes: true},
		{Method: "POST", Path: "/api/v1/context-variables/create", Permission: WriteContacts, Handle: v.create},
		{Method: "PUT", Path: "/api/v1/context-variables/:variable_id/update", Permission: WriteContacts, Handle: v.update},
		{Method: "PATCH", Path: "/api/v1/context-variables/:variable_id/update", Permission: WriteContacts, Handle: v.update},
		{Method: "DELETE", Path: "/api/v1/context-variables/:variable_id/delete", Permission: WriteContacts, Handle: v.remove, Finishes: true},
	}
}

// AdminRoutes returns the admin endpoints for the definitions of all owners.
func (v *variables) AdminRoutes() []Route { return v.catalog.Routes() }

// saveVariable creates a definition if old is nil, and changes old otherwise. It serves the admin
// endpoint. A change ignores name and context_type.
func saveVariable(tx *Tx, r *Request, old *Variable, b *Body) (Variable, error) {
	if old != nil {
		d := *old
		if err := errors.Join(readDefinition(b, &d), KeepOwner(tx, b, d.Owner, "variable")); err != nil {
			return d, err
		}
		return d, variableTable.Put(tx, d)
	}
	d, owner := Variable{CreatedAt: r.Now}, ""
	b.String("owner", NameLength, &owner)
	if err := readNewDefinition(b, &d); err != nil {
		return d, err
	}
	o, err := EnsureOwner(tx, owner, r.Now)
	if err != nil {
		return d, err
	}
	d.Owner = o.ID
	if err := seedVariables(tx, o.ID, r.Now); err != nil {
		return d, err
	}
	return addVariable(tx, d)
}

func showVariable(tx *Tx, v Variable) (any, error) {
	shown := v.row()
	shown["owner"], shown["sandbox"], shown["created_at"] = OwnerName(tx, v.Owner), IsSandbox(v.Owner), Seconds(v.CreatedAt)
	v.ShowAuthors(shown)
	return shown, nil
}

func mayDrop(_ *Tx, v Variable) error {
	if v.Default {
		return ErrDeleteNotAllowed
	}
	return nil
}

func (v Variable) row() map[string]any {
	row := map[string]any{
		"id": v.ID, "name": v.Name, "display_name": v.DisplayName, "description": v.Description, "variable_type": v.Type,
		"context_type": v.Context, "is_default": v.Default, "select_options": nil,
	}
	if v.Type == variableSelect {
		row["select_options"] = v.Options
	}
	return row
}

// list answers with the definitions of the key's owner, sorted by id. The first request of an owner
// also stores the built-in definitions. So only that request needs a write transaction.
func (v *variables) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query("context_type")
	kind := q.Get("context_type")
	if err = errors.Join(err, CheckWord(q, "context_type", contextTypes()...)); err != nil {
		return err
	}
	seeded := false
	rows := []any{}
	read := func(tx *Tx) error {
		rows = []any{}
		if seeded = tx.Has("variables_seeded", IDKey(r.Key.Owner)); !seeded {
			return nil
		}
		all, err := variablesOf(tx, r.Key.Owner)
		for _, d := range all {
			if kind == "" || d.Context == kind {
				rows = append(rows, d.row())
			}
		}
		return err
	}
	err = v.store.View(read)
	if err == nil && !seeded {
		err = r.Update(v.store, func(tx *Tx) error {
			if err := seedVariables(tx, r.Key.Owner, r.Now); err != nil {
				return err
			}
			return read(tx)
		})
	}
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"count": len(rows), "variables": rows})
}

// variablesOf returns the definitions of an owner, sorted by id.
func variablesOf(tx *Tx, owner uint64) ([]Variable, error) {
	var all []Variable
	for _, key := range variableTable.Find(tx, "name", IDKey(owner), Forward) {
		d, err := variableTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	sorted.Func(all, func(a, b Variable) int { return bytes.Compare(IDKey(a.ID), IDKey(b.ID)) })
	return all, nil
}

var variableName = regexp.MustCompile(`^[a-z0-9_]+$`)

// checkVariableName returns ErrValidation if name is not a valid name of a context variable.
func checkVariableName(name string) error {
	if !variableName.MatchString(name) || len(name) > WordLength {
		return ErrValidation.With("name must consist of 1 to %d characters from a-z, 0-9 and _; got %q.", WordLength, name)
	}
	return nil
}

// readNewDefinition sets the fields of a new definition from the body. It returns ErrMissing if a
// required field is missing, otherwise ErrValidation if a value is wrong (contract 6.2).
func readNewDefinition(b *Body, d *Variable) error {
	for _, name := range []string{"name", "display_name", "variable_type", "context_type"} {
		if raw := b.Raw(name); !b.Given(name) || string(raw) == `""` {
			return ErrMissing.With("%s is missing.", name)
		}
	}
	b.String("name", AnyLength, &d.Name)
	b.Word("context_type", &d.Context, contextTypes()...)
	return readDefinition(b, d)
}

// readDefinition sets the fields of d that the body contains, except name and context_type, which
// cannot change. It returns ErrMissing if d is of type select and has no options, otherwise
// ErrValidation if a value is wrong.
func readDefinition(b *Body, d *Variable) error {
	b.String("display_name", NameLength, &d.DisplayName)
	b.String("description", ReasonLength, &d.Description)
	if b.Given("variable_type") {
		b.Word("variable_type", &d.Type, variableTypes()...)
	}
	if b.Given("select_options") {
		b.Strings("select_options", ListBound{MaxOptions, NameLength}, &d.Options)
	}
	if err := b.Err(); err != nil {
		return err
	}
	if err := checkVariableName(d.Name); err != nil {
		return err
	}
	if strings.TrimSpace(d.DisplayName) == "" {
		return ErrValidation.With("display_name must not be empty.")
	}
	if d.Type != variableSelect {
		d.Options = nil
		return nil
	}
	return checkOptions(d.Options)
}

func checkOptions(options []string) error {
	if len(options) == 0 {
		return ErrMissing.With("select_options is missing. A variable of type select needs at least one option.")
	}
	for i, o := range options {
		if o == "" || slices.Contains(options[:i], o) {
			return ErrValidation.With("select_options[%d] is empty or appears twice.", i)
		}
	}
	return nil
}

func (v *variables) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	d := Variable{Owner: r.Key.Owner, CreatedAt: r.Now}
	if err := readNewDefinition(body, &d); err != nil {
		return err
	}
	err = r.Update(v.store, func(tx *Tx) error {
		if err := seedVariables(tx, r.Key.Owner, r.Now); err != nil {
			return err
		}
		made, err := addVariable(tx, d)
		d.ID = made.ID
		return err
	})
	if err != nil {
		return err
	}
	return d.answer(w, http.StatusCreated, "Created.")
}

func (v Variable) answer(w http.ResponseWriter, status int, message string) error {
	return WriteJSON(w, status, map[string]any{"id": v.ID, "name": v.Name, "display_name": v.DisplayName, "message": message})
}

// own returns the definition whose id is in the request path. It returns ErrNotFound if the key's
// owner has no such definition.
func (v *variables) own(tx *Tx, r *Request) (Variable, error) {
	id, err := r.NumberParam("variable_id")
	if err != nil {
		return Variable{}, err
	}
	d, err := variableTable.Get(tx, IDKey(id))
	if err == nil && d.Owner != r.Key.Owner {
		err = ErrNotFound
	}
	return d, err
}

// update changes the fields of a definition that the body contains. PUT and PATCH do the same. name
// and context_type cannot change, so update ignores them. It does not check existing values against
// the changed definition (contract 6.3).
func (v *variables) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	var d Variable
	err = r.Update(v.store, func(tx *Tx) (err error) {
		if d, err = v.own(tx, r); err != nil {
			return err
		}
		if err := readDefinition(body, &d); err != nil {
			return err
		}
		return variableTable.Put(tx, d)
	})
	if err != nil {
		return err
	}
	return d.answer(w, http.StatusOK, "Updated.")
}

// remove deletes a definition. The values of the variable are kept (contract 6.4).
func (v *variables) remove(w http.ResponseWriter, r *Request) error {
	err := r.Update(v.store, func(tx *Tx) error {
		d, err := v.own(tx, r)
		if err != nil {
			return err
		}
		if d.Default {
			return ErrDeleteNotAllowed
		}
		return variableTable.Delete(tx, IDKey(d.ID))
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Deleted."})
}

// assignment holds the context values that a request sets (contract 6.5, 6.6).
type assignment struct {
	values map[string]any // values by variable name; nil removes the stored value
	names  []string       // keys of values, sorted so that the same body always gets the same error
	auto   bool           // whether to create a definition for each unknown name
}

// assignmentTarget selects the definitions that an assignment uses and creates.
type assignmentTarget struct {
	Owner   uint64    // id of the owner of the definitions
	Context string    // contextContact or contextBusiness
	Now     time.Time // CreatedAt of new definitions
}

func readAssignment(r *Request) (a assignment, err error) {
	body, err := r.ReadBody()
	if err != nil {
		return a, err
	}
	err = a.read(body)
	return a, err
}

func (a *assignment) read(body *Body) error {
	if raw := body.Raw("variables"); len(raw) == 0 || raw[0] != '{' {
		return ErrMissing.With("variables is missing or not an object. Send an object with a value for each variable name.")
	}
	body.Map("variables", &a.values)
	if body.Given("auto_create_variables") {
		body.Bool("auto_create_variables", &a.auto)
	}
	a.names = slices.Sorted(maps.Keys(a.values))
	return body.Err()
}

// apply returns the values after the assignment. It does not change before. If auto is set, it also
// stores new definitions. So the caller must roll back tx after an error.
func (a assignment) apply(tx *Tx, t assignmentTarget, before Values) (Values, error) {
	after := maps.Clone(before)
	if after == nil {
		after = Values{}
	}
	for _, name := range a.names {
		value := a.values[name]
		d, err := findVariable(tx, t.Owner, t.Context, name)
		_, set := after[name]
		switch {
		case err == nil:
		case !errors.Is(err, ErrNotFound):
			return nil, err
		case value == nil && (set || a.auto): // no definition is needed to remove a value
		case !a.auto:
			return nil, ErrUndefinedVariable.With("There is no %s variable %q. Create it first, or set auto_create_variables to true.", t.Context, name)
		default:
			d = Variable{Owner: t.Owner, Name: name, Context: t.Context, CreatedAt: t.Now}
			if d, err = define(tx, d, value); err != nil {
				return nil, err
			}
		}
		if value == nil {
			delete(after, name)
			continue
		}
		if after[name], err = d.Accept(value); err != nil {
			return nil, err
		}
	}
	return after, CheckValues(tx, "The "+t.Context+" context", before, after)
}

// define stores the definition d, whose name must not be defined yet. It first sets the display
// name, and the type that fits value, the first value of the variable. It returns the stored
// definition.
func define(tx *Tx, d Variable, value any) (Variable, error) {
	if err := checkVariableName(d.Name); err != nil {
		return Variable{}, err
	}
	d.DisplayName = DisplayWord(d.Name)
	switch v := value.(type) {
	case bool:
		d.Type = variableBoolean
	case json.Number:
		d.Type = variableNumber
	case string:
		d.Type = variableText
		if isDate(v) {
			d.Type = variableDate
		}
	default:
		return d, ErrInvalidValue.With("%s must be a string, a number, true or false.", d.Name)
	}
	return addVariable(tx, d)
}

// Accept returns value in the form in which it is stored. For example, it converts "yes" to true if
// the variable is boolean. It returns ErrInvalidValue if the definition does not allow the value.
func (v Variable) Accept(value any) (any, error) {
	text, isText := value.(string)
	number, isNumber := value.(json.Number)
	flag, isFlag := value.(bool)
	switch v.Type {
	case variableText:
		if isText && Length(text) <= ValueLength {
			return text, nil
		}
		return nil, ErrInvalidValue.With("%s must be a string of at most %s characters.", v.Name, Figure(ValueLength))
	case variableNumber:
		if isNumber {
			return number, nil
		}
		if text = strings.TrimSpace(text); isText && strictjson.IsNumber(text) {
			return json.Number(text), nil
		}
		return nil, ErrInvalidValue.With("%s must be a number or a string that contains one, such as \"42\".", v.Name)
	case variableDate:
		if isText && isDate(text) {
			return text, nil
		}
		return nil, ErrInvalidValue.With("%s must be an ISO 8601 date or time, such as 2026-02-03 or 2026-02-03T09:15:00Z.", v.Name)
	case variableBoolean:
		if isFlag {
			return flag, nil
		}
		switch strings.ToLower(text) {
		case "true", "yes", "1":
			return true, nil
		case "false", "no", "0":
			return false, nil
		}
		return nil, ErrInvalidValue.With("%s must be true or false, or one of the strings true, yes, 1, false, no, 0.", v.Name)
	}
	if isText && slices.Contains(v.Options, text) {
		return text, nil
	}
	return nil, ErrInvalidValue.With("%s must be one of %s.", v.Name, strings.Join(v.Options, ", "))
}

// isDate reports whether text is an ISO 8601 date, with or without a time. The time may have an
// offset from UTC.
func isDate(text string) bool {
	_, err1 := clock.ParseDate(text)
	_, err2 := clock.ParseISO(text)
	return err1 == nil || err2 == nil
}

// contexts serves the endpoints for the values of context variables.
type contexts struct{ store *Store }

// NewContexts returns the endpoints for the context values in store.
func NewContexts(store *Store) *contexts { return &contexts{store} }

// Routes returns the API endpoints, which only set context values.
func (c *contexts) Routes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/contacts/:contact_id/context", Permission: WriteContacts, Handle: c.setContact, Object: contactExists},
		{Method: "POST", Path: "/api/v1/business/context", Permission: WriteContacts, Handle: c.setBusiness},
	}
}

// setContact sets context values of a contact. If a value is refused, none is stored.
func (c *contexts) setContact(w http.ResponseWriter, r *Request) error {
	a, err := readAssignment(r)
	if err != nil {
		return err
	}
	id, err := r.NumberParam("contact_id")
	if err != nil {
		return err
	}
	err = r.Update(c.store, func(tx *Tx) error {
		scope, err := ScopeOfKey(tx, r.Key)
		if err != nil {
			return err
		}
		contact, err := FindContact(tx, scope, id)
		if err != nil {
			return err
		}
		if err := seedVariables(tx, r.Key.Owner, r.Now); err != nil {
			return err
		}
		if contact.CustomContext, err = a.apply(tx, assignmentTarget{r.Key.Owner, contextContact, r.Now}, contact.CustomContext); err != nil {
			return err
		}
		return SaveContact(tx, contact)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"message": "Saved.", "contact_id": id})
}

// businessBucket is the name of the bucket with the business context of each owner.
const businessBucket = "business_context"

// BusinessContext returns the business context of an owner. The result is empty, but not nil, if
// the owner has none. The caller may change the result.
func BusinessContext(tx *Tx, owner uint64) (Values, error) {
	values := Values{}
	stored, err := tx.Get(businessBucket, IDKey(owner))
	if err != nil || stored == nil {
		return values, err
	}
	return values, json.Unmarshal(stored, &values)
}

// setBusiness sets values in the business context of the key's owner. If a value is refused, none
// is stored.
func (c *contexts) setBusiness(w http.ResponseWriter, r *Request) error {
	a, err := readAssignment(r)
	if err != nil {
		return err
	}
	err = r.Update(c.store, func(tx *Tx) error { return a.save(tx, r.Key.Owner, r.Now) })
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Saved."})
}

// save applies the assignment to the business context of an owner and stores the result.
func (a assignment) save(tx *Tx, owner uint64, now time.Time) error {
	if err := seedVariables(tx, owner, now); err != nil {
		return err
	}
	values, err := BusinessContext(tx, owner)
	if err != nil {
		return err
	}
	if values, err = a.apply(tx, assignmentTarget{owner, contextBusiness, now}, values); err != nil {
		return err
	}
	stored, err := json.Marshal(values)
	if err != nil {
		return err
	}
	if err := tx.CheckSize("business context", businessBucket, IDKey(owner), stored); err != nil {
		return err
	}
	tx.Touch("business context of owner "+strconv.FormatUint(LiveOwner(owner), 10), "changed")
	return OwnedBucket(businessBucket).Put(tx, owner, stored)
}

// AdminRoutes returns the admin endpoints. The API has no endpoint that reads the business context,
// so only the operator can read it (contract 9).
func (c *contexts) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/business-context", Handle: c.business, Query: []string{"owner", "sandbox"}},
		{Method: "PATCH", Path: "/admin/v1/business-context", Handle: c.changeBusiness},
	}
}

// changeBusiness sets values in the business context of an owner. The owner is DefaultOwner if the
// body names none. If a value is refused, none is stored.
func (c *contexts) changeBusiness(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(BodyFields{Set: []string{"owner", "variables", "auto_create_variables"}, Shown: []string{"created_by", "updated_by"}})
	if err != nil {
		return err
	}
	var a assignment
	var authors Authors
	name := DefaultOwner
	if body.Given("owner") {
		body.String("owner", NameLength, &name)
	}
	if err := a.read(body); err != nil {
		return err
	}
	var values Values
	by := r.Deed()
	by.Detail = map[string]any{"owner": name, "variables": a.names} // the audit log records changes only of tables, and the values are in none
	err = by.Update(c.store, func(tx *Tx) error {
		o, err := EnsureOwner(tx, name, r.Now)
		if err != nil {
			return err
		}
		name = o.Name
		if err := a.save(tx, o.ID, r.Now); err != nil {
			return err
		}
		values, authors, err = businessIn(tx, o.ID)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shownBusiness(name, values, authors))
}

func (c *contexts) business(w http.ResponseWriter, r *Request) error {
	q, _, err := r.SpaceQuery()
	if err != nil {
		return err
	}
	name := cmp.Or(q.Get("owner"), DefaultOwner)
	q.Set("owner", name)
	var values Values
	var authors Authors
	err = c.store.View(func(tx *Tx) error {
		id, err := SpaceNamed(tx, q)
		if err != nil {
			return err
		}
		values, authors, err = businessIn(tx, id)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shownBusiness(name, values, authors))
}

// businessIn returns the business context of an owner, and which keys created and changed it.
func businessIn(tx *Tx, owner uint64) (values Values, authors Authors, err error) {
	if values, err = BusinessContext(tx, owner); err == nil {
		authors, err = OwnedBucket(businessBucket).Authors(tx, owner)
	}
	return values, authors, err
}

// shownBusiness returns the business context of an owner in the form in which the operator sees it.
func shownBusiness(owner string, values Values, authors Authors) map[string]any {
	shown := map[string]any{"owner": owner, "variables": values}
	authors.ShowAuthors(shown)
	return shown
}
