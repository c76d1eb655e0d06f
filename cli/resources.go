package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"

	"github.com/urfave/cli/v3"
)

// serveCommand returns the command that runs the service.
func (s *session) serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "run the service",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` of the API listener; port 0 takes a free one"},
			&cli.StringFlag{Name: "admin-listen", Usage: "`ADDRESS` of the admin listener"},
			&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error"},
			&cli.StringFlag{Name: "log-format", Usage: "auto, text or json"},
			&cli.BoolFlag{Name: "demo", Usage: "use a temporary folder with sample data and show a key for it"},
		},
		Description: `Examples:
  latchkey serve
  latchkey serve --demo
  latchkey serve --data /var/lib/latchkey --listen 127.0.0.1:9000`,
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			service, err := s.load(c)
			if err != nil {
				return err
			}
			return service.Serve(ctx, ServeOptions{Demo: c.Bool("demo"), Stdout: s.env.Stdout, Stderr: s.env.Stderr})
		},
	}
}

// field is a flag of a command that creates a record, and the member of the
// request's body that it sets.
type field struct {
	flag, member, usage string
	kind                byte // 's' text, 'n' number, 'l' list of texts, 'p' list of phone numbers
}

// resource is a kind of record for the commands that most kinds share. rows is
// the member of a list's answer that holds the records.
type resource struct {
	name, path, rows string
	usage            string
	columns          []string
	fields           []field
}

// resourceCommands returns the commands for agents, contacts, teams, owners, schedules,
// context variables, events, calls and the do-not-call list.
func (s *session) resourceCommands() []*cli.Command {
	var all []*cli.Command
	for _, r := range []resource{
		{"agents", "agents", "agents", "the agents that speak in calls", []string{"id", "assistant_id", "name", "role", "phone_number", "team_id", "owner"}, []field{
			{"name", "name", "name of the agent", 's'}, {"role", "role", "inbound agent or outbound agent", 's'}, {"phone", "phone_number", "its number, such as +4930555001", 's'},
			{"model", "model", "language model", 's'}, {"voice", "voice_id", "voice", 's'}, {"team", "team_id", "id of a team", 'n'}, {"owner", "owner", "whose it is", 's'},
		}},
		{"contacts", "contacts", "contacts", "the contacts that calls are made to", []string{"id", "full_name", "email", "company", "stage", "status", "owner"}, []field{
			{"first-name", "first_name", "first name", 's'}, {"last-name", "last_name", "last name", 's'}, {"email", "email", "mail address", 's'}, {"company", "company", "company", 's'},
			{"phone", "phone_numbers", "a number (repeatable)", 'p'}, {"stage", "stage", "such as lead or customer", 's'}, {"status", "status", "such as not_contacted", 's'},
			{"tag", "tags", "a tag (repeatable)", 'l'}, {"team", "team_id", "id of a team", 'n'}, {"owner", "owner", "whose it is", 's'},
		}},
		{"teams", "teams", "teams", "owners who share what they see", []string{"id", "name", "members"}, []field{
			{"name", "name", "name of the team", 's'}, {"member", "members", "an owner (repeatable)", 'l'},
		}},
		{"owners", "owners", "owners", "whom keys act for, and their wallets", []string{"id", "name", "balance", "rate"}, []field{
			{"name", "name", "name of the owner", 's'}, {"balance", "balance", "what the wallet holds; without it nothing is refused", 'n'}, {"rate", "rate", "price of a minute, and the least that a call needs", 'n'},
		}},
		{"schedules", "schedules", "schedules", "when owners are available; windows by import", []string{"id", "owner", "time_zone", "buffer_minutes", "notice_minutes"}, []field{
			{"owner", "owner", "whose it is", 's'}, {"time-zone", "time_zone", "such as Europe/Berlin", 's'},
			{"buffer", "buffer_minutes", "minutes free around every event", 'n'}, {"notice", "notice_minutes", "minutes from now to the first free slot", 'n'},
		}},
		{"variables", "variables", "variables", "the context variables of contacts and the business", []string{"id", "name", "display_name", "variable_type", "context_type", "owner"}, []field{
			{"name", "name", "such as preferred_language", 's'}, {"display-name", "display_name", "as people read it", 's'}, {"type", "variable_type", "text, number, date, boolean or select", 's'},
			{"context", "context_type", "contact or business", 's'}, {"description", "description", "what it is", 's'}, {"option", "select_options", "a value of a select (repeatable)", 'l'},
			{"owner", "owner", "whose it is", 's'},
		}},
		{"do-not-call", "do-not-call", "do_not_call", "numbers that are never called", []string{"id", "phone_number", "reason", "created_at"}, []field{
			{"phone", "phone_number", "the number, such as +4930555044", 's'}, {"reason", "reason", "why", 's'},
		}},
	} {
		all = append(all, s.resource(r))
	}
	return append(all, s.events(), &cli.Command{Name: "calls", Usage: "look at calls", Commands: []*cli.Command{
		s.list(resource{name: "calls", path: "calls", rows: "calls", columns: []string{"id", "call_id", "status", "type", "phone_number", "started_at", "duration_seconds"}}),
	}})
}

// events returns the commands for the calendar. An event is cancelled, not
// deleted.
func (s *session) events() *cli.Command {
	r := resource{"events", "events", "events", "", []string{"id", "title", "start_time", "end_time", "status", "owner"}, []field{
		{"title", "title", "what it is", 's'}, {"start", "start_time", "such as 2026-03-02T09:00:00+01:00; without an offset UTC", 's'}, {"end", "end_time", "when it ends", 's'},
		{"type", "event_type", "meeting, appointment, busy, voice_call or video_call", 's'}, {"customer", "customer_name", "name of the customer", 's'}, {"location", "location", "where", 's'},
		{"agent", "ai_agent_id", "id of an agent", 'n'}, {"team", "team_id", "id of a team", 'n'}, {"owner", "owner", "whose it is", 's'},
	}}
	return &cli.Command{Name: "events", Usage: "create, list and cancel events of the calendar", Commands: []*cli.Command{
		s.create(r), s.list(r),
		{Name: "cancel", Usage: "cancel an event", ArgsUsage: "ID", Flags: []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "why; added to its notes"}}, Action: func(ctx context.Context, c *cli.Command) error {
			id, err := oneArgument(c)
			if err != nil {
				return err
			}
			cancelled, err := s.call(ctx, c, http.MethodPost, "/admin/v1/events/"+url.PathEscape(id)+"/cancel", map[string]any{"reason": c.String("reason")})
			if err != nil {
				return err
			}
			return s.printList(c, cancelled, "", r.columns)
		}},
	}}
}

func (s *session) create(r resource) *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make one", Flags: r.flags(),
		Action: func(ctx context.Context, c *cli.Command) error {
			body, err := r.body(c)
			if err != nil {
				return err
			}
			made, err := s.call(ctx, c, http.MethodPost, "/admin/v1/"+r.path, body)
			if err != nil {
				return err
			}
			return s.printList(c, made, "", r.columns)
		},
	}
}

func (s *session) resource(r resource) *cli.Command {
	load := &cli.Command{
		Name: "import", Usage: "make many, all or none, from a JSON array or a .csv FILE (- for standard input)", ArgsUsage: "FILE",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "csv", Usage: "the file is CSV whatever its name"}}, Action: s.importFile(r.path),
	}
	remove := &cli.Command{
		Name: "delete", Usage: "delete one", ArgsUsage: "ID",
		Action: func(ctx context.Context, c *cli.Command) error {
			id, err := oneArgument(c)
			if err != nil {
				return err
			}
			answer, err := s.call(ctx, c, http.MethodDelete, "/admin/v1/"+r.path+"/"+url.PathEscape(id), nil)
			if err == nil && c.Bool("json") {
				return s.printJSON(answer)
			}
			return err
		},
	}
	all := []*cli.Command{s.create(r), s.list(r), load, remove}
	if r.name == "owners" { // owners cannot be deleted
		all[3] = s.updateOwnerCommand()
	}
	return &cli.Command{Name: r.name, Usage: "create, list and import " + r.usage, Commands: all}
}

// listOf returns the command that lists records. path is their path below
// /admin/v1/ and the member of the answer that holds them.
func (s *session) listOf(path string, columns []string) *cli.Command {
	return s.list(resource{path: path, rows: path, columns: columns})
}

func (s *session) list(r resource) *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list them, newest first",
		Flags: []cli.Flag{&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows on a page"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			list, err := s.call(ctx, c, http.MethodGet, fmt.Sprintf("/admin/v1/%s?page=%d&limit=%d", r.path, c.Int("page"), c.Int("limit")), nil)
			if err != nil {
				return err
			}
			return s.printList(c, list, r.rows, r.columns)
		},
	}
}

func (r resource) flags() []cli.Flag {
	var flags []cli.Flag
	for _, f := range r.fields {
		if f.kind == 'l' || f.kind == 'p' {
			flags = append(flags, &cli.StringSliceFlag{Name: f.flag, Usage: f.usage})
			continue
		}
		flags = append(flags, &cli.StringFlag{Name: f.flag, Usage: f.usage})
	}
	return flags
}

// body returns the members of a record that the flags set. It returns a
// *usageError if none is set.
func (r resource) body(c *cli.Command) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range r.fields {
		if !c.IsSet(f.flag) {
			continue
		}
		switch f.kind {
		case 'l':
			body[f.member] = c.StringSlice(f.flag)
		case 'p':
			var phones []map[string]any
			for _, p := range c.StringSlice(f.flag) {
				phones = append(phones, map[string]any{"phone_number": p})
			}
			body[f.member] = phones
		case 'n':
			n, err := strconv.ParseFloat(c.String(f.flag), 64)
			if err != nil {
				return nil, misused(c, fmt.Errorf("--%s must be a number; got %q", f.flag, c.String(f.flag)))
			}
			body[f.member] = n
		default:
			body[f.member] = c.String(f.flag)
		}
	}
	if len(body) == 0 {
		return nil, misused(c, fmt.Errorf("--%s is needed", r.fields[0].flag))
	}
	return body, nil
}

// configCommand returns the commands that check and print the configuration.
func (s *session) configCommand() *cli.Command {
	return &cli.Command{Name: "config", Usage: "check or print the configuration", Commands: []*cli.Command{
		{Name: "check", Usage: "check the configuration", Action: func(_ context.Context, c *cli.Command) error {
			if _, err := s.load(c); err != nil {
				return err
			}
			if c.Bool("json") {
				return s.printJSON(map[string]bool{"good": true})
			}
			_, err := fmt.Fprintln(s.env.Stdout, "The configuration is good.")
			return err
		}},
		{Name: "print", Usage: "print every key, its value and where it comes from", Action: func(_ context.Context, c *cli.Command) error {
			service, err := s.load(c)
			if err != nil {
				return err
			}
			return service.Print(s.env.Stdout)
		}},
	}}
}

// routesCommand returns the command that lists the endpoints of the API.
func (s *session) routesCommand() *cli.Command {
	return &cli.Command{Name: "routes", Usage: "list the endpoints with their permission and limits", Action: func(ctx context.Context, c *cli.Command) error {
		list, err := s.call(ctx, c, http.MethodGet, "/admin/v1/routes", nil)
		if err != nil {
			return err
		}
		return s.printList(c, list, "routes", []string{"method", "path", "permissions", "limits", "upstream"})
	}}
}

// reloadCommand returns the command that makes the running server reload its
// configuration.
func (s *session) reloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "have the running server load routes, permissions and limits of its configuration again",
		Description: "The server reads the files and settings that it was started with. A mistake in them\nchanges nothing and is reported.",
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			made, err := s.call(ctx, c, http.MethodPost, "/admin/v1/reload", nil)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return s.printJSON(made)
			}
			text := "The configuration was reloaded.\n"
			if list, _ := made["restart_needed"].([]any); len(list) > 0 {
				text += "Changed, but not in use before a restart: " + cell(list) + "\n"
			}
			_, err = io.WriteString(s.env.Stdout, text)
			return err
		},
	}
}

// versionCommand returns the command that prints the version.
func (s *session) versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "say which version this is", Action: func(_ context.Context, c *cli.Command) error {
		v := map[string]string{"version": s.env.Version, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH}
		if c.Bool("json") {
			return s.printJSON(v)
		}
		_, err := fmt.Fprintf(s.env.Stdout, "latchkey %s %s %s\n", v["version"], v["go"], v["system"])
		return err
	}}
}

// updateOwnerCommand returns the command that changes an owner.
func (s *session) updateOwnerCommand() *cli.Command {
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

func (s *session) updateOwner(ctx context.Context, c *cli.Command) error {
	id, err := oneArgument(c)
	if err != nil {
		return err
	}
	body := map[string]any{}
	limits, err := limitFlag(c)
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
			return misused(c, fmt.Errorf("--%s must be a number; got %q", name, c.String(name)))
		}
		body[name] = nil
	}
	if len(body) == 0 {
		return misused(c, errors.New("nothing to change: name at least one flag"))
	}
	owner, err := s.call(ctx, c, http.MethodPatch, "/admin/v1/owners/"+url.PathEscape(id), body)
	if err != nil {
		return err
	}
	return s.printList(c, owner, "", []string{"id", "name", "balance", "rate", "limits"})
}
