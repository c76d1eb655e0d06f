package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/keytext"
)

// KeyImport stores keys that exist elsewhere by the SHA-256 of their secret.
type KeyImport struct {
	store   *Store
	keyring *Keyring
	form    *KeyForm
}

// NewKeyImport stores keys of a form in a keyring.
func NewKeyImport(store *Store, keyring *Keyring, form *KeyForm) *KeyImport {
	return &KeyImport{store: store, keyring: keyring, form: form}
}

// limits names the limits that keys have, which are columns of a CSV.
func (i *KeyImport) limits() []string {
	return i.keyring.Rights().LimitNames(func(l LimitRule) bool { return !l.Owner })
}

// AdminRoutes lists the endpoints.
func (i *KeyImport) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/import", Handle: i.load}}
}

// load stores all rows or none.
func (i *KeyImport) load(w http.ResponseWriter, r *Request) error {
	data, err := r.ReadAll()
	if err != nil {
		return err
	}
	var rows []*Body
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "text/csv" {
		rows, err = i.csv(data)
	} else {
		rows, err = i.json(data)
	}
	if err != nil {
		return err
	}
	digests, err := i.digests(rows)
	if err != nil {
		return err
	}
	var keys []*Key
	err = r.Update(i.store, func(tx *Tx) error {
		if err := i.known(tx, digests); err != nil {
			return err
		}
		// In the order in which the store sorts them: what goes behind all else
		// is added many times quicker than what goes in between.
		keys = make([]*Key, len(rows))
		ids := NewKeyIDs(r.Now, len(rows))
		for at, n := range i.keyring.Order(digests) {
			if keys[n], err = i.one(tx, r, rows[n], digests[n], ids[at]); err != nil {
				return inKey(n, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	made := []any{}
	for n, key := range keys {
		made = append(made, map[string]any{"id": key.ID, "name": key.Name, "sha256": fmt.Sprintf("%x", digests[n])})
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"count": len(rows), "message": fmt.Sprintf("Imported %d keys.", len(rows)), "keys": made})
}

func (i *KeyImport) one(tx *Tx, r *Request, row *Body, d keytext.Digest, id string) (*Key, error) {
	key := &Key{ID: id, CreatedAt: r.Now}
	row.String("hint", &key.Hint)
	row.Bool("paused", &key.Paused)
	if len(key.Hint) > 32 {
		return nil, ErrValidation.With("hint is longer than 32 bytes. It must not hold the secret: give its first or last characters.")
	}
	if err := i.form.Fill(tx, r, key, row, true); err != nil {
		return nil, err
	}
	if err := i.keyring.Import(tx, key, d); err != nil {
		return nil, err
	}
	return key, Raise(tx, KeyEvent(KeyCreated, key, r.Now))
}

// inKey says in which row an error was, if the caller may know.
func inKey(n int, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	return e.With("keys[%d]: %s Nothing was imported.", n, e.Message)
}

// digests reads the SHA-256 of every row; ErrConflict names those that stand
// twice.
func (i *KeyImport) digests(rows []*Body) ([]keytext.Digest, error) {
	var list []keytext.Digest
	var twice []string
	first := map[keytext.Digest]int{}
	for n, row := range rows {
		text := ""
		if row.String("sha256", &text); row.Err() != nil {
			return nil, inKey(n, row.Err())
		}
		d, err := keytext.ParseDigest(strings.ToLower(text))
		if err != nil {
			return nil, inKey(n, ErrValidation.With("sha256 %s of the secret.", err))
		}
		if was, ok := first[d]; ok {
			twice = append(twice, fmt.Sprintf("keys[%d] is keys[%d] again", n, was))
		} else {
			first[d] = n
		}
		list = append(list, d)
	}
	return list, duplicates(twice)
}

// known is ErrConflict and names the rows whose secrets are here already.
func (i *KeyImport) known(tx *Tx, digests []keytext.Digest) error {
	var here []string
	for n, d := range digests {
		id, err := i.keyring.Holding(tx, d)
		if err != nil {
			return err
		}
		if id != "" {
			here = append(here, fmt.Sprintf("keys[%d] belongs to the key %s already", n, id))
		}
	}
	return duplicates(here)
}

func duplicates(list []string) error {
	const most = 20
	if len(list) == 0 {
		return nil
	}
	text, more := strings.Join(list[:min(len(list), most)], "; "), ""
	if len(list) > most {
		more = fmt.Sprintf(" and %d more", len(list)-most)
	}
	return ErrConflict.With("%s%s. Nothing was imported: leave these rows out.", text, more)
}

// json reads an array of objects, as it is or under "keys".
func (i *KeyImport) json(data []byte) ([]*Body, error) {
	if text := strings.TrimSpace(string(data)); strings.HasPrefix(text, "[") {
		data = []byte(`{"keys":` + text + `}`)
	}
	body, err := ParseBody(data)
	if err != nil {
		return nil, err
	}
	if !body.Given("keys") {
		return nil, ErrMissing.With("keys is missing. Send an array of objects, or {\"keys\": [...]}.")
	}
	rows := body.Bodies("keys")
	return rows, body.Err()
}

// keyColumns are the columns of a CSV that become a member as they are.
var keyColumns = []string{"name", "sha256", "hint", "owner", "environment", "expires_at"}

// csv reads lines under a line of column names.
func (i *KeyImport) csv(data []byte) ([]*Body, error) {
	in := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	names, err := in.Read()
	if err != nil {
		return nil, ErrValidation.With("The CSV has no first line with column names: %v.", err)
	}
	known := slices.Concat(keyColumns, []string{"permissions", "allowed_ips"}, i.limits())
	for n, name := range names {
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "metadata.") || slices.Contains(names[:n], name) {
			return nil, ErrValidation.With("Column %q is unknown or stands twice. Known are %s and metadata.NAME.", name, strings.Join(known, ", "))
		}
	}
	var rows []*Body
	for {
		line, err := in.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, ErrValidation.With("The CSV cannot be read: %v.", err)
		}
		row, err := i.line(names, line)
		if err != nil {
			return nil, inKey(len(rows), err)
		}
		rows = append(rows, row)
	}
}

// line makes a body of the cells of one line that are not empty. Cells with
// several words have them apart by blanks, commas or semicolons.
func (i *KeyImport) line(names, line []string) (*Body, error) {
	fields, limits, metadata := map[string]any{}, map[string]any{}, map[string]any{}
	for n, name := range names {
		cell := strings.TrimSpace(line[n])
		tag, isTag := strings.CutPrefix(name, "metadata.")
		switch {
		case cell == "":
		case isTag:
			metadata[tag], fields["metadata"] = cell, metadata
		case slices.Contains(i.limits(), name):
			limits[name], fields["limits"] = json.Number(cell), limits
		case slices.Contains(keyColumns, name):
			fields[name] = cell
		default:
			fields[name] = strings.FieldsFunc(cell, func(c rune) bool { return strings.ContainsRune(" ,;", c) })
		}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, ErrValidation.With("the limits must be whole numbers: %v.", err)
	}
	return ParseBody(data)
}
