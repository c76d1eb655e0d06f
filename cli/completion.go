package cli

import (
	"context"
	"embed"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
)

// completions contains the scripts that the command completion prints, by the name of the shell. A
// script calls the program with the words before the cursor, the word at the cursor if that begins
// with a dash, and --generate-shell-completion. The program prints one proposal a line, with a tab
// before its description.
//
//go:embed completion
var completions embed.FS

// completionScripts makes the command completion print the scripts in completions.
func (s *session) completionScripts(c *cli.Command) {
	c.Usage, c.Description, c.ShellComplete, c.Hidden = "print the completion script for a shell", "", s.complete, false
	for _, shell := range c.Commands {
		shell.Usage, shell.ShellComplete = "print the script for "+shell.Name, s.complete
		shell.Action = func(_ context.Context, c *cli.Command) error {
			script, err := completions.ReadFile("completion/" + c.Name)
			if err != nil {
				return err
			}
			_, err = s.env.Stdout.Write(script)
			return err
		}
	}
}

// proposal is a word that completes a command line.
type proposal struct{ word, description string }

// complete prints what can follow on the command line. It prints no errors: if no server answers
// within a second, it leaves out what only the server knows.
func (s *session) complete(ctx context.Context, c *cli.Command) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, p := range s.proposals(ctx, c) {
		if strings.ContainsAny(p.word, "\t\r\n") {
			continue
		}
		_, _ = fmt.Fprintf(s.env.Stdout, "%s\t%s\n", p.word, strings.ReplaceAll(cell(p.description), "\t", " "))
	}
}

// proposals returns what can follow on the command line, for the command c on it.
func (s *session) proposals(ctx context.Context, c *cli.Command) (list []proposal) {
	last := ""
	if line := s.env.line; len(line) > 2 {
		last = line[len(line)-2]
	}
	switched := false // whether last is a complete flag without a value, so that anything can follow
	for _, flag := range slices.Concat(c.Flags, c.Root().Flags) {
		name := "--" + flag.Names()[0]
		doc, ok := flag.(cli.DocGenerationFlag)
		if ok && name == last && doc.TakesValue() {
			return s.flagValues(ctx, c, flag)
		}
		if ok && strings.HasPrefix(last, "-") && strings.HasPrefix(name, last) {
			list = append(list, proposal{name, strings.ReplaceAll(doc.GetUsage(), "`", "")})
		}
		switched = switched || name == last
	}
	if strings.HasPrefix(last, "-") && !switched {
		return list
	}
	if c.ArgsUsage == "NAME ROLE" && c.Args().Len() == 1 {
		return append(list, s.roles()...)
	}
	if c.Args().Present() {
		return nil
	}
	for _, sub := range c.Commands {
		if !sub.Hidden && sub.Name != "help" {
			list = append(list, proposal{sub.Name, sub.Usage})
		}
	}
	if len(list) > 0 && !switched {
		return list
	}
	return append(list, s.argumentValues(ctx, c)...)
}

// flagValues returns values of a flag.
func (s *session) flagValues(ctx context.Context, c *cli.Command, flag cli.Flag) (list []proposal) {
	name := flag.Names()[0]
	_, number := flag.(*cli.IntFlag)
	words := map[string][]string{
		"event": append([]string{"all"}, s.env.Words.OperatorEventTypes...), "status": {"active", "paused", "expired", "revoked"}, "step": {"hour", "day"},
		"by": {"key", "route", "error"}, "from": foreignSources(), "log-level": {"debug", "info", "warn", "error"}, "log-format": {"auto", "text", "json"},
		"carrier": {"bearer", "header", "query"}, "result": {"done", "refused"}, "query-allowed": {"true", "false", "default"},
		"sort": {"created", "name", "last_used", "expires", "requests", "refused"}, "method": {"GET", "POST", "PATCH", "PUT", "DELETE"},
	}
	switch {
	case name == "status" && commandName(c) == "requests":
		words[name] = []string{"2xx", "3xx", "4xx", "5xx"}
	case name == "status" && commandName(c) != "keys list":
		return nil
	case name == "role" && strings.HasPrefix(commandName(c), "admin "):
		return s.roles()
	case name == "key":
		return s.keyNames(ctx, c)
	case name == "owner" || name == "member":
		return s.records(ctx, c, source{"owners", "owners", "name", "id"})
	case name == "team":
		return s.records(ctx, c, source{"teams", "teams", "id", "name"})
	case name == "agent":
		return s.records(ctx, c, source{"agents", "agents", "id", "name"})
	case name == "permission":
		list = append(s.records(ctx, c, source{"permissions", "permissions", "name", "label"}), proposal{"all", strings.TrimPrefix(allPermissions, `"all" for `)})
	case name == "limit" && !number:
		for _, limit := range s.records(ctx, c, source{"limits", "limits", "name", "label"}) {
			list = append(list, proposal{limit.word + "=", limit.description})
		}
	}
	for _, word := range words[name] {
		list = append(list, proposal{word, ""})
	}
	return list
}

// argumentValues returns values of the argument of a command.
func (s *session) argumentValues(ctx context.Context, c *cli.Command) []proposal {
	path := strings.Fields(commandName(c))
	switch {
	case c.ArgsUsage == "KEY":
		return s.keyNames(ctx, c)
	case c.ArgsUsage == "NAME", c.ArgsUsage == "NAME ROLE":
		return s.records(ctx, c, source{"operators", "operators", "name", "id"})
	case c.ArgsUsage == "OWNER":
		return s.records(ctx, c, source{"owners", "owners", "name", "id"}, source{"owners", "owners", "id", "name"})
	case c.ArgsUsage != "ID":
		return nil
	case path[0] == "admin":
		return s.records(ctx, c, source{"tokens", "tokens", "id", "name"})
	case path[0] == "contacts":
		return s.records(ctx, c, source{"contacts", "contacts", "id", "full_name"})
	case path[0] == "events":
		return s.records(ctx, c, source{"events", "events", "id", "title"})
	case path[0] == "do-not-call":
		return s.records(ctx, c, source{"do-not-call", "do_not_call", "id", "phone_number"})
	case path[0] == "schedules":
		return s.records(ctx, c, source{"schedules", "schedules", "id", "owner"})
	}
	return s.records(ctx, c, source{path[0], path[0], "id", "name"})
}

// roles returns the roles of operators.
func (s *session) roles() (list []proposal) {
	for _, role := range s.env.Words.Roles {
		list = append(list, proposal{role, ""})
	}
	return list
}

// keyNames returns the ids and the names of keys.
func (s *session) keyNames(ctx context.Context, c *cli.Command) []proposal {
	return s.records(ctx, c, source{"keys", "keys", "id", "name"}, source{"keys", "keys", "name", "id"})
}

// source is a list of the admin endpoint from which proposals are made.
type source struct {
	path              string // below /admin/v1/
	rows              string // member of the answer that contains the rows
	word, description string // members of a row
}

// unpaged are the lists without pages, which have no parameter limit.
var unpaged = []string{"permissions", "limits", "operators"}

// plainWord matches words that need no quotes in any shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$`)

// records returns the proposals that each of from makes of the rows of a list, or of the first page. All of
// them must have the same path. records asks only the server that has the data folder open, and
// returns nil if that fails.
func (s *session) records(ctx context.Context, c *cli.Command, from ...source) (list []proposal) {
	if c.String("url") != "" {
		return nil
	}
	service, err := s.load(c)
	if err != nil {
		return nil
	}
	path := "/admin/v1/" + from[0].path
	if !slices.Contains(unpaged, from[0].path) {
		path += "?limit=1000"
	}
	var answer map[string]any
	if err := folderClient(service.DataDir()).Do(ctx, Request{http.MethodGet, path, nil}, &answer); err != nil {
		return nil
	}
	for _, f := range from {
		rows, _ := answer[f.rows].([]any)
		for _, v := range rows {
			row, _ := v.(map[string]any)
			if word := cell(row[f.word]); plainWord.MatchString(word) {
				list = append(list, proposal{word, cell(row[f.description])})
			}
		}
	}
	return list
}
