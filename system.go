// The system family contains the code that differs between operating systems and
// builds, and what the end of the program needs. system.go has the version of the program.
// system_log.go writes the log before a panic ends the program. system_unix.go and system_other.go
// lock files and measure free disk space. The family uses no other family.

package main

import "runtime/debug"

// release is the version of the newest release, the first one in CHANGELOG.md.
const release = "0.9.0"

// version is the version that the linker sets in the files of a release, see
// packaging/release.sh. It is "" in other builds.
var version string

// ProgramVersion returns the version of this program, see sourceVersion for builds that are not
// those of a release.
func ProgramVersion() string {
	if version != "" {
		return version
	}
	info, _ := debug.ReadBuildInfo()
	return sourceVersion(info)
}

// sourceVersion returns the version of a program that was built from source: the newest release,
// and after a plus the commit, such as "0.9.0+1f2e3d4c5b6a", with ".dirty" if files were changed.
// If the commit is not known, it is "0.9.0+devel". A build of the tag of the release has no plus.
// info may be nil.
func sourceVersion(info *debug.BuildInfo) string {
	if info == nil {
		return release + "+devel"
	}
	if info.Main.Version == "v"+release {
		return release
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit := settings["vcs.revision"]
	if commit == "" {
		return release + "+devel"
	}
	commit = commit[:min(len(commit), 12)]
	if settings["vcs.modified"] == "true" {
		commit += ".dirty"
	}
	return release + "+" + commit
}
