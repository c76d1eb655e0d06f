package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"latchkey/internal/durable"
)

// showsOnce adds the flag --secret-file to c, a command that calls printSecret. With the flag, the
// secret is written to a new file that only its owner can read. The file is created before the
// command does anything, so that a path that cannot be written costs nothing, and removed if the
// command fails before the server has issued a secret.
func (s *session) showsOnce(c *cli.Command) *cli.Command {
	c.Flags = append(c.Flags, &cli.StringFlag{Name: "secret-file", Usage: "write the secret to a new `FILE` that only its owner can read, and print only the id"})
	action := c.Action
	c.Action = func(ctx context.Context, c *cli.Command) error {
		path := c.String("secret-file")
		if path == "" {
			return action(ctx, c)
		}
		return s.withSecretFile("secret-file", path, func() error { return action(ctx, c) })
	}
	return c
}

// withSecretFile calls run with a new file at path for storeSecret, which only its owner can read. It removes the
// file if run stores no secret. flag is the name of the flag with the path.
func (s *session) withSecretFile(flag, path string, run func() error) error {
	f, err := durable.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("--%s: %s exists already; name a new file", flag, path)
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	s.secretFile = f
	err = run()
	if s.secretFile != nil { // no secret was issued
		s.secretFile = nil
		err = errors.Join(err, f.Close(), os.Remove(path))
	}
	return err
}

// storeSecret writes a secret to the file of --secret-file. If it returns nil, the secret is on disk.
func (s *session) storeSecret(secret any) error {
	f := s.secretFile
	s.secretFile = nil
	_, err := fmt.Fprintln(f, secret)
	return errors.Join(err, f.Sync(), f.Close(), durable.SyncDir(filepath.Dir(f.Name())))
}

// printWithout prints the id in an answer, or with --json the answer without one member.
func (s *session) printWithout(c *cli.Command, answer map[string]any, member string) error {
	if c.Bool("json") {
		rest := maps.Clone(answer)
		delete(rest, member)
		return s.printJSON(rest)
	}
	_, err := fmt.Fprintln(s.env.Stdout, cell(answer["id"]))
	return err
}
