package cli

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

	"latchkey/internal/durable"
	"latchkey/internal/keytext"
)

// storeCommands returns the commands that back up, restore, check and compact the database, and the
// command that checks whether the server is ready.
func (s *session) storeCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "backup", Usage: "copy the database to a new FILE, or to standard output (-); the server may be running", ArgsUsage: "FILE",
			Description: "The backup does not contain the pepper. Keep a copy of the pepper file in\nanother place: without it no key is valid.", Action: s.backup,
		},
		{
			Name: "restore", Usage: "replace the database with a backup; the server must be stopped", ArgsUsage: "FILE", Action: s.restore,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "dry-run", Usage: "check everything and change nothing"},
				&cli.BoolFlag{Name: "other", Usage: "allow a backup of another store than the one in the data folder"},
				&cli.BoolFlag{Name: "exactly", Usage: "restore the state of the backup exactly; do not carry over what was revoked since"},
				&cli.BoolFlag{Name: "send-webhooks", Usage: "send the pending webhook deliveries of the backup, even if they may have been sent since"},
				&cli.BoolFlag{Name: "unverified", Usage: "allow a file without a valid MAC: a plain copy, or a backup of an earlier version"},
			},
		},
		{
			Name: "check", Usage: "check every record and index of the database, or of a backup FILE", ArgsUsage: "[FILE]", Action: s.check,
			Description: `The pepper is needed to verify that nobody without it has changed the file.
Without it the exit code is 3 if there are no other problems.

--repair makes the indexes and lists of the database in the data folder anew
from its records. It changes no record. The server must be stopped.`,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "repair", Usage: "make indexes and lists anew from the records, then check; the server must be stopped"}},
		},
		{Name: "compact", Usage: "rewrite the database without its free space; the server must be stopped", Action: s.compact},
		{Name: "healthcheck", Usage: "check whether the server is ready; exit code 0 if it is, otherwise 1", Action: s.health},
	}
}

func (s *session) backup(ctx context.Context, c *cli.Command) error {
	file, err := oneArgument(c)
	if err != nil {
		return err
	}
	if file == "-" {
		if IsTerminal(s.env.Stdout) {
			return misused(c, errors.New("a backup cannot be shown on a terminal; name a FILE, or redirect the output to one"))
		}
		return interrupted(ctx, s.copyBackup(ctx, c, s.env.Stdout), "the output is not a complete backup, so delete it")
	}
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists; name a new file", file)
	}
	if err := s.writeBackup(ctx, c, file); err != nil {
		return interrupted(ctx, err, "no backup was made")
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(map[string]any{"file": file, "bytes": info.Size()})
	}
	_, err = fmt.Fprintf(s.env.Stderr, "Wrote %s, %s. It does not contain the pepper.\n", file, megabytes(info.Size()))
	return err
}

// writeBackup writes a backup to a new file. It writes the file as file + ".part" and renames it once
// it is on disk. After an error neither of them exists.
func (s *session) writeBackup(ctx context.Context, c *cli.Command, file string) error {
	part := file + ".part"
	out, err := s.createBackup(c, part)
	if err != nil {
		return err
	}
	err = s.copyBackup(ctx, c, out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return errors.Join(os.Rename(part, file), durable.SyncDir(filepath.Dir(file)))
}

// copyBackup writes a backup to w and shows its progress.
func (s *session) copyBackup(ctx context.Context, c *cli.Command, w io.Writer) (err error) {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	work := s.startWork(ctx, c)
	defer work.end()
	work.set(workStep{name: "copying the database"})
	return client.copyAnswer(ctx, "/admin/v1/backup", func(length int64) io.Writer {
		return &counting{to: w, work: work, step: workStep{name: "receiving the backup", unit: inBytes, total: max(length, 0)}}
	})
}

// createBackup creates the file of a backup, for the user of the process. In the data folder it
// belongs to the owner of the folder instead, as all files there.
func (s *session) createBackup(c *cli.Command, path string) (*os.File, error) {
	const flag = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if c.String("url") == "" {
		service, err := s.load(c)
		if err != nil {
			return nil, err
		}
		for at := filepath.Dir(path); ; at = filepath.Dir(at) {
			if sameFolder(at, service.DataDir()) {
				return durable.OpenFile(path, flag, 0o600)
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return os.OpenFile(path, flag, 0o600)
}

// sameFolder reports whether two paths lead to the same existing folder.
func sameFolder(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// megabytes returns n bytes as text, such as "1.5 MB".
func megabytes(n int64) string { return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB" }

func (s *session) restore(ctx context.Context, c *cli.Command) error {
	file, err := oneArgument(c)
	if err != nil {
		return err
	}
	service, err := s.load(c)
	if err != nil {
		return err
	}
	work := s.startWork(ctx, c)
	result, err := service.Restore(RestoreOptions{
		From: file, DryRun: c.Bool("dry-run"), Other: c.Bool("other"), Unverified: c.Bool("unverified"), Exactly: c.Bool("exactly"), SendWebhooks: c.Bool("send-webhooks"),
		Progress: work.Report,
	})
	work.end()
	if err != nil {
		return interrupted(ctx, err, "nothing was changed")
	}
	if c.Bool("json") {
		return s.printJSON(result)
	}
	verb := "Restored"
	if c.Bool("dry-run") {
		verb = "Would restore"
	}
	if _, err := fmt.Fprintf(s.env.Stdout, "%s %d keys (%d records) from %s to %s.\n", verb, result.Keys, result.Check.Records, result.From, result.To); err != nil {
		return err
	}
	_, err = io.WriteString(s.env.Stdout, result.report(c))
	return err
}

// report returns what people should know about a restore, one sentence a line.
func (r Restored) report(c *cli.Command) string {
	var list []string
	if r.Kept != "" {
		list = append(list, "The previous database was kept as "+r.Kept+".")
	}
	if r.NotCarried != "" {
		list = append(list, "The previous database could not be read, so keys and tokens that were revoked since the backup may be valid again: "+r.NotCarried)
	}
	if len(r.Carried) > 0 {
		list = append(list, "Carried over, because it has happened since the backup:")
		for _, what := range r.Carried {
			list = append(list, "  "+what)
		}
	}
	if len(r.Gone) > 0 {
		list = append(list, "Not in the backup, so gone:")
		for _, what := range r.Gone {
			list = append(list, "  "+what)
		}
	}
	if !c.Bool("dry-run") {
		list = append(list, "All logins to the dashboard were ended.")
	}
	if r.WebhooksHeld {
		list = append(list, "Webhooks are held back, because their pending deliveries may have been sent since. Release them with: latchkey webhooks release")
	}
	return lines(list)
}

func (s *session) check(ctx context.Context, c *cli.Command) error {
	var result CheckResult
	switch {
	case c.Bool("repair"):
		service, err := s.load(c)
		if err != nil {
			return err
		}
		work := s.startWork(ctx, c)
		result, err = service.Repair(work.Report)
		work.end()
		if err != nil {
			return interrupted(ctx, err, "nothing was changed")
		}
	case c.Args().Len() == 0:
		client, done, err := s.reach(ctx, c)
		if err != nil {
			return interrupted(ctx, err, "nothing was changed")
		}
		work := s.startWork(ctx, c)
		work.set(workStep{name: "checking the database"})
		err = client.patient().Do(ctx, Request{http.MethodPost, "/admin/v1/check", nil}, &result)
		work.end()
		if err := errors.Join(err, done()); err != nil {
			return interrupted(ctx, err, "nothing was changed")
		}
	case c.Args().Len() == 1:
		service, err := s.load(c)
		if err != nil {
			return err
		}
		work := s.startWork(ctx, c)
		result, err = service.CheckFile(c.Args().First(), work.Report)
		work.end()
		if err != nil {
			return interrupted(ctx, err, "nothing was changed")
		}
	default:
		return misused(c, fmt.Errorf("at most one FILE is allowed; got %d", c.Args().Len()))
	}
	if c.Bool("json") {
		if err := s.printJSON(result); err != nil {
			return err
		}
	} else {
		_, err := fmt.Fprintf(s.env.Stdout, "%d records, %d index entries, %d problems\n%s", result.Records, result.Entries, len(result.Problems), lines(result.Problems))
		if err != nil {
			return err
		}
	}
	if len(result.Problems) > 0 {
		return errors.New("the database is damaged or was changed; restore a backup")
	}
	if result.NotVerified != "" {
		return &exitError{fmt.Errorf("not verified: whether somebody without the pepper has changed the file is not known: %s", result.NotVerified), 3}
	}
	return nil
}

// lines returns the texts of list, each followed by a line break.
func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

func (s *session) compact(ctx context.Context, c *cli.Command) error {
	service, err := s.load(c)
	if err != nil {
		return err
	}
	work := s.startWork(ctx, c)
	before, after, err := service.Compact(work.Report)
	work.end()
	if err != nil {
		return interrupted(ctx, err, "nothing was changed")
	}
	if c.Bool("json") {
		return s.printJSON(map[string]int64{"bytes_before": before, "bytes_after": after})
	}
	_, err = fmt.Fprintf(s.env.Stdout, "%s before, %s now\n", megabytes(before), megabytes(after))
	return err
}

// health requests /readyz from the server at --url, or without --url from the server that has the
// data folder open.
func (s *session) health(ctx context.Context, c *cli.Command) error {
	client, err := s.remote(c, "")
	if err != nil {
		return err
	}
	if c.String("url") == "" {
		service, err := s.load(c)
		if err != nil {
			return err
		}
		client = folderClient(service.DataDir())
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := client.Copy(ctx, "/readyz", io.Discard); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	if c.Bool("json") {
		return s.printJSON(map[string]string{"status": "ready"})
	}
	_, err = fmt.Fprintln(s.env.Stdout, "ready")
	return err
}

// Demo holds the API key of a demo and the password for its dashboard.
type Demo struct{ Key, Password string }

// demoOperator is the name of the operator of a demo.
const demoOperator = "demo"

// SeedDemo creates sample records of a demo, an operator, and a key with permissions. The service has
// added the requests of other keys already. The calls and events are at most two days before or after now. After an error the
// store may contain some of the records.
func SeedDemo(ctx context.Context, c *Client, permissions []string, now time.Time) (d Demo, err error) {
	type object = map[string]any
	at := func(day, hour, minutes int) string {
		midnight := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, day)
		return midnight.Add(time.Duration(hour)*time.Hour + time.Duration(minutes)*time.Minute).Format(time.RFC3339)
	}
	d.Password = keytext.RandomHex(8)
	var team struct {
		ID int `json:"id"`
	}
	if err := c.Do(ctx, Request{http.MethodPost, "/admin/v1/teams", object{"name": "Reception"}}, &team); err != nil {
		return d, err
	}
	for _, sample := range []struct {
		path string
		body object
	}{
		{"agents", object{"name": "Front desk", "role": "inbound agent", "phone_number": "+4930555001", "model": "local-model-a", "voice_id": "reed", "team_id": team.ID}},
		{"agents", object{"name": "Reminder line", "role": "outbound agent", "phone_number": "+4930555002", "model": "local-model-a", "voice_id": "ash"}},
		{"contacts", object{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG", "stage": "customer",
			"status": "contacted", "tags": []string{"Regular"}, "team_id": team.ID, "phone_numbers": []object{{"phone_number": "+4930555010", "phone_type": "mobile"}}}},
		{"contacts", object{"first_name": "Jon", "last_name": "Arden", "email": "jon@example.net",
			"phone_numbers": []object{{"phone_number": "+4930555011", "phone_type": "work"}}}},
		{"calls", object{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "started_at": at(-1, 9, 15),
			"ended_at": at(-1, 9, 17), "summary": "Caller moved a booking."}},
		{"schedules", object{"time_zone": "Europe/Berlin", "buffer_minutes": 15}},
		{"events", object{"title": "First visit", "start_time": at(0, 8, 0), "end_time": at(0, 8, 45), "status": "confirmed"}},
		{"events", object{"title": "Phone call", "start_time": at(0, 13, 30), "end_time": at(0, 14, 0)}},
		{"events", object{"title": "Fitting", "start_time": at(1, 9, 0), "end_time": at(1, 10, 30), "ai_agent_id": 1}},
		{"events", object{"title": "Follow-up", "start_time": at(2, 14, 0), "end_time": at(2, 14, 30)}},
		{"operators", object{"name": demoOperator, "password": d.Password}},
	} {
		if err := c.Do(ctx, Request{http.MethodPost, "/admin/v1/" + sample.path, sample.body}, nil); err != nil {
			return d, fmt.Errorf("%s: %w", sample.path, err)
		}
	}
	var made struct {
		Key string `json:"key"`
	}
	err = c.Do(ctx, Request{http.MethodPost, "/admin/v1/keys", object{"name": "demo", "permissions": permissions}}, &made)
	d.Key = made.Key
	return d, err
}

// PrintDemo writes to w how to log in to a demo, and sample requests with its key. apiURL and
// adminURL are the URLs of the API and of the admin listener, without a slash at the end. The key
// and the password are shown nowhere else.
func PrintDemo(w io.Writer, apiURL, adminURL string, d Demo) error {
	_, err := fmt.Fprintf(w, `
This is a demo with sample data, which is deleted when the server stops. The dashboard, with keys, calls and a calendar:

  %[3]s/login    name: %[4]s    password: %[5]s

An API key for these requests (the dashboard shows how much of its limits is used):

  export KEY=%[1]s

  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/agents
  curl -H "X-API-Key: $KEY" "%[2]s/api/v1/contacts?search=mara"
  curl -H "Authorization: Bearer $KEY" %[2]s/api/v1/calls -d '{"phone_number": "+4930555044", "agent_id": 2}'

`, d.Key, apiURL, adminURL, demoOperator, d.Password)
	return err
}
