package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
	// Match reports whether a list with the query q includes the record v. If Match is nil, every
	// list includes all records. q has only the parameters in Filters.
	Match func(tx *Tx, v T, q url.Values) bool
	// Filters are the names of the query parameters of a list, besides page and limit. Words has the
	// values that a filter accepts. A filter that is not in Words accepts any value.
	Filters []string
	Words   map[string][]string
	// Columns are the names of the columns that a CSV import may have. Row converts the cells of
	// one line, by column name, to the members of a body. If Row is nil, only JSON can be
	// imported.
	Columns []string
	Row     func(cells map[string]string) (map[string]any, error)
	// Keep means that records cannot be deleted: there is no DELETE endpoint.
	Keep bool
}

// Routes returns the endpoints for this kind of record.
func (c *AdminRecords[T]) Routes() []Route {
	path := "/admin/v1/" + c.Name
	if c.Path != "" {
		path = "/admin/v1/" + c.Path
	}
	rows := []Route{
		{Method: "GET", Path: path, Handle: c.list},
		{Method: "POST", Path: path, Handle: c.create},
		{Method: "POST", Path: path + "/import", Handle: c.load},
		{Method: "GET", Path: path + "/:id", Handle: c.get},
		{Method: "PATCH", Path: path + "/:id", Handle: c.update},
	}
	if !c.Keep {
		rows = append(rows, Route{Method: "DELETE", Path: path + "/:id", Handle: c.drop})
	}
	return rows
}

// list answers with one page of the records, newest first.
func (c *AdminRecords[T]) list(w http.ResponseWriter, r *Request) error {
	q, err := r.Query(append([]string{"page", "limit"}, c.Filters...)...)
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
	rows, count := []any{}, 0
	err = c.Store.View(func(tx *Tx) error {
		for v, err := range c.Table.All(tx, Backward) {
			if err != nil {
				return err
			}
			if c.Match != nil && !c.Match(tx, v, q) {
				continue
			}
			if count++; count <= (page.Number-1)*page.Limit || len(rows) == page.Limit {
				continue
			}
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

func (c *AdminRecords[T]) create(w http.ResponseWriter, r *Request) error {
	body, err := r.ReadBody()
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

// load imports all rows of the body in one transaction. If a row cannot be stored, it imports no
// row.
func (c *AdminRecords[T]) load(w http.ResponseWriter, r *Request) error {
	data, err := r.ReadAll()
	if err != nil {
		return err
	}
	var rows []*Body
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "text/csv" {
		rows, err = c.csv(data)
	} else {
		rows, err = c.json(data)
	}
	if err != nil {
		return err
	}
	err = r.Update(c.Store, func(tx *Tx) error {
		var bad rowFaults
		for i, row := range rows {
			if _, err := c.Save(tx, r, nil, row); !bad.add(i+1, err) {
				return err
			}
		}
		return bad.err()
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"count": len(rows), "message": fmt.Sprintf("Imported %d %s.", len(rows), c.Name)})
}

// maxRowFaults is the maximum number of invalid rows that an answer lists.
const maxRowFaults = 50

// rowFaults collects the errors of invalid rows in an import.
type rowFaults struct {
	first *Error           // nil: no row is invalid
	list  []map[string]any // row number and message of at most maxRowFaults rows
}

// add records the error of a row. The first row has the number 1. A nil error is ignored. add returns
// false if the client did not cause err; then the import must stop and return err.
func (f *rowFaults) add(row int, err error) bool {
	if err == nil {
		return true
	}
	var e *Error
	if !errors.As(err, &e) || e.Status >= http.StatusInternalServerError {
		return false
	}
	if f.first == nil {
		f.first = e.With("row %d: %s Nothing was imported.", row, e.Message)
	}
	if len(f.list) < maxRowFaults {
		f.list = append(f.list, map[string]any{"row": row, "message": e.Message})
	}
	return true
}

// err returns the error of the first invalid row. Its field "errors" lists the recorded rows. err
// returns nil if no row is invalid.
func (f *rowFaults) err() error {
	if f.first == nil {
		return nil
	}
	return f.first.WithField("errors", f.list)
}

// json parses an import in JSON: either an array of objects, or an object whose member c.Name is
// such an array.
func (c *AdminRecords[T]) json(data []byte) ([]*Body, error) {
	text := strings.TrimSpace(string(data))
	if strings.HasPrefix(text, "[") {
		text = fmt.Sprintf("{%q: %s}", c.Name, text)
	}
	body, err := ParseBody([]byte(text))
	if err != nil {
		return nil, err
	}
	if !body.Given(c.Name) {
		return nil, ErrMissing.With("%s is missing. Send an array of objects, or {\"%s\": [...]}.", c.Name, c.Name)
	}
	rows := body.Bodies(c.Name)
	return rows, body.Err()
}

// csv parses an import in CSV. Its first line must have the column names.
func (c *AdminRecords[T]) csv(data []byte) ([]*Body, error) {
	if c.Row == nil {
		return nil, ErrValidation.With("The import of %s accepts only JSON. Send an array of objects.", c.Name)
	}
	in := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	names, err := in.Read()
	if err != nil {
		return nil, ErrValidation.With("The first line of the CSV cannot be read: %v. It must have the column names.", err)
	}
	for _, name := range names {
		if !slices.Contains(c.Columns, name) {
			return nil, ErrValidation.With("The column %q does not exist. The columns are %s.", name, strings.Join(c.Columns, ", "))
		}
	}
	var rows []*Body
	var bad rowFaults
	for n := 1; ; n++ {
		line, err := in.Read()
		if err == io.EOF {
			return rows, bad.err()
		}
		if err != nil {
			return nil, ErrValidation.With("The CSV cannot be read: %v.", err)
		}
		body, err := c.line(names, line)
		if !bad.add(n, err) {
			return nil, err
		}
		rows = append(rows, body)
	}
}

// line returns a body with the cells of one CSV line, without its empty cells.
func (c *AdminRecords[T]) line(names, line []string) (*Body, error) {
	cells := map[string]string{}
	for i, name := range names {
		if cell := strings.TrimSpace(line[i]); cell != "" {
			cells[name] = cell
		}
	}
	fields, err := c.Row(maps.Clone(cells))
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return ParseBody(data)
}
