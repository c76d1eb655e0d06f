package main

import (
	"errors"
	"net/http"
	"net/url"

	"latchkey/internal/strictjson"
)

// AdminRecords serves the admin endpoints for one kind of record: list, create, read, change,
// delete and import. Its functions must be safe for concurrent use.
type AdminRecords[T any] struct {
	Store *Store
	Name  string // plural name of the records, such as "agents"
	Path  string // path below /admin/v1/; "" means Name
	Table Table[T]
	// Save sets the fields of a record from a body, checks the record, stores it and returns it.
	// old is nil for a new record.
	Save func(tx *Tx, r *Request, old *T, b *Body) (T, error)
	// Show returns the form of a record that is sent as JSON.
	Show func(tx *Tx, v T) (any, error)
	// Drop returns an error if a record must not be deleted. If Drop is nil, every record may be
	// deleted.
	Drop func(tx *Tx, v T) error
	// Filters are the names of the query parameters of a list, besides page and limit. "search" looks
	// for words in the text of the Table's Listing. Filter returns the filter of another parameter of a query. It
	// returns ErrNotFound if no record can pass it. If Filter is nil, each parameter has the name of
	// its set and a value of it. Words has the values that a parameter accepts. A parameter that is
	// not in Words accepts any value.
	Filters []string
	Filter  func(tx *Tx, q url.Values, name string) (Filter, error)
	Words   map[string][]string
	// AnyOf returns the filters of which a record must pass one if the list has the parameter name. It
	// returns nil for parameters that Filter knows. It may be nil.
	AnyOf func(tx *Tx, name string) ([]Filter, error)
	// Body are the members that a body with a record may have.
	Body BodyFields
	// Columns are the names of the columns that a CSV import may have. Row converts the cells of
	// one line, by column name, to the members of a body. If Row is nil, only JSON can be
	// imported.
	Columns []string
	Row     func(cells map[string]string) (map[string]any, error)
	// Fields are the names of those columns whose field in messages has another name, by field.
	Fields map[string]string
	// Load stores the readable rows of an import. It sets Unfit in each row that is refused; an error
	// means that the store failed. UpdateBy are the columns by which it can find the record that a
	// row updates. If Load is nil, Save creates a record for each row.
	Load     func(tx *Tx, r *Request, b *ImportBatch) error
	UpdateBy []string
	// Keep means that records cannot be deleted: there is no DELETE endpoint.
	Keep bool
}

// Routes returns the endpoints for this kind of record.
func (c *AdminRecords[T]) Routes() []Route {
	path := "/admin/v1/" + c.Name
	if c.Path != "" {
		path = "/admin/v1/" + c.Path
	}
	parameters := append([]string{"page", "limit"}, c.Filters...)
	if c.Table.Owner != nil {
		parameters = append(parameters, "sandbox")
	}
	rows := []Route{
		{Method: "GET", Path: path, Handle: c.list, Heavy: HeavyWith(c.Filters...), Query: parameters},
		{Method: "POST", Path: path, Handle: c.create},
		{Method: "POST", Path: path + "/import", Handle: c.load, Slow: true, Heavy: HeavyAlways, Query: ImportParameters()},
		{Method: "GET", Path: path + "/:id", Handle: c.get},
		{Method: "PATCH", Path: path + "/:id", Handle: c.update},
	}
	if !c.Keep {
		rows = append(rows, Route{Method: "DELETE", Path: path + "/:id", Handle: c.drop, NoBody: true})
	}
	return rows
}

// list answers with one page of the records, newest first.
func (c *AdminRecords[T]) list(w http.ResponseWriter, r *Request) error {
	q, space, err := r.SpaceQuery()
	if err != nil {
		return err
	}
	page, err := ReadPage(q, 25, 1000)
	if err != nil {
		return err
	}
	for _, name := range c.Filters {
		if words, ok := c.Words[name]; ok {
			if err := CheckWord(q, name, words...); err != nil {
				return err
			}
		}
	}
	words, err := SearchWords(q)
	if err != nil {
		return err
	}
	rows, count := []any{}, 0
	err = r.View(c.Store, func(tx *Tx) error {
		query, err := c.query(tx, q)
		if errors.Is(err, ErrNotFound) {
			return nil // no record can pass the filters
		}
		if err != nil {
			return err
		}
		query.Context, query.Words, query.Space = r.Context(), words, space
		records, n, err := c.Table.Page(tx, query, page.Bounds)
		if err != nil {
			return err
		}
		count = n
		for _, v := range records {
			shown, err := c.Show(tx, v)
			if err != nil {
				return err
			}
			rows = append(rows, shown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page.Answer(count, c.Name, rows))
}

// query returns the query for the records that pass the filters in q.
func (c *AdminRecords[T]) query(tx *Tx, q url.Values) (query Query, err error) {
	for _, name := range c.Filters {
		value := q.Get(name)
		if value == "" || name == "search" {
			continue
		}
		if c.AnyOf != nil {
			if query.Any, err = c.AnyOf(tx, name); err != nil {
				return query, err
			}
			if query.Any != nil {
				continue
			}
		}
		f := Filter{name, []byte(value)}
		if c.Filter != nil {
			if f, err = c.Filter(tx, q, name); err != nil {
				return query, err
			}
		}
		query.All = append(query.All, f)
	}
	return query, nil
}

func (c *AdminRecords[T]) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadFields(c.Body)
	if err != nil {
		return err
	}
	shown, err := c.save(r, body, func(*Tx) (*T, error) { return nil, nil })
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, shown)
}

func (c *AdminRecords[T]) update(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	body, err := r.ReadBody()
	if err != nil {
		return err
	}
	shown, err := c.save(r, body, func(tx *Tx) (*T, error) {
		old, err := c.Table.Get(tx, IDKey(id))
		if err == nil {
			err = r.CheckFields(body, c.Body)
		}
		return &old, err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// save stores a record with the fields of body and returns the form that is sent as JSON. The
// function old must return the stored record, or nil for a new one.
func (c *AdminRecords[T]) save(r *Request, body *Body, old func(*Tx) (*T, error)) (shown any, err error) {
	err = r.Update(c.Store, func(tx *Tx) error {
		was, err := old(tx)
		if err != nil {
			return err
		}
		v, err := c.Save(tx, r, was, body)
		if err != nil {
			return err
		}
		shown, err = c.Show(tx, v)
		return err
	})
	return shown, err
}

func (c *AdminRecords[T]) get(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	var shown any
	err = c.Store.View(func(tx *Tx) error {
		v, err := c.Table.Get(tx, IDKey(id))
		if err != nil {
			return err
		}
		shown, err = c.Show(tx, v)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

func (c *AdminRecords[T]) drop(w http.ResponseWriter, r *Request) error {
	id, err := r.NumberParam("id")
	if err != nil {
		return err
	}
	err = r.Update(c.Store, func(tx *Tx) error {
		v, err := c.Table.Get(tx, IDKey(id))
		if err != nil {
			return err
		}
		if c.Drop != nil {
			if err := c.Drop(tx, v); err != nil {
				return err
			}
		}
		return c.Table.Delete(tx, IDKey(id))
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"message": "Deleted."})
}

// load imports all rows of the body in one transaction, or for a dry run answers what an import would
// do. If a row cannot be stored, it imports no row.
func (c *AdminRecords[T]) load(w http.ResponseWriter, r *Request) error {
	form := ImportForm{Name: c.Name, Columns: c.Columns, Row: c.Row, Fields: c.Fields, Body: c.Body, Owned: c.Table.Owner != nil, UpdateBy: c.UpdateBy}
	b, err := form.Batch(r)
	if err != nil {
		return err
	}
	fill := c.Load
	if fill == nil {
		fill = c.fill
	}
	if err := b.Store(r, c.Store, func(tx *Tx) error { return fill(tx, r, b) }, b.Refused); err != nil {
		return err
	}
	status, answer, err := b.answer()
	if err != nil {
		return err
	}
	return WriteJSON(w, status, answer)
}

// fill creates a record for each row.
func (c *AdminRecords[T]) fill(tx *Tx, r *Request, b *ImportBatch) error {
	for _, row := range b.Rows {
		if row.Fault != nil {
			continue
		}
		v, err := c.Save(tx, r, nil, row.Body)
		if err == nil && b.Dry {
			row.Name, err = c.name(tx, v)
		}
		if err := row.Refuse(err); err != nil {
			return err
		}
	}
	return nil
}

// name returns the member of a record that people know it by.
func (c *AdminRecords[T]) name(tx *Tx, v T) (string, error) {
	shown, err := c.Show(tx, v)
	if err != nil {
		return "", err
	}
	data, err := strictjson.Encode(shown)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if err := strictjson.Decode(data, &fields); err != nil {
		return "", err
	}
	for _, member := range []string{"name", "phone_number", "owner"} {
		if text, ok := fields[member].(string); ok {
			return text, nil
		}
	}
	return "", nil
}
