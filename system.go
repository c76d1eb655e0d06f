// The system family contains the code that differs between operating systems and
// builds, and what the end of the program needs. system.go has the version of the program.
// system_log.go writes the log before a panic ends the program. system_unix.go and system_other.go
// lock files and measure free disk space. The family uses no other family.

package main

import (
	"runtime/debug"
	"strings"
)

// version is the version of a release. The linker sets it, see packaging/release.sh. It
// is "" in other builds.
var version string

// ProgramVersion returns the version of this program: the version set for a release, such as
// "v1.2.3", or otherwise the version in Go's build information. The latter is a
// pseudo-version of a commit, "devel", or "unknown" if there is no build information.
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
