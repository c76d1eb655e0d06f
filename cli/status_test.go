package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"latchkey/internal/strictjson"
)

// TestNotes tells of a missing schedule of backups.
func TestNotes(t *testing.T) {
	for _, tt := range []struct {
		status map[string]any
		want   int
	}{
		{map[string]any{"last_backup_at": nil, "backup_every_seconds": nil}, 1},
		{map[string]any{"last_backup_at": nil, "backup_every_seconds": json.Number("86400")}, 0},
		{map[string]any{"last_backup_at": "2026-02-03T08:00:00Z", "backup_every_seconds": nil}, 0},
	} {
		if got := notes(tt.status); len(got) != tt.want || got == nil {
			t.Errorf("%v: got %q, want %d", tt.status, got, tt.want)
		}
	}
}

// TestAttention changes one member of a status in which all is well at a time.
func TestAttention(t *testing.T) {
	const well = `{"ready": true, "not_ready_because": null, "config": {"error": null, "restart_needed": []}, "listening": {"api": "127.0.0.1:1"},
		"last_backup_at": "2026-02-03T08:00:00Z", "last_backup_error": null, "backup_every_seconds": 86400, "webhooks_held_since": null, "webhook_backlog": 0,
		"webhook_oldest_at": null, "forged_records": 0, "disk_free_bytes": 1000000, "store_bytes": 500000, "certificate_ends_at": null, "ending_tokens": [], "now": "2026-02-03T09:00:00.000Z"}`
	for _, tt := range []struct{ old, new, want string }{
		{`"ready"`, `"ready"`, ""},
		{`"backup_every_seconds": 86400`, `"backup_every_seconds": null`, ""},
		{`"listening": {"api": "127.0.0.1:1"}`, `"listening": {}`, "No server"},
		{`"ready": true, "not_ready_because": null`, `"ready": false, "not_ready_because": "disk full"`, "disk full"},
		{`"error": null`, `"error": "line 3"`, "line 3"},
		{`"restart_needed": []`, `"restart_needed": ["server.listen"]`, "server.listen"},
		{`"last_backup_error": null`, `"last_backup_error": "no room"`, "no room"},
		{`2026-02-03T08:00:00Z`, `2026-02-01T09:00:00Z`, ""},
		{`2026-02-03T08:00:00Z`, `2026-02-01T08:59:59Z`, "backup is from 2026-02-01T08:59:59Z"},
		{`"webhooks_held_since": null`, `"webhooks_held_since": "2026-02-03T08:00:00Z"`, "webhooks release"},
		{`"webhook_oldest_at": null`, `"webhook_oldest_at": "2026-02-03T08:00:00Z"`, ""},
		{`"webhook_oldest_at": null`, `"webhook_oldest_at": "2026-02-03T07:59:59Z"`, "wait"},
		{`"forged_records": 0`, `"forged_records": 2`, "MAC: 2"},
		{`"disk_free_bytes": 1000000`, `"disk_free_bytes": 999999`, "less than twice"},
		{`"disk_free_bytes": 1000000`, `"disk_free_bytes": null`, ""},
		{`"certificate_ends_at": null`, `"certificate_ends_at": "2026-02-17T09:00:00Z"`, ""},
		{`"ending_tokens": []`, `"ending_tokens": [{"id": 3, "name": "ci", "expires_at": "2026-02-12T10:00:00Z"}]`, "Admin token 3 ci ends in 9 days"},
		{`"ending_tokens": []`, `"ending_tokens": [{"id": 3, "name": "ci", "expires_at": "2026-02-04T10:00:00Z"}]`, "ends in 25 hours"},
		{`"ending_tokens": []`, `"ending_tokens": [{"id": 3, "name": "ci", "expires_at": "2026-02-03T10:59:00Z"}]`, "ends in less than 2 hours"},
		{`"certificate_ends_at": null`, `"certificate_ends_at": "2026-02-17T08:59:59Z"`, "certificate ends"},
	} {
		if !strings.Contains(well, tt.old) {
			t.Fatalf("%q is not in the status", tt.old)
		}
		var status map[string]any
		if err := strictjson.Decode([]byte(strings.Replace(well, tt.old, tt.new, 1)), &status); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(attention(status), "\n")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want %q", tt.new, got, tt.want)
		}
	}
}
