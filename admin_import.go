package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/idlists"
	"latchkey/internal/keytext"
	"latchkey/internal/strictjson"
)

// keyImport serves the endpoint that adds keys which were created by another program. A
// request has the SHA-256 of each secret. It never has the secret itself.
type keyImport struct {
	store   *Store
	keyring *Keyring
	form    *keyForm
}

// NewKeyImport returns a keyImport that reads and checks the fields of keys with form and
// adds the keys to keyring.
func NewKeyImport(store *Store, keyring *Keyring, form *keyForm) *keyImport {
	return &keyImport{store: store, keyring: keyring, form: form}
}

// limits returns the names of the limits that a key can have. Each name may also be the name
// of a CSV column.
func (i *keyImport) limits() []string {
	return i.keyring.Rights().LimitNames(func(l LimitRule) bool { return !l.Owner })
}

// AdminRoutes returns the routes for operators.
func (i *keyImport) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/import", Handle: i.load, Slow: true, Heavy: HeavyAlways, Query: ImportParameters()}}
}

// importRow is one row of an import. At most one of twice, held and Unfit is set. It is the reason
// why a row without Fault cannot be stored.
type importRow struct {
	*ImportRow
	digest keytext.Digest // SHA-256 of the secret
	twice  string         // place of the earlier row with the same secret; "": no such row
	held   string         // id of the stored key with the same secret; "": no such key
	key    *Key           // the new key; nil until it is created
}

// fault returns the reason why the row cannot be stored, or nil.
func (row *importRow) fault() error {
	switch {
	case row.Fault != nil:
		return row.Fault
	case row.twice != "":
		return ErrConflict.With("The row has the same secret as %s.", row.twice)
	case row.held != "":
		return ErrConflict.With("The key %s already has this secret.", row.held)
	case row.Unfit != nil:
		return row.Unfit
	}
	return nil
}

// keyBatch holds the rows of an import of keys.
type keyBatch struct {
	*ImportBatch
	keys []*importRow
}

// load handles an import. For a dry run the answer describes what the import would do.
func (i *keyImport) load(w http.ResponseWriter, r *Request) error {
	batch, err := i.importForm().Batch(r)
	if err != nil {
		return err
	}
	b := &keyBatch{ImportBatch: batch}
	for _, row := range b.Rows {
		b.keys = append(b.keys, &importRow{ImportRow: row})
	}
	b.digests()
	if err := b.Store(r, i.store, func(tx *Tx) error { return i.fill(tx, r, b) }, b.refused); err != nil {
		return err
	}
	refused := b.refused()
	if b.Dry {
		rows := []any{}
		for _, row := range b.keys {
			rows = append(rows, row.preview())
		}
		answer := b.Preview(refused, "An import would add "+b.Form.Counted(len(rows))+".", rows)
		if refused == nil {
			answer = b.WithOwners(answer)
		}
		return WriteJSON(w, http.StatusOK, answer)
	}
	if refused != nil {
		return refused
	}
	made := []any{}
	for _, row := range b.keys {
		made = append(made, map[string]any{"id": row.key.ID, "name": row.key.Name, "sha256": fmt.Sprintf("%x", row.digest)})
	}
	return WriteJSON(w, http.StatusCreated, b.WithOwners(map[string]any{"count": len(made), "message": "Imported " + b.Form.Counted(len(made)) + ".", "keys": made}))
}

// fill stores a key for each row, in the transaction tx. If a row is refused, fill stores the
// reason in the row and continues, so that the answer can list all of them. The store may run the
// transaction more than once, so fill first resets the rows.
func (i *keyImport) fill(tx *Tx, r *Request, b *keyBatch) error {
	var rows []*importRow
	var digests []keytext.Digest
	for _, row := range b.keys {
		if row.Fault != nil || row.twice != "" {
			continue
		}
		var err error
		row.key = nil
		if row.held, err = i.keyring.Holding(tx, row.digest); err != nil {
			return err
		}
		if row.held == "" {
			rows, digests = append(rows, row), append(digests, row.digest)
		}
	}
	// Keys are added in the order in which the store sorts them, because appending to
	// the end is many times faster than inserting between other entries.
	ids := NewKeyIDs(r.Now, len(rows))
	for at, n := range i.keyring.Order(digests) {
		if err := rows[n].Refuse(i.one(tx, r, rows[n], ids[at])); err != nil {
			return err
		}
	}
	return nil
}

// one creates and stores the key of a row, with the given id. If the row is refused, it
// returns an *Error. Any other error means that the store failed.
func (i *keyImport) one(tx *Tx, r *Request, row *importRow, id string) error {
	key := &Key{StoredKey: StoredKey{ID: id, CreatedAt: r.Now}}
	row.String("hint", AnyLength, &key.Hint)
	row.Bool("paused", &key.Paused)
	if Length(key.Hint) > 32 {
		return ErrValidation.With("hint is longer than 32 characters. Send only the first or last characters of the secret, never all of it.")
	}
	if err := i.form.Fill(keyInput{tx: tx, request: r, body: row.Body, key: key, create: true}); err != nil {
		return err
	}
	if err := i.keyring.Import(tx, key, row.digest); err != nil {
		return err
	}
	row.key = key
	return Publish(tx, KeyWebhookEvent(KeyCreated, key, r.Now))
}

// digests reads the SHA-256 of every row. It sets twice in each row whose SHA-256 appeared
// in an earlier row, and Fault in each row whose SHA-256 is missing or malformed.
func (b *keyBatch) digests() {
	first := map[keytext.Digest]*importRow{}
	for _, row := range b.keys {
		if row.Fault != nil {
			continue
		}
		text := ""
		row.String("sha256", AnyLength, &text)
		if row.Fault = row.Err(); row.Fault != nil {
			row.Fault = row.InFile(Public(row.Fault))
			continue
		}
		var err error
		if row.digest, err = keytext.ParseDigest(strings.ToLower(text)); err != nil {
			row.Fault = row.InFile(ErrValidation.With("sha256 %s of the secret.", err))
			continue
		}
		if was, ok := first[row.digest]; ok {
			row.twice = was.Place()
		} else {
			first[row.digest] = row
		}
	}
}

// refused returns the error because of which the batch cannot be imported, or nil if it can. It
// lists the refused rows. An ErrConflict names the rows whose secrets appear twice or are already
// stored.
func (b *keyBatch) refused() error {
	if b.Unread != nil {
		return b.Unread
	}
	all, unread, unfit := RowFaults{Form: b.Form}, RowFaults{Form: b.Form}, RowFaults{Form: b.Form}
	var twice, held []string
	for _, row := range b.keys {
		all.Add(row.ImportRow, row.fault())
		switch {
		case row.Fault != nil:
			unread.Add(row.ImportRow, row.Fault)
		case row.twice != "":
			twice = append(twice, fmt.Sprintf("%s has the same secret as %s", row.Place(), row.twice))
		case row.held != "":
			held = append(held, fmt.Sprintf("%s has the same secret as the stored key %s", row.Place(), row.held))
		case row.Unfit != nil:
			unfit.Add(row.ImportRow, row.Unfit)
		}
	}
	switch {
	case unread.First != nil:
		return all.With(unread.First)
	case len(twice) > 0:
		return all.With(duplicates(twice))
	case len(held) > 0:
		return all.With(duplicates(held))
	case unfit.First != nil:
		return all.With(unfit.First)
	}
	return nil
}

// duplicates returns an ErrConflict with the texts of list, of which it shows up to 20.
func duplicates(list []string) *Error {
	const maxShown = 20
	text, more := strings.Join(list[:min(len(list), maxShown)], "; "), ""
	if len(list) > maxShown {
		more = fmt.Sprintf("; and %d more", len(list)-maxShown)
	}
	return ErrConflict.With("%s%s. Nothing was imported. Remove these rows and send the import again.", text, more)
}

// preview returns the JSON fields of the row in the answer to a dry run.
func (row *importRow) preview() map[string]any {
	name := ""
	if row.Body != nil {
		row.String("name", AnyLength, &name)
	}
	shown := map[string]any{"row": row.Number, "line": row.LineOrNone(), "name": name, "sha256": nil, "result": "refused", "message": nil, "key_id": nil}
	if row.Fault == nil {
		shown["sha256"] = fmt.Sprintf("%x", row.digest)
	}
	fault := row.fault()
	if fault != nil {
		shown["message"] = Public(fault).Message
	}
	switch {
	case fault != nil && row.held != "":
		shown["result"], shown["key_id"] = "present", row.held
	case fault != nil:
	default:
		k := row.key
		shown["result"] = "add"
		shown["key"] = map[string]any{
			"name": k.Name, "hint": k.Hint, "permissions": k.PermissionNames(), "owner": k.OwnerName, "sandbox": k.Sandbox(), "environment": k.Environment,
			"expires_at": Seconds(k.ExpiresAt), "paused": k.Paused, "limits": k.Limits, "metadata": k.Metadata, "allowed_ips": k.AllowedIPs, "resources": k.Resources,
		}
	}
	return shown
}

// keyColumns lists the CSV columns whose cells are copied unchanged into the field with the
// same name.
var keyColumns = []string{"name", "ref", "sha256", "hint", "owner", "environment", "expires_at"}

// importForm returns the columns of an import and how they become the fields of a key. The columns
// metadata.NAME may have any name.
func (i *keyImport) importForm() ImportForm {
	return ImportForm{
		Name: "keys", Owned: true, Columns: slices.Concat(keyColumns, []string{"sandbox", "permissions", "allowed_ips", "resources"}, i.limits(), []string{"metadata.NAME"}),
		Open: func(column string) bool { return strings.HasPrefix(column, "metadata.") },
		Row:  i.fields,
		Body: keyBody("sha256", "hint", "paused"),
	}
}

// fields converts the cells of a row, by column, to the members of a body. In the columns
// permissions and allowed_ips, blanks, commas or semicolons separate the words, and resources is a text as in
// idlists.Parse. fields returns ErrValidation if a limit or an id is not a number.
func (i *keyImport) fields(cells map[string]string) (map[string]any, error) {
	fields, limits, metadata := map[string]any{}, map[string]any{}, map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(cells)) {
		cell := cells[name]
		tag, isTag := strings.CutPrefix(name, "metadata.")
		switch {
		case isTag:
			metadata[tag], fields["metadata"] = cell, metadata
		case slices.Contains(i.limits(), name):
			if !strictjson.IsNumber(cell) {
				return nil, ErrValidation.With("%s must be a whole number; got %q.", name, cell)
			}
			limits[name], fields["limits"] = json.Number(cell), limits
		case slices.Contains(keyColumns, name):
			fields[name] = cell
		case name == "resources":
			ids, err := idlists.Parse(cell)
			if err != nil {
				return nil, ErrValidation.With("resources %s.", err)
			}
			fields[name] = ids
		case name == "sandbox":
			if cell != "true" && cell != "false" {
				return nil, ErrValidation.With("sandbox must be true or false; got %q.", cell)
			}
			fields[name] = cell == "true"
		default:
			fields[name] = strings.FieldsFunc(cell, func(c rune) bool { return strings.ContainsRune(" ,;", c) })
		}
	}
	return fields, nil
}
