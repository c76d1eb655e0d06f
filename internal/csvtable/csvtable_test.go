package csvtable

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/encoding/unicode"
)

// utf16 returns text in UTF-16 with a byte order mark.
func utf16(t testing.TB, order unicode.Endianness, text string) string {
	t.Helper()
	data, err := unicode.UTF16(order, unicode.UseBOM).NewEncoder().String(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// shown returns a table as one line.
func shown(table Table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", table.Columns)
	for _, row := range table.Rows {
		if row.Fault != nil {
			fmt.Fprintf(&b, " %d:%s", row.Line, row.Fault.Text)
			continue
		}
		fmt.Fprintf(&b, " %d%q", row.Line, row.Cells)
	}
	return b.String()
}

func TestRead(t *testing.T) {
	const good = `["name" "city"] 2["Jürgen" "a;b"]`
	for _, tt := range []struct{ what, data, charset, want string }{
		{"commas", "name,city\nJürgen,a;b\n", "", good},
		{"line ends of Windows", "name,city\r\nJürgen,a;b\r\n", "", good},
		{"a byte order mark", "\ufeffname,city\nJürgen,a;b\n", "windows-1252", good},
		{"semicolons", "name;city\nJürgen;\"a;b\"\n", "", good},
		{"semicolons below an empty line", "\r\nname;city\nJürgen;\"a;b\"\n", "", `["name" "city"] 3["Jürgen" "a;b"]`},
		{"tabs", "name\tcity\nJürgen\ta;b\n", "", good},
		{"UTF-16LE with tabs", utf16(t, unicode.LittleEndian, "name\tcity\r\nJürgen\ta;b\r\n"), "", good},
		{"UTF-16BE", utf16(t, unicode.BigEndian, "name,city\nJürgen,a;b\n"), "text", good},
		{"UTF-16LE without a mark", utf16(t, unicode.LittleEndian, "name,city\nJürgen,a;b\n")[2:], "UTF-16LE", good},
		{"UTF-16 nobody names", utf16(t, unicode.LittleEndian, "name,city\n")[2:], "", "The CSV seems to be UTF-16 without a byte order mark. Save it as UTF-8, or name its charset, utf-16le or utf-16be."},
		{"windows-1252", "name,city\nJ\xfcrgen,a;b\n", "Windows-1252", good},
		{"ISO 8859-1", "name,city\nJ\xfcrgen,a;b\n", "iso-8859-1", good},
		{"windows-1252 nobody names", "name,city\na,b\nJ\xfcrgen,x\n", "", `["name" "city"] 2["a" "b"] 3:name is not valid UTF-8. Save the file as UTF-8, or name its charset, such as windows-1252.`},
		{"not UTF-8", "name,city\na,b\xff\n", "utf-8", `["name" "city"] 2:city is not valid UTF-8. Save the file as UTF-8, or name its charset, such as windows-1252.`},
		{"not windows-1253", "name,city\na,b\xff\n", "windows-1253", `["name" "city"] 2:city cannot be read as windows-1253. Save the file as UTF-8, or name its charset, such as windows-1252.`},
		{"half of a pair", "\xff\xfen\x00,\x00c\x00\n\x00\x3d\xd8,\x00b\x00", "", `["n" "c"] 2:n cannot be read as utf-16le. Save the file as UTF-8, or name its charset, such as windows-1252.`},
		{"an unknown charset", "name\n", "ebcdic", `The charset "ebcdic" is not known here. Save the file as UTF-8 (in Excel, "CSV UTF-8"), or name a charset of one byte, such as windows-1252.`},
		{"a name that is not UTF-8", "n\xe4me,city\n", "", "The name of column 1 is not valid UTF-8. Save the file as UTF-8, or name its charset, such as windows-1252."},
		{"NUL", "name,city\na,b\x00\n", "", `["name" "city"] 2:city contains a NUL character. Remove it.`},
		{"nothing", "", "", "The CSV is empty. It must have the column names in its first line."},
		{"blank lines", "\ufeff\r\n \n", "", "The CSV is empty. It must have the column names in its first line."},
		{"a column twice", "name,city,name\na,b,c\n", "", `The column "name" appears twice. Remove one of them.`},
		{"short and long rows", "name,city\na\na,b,c\n\n\"a\nb\",c\nd,e\n", "", `["name" "city"] 2:The row has 1 cells, but the first line names 2 columns. Quote a cell that contains the separator.` +
			` 3:The row has 3 cells, but the first line names 2 columns. Quote a cell that contains the separator. 5["a\nb" "c"] 7["d" "e"]`},
		{"an open quote", "name,city\na,b\n\"a,b\n", "", `The CSV cannot be read at line 3 of the file: extraneous or missing " in quoted-field. Write a quote inside a quoted cell twice.`},
	} {
		table, err := Read([]byte(tt.data), tt.charset)
		got := shown(table)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %s\nwant %s", tt.what, got, tt.want)
		}
	}
}

// TestRead_Charsets reads a letter in encodings under the names that programs give them.
func TestRead_Charsets(t *testing.T) {
	for _, tt := range []struct{ names, data, want string }{
		{"windows-1252 cp1252 CP-1252 iso-8859-1 ISO_8859-1 iso88591 latin1", "\xfc", "ü"},
		{"iso-8859-2 latin2 windows-1250 cp1250", "\xe8", "č"},
		{"windows-1251 cp1251", "\xc6", "Ж"},
		{"koi8-r koi8-u", "\xd6", "ж"},
		{"iso-8859-15", "\xa4", "€"},
		{"ibm437 cp437 cp850 ibm850", "\x81", "ü"},
		{"macintosh", "\x9f", "ü"},
		{"utf-16le UTF-16LE", "\xfc\x00", "ü"},
		{"utf-16be", "\x00\xfc", "ü"},
	} {
		for name := range strings.FieldsSeq(tt.names) {
			from, ok := named(strings.ToLower(name))
			if !ok {
				t.Errorf("%s: unknown", name)
				continue
			}
			if got, err := from.NewDecoder().String(tt.data); err != nil || got != tt.want {
				t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
			}
		}
	}
	for _, name := range []string{"big5", "euc-kr", "shift_jis", "gb18030", "what", "-", "cp", "windows"} {
		if _, ok := named(name); ok {
			t.Errorf("%q: known, want unknown", name)
		}
	}
}

// FuzzRead: no cell is lost, changed or made up, whatever the separator and the encoding.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"a,b\nc,d\n", "a;b\nc;d\n", "a\tb\nc\td\n", "\ufeffa\n\"b\nc\"\n", "a,a\n", "a\n\xfc\n", "\xff\xfea\x00\n\x00b\x00", "a\n\x00\n"} {
		f.Add([]byte(s), "")
		f.Add([]byte(s), "windows-1252")
	}
	f.Fuzz(func(t *testing.T, data []byte, charset string) {
		table, err := Read(data, charset)
		if err != nil {
			return
		}
		line := 1
		for _, row := range table.Rows {
			if row.Line <= line || row.Fault == nil && len(row.Cells) != len(table.Columns) {
				t.Fatalf("%q: got %s", data, shown(table))
			}
			line = row.Line
			for _, cell := range row.Cells {
				if row.Fault == nil && (!utf8.ValidString(cell) || strings.ContainsRune(cell, 0)) {
					t.Errorf("%q: took %q", data, cell)
				}
			}
		}
		if charset != "" || !utf8.Valid(data) || strings.HasPrefix(string(data), "\ufeff") {
			return
		}
		in := csv.NewReader(strings.NewReader(string(data)))
		in.Comma, in.FieldsPerRecord = separator(string(data)), -1
		all, err := in.ReadAll()
		if err != nil || len(all) != len(table.Rows)+1 {
			t.Errorf("%q: got %d rows, want those of %q, %v", data, len(table.Rows), all, err)
		}
	})
}

// FuzzSeparators writes cells as spreadsheets do, and reads them again: the separator is found, and no cell is
// split, joined or changed. In text, \x1e ends a row and \x1f a cell; how chooses the separator, the encoding
// and the line ends.
func FuzzSeparators(f *testing.F) {
	for how := range byte(9) {
		f.Add("name\x1fcity\x1ea;b,c\td\x1fe\n\r\n\x1e\x1f\"", how)
		f.Add("name\x1e;\x1e,\x1e\t", how|0x40)
		f.Add("first name\x1fcity\x1f\x1eJ\u00fcrgen\x1f \x1f'\x1e", how|0x80)
		f.Add("name|x\x1fsep=\x1ex|y\x1f#", how)
		f.Add("a;b\x1fc,d\x1e1\x1f2", how)
	}
	f.Fuzz(func(t *testing.T, text string, how byte) {
		var rows [][]string
		for line := range strings.SplitSeq(text, "\x1e") {
			rows = append(rows, strings.Split(line, "\x1f"))
		}
		columns := rows[0]
		for i, row := range rows {
			for len(row) < len(columns) {
				row = append(row, "x")
			}
			rows[i] = row[:len(columns)]
		}
		names := strings.Join(columns, "\x1f")
		if strings.TrimSpace(strings.ReplaceAll(names, "\x1f", "")) == "" || !utf8.ValidString(names) || strings.ContainsAny(names, "\x00\ufffd\ufeff") {
			return // TestRead has those
		}
		comma := []rune(",;\t")[how%3]
		data, charset := written(t, rows, comma, how)
		table, err := Read([]byte(data), charset)
		// Without a character in the first line that Read could take for another separator, it finds the right one.
		plain := !strings.ContainsAny(names, ",;\t\r\n\"") && (len(columns) > 1 || comma == ',')
		twice := false
		for i, name := range columns {
			twice = twice || slices.Contains(columns[:i], name)
		}
		if (err != nil) != twice && plain || err == nil && plain && table.Separator != comma {
			t.Fatalf("%q: found the separator %q, %v", data, table.Separator, err)
		}
		if err == nil && table.Separator == comma {
			wantCells(t, data, table, rows)
		}
	})
}

// written returns rows as CSV with a separator, in the encoding and with the line ends of how.
func written(t *testing.T, rows [][]string, comma rune, how byte) (data, charset string) {
	t.Helper()
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.Comma, w.UseCRLF = comma, how&0x40 != 0
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	switch how / 3 % 3 {
	case 1:
		return "\ufeff" + b.String(), ""
	case 2:
		data = utf16(t, unicode.LittleEndian, b.String())
		if how&0x80 != 0 {
			return data[2:], "utf-16le"
		}
		return data, ""
	}
	return b.String(), ""
}

// wantCells wants each row of a table to have its cells of rows, or a fault if they cannot be read, and no row
// to be missing or new. encoding/csv changes the line ends in cells.
func wantCells(t *testing.T, data string, table Table, rows [][]string) {
	t.Helper()
	unix := strings.NewReplacer("\r", "").Replace
	if unix(strings.Join(table.Columns, "\x1f")) != unix(strings.Join(rows[0], "\x1f")) {
		t.Errorf("%q: got the columns %q", data, table.Columns)
	}
	want := slices.DeleteFunc(slices.Clone(rows[1:]), func(row []string) bool { return len(row) == 1 && row[0] == "" }) // an empty line
	if len(table.Rows) != len(want) {
		t.Fatalf("%q: got %s, want %q", data, shown(table), want)
	}
	for i, row := range table.Rows {
		all := strings.Join(want[i], "\x1f")
		if row.Fault != nil && (!utf8.ValidString(all) || strings.ContainsAny(all, "\x00\ufffd")) {
			continue
		}
		if row.Fault != nil || len(row.Cells) != len(want[i]) || unix(strings.Join(row.Cells, "\x1f")) != unix(all) {
			t.Errorf("%q: got %s, want %q", data, shown(table), want)
		}
	}
}
