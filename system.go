// The system family holds what differs between operating systems and builds: the
// version of the program here, the lock of a file and the free space of a disk in
// system_unix.go and system_other.go. It knows nothing else of the program.

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
