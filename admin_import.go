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
	return []Route{{Method: "POST", Path: "/admin/v1/keys/import", Handle: i.load}}
}

// importRow is one row of an import. At most one of unread, twice, held and unfit is set. It
// is the reason why the row cannot be stored.
type importRow struct {
	*Body                 // the fields of the key; nil if the line of the CSV cannot be read
	line   int            // line of the CSV, from 1; 0 for JSON
	digest keytext.Digest // SHA-256 of the secret
	unread *Error         // the cells or the digest cannot be read; nil: they can
	twice  string         // name of the earlier row with the same secret; "": no such row
	held   string         // id of the stored key with the same secret; "": no such key
	unfit  *Error         // the fields are not those of a valid key; nil: not checked yet, or valid
	key    *Key           // the new key; nil until it is created
}

// keyBatch holds the rows of an import. Either all rows are stored or none. A dry run checks
// every row with the same code and stores none.
type keyBatch struct {
	rows   []*importRow
	unread error // the body as a whole cannot be read; nil: it can
	dry    bool  // whether this is a dry run
}

// errUndo makes a transaction discard its changes. It is not reported to anybody.
var errUndo = errors.New("undo")

// load handles an import. For a dry run the answer describes what the import would do.
func (i *keyImport) load(w http.ResponseWriter, r *Request) error {
	b := &keyBatch{}
	q, err := r.Query("dry_run")
	if err = errors.Join(err, CheckWord(q, "dry_run", "true", "false")); err != nil {
		return err
	}
	b.dry = q.Get("dry_run") == "true"
	data, err := r.ReadAll()
	if err != nil {
		return err
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "text/csv" {
		b.rows, b.unread = i.csv(data)
	} else {
		b.rows, b.unread = i.json(data)
	}
	b.digests()
	if err := i.add(r, b); err != nil {
		return err
	}
	refused := b.refused()
	if b.dry {
		return WriteJSON(w, http.StatusOK, b.preview(refused))
	}
	if refused != nil {
		return refused
	}
	made := []any{}
	for _, row := range b.rows {
		made = append(made, map[string]any{"id": row.key.ID, "name": row.key.Name, "sha256": fmt.Sprintf("%x", row.digest)})
	}
	return WriteJSON(w, http.StatusCreated, map[string]any{"count": len(made), "message": fmt.Sprintf("Imported %d keys.", len(made)), "keys": made})
}

// add stores a key for each row. It stores none if a row is refused or if this is a dry run.
// An error means that the store failed. A refused row is not an error of add: the reason
// is stored in the row.
func (i *keyImport) add(r *Request, b *keyBatch) error {
	if b.unread != nil || !b.dry && b.refused() != nil {
		return nil
	}
	err := r.Update(i.store, func(tx *Tx) error {
		if err := i.fill(tx, r, b); err != nil {
			return err
		}
		if b.dry || b.refused() != nil {
			return errUndo
		}
		return nil
	})
	if errors.Is(err, errUndo) {
		return nil
	}
	return err
}

// fill stores a key for each row, in the transaction tx. If a row is refused, fill stores the
// reason in the row. Then it stops, unless this is a dry run. The store may run the
// transaction more than once, so fill first resets the rows.
func (i *keyImport) fill(tx *Tx, r *Request, b *keyBatch) error {
	var rows []*importRow
	var digests []keytext.Digest
	for _, row := range b.rows {
		if row.unread != nil || row.twice != "" {
			continue
		}
		var err error
		row.key, row.unfit = nil, nil
		if row.held, err = i.keyring.Holding(tx, row.digest); err != nil {
			return err
		}
		if row.held == "" {
			rows, digests = append(rows, row), append(digests, row.digest)
		}
	}
	if !b.dry && b.refused() != nil {
		return nil
	}
	// Keys are added in the order in which the store sorts them, because appending to
	// the end is many times faster than inserting between other entries.
	ids := NewKeyIDs(r.Now, len(rows))
	for at, n := range i.keyring.Order(digests) {
		err := i.one(tx, r, rows[n], ids[at])
		if err == nil {
			continue
		}
		if !errors.As(err, &rows[n].unfit) {
			return err
		}
		if !b.dry {
			return nil
		}
	}
	return nil
}

// one creates and stores the key of a row, with the given id. If the row is refused, it
// returns an *Error. Any other error means that the store failed.
func (i *keyImport) one(tx *Tx, r *Request, row *importRow, id string) error {
	key := &Key{StoredKey: StoredKey{ID: id, CreatedAt: r.Now}}
	row.String("hint", &key.Hint)
	row.Bool("paused", &key.Paused)
	if len(key.Hint) > 32 {
		return ErrValidation.With("hint is longer than 32 bytes. Send only the first or last characters of the secret, never all of it.")
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
// in an earlier row, and unread in each row whose SHA-256 is missing or malformed.
func (b *keyBatch) digests() {
	first := map[keytext.Digest]int{}
	for n, row := range b.rows {
		if row.unread != nil {
			continue
		}
		text := ""
		row.String("sha256", &text)
		if err := row.Err(); err != nil {
			errors.As(err, &row.unread)
			continue
		}
		var err error
		if row.digest, err = keytext.ParseDigest(strings.ToLower(text)); err != nil {
			row.unread = ErrValidation.With("sha256 %s of the secret.", err)
			continue
		}
		if was, ok := first[row.digest]; ok {
			row.twice = rowName(was)
		} else {
			first[row.digest] = n
		}
	}
}

// rowName returns the name of row n in messages. The first row has n = 0.
func rowName(n int) string { return fmt.Sprintf("keys[%d]", n) }

// refused returns the error because of which the batch cannot be imported, or nil if it can.
// An ErrConflict lists the rows whose secrets appear twice or are already stored.
func (b *keyBatch) refused() error {
	if b.unread != nil {
		return b.unread
	}
	var unread, unfit *Error
	var twice, held []string
	for n, row := range b.rows {
		switch {
		case row.unread != nil && unread == nil:
			unread = row.unread.With("%s: %s Nothing was imported.", rowName(n), row.unread.Message)
		case row.twice != "":
			twice = append(twice, fmt.Sprintf("%s has the same secret as %s", rowName(n), row.twice))
		case row.held != "":
			held = append(held, fmt.Sprintf("%s has the same secret as the stored key %s", rowName(n), row.held))
		case row.unfit != nil && unfit == nil:
			unfit = row.unfit.With("%s: %s Nothing was imported.", rowName(n), row.unfit.Message)
		}
	}
	switch {
	case unread != nil:
		return unread
	case len(twice) > 0:
		return duplicates(twice)
	case len(held) > 0:
		return duplicates(held)
	case unfit != nil:
		return unfit
	}
	return nil
}

// duplicates returns an ErrConflict with the texts of list, of which it shows up to 20.
func duplicates(list []string) error {
	const maxShown = 20
	text, more := strings.Join(list[:min(len(list), maxShown)], "; "), ""
	if len(list) > maxShown {
		more = fmt.Sprintf("; and %d more", len(list)-maxShown)
	}
	return ErrConflict.With("%s%s. Nothing was imported. Remove these rows and send the import again.", text, more)
}

// preview returns the answer to a dry run. refused is the result of b.refused.
func (b *keyBatch) preview(refused error) map[string]any {
	rows := []any{}
	for n, row := range b.rows {
		rows = append(rows, row.preview(n))
	}
	answer := map[string]any{
		"dry_run": true, "importable": refused == nil, "count": len(rows), "keys": rows, "error": nil,
		"message": fmt.Sprintf("An import would add %d keys.", len(rows)),
	}
	if refused != nil {
		e := Public(refused)
		answer["error"], answer["message"] = e.Code, "An import would be refused. "+e.Message
	}
	return answer
}

// preview returns the JSON fields of row n in the answer to a dry run. The first row has
// n = 0.
func (row *importRow) preview(n int) map[string]any {
	name := ""
	if row.Body != nil {
		row.String("name", &name)
	}
	shown := map[string]any{"row": rowName(n), "line": nil, "name": name, "sha256": nil, "result": "refused", "message": nil, "key_id": nil}
	if row.line > 0 {
		shown["line"] = row.line
	}
	if row.unread == nil {
		shown["sha256"] = fmt.Sprintf("%x", row.digest)
	}
	switch {
	case row.unread != nil:
		shown["message"] = row.unread.Message
	case row.twice != "":
		shown["message"] = fmt.Sprintf("The row has the same secret as %s.", row.twice)
	case row.held != "":
		shown["result"], shown["key_id"] = "present", row.held
		shown["message"] = fmt.Sprintf("The key %s already has this secret.", row.held)
	case row.unfit != nil:
		shown["message"] = row.unfit.Message
	default:
		k := row.key
		shown["result"] = "add"
		shown["key"] = map[string]any{
			"name": k.Name, "hint": k.Hint, "permissions": k.PermissionNames(), "owner": k.OwnerName, "environment": k.Environment,
			"expires_at": Seconds(k.ExpiresAt), "paused": k.Paused, "limits": k.Limits, "metadata": k.Metadata, "allowed_ips": k.AllowedIPs,
		}
	}
	return shown
}

// json reads the rows from a JSON array of objects, or from an object whose field "keys" is
// such an array.
func (i *keyImport) json(data []byte) ([]*importRow, error) {
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
	var rows []*importRow
	for _, row := range body.Bodies("keys") {
		rows = append(rows, &importRow{Body: row})
	}
	return rows, body.Err()
}

// keyColumns lists the CSV columns whose cells are copied unchanged into the field with the
// same name.
var keyColumns = []string{"name", "sha256", "hint", "owner", "environment", "expires_at"}

// csv reads the rows from a CSV whose first line has the column names. If a line cannot be
// converted to a body, its row has unread set.
func (i *keyImport) csv(data []byte) ([]*importRow, error) {
	in := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	names, err := in.Read()
	if err != nil {
		return nil, ErrValidation.With("The CSV has no first line with column names: %v.", err)
	}
	known := slices.Concat(keyColumns, []string{"permissions", "allowed_ips"}, i.limits())
	for n, name := range names {
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "metadata.") || slices.Contains(names[:n], name) {
			return nil, ErrValidation.With("Column %q is unknown or appears twice. Known columns are %s and metadata.NAME.", name, strings.Join(known, ", "))
		}
	}
	var rows []*importRow
	for {
		line, err := in.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, ErrValidation.With("The CSV cannot be read: %v.", err)
		}
		number, _ := in.FieldPos(0)
		row := &importRow{line: number}
		if row.Body, err = i.line(names, line); err != nil && !errors.As(err, &row.unread) {
			return nil, err
		}
		rows = append(rows, row)
	}
}

// line converts one line of the CSV to a body. names are the column names, and line has the
// cells. Empty cells are left out. In the columns permissions and allowed_ips, blanks,
// commas or semicolons separate the words.
func (i *keyImport) line(names, line []string) (*Body, error) {
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
