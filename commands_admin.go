package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"
)

// Admin are the commands for who may administer.
func (s *Session) Admin() *cli.Command {
	create := &cli.Command{
		Name: "create", Usage: "make a token for the admin door and show it, once",
		Flags: []cli.Flag{&cli.StringFlag{Name: "name", Usage: "what the token is for"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.String("name") == "" {
				return Misused(c, fmt.Errorf("--name is needed"))
			}
			made, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/tokens", map[string]any{"name": c.String("name")})
			if err != nil {
				return err
			}
			lost := Secret{Member: "token", What: "admin token", Again: "Revoke it and create another: latchkey admin token revoke ID"}
			if err := s.PrintSecret(c, made, lost); err != nil || c.Bool("json") {
				return err
			}
			_, _ = fmt.Fprintln(s.Env.Stderr, "\nThis is the only time that the token is shown: store it now.")
			return nil
		},
	}
	revoke := &cli.Command{
		Name: "revoke", Usage: "refuse a token from now on", ArgsUsage: "ID",
		Action: func(ctx context.Context, c *cli.Command) error {
			id, err := OneArgument(c)
			if err != nil {
				return err
			}
			gone, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/tokens/"+url.PathEscape(id)+"/revoke", nil)
			if err != nil {
				return err
			}
			return s.PrintList(c, gone, "", tokenColumns())
		},
	}
	list := s.ListOf("tokens", tokenColumns())
	return &cli.Command{Name: "admin", Usage: "who may administer", Commands: []*cli.Command{
		{
			Name: "create", Usage: "make an operator, who may log in to the dashboard", Action: s.createOperator,
			Flags: []cli.Flag{&cli.StringFlag{Name: "name", Usage: "name to log in with"}, passwordFlag()},
		},
		{Name: "passwd", Usage: "give an operator another password and end its logins", ArgsUsage: "NAME", Flags: []cli.Flag{passwordFlag()}, Action: s.changeOperator},
		{Name: "setup-link", Usage: "make a link, good once and for 30 minutes, to create the first operator in a browser", Action: s.setupLink},
		{Name: "token", Usage: "tokens for the admin door", Commands: []*cli.Command{create, list, revoke}},
	}}
}

func tokenColumns() []string {
	return []string{"id", "name", "hint", "status", "created_at", "last_used_at"}
}

// passwordFlag names the file: a password in a flag would stand in the list of
// processes and in the shell's history.
func passwordFlag() cli.Flag {
	return &cli.StringFlag{Name: "password-file", Usage: "`FILE` with the password, - for standard input; without it the password is asked for"}
}

// password reads a new password: from a file, or twice from the terminal,
// which does not show it.
func (s *Session) password(c *cli.Command) (string, error) {
	if file := c.String("password-file"); file != "" {
		data, err := ReadFileOr(s.Env.Stdin, file)
		return string(bytes.TrimRight(data, "\r\n")), err
	}
	in, ok := s.Env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", Misused(c, errors.New("there is no terminal to ask on; name a --password-file, or - for standard input"))
	}
	ask := func(prompt string) (string, error) {
		if _, err := fmt.Fprint(s.Env.Stderr, prompt); err != nil {
			return "", err
		}
		b, err := term.ReadPassword(int(in.Fd()))
		_, _ = fmt.Fprintln(s.Env.Stderr)
		return string(b), err
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("Again: ")
	if err == nil && again != first {
		err = errors.New("the two passwords differ; nothing was changed")
	}
	return first, err
}

func (s *Session) createOperator(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" {
		return Misused(c, errors.New("--name is needed"))
	}
	password, err := s.password(c)
	if err != nil {
		return err
	}
	made, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/operators", map[string]any{"name": c.String("name"), "password": password})
	if err != nil {
		return err
	}
	return s.PrintList(c, made, "", []string{"id", "name", "created_at"})
}

func (s *Session) changeOperator(ctx context.Context, c *cli.Command) error {
	name, err := OneArgument(c)
	if err != nil {
		return err
	}
	list, err := s.Call(ctx, c, http.MethodGet, "/admin/v1/operators", nil)
	if err != nil {
		return err
	}
	rows, _ := list["operators"].([]any)
	for _, row := range rows {
		op, _ := row.(map[string]any)
		if held, _ := op["name"].(string); !strings.EqualFold(held, name) {
			continue
		}
		password, err := s.password(c)
		if err != nil {
			return err
		}
		answer, err := s.Call(ctx, c, http.MethodPost, fmt.Sprintf("/admin/v1/operators/%v/password", op["id"]), map[string]any{"password": password})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.Env.Stdout, answer["message"])
		return err
	}
	return fmt.Errorf("there is no operator named %q", name)
}

func (s *Session) setupLink(ctx context.Context, c *cli.Command) error {
	base := ""
	if !c.Bool("json") {
		conf, _, err := s.Load(c) // before there is a link to lose
		if err != nil {
			return err
		}
		if base = conf.Admin.BaseURL; base == "" {
			base = "http://" + strings.Replace(conf.Admin.Listen, "0.0.0.0", "localhost", 1)
			if conf.AdminTLS().On() {
				base = "https" + strings.TrimPrefix(base, "http")
			}
		}
	}
	made, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/setup-link", nil)
	if err != nil {
		return err
	}
	made["path"] = base + Cell(made["path"])
	lost := Secret{Member: "path", What: "set-up link", Again: "Make another, which ends this one: latchkey admin setup-link"}
	if err := s.PrintSecret(c, made, lost); err != nil || c.Bool("json") {
		return err
	}
	_, _ = fmt.Fprintf(s.Env.Stderr, "\nGood once, until %s.\n", made["expires_at"])
	return nil
}

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

// Webhooks are the commands for the endpoints that are told of events.
func (s *Session) Webhooks() *cli.Command {
	pages := []cli.Flag{&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows on a page"}}
	return &cli.Command{Name: "webhooks", Usage: "create, list, try and delete webhooks", Commands: []*cli.Command{
		{Name: "create", Usage: "make one and show its secret, once", Action: s.createWebhook, Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "what the webhook is for"},
			&cli.StringFlag{Name: "target", Usage: "`URL` where events are sent"},
			&cli.StringSliceFlag{Name: "event", Usage: "an event, may stand several times; \"all\" for every one"},
			&cli.StringFlag{Name: "owner", Usage: "whose it is; without it the operator's, which hears of every owner"},
		}, Description: `Examples:
  latchkey webhooks create --name watch --target https://hooks.example.net/keys --event key.created,limit.reached
  latchkey webhooks create --name crm --target https://hooks.example.net/crm --event call.ended --owner ann`},
		{Name: "list", Usage: "list webhooks, newest first", Action: s.listWebhooks, Flags: pages},
		{Name: "test", Usage: "send a sample and say what came of it", ArgsUsage: "ID", Action: s.testWebhook,
			Flags: []cli.Flag{&cli.StringFlag{Name: "event", Usage: "which event to send; the first it has subscribed to"}}},
		{Name: "logs", Usage: "list the attempts, newest first", ArgsUsage: "ID", Action: s.webhookLogs, Flags: pages},
		{Name: "redeliver", Usage: "send again what an entry of the log has sent", ArgsUsage: "ID", Action: s.redeliver,
			Flags: []cli.Flag{&cli.IntFlag{Name: "log", Usage: "`ID` of the entry"}}},
		{Name: "delete", Usage: "delete one, with what waits for it", ArgsUsage: "ID", Action: s.deleteWebhook},
	}}
}

func (s *Session) createWebhook(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" || c.String("target") == "" || !c.IsSet("event") {
		return Misused(c, fmt.Errorf("--name, --target and --event are needed"))
	}
	if err := NoArguments(c); err != nil {
		return err
	}
	body := map[string]any{"name": c.String("name"), "url": c.String("target")}
	events := c.StringSlice("event")
	if len(events) == 1 && events[0] == "all" {
		events = OperatorEventTypes()
		if c.IsSet("owner") {
			events = EventTypes()
		}
	}
	body["subscribed_events"] = events
	if c.IsSet("owner") {
		body["owner"] = c.String("owner")
	}
	made, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/webhooks", body)
	if err != nil {
		return err
	}
	lost := Secret{Member: "secret", What: "webhook", Again: "Delete it and create another: latchkey webhooks delete ID"}
	if err := s.PrintSecret(c, made, lost); err != nil || c.Bool("json") {
		return err
	}
	_, _ = fmt.Fprintf(s.Env.Stderr, "\nThis is the only time that the secret is shown: store it now. The id is %v.\nTry it:\n  latchkey webhooks test %v\n", made["id"], made["id"])
	return nil
}

// webhookPath gives the path of the webhook that the argument names.
func webhookPath(c *cli.Command) (string, error) {
	id, err := OneArgument(c)
	return "/admin/v1/webhooks/" + url.PathEscape(id), err
}

func (s *Session) listWebhooks(ctx context.Context, c *cli.Command) error {
	list, err := s.Call(ctx, c, http.MethodGet, "/admin/v1/webhooks?"+pageQuery(c), nil)
	if err != nil {
		return err
	}
	return s.PrintList(c, list, "webhooks", []string{"id", "name", "url", "subscribed_events", "owner", "is_active", "waiting", "failing_since"})
}

func pageQuery(c *cli.Command) string {
	return url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}.Encode()
}

func (s *Session) testWebhook(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if c.IsSet("event") {
		body["event_type"] = c.String("event")
	}
	went, err := s.Call(ctx, c, http.MethodPost, path+"/test", body)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := s.PrintJSON(went); err != nil {
			return err
		}
	}
	if went["success"] != true {
		return fmt.Errorf("%s", Cell(went["message"]))
	}
	if c.Bool("json") {
		return nil
	}
	_, err = fmt.Fprintf(s.Env.Stdout, "%s The receiver answered %v.\n", Cell(went["message"]), went["status_code"])
	return err
}

func (s *Session) webhookLogs(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	list, err := s.Call(ctx, c, http.MethodGet, path+"/logs?"+pageQuery(c), nil)
	if err != nil {
		return err
	}
	return s.PrintList(c, list, "logs", []string{"id", "created_at", "event_type", "attempt", "status_code", "success", "error", "delivery_id"})
}

func (s *Session) redeliver(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	if c.Int("log") < 1 {
		return Misused(c, fmt.Errorf("--log is needed: the id of an entry, as of latchkey webhooks logs"))
	}
	queued, err := s.Call(ctx, c, http.MethodPost, path+"/redeliver", map[string]any{"log_id": c.Int("log")})
	if err != nil {
		return err
	}
	return s.PrintList(c, queued, "", []string{"delivery_id", "event_type", "message"})
}

func (s *Session) deleteWebhook(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	_, err = s.Call(ctx, c, http.MethodDelete, path, nil)
	return err
}
