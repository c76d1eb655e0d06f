package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"latchkey/internal/clock"
	"latchkey/internal/idlists"
	"latchkey/internal/strictjson"
	"latchkey/internal/timespan"
)

// keysCommand returns the commands for API keys.
func (s *session) keysCommand() *cli.Command {
	return &cli.Command{Name: "keys", Usage: "create, list, change and revoke API keys", Description: keyNames, Commands: []*cli.Command{
		s.showsOnce(&cli.Command{Name: "create", Usage: "create a key and show it once", Action: s.createKey,
			Flags: append(keyFlags(), &cli.BoolFlag{Name: "sandbox", Usage: "create a sandbox key, which neither sees nor changes live records"}), Description: `Examples:
  latchkey keys create --name ci --permission can_read_calls
  latchkey keys create --name reader --permission can_read_reports
  latchkey keys create --name caller --limit calls_per_day_limit=20 \
    --permission can_read_agents,can_initiate_calls
  latchkey keys create --name door --permission all --json \
    --allowed-ip 192.0.2.0/24 --expires 90d
  latchkey keys create --name job --permission can_read_calls \
    --secret-file job.key
  latchkey keys create --name try --permission all --sandbox`}),
		{Name: "list", Usage: "list keys, newest first unless --sort is set", Action: s.listKeys, Flags: []cli.Flag{
			&cli.StringFlag{Name: "status", Usage: "active, paused, expired or revoked"},
			&cli.StringFlag{Name: "search", Usage: "part of the id, name, hint, owner or environment"},
			&cli.StringFlag{Name: "environment", Usage: "only keys of this environment"},
			&cli.StringFlag{Name: "owner", Usage: "only keys of this owner"},
			&cli.BoolFlag{Name: "sandbox", Usage: "only sandbox keys; --sandbox=false leaves them out"},
			&cli.StringFlag{Name: "sort", Usage: "created, name, last_used, expires, requests or refused; the last two count 24 hours"},
			&cli.IntFlag{Name: "page", Value: 1}, &cli.IntFlag{Name: "limit", Value: 25, Usage: "rows per page"},
		}},
		{Name: "show", Usage: "show a key", ArgsUsage: "KEY", Action: s.oneKey(http.MethodGet, "")},
		{Name: "usage", Usage: "show a key and how much of its limits is used", ArgsUsage: "KEY", Action: s.oneKey(http.MethodGet, "")},
		{Name: "update", Usage: "change a key; only the given flags have an effect", ArgsUsage: "KEY", Action: s.updateKey,
			Flags: append(keyFlags(), &cli.BoolFlag{Name: "no-expiry", Usage: "make the key never expire"})},
		{Name: "pause", Usage: "refuse a key until it is resumed", ArgsUsage: "KEY", Action: s.oneKey(http.MethodPost, "/pause")},
		{Name: "resume", Usage: "accept a paused key again", ArgsUsage: "KEY", Action: s.oneKey(http.MethodPost, "/resume")},
		{Name: "revoke", Usage: "revoke a key immediately and permanently", ArgsUsage: "KEY", Action: s.revokeKey,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "end-webhooks", Usage: "also delete the webhooks that the key created, even if it was revoked before"}}},
		s.showsOnce(&cli.Command{Name: "rotate", Usage: "issue a new secret for a key and show it once; the previous one stays valid for the overlap", ArgsUsage: "KEY", Action: s.rotateKey,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "overlap", Value: "24h", Usage: "how long the previous secret stays valid, up to 30d; 0 ends all earlier secrets immediately"},
				&cli.BoolFlag{Name: "finish", Usage: "issue no secret, but end all earlier secrets immediately"},
				&cli.StringFlag{Name: "if-unused", Usage: "with --finish: fail if an earlier secret was used within this time, such as 2h"},
			}}),
		{Name: "explain", Usage: "explain how a request with a key would be answered, without using up its limits", ArgsUsage: "KEY", Action: s.explainKey,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "method", Value: "GET", Usage: "method of the request, in capitals"},
				&cli.StringFlag{Name: "path", Usage: "path of the request, such as /api/v1/calls"},
				&cli.StringFlag{Name: "ip", Usage: "IP address of the client"},
				&cli.StringFlag{Name: "carrier", Value: "bearer", Usage: "how the key is sent: bearer, header or query"},
			}},
		s.activityCommand(),
		s.leakedCommand(),
		{Name: "import", Usage: "import keys from elsewhere by their SHA-256, all or none", ArgsUsage: "FILE", Action: s.importKeys,
			Flags: append(csvFlags(),
				&cli.StringFlag{Name: "from", Usage: "the program that FILE was exported from: " + strings.Join(foreignSources(), " or ")},
				&cli.StringSliceFlag{Name: "permission", Usage: "with --from: permission for each key that has no permission known here (repeatable)"},
				importOwnerFlag(),
			), Description: `All rows are imported or none. With --dry-run the server makes the same
checks.

FILE (- for standard input) holds a JSON array, or a .csv with the same names
as columns:
  [{"name": "ci", "sha256": "HEX", "permissions": ["can_read_calls"]}]
With --from unkey: rows of its table keys, or apis.listKeys with the column
hash added.
With --from litellm: the answer of /key/list?return_full_object=true.`},
	}}
}

// keyNames explains how the commands name a key.
const keyNames = `KEY is the id of a key, its name, or its hint such as klen_...x9Qa. If
several keys have the name or the hint, a command lists their ids and changes
nothing.`

// allPermissions explains the value "all" of --permission.
const allPermissions = "\"all\" for those of the Klen AI API, or if that is off for each [[permission]]"

func keyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "what the key is for"},
		&cli.StringFlag{Name: "ref", Usage: "unique name of the key in files for latchkey apply, such as billing/ci"},
		&cli.StringSliceFlag{Name: "permission", Usage: "permission (repeatable); " + allPermissions},
		&cli.StringSliceFlag{Name: "limit", Usage: "`NAME=NUMBER`, or NAME=default"},
		&cli.StringFlag{Name: "owner", Usage: "owner for whom the key acts; a new name makes a new owner; default: admin"},
		&cli.StringFlag{Name: "environment", Usage: "environment of the key, such as live or test"},
		&cli.StringSliceFlag{Name: "allowed-ip", Usage: "address or range from which the key is accepted (repeatable); default: any address"},
		&cli.StringSliceFlag{Name: "resource", Usage: "`KIND=ID,ID`: only these agents, contacts or teams exist for the key (repeatable); none: no limit"},
		&cli.StringFlag{Name: "expires", Usage: "a time such as 2027-01-31T00:00:00Z, or how long from now, such as 12h or 90d"},
		&cli.StringSliceFlag{Name: "metadata", Usage: "`NAME=TEXT`"},
		&cli.StringFlag{Name: "query-allowed", Usage: "whether the key may be sent as ?api_key=: true, false or default"},
	}
}

// keyBody returns the request body for creating or changing a key: the members that the flags set.
// A relative --expires counts from now.
func (s *session) keyBody(ctx context.Context, c *cli.Command, now time.Time) (map[string]any, error) {
	body := map[string]any{}
	for _, name := range []string{"name", "ref", "owner", "environment"} {
		if c.IsSet(name) {
			body[name] = c.String(name)
		}
	}
	if c.IsSet("allowed-ip") {
		body["allowed_ips"] = c.StringSlice("allowed-ip")
	}
	if words := c.StringSlice("resource"); len(words) == 1 && words[0] == "none" {
		body["resources"] = nil
	} else if c.IsSet("resource") {
		ids, err := idlists.Parse(strings.Join(words, " "))
		if err != nil {
			return nil, misused(c, fmt.Errorf("--resource %w", err))
		}
		body["resources"] = ids
	}
	limits, err := limitFlag(c)
	if err != nil {
		return nil, err
	}
	if len(limits) > 0 {
		body["limits"] = limits
	}
	metadata := map[string]any{}
	for _, pair := range c.StringSlice("metadata") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, misused(c, fmt.Errorf("--metadata must be NAME=TEXT; got %q", pair))
		}
		metadata[name], body["metadata"] = value, metadata
	}
	if c.IsSet("query-allowed") {
		allowed, known := map[string]any{"true": true, "false": false, "default": nil}[c.String("query-allowed")]
		if !known {
			return nil, misused(c, fmt.Errorf("--query-allowed must be true, false or default; got %q", c.String("query-allowed")))
		}
		body["query_allowed"] = allowed
	}
	if c.IsSet("expires") {
		at, err := expiry(c.String("expires"), now)
		if err != nil {
			return nil, misused(c, err)
		}
		body["expires_at"] = at
	}
	if c.IsSet("permission") { // last, because it may ask the server
		if body["permissions"], err = s.permissionNames(ctx, c); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// requestsPerMinute is the name of the limit on all requests with a key in a minute.
const requestsPerMinute = "requests_per_minute_limit"

// limitFlag returns the limits that --limit sets, by name. The value nil means the default limit.
func limitFlag(c *cli.Command) (map[string]any, error) {
	limits := map[string]any{}
	for _, pair := range c.StringSlice("limit") {
		name, value, ok := strings.Cut(pair, "=")
		n, err := strconv.Atoi(value)
		if !ok || err != nil && value != "default" {
			return nil, misused(c, fmt.Errorf("--limit must be NAME=NUMBER or NAME=default, such as %s=120; got %q", requestsPerMinute, pair))
		}
		if limits[name] = n; value == "default" {
			limits[name] = nil
		}
	}
	return limits, nil
}

// permissionNames returns the permissions that --permission names. If the only name is "all", it
// asks the server which these are.
func (s *session) permissionNames(ctx context.Context, c *cli.Command) ([]string, error) {
	names := c.StringSlice("permission")
	if len(names) != 1 || names[0] != "all" {
		return names, nil
	}
	_, all, err := s.serverPermissions(ctx, c)
	if err == nil && len(all) == 0 {
		err = errors.New("--permission all means each [[permission]] of the configuration, which has none; add one, or name another permission")
	}
	return all, err
}

// serverPermissions returns the names of the permissions that the server has. all has those that
// --permission all means: the permissions of the contract, or if the server has none of them, those
// that its configuration defines.
func (s *session) serverPermissions(ctx context.Context, c *cli.Command) (names, all []string, err error) {
	answer, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/permissions", nil})
	if err != nil {
		return nil, nil, err
	}
	names, all = s.readPermissions(answer)
	return names, all, nil
}

// readPermissions returns the names in a list of permissions of the server, as serverPermissions does.
func (s *session) readPermissions(answer map[string]any) (names, all []string) {
	var own []string
	list, _ := answer["permissions"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		name, _ := row["name"].(string)
		names = append(names, name)
		if row["own"] == true {
			own = append(own, name)
		} else if slices.Contains(s.env.Words.Ordinary, name) {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		all = own
	}
	return names, all
}

// knownPermissions returns the names of the permissions for a message: those of the server, or the
// built-in ones if no server answers within some seconds. It does not open the data folder.
func (s *session) knownPermissions(ctx context.Context, c *cli.Command) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if c.String("url") != "" {
		if names, _, err := s.serverPermissions(ctx, c); err == nil {
			return names
		}
		return s.env.Words.Permissions
	}
	var names []string
	for _, p := range s.records(ctx, c, source{"permissions", "permissions", "name", "label"}) {
		names = append(names, p.word)
	}
	if names == nil {
		return s.env.Words.Permissions
	}
	return names
}

// expiry returns the time that --expires sets, in UTC and the format of RFC 3339. text is a time in
// that format, or a length of time after now in the format of timespan.Parse.
func expiry(text string, now time.Time) (string, error) {
	if t, err := clock.ParseTime(text); err == nil {
		return t.Format(time.RFC3339), nil
	}
	length, err := timespan.Parse(text)
	if errors.Is(err, timespan.ErrTooLong) {
		return "", fmt.Errorf("--expires must be at most %dd; got %q", timespan.MaxDays, text)
	}
	if err != nil || length <= 0 {
		return "", fmt.Errorf("--expires must be a time such as 2027-01-31T00:00:00Z or a length such as 12h or 90d; got %q", text)
	}
	return now.Add(length).UTC().Format(time.RFC3339), nil
}

func (s *session) createKey(ctx context.Context, c *cli.Command) error {
	switch named, permitted := c.String("name") != "", c.IsSet("permission"); {
	case !permitted:
		needed := map[bool]string{true: "--permission is needed", false: "--name and --permission are needed"}[named]
		return misused(c, fmt.Errorf("%s; permissions are all, %s", needed, strings.Join(s.knownPermissions(ctx, c), ", ")))
	case !named:
		return misused(c, errors.New("--name is needed: what the key is for"))
	}
	body, err := s.keyBody(ctx, c, time.Now())
	if err != nil {
		return err
	}
	if c.IsSet("sandbox") {
		body["sandbox"] = c.Bool("sandbox")
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/keys", body})
	if err != nil {
		return err
	}
	if advise, err := s.printSecret(c, made, shownOnce{member: "key", kind: "key", remedy: "Issue a new secret: latchkey keys rotate ID\nOr revoke the key: latchkey keys revoke ID"}); err != nil || !advise {
		return err
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "\nThis is the only time that the key is shown: store it now. Its id is %v.\nTry it:\n  curl -H \"Authorization: Bearer KEY\" %s/api/v1/key\n", made["id"], s.base(ctx, c))
	return nil
}

// base returns the URL of the API. It requests the URL from the running server, and reads the
// configuration if that fails. It returns "http://" if both fail.
func (s *session) base(ctx context.Context, c *cli.Command) string {
	status, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/status", nil})
	if url, ok := status["api_url"].(string); err == nil && ok {
		return url
	}
	service, err := s.load(c)
	if err != nil {
		return "http://"
	}
	return service.APIURL()
}

func (s *session) updateKey(ctx context.Context, c *cli.Command) error {
	body, err := s.keyBody(ctx, c, time.Now())
	if err != nil {
		return err
	}
	if c.Bool("no-expiry") {
		body["expires_at"] = nil
	}
	if len(body) == 0 {
		return misused(c, fmt.Errorf("nothing to change: name at least one flag"))
	}
	path, err := s.oneKeyPath(ctx, c)
	if err != nil {
		return err
	}
	key, err := s.call(ctx, c, Request{http.MethodPatch, path, body})
	if err != nil {
		return err
	}
	return s.showKey(c, key)
}

// oneArgument returns the only argument of the command. It returns a *usageError if the command does
// not have exactly one argument.
func oneArgument(c *cli.Command) (string, error) {
	if c.Args().Len() != 1 {
		return "", misused(c, fmt.Errorf("one %s is needed; got %d", c.ArgsUsage, c.Args().Len()))
	}
	return c.Args().First(), nil
}

// oneKey returns an action that sends a request about one key and prints the key in the answer. The
// argument of the command names the key. action is added to the key's URL path.
func (s *session) oneKey(method, action string) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		path, err := s.oneKeyPath(ctx, c)
		if err != nil {
			return err
		}
		key, err := s.call(ctx, c, Request{method, path + action, nil})
		if err != nil {
			return err
		}
		return s.showKey(c, key)
	}
}

// revokeKey revokes a key. It deletes the webhooks that the key created if --end-webhooks is set.
// Otherwise it prints how to delete them.
func (s *session) revokeKey(ctx context.Context, c *cli.Command) error {
	path, err := s.oneKeyPath(ctx, c)
	if err != nil {
		return err
	}
	key, err := s.call(ctx, c, Request{http.MethodPost, path + "/revoke", map[string]any{"end_webhooks": c.Bool("end-webhooks")}})
	if err != nil {
		return err
	}
	if err := s.showKey(c, key); err != nil {
		return err
	}
	s.noteWebhooks(key)
	_, _ = fmt.Fprintf(s.env.Stderr, "What the key did: latchkey keys activity %s\n", cell(key["id"]))
	return nil
}

// noteWebhooks writes to standard error how to delete the webhooks that a revoked key created, if
// there are any.
func (s *session) noteWebhooks(key map[string]any) {
	if left, _ := key["webhooks"].([]any); len(left) > 0 {
		_, _ = fmt.Fprintf(s.env.Stderr, "Webhooks that %s created still get events: %d\nTo delete them: latchkey keys revoke %s --end-webhooks\n", cell(key["id"]), len(left), cell(key["id"]))
	}
}

// usedOf returns a text such as "3 of 60 used, next free 2026-02-03T09:01:00Z". limit is the answer of
// the admin endpoint about a limit, and most is its maximum.
func usedOf(most any, limit map[string]any) string {
	if limit["kind"] == "concurrent" {
		return fmt.Sprintf("%v of %v in flight now", limit["used"], most)
	}
	return fmt.Sprintf("%v of %v used, next free %s", limit["used"], most, cell(limit["resets_at"]))
}

func (s *session) showKey(c *cli.Command, key map[string]any) error {
	if c.Bool("json") {
		return s.printJSON(key)
	}
	var rows [][]string
	for _, name := range []string{"id", "name", "ref", "hint", "status", "owner", "sandbox", "environment", "permissions", "dormant_permissions", "allowed_ips", "resources", "query_allowed", "created_at", "expires_at", "rotated_at", "revoked_at", "last_used_at", "last_used_ip", "last_used_by"} {
		rows = append(rows, []string{name, cell(key[name])})
	}
	if usage, ok := key["usage"].(map[string]any); ok {
		for _, name := range slices.Sorted(maps.Keys(usage)) {
			if u, ok := usage[name].(map[string]any); ok {
				text := usedOf(u["limit"], u)
				if u["observe"] == true {
					text += fmt.Sprintf("; only observed, would have refused %v", u["would_refuse"])
				}
				rows = append(rows, []string{name, text})
			}
		}
	}
	if secrets, ok := key["secrets"].([]any); ok && len(secrets) > 1 {
		for i, v := range secrets {
			secret, _ := v.(map[string]any)
			name, ends := "secret until "+cell(secret["ends_at"]), "never used"
			if i == 0 {
				name = "current secret"
			}
			if at := secret["last_used_at"]; at != nil {
				ends = fmt.Sprintf("last used %s from %s by %s", cell(at), cell(secret["last_used_ip"]), cell(secret["last_used_by"]))
			}
			rows = append(rows, []string{name, cell(secret["hint"]) + ", " + ends})
		}
	}
	for _, member := range []string{"webhooks", "ended_webhooks"} {
		list, _ := key[member].([]any)
		for _, v := range list {
			hook, _ := v.(map[string]any)
			name := "created webhook"
			if member == "ended_webhooks" {
				name = "deleted webhook"
			}
			rows = append(rows, []string{name, fmt.Sprintf("%s, %s, to %s", cell(hook["id"]), cell(hook["name"]), cell(hook["url"]))})
		}
	}
	return s.printTable(nil, rows)
}

// rotateKey issues a new secret for a key, or ends its earlier secrets with --finish. It prints the
// new secret to standard output and everything else to standard error, so that a script can read the
// secret.
func (s *session) rotateKey(ctx context.Context, c *cli.Command) error {
	unused, err := seconds(c, "if-unused")
	if err != nil {
		return err
	}
	overlap, err := seconds(c, "overlap")
	if err != nil {
		return err
	}
	path, err := s.oneKeyPath(ctx, c)
	if err != nil {
		return err
	}
	path += "/rotate"
	if c.Bool("finish") {
		key, err := s.call(ctx, c, Request{http.MethodPost, path + "/finish", map[string]any{"unused_for_seconds": unused}})
		if err != nil {
			return err
		}
		return s.showKey(c, key)
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, path, map[string]any{"overlap_seconds": overlap}})
	if err != nil {
		return err
	}
	lost := shownOnce{member: "key", kind: "key", remedy: fmt.Sprintf("Rotate it again: latchkey keys rotate ID --overlap %s", c.String("overlap"))}
	if advise, err := s.printSecret(c, made, lost); err != nil || !advise {
		return err
	}
	_, _ = fmt.Fprint(s.env.Stderr, "\nThis is the only time that the new key is shown: store it now.\n")
	if overlap == 0 {
		_, _ = fmt.Fprintln(s.env.Stderr, "All earlier secrets of the key have ended.")
		return nil
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "The previous secret stays valid for %s. See who uses it: latchkey keys show %v\n", c.String("overlap"), made["id"])
	return nil
}

// seconds returns the length of time that a flag sets, in whole seconds. It returns 0 if the flag is
// empty.
func seconds(c *cli.Command, flag string) (int, error) {
	text := c.String(flag)
	length, err := timespan.Parse(text)
	if text == "" {
		err = nil
	}
	if err != nil || length < 0 {
		return 0, misused(c, fmt.Errorf("--%s must be a length of time such as 0, 12h or 7d; got %q", flag, text))
	}
	return int(length / time.Second), nil
}

func (s *session) explainKey(ctx context.Context, c *cli.Command) error {
	if c.String("path") == "" {
		return misused(c, errors.New("--path is needed, such as /api/v1/calls"))
	}
	body := map[string]any{"method": c.String("method"), "path": c.String("path"), "ip": c.String("ip"), "carrier": c.String("carrier")}
	path, err := s.oneKeyPath(ctx, c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodPost, path + "/explain", body})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	var rows [][]string
	steps, _ := answer["checks"].([]any)
	for _, v := range steps {
		step, _ := v.(map[string]any)
		passes := map[any]string{true: "passes", false: "REFUSES", nil: "unknown"}[step["passes"]]
		message := cell(step["message"])
		if limit, ok := step["limit"].(map[string]any); ok {
			message += " " + usedOf(limit["max"], limit) + "."
		}
		rows = append(rows, []string{cell(step["check"]), passes, message})
	}
	if err := s.printTable([]string{"CHECK", "RESULT", "WHY"}, rows); err != nil {
		return err
	}
	if answer["allowed"] == true {
		_, err = fmt.Fprintln(s.env.Stdout, "\nThe request would pass these checks.")
		return err
	}
	_, err = fmt.Fprintf(s.env.Stdout, "\nThe request would be refused by %s: %v %s\n", cell(answer["refused_by"]), answer["status"], cell(answer["error"]))
	return err
}

// upload is a file to import and the request that sends it.
type upload struct {
	file              string // as in the command's argument; "-" for standard input
	path, contentType string // of the request
	member            string // member of the answer to a dry run that contains the rows
	data              []byte // body of the request
	rows              []int  // for each row of data, the number of its row in the export, from 1; nil without --from
}

// importKeys imports a file of keys. With --from it first converts the file, which is the export of
// another program.
func (s *session) importKeys(ctx context.Context, c *cli.Command) error {
	from := c.String("from")
	if from != "" && !slices.Contains(foreignSources(), from) {
		return misused(c, fmt.Errorf("--from must be %s; got %q", strings.Join(foreignSources(), " or "), from))
	}
	u, err := s.readUpload(ctx, c, resource{path: "keys", rows: "keys"})
	if err != nil {
		return interrupted(ctx, err, "nothing was imported")
	}
	if from != "" {
		o := foreignOptions{words: s.env.Words, now: time.Now()}
		if o.permissions, err = s.permissionNames(ctx, c); err != nil {
			return err
		}
		if o.words.Permissions, _, err = s.serverPermissions(ctx, c); err != nil {
			return err
		}
		keys, err := readForeignKeys(from, u.data, o)
		if err != nil {
			return fmt.Errorf("%s: %w", u.file, err)
		}
		for _, note := range keys.Notes {
			_, _ = fmt.Fprintln(s.env.Stderr, note)
		}
		u.contentType, u.rows = "application/json", keys.Numbers
		if u.data, err = strictjson.Encode(map[string]any{"keys": keys.Rows}); err != nil {
			return err
		}
	}
	return s.sendUpload(ctx, c, u)
}

// previewImport prints the result that each row of an import would have. It returns an error if the
// import would fail.
func (s *session) previewImport(ctx context.Context, c *cli.Command, u upload) error {
	answer, err := s.sendRows(ctx, c, RawRequest{http.MethodPost, u.path + "?" + u.query(c, true).Encode(), u.contentType, u.data})
	if err != nil {
		return fmt.Errorf("%s: %w", u.file, err)
	}
	list, _ := answer[u.member].([]any)
	for n, v := range list {
		if row, ok := v.(map[string]any); ok && n < len(u.rows) {
			row["export_row"] = u.rows[n]
		}
	}
	if c.Bool("json") {
		err = s.printJSON(answer)
	} else {
		show := s.printPreview
		if u.member != "keys" {
			show = s.printRecords
		}
		err = show(c, u, answer)
	}
	if err == nil && answer["importable"] != true {
		err = fmt.Errorf("%s: %s", u.file, cell(answer["message"]))
	}
	return err
}

// printPreview prints the rows in the answer to a dry run as a table. If all rows can be imported,
// it prints the server's summary below the table.
func (s *session) printPreview(_ *cli.Command, _ upload, answer map[string]any) error {
	var rows [][]string
	list, _ := answer["keys"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		key, _ := row["key"].(map[string]any)
		name := RefusedRow{Row: whole(row["row"]), Line: whole(row["line"])}.place()
		if number := row["export_row"]; number != nil {
			name += fmt.Sprintf(", row %v of the export", number)
		}
		rows = append(rows, []string{name, cell(row["name"]), cell(row["result"]), short(key["permissions"]), cell(key["owner"]), cell(key["expires_at"]), cell(row["message"])})
	}
	if err := s.printTable([]string{"ROW", "NAME", "RESULT", "PERMISSIONS", "OWNER", "EXPIRES AT", "WHY"}, rows); err != nil {
		return err
	}
	if answer["importable"] != true {
		return nil
	}
	_, err := fmt.Fprintf(s.env.Stdout, "\n%s\n", cell(answer["message"]))
	return err
}

func (s *session) listKeys(ctx context.Context, c *cli.Command) error {
	q := url.Values{"page": {strconv.Itoa(c.Int("page"))}, "limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range []string{"status", "search", "environment", "owner", "sort"} {
		if c.IsSet(name) {
			q.Set(name, c.String(name))
		}
	}
	if c.IsSet("sandbox") {
		q.Set("sandbox", strconv.FormatBool(c.Bool("sandbox")))
	}
	list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/keys?" + q.Encode(), nil})
	if err != nil {
		return err
	}
	return s.printList(c, list, "keys", []string{"id", "name", "hint", "permissions", "owner", "sandbox", "status", "last_used_at"})
}

// readUpload reads the file that the argument of the command names. r has the path of the records
// and the member of an answer that contains them.
func (s *session) readUpload(ctx context.Context, c *cli.Command, r resource) (u upload, err error) {
	u.path, u.member, u.contentType = "/admin/v1/"+r.path+"/import", r.rows, "application/json"
	if u.file, err = oneArgument(c); err != nil {
		return u, err
	}
	charset := c.String("charset")
	if strings.HasSuffix(strings.ToLower(u.file), ".csv") || c.Bool("csv") {
		u.contentType = "text/csv"
		if charset != "" {
			u.contentType = mime.FormatMediaType("text/csv", map[string]string{"charset": charset})
		}
	}
	if u.data, err = s.readInput(ctx, u.file); err != nil {
		return u, err
	}
	if len(bytes.TrimSpace(u.data)) == 0 {
		return u, fmt.Errorf("%s: the file is empty", u.file)
	}
	if u.contentType == "application/json" {
		u.data = bytes.TrimPrefix(u.data, []byte("\ufeff"))
	}
	return u, nil
}

// csvFlags returns the flags of the commands that import a file.
func csvFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "csv", Usage: "read the file as CSV, whatever its name"},
		&cli.StringFlag{Name: "charset", Usage: "`ENCODING` of a CSV that is neither UTF-8 nor UTF-16, such as windows-1252"},
		&cli.BoolFlag{Name: "dry-run", Usage: "import nothing; print the result that each row would have, and fail if the import would fail"},
	}
}

// sendUpload sends an import to the server and prints the answer.
func (s *session) sendUpload(ctx context.Context, c *cli.Command, u upload) error {
	if err := s.probeImport(ctx, c, u); err != nil {
		return interrupted(ctx, err, "nothing was imported")
	}
	if c.Bool("dry-run") {
		return s.previewImport(ctx, c, u)
	}
	path := u.path
	if q := u.query(c, false); len(q) > 0 {
		path += "?" + q.Encode()
	}
	answer, err := s.sendRows(ctx, c, RawRequest{http.MethodPost, path, u.contentType, u.data})
	if refused, ok := errors.AsType[*ClientError](err); ok && refused.MaxRows > 0 {
		return s.sendParts(ctx, c, u, path, refused)
	}
	if err != nil {
		return u.refusal(err, "nothing was imported")
	}
	return errors.Join(s.printImport(c, answer), late(ctx, answer))
}

// printImport prints the answer to an import.
func (s *session) printImport(c *cli.Command, answer map[string]any) error {
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	if _, err := fmt.Fprintln(s.env.Stdout, answer["message"]); err != nil {
		return err
	}
	return s.printDuplicates(answer)
}

// late returns an error if the user has ended an import after the server had the whole file. answer
// is that of the server, which has imported all rows.
func late(ctx context.Context, answer map[string]any) error {
	if ctx.Err() == nil {
		return nil
	}
	return &exitError{fmt.Errorf("interrupted after the server had the whole file, so all rows are stored and nothing is left to do: %s", cell(answer["message"])), exitInterrupted}
}

// sendRows sends the request of an import, shows its progress and returns the answer. If the user
// ends the command before the server has all rows, it returns the error of interrupted.
func (s *session) sendRows(ctx context.Context, c *cli.Command, request RawRequest) (answer map[string]any, err error) {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return nil, interrupted(ctx, err, "nothing was imported")
	}
	work := s.startWork(ctx, c)
	err = work.sendWhole(client, request, &answer)
	work.end()
	if errors.Is(err, context.Canceled) {
		err = interrupted(ctx, err, "nothing was imported; run the command again to import the file")
	}
	return answer, errors.Join(err, done())
}

// refusal returns err, the error of the import, with the name of the file and all refused rows that
// the server lists. outcome says what was imported.
func (u upload) refusal(err error, outcome string) error {
	refused, ok := errors.AsType[*ClientError](err)
	if !ok || len(refused.Rows) == 0 {
		return fmt.Errorf("%s: %w", u.file, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s; rows to correct: %d", u.file, outcome, max(refused.Count, len(refused.Rows)))
	for _, row := range refused.Rows {
		fmt.Fprintf(&b, "\n  %s: %s", u.place(row), cell(row.Message))
	}
	if more := refused.Count - len(refused.Rows); more > 0 {
		fmt.Fprintf(&b, "\n  and %d more", more)
	}
	return errors.New(b.String())
}

// place returns the name of a row, with the number of its row in the export if there is one.
func (u upload) place(row RefusedRow) string {
	if row.Row >= 1 && row.Row <= len(u.rows) {
		return fmt.Sprintf("row %d of the export", u.rows[row.Row-1])
	}
	return row.place()
}

// place returns the name of the row in the words of the server's messages.
func (r RefusedRow) place() string {
	if r.Line > 0 {
		return fmt.Sprintf("line %d of the file (row %d)", r.Line, r.Row)
	}
	return fmt.Sprintf("row %d", r.Row)
}
