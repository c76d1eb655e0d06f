package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// receivedTypes returns the types of the events that a webhook's deliveries have.
func (a *testApp) receivedTypes(v *receiver) (types []string) {
	a.t.Helper()
	a.send()
	for _, hit := range v.all() {
		var body struct {
			EventType string `json:"event_type"`
		}
		if err := json.Unmarshal([]byte(hit.body), &body); err != nil {
			a.t.Fatal(err)
		}
		types = append(types, body.EventType)
	}
	return types
}

// An owner's storage is reported once it is 80 % full, and again only after it was below 75 %, also
// across a restart.
func TestStorageWatch_Owners(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "owner.storage_warning")
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)
	_, secret := a.key(`["can_write_contacts"]`, `"owner": "ann"`)
	if w := a.ask("POST", "/api/v1/contacts/create", secret, `{"first_name": "Oda"}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	owner := a.operate(200, "GET", "/admin/v1/owners?search=ann", "")["owners"].([]any)[0].(map[string]any)
	bytes := owner["storage"].(map[string]any)["bytes"].(float64)
	limit := func(percent int) { // sets a limit of which percent are used, rounded down
		t.Helper()
		a.operate(200, "PATCH", fmt.Sprintf("/admin/v1/owners/%v", owner["id"]), fmt.Sprintf(`{"storage_bytes": %d}`, int(bytes)*100/percent+1))
	}
	warned := 0
	for _, step := range []struct {
		percent int
		warned  bool
	}{{50, false}, {79, false}, {81, true}, {99, false}, {78, false}, {95, false}, {76, false}, {85, false}, {74, false}, {85, true}, {100, false}} {
		limit(step.percent)
		for range 2 {
			if err := a.storage.CheckOwners(a.clock.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if step.warned {
			warned++
		}
		if got := a.receivedTypes(v); len(got) != warned || slices.ContainsFunc(got, func(s string) bool { return s != "owner.storage_warning" }) {
			t.Errorf("at %d %%: got %q, want %d warnings", step.percent, got, warned)
		}
		a.restart()
		if got := len(a.operate(200, "GET", "/admin/v1/status", "")["full_owners"].([]any)) == 1; got != (step.percent > 80) {
			t.Errorf("at %d %%: status lists the owner: %t", step.percent, got)
		}
	}
	if got := strings.Count(a.log.String(), "the storage of an owner is nearly full"); got != warned {
		t.Errorf("got %d lines in the log, want %d", got, warned)
	}
	if body := v.all()[0].body; !strings.Contains(body, `"owner":{"id":`) || !strings.Contains(body, `"name":"ann","storage":{"bytes":`) {
		t.Errorf("got the body %s", body)
	}
}

// The operator is warned at twice the mark and at the mark, once each, and keys can store records
// again once there is enough space.
func TestStorageWatch_Disk(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	disk := a.fakeDisk(50_000_000)
	a.hook(v.URL, "", "disk.low")
	_, secret := a.key(`["can_write_contacts"]`, `"limits": {"requests_per_minute_limit": 1000}`)
	events := 0
	for _, step := range []struct {
		free, promised int64
		low, refusing  bool
		event          bool
	}{
		{50_000_000, 0, false, false, false}, {10_000_000, 0, false, false, false}, {9_999_999, 0, true, false, true}, {5_000_000, 0, true, false, false},
		{4_999_999, 0, true, true, true}, {5_000_000, 0, true, true, false}, {5_624_999, 0, true, true, false}, {5_625_000, 0, true, false, false},
		{11_249_999, 0, true, false, false}, {11_250_000, 0, false, false, false}, {15_000_000, 10_000_001, true, true, true}, {-1, 0, false, false, false}, {1_000_000, 9_000_000, true, true, true},
	} {
		disk.free.Store(step.free)
		disk.promised.Store(step.promised)
		for range 2 {
			if err := a.storage.CheckDisk(a.clock.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if step.event {
			events++
		}
		if got := a.receivedTypes(v); len(got) != events {
			t.Errorf("%+v: got %q, want %d events", step, got, events)
		}
		want := 201
		if step.refusing {
			want = 507
		}
		if w := a.ask("POST", "/api/v1/contacts/create", secret, `{"first_name": "Oda"}`); w.Code != want {
			t.Errorf("%+v: got %d %s, want %d", step, w.Code, w.Body, want)
		}
		status := a.operate(200, "GET", "/admin/v1/status", "")["disk"].(map[string]any)
		if status["low"] != step.low || status["refusing"] != step.refusing || status["mark_bytes"] != 5e6 && step.free >= 0 {
			t.Errorf("%+v: got %v", step, status)
		}
		wantMetric := fmt.Sprintf("latchkey_disk_low %d\n", map[bool]int{true: 1}[step.low]+map[bool]int{true: 1}[step.refusing])
		if _, text := a.scrape(a.token()); !strings.Contains(text, wantMetric) {
			t.Errorf("%+v: the metrics do not have %q", step, wantMetric)
		}
		if w := a.ask("GET", "/readyz", "", ""); w.Code != 200 {
			t.Errorf("%+v: readyz: got %d", step, w.Code)
		}
	}
	if log, body := a.log.String(), v.all()[events-1].body; !strings.Contains(log, `"free_bytes":0`) || strings.Contains(log, `"free_bytes":-`) || !strings.Contains(body, `"free_bytes":0`) {
		t.Errorf("the log says %s, the event %s, want no less than 0 bytes free", log, body)
	}
}

// The mark is the smaller of a number of bytes and a part of the disk. 0 in either turns it off.
func TestDiskSpace_Mark(t *testing.T) {
	for _, tt := range []struct {
		bytes   int64
		percent int
		size    int64
		want    int64
	}{
		{256 << 20, 5, 100_000_000, 5_000_000}, {256 << 20, 5, 1 << 40, 256 << 20}, {0, 5, 1 << 40, 0}, {256 << 20, 0, 1 << 40, 0}, {1, 50, 1 << 40, 1}, {256 << 20, 5, -1, 0},
	} {
		b := Bounds{FreeDiskBytes: tt.bytes, FreeDiskPercent: tt.percent}
		d := DiskSpace{Size: tt.size}
		if got := d.Mark(b); got != tt.want {
			t.Errorf("%d bytes or %d %% of %d: got %d, want %d", tt.bytes, tt.percent, tt.size, got, tt.want)
		}
		if got := d.state(b, diskEnough); (got == diskLow) != (tt.want > 0) {
			t.Errorf("nothing free with the mark %d: got the state %d", tt.want, got)
		}
	}
}

// A lowered bound applies from the reload on.
func TestStorage_Reload(t *testing.T) {
	a := newTestApp(t)
	a.fakeDisk(50_000_000)
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)
	_, secret := a.key(`["can_write_contacts","can_read_contacts"]`, `"owner": "ann"`)
	ask := func(want int) {
		t.Helper()
		if w := a.ask("POST", "/api/v1/contacts/create", secret, `{"first_name": "Oda"}`); w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	ask(201)
	lowered := a.config
	lowered.Bounds.OwnerBytes = 1
	vary := NewLog(a.log, a.config, LogSink{}).Level
	a.Reloader.From(func() (Config, error) { return lowered, nil }, vary)
	a.operate(200, "POST", "/admin/v1/reload", "")
	ask(507)
	if w := a.ask("GET", "/api/v1/contacts/1", secret, ""); w.Code != 200 {
		t.Errorf("a stored record: got %d, want it readable", w.Code)
	}
	lowered.Bounds.OwnerBytes, lowered.Bounds.FreeDiskBytes, lowered.Bounds.FreeDiskPercent = 0, 1<<40, 50
	a.operate(200, "POST", "/admin/v1/reload", "")
	ask(201)
	a.fakeDisk(49_000_000)
	a.storage.read()
	ask(507)
	lowered.Bounds.FreeDiskPercent = 0
	a.operate(200, "POST", "/admin/v1/reload", "")
	a.storage.read()
	ask(201)
}

// A size is refused in each way in with a message that names the field and the fix.
func TestOwners_StorageInput(t *testing.T) {
	a := newTestApp(t)
	id := fmt.Sprint(a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann", "storage_bytes": 1000}`)["id"])
	stored := func(want any) {
		t.Helper()
		if got := a.operate(200, "GET", "/admin/v1/owners/"+id, "")["storage_bytes"]; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	stored(1000.0)
	for _, bad := range []string{"-1", "1.5", "1e9", `"512MiB"`, "true", "1125899906842625", "99999999999999999999", "[]"} {
		for _, way := range [][2]string{{"PATCH", "/admin/v1/owners/" + id}, {"POST", "/admin/v1/owners"}} {
			a.refuse(way[0], way[1], strings.Replace(`{"name": "NEW", "storage_bytes": `+bad+`}`, "NEW", map[string]string{"PATCH": "ann", "POST": "eve"}[way[0]], 1), 400, "validation_error", "storage_bytes must be a whole number of bytes")
		}
	}
	for _, bad := range []string{"512 MB", "1e9", "-1", "9999999TiB", ""} {
		exit, _, errs := a.run("", "owners", "update", id, "--storage="+bad)
		if exit != 2 || !strings.Contains(errs, "--storage") || !strings.Contains(errs, "such as 512MiB") {
			t.Errorf("--storage=%q: got %d %q", bad, exit, errs)
		}
	}
	stored(1000.0)
	for _, good := range []struct {
		text string
		want any
		cell string
	}{{"512MiB", 536870912.0, "512.0 MiB"}, {"none", 0.0, "0 bytes"}, {"default", nil, "256.0 MiB"}, {"0", 0.0, "0 bytes"}, {"1125899906842624", 1125899906842624.0, "1024.0 TiB"}} {
		exit, out, errs := a.run("", "owners", "update", id, "--storage", good.text)
		if exit != 0 || !strings.Contains(out, good.cell) {
			t.Errorf("--storage %s: got %d %q %q, want %q", good.text, exit, out, errs, good.cell)
		}
		stored(good.want)
	}
	if exit, out, _ := a.run("", "owners", "show", id); exit != 0 || !strings.Contains(out, "0 bytes of 1024.0 TiB") {
		t.Errorf("owners show: got %d %q", exit, out)
	}
}
