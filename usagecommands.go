package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
)

// Usage is the command for the history of what was asked.
func (s *Session) Usage() *cli.Command {
	return &cli.Command{
		Name: "usage", Usage: "show what was asked and what was refused, by hour or by day", Action: s.showUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "only of the key with this `ID`"},
			&cli.StringFlag{Name: "step", Value: "hour", Usage: "hour (kept for 7 days) or day (kept for 90 days)"},
			&cli.IntFlag{Name: "last", Usage: "how many hours or days up to now; all that are kept without it"},
			&cli.BoolFlag{Name: "csv", Usage: "print CSV, a line for each key and step"},
			&cli.StringFlag{Name: "by", Value: "key", Usage: "with --csv: a line for each key, route or error"},
		},
		Description: `Examples:
  latchkey usage                                  # the whole service
  latchkey usage --key key_... --step day --last 30
  latchkey usage --csv --step day > usage.csv     # all keys`,
	}
}

func (s *Session) showUsage(ctx context.Context, c *cli.Command) (err error) {
	if err := NoArguments(c); err != nil {
		return err
	}
	if c.Bool("csv") && c.Bool("json") {
		return Misused(c, fmt.Errorf("--csv and --json exclude each other"))
	}
	q := url.Values{"step": {c.String("step")}}
	if c.IsSet("last") {
		q.Set("last", strconv.Itoa(c.Int("last")))
	}
	path := "/admin/v1/usage"
	if id := c.String("key"); id != "" {
		path = "/admin/v1/keys/" + url.PathEscape(id) + "/history"
	}
	if c.Bool("csv") {
		q.Set("format", "csv")
		q.Set("by", c.String("by"))
		client, done, err := s.Reach(ctx, c)
		if err != nil {
			return err
		}
		defer func() { _ = done() }()
		return client.Copy(ctx, path+"?"+q.Encode(), s.Env.Stdout)
	}
	answer, err := s.Call(ctx, c, http.MethodGet, path+"?"+q.Encode(), nil)
	if err != nil || c.Bool("json") {
		if err == nil {
			err = s.PrintJSON(answer)
		}
		return err
	}
	return s.printUsage(answer)
}

// printUsage prints the parts of a history as tables.
func (s *Session) printUsage(answer map[string]any) error {
	for _, part := range []struct{ rows, name, empty string }{
		{"buckets", "start", "No request in this time."}, {"routes", "route", ""}, {"errors", "error", ""}, {"keys", "id", ""},
	} {
		list, _ := answer[part.rows].([]any)
		if len(list) == 0 && part.empty == "" {
			continue
		}
		if part.rows != "buckets" {
			_, _ = fmt.Fprintln(s.Env.Stdout)
		}
		if len(list) == 0 {
			_, _ = fmt.Fprintln(s.Env.Stdout, part.empty)
			continue
		}
		columns := append([]string{part.name}, append([]string{"requests"}, Outcomes()...)...)
		if part.rows == "keys" {
			columns = append(columns, "name")
		}
		var head []string
		for _, column := range columns {
			head = append(head, strings.ToUpper(strings.ReplaceAll(column, "_", " ")))
		}
		rows := [][]string{}
		for _, v := range list {
			row, _ := v.(map[string]any)
			var cells []string
			for _, column := range columns {
				cells = append(cells, Cell(row[column]))
			}
			rows = append(rows, cells)
		}
		if err := s.PrintTable(head, rows); err != nil {
			return err
		}
	}
	return nil
}
