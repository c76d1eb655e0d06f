package clock

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // for machines without files of time zones
)

// zoneNames holds the names of the time zone database of IANA, one per line, without Factory. It
// includes the older names that the database keeps as links, such as US/Pacific.
//
//go:embed zones.txt
var zoneNames string

var knownZones = sync.OnceValue(func() map[string]bool {
	known := map[string]bool{}
	for _, name := range Zones() {
		known[name] = true
	}
	return known
})

// Zones returns the names that Zone accepts, sorted.
func Zones() []string { return strings.Fields(zoneNames) }

// Zone returns the time zone with an IANA name, such as Europe/Berlin. The name must be exact, also
// in upper and lower case. Zone returns an error for any other name. time.LoadLocation alone would
// accept "", Local, and any file that it finds on the machine, such as localtime or
// posix/Europe/Berlin; their meaning differs between machines.
func Zone(name string) (*time.Location, error) {
	if !knownZones()[name] {
		return nil, fmt.Errorf("%q is not the name of a time zone", name)
	}
	return time.LoadLocation(name)
}
