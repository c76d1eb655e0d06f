package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v3"
)

// RunCommand runs a command line and gives the exit code: 0 done, 1 failed, 2
// not understood.
func RunCommand(ctx context.Context, args []string, env Environment) int {
	app := command(env)
	err := app.Run(ctx, args)
	var usage *UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(env.Stderr, "latchkey: %v\nTry: %s --help\n", err, usage.Command)
		return 2
	}
	_, _ = fmt.Fprintf(env.Stderr, "latchkey: %v\n", err)
	return 1
}

// command is the tree of all commands.
func command(env Environment) *cli.Command {
	s := &Session{env}
	root := &cli.Command{
		Name:  "latchkey",
		Usage: "API keys, permissions and limits for an HTTP API",
		Description: `Examples:
  latchkey serve --demo
  latchkey keys create --name ci --permission can_read_calls
  latchkey keys revoke key_019c3e...`,
		Writer: env.Stdout, ErrWriter: env.Stderr, Reader: env.Stdin,
		HideVersion: true, Suggest: true, EnableShellCompletion: true,
		ExitErrHandler: func(context.Context, *cli.Command, error) {}, // RunCommand says it
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`", Sources: cli.EnvVars("LATCHKEY_CONFIG")},
			&cli.StringFlag{Name: "data", Usage: "data folder `DIR`"},
			&cli.StringFlag{Name: "url", Usage: "admin door of a server elsewhere, such as http://127.0.0.1:8081", Sources: cli.EnvVars("LATCHKEY_URL")},
			&cli.StringFlag{Name: "ca", Usage: "PEM `FILE` with the authority of the certificate at --url, where the system does not know it", Sources: cli.EnvVars("LATCHKEY_CA")},
			&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the admin token for --url; or LATCHKEY_ADMIN_TOKEN", Sources: cli.EnvVars("LATCHKEY_ADMIN_TOKEN_FILE")},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, for scripts"},
		},
		Commands: slices.Concat([]*cli.Command{s.Serve(), s.Keys()}, s.Resources(), s.Store(),
			[]*cli.Command{s.Webhooks(), s.Admin(), s.Audit(), s.Usage(), s.Refusals(), s.Config(), s.Reload(), s.Routes(), s.Version(), s.Man()}),
	}
	guard(root)
	return root
}

// guard makes every command of the tree report a usage error in one way, and
// refuse what follows it and means nothing.
func guard(c *cli.Command) {
	c.OnUsageError = func(_ context.Context, c *cli.Command, err error, _ bool) error { return Misused(c, err) }
	if c.Action == nil && len(c.Commands) > 0 {
		c.Action = func(_ context.Context, c *cli.Command) error {
			if name := c.Args().First(); name != "" {
				return Misused(c, fmt.Errorf("unknown command %q", name))
			}
			return cli.ShowSubcommandHelp(c)
		}
	}
	for _, sub := range c.Commands {
		guard(sub)
	}
}
