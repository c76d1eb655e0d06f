package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/urfave/cli/v3"
)

// roleFlag returns the flag --role. more is added to its help.
func (s *session) roleFlag(more string) cli.Flag {
	return &cli.StringFlag{Name: "role", Usage: "role: " + strings.Join(s.env.Words.Roles, ", ") + more}
}

func operatorColumns() []string {
	return []string{"id", "name", "role", "status", "last_login_at", "created_at"}
}

// operatorPath returns the path at the admin endpoint of the operator with this name. Upper and lower
// case are equal. Every command that takes the name of an operator uses it.
func (s *session) operatorPath(ctx context.Context, c *cli.Command, name string) (string, error) {
	list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/operators", nil})
	if err != nil {
		return "", err
	}
	rows, _ := list["operators"].([]any)
	for _, row := range rows {
		op, _ := row.(map[string]any)
		if held, _ := op["name"].(string); strings.EqualFold(held, name) {
			return fmt.Sprintf("/admin/v1/operators/%v", op["id"]), nil
		}
	}
	return "", fmt.Errorf("there is no operator named %q; list them with \"latchkey admin list\", or create one with \"latchkey admin create --name NAME\"", name)
}

// oneOperatorPath is operatorPath for a command whose only argument is the name.
func (s *session) oneOperatorPath(ctx context.Context, c *cli.Command) (string, error) {
	name, err := oneArgument(c)
	if err != nil {
		return "", err
	}
	return s.operatorPath(ctx, c, name)
}

func (s *session) createOperator(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" {
		return misused(c, errors.New("--name is needed"))
	}
	password, err := s.password(c)
	if err != nil {
		return err
	}
	body := map[string]any{"name": c.String("name"), "password": password}
	if c.IsSet("role") {
		body["role"] = c.String("role")
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/operators", body})
	if err != nil {
		return err
	}
	return s.printList(c, made, "", []string{"id", "name", "role", "created_at"})
}

func (s *session) listOperators(ctx context.Context, c *cli.Command) error {
	list, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/operators", nil})
	if err != nil {
		return err
	}
	return s.printList(c, list, "operators", operatorColumns())
}

// changeOperator sets a new password of an operator.
func (s *session) changeOperator(ctx context.Context, c *cli.Command) error {
	path, err := s.oneOperatorPath(ctx, c)
	if err != nil {
		return err
	}
	password, err := s.password(c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodPost, path + "/password", map[string]any{"password": password}})
	if err != nil {
		return err
	}
	return s.printMessage(c, answer)
}

// printMessage prints the message of an answer, or with --json the whole answer.
func (s *session) printMessage(c *cli.Command, answer map[string]any) error {
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	_, err := fmt.Fprintln(s.env.Stdout, answer["message"])
	return err
}

func (s *session) setRole(ctx context.Context, c *cli.Command) error {
	if c.Args().Len() != 2 {
		return misused(c, fmt.Errorf("the name of an operator and a role are needed; roles are %s", strings.Join(s.env.Words.Roles, ", ")))
	}
	return s.patchOperator(ctx, c, map[string]any{"role": c.Args().Get(1)})
}

func (s *session) setDisabled(disabled bool) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		if _, err := oneArgument(c); err != nil {
			return err
		}
		return s.patchOperator(ctx, c, map[string]any{"disabled": disabled})
	}
}

// patchOperator changes the operator whose name is the first argument.
func (s *session) patchOperator(ctx context.Context, c *cli.Command, change map[string]any) error {
	path, err := s.operatorPath(ctx, c, c.Args().First())
	if err != nil {
		return err
	}
	op, err := s.call(ctx, c, Request{http.MethodPatch, path, change})
	if err != nil {
		return err
	}
	if err := s.printList(c, op, "", operatorColumns()); err != nil {
		return err
	}
	if warning, _ := op["warning"].(string); warning != "" && !c.Bool("json") {
		_, _ = fmt.Fprintln(s.env.Stderr, "\n"+warning)
	}
	return nil
}

func (s *session) removeOperator(ctx context.Context, c *cli.Command) error {
	path, err := s.oneOperatorPath(ctx, c)
	if err != nil {
		return err
	}
	answer, err := s.call(ctx, c, Request{http.MethodDelete, path, nil})
	if err != nil {
		return err
	}
	return s.printMessage(c, answer)
}

// resetOperator makes an operator an admin who can log in with a new password alone.
func (s *session) resetOperator(ctx context.Context, c *cli.Command) error {
	if _, err := oneArgument(c); err != nil { // a wrong call is reported before a wrong place
		return err
	}
	if c.String("url") != "" {
		return errors.New("this command works only on the machine of the service: unset LATCHKEY_URL")
	}
	if _, err := s.operatorPath(ctx, c, c.Args().First()); err != nil { // before asking for the password
		return err
	}
	password, err := s.password(c)
	if err != nil {
		return err
	}
	return s.patchOperator(ctx, c, map[string]any{"role": "admin", "disabled": false, "password": password, "reset_factors": true})
}

func (s *session) inviteOperator(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" || c.String("role") == "" {
		return misused(c, fmt.Errorf("--name and --role are needed; roles are %s", strings.Join(s.env.Words.Roles, ", ")))
	}
	request := Request{http.MethodPost, "/admin/v1/operators/invite", map[string]any{"name": c.String("name"), "role": c.String("role")}}
	return s.printLink(ctx, c, request, shownOnce{kind: "invitation", remedy: "Create another, which replaces this one: latchkey admin invite --name NAME --role ROLE"})
}

func (s *session) enrollOperator(ctx context.Context, c *cli.Command) error {
	path, err := s.oneOperatorPath(ctx, c)
	if err != nil {
		return err
	}
	request := Request{http.MethodPost, path + "/enroll-link", nil}
	return s.printLink(ctx, c, request, shownOnce{kind: "link", remedy: "Create another: latchkey admin enroll NAME"})
}

func (s *session) setupLink(ctx context.Context, c *cli.Command) error {
	request := Request{http.MethodPost, "/admin/v1/setup-link", nil}
	return s.printLink(ctx, c, request, shownOnce{kind: "set-up link", remedy: "Create another, which replaces this one: latchkey admin setup-link"})
}

// printLink sends a request that creates a link which works once, and prints the link.
func (s *session) printLink(ctx context.Context, c *cli.Command, request Request, lost shownOnce) error {
	base := c.String("url")
	if base == "" {
		// Load before creating the link: an error after that would lose the link.
		service, err := s.load(c)
		if err != nil {
			return err
		}
		base = service.AdminURL()
	}
	made, err := s.call(ctx, c, request)
	if err != nil {
		return err
	}
	known := made["url"] != nil
	if !known { // no server is running, or it has an earlier version
		made["url"] = strings.TrimSuffix(base, "/") + cell(made["path"])
	}
	lost.member = "url"
	if advise, err := s.printSecret(c, made, lost); err != nil || !advise {
		return err
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "\nThe link works once, until %s.\n", made["expires_at"])
	if !known && c.String("url") == "" {
		_, _ = fmt.Fprintln(s.env.Stderr, "The server is not running, so this is its address according to the configuration. Start it first.")
	}
	return nil
}
