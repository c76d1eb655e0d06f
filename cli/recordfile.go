package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"latchkey/internal/sorted"
)

// recordKinds returns the tables of a file of records, and their members in a request, in the order of an export.
func recordKinds() [][2]string {
	return [][2]string{{"owner", "owners"}, {"key", "keys"}, {"webhook", "webhooks"}, {"token", "tokens"}}
}

// recordFile is a file of records. Which fields there are is known to the server alone.
type recordFile struct {
	members map[string]any // of the body of a request, by name
	lines   map[recordPlace]int
	faults  []fileFault
}

// recordPlace is a place in a file of records: that of a field, of an entry, or of the first entry of a kind.
type recordPlace struct {
	kind  string
	row   int    // of the entry among those of its kind, from 1; 0 for the kind
	field string // such as "limits" or "limits.NAME"; "" for the entry
}

// fileFault is a mistake in a file.
type fileFault struct {
	at   recordPlace
	line int // from 1
	text string
}

// readRecordFile reads a file of records. Its mistakes are in faults, each with its line.
func readRecordFile(data []byte) *recordFile {
	f := &recordFile{members: map[string]any{}}
	sections := map[string]any{}
	if err := toml.Unmarshal(data, &sections); err != nil {
		line, text := 1+bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")), err.Error()
		if parse, ok := errors.AsType[toml.ParseError](err); ok {
			if text = parse.Message; parse.Position.Line > 0 {
				line = min(line, parse.Position.Line)
			}
		}
		f.faults = append(f.faults, fileFault{line: line, text: "this is not valid TOML: " + cell(text)})
		return f
	}
	f.lines = statementLines(string(data))
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		i := slices.IndexFunc(recordKinds(), func(kind [2]string) bool { return kind[0] == name })
		rows, ok := tables(sections[name])
		switch {
		case i < 0:
			f.fail(recordPlace{kind: name}, fmt.Sprintf("there is no table %s; the tables are [[owner]], [[key]], [[webhook]] and [[token]]", cell(name)))
		case !ok:
			f.fail(recordPlace{kind: name}, fmt.Sprintf("%s must be written as [[%s]], once for each %s", name, name, name))
		default:
			f.members[recordKinds()[i][1]] = f.entries(name, rows)
		}
	}
	return f
}

// tables returns an array of tables as TOML decodes it.
func tables(v any) (rows []map[string]any, ok bool) {
	switch v := v.(type) {
	case []map[string]any:
		return v, true
	case []any:
		for _, one := range v {
			row, ok := one.(map[string]any)
			if !ok {
				return nil, false
			}
			rows = append(rows, row)
		}
		return rows, true
	}
	return nil, false
}

// fail adds a mistake.
func (f *recordFile) fail(at recordPlace, text string) {
	f.faults = append(f.faults, fileFault{at, f.lineOf(at), text})
}

// lineOf returns the line of a place, or of what contains it.
func (f *recordFile) lineOf(at recordPlace) int {
	for {
		if line := f.lines[at]; line > 0 {
			return line
		}
		switch dot := strings.LastIndexByte(at.field, '.'); {
		case dot >= 0:
			at.field = at.field[:dot]
		case at.field != "":
			at.field = ""
		case at.row > 0:
			at.row = 0
		default:
			return 1
		}
	}
}

// entries returns the entries of a kind as values for JSON. A value that JSON does not have is a mistake, and is left out.
func (f *recordFile) entries(kind string, rows []map[string]any) []any {
	list := make([]any, 0, len(rows))
	for i, row := range rows {
		entry := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(row)) {
			v, problem := jsonValue(row[name])
			if problem != "" {
				f.fail(recordPlace{kind, i + 1, name}, cell(name)+" "+problem)
				continue
			}
			entry[name] = v
		}
		list = append(list, entry)
	}
	return list
}

// jsonValue returns a value of a TOML file for JSON: times become texts. problem completes a sentence that begins with
// the name of the field, or is "".
func jsonValue(v any) (value any, problem string) {
	switch v := v.(type) {
	case time.Time:
		if strings.HasSuffix(v.Location().String(), "-local") { // as the decoder marks it
			return nil, "needs a time with a zone, such as 2027-01-31T00:00:00Z"
		}
		return v.UTC().Format(time.RFC3339Nano), ""
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, "must be a finite number"
		}
	case []any:
		list := make([]any, 0, len(v))
		for _, one := range v {
			one, problem := jsonValue(one)
			if problem != "" {
				return nil, problem
			}
			list = append(list, one)
		}
		return list, ""
	case []map[string]any:
		list := make([]any, 0, len(v))
		for _, one := range v {
			list = append(list, one)
		}
		return jsonValue(list)
	case map[string]any:
		members := map[string]any{}
		for name, one := range v {
			one, problem := jsonValue(one)
			if problem != "" {
				return nil, problem
			}
			members[name] = one
		}
		return members, ""
	}
	return v, ""
}

// statementLines returns on which line each entry and each field of a valid TOML file begins. The decoder does not tell
// it, so each statement is decoded alone: one that goes on over several lines is not valid before its last line.
func statementLines(text string) map[recordPlace]int {
	lines, rows := map[recordPlace]int{}, map[string]int{}
	note := func(path []string, line int) {
		for at := range recordPath(path, rows) {
			if lines[at] == 0 {
				lines[at] = line
			}
		}
	}
	var table []string
	begin, statement, number := 0, "", 0
	for line := range strings.Lines(text) {
		number++
		if statement == "" {
			begin = number
			if bare := strings.TrimSpace(line); bare == "" || bare[0] == '#' {
				continue
			}
		} else if !strings.ContainsAny(line, `]}"'`) {
			statement += line
			continue // it ends on no such line
		}
		statement += line
		meta, err := toml.Decode(statement, &map[string]any{})
		if err != nil {
			continue
		}
		head, keys := strings.TrimSpace(statement), meta.Keys()
		statement = ""
		if strings.HasPrefix(head, "[") && len(keys) > 0 {
			table = keys[len(keys)-1]
			if strings.HasPrefix(head, "[[") && len(table) == 1 {
				rows[table[0]]++
			}
			note(table, begin)
			continue
		}
		for _, key := range keys {
			note(append(slices.Clone(table), key...), begin)
		}
	}
	return lines
}

// recordPath iterates over the places of a key of a TOML file: of the kind, the present entry, and the field.
func recordPath(path []string, rows map[string]int) func(yield func(recordPlace) bool) {
	return func(yield func(recordPlace) bool) {
		at := recordPlace{kind: path[0]}
		if !yield(at) {
			return
		}
		at.row = rows[path[0]]
		for n := range path {
			if at.field = strings.Join(path[1:n+1], "."); at.row > 0 && !yield(at) {
				return
			}
		}
	}
}

// refused returns an error that names every mistake of the file with its line, also those for which the server has
// refused it with err. It returns err itself if that is about something else.
func (f *recordFile) refused(name string, err error) error {
	answer, is := errors.AsType[*ClientError](err)
	if err != nil && (!is || len(answer.Rows) == 0) {
		if len(f.faults) == 0 {
			return err
		}
		err = nil // the rest of the file cannot be judged before its mistakes are mended
	}
	faults := slices.Clone(f.faults)
	for i := 0; err != nil && i < len(answer.Rows); i++ {
		row := answer.Rows[i]
		at := recordPlace{row.Kind, row.Row, row.Field}
		if !slices.ContainsFunc(f.faults, func(known fileFault) bool { return known.at == at }) {
			faults = append(faults, fileFault{at, f.lineOf(at), row.Message})
		}
	}
	if len(faults) == 0 {
		return nil
	}
	sorted.StableFunc(faults, func(a, b fileFault) int { return a.line - b.line })
	var b strings.Builder
	if len(faults) == 1 {
		b.WriteString("nothing was changed, because of a mistake in the file:")
	} else {
		fmt.Fprintf(&b, "nothing was changed, because of %d mistakes in the file:", len(faults))
	}
	for _, one := range faults {
		fmt.Fprintf(&b, "\n%s:%d: ", name, one.line)
		if one.at.row > 0 {
			fmt.Fprintf(&b, "%s %d: ", one.at.kind, one.at.row)
		}
		b.WriteString(cell(one.text))
	}
	return errors.New(b.String())
}

// recordFileText returns an answer of the server with records as a file for apply.
func recordFileText(answer map[string]any) string {
	var b strings.Builder
	b.WriteString("# Written by latchkey export. To bring what is stored to this state: latchkey apply FILE\n\n")
	for _, kind := range recordKinds() {
		list, _ := answer[kind[1]].([]any)
		for _, v := range list {
			row, _ := v.(map[string]any)
			writeTable(&b, kind[0], row)
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// writeTable writes an object as an element of an array of tables. Its ref and its name come first.
func writeTable(b *strings.Builder, name string, fields map[string]any) {
	fmt.Fprintf(b, "[[%s]]\n", name)
	first := []string{"kind", "ref", "name"}
	rest := slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(name string) bool { return slices.Contains(first, name) })
	for _, name := range append(first, rest...) {
		if fields[name] != nil {
			fmt.Fprintf(b, "%s = %s\n", tomlKey(name), tomlValue(fields[name]))
		}
	}
	b.WriteString("\n")
}

// tomlKey returns a name as a TOML key.
func tomlKey(name string) string {
	if name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return name
	}
	return tomlText(name)
}

// tomlText returns a text as a basic string of TOML, whose escapes are those of JSON. Only TOML escapes U+007F.
func tomlText(text string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return `""` // a string can always be encoded
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}

// tomlValue returns a value that was decoded from JSON as TOML.
func tomlValue(v any) string {
	var parts []string
	switch v := v.(type) {
	case string:
		return tomlText(v)
	case []any:
		for _, one := range v {
			parts = append(parts, tomlValue(one))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, tomlKey(name)+" = "+tomlValue(v[name]))
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	case json.Number: // TOML has whole numbers of 64 bits
		if _, err := v.Int64(); err != nil && !strings.ContainsAny(v.String(), ".eE") {
			return v.String() + ".0"
		}
	}
	return fmt.Sprint(v)
}
