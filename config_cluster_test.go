package main

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// changed returns a value that differs from that of a setting.
func changed(field any) any {
	switch f := field.(type) {
	case *string:
		return *f + "x"
	case *bool:
		return !*f
	case *int:
		return *f + 1
	case *int64:
		return *f + 1
	case *time.Duration:
		return *f + time.Second
	case *[]string:
		return append([]string{"x"}, *f...)
	case *map[string]string:
		return map[string]string{"x": "y"}
	}
	return nil
}

// TestConfig_Sum changes each setting and each field of each row. The sum changes, unless the setting is one of a node alone. No
// secret, file, folder or address to listen at is part of it.
func TestConfig_Sum(t *testing.T) {
	c := defaultConfig()
	c.Limits, c.Concurrent = []limitRow{{Name: "a_per_hour"}}, []concurrentRow{{Name: "b_at_once"}}
	c.Permissions, c.Routes = []permissionRow{{Name: "can_a"}}, []RouteRow{{Path: "/a"}, {Path: "/b"}}
	base := ConfigSum(c)
	used := map[string]bool{}
	differs := func(key string, field any, own bool) {
		t.Helper()
		value := reflect.ValueOf(field).Elem()
		before := reflect.ValueOf(value.Interface())
		value.Set(reflect.ValueOf(changed(field)))
		if got := ConfigSum(c); (got != base) == own {
			t.Errorf("%s: the sum changes: %t; a setting must be in nodeSettings exactly if it may differ from node to node", key, got != base)
		}
		value.Set(before)
	}
	for _, s := range c.settings() {
		own := false
		for _, name := range nodeSettings {
			if isOf([]string{name}, s.Key) {
				own, used[name] = true, true
			}
		}
		check := s.Tag.Get("check")
		if local := s.Tag.Get("secret") != "" || check == "file" || check == "path" || check == "folder" || strings.HasSuffix(check, "address"); local && !own {
			t.Errorf("%s is a secret, a file or an address, and is not in nodeSettings", s.Key)
		}
		differs(s.Key, s.Field, own)
	}
	for _, name := range nodeSettings {
		if !used[name] {
			t.Errorf("nodeSettings has %q, which is no setting", name)
		}
	}
	rows := func(section string, settings []setting, own []string) {
		for _, s := range settings {
			differs(section+"."+s.Key, s.Field, isOf(own, s.Key))
		}
	}
	rows("limit", rowSettings(&c.Limits[0]), nil)
	rows("limit", rowSettings(&c.Concurrent[0]), nil)
	rows("permission", rowSettings(&c.Permissions[0]), nil)
	rows("route", rowSettings(&c.Routes[0]), nodeRouteSettings)
	c.Observed = []string{"calls_per_day_limit"}
	if ConfigSum(c) == base {
		t.Error("a limit in observe mode does not change the sum")
	}
}

// TestConfig_InForce reloads a configuration in which each setting has changed.
func TestConfig_InForce(t *testing.T) {
	running, loaded := defaultConfig(), defaultConfig()
	for _, s := range loaded.settings() {
		reflect.ValueOf(s.Field).Elem().Set(reflect.ValueOf(changed(s.Field)))
	}
	loaded.Permissions = []permissionRow{{Name: "can_a"}}
	now := ConfigInForce(running, loaded)
	then, next := running.settings(), loaded.settings()
	for i, s := range now.settings() {
		want := then[i].Text()
		if reloads(s.Key) {
			want = next[i].Text()
		}
		if s.Text() != want {
			t.Errorf("%s: got %s, want %s", s.Key, s.Text(), want)
		}
	}
	if len(now.Permissions) != 1 {
		t.Error("a reload applies the permissions")
	}
	if keys := now.Differing(loaded); len(keys) == 0 || len(running.Differing(now)) != 0 {
		t.Errorf("got %q, want that the rest needs a restart", keys)
	}
}
