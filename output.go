package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v3"
)

// PrintJSON prints a value for scripts.
func (s *Session) PrintJSON(v any) error {
	enc := json.NewEncoder(s.Env.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// PrintList prints the rows of an answer, or with name "" the answer as one
// row, as a table for people or as JSON for scripts.
func (s *Session) PrintList(c *cli.Command, answer map[string]any, name string, columns []string) error {
	if c.Bool("json") {
		return s.PrintJSON(answer)
	}
	list := []any{answer}
	if name != "" {
		list, _ = answer[name].([]any)
	}
	var head []string
	for _, column := range columns {
		head = append(head, strings.ToUpper(strings.ReplaceAll(column, "_", " ")))
	}
	var rows [][]string
	for _, v := range list {
		row, _ := v.(map[string]any)
		var cells []string
		for _, column := range columns {
			cells = append(cells, short(row[column]))
		}
		rows = append(rows, cells)
	}
	if err := s.PrintTable(head, rows); err != nil {
		return err
	}
	if count, ok := answer["count"].(float64); ok && int(count) > len(rows) {
		_, err := fmt.Fprintf(s.Env.Stderr, "\n%d of %.0f rows, page %v of %v\n", len(rows), count, answer["page"], answer["pages"])
		return err
	}
	return nil
}

// short is Cell with no more of a list than keeps the table on a screen.
func short(v any) string {
	if list, ok := v.([]any); ok && len(list) > 2 {
		return fmt.Sprintf("%s +%d", Cell(list[0]), len(list)-1)
	}
	return Cell(v)
}

// PrintTable prints rows in columns, under a head if there is one.
func (s *Session) PrintTable(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(s.Env.Stdout, 0, 0, 2, ' ', 0)
	if head != nil {
		rows = append([][]string{head}, rows...)
	}
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// Cell gives a value of an answer as text that cannot play tricks on a
// terminal.
func Cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return "-"
		}
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				return '?'
			}
			return r
		}, v)
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
	case []any:
		var parts []string
		for _, part := range v {
			parts = append(parts, Cell(part))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

// ReadFileOr reads a file, or for "-" standard input.
func ReadFileOr(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// IsTerminal says whether a person reads what is written.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
