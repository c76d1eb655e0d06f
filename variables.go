package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The kinds of context variables (contract 6).
const (
	VariableText    = "text"
	VariableNumber  = "number"
	VariableDate    = "date"
	VariableBoolean = "boolean"
	VariableSelect  = "select"
	ContextContact  = "contact"
	ContextBusiness = "business"
)

// The most that an owner may define, and that one definition may hold.
const (
	maxVariables = 1000
	maxOptions   = 200
	maxVarName   = 100 // bytes
)

// Variable says that a context variable exists, and which values it takes.
type Variable struct {
	ID          uint64    `json:"id"`
	Owner       uint64    `json:"owner"`
	Name        string    `json:"name"`
	DisplayName string    `json:"display_name"`
	Description string    `json:"description,omitempty"`
	Type        string    `json:"variable_type"`
	Context     string    `json:"context_type"`
	Options     []string  `json:"select_options,omitempty"`
	Default     bool      `json:"is_default,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
}

var variableTable = Table[Variable]{
	Name: "variables", Audit: Told{Object: "variable"},
	Key: func(v Variable) []byte { return IDKey(v.ID) },
	Indexes: []Index[Variable]{
		{"name", func(v Variable) [][]byte { return [][]byte{variableKey(v.Owner, v.Context, v.Name)} }},
	},
}

func variableKey(owner uint64, context, name string) []byte {
	return append(IDKey(owner), context+"\x00"+name...)
}

// builtin are the definitions that every account has (contract 6.1; which ones
// is not published).
func builtin() []Variable {
	return []Variable{
		{Name: "preferred_language", DisplayName: "Preferred Language", Description: "Language to speak with the contact", Type: VariableText, Context: ContextContact, Default: true},
		{Name: "company_name", DisplayName: "Company Name", Description: "Name of the business, as agents say it", Type: VariableText, Context: ContextBusiness, Default: true},
	}
}

// SeedVariables gives an account the built-in definitions, the first time.
func SeedVariables(tx *Tx, owner uint64, now time.Time) error {
	if tx.Has("variables_seeded", IDKey(owner)) {
		return nil
	}
	for _, v := range builtin() {
		if _, err := variableTable.One(tx, "name", variableKey(owner, v.Context, v.Name)); err == nil {
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

// FindVariable reads the definition of a name; ErrNotFound.
func FindVariable(tx *Tx, owner uint64, context, name string) (Variable, error) {
	return variableTable.One(tx, "name", variableKey(owner, context, name))
}

// AddVariable stores a new definition: ErrDuplicate where the name is taken.
func AddVariable(tx *Tx, v Variable) (Variable, error) {
	_, err := FindVariable(tx, v.Owner, v.Context, v.Name)
	if err == nil {
		return v, ErrDuplicate.With("A %s variable named %s exists.", v.Context, v.Name)
	}
	if !errors.Is(err, ErrNotFound) {
		return v, err
	}
	count := 0
	for range variableTable.Find(tx, "name", IDKey(v.Owner), false) {
		count++
	}
	if count >= maxVariables {
		return v, ErrValidation.With("There are %d context variables, which is the most. Delete one first.", count)
	}
	if v.ID, err = variableTable.NextID(tx); err != nil {
		return v, err
	}
	return v, variableTable.Put(tx, v)
}

// Variables serves the definitions of context variables and their values.
type Variables struct {
	store   *Store
	catalog Catalog[Variable]
}

// NewVariables serves the context variables of a store.
func NewVariables(store *Store) *Variables {
	return &Variables{store, Catalog[Variable]{
		Store: store, Name: "variables", Table: variableTable, Save: saveVariable, Show: showVariable, Match: matchVariable, Drop: mayDrop,
	}}
}

// Tables lists what it keeps in the store, for checks.
func (v *Variables) Tables() []Checked { return []Checked{variableTable} }

// Routes lists the endpoints.
func (v *Variables) Routes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/context-variables", Permission: ReadContacts, Handle: v.list},
		{Method: "POST", Path: "/api/v1/context-variables/create", Permission: WriteContacts, Handle: v.create},
		{Method: "PUT", Path: "/api/v1/context-variables/:variable_id/update", Permission: WriteContacts, Handle: v.update},
		{Method: "PATCH", Path: "/api/v1/context-variables/:variable_id/update", Permission: WriteContacts, Handle: v.update},
		{Method: "DELETE", Path: "/api/v1/context-variables/:variable_id/delete", Permission: WriteContacts, Handle: v.remove},
	}
}

// AdminRoutes lists the operator's endpoints, for the definitions of every
// account.
func (v *Variables) AdminRoutes() []Route { return v.catalog.Routes() }

// saveVariable is what the operator's endpoint does with a body. Name, context
// and owner of a definition stay.
func saveVariable(tx *Tx, r *Request, old *Variable, b *Body) (Variable, error) {
	if old != nil {
		d := *old
		if err := readDefinition(b, &d, false); err != nil {
			return d, err
		}
		return d, variableTable.Put(tx, d)
	}
	d, owner := Variable{CreatedAt: r.Now}, ""
	b.String("owner", &owner)
	if err := readDefinition(b, &d, true); err != nil {
		return d, err
	}
	o, err := EnsureOwner(tx, owner, r.Now)
	if err != nil {
		return d, err
	}
	d.Owner = o.ID
	if err := SeedVariables(tx, o.ID, r.Now); err != nil {
		return d, err
	}
	return AddVariable(tx, d)
}

func showVariable(tx *Tx, v Variable) (any, error) {
	shown := v.row()
	shown["owner"], shown["created_at"] = OwnerName(tx, v.Owner), Seconds(v.CreatedAt)
	return shown, nil
}

func matchVariable(tx *Tx, v Variable, q url.Values) bool {
	if owner := q.Get("owner"); owner != "" && owner != OwnerName(tx, v.Owner) {
		return false
	}
	return (q.Get("context_type") == "" || q.Get("context_type") == v.Context) && strings.Contains(v.Name, strings.ToLower(q.Get("search")))
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
	if v.Type == VariableSelect {
		row["select_options"] = v.Options
	}
	return row
}

// list gives the definitions by id. An unknown context_type is
// validation_error, as 6.1 proposes.
func (v *Variables) list(w http.ResponseWriter, r *Request) error {
	context := r.URL.Query().Get("context_type")
	if context != "" && context != ContextContact && context != ContextBusiness {
		return ErrValidation.With("context_type must be contact or business; got %q.", context)
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
			if context == "" || d.Context == context {
				rows = append(rows, d.row())
			}
		}
		return err
	}
	err := v.store.View(read)
	if err == nil && !seeded {
		err = v.store.Update(func(tx *Tx) error {
			if err := SeedVariables(tx, r.Key.Owner, r.Now); err != nil {
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

// variablesOf gives the definitions of an account, by id.
func variablesOf(tx *Tx, owner uint64) ([]Variable, error) {
	var all []Variable
	for _, key := range variableTable.Find(tx, "name", IDKey(owner), false) {
		d, err := variableTable.Get(tx, key)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Variable) int { return bytes.Compare(IDKey(a.ID), IDKey(b.ID)) })
	return all, nil
}

var variableName = regexp.MustCompile(`^[a-z0-9_]+$`)

// CheckVariableName says what is wrong with a name, nil for nothing.
func CheckVariableName(name string) error {
	if !variableName.MatchString(name) || len(name) > maxVarName {
		return ErrValidation.With("name must be 1 to %d of a-z, 0-9 and _; got %q.", maxVarName, name)
	}
	return nil
}

// readDefinition sets what a body says of a definition. Errors as 6.2: what is
// missing first, then what is wrong.
func readDefinition(b *Body, d *Variable, fresh bool) error {
	if fresh {
		for _, name := range []string{"name", "display_name", "variable_type", "context_type"} {
			if raw := b.Raw(name); !b.Given(name) || string(raw) == `""` {
				return ErrMissing.With("%s is missing.", name)
			}
		}
		b.String("name", &d.Name)
		b.Word("context_type", &d.Context, ContextContact, ContextBusiness)
	}
	b.String("display_name", &d.DisplayName)
	b.String("description", &d.Description)
	if b.Given("variable_type") {
		b.Word("variable_type", &d.Type, VariableText, VariableNumber, VariableDate, VariableBoolean, VariableSelect)
	}
	if b.Given("select_options") {
		b.Strings("select_options", &d.Options)
	}
	if err := b.Err(); err != nil {
		return err
	}
	if err := CheckVariableName(d.Name); err != nil {
		return err
	}
	if strings.TrimSpace(d.DisplayName) == "" {
		return ErrValidation.With("display_name must not be empty.")
	}
	if d.Type != VariableSelect {
		d.Options = nil
		return nil
	}
	return checkOptions(d.Options)
}

func checkOptions(options []string) error {
	if len(options) == 0 {
		return ErrMissing.With("select_options is missing. A select variable needs at least one.")
	}
	if len(options) > maxOptions {
		return ErrValidation.With("select_options has %d entries, the most is %d.", len(options), maxOptions)
	}
	for i, o := range options {
		if o == "" || len(o) > MaxTag || slices.Contains(options[:i], o) {
			return ErrValidation.With("select_options[%d] is empty, longer than %d bytes or there twice.", i, MaxTag)
		}
	}
	return nil
}

func (v *Variables) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	d := Variable{Owner: r.Key.Owner, CreatedAt: r.Now}
	if err := readDefinition(body, &d, true); err != nil {
		return err
	}
	err = v.store.Update(func(tx *Tx) error {
		if err := SeedVariables(tx, r.Key.Owner, r.Now); err != nil {
			return err
		}
		made, err := AddVariable(tx, d)
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

// own reads a definition of the key's account by the id in the path.
func (v *Variables) own(tx *Tx, r *Request) (Variable, error) {
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

// update changes what is sent: PUT behaves as PATCH, name and context_type in
// the body are ignored, values that are set are not checked again (6.3).
func (v *Variables) update(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	var d Variable
	err = v.store.Update(func(tx *Tx) (err error) {
		if d, err = v.own(tx, r); err != nil {
			return err
		}
		if err := readDefinition(body, &d, false); err != nil {
			return err
		}
		return variableTable.Put(tx, d)
	})
	if err != nil {
		return err
	}
	return d.answer(w, http.StatusOK, "Updated.")
}

// remove deletes a definition; values that are set stay (6.4).
func (v *Variables) remove(w http.ResponseWriter, r *Request) error {
	err := v.store.Update(func(tx *Tx) error {
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
