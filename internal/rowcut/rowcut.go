// Package rowcut cuts a file of rows, in CSV or JSON, into parts that are files of the same kind.
package rowcut

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"latchkey/internal/csvtable"
)

// File is a file of rows.
type File struct {
	Type  string // media type of the parts, which are in UTF-8
	head  string // first line of each part in CSV
	rows  []string
	lines []int // the line on which each row begins; nil for JSON
}

// CSV reads a table, see csvtable.Read. It returns an error if a row cannot be read.
func CSV(data []byte, charset string) (*File, error) {
	table, err := csvtable.Read(data, charset)
	if err != nil {
		return nil, err
	}
	f := &File{Type: "text/csv", head: line(table.Columns)}
	for _, row := range table.Rows {
		if row.Fault != nil {
			return nil, fmt.Errorf("line %d: %s", row.Line, row.Fault.Text)
		}
		f.rows, f.lines = append(f.rows, line(row.Cells)), append(f.lines, row.Line)
	}
	return f, nil
}

// line returns a line of CSV. All cells are quoted, so that an empty one alone is a row too.
func line(cells []string) string {
	quoted := make([]string, len(cells))
	for i, cell := range cells {
		quoted[i] = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
	}
	return strings.Join(quoted, ",") + "\n"
}

// JSON reads an array of rows, or an object whose member with the given name is one.
func JSON(data []byte, member string) (*File, error) {
	list := data
	if text := bytes.TrimSpace(data); !bytes.HasPrefix(text, []byte("[")) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(text, &object); err != nil {
			return nil, err
		}
		if list = object[member]; list == nil {
			return nil, errors.New(member + " is missing")
		}
	}
	var rows []json.RawMessage
	if err := json.Unmarshal(list, &rows); err != nil {
		return nil, err
	}
	f := &File{Type: "application/json"}
	for _, row := range rows {
		f.rows = append(f.rows, string(row))
	}
	return f, nil
}

// Len returns the number of rows.
func (f *File) Len() int { return len(f.rows) }

// Line returns the line on which a row begins, from 1; 0 for JSON. The first row is 0.
func (f *File) Line(row int) int {
	if row < 0 || row >= len(f.lines) {
		return 0
	}
	return f.lines[row]
}

// Part returns a file with the rows from one up to another, which is not in it. The first row is 0.
func (f *File) Part(from, to int) []byte {
	if f.Type == "application/json" {
		return []byte("[" + strings.Join(f.rows[from:to], ",") + "]")
	}
	return []byte(f.head + strings.Join(f.rows[from:to], ""))
}

// Send calls send for parts of at most size rows, in their order, until all are sent. If a part is too large, send
// returns how many of its rows fit, and Send goes on with smaller parts. Otherwise it returns 0. Send ends with the first error that
// has no such number, or if not even one row fits. It returns the number of rows that were sent before, and that of the rows in the
// part with the error.
func (f *File) Send(size int, send func(from, to int) (fit int, err error)) (sent, failed int, err error) {
	for sent < len(f.rows) {
		to := min(sent+max(size, 1), len(f.rows))
		fit, err := send(sent, to)
		switch rows := to - sent; {
		case err == nil:
			sent = to
		case fit > 0 && rows > 1:
			size = min(fit, rows-1)
		default:
			return sent, rows, err
		}
	}
	return sent, 0, nil
}
