package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/urfave/cli/v3"
)

// limitsCommand returns the commands for limits.
func (s *session) limitsCommand() *cli.Command {
	return &cli.Command{Name: "limits", Usage: "try limits on past requests", Commands: []*cli.Command{{
		Name: "what-if", Usage: "show what limits would have done with past requests, without changing them", Action: s.tryLimits,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "limit", Usage: "`NAME=NUMBER` to try (repeatable): " + requestsPerMinute + ", calls_per_day_limit, calendar_events_per_day_limit, or one of these with owner_ in front"},
			&cli.StringFlag{Name: "key", Usage: "only requests with the `KEY` that has this id, name or hint"},
			&cli.StringFlag{Name: "owner", Usage: "only requests with keys of this owner"},
			&cli.StringFlag{Name: "since", Usage: "only since a day in UTC such as 2026-11-28, a time such as 2026-11-28T09:00:00Z, or this long ago, such as 24h; default: 7d"},
		},
		Description: `Of requests per minute the number in each sixteenth of a minute is recorded.
So how many a limit would have refused is known between two numbers. Of calls
and events each is recorded, but not those that were refused.

Example, before a limit is lowered:
  latchkey limits what-if --limit ` + requestsPerMinute + `=30`,
	}}}
}

func (s *session) tryLimits(ctx context.Context, c *cli.Command) error {
	limits, err := limitFlag(c)
	if err != nil {
		return err
	}
	if len(limits) == 0 {
		return misused(c, errors.New("--limit is needed, such as "+requestsPerMinute+"=30"))
	}
	body := map[string]any{"limits": limits}
	if c.IsSet("since") {
		since, err := sinceTime(c.String("since"), time.Now())
		if err != nil {
			return misused(c, err)
		}
		if len(since) == len(time.DateOnly) {
			since += "T00:00:00Z"
		}
		body["since"] = since
	}
	if name := c.String("key"); name != "" {
		if body["key"], err = s.findKey(ctx, c, name); err != nil {
			return err
		}
	}
	if name := c.String("owner"); name != "" {
		body["owner"] = name
	}
	answer, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/limits/what-if", body})
	if err != nil || c.Bool("json") {
		if err == nil {
			err = s.printJSON(answer)
		}
		return err
	}
	return s.printTrials(answer)
}

// printTrials prints what limits would have done: a table of the limits, then for each the keys or
// owners that it would have hit most.
func (s *session) printTrials(answer map[string]any) error {
	recorded := "No requests per minute are recorded yet."
	if since := answer["recorded_since"]; since != nil {
		recorded = "Requests per minute are recorded since " + cell(since) + "."
	}
	_, _ = fmt.Fprintf(s.env.Stdout, "From %s to %s. %s\n", cell(answer["from"]), cell(answer["to"]), recorded)
	if n := whole(answer["left_out"]); n > 0 {
		const text = "%d requests are not in the counts, because there was no room for them (bounds.usage_minutes_bytes).\n"
		_, _ = fmt.Fprintf(s.env.Stdout, text, n)
	}
	_, _ = fmt.Fprintln(s.env.Stdout)
	numbers := func(row map[string]any) []string {
		refused := cell(row["refused_least"])
		if most := cell(row["refused_most"]); most != refused {
			refused += " to " + most
		}
		return []string{cell(row["asked"]), cell(row["refused_then"]), refused, cell(row["refuses_none"])}
	}
	head := []string{"ASKED", "REFUSED THEN", "WOULD REFUSE", "REFUSES NONE"}
	var all [][]string
	list, _ := answer["limits"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		hit := fmt.Sprintf("%v of %v", row["hit"], row["count"])
		all = append(all, append([]string{cell(row["name"]), cell(row["limit"]), hit}, numbers(row)...))
	}
	if err := s.printTable(append([]string{"LIMIT", "TRIED", "HIT"}, head...), all); err != nil {
		return err
	}
	for _, v := range list {
		limit, _ := v.(map[string]any)
		rows, _ := limit["most_refused"].([]any)
		var lines [][]string
		for _, v := range rows {
			row, _ := v.(map[string]any)
			lines = append(lines, append([]string{cell(row["id"]), cell(row["name"]), cell(row["owner"]), cell(row["limit"])}, numbers(row)...))
		}
		if len(lines) == 0 {
			continue
		}
		_, _ = fmt.Fprintf(s.env.Stdout, "\n%s\n", cell(limit["name"]))
		if err := s.printTable(append([]string{"KEY", "NAME", "OWNER", "NOW"}, head...), lines); err != nil {
			return err
		}
	}
	return nil
}
