package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// part is a part of the service: a row of registry.
type part struct {
	name   string
	tables []Checked           // its tables in the store, for checks
	routes func(a *App) Routes // returns what it serves; nil if it serves nothing
	work   func(a *App) []work // returns its background work; nil if it has none
}

// work is a task that a part repeats while the data folder is open.
type work struct {
	every time.Duration
	what  string // its name in the log if it fails
	run   func(now time.Time) error
}

// registry lists all parts of the service. A new resource is one row here. Work
// with the same period runs in the order of the rows.
//
// The background work of the rows runs while the data folder is open, also for
// a command that starts no server; see App.tend. These loops run elsewhere:
//
//   - Store.commitAll (store.go), while the store is open: commits queued changes immediately.
//   - Sender.Start (webhooks_sender.go), from Serve on: reads the outbox after each
//     change and each Wake, and runs a goroutine for each webhook that is due.
//   - Listeners.Serve (listen.go), from Serve on: accepts connections on each listener;
//     Listeners.tend checks the certificate files every 10 seconds.
//   - Issuer.Run (internal/certs), from Listeners.Serve on: requests missing ACME
//     certificates every 2 minutes or less often until it has all.
//   - Systemd.Watch (listen.go), from Serve on: notifies systemd twice in each
//     WatchdogSec as long as the store can write.
//   - Upstreams.drop (internal/upstream/upstream.go), every 10 seconds while there
//     are idle connections to upstreams: closes those that were idle for 90 seconds
//     and those that the upstream has closed.
//   - reloadOnHangup (main.go), around Serve: reloads the configuration at SIGHUP.
var registry = []part{
	{name: "clock", work: func(a *App) []work {
		behind := false
		return []work{{time.Second, "look at the wall clock", func(time.Time) error { behind = a.catch(behind); return nil }}}
	}},
	{name: "store", work: func(a *App) []work {
		return []work{{10 * time.Second, "look at the database file", func(time.Time) error { a.Store.CheckFile(); return nil }}}
	}},
	{name: "limits", work: func(a *App) []work {
		return []work{{time.Minute, "forget unused counters", func(now time.Time) error { a.Limiter.Sweep(a.clock.Service(now)); return nil }}}
	}},
	{name: "sender", work: func(a *App) []work {
		return []work{{time.Second, "wake the sender", func(time.Time) error { a.Sender.Wake(); return nil }}}
	}},
	{name: "owners", tables: OwnerTables(), routes: func(a *App) Routes {
		return Routes{Admin: NewOwners(a.Store, a.Keyring).AdminRoutes()}
	}},
	{name: "teams", tables: TeamTables(), routes: func(a *App) Routes { return Routes{Admin: NewTeams(a.Store).AdminRoutes()} }},
	{name: "agents", tables: AgentTables(), routes: func(a *App) Routes {
		p := NewAgents(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "numbers that may not be called", tables: DoNotCallTables(), routes: func(a *App) Routes {
		return Routes{Admin: NewDoNotCalls(a.Store).AdminRoutes()}
	}},
	{name: "contacts", tables: ContactTables(), routes: func(a *App) Routes {
		p := NewContacts(a.Store, a.contactWriters())
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "calls", tables: CallTables(), routes: func(a *App) Routes { return Routes{Keyed: NewCalls(a.Store, a.Limiter).Routes()} }},
	{name: "calls for the operator", routes: func(a *App) Routes { return Routes{Admin: NewAdminCalls(a.Store).AdminRoutes()} }},
	{name: "context variables", tables: VariableTables(), routes: func(a *App) Routes {
		p := NewVariables(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "contexts", routes: func(a *App) Routes {
		p := NewContexts(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "calendar", tables: EventTables(), routes: func(a *App) Routes {
		return Routes{Keyed: NewCalendar(a.Store, a.Limiter).Routes()}
	}, work: func(a *App) []work {
		return []work{{time.Second, "send reminders", func(now time.Time) error { return FireReminders(a.Store, now) }}}
	}},
	{name: "events for the operator", routes: func(a *App) Routes { return Routes{Admin: NewAdminEvents(a.Store).AdminRoutes()} }},
	{name: "availability", routes: func(a *App) Routes { return Routes{Keyed: NewAvailability(a.Store).Routes()} }},
	{name: "iCalendar files", routes: func(a *App) Routes { return Routes{Open: NewICS(a.Store).OpenRoutes()} }},
	{name: "schedules", tables: ScheduleTables(), routes: func(a *App) Routes { return Routes{Admin: NewSchedules(a.Store).AdminRoutes()} }},
	{name: "dialers", routes: func(a *App) Routes { return Routes{Admin: a.dialer.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Second, "end leases of dialers", a.dialer.Lapse}}
	}},
	{name: "verification", routes: func(a *App) Routes {
		p := NewVerifier(a.Store, a.Keyring, a.Limiter)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "keys", tables: []Checked{KeyTable}, routes: func(a *App) Routes {
		p := NewAdmin(a.Store, a.Keyring, a.Limiter, a.keyRules())
		return Routes{Free: p.FreeRoutes(), Admin: p.AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{
			{time.Minute, "end earlier secrets", func(now time.Time) error { return a.Keyring.Sweep(a.clock.Earliest(now)) }},
			{a.config.Keys.LastUsedInterval, "store last uses", func(time.Time) error { return a.Keyring.Flush() }},
		}
	}},
	{name: "key import", routes: func(a *App) Routes {
		return Routes{Admin: NewKeyImport(a.Store, a.Keyring, NewKeyForm(a.Keyring, a.keyRules())).AdminRoutes()}
	}},
	{name: "observed limits", work: func(a *App) []work {
		return []work{{a.config.Keys.LastUsedInterval, "store what limits would refuse", func(now time.Time) error {
			return a.Limiter.Observed.Flush(a.clock.Service(now))
		}}}
	}},
	{name: "idempotency", tables: IdempotencyTables(), work: func(a *App) []work {
		return []work{{time.Minute, "forget requests", func(now time.Time) error {
			return errors.Join(SweepRequests(a.Store, now), SweepReplays(a.Store, now))
		}}}
	}},
	{name: "admin tokens", tables: TokenTables(), routes: func(a *App) Routes { return Routes{Admin: a.tokens.AdminRoutes()} }},
	{name: "notices", tables: NoticeTables(), work: func(a *App) []work {
		return []work{
			{time.Second, "store reached limits", func(time.Time) error { return a.notices.Flush() }},
			{time.Minute, "look for keys that expire", func(now time.Time) error { return a.notices.Expiring(a.clock.Latest(now)) }},
		}
	}},
	{name: "webhooks", tables: slices.Concat(WebhookTables(), OutboxTables()), routes: func(a *App) Routes {
		p := NewWebhookAdmin(a.Store, a.peppers, a.targets, a.Sender)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{{time.Minute, "sweep the outbox", func(now time.Time) error { return SweepOutbox(a.Store, now) }}}
	}},
	{name: "operators", tables: OperatorTables(), routes: func(a *App) Routes { return Routes{Admin: a.Operators.AdminRoutes()} }},
	{name: "sessions", tables: SessionTables(), work: func(a *App) []work {
		return []work{{time.Minute, "forget sessions", func(now time.Time) error { return a.sessions.Sweep(a.clock.Earliest(now)) }}}
	}},
	{name: "usage history", routes: func(a *App) Routes {
		return Routes{Admin: NewUsage(a.Store, a.Keyring, a.history).AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{
			{time.Minute, "sweep the usage history", a.history.Sweep},
			{a.config.Keys.LastUsedInterval, "store the usage history", func(time.Time) error { return a.history.Flush() }},
		}
	}},
	{name: "audit log", tables: AuditTables(), routes: func(a *App) Routes { return Routes{Admin: a.audit.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "tend the audit log", a.audit.Tend}}
	}},
	{name: "metrics", routes: func(a *App) Routes { return Routes{Admin: a.metrics.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "count the keys", func(now time.Time) error { return a.metrics.CountKeys(a.clock.Latest(now)) }}}
	}},
	{name: "backups", routes: func(a *App) Routes { return Routes{Admin: a.backups.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "scheduled backup", a.backups.Due}}
	}},
	{name: "status", routes: func(a *App) Routes { return Routes{Admin: a.status.AdminRoutes()} }},
	{name: "refusals", routes: func(a *App) Routes { return Routes{Admin: a.refusals.AdminRoutes()} }},
	{name: "explain", routes: func(a *App) Routes {
		routes := ExplainedRoutes{&a.routes, a.guards}
		return Routes{Admin: NewExplainer(ExplainerOptions{
			Store: a.Store, Keyring: a.Keyring, Limiter: a.Limiter, Routes: routes, QueryAllowed: a.config.Keys.QueryAllowed,
		}).AdminRoutes()}
	}},
	{name: "configuration", routes: func(a *App) Routes { return Routes{Admin: a.Reloader.AdminRoutes()} }},
	{name: "routes", routes: func(a *App) Routes { return Routes{Admin: NewRouteList(&a.routes, a.guards).AdminRoutes()} }},
}

// tables returns the tables of all parts.
func tables() []Checked {
	var all []Checked
	for _, p := range registry {
		all = append(all, p.tables...)
	}
	return all
}

// assemble collects the routes and the background work of parts. It returns an
// error if two parts have the same name or serve the same route.
func (a *App) assemble(parts []part) error {
	var problems []error
	named, served := map[string]bool{}, map[string]string{}
	for _, p := range parts {
		if named[p.name] {
			problems = append(problems, fmt.Errorf("two parts in app_registry.go are named %q; list a part once, and give another a name of its own", p.name))
			continue
		}
		named[p.name] = true
		if p.work != nil {
			a.work = append(a.work, p.work(a)...)
		}
		if p.routes == nil {
			continue
		}
		routes := p.routes(a)
		a.routes.Add(routes)
		for _, name := range routes.Names() {
			if other, taken := served[name]; taken {
				problems = append(problems, fmt.Errorf("%s is served by the part %q and by the part %q; list it once", name, other, p.name))
			}
			served[name] = p.name
		}
	}
	return errors.Join(problems...)
}
