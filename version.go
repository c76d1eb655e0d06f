package main

import (
	"runtime/debug"
	"strings"
)

// ProgramVersion is the version of this program as the build noted it:
// "v1.2.3", a commit's pseudo-version, "devel", or "unknown".
func ProgramVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return strings.Trim(info.Main.Version, "()")
}
