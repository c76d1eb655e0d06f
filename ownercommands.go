package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/urfave/cli/v3"
)

// UpdateOwner is the command that changes an owner.
func (s *Session) UpdateOwner() *cli.Command {
	return &cli.Command{
		Name: "update", Usage: "change the wallet of one, or the limits that all its keys share", ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "limit", Usage: "`NAME=NUMBER`, 0 for no limit, or NAME=default"},
			&cli.StringFlag{Name: "balance", Usage: "what the wallet holds, or none"},
			&cli.StringFlag{Name: "rate", Usage: "price of a minute, and the least that a call needs"},
		},
		Description: "Example:\n  latchkey owners update 2 --limit owner_requests_per_minute_limit=600",
		Action:      s.updateOwner,
	}
}

func (s *Session) updateOwner(ctx context.Context, c *cli.Command) error {
	id, err := OneArgument(c)
	if err != nil {
		return err
	}
	body := map[string]any{}
	limits, err := LimitFlag(c)
	if err != nil {
		return err
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	for _, name := range []string{"balance", "rate"} {
		if !c.IsSet(name) {
			continue
		}
		n, err := strconv.ParseFloat(c.String(name), 64)
		if body[name] = n; err == nil {
			continue
		}
		if name != "balance" || c.String(name) != "none" {
			return Misused(c, fmt.Errorf("--%s must be a number; got %q", name, c.String(name)))
		}
		body[name] = nil
	}
	if len(body) == 0 {
		return Misused(c, errors.New("nothing to change: name at least one flag"))
	}
	owner, err := s.Call(ctx, c, http.MethodPatch, "/admin/v1/owners/"+url.PathEscape(id), body)
	if err != nil {
		return err
	}
	return s.PrintList(c, owner, "", []string{"id", "name", "balance", "rate", "limits"})
}
