package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"latchkey/internal/bytesize"
	"latchkey/internal/strictjson"
)

// serveCommand returns the command that runs the service.
func (s *session) serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "run the service",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` of the API listener; with port 0 the system chooses a free port"},
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
			service, err := s.load(c)
			if err != nil {
				return err
			}
			return service.Serve(ctx, ServeOptions{Demo: c.Bool("demo"), Stdout: s.env.Stdout, Stderr: s.env.Stderr})
		},
	}
}

// field is a flag of a command that creates a record. It sets one member of the request's body.
type field struct {
	flag, member, usage string
	kind                byte // 's' string, 'n' number, 'l' list of strings, 'p' list of phone numbers
}

// resource describes a kind of record, such as agents, for the commands that most kinds share.
type resource struct {
	name    string   // of the command
	path    string   // URL path below /admin/v1/
	rows    string   // member of the answer to a list request that contains the records
	usage   string   // completes the help text "create, list and import ..."
	columns []string // of the table that the commands print
	fields  []field  // flags of the command create
}

// resourceCommands returns the commands for agents, contacts, teams, owners, schedules,
// context variables, events, calls and the do-not-call list.
func (s *session) resourceCommands() []*cli.Command {
	var all []*cli.Command
	for _, r := range []resource{
		{"agents", "agents", "agents", "agents, which speak in calls", []string{"id", "assistant_id", "name", "role", "phone_number", "team_id", "owner"}, []field{
			{"name", "name", "name of the agent", 's'},
			{"role", "role", "role: inbound agent or outbound agent", 's'},
			{"phone", "phone_number", "phone number of the agent, such as +4930555001", 's'},
			{"model", "model", "language model", 's'},
			{"voice", "voice_id", "voice", 's'},
			{"team", "team_id", "id of a team", 'n'},
			{"owner", "owner", "owner of the record; a new name makes a new owner; default: admin", 's'},
		}},
		{"contacts", "contacts", "contacts", "contacts, the people to call", []string{"id", "full_name", "email", "company", "stage", "status", "owner"}, []field{
			{"first-name", "first_name", "first name", 's'},
			{"last-name", "last_name", "last name", 's'},
			{"email", "email", "mail address", 's'},
			{"company", "company", "company", 's'},
			{"phone", "phone_numbers", "phone number (repeatable)", 'p'},
			{"stage", "stage", "stage, such as lead or customer", 's'},
			{"status", "status", "status, such as not_contacted", 's'},
			{"tag", "tags", "tag (repeatable)", 'l'},
			{"team", "team_id", "id of a team", 'n'},
			{"owner", "owner", "owner of the record; a new name makes a new owner; default: admin", 's'},
		}},
		{"teams", "teams", "teams", "teams, whose members see the records of the team", []string{"id", "name", "members"}, []field{
			{"name", "name", "name of the team", 's'},
			{"member", "members", "owner in the team (repeatable); a new name makes a new owner", 'l'},
		}},
		{"owners", "owners", "owners", "owners, for whom keys act, and their wallets", []string{"id", "name", "balance", "rate", "storage", "own_limits"}, []field{
			{"name", "name", "name of the owner", 's'},
			{"balance", "balance", "balance of the wallet; without it no call is refused", 'n'},
			{"rate", "rate", "price of a minute of a call, and the lowest balance with which a call starts", 'n'},
		}},
		{"schedules", "schedules", "schedules", "schedules, the times when owners are available; set the times with import", []string{"id", "owner", "time_zone", "buffer_minutes", "notice_minutes"}, []field{
			{"owner", "owner", "owner of the record; a new name makes a new owner; default: admin", 's'},
			{"time-zone", "time_zone", "time zone, such as Europe/Berlin", 's'},
			{"buffer", "buffer_minutes", "minutes to keep free before and after every event", 'n'},
			{"notice", "notice_minutes", "minutes from now to the earliest free slot", 'n'},
		}},
		{"variables", "variables", "variables", "context variables of contacts and of the business", []string{"id", "name", "display_name", "variable_type", "context_type", "owner"}, []field{
			{"name", "name", "name, such as preferred_language", 's'},
			{"display-name", "display_name", "name to display", 's'},
			{"type", "variable_type", "type: text, number, date, boolean or select", 's'},
			{"context", "context_type", "what the variable describes: contact or business", 's'},
			{"description", "description", "description", 's'},
			{"option", "select_options", "allowed value of a select (repeatable)", 'l'},
			{"owner", "owner", "owner of the record; a new name makes a new owner; default: admin", 's'},
		}},
		{"do-not-call", "do-not-call", "do_not_call", "phone numbers that are never called", []string{"id", "phone_number", "reason", "created_at"}, []field{
			{"phone", "phone_number", "phone number, such as +4930555044", 's'},
			{"reason", "reason", "reason for the entry", 's'},
		}},
	} {
		all = append(all, s.resource(r))
	}
	return append(all, s.events(), &cli.Command{Name: "calls", Usage: "list calls", Commands: []*cli.Command{
		s.listSpaces(resource{name: "calls", path: "calls", rows: "calls", columns: []string{"id", "call_id", "status", "type", "phone_number", "started_at", "duration_seconds"}}),
	}})
}

// events returns the commands for the calendar. An event is cancelled, not
// deleted.
func (s *session) events() *cli.Command {
	r := resource{"events", "events", "events", "", []string{"id", "title", "start_time", "end_time", "status", "owner"}, []field{
		{"title", "title", "title of the event", 's'},
		{"start", "start_time", "start, such as 2026-03-02T09:00:00+01:00; in UTC if it has no offset", 's'},
		{"end", "end_time", "end, in the same format", 's'},
		{"type", "event_type", "type: meeting, appointment, busy, voice_call or video_call", 's'},
		{"customer", "customer_name", "name of the customer", 's'},
		{"location", "location", "place of the event", 's'},
		{"agent", "ai_agent_id", "id of an agent", 'n'},
		{"team", "team_id", "id of a team", 'n'},
		{"owner", "owner", "owner of the record; a new name makes a new owner; default: admin", 's'},
	}}
	return &cli.Command{Name: "events", Usage: "create, list and cancel events of the calendar", Commands: []*cli.Command{
		s.create(r), s.listSpaces(r),
		{Name: "cancel", Usage: "cancel an event", ArgsUsage: "ID", Flags: []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "reason, which is added to the event's notes"}}, Action: func(ctx context.Context, c *cli.Command) error {
			id, err := oneArgument(c)
			if err != nil {
				return err
			}
			cancelled, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/events/" + url.PathEscape(id) + "/cancel", map[string]any{"reason": c.String("reason")}})
			if err != nil {
				return err
			}
			return s.printList(c, cancelled, "", r.columns)
		}},
	}}
}

// create returns the command that creates a record.
func (s *session) create(r resource) *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create a record and print it", Flags: r.flags(),
		Action: func(ctx context.Context, c *cli.Command) error {
			body, err := r.body(c)
			if err != nil {
				return err
			}
			made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/" + r.path, body})
			if err != nil {
				return err
			}
			return s.printList(c, made, "", r.columns)
		},
	}
}

// resource returns the command for a kind of record. Its subcommands create, list, import and delete
// records; owners are updated and not deleted.
func (s *session) resource(r resource) *cli.Command {
	load := &cli.Command{
		Name: "import", Usage: "create many records, all or none, from a FILE with a JSON array or CSV (- for standard input)", ArgsUsage: "FILE",
		Flags: csvFlags(), Action: func(ctx context.Context, c *cli.Command) error {
			if by := c.String("update-by"); c.IsSet("update-by") && by != "email" && by != "phone" {
				return misused(c, fmt.Errorf("--update-by must be email or phone; got %q", by))
			}
			u, err := s.readUpload(ctx, c, r)
			if err != nil {
				return interrupted(ctx, err, "nothing was imported")
			}
			return s.sendUpload(ctx, c, u)
		},
	}
	if r.name == "schedules" {
		load.Description = `Example of a FILE:
  [{"owner": "ann", "time_zone": "Europe/Berlin", "buffer_minutes": 10,
    "windows": {"monday": ["09:00-12:00", "13:00-17:00"],
                "tuesday": ["09:00-12:00"]}}]

A day without windows has no free slots. Without "windows" they are Monday to
Friday, 09:00-17:00.`
	}
	if r.name == "contacts" {
		load.Flags = append(load.Flags, &cli.StringFlag{Name: "update-by", Usage: "email or phone: a row whose address or number a contact of the owner has updates that contact"},
			&cli.BoolFlag{Name: "skip-duplicates", Usage: "leave out rows whose address or number another contact of the owner has"})
	}
	remove := &cli.Command{
		Name: "delete", Usage: "delete a record", ArgsUsage: "ID",
		Action: func(ctx context.Context, c *cli.Command) error {
			id, err := oneArgument(c)
			if err != nil {
				return err
			}
			answer, err := s.call(ctx, c, Request{http.MethodDelete, "/admin/v1/" + r.path + "/" + url.PathEscape(id), nil})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return s.printJSON(answer)
			}
			message := fmt.Sprintf("Deleted the %s %s.", strings.TrimSuffix(r.name, "s"), id)
			switch r.name {
			case "contacts":
				message += " Calls and events keep what they have of the person; \"Delete a person's data\" in docs/operate.md has the rest."
			case "do-not-call":
				message = "Deleted. The number can be called again."
			}
			_, err = fmt.Fprintln(s.env.Stdout, message)
			return err
		},
	}
	all := []*cli.Command{s.create(r), s.list(r), load, remove}
	if slices.ContainsFunc(r.fields, func(f field) bool { return f.flag == "owner" }) {
		all[1] = s.listSpaces(r)
		load.Flags = append(load.Flags, importOwnerFlag())
	}
	if r.name == "agents" {
		all = append(all, s.update(r))
	}
	if r.name == "owners" { // owners cannot be deleted
		all[3] = s.updateOwnerCommand()
		all = append(all, s.showOwnerCommand())
	}
	return &cli.Command{Name: r.name, Usage: "create, list and import " + r.usage, Commands: all}
}

// importOwnerFlag returns the flag for the owner of what is imported.
func importOwnerFlag() cli.Flag {
	return &cli.StringFlag{Name: "owner", Usage: "owner of the rows that name none; default: admin"}
}

// update returns the command that changes a record. Its owner cannot be changed.
func (s *session) update(r resource) *cli.Command {
	r.fields = slices.DeleteFunc(slices.Clone(r.fields), func(f field) bool { return f.flag == "owner" })
	return &cli.Command{
		Name: "update", Usage: "change a record and print it", ArgsUsage: "ID", Flags: r.flags(),
		Action: func(ctx context.Context, c *cli.Command) error {
			id, err := oneArgument(c)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(r.fields, func(f field) bool { return c.IsSet(f.flag) }) {
				return misused(c, errors.New("nothing to change: name at least one flag"))
			}
			body, err := r.body(c)
			if err != nil {
				return err
			}
			changed, err := s.call(ctx, c, Request{http.MethodPatch, "/admin/v1/" + r.path + "/" + url.PathEscape(id), body})
			if err != nil {
				return err
			}
			return s.printList(c, changed, "", r.columns)
		},
	}
}

// listOf returns the command that lists records. path is their URL path below /admin/v1/, and also
// the name of the member of the answer that contains them.
func (s *session) listOf(path string, columns []string) *cli.Command {
	return s.list(resource{path: path, rows: path, columns: columns})
}

// list returns the command that lists the records of a kind.
func (s *session) list(r resource) *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list records, newest first",
		Flags: []cli.Flag{&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/" + r.path + "?" + pageQuery(c), nil})
			if err != nil {
				return err
			}
			return s.printList(c, list, r.rows, r.columns)
		},
	}
}

// listSpaces returns the command that lists the records of a kind that belong to owners.
func (s *session) listSpaces(r resource) *cli.Command {
	list := s.list(r)
	list.Flags = append(list.Flags, sandboxFlag())
	return list
}

// sandboxFlag returns the flag of the commands that list records of owners.
func sandboxFlag() cli.Flag {
	return &cli.BoolFlag{Name: "sandbox", Usage: "list what is in sandboxes, which the list leaves out otherwise"}
}

// sandboxCommand returns the command that empties a sandbox.
func (s *session) sandboxCommand() *cli.Command {
	return &cli.Command{Name: "sandbox", Usage: "empty the sandbox of an owner", Commands: []*cli.Command{{
		Name: "reset", Usage: "delete everything in the sandbox of an owner; its keys stay valid",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "owner", Usage: "owner whose sandbox is emptied"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask for a confirmation"},
		},
		Description: `Examples:
  latchkey sandbox reset --owner ann
  latchkey sandbox reset --owner ann --yes`,
		Action: func(ctx context.Context, c *cli.Command) error {
			owner := c.String("owner")
			if owner == "" {
				return misused(c, errors.New("--owner is needed"))
			}
			ask := question{
				text: "All records in the sandbox of " + owner + " are deleted. Live records stay. To go on, type the name of the owner: ",
				want: owner, without: "empty the sandbox", refused: "the name was not typed, so nothing was deleted",
			}
			if err := s.confirm(c, ask); err != nil {
				return err
			}
			answer, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/sandbox/reset", map[string]any{"owner": owner}})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return s.printJSON(answer)
			}
			_, err = fmt.Fprintf(s.env.Stdout, "Deleted %d records. %s\n", whole(answer["count"]), cell(answer["message"]))
			return err
		},
	}}}
}

// flags returns the flags of the command create.
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

// body returns the request body for creating a record: the members that the flags set. It returns a
// *usageError if no flag is set, or if a number is malformed.
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
			n, err := numberFlag(c, f.flag)
			if err != nil {
				return nil, err
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

// numberFlag returns the value of a flag as a JSON number. It returns a *usageError if it is not one.
func numberFlag(c *cli.Command, flag string) (json.Number, error) {
	text := c.String(flag)
	if !strictjson.IsNumber(text) {
		return "", misused(c, fmt.Errorf("--%s must be a number, such as 12 or 0.5; got %q", flag, text))
	}
	return json.Number(text), nil
}

// configCommand returns the commands that check and print the configuration.
func (s *session) configCommand() *cli.Command {
	return &cli.Command{Name: "config", Usage: "check or print the configuration", Commands: []*cli.Command{
		{Name: "check", Usage: "check the configuration", Action: func(_ context.Context, c *cli.Command) error {
			service, err := s.load(c)
			if err != nil {
				return err
			}
			warnings, err := service.Check()
			if err != nil {
				return err
			}
			overlaps := service.Overlaps()
			routes, permissions, limits := service.Rows()
			if c.Bool("json") {
				return s.printJSON(map[string]any{"good": true, "file": service.File(), "routes": routes, "permissions": permissions, "limits": limits, "warnings": append([]string{}, warnings...), "notes": append([]string{}, service.Notes()...), "overlaps": overlaps})
			}
			text := ""
			for _, warning := range warnings {
				text += "Warning: " + warning + "\n"
			}
			if service.File() == "" {
				text += "The configuration is good. No file was read, because neither --config nor LATCHKEY_CONFIG names one.\n"
			} else {
				text += fmt.Sprintf("%s is good: %s, %s and %s of its own.\n", service.File(), counted(routes, "route"), counted(permissions, "permission"), counted(limits, "limit"))
			}
			for _, note := range service.Notes() {
				text += note + "\n"
			}
			if len(overlaps) > 0 {
				text += "A path of the first route in another spelling, such as /Admin for /admin, would get to the second:\n  " + strings.Join(overlaps, "\n  ") + "\n"
			}
			_, err = io.WriteString(s.env.Stdout, text)
			return err
		}},
		{Name: "print", Usage: "print every configuration key with its value and source", Action: func(_ context.Context, c *cli.Command) error {
			service, err := s.load(c)
			if err != nil {
				return err
			}
			return service.Print(s.env.Stdout)
		}},
	}}
}

// counted returns a number with the word for what is counted, such as "1 route" or "2 routes".
func counted(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}

// routesCommand returns the command that lists the endpoints of the API.
func (s *session) routesCommand() *cli.Command {
	return &cli.Command{Name: "routes", Usage: "list the endpoints with their permissions and limits", Action: func(ctx context.Context, c *cli.Command) error {
		list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/routes", nil})
		if err != nil {
			return err
		}
		return s.printList(c, list, "routes", []string{"method", "path", "permissions", "limits", "upstream"})
	}}
}

// reloadCommand returns the command that makes the running server reload its configuration.
func (s *session) reloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "make the running server reload the routes, permissions, limits and bounds of its configuration",
		Description: "The server reads the files and settings that it was started with. If they\ncontain a mistake, the command reports it and nothing changes.",
		Action: func(ctx context.Context, c *cli.Command) error {
			made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/reload", nil})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return s.printJSON(made)
			}
			text := "The configuration was reloaded.\n"
			if list, _ := made["restart_needed"].([]any); len(list) > 0 {
				text += "Changed, but used only after a restart: " + cell(list) + "\n"
			}
			_, err = io.WriteString(s.env.Stdout, text)
			return err
		},
	}
}

// mailCommand returns the command for mails to the operators.
func (s *session) mailCommand() *cli.Command {
	return &cli.Command{Name: "mail", Usage: "test the mails to the operators", Commands: []*cli.Command{{
		Name: "test", Usage: "send a test mail to the addresses in [mail] of the configuration",
		Description: "The running server sends it at once. If the mail server does not take the\nmail, the command prints why, and the exit code is 1.",
		Action: func(ctx context.Context, c *cli.Command) error {
			sent, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/mail/test", nil})
			if err != nil {
				return err
			}
			return s.printTest(c, sent, fmt.Sprintf("It is for %s.", cell(sent["to"])))
		},
	}}}
}

// versionCommand returns the command that prints the version.
func (s *session) versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the version", Action: func(_ context.Context, c *cli.Command) error { return s.printVersion(c) }}
}

// printVersion prints the version of the program, of Go and of the system.
func (s *session) printVersion(c *cli.Command) error {
	v := map[string]string{"version": s.env.Version, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH}
	if c.Bool("json") {
		return s.printJSON(v)
	}
	_, err := fmt.Fprintf(s.env.Stdout, "latchkey %s %s %s\n", v["version"], v["go"], v["system"])
	return err
}

// updateOwnerCommand returns the command that changes an owner.
func (s *session) updateOwnerCommand() *cli.Command {
	return &cli.Command{
		Name: "update", Usage: "change an owner's wallet, storage, or the limits that all its keys share", ArgsUsage: "OWNER",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "limit", Usage: "`NAME=NUMBER`, with 0 for no limit, or NAME=default"},
			&cli.StringFlag{Name: "balance", Usage: "balance of the wallet, or none to remove it"},
			&cli.StringFlag{Name: "storage", Usage: "how much the owner's records may need, such as 512MiB; none for no limit, or default"},
			&cli.StringFlag{Name: "rate", Usage: "price of a minute of a call, and the lowest balance with which a call starts"},
		},
		Description: ownerNames + "\n\nExample:\n  latchkey owners update ann --limit owner_requests_per_minute_limit=600",
		Action:      s.updateOwner,
	}
}

// storageFlag returns the value of the flag --storage as the server expects it: a number of bytes, 0
// for none, or nil for the default.
func storageFlag(c *cli.Command) (any, error) {
	switch text := c.String("storage"); text {
	case "none":
		return 0, nil
	case "default":
		return nil, nil
	default:
		n, err := bytesize.Parse(text)
		if err != nil {
			return nil, misused(c, fmt.Errorf("--storage: %w. Write none for no limit, or default", err))
		}
		return n, nil
	}
}

// showOwnerCommand returns the command that prints an owner.
func (s *session) showOwnerCommand() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print an owner with its storage and limits", ArgsUsage: "OWNER", Description: ownerNames,
		Action: func(ctx context.Context, c *cli.Command) error {
			path, err := s.oneOwnerPath(ctx, c)
			if err != nil {
				return err
			}
			owner, err := s.call(ctx, c, Request{http.MethodGet, path, nil})
			if err != nil {
				return err
			}
			return s.printList(c, owner, "", []string{"id", "name", "balance", "rate", "storage", "limits", "created_at"})
		},
	}
}

func (s *session) updateOwner(ctx context.Context, c *cli.Command) error {
	if _, err := oneArgument(c); err != nil {
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
	if c.IsSet("storage") {
		if body["storage_bytes"], err = storageFlag(c); err != nil {
			return err
		}
	}
	for _, name := range []string{"balance", "rate"} {
		if !c.IsSet(name) {
			continue
		}
		if body[name] = nil; name == "balance" && c.String(name) == "none" {
			continue
		}
		if body[name], err = numberFlag(c, name); err != nil {
			return err
		}
	}
	if len(body) == 0 {
		return misused(c, errors.New("nothing to change: name at least one flag"))
	}
	path, err := s.oneOwnerPath(ctx, c)
	if err != nil {
		return err
	}
	owner, err := s.call(ctx, c, Request{http.MethodPatch, path, body})
	if err != nil {
		return err
	}
	return s.printList(c, owner, "", []string{"id", "name", "balance", "rate", "storage", "limits"})
}

// query returns the parameters of the request of an import.
func (u upload) query(c *cli.Command, dry bool) url.Values {
	q := url.Values{}
	if dry {
		q.Set("dry_run", "true")
	}
	if by := c.String("update-by"); by != "" {
		q.Set("update_by", by)
	}
	if c.Bool("skip-duplicates") {
		q.Set("skip_duplicates", "true")
	}
	if owner := c.String("owner"); owner != "" {
		q.Set("owner", owner)
	}
	return q
}

// probeImport returns an error if the server does not know the flags of an import. A server that is
// older would ignore them and create the rows. So probeImport sends no rows first.
func (s *session) probeImport(ctx context.Context, c *cli.Command, u upload) error {
	if !c.Bool("dry-run") && c.String("update-by") == "" && !c.Bool("skip-duplicates") && c.String("owner") == "" {
		return nil
	}
	probe, err := s.call(ctx, c, Request{http.MethodPost, u.path + "?" + u.query(c, true).Encode(), map[string]any{u.member: []any{}}})
	if err == nil && probe["dry_run"] != true {
		err = errors.New("the server is older than this program and does not support --dry-run, --update-by, --skip-duplicates and --owner; restart it with the new version")
	}
	return err
}

// printRecords prints the rows in the answer to a dry run of an import of records.
func (s *session) printRecords(_ *cli.Command, u upload, answer map[string]any) error {
	var rows [][]string
	list, _ := answer[u.member].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		name := RefusedRow{Row: whole(row["row"]), Line: whole(row["line"])}.place()
		rows = append(rows, []string{name, cell(row["name"]), cell(row["result"]), cell(row["id"]), cell(row["message"])})
	}
	if err := s.printTable([]string{"ROW", "NAME", "RESULT", "ID", "WHY"}, rows); err != nil {
		return err
	}
	if answer["importable"] == true {
		if _, err := fmt.Fprintf(s.env.Stdout, "\n%s\n", cell(answer["message"])); err != nil {
			return err
		}
	}
	return s.printDuplicates(answer)
}

// printDuplicates prints the rows of an import that have an address or a number of another contact.
func (s *session) printDuplicates(answer map[string]any) error {
	list, _ := answer["duplicates"].([]any)
	if len(list) == 0 {
		return nil
	}
	text := fmt.Sprintf("Rows with an address or a number of another contact: %s\n", cell(answer["duplicate_count"]))
	for _, v := range list {
		row, _ := v.(map[string]any)
		text += fmt.Sprintf("  %s: ", RefusedRow{Row: whole(row["row"]), Line: whole(row["line"])}.place())
		switch {
		case row["contact_id"] == nil:
			text += fmt.Sprintf("row %s", cell(row["other_row"]))
		case row["other_row"] == nil:
			text += fmt.Sprintf("contact %s", cell(row["contact_id"]))
		default:
			text += fmt.Sprintf("contact %s, row %s", cell(row["contact_id"]), cell(row["other_row"]))
		}
		text += fmt.Sprintf(" (%s)\n", cell(row["by"]))
	}
	if more := whole(answer["duplicate_count"]) - len(list); more > 0 {
		text += fmt.Sprintf("  and %d more\n", more)
	}
	_, err := io.WriteString(s.env.Stdout, text)
	return err
}
