package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
)

// Store are the commands that copy, put back, check and compact the database,
// and the one that asks whether the server is well.
func (s *Session) Store() []*cli.Command {
	return []*cli.Command{
		{
			Name: "backup", Usage: "copy the database to a new FILE, or to standard output (-), also while the server runs", ArgsUsage: "FILE",
			Description: "The pepper is not in it: keep a copy of that file apart, without it no key is valid.", Action: s.backup,
		},
		{
			Name: "restore", Usage: "put a backup in the place of the database; the server must be stopped", ArgsUsage: "FILE", Action: s.restore,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "dry-run", Usage: "check everything and change nothing"},
				&cli.BoolFlag{Name: "other", Usage: "also where the backup is of another store than the folder's"},
			},
		},
		{Name: "check", Usage: "check every record and index of the database, or of a backup FILE", ArgsUsage: "[FILE]", Action: s.check},
		{Name: "compact", Usage: "rewrite the database without its free space; the server must be stopped", Action: s.compact},
		{Name: "healthcheck", Usage: "ask whether the server is ready; exit code 0 or 1", Action: s.health},
	}
}

func (s *Session) backup(ctx context.Context, c *cli.Command) (err error) {
	file, err := OneArgument(c)
	if err != nil {
		return err
	}
	client, done, err := s.Reach(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if file == "-" {
		if IsTerminal(s.Env.Stdout) {
			return Misused(c, errors.New("a backup is no text for a terminal; name a FILE, or send the output to one"))
		}
		return client.Copy(ctx, "/admin/v1/backup", s.Env.Stdout)
	}
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists; name a new file", file)
	}
	part := file + ".part"
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = client.Copy(ctx, "/admin/v1/backup", out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := errors.Join(os.Rename(part, file), SyncDir(filepath.Dir(file))); err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.PrintJSON(map[string]any{"file": file, "bytes": info.Size()})
	}
	_, err = fmt.Fprintf(s.Env.Stderr, "Wrote %s, %s. The pepper is not in it.\n", file, megabytes(info.Size()))
	return err
}

func megabytes(n int64) string { return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB" }

func (s *Session) restore(_ context.Context, c *cli.Command) error {
	file, err := OneArgument(c)
	if err != nil {
		return err
	}
	conf, _, err := s.Load(c)
	if err != nil {
		return err
	}
	result, err := s.Env.Restore(conf, file, c.Bool("dry-run"), c.Bool("other"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.PrintJSON(result)
	}
	verb := "Restored"
	if c.Bool("dry-run") {
		verb = "Would restore"
	}
	if _, err := fmt.Fprintf(s.Env.Stdout, "%s %d keys (%d records) from %s to %s.\n", verb, result.Keys, result.Check.Records, result.From, result.To); err != nil {
		return err
	}
	if result.Kept != "" {
		_, err = fmt.Fprintf(s.Env.Stdout, "What stood there is kept as %s.\n", result.Kept)
	}
	return err
}

func (s *Session) check(ctx context.Context, c *cli.Command) error {
	var result CheckResult
	switch c.Args().Len() {
	case 0:
		client, done, err := s.Reach(ctx, c)
		if err != nil {
			return err
		}
		if err := errors.Join(client.Do(ctx, http.MethodPost, "/admin/v1/check", nil, &result), done()); err != nil {
			return err
		}
	case 1:
		var err error
		if result, err = s.Env.CheckFile(c.Args().First()); err != nil {
			return err
		}
	default:
		return Misused(c, fmt.Errorf("one FILE or none, got %d", c.Args().Len()))
	}
	if c.Bool("json") {
		if err := s.PrintJSON(result); err != nil {
			return err
		}
	} else {
		_, err := fmt.Fprintf(s.Env.Stdout, "%d records, %d index entries, %d problems\n%s", result.Records, result.Entries, len(result.Problems), lines(result.Problems))
		if err != nil {
			return err
		}
	}
	if len(result.Problems) > 0 {
		return errors.New("the database is damaged; restore a backup")
	}
	return nil
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

func (s *Session) compact(_ context.Context, c *cli.Command) error {
	conf, _, err := s.Load(c)
	if err != nil {
		return err
	}
	before, after, err := CompactStore(conf.Server.Data, time.Now())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.PrintJSON(map[string]int64{"bytes_before": before, "bytes_after": after})
	}
	_, err = fmt.Fprintf(s.Env.Stdout, "%s before, %s now\n", megabytes(before), megabytes(after))
	return err
}

// health asks /readyz of the server that the flags lead to.
func (s *Session) health(ctx context.Context, c *cli.Command) error {
	client, err := s.Remote(c, "")
	if err != nil {
		return err
	}
	if c.String("url") == "" {
		conf, _, err := s.Load(c)
		if err != nil {
			return err
		}
		client = NewSocketClient(SocketPath(filepath.Join(conf.Server.Data, "control.sock")))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := client.Copy(ctx, "/readyz", io.Discard); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	if c.Bool("json") {
		return s.PrintJSON(map[string]string{"status": "ready"})
	}
	_, err = fmt.Fprintln(s.Env.Stdout, "ready")
	return err
}
