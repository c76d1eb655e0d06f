package main

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// What a file adds is loaded, and what is printed of it loads to the same.
func TestConfig_rows(t *testing.T) {
	const text = `
[[limit]]
name = "calls_per_day_limit"
observe = true
[[limit]]
name = "owner_calls_per_day_limit"
default = 500
observe = false
[[limit]]
name = "reports_per_hour"
window = "1h"
default = 20
[[limit]]
name = "trial"
window = "720h"
default = 0
scope = "owner"
observe = true
[[permission]]
name = "can_read_reports"
description = "Read \"reports\"."
`
	c, sources, file, err := loadText(t, text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Limit.OwnerCallsPerDay = 500
	want.Observed = []string{CallsPerDay}
	want.Limits = []LimitRow{
		{Name: "reports_per_hour", Window: time.Hour, Default: 20, Scope: "key"},
		{Name: "trial", Window: 720 * time.Hour, Scope: "owner", Observe: true},
	}
	want.Permissions = []PermissionRow{{"can_read_reports", `Read "reports".`}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	var b strings.Builder
	if err := c.Print(&b, sources); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "[[limit]] # file "+file) {
		t.Errorf("got %s, want the source of the limits", b.String())
	}
	again, _, _, err := loadText(t, b.String(), nil, nil)
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("printed and loaded again: got %+v, %v\nwant %+v", again, err, want)
	}
}
