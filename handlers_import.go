package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"latchkey/internal/csvtable"
	"latchkey/internal/strictjson"
)

// ImportForm describes the rows that an import accepts, in JSON or in CSV.
type ImportForm struct {
	Name    string                   // plural name of what is imported, such as "contacts"; also the member of a JSON body
	Columns []string                 // columns that a CSV may have
	Open    func(column string) bool // reports whether a CSV may have a column that is not in Columns; nil if it may not
	// Row converts the cells of a row, by column, to the members of a body. Empty cells are left
	// out. If Row is nil, only JSON can be imported.
	Row func(cells map[string]string) (map[string]any, error)
	// Fields are the names of those columns whose field in messages has another name, by field.
	Fields map[string]string
	// Body are the members that a row in JSON may have.
	Body  BodyFields
	Owned bool // whether records have an owner; then the parameter owner is that of rows without one
	// UpdateBy are the values of the parameter update_by: the columns by which a row can find the
	// record that it updates. If it is empty, every row creates a record.
	UpdateBy []string
}

// ImportRow is one row of an import.
type ImportRow struct {
	*Body         // the fields of the record; nil if Fault is set
	Number int    // 1 for the first row
	Line   int    // line of the file on which the row begins, from 1; 0 for JSON
	Fault  error  // why the row cannot be read; nil if it can
	column string // column of Fault or Unfit; "" if it concerns the whole row or its message begins with the column
	// named returns the column that a message begins with, and the message with the name that the column
	// has in the file. It is nil for JSON.
	named func(message string) (column, renamed string)
	// ImportBatch.Store resets these fields before the rows are stored.
	Unfit   *Error // why the row cannot be stored, though it can be read; nil if it can
	Name    string // name of the record
	Updates uint64 // id of the record that the row updates; 0 if it creates one
	Skipped string // why the row is left out, as a sentence; "" if it is not
}

// Refuse sets Unfit to err. It returns err if the client did not cause it; then the import must stop
// and return err.
func (row *ImportRow) Refuse(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Status < http.StatusInternalServerError {
		row.Unfit, err = row.InFile(e), nil
	}
	return err
}

// InFile returns e, the error of the row, with the name of its column as it is in the file.
func (row *ImportRow) InFile(e *Error) *Error {
	if row.named == nil {
		return e
	}
	var message string
	row.column, message = row.named(e.Message)
	return e.With("%s", message)
}

// Place returns the name of the row in messages. The dashboard and the commands use the same words.
func (row *ImportRow) Place() string {
	if row.Line > 0 {
		return fmt.Sprintf("line %d of the file (row %d)", row.Line, row.Number)
	}
	return fmt.Sprintf("row %d", row.Number)
}

// csvLayout says how a CSV was read.
type csvLayout struct {
	Separator string      `json:"separator"` // one of comma, semicolon, tab
	Columns   []csvColumn `json:"columns"`   // in the order of the file
}

// csvColumn is a column of a CSV: its name in the file, and the column that the name means.
type csvColumn struct {
	Name   string `json:"name"`
	Column string `json:"column"`
}

// read reads the rows in the body of a request: CSV if its Content-Type is text/csv, and otherwise
// JSON. A row that cannot be read has Fault set. read returns an error if the body as a whole cannot
// be read.
func (b *ImportBatch) read(r *Request) (rows []*ImportRow, err error) {
	f := b.Form
	data, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind == "text/csv" && err != nil {
		return nil, ErrValidation.With("Content-Type cannot be read: %v. Send text/csv, or with a charset, text/csv; charset=windows-1252.", err)
	}
	if kind == "text/csv" {
		return b.csv(data, parameters["charset"])
	}
	if err := r.asForm(data); err != nil {
		return nil, err
	}
	return f.json(data)
}

// json reads rows from an array of objects, or from an object whose member f.Name is such an array.
func (f ImportForm) json(data []byte) ([]*ImportRow, error) {
	text := strings.TrimSpace(string(data))
	if strings.HasPrefix(text, "[") {
		text = fmt.Sprintf("{%q: %s}", f.Name, text)
	}
	body, err := ParseBody([]byte(text))
	if errors.Is(err, ErrJSON) {
		if _, at := strictjson.Value(data); at != nil { // its place is that in the file
			err = ErrJSON.With("%s", at)
		}
	}
	if err != nil {
		return nil, f.ofRow(text, err)
	}
	if !body.Given(f.Name) {
		return nil, ErrMissing.With("%s is missing. Send an array of objects, or {\"%s\": [...]}.", f.Name, f.Name)
	}
	// The members of a list are accepted, so that it can be sent back as it was answered. Others are not: dry_run is a parameter.
	if err := (BodyFields{Set: []string{f.Name}, Shown: []string{"count", "page", "limit", "pages"}}).Check(body); err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if !body.read(f.Name, "an array of objects", &list) {
		return nil, body.Err()
	}
	var rows []*ImportRow
	for n, raw := range list {
		row := &ImportRow{Number: n + 1}
		if row.Body, row.Fault = body.Object(raw); row.Fault == nil {
			row.column, row.Fault = f.Body.check(row.Body)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// placeInRow matches the place of a value in an import after the name of the member that contains
// the rows: the index of its row and its field.
var placeInRow = regexp.MustCompile(`^\[(\d+)\](?:\.(.*))?$`)

// ofRow returns err, the error of ParseBody for text, with the place of the value in the words of
// ImportRow.Place.
func (f ImportForm) ofRow(text string, err error) error {
	_, cause := strictjson.Object([]byte(text))
	bad, ok := errors.AsType[*strictjson.Error](cause)
	if !ok || !strings.HasPrefix(bad.Path, f.Name) {
		return err
	}
	at := placeInRow.FindStringSubmatch(strings.TrimPrefix(bad.Path, f.Name))
	if at == nil {
		return err
	}
	n, _ := strconv.Atoi(at[1])
	faults := RowFaults{Form: f}
	faults.Add(&ImportRow{Number: n + 1, column: at[2]}, Public(err).With("%s", strings.TrimSpace(at[2]+strings.TrimPrefix(bad.Text, bad.Path))))
	return faults.err()
}

// csv reads rows from CSV whose first line has the column names, and sets b.layout.
func (b *ImportBatch) csv(data []byte, charset string) ([]*ImportRow, error) {
	f := b.Form
	if f.Row == nil {
		return nil, ErrValidation.With("The import of %s accepts only JSON. Send an array of objects.", f.Name)
	}
	table, err := csvtable.Read(data, charset)
	if err != nil {
		return nil, ErrValidation.With("%s", err)
	}
	b.layout = &csvLayout{Separator: map[rune]string{',': "comma", ';': "semicolon", '\t': "tab"}[table.Separator], Columns: []csvColumn{}}
	columns, means, names := []string{}, map[string]string{}, map[string]string{}
	if err := f.checkColumns(table.Columns); err != nil {
		return nil, err
	}
	for _, name := range table.Columns {
		column, _ := f.recognize(name)
		if at := slices.Index(columns, column); at >= 0 {
			return nil, ErrValidation.With("The columns %q and %q are both %s. Remove one of them.", table.Columns[at], name, column)
		}
		columns, means[name], names[column] = append(columns, column), column, name
		b.layout.Columns = append(b.layout.Columns, csvColumn{name, column})
	}
	named := func(message string) (column, renamed string) {
		column, rest := f.leading(message)
		if name, ok := names[column]; ok {
			message = name + rest
		}
		return column, message
	}
	var rows []*ImportRow
	for n, cells := range table.Rows {
		row := &ImportRow{Number: n + 1, Line: cells.Line, named: named}
		if cells.Fault != nil {
			row.column, row.Fault = means[cells.Fault.Column], ErrValidation.With("%s", cells.Fault.Text)
		} else if row.Body, row.Fault = f.line(columns, cells.Cells); row.Fault != nil {
			row.Fault = row.InFile(Public(row.Fault))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// checkColumns returns ErrValidation with all names in the first line of a CSV that are no columns.
func (f ImportForm) checkColumns(names []string) error {
	var unknown []string
	for _, name := range names {
		if _, ok := f.recognize(name); !ok {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	switch last := len(unknown) - 1; {
	case last < 0:
		return nil
	case last == 0:
		return ErrValidation.With("The column %s does not exist. The columns are %s.", unknown[0], strings.Join(f.Columns, ", "))
	default:
		return ErrValidation.With("The columns %s and %s do not exist. The columns are %s.", strings.Join(unknown[:last], ", "), unknown[last], strings.Join(f.Columns, ", "))
	}
}

func (f ImportForm) known(column string) bool {
	return slices.Contains(f.Columns, column) || f.Open != nil && f.Open(column)
}

// recognize returns the column that a name in the first line of a CSV means. Programs that export
// contacts write "First Name" or "E-mail" where the column is first_name or email: case, blanks,
// hyphens and underscores make no difference.
func (f ImportForm) recognize(name string) (column string, ok bool) {
	if f.known(name) {
		return name, true
	}
	bare := func(text string) string {
		return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(text))
	}
	i := slices.IndexFunc(f.Columns, func(column string) bool { return bare(column) == bare(name) })
	if i < 0 {
		return "", false
	}
	return f.Columns[i], true
}

// line returns a body with the cells of a row, without its empty cells.
func (f ImportForm) line(columns, line []string) (*Body, error) {
	cells := map[string]string{}
	for i, name := range columns {
		if cell := strings.TrimSpace(line[i]); cell != "" {
			cells[name] = cell
		}
	}
	fields, err := f.Row(cells)
	if err != nil {
		return nil, err
	}
	data, err := strictjson.Encode(fields)
	if err != nil {
		return nil, err
	}
	return ParseBody(data)
}

// column returns the column, or in JSON the field, that a message about a row begins with. It
// returns "" if the message begins with another word.
func (f ImportForm) column(row *ImportRow, message string) string {
	if row.column != "" {
		return row.column
	}
	if row.Line > 0 {
		column, _ := f.leading(message)
		return column
	}
	name := leadingWord(message)
	first := name[:strings.IndexAny(name+".", ".[")]
	if row.Body != nil && row.Has(first) || f.known(first) {
		return name
	}
	return ""
}

// leadingWord returns the first word of a message, without a colon.
func leadingWord(message string) string {
	return message[:strings.IndexAny(message+" ", " :")]
}

// leading returns the column whose field a message about a row of a CSV begins with, and the rest of the
// message. It returns "" if the message begins with another word.
func (f ImportForm) leading(message string) (column, rest string) {
	word := leadingWord(message)
	rest = message[len(word):]
	if as, ok := f.Fields[word]; ok {
		return as, rest
	}
	if name := strings.TrimPrefix(word, "limits."); f.known(name) {
		return name, rest
	}
	return "", rest
}

// maxRowFaults is the maximum number of invalid rows that an answer lists.
const maxRowFaults = 50

// RowFaults collects the errors of invalid rows in an import.
type RowFaults struct {
	Form  ImportForm
	First *Error           // error of the first invalid row; nil if no row is invalid
	list  []map[string]any // at most maxRowFaults rows
	count int              // number of invalid rows
}

// Add records the error of a row. A nil error is ignored. Add returns false if the client did not
// cause err; then the import must stop and return err.
func (f *RowFaults) Add(row *ImportRow, err error) bool {
	if err == nil {
		return true
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status >= http.StatusInternalServerError {
		return false
	}
	if f.First == nil {
		f.First = e.With("%s: %s Nothing was imported.", row.Place(), e.Message)
	}
	f.count++
	if len(f.list) < maxRowFaults {
		f.list = append(f.list, map[string]any{"row": row.Number, "line": row.LineOrNone(), "column": TextOrNone(f.Form.column(row, e.Message)), "message": e.Message})
	}
	return true
}

// err returns the error of the first invalid row, with the recorded rows. It returns nil if no row
// is invalid.
func (f *RowFaults) err() error {
	if f.First == nil {
		return nil
	}
	return f.With(f.First)
}

// With returns e with the recorded rows in the field "errors", and the number of all invalid rows in
// "error_count".
func (f *RowFaults) With(e *Error) *Error {
	return e.WithField("errors", f.list).WithField("error_count", f.count)
}

// ImportBatch holds the rows of an import. All rows are stored or none. A dry run stores them by the
// same code and then undoes it.
type ImportBatch struct {
	Form       ImportForm
	Rows       []*ImportRow
	Unread     *Error     // the body as a whole cannot be read; nil if it can
	Dry        bool       // whether this is a dry run
	UpdateBy   string     // one of Form.UpdateBy; "" if every row creates a record
	Skip       bool       // whether rows that are duplicates are left out
	owner      string     // name of the owner of rows without one; "" is DefaultOwner
	layout     *csvLayout // nil for JSON
	duplicates []map[string]any
	count      int // number of rows that have duplicates
}

// ErrUndo makes a transaction discard its changes. It is not reported to anybody.
var ErrUndo = errors.New("undo")

// ImportParameters are the parameters of the query of an import. Batch refuses those that do not suit what is imported.
func ImportParameters() []string { return []string{"dry_run", "update_by", "skip_duplicates", "owner"} }

// Batch reads the parameters and the rows of an import.
func (f ImportForm) Batch(r *Request) (*ImportBatch, error) {
	b := &ImportBatch{Form: f}
	q, err := r.Query(r.Parameters...)
	if err = errors.Join(err, CheckWord(q, "dry_run", "true", "false"), CheckWord(q, "skip_duplicates", "true", "false")); err != nil {
		return nil, err
	}
	b.Dry, b.UpdateBy, b.Skip = q.Get("dry_run") == "true", q.Get("update_by"), q.Get("skip_duplicates") == "true"
	for _, name := range []string{"update_by", "skip_duplicates"} {
		used := name == "update_by" && b.UpdateBy != "" || name == "skip_duplicates" && b.Skip
		if used && len(f.UpdateBy) == 0 {
			return nil, ErrValidation.With("%s cannot be used for %s. Every row creates a record; leave it out.", name, f.Name)
		}
	}
	if b.UpdateBy != "" && b.Skip {
		return nil, ErrValidation.With("update_by and skip_duplicates cannot be used together. Choose whether rows update contacts or are left out.")
	}
	if len(f.UpdateBy) > 0 {
		if err := CheckWord(q, "update_by", f.UpdateBy...); err != nil {
			return nil, err
		}
	}
	if b.owner = q.Get("owner"); b.owner != "" && !f.Owned {
		return nil, ErrValidation.With("owner cannot be used for %s, which have no owner. Leave it out.", f.Name)
	}
	if err := CheckLength("owner", b.owner, NameLength); err != nil {
		return nil, err
	}
	if b.Rows, err = b.read(r); err == nil {
		err = b.setOwner()
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
		b.Unread = e // the answer to a dry run describes this error
		return b, nil
	}
	return b, err
}

// setOwner sets the owner of the rows that name none to that of the parameter owner.
func (b *ImportBatch) setOwner() error {
	if b.owner == "" {
		return nil
	}
	value, err := strictjson.Encode(b.owner)
	if err != nil {
		return err
	}
	for _, row := range b.Rows {
		if row.Body != nil && !row.Given("owner") {
			row.Body = row.Replaced("owner", value)
		}
	}
	return nil
}

// owners returns the names of the owners of the rows that are stored, sorted. It returns nil for records without an owner.
func (b *ImportBatch) owners() []string {
	if !b.Form.Owned {
		return nil
	}
	names := []string{}
	for _, row := range b.Rows {
		if row.Body == nil || row.Fault != nil || row.Unfit != nil || row.Skipped != "" {
			continue
		}
		name := ""
		row.String("owner", NameLength, &name)
		name = cmp.Or(strings.TrimSpace(name), DefaultOwner)
		if at, found := slices.BinarySearch(names, name); !found {
			names = slices.Insert(names, at, name)
		}
	}
	return names
}

// maxNamedOwners is how many owners the message of an import names.
const maxNamedOwners = 5

// WithOwners adds to the answer the owners of the rows that are stored, and a sentence about them to its message.
func (b *ImportBatch) WithOwners(answer map[string]any) map[string]any {
	names := b.owners()
	if names == nil {
		return answer
	}
	answer["owner_names"] = names[:min(len(names), maxRowFaults)]
	switch {
	case len(names) == 0:
	case len(names) == 1:
		answer["message"] = fmt.Sprint(answer["message"], " Owner: ", names[0], ".")
	case len(names) <= maxNamedOwners:
		answer["message"] = fmt.Sprint(answer["message"], " Owners: ", strings.Join(names, ", "), ".")
	default:
		answer["message"] = fmt.Sprintf("%v Owners: %d.", answer["message"], len(names))
	}
	return answer
}

// Store calls fill, which stores the rows, in one transaction. It undoes the changes if this is a dry
// run or if refused returns an error, which is not an error of Store. An error means that the store
// failed, or that the batch is larger than a cluster takes at once. The store may call fill more than once.
func (b *ImportBatch) Store(r *Request, store *Store, fill func(*Tx) error, refused func() error) error {
	if b.Unread != nil {
		return nil
	}
	err := r.Update(store, func(tx *Tx) error {
		b.duplicates, b.count = []map[string]any{}, 0
		for _, row := range b.Rows {
			row.Unfit, row.Name, row.Updates, row.Skipped = nil, "", 0, ""
		}
		if err := fill(tx); err != nil {
			return err
		}
		if b.Dry || refused() != nil {
			return ErrUndo
		}
		return nil
	})
	if errors.Is(err, ErrUndo) {
		return nil
	}
	if large, ok := errors.AsType[*Oversized](err); ok {
		return b.oversized(large)
	}
	return err
}

// oversized returns the error of an import that is larger than a cluster takes at once. All its rows can be stored. The
// field max_rows has about how many of them fit into one request; not all rows need the same room.
func (b *ImportBatch) oversized(e *Oversized) error {
	fit := max(1, int(float64(len(b.Rows))*e.Share))
	return e.Refusal.With("%s Nothing was imported; about %d of the %d rows fit into one request.", e.Refusal.Message, fit, len(b.Rows)).WithField("max_rows", fit)
}

// Refused returns the error because of which the batch cannot be stored, with the refused rows. It
// returns nil if the batch can be stored.
func (b *ImportBatch) Refused() error {
	if b.Unread != nil {
		return b.Unread
	}
	bad := RowFaults{Form: b.Form}
	for _, row := range b.Rows {
		bad.Add(row, row.Fault)
		if row.Unfit != nil {
			bad.Add(row, row.Unfit)
		}
	}
	return bad.err()
}

// Preview returns the answer to a dry run. refused is the reason why an import would be refused, or
// nil. done is a sentence about what it would do otherwise.
func (b *ImportBatch) Preview(refused error, done string, rows []any) map[string]any {
	answer := map[string]any{"dry_run": true, "importable": refused == nil, "count": len(rows), b.Form.Name: rows, "error": nil, "message": done, "csv": b.layout}
	if refused != nil {
		e := Public(refused)
		answer["error"], answer["message"] = e.Code, "An import would be refused. "+e.Message
	}
	return answer
}

// Duplicate records that a row has an address or a number of another record. The members of fields
// say which. An answer lists maxRowFaults of them.
func (b *ImportBatch) Duplicate(row *ImportRow, fields map[string]any) {
	if b.count++; len(b.duplicates) < maxRowFaults {
		fields["row"], fields["line"] = row.Number, row.LineOrNone()
		b.duplicates = append(b.duplicates, fields)
	}
}

// LineOrNone returns the line of the row, or nil for a row in JSON, so that an answer contains null.
func (row *ImportRow) LineOrNone() any {
	if row.Line == 0 {
		return nil
	}
	return row.Line
}

// preview returns the JSON fields of the row in the answer to a dry run.
func (row *ImportRow) preview() map[string]any {
	shown := map[string]any{"row": row.Number, "line": row.LineOrNone(), "name": row.Name, "result": "create", "message": nil, "id": nil}
	if row.Updates != 0 {
		shown["result"], shown["id"] = "update", row.Updates
	}
	if row.Skipped != "" {
		shown["result"], shown["message"] = "skip", row.Skipped
	}
	if row.Fault != nil {
		shown["result"], shown["message"] = "refused", Public(row.Fault).Message
	}
	if row.Unfit != nil {
		shown["result"], shown["message"] = "refused", row.Unfit.Message
	}
	return shown
}

// answer returns the status and the fields of the answer to an import of records, or the reason why
// it is refused.
func (b *ImportBatch) answer() (status int, fields map[string]any, err error) {
	updated, skipped, rows := 0, 0, []any{}
	for _, row := range b.Rows {
		if row.Updates != 0 {
			updated++
		}
		if row.Skipped != "" {
			skipped++
		}
		rows = append(rows, row.preview())
	}
	refused, stored := b.Refused(), len(b.Rows)-skipped
	switch {
	case b.Dry:
		status, fields = http.StatusOK, b.Preview(refused, "An import would "+b.plan(stored-updated, updated, skipped)+".", rows)
	case refused != nil:
		return 0, nil, refused
	default:
		message := "Imported " + b.Form.Counted(stored)
		if updated > 0 {
			message += fmt.Sprintf(": %d created, %d updated", stored-updated, updated)
		}
		if skipped > 0 {
			message += fmt.Sprintf(", %d skipped", skipped)
		}
		status, fields = http.StatusCreated, map[string]any{"count": stored, "message": message + "."}
	}
	if len(b.Form.UpdateBy) > 0 {
		fields["update_by"], fields["updated"], fields["skipped"] = TextOrNone(b.UpdateBy), updated, skipped
		fields["duplicates"], fields["duplicate_count"] = append([]map[string]any{}, b.duplicates...), b.count
	}
	if refused == nil {
		fields = b.WithOwners(fields)
	}
	return status, fields, nil
}

// Counted returns a number of records as text, such as "1 contact" or "2 contacts".
func (f ImportForm) Counted(n int) string {
	name := f.Name
	if name == "do_not_call" {
		name = "numbers"
	}
	if n == 1 {
		name = strings.TrimSuffix(name, "s")
	}
	return fmt.Sprintf("%d %s", n, name)
}

// plan returns what an import would do, such as "create 2 contacts and update 1".
func (b *ImportBatch) plan(created, updated, skipped int) string {
	text := "create " + b.Form.Counted(created)
	if updated > 0 {
		text += fmt.Sprintf(" and update %d", updated)
	}
	if skipped > 0 {
		text += fmt.Sprintf(", and skip %d", skipped)
	}
	return text
}
