package main

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxValues is the most values that one contact or account may have.
const maxValues = 1000

// assignment is what a body asks to set (contract 6.5, 6.6).
type assignment struct {
	values map[string]any // null takes a value away
	names  []string       // in the order of the alphabet, so that errors are the same each time
	auto   bool           // unknown names get a definition
}

func readAssignment(r *Request) (a assignment, err error) {
	body, err := r.ReadBody(false)
	if err != nil {
		return a, err
	}
	err = a.read(body)
	return a, err
}

func (a *assignment) read(body *Body) error {
	if raw := body.Raw("variables"); len(raw) == 0 || raw[0] != '{' {
		return ErrMissing.With("variables is missing. Send an object of names and values.")
	}
	body.Map("variables", &a.values)
	if body.Given("auto_create_variables") {
		body.Bool("auto_create_variables", &a.auto)
	}
	a.names = slices.Sorted(maps.Keys(a.values))
	return body.Err()
}

// apply gives the values that result from an assignment to what was set
// before, which it leaves as it is. Definitions are made on the way; on an
// error the transaction is to be given up, so that nothing is set.
func (a assignment) apply(tx *Tx, owner uint64, context string, before Values, now time.Time) (Values, error) {
	after := maps.Clone(before)
	if after == nil {
		after = Values{}
	}
	for _, name := range a.names {
		value := a.values[name]
		d, err := FindVariable(tx, owner, context, name)
		_, set := after[name]
		switch {
		case err == nil:
		case !errors.Is(err, ErrNotFound):
			return nil, err
		case value == nil && (set || a.auto): // its definition may be gone, or was never needed
		case !a.auto:
			return nil, ErrUndefinedVariable.With("There is no %s variable %q. Create it first, or set auto_create_variables.", context, name)
		default:
			if d, err = define(tx, owner, context, name, value, now); err != nil {
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
	if len(after) > maxValues && len(after) > len(before) {
		return nil, ErrValidation.With("That would make %d values, the most is %d. Set some to null first.", len(after), maxValues)
	}
	return after, nil
}

// define makes the definition of a name that has none, by the value that it is
// to hold.
func define(tx *Tx, owner uint64, context, name string, value any, now time.Time) (Variable, error) {
	if err := CheckVariableName(name); err != nil {
		return Variable{}, err
	}
	d := Variable{Owner: owner, Name: name, DisplayName: DisplayWord(name), Context: context, CreatedAt: now}
	switch v := value.(type) {
	case bool:
		d.Type = VariableBoolean
	case json.Number:
		d.Type = VariableNumber
	case string:
		d.Type = VariableText
		if isDate(v) {
			d.Type = VariableDate
		}
	default:
		return d, ErrInvalidValue.With("%s must be a text, a number or true or false.", name)
	}
	return AddVariable(tx, d)
}

// Accept gives a value in the form in which it is stored (table in contract
// 6), ErrInvalidValue where the definition does not take it.
func (v Variable) Accept(value any) (any, error) {
	text, isText := value.(string)
	number, isNumber := value.(json.Number)
	flag, isFlag := value.(bool)
	switch v.Type {
	case VariableText:
		if isText && len(text) <= MaxString {
			return text, nil
		}
		return nil, ErrInvalidValue.With("%s must be a string of at most %d bytes.", v.Name, MaxString)
	case VariableNumber:
		if isNumber {
			return number, nil
		}
		if text = strings.TrimSpace(text); isText && isJSONNumber(text) {
			return json.Number(text), nil
		}
		return nil, ErrInvalidValue.With("%s must be a number, or a string that is one, such as \"42\".", v.Name)
	case VariableDate:
		if isText && isDate(text) {
			return text, nil
		}
		return nil, ErrInvalidValue.With("%s must be an ISO 8601 date or time, such as 2026-02-03 or 2026-02-03T09:15:00Z.", v.Name)
	case VariableBoolean:
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

// isJSONNumber says whether a text is a number as JSON writes it (RFC 8259
// section 6) and one that a computer can hold.
func isJSONNumber(text string) bool {
	if !json.Valid([]byte(text)) {
		return false
	}
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

// isDate says whether a text is an ISO 8601 date, or a date and a time, with or
// without an offset.
func isDate(text string) bool {
	for _, layout := range []string{time.DateOnly, time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15:04Z07:00"} {
		if _, err := time.Parse(layout, text); err == nil {
			return true
		}
	}
	return false
}

// Contexts serves the values of context variables.
type Contexts struct{ store *Store }

// NewContexts serves the values in a store.
func NewContexts(store *Store) *Contexts { return &Contexts{store} }

// Routes lists the endpoints.
func (c *Contexts) Routes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/contacts/:contact_id/context", Permission: WriteContacts, Handle: c.setContact},
		{Method: "POST", Path: "/api/v1/business/context", Permission: WriteContacts, Handle: c.setBusiness},
	}
}

// setContact sets values of a contact: all of them or none.
func (c *Contexts) setContact(w http.ResponseWriter, r *Request) error {
	a, err := readAssignment(r)
	if err != nil {
		return err
	}
	id, err := r.NumberParam("contact_id")
	if err != nil {
		return err
	}
	err = c.store.Update(func(tx *Tx) error {
		scope, err := ScopeOf(tx, r.Key.Owner)
		if err != nil {
			return err
		}
		contact, err := FindContact(tx, scope, id)
		if err != nil {
			return err
		}
		if err := SeedVariables(tx, r.Key.Owner, r.Now); err != nil {
			return err
		}
		if contact.CustomContext, err = a.apply(tx, r.Key.Owner, ContextContact, contact.CustomContext, r.Now); err != nil {
			return err
		}
		return SaveContact(tx, contact)
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"message": "Saved.", "contact_id": id})
}

// businessBucket holds the values of each account.
const businessBucket = "business_context"

// BusinessContext gives the values of an account, which are the caller's own.
func BusinessContext(tx *Tx, owner uint64) (Values, error) {
	values := Values{}
	stored, err := tx.Get(businessBucket, IDKey(owner))
	if err != nil || stored == nil {
		return values, err
	}
	return values, json.Unmarshal(stored, &values)
}

// setBusiness sets values of the account: all of them or none.
func (c *Contexts) setBusiness(w http.ResponseWriter, r *Request) error {
	a, err := readAssignment(r)
	if err != nil {
		return err
	}
	err = c.store.Update(func(tx *Tx) error { return a.save(tx, r.Key.Owner, r.Now) })
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Saved."})
}

// save sets values of an account.
func (a assignment) save(tx *Tx, owner uint64, now time.Time) error {
	if err := SeedVariables(tx, owner, now); err != nil {
		return err
	}
	values, err := BusinessContext(tx, owner)
	if err != nil {
		return err
	}
	if values, err = a.apply(tx, owner, ContextBusiness, values, now); err != nil {
		return err
	}
	stored, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return tx.Put(businessBucket, IDKey(owner), stored)
}

// AdminRoutes lists the operator's endpoints: there is no published one to
// read the business context back (contract 9).
func (c *Contexts) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/business-context", Handle: c.business},
		{Method: "PATCH", Path: "/admin/v1/business-context", Handle: c.changeBusiness},
	}
}

// changeBusiness sets values of an owner's account, DefaultOwner's where the
// body names none: all of them or none.
func (c *Contexts) changeBusiness(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody(false)
	if err != nil {
		return err
	}
	var a assignment
	name := DefaultOwner
	if body.Given("owner") {
		body.String("owner", &name)
	}
	if err := a.read(body); err != nil {
		return err
	}
	var values Values
	by := r.Deed()
	by.Detail = map[string]any{"owner": name, "variables": a.names} // the values are no record that the log could compare
	err = by.Update(c.store, func(tx *Tx) error {
		o, err := EnsureOwner(tx, name, r.Now)
		if err != nil {
			return err
		}
		name = o.Name
		if err := a.save(tx, o.ID, r.Now); err != nil {
			return err
		}
		values, err = BusinessContext(tx, o.ID)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"owner": name, "variables": values})
}

func (c *Contexts) business(w http.ResponseWriter, r *Request) error {
	name := r.URL.Query().Get("owner")
	if name == "" {
		name = DefaultOwner
	}
	var values Values
	err := c.store.View(func(tx *Tx) error {
		o, err := OwnerNamed(tx, name)
		if err != nil {
			return err
		}
		values, err = BusinessContext(tx, o.ID)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"owner": name, "variables": values})
}

// PromptVariables gives the values for {{name}} in the prompts of a call: what
// the call brings goes before what its contact has, and that before what the
// account has, whose names begin with business_ (contract 3.3, 6).
func PromptVariables(business, contact, call Values) Values {
	all := Values{}
	for name, value := range business {
		all["business_"+name] = value
	}
	maps.Copy(all, contact)
	maps.Copy(all, call)
	return all
}
