package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
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
			if c.Bool("json") {
				return s.PrintJSON(made)
			}
			_, _ = fmt.Fprintln(s.Env.Stdout, made["token"])
			_, err = fmt.Fprintln(s.Env.Stderr, "\nThis is the only time that the token is shown: store it now.")
			return err
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
	made, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/setup-link", nil)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.PrintJSON(made)
	}
	conf, _, err := s.Load(c)
	if err != nil {
		return err
	}
	base := conf.Admin.BaseURL
	if base == "" {
		base = "http://" + strings.Replace(conf.Admin.Listen, "0.0.0.0", "localhost", 1)
		if conf.AdminTLS().On() {
			base = "https" + strings.TrimPrefix(base, "http")
		}
	}
	if _, err := fmt.Fprintf(s.Env.Stdout, "%s%s\n", base, made["path"]); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Env.Stderr, "\nGood once, until %s.\n", made["expires_at"])
	return err
}
