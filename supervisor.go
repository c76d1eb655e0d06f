package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Supervisor is the service manager that has started this process and wants to
// hear how it is, in the way of systemd (sd_notify(3), sd_listen_fds(3)). Where
// there is none, nothing is told to anybody. It is safe for concurrent use.
type Supervisor struct {
	log   *slog.Logger
	every time.Duration // within which it wants to hear that the process is well; 0: not at all
}

// NewSupervisor reads from the environment what the service manager wants.
func NewSupervisor(log *slog.Logger) (*Supervisor, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	return &Supervisor{log: log, every: every}, nil
}

// Sockets gives the listeners that the service manager has opened for this
// process, by their names; the first call takes them.
func (s *Supervisor) Sockets() (map[string][]net.Listener, error) {
	return activation.ListenersWithNames()
}

// Ready tells that the service answers, with a line for people. It also ends
// what Reloading has begun.
func (s *Supervisor) Ready(status string) {
	s.tell(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Reloading tells that the configuration is being read anew.
func (s *Supervisor) Reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping tells that no more requests are taken.
func (s *Supervisor) Stopping() { s.tell(daemon.SdNotifyStopping) }

// Watch tells, twice within each span that the service manager has set, that
// the process is well, as long as the probe gives no error. A probe that hangs
// or fails lets the service manager end the process. Watch returns when the
// context ends, or at once where nobody wants to know.
func (s *Supervisor) Watch(ctx context.Context, probe func() error) {
	if s.every <= 0 {
		return
	}
	tick := time.NewTicker(s.every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := probe(); err != nil {
				s.log.Error("the process is not well; the service manager is not told otherwise", "error", err)
				continue
			}
			s.tell(daemon.SdNotifyWatchdog)
		}
	}
}

func (s *Supervisor) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("tell the service manager", "error", err)
	}
}
