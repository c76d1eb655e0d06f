// Package csvtable reads tables in CSV (RFC 4180) as spreadsheets save them. Cells may be separated
// by commas, semicolons or tabs, and the text may be in UTF-8, in UTF-16 with a byte order mark, or
// in an encoding that the sender names. The package refuses what would lose or change a cell.
package csvtable

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/unicode"
)

// Table is a table that was read.
type Table struct {
	Columns   []string // the cells of the first line; no two are equal
	Rows      []Row
	Separator rune // the character between cells: ',', ';' or '\t'
}

// Row is a row below the first line.
type Row struct {
	Line  int      // line of the file on which the row begins; the column names are on line 1
	Cells []string // one for each column; meaningless if Fault is set
	Fault *Fault   // why the row cannot be read; nil if it can
}

// Fault is the reason why a row cannot be read.
type Fault struct {
	Column string // column of the cell that cannot be read; "" if the fault concerns the whole row
	Text   string // a sentence, which begins with Column unless that is ""
}

// Error is the reason why a whole table cannot be read. It is a sentence for the sender.
type Error string

// Error returns the sentence that describes the fault.
func (e Error) Error() string { return string(e) }

func errorf(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }

// toUTF8 is the advice for text in another encoding.
const toUTF8 = "Save the file as UTF-8, or name its charset, such as windows-1252."

// Read reads a table. charset is the name of the encoding of data, as in a Content-Type field, or ""
// if it is not known; a byte order mark takes precedence. Read returns an Error if data has no
// column names, a column appears twice, quotes are not closed, or the encoding is unknown. A fault
// in a row is stored in the row.
func Read(data []byte, charset string) (Table, error) {
	text, err := decode(data, charset)
	if err != nil {
		return Table{}, err
	}
	if strings.TrimSpace(text.data) == "" {
		return Table{}, errorf("The CSV is empty. It must have the column names in its first line.")
	}
	in := csv.NewReader(strings.NewReader(text.data))
	t := Table{Separator: separator(text.data)}
	in.Comma, in.FieldsPerRecord = t.Separator, -1
	for {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if bad, ok := errors.AsType[*csv.ParseError](err); ok {
			return Table{}, errorf("The CSV cannot be read at line %d of the file: %v. Write a quote inside a quoted cell twice.", bad.Line, bad.Err)
		}
		if err != nil {
			return Table{}, errorf("The CSV cannot be read: %v.", err)
		}
		if t.Columns == nil {
			if err := text.checkColumns(cells); err != nil {
				return Table{}, err
			}
			t.Columns = cells
			continue
		}
		line, _ := in.FieldPos(0)
		t.Rows = append(t.Rows, Row{Line: line, Cells: cells, Fault: text.fault(t.Columns, cells)})
	}
}

// separator returns the character that separates the cells of text. It is a semicolon or a tab if
// the first line that is not empty contains one and no comma.
func separator(text string) rune {
	first, _, _ := strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	switch {
	case strings.Contains(first, ","):
		return ','
	case strings.Contains(first, ";"):
		return ';'
	case strings.Contains(first, "\t"):
		return '\t'
	}
	return ','
}

// decoded is text that was converted to UTF-8.
type decoded struct {
	data string
	from string // encoding from which it was converted; "" if it was sent in UTF-8
}

// decode converts data to UTF-8 and removes its byte order mark.
func decode(data []byte, charset string) (decoded, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return decoded{data: string(data[3:])}, nil
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		data, charset = data[2:], "utf-16le"
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		data, charset = data[2:], "utf-16be"
	}
	name := strings.ToLower(strings.TrimSpace(charset))
	switch name {
	case "":
		if len(data) > 1 && (data[0] == 0) != (data[1] == 0) {
			return decoded{}, errorf("The CSV seems to be UTF-16 without a byte order mark. Save it as UTF-8, or name its charset, utf-16le or utf-16be.")
		}
		return decoded{data: string(data)}, nil
	case "utf-8", "utf8", "us-ascii", "ascii":
		return decoded{data: string(data)}, nil
	}
	from, ok := named(name)
	if !ok {
		return decoded{}, errorf("The charset %q is not known here. Save the file as UTF-8 (in Excel, \"CSV UTF-8\"), or name a charset of one byte, such as windows-1252.", charset)
	}
	text, err := from.NewDecoder().Bytes(data)
	if err != nil {
		return decoded{}, errorf("The CSV cannot be read as %s: %v. %s", name, err, toUTF8)
	}
	return decoded{string(text), name}, nil
}

// named returns the encoding with this name in small letters: a Unicode or a single-byte encoding. Those of China, Japan
// and Korea, which htmlindex has too, would add 0.6 MB to a program.
func named(name string) (encoding.Encoding, bool) {
	name = plainName.Replace(name)
	switch name {
	case "utf16le":
		return unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), true
	case "utf16be":
		return unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), true
	case "iso88591", "latin1":
		return charmap.Windows1252, true // contains it; see the WHATWG Encoding Standard, section 4.2
	case "latin2":
		return charmap.ISO8859_2, true
	}
	for _, e := range charmap.All {
		switch plainName.Replace(strings.ToLower(fmt.Sprint(e))) {
		case name, strings.Replace(name, "cp", "windows", 1), strings.Replace(name, "cp", "ibm", 1):
			return e, true
		}
	}
	return nil, false
}

// plainName removes what differs between the spellings of a charset's name.
var plainName = strings.NewReplacer("-", "", "_", "", " ", "", "code page ", "")

// checkColumns returns an Error if a column name cannot be read or appears twice.
func (d decoded) checkColumns(names []string) error {
	for n, name := range names {
		if what := d.cellFault(name); what != "" {
			return errorf("The name of column %d %s", n+1, what)
		}
		if slices.Contains(names[:n], name) {
			return errorf("The column %q appears twice. Remove one of them.", name)
		}
	}
	return nil
}

// fault returns what is wrong with the cells of a row, or nil.
func (d decoded) fault(columns, cells []string) *Fault {
	for n, name := range columns[:min(len(columns), len(cells))] {
		if what := d.cellFault(cells[n]); what != "" {
			return &Fault{name, name + " " + what}
		}
	}
	if len(cells) != len(columns) {
		return &Fault{"", fmt.Sprintf("The row has %d cells, but the first line names %d columns. Quote a cell that contains the separator.", len(cells), len(columns))}
	}
	return nil
}

// cellFault returns what is wrong with the text of a cell, or "".
func (d decoded) cellFault(cell string) string {
	switch {
	case !utf8.ValidString(cell):
		return "is not valid UTF-8. " + toUTF8
	case d.from != "" && strings.ContainsRune(cell, utf8.RuneError):
		return "cannot be read as " + d.from + ". " + toUTF8
	case strings.ContainsRune(cell, 0):
		return "contains a NUL character. Remove it."
	}
	return ""
}
