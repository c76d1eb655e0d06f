package cli

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/urfave/cli/v3"

	"latchkey/internal/clock"
)

// statusCommand returns the command that shows the state of the service.
func (s *session) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the state of the service and what needs attention; exit code 1 if something does", Action: s.showStatus,
		Description: `Attention is needed if no server runs or it is not ready, if the
configuration could not be reloaded or needs a restart, if a scheduled backup
failed or is older than twice backup.every, if webhooks are held back or wait
for more than an hour, if mails cannot be sent, if records have no valid
MAC, if the disk has less room than twice the database or than keys need to
store records, if the storage of an owner is nearly full, and if a
certificate or an admin token ends within 14 days.
With --json the list is needs_attention. A missing schedule of backups is a
note below, without exit code 1. The page Overview lists more, about keys.`,
	}
}

func (s *session) showStatus(ctx context.Context, c *cli.Command) error {
	status, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/status", nil})
	if err != nil {
		return err
	}
	list := attention(status)
	status["needs_attention"], status["notes"] = list, notes(status)
	if c.Bool("json") {
		err = s.printJSON(status)
	} else {
		err = s.printStatus(status, list)
	}
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("needs attention: %d", len(list))
	}
	return err
}

// printStatus prints the state of the service as a table, and below it what needs attention.
func (s *session) printStatus(status map[string]any, list []string) error {
	config, _ := status["config"].(map[string]any)
	size := func(name string) string {
		if n, ok := status[name]; ok && n != nil {
			return megabytes(int64(whole(n)))
		}
		return "-"
	}
	var rows [][]string
	for _, name := range []string{"ready", "version", "api_url", "started_at", "keys"} {
		rows = append(rows, []string{name, cell(status[name])})
	}
	connections, _ := status["connections"].(map[string]any)
	if api, ok := connections["api"].(map[string]any); ok { // an earlier server does not have it
		rows = append(rows, []string{"api_connections", fmt.Sprintf("%d of %d", whole(api["open"]), whole(api["max"]))})
	}
	rows = append(rows, []string{"config_loaded_at", cell(config["loaded_at"])}, []string{"database", size("store_bytes")}, []string{"disk_free", size("disk_free_bytes")})
	for _, name := range []string{"last_backup_at", "webhook_backlog", "certificate_ends_at"} {
		rows = append(rows, []string{name, cell(status[name])})
		if node := "last_backup_node"; name == "last_backup_at" && status[node] != nil { // a cluster has it
			rows = append(rows, []string{node, cell(status[node])})
		}
	}
	if err := s.printTable(nil, rows); err != nil {
		return err
	}
	text := "\nNothing needs attention.\n"
	if len(list) > 0 {
		text = "\nNeeds attention:\n"
	}
	for _, what := range list {
		text += "  " + cell(what) + "\n"
	}
	text += lines(notes(status))
	_, err := fmt.Fprint(s.env.Stdout, text)
	return err
}

// notes returns what an operator should know and what is no fault, one sentence each, from an answer of GET
// /admin/v1/status. The list is empty and not nil if there is nothing.
func notes(status map[string]any) []string {
	if status["last_backup_at"] != nil || whole(status["backup_every_seconds"]) > 0 {
		return []string{}
	}
	return []string{"There is no scheduled backup: set backup.dir, or make backups with: latchkey backup FILE"}
}

// attention returns what needs attention in an answer of GET /admin/v1/status, one sentence each.
// The list is empty and not nil if nothing does.
func attention(status map[string]any) []string {
	list := []string{}
	add := func(needed bool, format string, args ...any) {
		if needed {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	now := timeOf(status["now"])
	config, _ := status["config"].(map[string]any)
	restart, _ := config["restart_needed"].([]any)
	listening, _ := status["listening"].(map[string]any)
	add(len(listening) == 0, "No server has the data folder open.")
	add(status["ready"] != true, "The server is not ready: %s", cell(status["not_ready_because"]))
	add(config["error"] != nil, "The configuration was not reloaded: %s", cell(config["error"]))
	add(len(restart) > 0, "These settings were changed and need a restart: %s", cell(restart))
	add(status["last_backup_error"] != nil, "The latest scheduled backup failed: %s", cell(status["last_backup_error"]))
	every := time.Duration(whole(status["backup_every_seconds"])) * time.Second
	made := timeOf(status["last_backup_at"])
	add(every > 0 && !made.IsZero() && now.Sub(made) > 2*every, "The newest scheduled backup is from %s.", cell(status["last_backup_at"]))
	add(status["webhooks_held_since"] != nil, "Webhooks are held back since %s; send them with: latchkey webhooks release", cell(status["webhooks_held_since"]))
	oldest := timeOf(status["webhook_oldest_at"])
	add(!oldest.IsZero() && now.Sub(oldest) > time.Hour, "%v webhook deliveries wait, the oldest since %s.", cell(status["webhook_backlog"]), cell(status["webhook_oldest_at"]))
	add(status["mail_failing_since"] != nil, "Mails cannot be sent since %s: %s. Check with: latchkey mail test", cell(status["mail_failing_since"]), cell(status["mail_error"]))
	add(whole(status["forged_records"]) > 0, "Records without a valid MAC: %v. They were changed without the pepper; see: latchkey check", cell(status["forged_records"]))
	free := status["disk_free_bytes"]
	add(free != nil && whole(free) < 2*whole(status["store_bytes"]), "The disk has only %s free, less than twice the database.", megabytes(int64(whole(free))))
	disk, _ := status["disk"].(map[string]any)
	add(disk["refusing"] == true, "The disk is nearly full, so keys can store nothing new. Free some disk space.")
	add(disk["low"] == true && disk["refusing"] != true, "The disk is becoming full. Below %s of free space keys can store nothing new.", megabytes(int64(whole(disk["mark_bytes"]))))
	full, _ := status["full_owners"].([]any)
	for _, v := range full {
		owner, _ := v.(map[string]any)
		add(true, "The storage of the owner %s is nearly full (%s); give it more with: latchkey owners update %s --storage SIZE", cell(owner["name"]), cell(owner["storage"]), cell(owner["id"]))
	}
	ending, _ := status["ending_tokens"].([]any)
	for _, v := range ending {
		token, _ := v.(map[string]any)
		id := cell(token["id"])
		add(true, "Admin token %s %s ends in %s; replace it with: latchkey admin token create", id, cell(token["name"]), daysUntil(timeOf(token["expires_at"]), now))
	}
	ends := timeOf(status["certificate_ends_at"])
	add(!ends.IsZero() && ends.Sub(now) < 14*24*time.Hour, "A certificate ends at %s.", cell(status["certificate_ends_at"]))
	return list
}

// daysUntil returns the time from now to end, such as "9 days", in whole days or else in whole hours.
func daysUntil(end, now time.Time) string {
	left := end.Sub(now)
	switch days, hours := int(left/(24*time.Hour)), int(left/time.Hour); {
	case days > 1:
		return fmt.Sprintf("%d days", days)
	case hours > 1:
		return fmt.Sprintf("%d hours", hours)
	}
	return "less than 2 hours"
}

// timeOf returns a time in an answer of the server, or the zero time if v is not one.
func timeOf(v any) time.Time {
	text, _ := v.(string)
	t, _ := clock.ParseTime(text)
	return t
}
