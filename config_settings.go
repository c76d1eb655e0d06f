package main

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"

	"latchkey/internal/timespan"
)

// setting is one field of a Config or of a row (see ReadRows), with its rules.
type setting struct {
	Key   string            // such as "server.listen", or "name" in a row
	Field any               // *string, *bool, *int, *time.Duration, *[]string or *map[string]string; nil if the key is a section
	Tag   reflect.StructTag // the rules, see Config
}

// place returns the section of the setting, such as "admin.oidc", and its name in it.
func (s setting) place() (section, name string) {
	at := strings.LastIndexByte(s.Key, '.')
	return s.Key[:at], s.Key[at+1:]
}

// hidden reports whether the value must not be shown: a secret that is set.
func (s setting) hidden() bool {
	return s.Tag.Get("secret") != "" && !reflect.ValueOf(s.Field).Elem().IsZero()
}

// Text returns the value as TOML.
func (s setting) Text() string {
	switch field := s.Field.(type) {
	case *string:
		return strconv.Quote(*field) // valid TOML, because checkText refuses control characters
	case *[]string:
		return strings.ReplaceAll(fmt.Sprintf("%q", *field), `" "`, `", "`) // quotes inside an item are preceded by a backslash
	case *map[string]string:
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(*field)) {
			pairs = append(pairs, strconv.Quote(name)+" = "+strconv.Quote((*field)[name]))
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	case *time.Duration:
		return `"` + strconv.FormatFloat(field.Seconds(), 'f', -1, 64) + `s"` // "60s", not "1m0s"
	}
	return fmt.Sprint(reflect.ValueOf(s.Field).Elem())
}

// Parse returns the text of an environment variable or a flag as a type that the TOML decoder
// produces. It returns text that is not valid unchanged, and Assign then refuses it.
func (s setting) Parse(text string) any {
	switch s.Field.(type) {
	case *bool:
		if text == "true" || text == "false" {
			return text == "true"
		}
	case *int, *int64:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	case *[]string:
		list := []any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list
	case *map[string]string:
		table := map[string]any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			at := strings.LastIndexByte(item, '=')
			if at < 0 {
				return text
			}
			table[strings.TrimSpace(item[:at])] = strings.TrimSpace(item[at+1:])
		}
		return table
	}
	return text
}

// example returns a valid value in quotes, for messages. It is the example of the tag, or the
// default if the tag has no example.
func (s setting) example() string {
	return strconv.Quote(s.Tag.Get("example") + s.Tag.Get("default"))
}

// Assign stores a value in the field and returns "". If the value is not valid, it stores nothing
// and returns a text that completes "must be ...". value has a type that the TOML decoder produces.
func (s setting) Assign(value any) (want string) {
	low, high := s.Tag.Get("min"), s.Tag.Get("max")
	switch field := s.Field.(type) {
	case *string:
		text, want := s.checkText(value)
		if want != "" {
			return want
		}
		*field = text
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return "true or false"
		}
		*field = b
	case *int:
		n, want := s.checkNumber(value)
		if want != "" {
			return want
		}
		*field = int(n)
	case *int64:
		n, want := s.checkNumber(value)
		if want != "" {
			return want
		}
		*field = n
	case *time.Duration:
		text, _ := value.(string)
		d, err := time.ParseDuration(text)
		if days, isDays := timespan.Parse(text); err != nil && isDays == nil {
			return fmt.Sprintf("a duration in hours, minutes or seconds, here %q", fmt.Sprintf("%.0fh", days.Hours()))
		}
		if err != nil {
			return "a duration with a unit, such as " + s.example()
		}
		least, _ := time.ParseDuration(low)
		most, _ := time.ParseDuration(high)
		if d < least || d > most {
			return fmt.Sprintf("a duration from %s to %s, such as %s", low, high, s.example())
		}
		*field = d
	case *[]string:
		items, ok := value.([]any)
		if text, single := value.(string); single && s.Tag.Get("single") != "" {
			items, ok = []any{text}, true
		}
		if !ok {
			return "a list of strings, such as [" + s.example() + "]"
		}
		var list []string // nil if there are no items
		for _, item := range items {
			text, want := s.checkText(item)
			if want != "" {
				return "a list, each item " + want
			}
			list = append(list, text)
		}
		*field = list
	case *map[string]string:
		table, want := s.checkTable(value)
		if want != "" {
			return want
		}
		*field = table
	default:
		return "a section, such as [" + s.Key + "]"
	}
	return ""
}

// checkTable checks that value is a table whose values are words of the tag "in". If it is not,
// checkTable returns a want that completes the sentence "KEY must be ...".
func (s setting) checkTable(value any) (table map[string]string, want string) {
	items, ok := value.(map[string]any)
	name, word, _ := strings.Cut(s.Tag.Get("example"), "=")
	if !ok {
		return nil, fmt.Sprintf("a table, such as {%q = %q}", name, word)
	}
	for key, item := range items {
		text, want := s.checkText(item)
		if key == "" {
			want = "without an empty name"
		}
		if want != "" {
			return nil, "a table, each value " + want
		}
		if table == nil {
			table = map[string]string{} // nil if there are no items
		}
		table[key] = text
	}
	return table, ""
}

// checkNumber checks that value is a whole number between the tags "min" and "max" of the setting. If
// it is not, checkNumber returns a want that completes the sentence "KEY must be ...".
func (s setting) checkNumber(value any) (n int64, want string) {
	n, ok := value.(int64)
	low, high := s.Tag.Get("min"), s.Tag.Get("max")
	least, _ := strconv.ParseInt(low, 10, 64)
	most, _ := strconv.ParseInt(high, 10, 64)
	if !ok || n < least || n > most {
		return 0, fmt.Sprintf("a whole number from %s to %s, such as %s", low, high, strings.Trim(s.example(), `"`))
	}
	return n, ""
}

// checkText checks value against the tag "check" of the setting. If it is valid, checkText returns
// the string to use. Otherwise it returns a want that completes the sentence "KEY must be ...".
func (s setting) checkText(value any) (text, want string) {
	text, ok := value.(string)
	words := s.Tag.Get("in")
	check, checked := textChecks[s.Tag.Get("check")]
	switch {
	case !ok:
		want = "a string"
	case strings.ContainsFunc(strings.ToValidUTF8(text, "\x00"), unicode.IsControl):
		want = "UTF-8 text without control characters"
	case words != "" && !slices.Contains(strings.Split(words, ","), text):
		return "", "one of " + strings.ReplaceAll(words, ",", ", ")
	case checked:
		value, fix, ok := check.read(text)
		if ok {
			return value, ""
		}
		if want = check.want; fix != "" {
			return "", want + ": write " + fix
		}
	default:
		return text, ""
	}
	return "", want + ", such as " + s.example()
}

// isPattern reports whether text is a valid path pattern. A pattern is a slash, followed by segments
// with slashes between them. The segment :name matches any one segment, and *name at the end
// matches the rest of the path. The wildcards of other programs, such as {id}, are refused: as
// literal text they would match no request, and nothing would say why.
func isPattern(text string) bool {
	if text == "" || text[0] != '/' || strings.HasSuffix(text, "$") {
		return false
	}
	parts := strings.Split(strings.TrimSuffix(text[1:], "/"), "/")
	for i, part := range parts {
		name := strings.TrimLeft(part, ":*")
		switch {
		case part == "" && text == "/":
		case part == "" || part == "." || part == ".." || strings.ContainsFunc(part, oddInPath) || foreignWildcard.MatchString(part):
			return false
		case name != part && (len(name) != len(part)-1 || !wildcardName.MatchString(name) || part[0] == '*' && (i < len(parts)-1 || strings.HasSuffix(text, "/"))):
			return false
		}
	}
	return true
}

// foreignWildcard matches segments that other programs do not take literally: {id}, [id], reports*,
// and regular expressions such as (.*), [0-9]+ and .+.
var foreignWildcard = regexp.MustCompile(`[{}]|\*$|\.\+$|^\[.*\]\+?$|^\(.*\)[+?]?$`)

// foreignName matches those that have a name: {id}, {id:[0-9]+}, {rest...}, {*rest}, [id], [...rest],
// <id> and <path:rest>.
var foreignName = regexp.MustCompile(`^(?:[{[](\*{1,2}|\.{3})?(\w+)(\.{3}|:.*)?[]}]|<(?:(\w+):)?(\w+)>)$`)

// readPattern reads a path pattern. If the text has wildcards of other programs, fix has those of
// Latchkey in their place.
func readPattern(text string) (value, fix string, ok bool) {
	if isPattern(text) {
		return text, "", true
	}
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(text, "^"), "$"), "/")
	for i, part := range parts {
		last, name, bare := i == len(parts)-1, foreignName.FindStringSubmatch(part), strings.TrimRight(part, "*")
		switch {
		case name != nil && last && (name[1] != "" || name[3] == "..." || name[3] == ":path" || name[4] == "path"):
			parts[i] = "*" + name[2] + name[5]
		case name != nil:
			parts[i] = ":" + name[2] + name[5]
		case last && slices.Contains([]string{"*", "**", ".*", ".+", "(.*)", "(.+)"}, part):
			parts[i] = "*rest"
		case last && bare != part:
			parts[i] = bare + "/*rest"
		case part == "*" || foreignWildcard.MatchString(part) && (part[0] == '[' || part[0] == '('):
			parts[i] = ":id"
		}
	}
	if path := strings.Join(parts, "/"); isPattern(path) {
		fix = strconv.Quote(path)
	}
	return "", fix, false
}

var wildcardName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// oddInPath reports whether c must not appear in a path of the configuration. It is true for
// characters that have a special meaning or that different programs interpret differently.
func oddInPath(c rune) bool {
	return strings.ContainsRune(`\;%?#"<>`, c) || unicode.IsSpace(c) || unicode.IsControl(c) || c == unicode.ReplacementChar
}

// isPrefixPath reports whether text is "" or a path that has no wildcards and does not end with a
// slash.
func isPrefixPath(text string) bool {
	return text == "" || isPattern(text) && !strings.ContainsAny(text, ":*") && !strings.HasSuffix(text, "/")
}

// unixPeers is the word in trusted_proxies that means every peer on a unix socket.
const unixPeers = "unix"

// parseNetwork parses a network, or an address as a network of one address. It returns the zero
// Prefix, which contains no address, if text is not valid. It refuses a network such as 10.0.0.5/8:
// either the address or the length is a mistake, and a network that is too wide would let clients
// forge their address.
func parseNetwork(text string) netip.Prefix {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		return netip.Prefix{}
	}
	return p
}

// IsWord reports whether text is a valid name, for example for the environment of a key: 1 to 32 of
// a-z, 0-9, - and _, the first a letter.
func IsWord(text string) bool { return wordPattern.MatchString(text) }

var wordPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// describe returns a decoded TOML value as text for a message.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "nothing"
	case string:
		return strconv.Quote(regexp.MustCompile(`//.*@`).ReplaceAllString(v, "//...@")) // hide a password in a URL
	case map[string]any:
		return "a section"
	case []map[string]any:
		return "a list of sections"
	}
	return fmt.Sprint(value)
}

// editDistance returns the smallest number of bytes that must be inserted, deleted or replaced to
// turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // row[j] is the distance from a[:i] to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := i // the distance from a[:i] to b[:j]
		row[0] = i + 1
		for j := range len(b) {
			replaced := corner
			if a[i] != b[j] {
				replaced++
			}
			corner, row[j+1] = row[j+1], min(replaced, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// parseProblem returns the text of a TOML error. It shows the line with a mark under the position.
// If the file ends too early, the TOML library may have no position, and ErrorWithPosition panics.
// The text then says that the problem is at the end of the file.
func parseProblem(e toml.ParseError) (text string) {
	defer func() {
		if recover() != nil {
			text = "toml: " + e.Message + ", at the end of the file"
		}
	}()
	return strings.TrimSpace(e.ErrorWithPosition())
}

// permissionRow is a [[permission]] section of a configuration file.
type permissionRow struct {
	Name        string `toml:"name" check:"permission" example:"can_read_reports"`
	Description string `toml:"description" default:"" example:"Read reports." check:"text"`
}

// limitRow is a [[limit]] section of a configuration file for a limit in a window that is not built
// in.
type limitRow struct {
	Name    string        `toml:"name" check:"limit" example:"reports_per_hour"`
	Window  time.Duration `toml:"window" min:"1s" max:"8784h" example:"1h"`
	Default int           `toml:"default" min:"0" max:"1000000000" example:"100"`
	Scope   string        `toml:"scope" default:"key" in:"key,owner"`
	Observe bool          `toml:"observe" default:"false"`
	Kind    string        `toml:"kind" default:"window" in:"window,concurrent"`
}

// concurrentRow is a [[limit]] section of a configuration file for a limit on requests in flight that
// is not built in.
type concurrentRow struct {
	Name    string `toml:"name" check:"limit" example:"reports_at_once"`
	Kind    string `toml:"kind" in:"concurrent"`
	Default int    `toml:"default" min:"0" max:"1000000000" example:"4"`
	Scope   string `toml:"scope" default:"key" in:"key,owner"`
	Observe bool   `toml:"observe" default:"false"`
}

// ReadRows converts the tables of a repeated section, such as [[limit]], to a struct for each. value
// is the whole section as the TOML decoder returns it. The tags of T are rules as in Config. A key
// without a default is required. Each problem is a text that names the section and, if possible,
// the key. Tables with problems are left out of rows.
func ReadRows[T any](section string, value any) (rows []T, problems []string) {
	tables, ok := value.([]map[string]any)
	if !ok {
		return nil, []string{fmt.Sprintf("%s must be sections [[%s]]; got %s", section, section, describe(value))}
	}
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for i, table := range tables {
		var row T
		at, known, before := fmt.Sprintf("%s[%d]", section, i), map[string]bool{}, len(problems)
		if name, ok := table["name"].(string); ok {
			at = fmt.Sprintf("%s %q", section, name)
		}
		if path, ok := table["path"].(string); ok {
			at = fmt.Sprintf("%s %d (%q)", section, i+1, path)
		} else if section == "route" {
			at = fmt.Sprintf("%s %d", section, i+1)
		}
		for _, s := range rowSettings(&row) {
			known[s.Key] = true
			given, ok := table[s.Key]
			if text, standard := s.Tag.Lookup("default"); !ok && standard {
				given = s.Parse(text)
			}
			if want := s.Assign(given); want != "" {
				fail("%s: %s must be %s; got %s", at, s.Key, want, describe(given))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			if !known[key] {
				fail("%s: unknown key %q: a [[%s]] has %s", at, key, section, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			}
		}
		if len(problems) == before {
			rows = append(rows, row)
		}
	}
	return rows, problems
}

// rowSettings returns the fields of a row as settings, in the order of the struct. The Field of each
// points into row.
func rowSettings[T any](row *T) (list []setting) {
	for f, value := range reflect.ValueOf(row).Elem().Fields() {
		list = append(list, setting{Key: f.Tag.Get("toml"), Tag: f.Tag, Field: value.Addr().Interface()})
	}
	return list
}

// printRow returns a row as a TOML section. A comment names its source.
func printRow[T any](section string, row T, source string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n[[%s]] # %s\n", section, source)
	for _, s := range rowSettings(&row) {
		fmt.Fprintf(&b, "%s = %s\n", s.Key, s.Text())
	}
	return b.String()
}
