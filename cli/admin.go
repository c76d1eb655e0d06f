package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"latchkey/internal/secrettext"
)

// adminCommand returns the commands for operators, set-up links and admin tokens.
func (s *session) adminCommand() *cli.Command {
	return &cli.Command{Name: "admin", Usage: "manage operators and admin tokens", Commands: []*cli.Command{
		{
			Name: "create", Usage: "create an operator, who can log in to the dashboard", Action: s.createOperator,
			Flags: []cli.Flag{&cli.StringFlag{Name: "name", Usage: "name to log in with"}, s.roleFlag("; default: admin"), passwordFlag()},
		},
		{
			Name: "invite", Usage: "create a link with which somebody becomes an operator; it works once, within 24 hours", Action: s.inviteOperator,
			Flags: []cli.Flag{&cli.StringFlag{Name: "name", Usage: "name to log in with"}, s.roleFlag("")},
		},
		{Name: "list", Usage: "list operators", Action: s.listOperators},
		{Name: "set-role", Usage: "change the role of an operator", ArgsUsage: "NAME ROLE", Action: s.setRole},
		{Name: "disable", Usage: "end an operator's logins and refuse others", ArgsUsage: "NAME", Action: s.setDisabled(true)},
		{Name: "enable", Usage: "allow a disabled operator to log in again", ArgsUsage: "NAME", Action: s.setDisabled(false)},
		{Name: "remove", Usage: "remove an operator, or withdraw an invitation", ArgsUsage: "NAME", Action: s.removeOperator},
		{Name: "passwd", Usage: "change an operator's password and end the operator's logins", ArgsUsage: "NAME", Flags: []cli.Flag{passwordFlag()}, Action: s.changeOperator},
		{
			Name: "reset", Usage: "make an operator an admin again: set the password, remove second factors, enable the login and end earlier ones", ArgsUsage: "NAME",
			Flags: []cli.Flag{passwordFlag()}, Action: s.resetOperator,
			Description: "Use it on the machine of the service if no admin can log in any more. The\nserver may be running.",
		},
		{
			Name: "enroll", Usage: "create a link for setting up a second factor; it works once, within 30 minutes", ArgsUsage: "NAME", Action: s.enrollOperator,
			Description: "An operator whose password is from LATCHKEY_ADMIN_PASSWORD needs it if\nadmin.require_second_factor is set, since others may know that password.",
		},
		{Name: "setup-link", Usage: "create a link for creating the first operator in a browser; it works once, within 30 minutes", Action: s.setupLink},
		s.tokenCommand(),
	}}
}

// passwordFlag returns the flag --password-file. No flag contains the password itself, because it
// would then appear in the list of processes and in the shell's history.
func passwordFlag() cli.Flag {
	return &cli.StringFlag{Name: "password-file", Usage: "`FILE` with the password, or - for standard input; default: a prompt on the terminal"}
}

// password returns a new password for an operator. It reads the file of --password-file, or prompts
// for the password twice on the terminal, without echo.
func (s *session) password(c *cli.Command) (string, error) {
	if file := c.String("password-file"); file != "" {
		return secrettext.Password.ReadFile("--password-file", file, s.env.Stdin)
	}
	in, ok := s.terminal()
	if !ok {
		return "", misused(c, errors.New("there is no terminal to ask for the password; set --password-file to a file, or to - for standard input"))
	}
	ask := func(prompt string) (string, error) {
		if _, err := fmt.Fprint(s.env.Stderr, prompt); err != nil {
			return "", err
		}
		b, err := term.ReadPassword(int(in.Fd()))
		_, _ = fmt.Fprintln(s.env.Stderr)
		if err != nil {
			return "", err
		}
		text, err := secrettext.Password.Clean(b)
		if err != nil {
			return "", fmt.Errorf("the password %w", err)
		}
		return text, nil
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("Repeat the password: ")
	if err == nil && again != first {
		err = errors.New("the two passwords differ; nothing was changed")
	}
	return first, err
}

// auditCommand returns the commands that show the audit log and verify its chain.
func (s *session) auditCommand() *cli.Command {
	filters := []cli.Flag{
		&cli.StringFlag{Name: "actor", Usage: "who made the change: a name, or \"token\", \"token 3\", \"operator 1 ann\" or \"control socket\""},
		&cli.StringFlag{Name: "action", Usage: "part of the action's name, such as revoke"},
		&cli.StringFlag{Name: "object", Usage: "what was changed: a name, a key's id, \"agent 12\", or \"agent\" for all agents"},
		&cli.StringFlag{Name: "result", Usage: "result of the action: done or refused"},
		&cli.StringFlag{Name: "kind", Usage: "kind of action: created, changed, deleted, imported, rotated, revoked, paused, resumed, login or other"},
		&cli.StringFlag{Name: "from", Usage: "first day in UTC, such as 2026-11-28, or a time such as 2026-11-28T09:00:00Z"},
		&cli.StringFlag{Name: "to", Usage: "last day in UTC, or a time"},
		&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"},
	}
	return &cli.Command{Name: "audit", Usage: "list and verify the log of changes and refused attempts", Commands: []*cli.Command{
		{Name: "list", Usage: "list entries, newest first; --json prints all their fields", Flags: filters, Action: s.listAudit},
		{
			Name: "verify", Usage: "check that no entry was changed, removed, inserted or moved", Action: s.verifyAudit,
			Flags: []cli.Flag{&cli.StringFlag{Name: "head", Usage: "`NUMBER:HASH` printed by an earlier verify; checks that this entry is unchanged"}},
			Description: `Anyone who can write the database file can rebuild the whole chain. Keep the
head that verify prints in another place, and pass it to a later verify:
  latchkey audit verify --head 1234:9f86d0...`,
		},
	}}
}

func (s *session) listAudit(ctx context.Context, c *cli.Command) error {
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range []string{"actor", "action", "object", "result", "kind", "from", "to"} {
		if c.IsSet(name) {
			q.Set(name, c.String(name))
		}
	}
	list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/audit?" + q.Encode(), nil})
	if err != nil {
		return err
	}
	return s.printList(c, list, "entries", []string{"number", "at", "summary", "client", "result", "object"})
}

func (s *session) verifyAudit(ctx context.Context, c *cli.Command) error {
	path := "/admin/v1/audit/verify"
	if head := c.String("head"); head != "" {
		number, hash, ok := strings.Cut(head, ":")
		if !ok {
			return misused(c, errors.New("--head must be NUMBER:HASH, as verify prints it"))
		}
		path += "?" + url.Values{"number": {number}, "hash": {hash}}.Encode()
	}
	v, err := s.call(ctx, c, Request{http.MethodGet, path, nil})
	if err != nil {
		return err
	}
	problems, _ := v["problems"].([]any)
	if c.Bool("json") {
		err = s.printJSON(v)
	} else {
		_, err = fmt.Fprintf(s.env.Stdout, "%v entries, %d problems\n", v["entries"], len(problems))
		for _, problem := range problems {
			_, _ = fmt.Fprintln(s.env.Stdout, problem)
		}
		if len(problems) == 0 && whole(v["entries"]) != 0 {
			_, _ = fmt.Fprintf(s.env.Stdout, "Head %v:%v\n", v["last"], v["hash"])
		}
	}
	if err == nil && len(problems) > 0 {
		err = errors.New("the audit log was tampered with, or the database is damaged")
	}
	return err
}

// refusalsCommand returns the command that shows why requests were refused.
func (s *session) refusalsCommand() *cli.Command {
	return &cli.Command{
		Name: "refusals", Usage: "show the latest refused requests with the reason, newest first", Action: s.listRefusals,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "id", Usage: "only the request with this `ID`, the request_id in its answer"},
			&cli.StringFlag{Name: "key", Usage: "only requests with the `KEY` that has this id, name or hint"},
			&cli.StringFlag{Name: "code", Usage: "only requests refused with this `ERROR`, such as rate_limit_exceeded"},
			&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"},
		},
		Description: "Example:\n  latchkey refusals --id 5f0c12ab7",
	}
}

func (s *session) listRefusals(ctx context.Context, c *cli.Command) error {
	return s.listByFlags(ctx, c, "refusals", []string{"id", "key", "code"},
		[]string{"at", "request_id", "status", "refused_by", "error", "key_name", "client", "method", "route", "message"})
}

// requestsCommand returns the command that lists the latest requests.
func (s *session) requestsCommand() *cli.Command {
	return &cli.Command{
		Name: "requests", Usage: "list the latest requests to the API, newest first", Action: s.listRequests,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "id", Usage: "only the request with this `ID`, the request_id in its answer"},
			&cli.StringFlag{Name: "key", Usage: "only requests with the `KEY` that has this id, name or hint"},
			&cli.StringFlag{Name: "route", Usage: "only requests to this `ROUTE`, such as /api/v1/calls/:call_id"},
			&cli.StringFlag{Name: "method", Usage: "only requests with this `METHOD`, such as POST"},
			&cli.StringFlag{Name: "status", Usage: "only requests with this `STATUS`, such as 404 or 5xx"},
			&cli.StringFlag{Name: "code", Usage: "only requests refused with this `ERROR`, such as rate_limit_exceeded"},
			&cli.StringFlag{Name: "client", Usage: "only requests from this `IP` address"},
			&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"},
		},
		Description: `The server keeps the latest 20,000 in memory. latchkey refusals goes further
back and has the reason of each.

Examples:
  latchkey requests --key crm --status 5xx
  latchkey requests --client 192.0.2.7 --limit 100 --json`,
	}
}

func (s *session) listRequests(ctx context.Context, c *cli.Command) error {
	return s.listByFlags(ctx, c, "requests", []string{"id", "key", "route", "method", "status", "code", "client"},
		[]string{"at", "request_id", "status", "method", "route", "key_name", "client", "duration_ms", "refused_by", "error"})
}

// listByFlags prints a list of the admin endpoint that the flags filter. The flag --key names a key as
// commands do.
func (s *session) listByFlags(ctx context.Context, c *cli.Command, list string, filters, columns []string) error {
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range filters {
		if c.IsSet(name) {
			q.Set(name, c.String(name))
		}
	}
	if name := c.String("key"); name != "" {
		id, err := s.findKey(ctx, c, name)
		if err != nil {
			return err
		}
		q.Set("key", id)
	}
	answer, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/" + list + "?" + q.Encode(), nil})
	if err != nil {
		return err
	}
	return s.printList(c, answer, list, columns)
}

// usageCommand returns the command that shows the history of requests.
func (s *session) usageCommand() *cli.Command {
	return &cli.Command{
		Name: "usage", Usage: "show how many requests were served and refused, by hour or by day", Action: s.showUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "only requests with the `KEY` that has this id, name or hint"},
			&cli.StringFlag{Name: "step", Value: "hour", Usage: "hour (kept for 7 days) or day (kept for 90 days)"},
			&cli.IntFlag{Name: "last", Usage: "how many hours or days up to now; default: all that are kept"},
			&cli.BoolFlag{Name: "csv", Usage: "print CSV, with a line for each key and step"},
			&cli.StringFlag{Name: "by", Value: "key", Usage: "with --csv: what the lines are for: key, route or error"},
		},
		Description: `Examples:
  latchkey usage                                  # the whole service
  latchkey usage --key key_... --step day --last 30
  latchkey usage --csv --step day > usage.csv     # all keys`,
	}
}

func (s *session) showUsage(ctx context.Context, c *cli.Command) (err error) {
	q := url.Values{"step": {c.String("step")}}
	if c.IsSet("last") {
		q.Set("last", strconv.Itoa(c.Int("last")))
	}
	path := "/admin/v1/usage"
	if name := c.String("key"); name != "" {
		id, err := s.findKey(ctx, c, name)
		if err != nil {
			return err
		}
		path = "/admin/v1/keys/" + id + "/history"
	}
	if c.Bool("csv") {
		q.Set("format", "csv")
		q.Set("by", c.String("by"))
		client, done, err := s.reach(ctx, c)
		if err != nil {
			return err
		}
		defer func() { _ = done() }()
		return client.Copy(ctx, path+"?"+q.Encode(), s.env.Stdout)
	}
	answer, err := s.call(ctx, c, Request{http.MethodGet, path + "?" + q.Encode(), nil})
	if err != nil || c.Bool("json") {
		if err == nil {
			err = s.printJSON(answer)
		}
		return err
	}
	return s.printUsage(answer)
}

// printUsage prints a history as tables: requests by hour or day, by route, by error and by key. It
// leaves out a table without rows.
func (s *session) printUsage(answer map[string]any) error {
	for _, part := range []struct{ rows, name, empty string }{
		{"buckets", "start", "No requests in this time."}, {"routes", "route", ""}, {"errors", "error", ""}, {"keys", "id", ""},
	} {
		list, _ := answer[part.rows].([]any)
		if len(list) == 0 && part.empty == "" {
			continue
		}
		if part.rows != "buckets" {
			_, _ = fmt.Fprintln(s.env.Stdout)
		}
		if len(list) == 0 {
			_, _ = fmt.Fprintln(s.env.Stdout, part.empty)
			continue
		}
		columns := append([]string{part.name}, append([]string{"requests"}, s.env.Words.Outcomes...)...)
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
				cells = append(cells, cell(row[column]))
			}
			rows = append(rows, cells)
		}
		if err := s.printTable(head, rows); err != nil {
			return err
		}
	}
	return nil
}

// webhooksCommand returns the commands for webhooks.
func (s *session) webhooksCommand() *cli.Command {
	pages := []cli.Flag{&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"}}
	return &cli.Command{Name: "webhooks", Usage: "create, list, test and delete webhooks", Commands: []*cli.Command{
		s.showsOnce(&cli.Command{Name: "create", Usage: "create a webhook and show its secret once", Action: s.createWebhook, Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "what the webhook is for"},
			&cli.StringFlag{Name: "target", Usage: "`URL` to which events are sent"},
			&cli.StringSliceFlag{Name: "event", Usage: "type of event to send (repeatable); \"all\" for every type"},
			&cli.StringFlag{Name: "owner", Usage: "owner of the webhook; without it the webhook is the operator's and receives the events of all owners"},
		}, Description: `Examples:
  latchkey webhooks create --name watch --event key.created,limit.reached \
    --target https://hooks.example.net/keys
  latchkey webhooks create --name crm --event call.ended --owner ann \
    --target https://hooks.example.net/crm`}),
		{Name: "list", Usage: "list webhooks, newest first", Action: s.listWebhooks, Flags: append(slices.Clip(pages), sandboxFlag())},
		{Name: "test", Usage: "send a sample event and print the result", ArgsUsage: "ID", Action: s.testWebhook,
			Flags: []cli.Flag{&cli.StringFlag{Name: "event", Usage: "type of event to send; default: the first to which the webhook subscribes"}}},
		{Name: "logs", Usage: "list delivery attempts, newest first", ArgsUsage: "ID", Action: s.webhookLogs, Flags: pages},
		{Name: "redeliver", Usage: "send the event of a log entry again", ArgsUsage: "ID", Action: s.redeliver,
			Flags: []cli.Flag{&cli.IntFlag{Name: "log", Usage: "`ID` of the log entry"}}},
		{Name: "retry-failed", Usage: "send all deliveries again that have failed for good", ArgsUsage: "ID", Action: s.retryFailed},
		{Name: "delete", Usage: "delete a webhook and its pending deliveries", ArgsUsage: "ID", Action: s.deleteWebhook},
		{Name: "release", Usage: "send webhooks again after a restore has held them back", Action: s.releaseWebhooks,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "discard", Usage: "first delete the deliveries that were pending at the time of the restore"}}},
	}}
}

func (s *session) createWebhook(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" || c.String("target") == "" || !c.IsSet("event") {
		return misused(c, fmt.Errorf("--name, --target and --event are needed"))
	}
	body := map[string]any{"name": c.String("name"), "url": c.String("target")}
	events := c.StringSlice("event")
	if len(events) == 1 && events[0] == "all" {
		events = s.env.Words.OperatorEventTypes
		if c.IsSet("owner") {
			events = s.env.Words.EventTypes
		}
	}
	body["subscribed_events"] = events
	if c.IsSet("owner") {
		body["owner"] = c.String("owner")
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/webhooks", body})
	if err != nil {
		return err
	}
	lost := shownOnce{member: "secret", kind: "webhook", remedy: "Delete it and create another: latchkey webhooks delete ID"}
	if advise, err := s.printSecret(c, made, lost); err != nil || !advise {
		return err
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "\nThis is the only time that the secret is shown: store it now. The id is %v.\nTry it:\n  latchkey webhooks test %v\n", made["id"], made["id"])
	return nil
}

// webhookPath returns the URL path of the webhook whose id is the argument of the command. It
// returns a *usageError if the command does not have exactly one argument; then ignore the path.
func webhookPath(c *cli.Command) (string, error) {
	id, err := oneArgument(c)
	return "/admin/v1/webhooks/" + url.PathEscape(id), err
}

func (s *session) listWebhooks(ctx context.Context, c *cli.Command) error {
	list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/webhooks?" + pageQuery(c), nil})
	if err != nil {
		return err
	}
	return s.printList(c, list, "webhooks", []string{"id", "name", "url", "subscribed_events", "owner", "created_by", "is_active", "waiting", "failing_since"})
}

// pageQuery returns the URL query for --page, --limit and --sandbox.
func pageQuery(c *cli.Command) string {
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	if c.Bool("sandbox") {
		q.Set("sandbox", "true")
	}
	return q.Encode()
}

func (s *session) testWebhook(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if c.IsSet("event") {
		body["event_type"] = c.String("event")
	}
	went, err := s.call(ctx, c, Request{http.MethodPost, path + "/test", body})
	if err != nil {
		return err
	}
	return s.printTest(c, went, fmt.Sprintf("The receiver answered %v.", went["status_code"]))
}

// printTest prints the answer to a test, and more about one that succeeded. It returns an error if the test failed.
func (s *session) printTest(c *cli.Command, answer map[string]any, more string) error {
	if c.Bool("json") {
		if err := s.printJSON(answer); err != nil {
			return err
		}
	}
	if answer["success"] != true {
		return fmt.Errorf("%s", cell(answer["message"]))
	}
	if c.Bool("json") {
		return nil
	}
	_, err := fmt.Fprintf(s.env.Stdout, "%s %s\n", cell(answer["message"]), more)
	return err
}

func (s *session) webhookLogs(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	list, err := s.call(ctx, c, Request{http.MethodGet, path + "/logs?" + pageQuery(c), nil})
	if err != nil {
		return err
	}
	return s.printList(c, list, "logs", []string{"id", "created_at", "event_type", "attempt", "status_code", "success", "error", "delivery_id"})
}

func (s *session) redeliver(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	if c.Int("log") < 1 {
		return misused(c, fmt.Errorf("--log is needed: the id of an entry listed by latchkey webhooks logs"))
	}
	queued, err := s.call(ctx, c, Request{http.MethodPost, path + "/redeliver", map[string]any{"log_id": c.Int("log")}})
	if err != nil {
		return err
	}
	return s.printList(c, queued, "", []string{"delivery_id", "event_type", "message"})
}

// retryFailed queues all deliveries of a webhook again that have failed for good.
func (s *session) retryFailed(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodPost, path + "/retry-failed", nil})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	text := cell(answer["message"]) + "\n"
	if whole(answer["left_out"]) > 0 {
		text += fmt.Sprintf("No room for %v others; run the command again later.\n", answer["left_out"])
	}
	_, err = io.WriteString(s.env.Stdout, text)
	return err
}

// releaseWebhooks makes the server send webhooks again after a restore.
func (s *session) releaseWebhooks(ctx context.Context, c *cli.Command) error {
	answer, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/webhooks/release", map[string]any{"discard": c.Bool("discard")}})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	_, err = fmt.Fprintf(s.env.Stdout, "Webhooks are sent again. %v pending deliveries were discarded.\n", answer["discarded"])
	return err
}

func (s *session) deleteWebhook(ctx context.Context, c *cli.Command) error {
	path, err := webhookPath(c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodDelete, path, nil})
	if err == nil && c.Bool("json") {
		return s.printJSON(answer)
	}
	return err
}
