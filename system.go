// The system family holds what differs between operating systems and builds: the
// version of the program here, the lock of a file and the free space of a disk in
// system_unix.go and system_other.go. It knows nothing else of the program.

package main

import (
	"runtime/debug"
	"strings"
)

// version is set by the linker in a release build (packaging/release.sh).
var version string

// ProgramVersion returns the version of this program. It is the release's
// version or the one in the build information: "v1.2.3", a pseudo-version of a
// commit, "devel", or "unknown" if there is none.
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
