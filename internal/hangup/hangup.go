// Package hangup receives SIGHUP from the first moment of a server on. Until a program has asked for
// SIGHUP, the signal ends it, and a service manager may send it as soon as the process exists. Go
// initializes packages before it calls main. This package needs only few others, so it is among the
// first.
package hangup

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// Signals receives the SIGHUPs at which a server reloads its configuration. Several that arrive
// before one is received count as one. It is nil if no argument of the program is "serve": SIGHUP ends
// other commands, for example when their terminal is closed.
var Signals = notify(os.Args[1:])

// notify returns the channel for a program with these arguments.
func notify(args []string) <-chan os.Signal {
	if !slices.Contains(args, "serve") {
		return nil
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals
}
