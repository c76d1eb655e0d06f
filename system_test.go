package main

import (
	"runtime/debug"
	"testing"
)

func TestProgramVersion_source(t *testing.T) {
	build := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: "latchkey", Version: version}, Settings: settings}
	}
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"}
	for _, tt := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"no build information", nil, release + "+devel"},
		{"outside of a repository", build("(devel)"), release + "+devel"},
		{"a commit", build("v0.0.0-20260203090000-0123456789ab", revision), release + "+0123456789ab"},
		{"a commit with changes", build("v0.0.0-20260203090000-0123456789ab+dirty", revision, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), release + "+0123456789ab.dirty"},
		{"the tag of the release", build("v"+release, revision, debug.BuildSetting{Key: "vcs.modified", Value: "false"}), release},
		{"the tag of another release", build("v0.1.0", revision), release + "+0123456789ab"},
	} {
		if got := sourceVersion(tt.info); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
