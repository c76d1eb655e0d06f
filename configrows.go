package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// PermissionRow is a [[permission]] of a config file.
type PermissionRow struct {
	Name        string `toml:"name" check:"permission" example:"can_read_reports"`
	Description string `toml:"description" example:"Read reports."`
}

// LimitRow is a [[limit]] of a config file. One with the name of a built-in
// limit sets its default and Observe; any other is a limit of its own.
type LimitRow struct {
	Name    string        `toml:"name" check:"limit" example:"reports_per_hour"`
	Window  time.Duration `toml:"window" min:"1s" max:"8784h" example:"1h"`
	Default int           `toml:"default" min:"0" max:"1000000000" example:"100"`
	Scope   string        `toml:"scope" default:"key" in:"key,owner"`
	Observe bool          `toml:"observe" default:"false"`
}

// ReadRows turns the sections [[name]] of a file, as TOML gives them, into
// structs whose tags are rules as those of Config are. A key without a default
// must be there. The problems say which row and key they are of.
func ReadRows[T any](section string, value any) (rows []T, problems []string) {
	tables, ok := value.([]map[string]any)
	if !ok {
		return nil, []string{fmt.Sprintf("%s must be sections [[%s]]; got %s", section, section, Describe(value))}
	}
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for i, table := range tables {
		var row T
		at, known := fmt.Sprintf("%s[%d]", section, i), map[string]bool{}
		if name, ok := table["name"].(string); ok {
			at = fmt.Sprintf("%s %q", section, name)
		}
		if path, ok := table["path"].(string); ok {
			at = fmt.Sprintf("%s %d (%q)", section, i+1, path)
		} else if section == "route" {
			at = fmt.Sprintf("%s %d", section, i+1)
		}
		for _, s := range RowSettings(&row) {
			known[s.Key] = true
			given, ok := table[s.Key]
			if text, standard := s.Tag.Lookup("default"); !ok && standard {
				given = s.Parse(text)
			}
			if want := s.Assign(given); want != "" {
				fail("%s: %s must be %s; got %s", at, s.Key, want, Describe(given))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			if !known[key] {
				fail("%s: unknown key %q: a [[%s]] has %s", at, key, section, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			}
		}
		rows = append(rows, row)
	}
	return rows, problems
}

// RowSettings lists the keys of a row in the order of its struct.
func RowSettings[T any](row *T) (list []Setting) {
	for f, value := range reflect.ValueOf(row).Elem().Fields() {
		list = append(list, Setting{Key: f.Tag.Get("toml"), Tag: f.Tag, Field: value.Addr().Interface()})
	}
	return list
}

// PrintRow gives a row as a section [[name]] of a file, with where it came from.
func PrintRow[T any](section string, row T, source string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n[[%s]] # %s\n", section, source)
	for _, s := range RowSettings(&row) {
		fmt.Fprintf(&b, "%s = %s\n", s.Key, s.Text())
	}
	return b.String()
}
