package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/urfave/cli/v3"
)

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
	if c.Bool("json") {
		return s.PrintJSON(made)
	}
	_, _ = fmt.Fprintln(s.Env.Stdout, made["secret"])
	_, err = fmt.Fprintf(s.Env.Stderr, "\nThis is the only time that the secret is shown: store it now. The id is %v.\nTry it:\n  latchkey webhooks test %v\n", made["id"], made["id"])
	return err
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
