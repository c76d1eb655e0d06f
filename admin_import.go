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

// keyImport stores keys that were created elsewhere. A request has the SHA-256 of
// each secret, never the secret itself.
type keyImport struct {
	store   *Store
	keyring *Keyring
	form    *keyForm
}

// NewKeyImport returns an import that checks rows with form and adds the keys to
// keyring.
func NewKeyImport(store *Store, keyring *Keyring, form *keyForm) *keyImport {
	return &keyImport{store: store, keyring: keyring, form: form}
}

// limits returns the names of the limits that a key can have. Each is also a column
// of a CSV.
func (i *keyImport) limits() []string {
	return i.keyring.Rights().LimitNames(func(l LimitRule) bool { return !l.Owner })
}

// AdminRoutes lists the endpoints.
func (i *keyImport) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/keys/import", Handle: i.load}}
}

// importRow is one row of an import, with the reasons why it cannot be stored.
type importRow struct {
	*Body
	line   int // line of the CSV, from 1; 0 for JSON
	digest keytext.Digest
	unread *Error // why the cells or the digest cannot be read, else nil
	twice  string // name of the earlier row with the same secret, else ""
	held   string // id of the stored key with the same secret, else ""
	unfit  *Error // why no key can be made of the row, else nil
	key    *Key   // nil until the key is made
}

// keyBatch is the body of an import. Either all its rows are stored or none. A dry
// run checks every row with the same code and stores none.
type keyBatch struct {
	rows   []*importRow
	unread error // why the body as a whole cannot be read, else nil
	dry    bool
}

// errUndo makes a transaction discard its changes. It is not a failure.
var errUndo = errors.New("undo")

// load handles an import. A dry run answers what the import would do.
func (i *keyImport) load(w http.ResponseWriter, r *Request) error {
	b := &keyBatch{}
	switch mode := r.URL.Query().Get("dry_run"); mode {
	case "", "false":
	case "true":
		b.dry = true
	default:
		return ErrValidation.With("dry_run must be true or false; got %q.", mode)
	}
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

// add stores the rows, unless one is refused or this is a dry run. A refused row is
// no error of add: the row holds the reason. An error means that the store failed.
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

// fill stores a key for each row and records in a row why it is refused. After the
// first refused row only a dry run continues. The store may call fill more than
// once, so it resets the rows that it reads.
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
	// Keys are added in the order in which the store sorts them: appending behind
	// all other entries is many times faster than inserting between them.
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

// one creates and stores the key of a row. An *Error means that the row is refused.
func (i *keyImport) one(tx *Tx, r *Request, row *importRow, id string) error {
	key := &Key{ID: id, CreatedAt: r.Now}
	row.String("hint", &key.Hint)
	row.Bool("paused", &key.Paused)
	if len(key.Hint) > 32 {
		return ErrValidation.With("hint is longer than 32 bytes. It must not hold the secret: give its first or last characters.")
	}
	if err := i.form.Fill(tx, r, key, row.Body, true); err != nil {
		return err
	}
	if err := i.keyring.Import(tx, key, row.digest); err != nil {
		return err
	}
	row.key = key
	return Publish(tx, KeyWebhookEvent(KeyCreated, key, r.Now))
}

// digests reads the SHA-256 of every row and marks the rows whose SHA-256 appeared
// in an earlier row.
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

// rowName returns the name of a row in messages. n counts from 0.
func rowName(n int) string { return fmt.Sprintf("keys[%d]", n) }

// refused returns why the batch cannot be imported, or nil if it can. ErrConflict
// lists the rows whose secrets appear twice or are stored already.
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
			twice = append(twice, fmt.Sprintf("%s is %s again", rowName(n), row.twice))
		case row.held != "":
			held = append(held, fmt.Sprintf("%s belongs to the key %s already", rowName(n), row.held))
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

func duplicates(list []string) error {
	const most = 20
	text, more := strings.Join(list[:min(len(list), most)], "; "), ""
	if len(list) > most {
		more = fmt.Sprintf(" and %d more", len(list)-most)
	}
	return ErrConflict.With("%s%s. Nothing was imported: leave these rows out.", text, more)
}

// preview returns the answer of a dry run.
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

// preview returns the part of a dry run's answer for one row, the nth from 0.
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
		shown["message"] = fmt.Sprintf("It has the secret of %s.", row.twice)
	case row.held != "":
		shown["result"], shown["key_id"] = "present", row.held
		shown["message"] = fmt.Sprintf("The key %s has this secret already.", row.held)
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

// json reads the rows from a JSON array of objects, or from an object with that
// array under "keys".
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

// keyColumns are the CSV columns whose cells are copied unchanged into the field of
// the same name.
var keyColumns = []string{"name", "sha256", "hint", "owner", "environment", "expires_at"}

// csv reads the rows from a CSV whose first line has the column names. A line that
// makes no valid body is returned as a row with unread set.
func (i *keyImport) csv(data []byte) ([]*importRow, error) {
	in := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	names, err := in.Read()
	if err != nil {
		return nil, ErrValidation.With("The CSV has no first line with column names: %v.", err)
	}
	known := slices.Concat(keyColumns, []string{"permissions", "allowed_ips"}, i.limits())
	for n, name := range names {
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "metadata.") || slices.Contains(names[:n], name) {
			return nil, ErrValidation.With("Column %q is unknown or appears twice. Known are %s and metadata.NAME.", name, strings.Join(known, ", "))
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

// line makes a body from the cells of one line. Empty cells are left out. Blanks,
// commas or semicolons separate the words of permissions and allowed_ips.
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
