package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"latchkey/internal/clock"
	"latchkey/internal/timespan"
)

// activityCommand returns the command that shows what a key did.
func (s *session) activityCommand() *cli.Command {
	return &cli.Command{
		Name: "activity", Usage: "show what a key did: its writes, from where it was used, what was refused; latest first", ArgsUsage: "KEY", Action: s.keyActivity,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "only since a day in UTC such as 2026-11-28, a time such as 2026-11-28T09:00:00Z, or this long ago, such as 24h or 7d"},
			&cli.StringFlag{Name: "kind", Usage: "only entries of this kind: write, refusal, network, address, carrier or left_out"},
			&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"},
		},
		Description: `Writes are listed with what they created, changed or deleted, refusals with
how often they happened within an hour.

Example, after a leak:
  latchkey keys activity ci --since 7d`,
	}
}

// sinceTime returns the time that --since names, in the form that the admin endpoint takes. Such a
// length as 24h counts back from now.
func sinceTime(text string, now time.Time) (string, error) {
	if _, err := clock.ParseDate(text); err == nil {
		return text, nil
	}
	if at, err := clock.ParseTime(text); err == nil {
		return at.Format(time.RFC3339), nil
	}
	length, err := timespan.Parse(text)
	if err != nil || length <= 0 {
		return "", fmt.Errorf("--since must be a day such as 2026-11-28, a time such as 2026-11-28T09:00:00Z, or a length such as 24h or 7d; got %q", text)
	}
	return now.Add(-length).UTC().Format(time.RFC3339), nil
}

func (s *session) keyActivity(ctx context.Context, c *cli.Command) error {
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	if c.IsSet("since") {
		since, err := sinceTime(c.String("since"), time.Now())
		if err != nil {
			return misused(c, err)
		}
		q.Set("since", since)
	}
	if c.IsSet("kind") {
		q.Set("kind", c.String("kind"))
	}
	path, err := s.oneKeyPath(ctx, c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodGet, path + "/activity?" + q.Encode(), nil})
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		if err := s.printTable(nil, summaryOf(answer)); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(s.env.Stdout)
		list, _ := answer["activity"].([]any)
		for _, v := range list {
			if row, ok := v.(map[string]any); ok {
				row["what"] = whatOf(row)
			}
		}
	}
	return s.printList(c, answer, "activity", []string{"at", "kind", "what", "client", "request_id"})
}

// summaryOf returns the rows about the whole activity of a key.
func summaryOf(answer map[string]any) [][]string {
	var written []string
	list, _ := answer["written"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		written = append(written, fmt.Sprintf("%s %s: %v", cell(row["kind"]), cell(row["did"]), row["count"]))
	}
	places := func(member, name string) string {
		var texts []string
		list, _ := answer[member].([]any)
		for _, v := range list {
			row, _ := v.(map[string]any)
			texts = append(texts, cell(row[name])+" since "+cell(row["first_at"]))
		}
		return cell(strings.Join(texts, ", "))
	}
	rows := [][]string{
		{"key", cell(answer["key_id"]) + ", " + cell(answer["key_name"])}, {"wrote", cell(strings.Join(written, ", "))}, {"refused requests", cell(answer["refused"])},
		{"used from", places("networks", "network")}, {"sent as", places("carriers", "carrier")},
	}
	if whole(answer["removed"]) > 0 {
		rows = append(rows, []string{"not kept", fmt.Sprintf("%v older entries", answer["removed"])})
	}
	return rows
}

// whatOf returns what an entry of the activity of a key is about.
func whatOf(row map[string]any) string {
	route := strings.TrimSpace(strings.ReplaceAll(cell(row["method"])+" "+cell(row["route"]), "- -", ""))
	text := ""
	switch row["kind"] {
	case "write":
		var did []string
		list, _ := row["objects"].([]any)
		for _, v := range list {
			object, _ := v.(map[string]any)
			did = append(did, cell(object["did"])+" "+cell(object["object"]))
		}
		if more := whole(row["more_objects"]); more > 0 {
			did = append(did, fmt.Sprintf("%d further records", more))
		}
		switch {
		case len(did) > 0:
			text = strings.Join(did, ", ") + " by " + route
		case row["status"] != nil:
			text = fmt.Sprintf("%s, answered with %v by the upstream", route, row["status"])
		default:
			text = route + ", let through"
		}
	case "refusal":
		text = fmt.Sprintf("%v %s to %s", row["status"], cell(row["error"]), route)
	case "network":
		text = "first request from " + cell(row["network"])
	case "address":
		text = "first request from this address of " + cell(row["network"])
	case "carrier":
		text = "sent as " + cell(row["carrier"])
		if row["carrier_before"] != nil {
			text += ", before as " + cell(row["carrier_before"])
		}
	default:
		text = "requests that were not looked at in detail"
	}
	if n := whole(row["requests"]); n > 1 {
		text += fmt.Sprintf(", %d times since %s", n, cell(row["since"]))
	}
	return text
}
