package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
)

// Audit are the commands that show the audit log and verify its chain.
func (s *Session) Audit() *cli.Command {
	filters := []cli.Flag{
		&cli.StringFlag{Name: "actor", Usage: "who: \"token\", \"token 3\", \"operator 1 ann\", \"control socket\""},
		&cli.StringFlag{Name: "action", Usage: "a part of what was done, such as revoke"},
		&cli.StringFlag{Name: "object", Usage: "what it was done to: a key's id, \"agent 12\", or \"agent\" for all"},
		&cli.StringFlag{Name: "result", Usage: "done or refused"},
		&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows on a page"},
	}
	return &cli.Command{Name: "audit", Usage: "who changed what, and who was refused", Commands: []*cli.Command{
		{Name: "list", Usage: "list entries, newest first; --json has them whole", Flags: filters, Action: s.listAudit},
		{
			Name: "verify", Usage: "check that no entry was changed, taken out, put in or moved", Action: s.verifyAudit,
			Flags: []cli.Flag{&cli.StringFlag{Name: "head", Usage: "`NUMBER:HASH` that an earlier verify printed: that entry must still be the same"}},
			Description: `Who can write the database file could make the whole chain anew. Keep what
verify prints somewhere else, and hand it to a later one:
  latchkey audit verify --head 1234:9f86d0...`,
		},
	}}
}

func (s *Session) listAudit(ctx context.Context, c *cli.Command) error {
	if err := NoArguments(c); err != nil {
		return err
	}
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range []string{"actor", "action", "object", "result"} {
		if c.IsSet(name) {
			q.Set(name, c.String(name))
		}
	}
	list, err := s.Call(ctx, c, http.MethodGet, "/admin/v1/audit?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	return s.PrintList(c, list, "entries", []string{"number", "at", "actor", "client", "action", "object", "result", "code"})
}

func (s *Session) verifyAudit(ctx context.Context, c *cli.Command) error {
	if err := NoArguments(c); err != nil {
		return err
	}
	path := "/admin/v1/audit/verify"
	if head := c.String("head"); head != "" {
		number, hash, ok := strings.Cut(head, ":")
		if !ok {
			return Misused(c, errors.New("--head is NUMBER:HASH, as verify prints it"))
		}
		path += "?" + url.Values{"number": {number}, "hash": {hash}}.Encode()
	}
	v, err := s.Call(ctx, c, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	problems, _ := v["problems"].([]any)
	if c.Bool("json") {
		err = s.PrintJSON(v)
	} else {
		_, err = fmt.Fprintf(s.Env.Stdout, "%v entries, %d problems\n", v["entries"], len(problems))
		for _, problem := range problems {
			_, _ = fmt.Fprintln(s.Env.Stdout, problem)
		}
		if len(problems) == 0 && v["entries"] != float64(0) {
			_, _ = fmt.Fprintf(s.Env.Stdout, "Head %v:%v\n", v["last"], v["hash"])
		}
	}
	if err == nil && len(problems) > 0 {
		err = errors.New("the audit log was tampered with, or the database is damaged")
	}
	return err
}
