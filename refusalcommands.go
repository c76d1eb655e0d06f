package main

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/urfave/cli/v3"
)

// Refusals is the command that tells why requests were refused.
func (s *Session) Refusals() *cli.Command {
	return &cli.Command{
		Name: "refusals", Usage: "show the last refused requests and what refused them, newest first", Action: s.listRefusals,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "id", Usage: "only the request with this `ID`, which its answer has as request_id"},
			&cli.StringFlag{Name: "key", Usage: "only those of the key with this `ID`"},
			&cli.StringFlag{Name: "code", Usage: "only those with this `ERROR`, such as rate_limit_exceeded"},
			&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows on a page"},
		},
		Description: "Example:\n  latchkey refusals --id 5f0c12ab7",
	}
}

func (s *Session) listRefusals(ctx context.Context, c *cli.Command) error {
	if err := NoArguments(c); err != nil {
		return err
	}
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range []string{"id", "key", "code"} {
		if c.IsSet(name) {
			q.Set(name, c.String(name))
		}
	}
	list, err := s.Call(ctx, c, http.MethodGet, "/admin/v1/refusals?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	return s.PrintList(c, list, "refusals", []string{"at", "request_id", "status", "refused_by", "error", "key_name", "client", "method", "route", "message"})
}
