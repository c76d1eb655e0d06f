package main

import (
	"runtime/debug"
	"strings"
)

// version is set by the linker where a release is built (packaging/release.sh).
var version string

// ProgramVersion is the version of this program: of the release, or as the build
// noted it: "v1.2.3", a commit's pseudo-version, "devel", or "unknown".
func ProgramVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return strings.Trim(info.Main.Version, "()")
}
