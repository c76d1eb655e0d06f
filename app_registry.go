package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"latchkey/internal/certs"
	"latchkey/internal/smtpmail"
)

// part is a part of the service, an element of registry.
type part struct {
	name   string              // unique in registry
	klen   bool                // part of the Klen AI API, which contract.enabled = false leaves out
	tables []Checked           // the tables of the part, to be checked by CheckStore
	routes func(a *App) Routes // returns the routes of the part; nil if there are none
	work   func(a *App) []work // returns the background work of the part; nil if there is none
}

// work is a task that runs repeatedly while the data folder is open.
type work struct {
	every time.Duration             // the period
	what  string                    // names the task in the log if run returns an error
	by    worker                    // which nodes of a cluster do it
	run   func(now time.Time) error // does the task once; now is the time of the wall clock
}

// worker says which nodes of a cluster do a task. A server that is alone does all tasks.
type worker int

const (
	// oneNode means that the first running node does the task for all, because it is about records, which all nodes
	// have. When that node ends, another one is the first as soon as its lease is over. For a moment two nodes may do
	// the task, and a node that was paused goes on with it later. So the task must decide in the transaction of its
	// change what is to be done, not before.
	oneNode worker = iota + 1
	// eachNode means that each node does the task for itself, because it is about the memory, the clock, the log or the
	// files of that node.
	eachNode
)

// registry lists all parts of the service. To add a resource, add a part here. Tasks
// with the same period run in the order of this list.
//
// The tasks run while the data folder is open, even for a command that starts no server;
// see App.tend. The following loops are not in this list:
//
//   - Store.commitAll (store.go) commits queued changes while the store is open.
//   - Sender.Start (webhooks_sender.go) sends webhook deliveries. It starts in Serve. It
//     reads the outbox after each change and each Wake, and starts a goroutine for each
//     webhook with a delivery that is due.
//   - Mailer.Start (webhooks_mailer.go) sends mails. It starts in Serve and looks for mails
//     that are due at each Wake.
//   - Listeners.Serve (listen.go) accepts connections. It starts in Serve.
//     Listeners.tend checks the certificate files every 10 seconds. Connections.tend
//     (listen_room.go) closes connections without a valid key every second.
//   - Issuer.Run (internal/certs) requests missing ACME certificates. It starts in
//     Listeners.Serve. It tries every 2 minutes or less often until it has them all.
//   - Systemd.Watch (listen.go) notifies systemd twice in each WatchdogSec, as long as
//     the store can write. It starts in Serve.
//   - App.endRequests (app.go) ends requests that their key may no longer make. It runs every
//     0.3 seconds and waits for no other work.
//   - Pool.drop (internal/upstream/upstream.go) closes connections to upstreams that
//     were idle for 90 seconds or that the upstream has closed. It runs every 10
//     seconds while there are idle connections.
//   - reloadOnHangup (main.go) reloads the configuration at SIGHUP, while Serve runs.
var registry = []part{
	{name: "clock", work: func(a *App) []work {
		return []work{{time.Second, "check the wall clock", eachNode, func(time.Time) error { a.catch(); return nil }}}
	}},
	{name: "store", work: func(a *App) []work {
		return []work{{10 * time.Second, "check the database file", eachNode, func(time.Time) error { a.Store.CheckFile(); return nil }}}
	}},
	{name: "limits", work: func(a *App) []work {
		return []work{{time.Minute, "delete unused limit counters", eachNode, func(now time.Time) error { a.Limiter.Sweep(a.clock.Steady(now)); return nil }}}
	}},
	{name: "sender", work: func(a *App) []work {
		return []work{{time.Second, "start due webhook deliveries", oneNode, func(time.Time) error { a.Sender.Wake(); return nil }}}
	}},
	{name: "owners", tables: OwnerTables(), routes: func(a *App) Routes {
		return Routes{Admin: NewOwners(a.Store, a.Keyring, a.Limiter).AdminRoutes()}
	}},
	{name: "teams", klen: true, tables: TeamTables(), routes: func(a *App) Routes { return Routes{Admin: NewTeams(a.Store).AdminRoutes()} }},
	{name: "agents", klen: true, tables: AgentTables(), routes: func(a *App) Routes {
		p := NewAgents(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "numbers that may not be called", klen: true, tables: DoNotCallTables(), routes: func(a *App) Routes {
		return Routes{Admin: NewDoNotCalls(a.Store).AdminRoutes()}
	}},
	{name: "contacts", klen: true, tables: ContactTables(), routes: func(a *App) Routes {
		p := NewContacts(a.Store, a.contactWriters())
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "calls", klen: true, tables: CallTables(), routes: func(a *App) Routes { return Routes{Keyed: NewCalls(a.Store, a.Limiter).Routes()} }},
	{name: "calls for the operator", klen: true, routes: func(a *App) Routes { return Routes{Admin: NewAdminCalls(a.Store).AdminRoutes()} }},
	{name: "context variables", klen: true, tables: VariableTables(), routes: func(a *App) Routes {
		p := NewVariables(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "contexts", klen: true, routes: func(a *App) Routes {
		p := NewContexts(a.Store)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "calendar", klen: true, tables: EventTables(), routes: func(a *App) Routes {
		return Routes{Keyed: NewCalendar(a.Store, a.Limiter).Routes()}
	}, work: func(a *App) []work {
		return []work{{time.Second, "send reminders", oneNode, func(now time.Time) error { return FireReminders(a.Store, now) }}}
	}},
	{name: "events for the operator", klen: true, routes: func(a *App) Routes { return Routes{Admin: NewAdminEvents(a.Store).AdminRoutes()} }},
	{name: "availability", klen: true, routes: func(a *App) Routes { return Routes{Keyed: NewAvailability(a.Store).Routes()} }},
	{name: "iCalendar files", klen: true, routes: func(a *App) Routes { return Routes{Open: NewICS(a.Store).OpenRoutes()} }},
	{name: "schedules", klen: true, tables: ScheduleTables(), routes: func(a *App) Routes { return Routes{Admin: NewSchedules(a.Store).AdminRoutes()} }},
	{name: "dialers", klen: true, routes: func(a *App) Routes { return Routes{Admin: a.dialer.AdminRoutes()} }, work: func(a *App) []work {
		return []work{
			{time.Second, "end expired leases of dialers", oneNode, a.dialer.Lapse},
			{time.Second, "play out calls of sandboxes", oneNode, a.dialer.Play},
		}
	}},
	{name: "sandboxes", klen: true, tables: SandboxTables(), routes: func(a *App) Routes { return Routes{Admin: a.sandboxes.AdminRoutes()} }},
	{name: "verification", routes: func(a *App) Routes {
		p := NewVerifier(a.Store, a.Keyring, a.Limiter, a.history)
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}},
	{name: "keys", tables: []Checked{&KeyTable}, routes: func(a *App) Routes {
		p := NewAdmin(a.Store, a.Limiter, NewKeyTagger(a.Keyring, a.history, a.refusals), a.keyRules())
		return Routes{Free: p.FreeRoutes(), Admin: p.AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{
			{time.Minute, "end previous secrets", oneNode, func(now time.Time) error { return a.Keyring.Sweep(a.clock.Earliest(now)) }},
			{a.config.Keys.LastUsedInterval, "store the last uses of keys", eachNode, func(time.Time) error { return a.Keyring.Flush() }},
		}
	}},
	{name: "activity of keys", routes: func(a *App) Routes {
		return Routes{Admin: NewActivity(a.Store, a.Keyring).AdminRoutes()}
	}, work: func(a *App) []work {
		sweeper := NewActivitySweeper(a.Store)
		return []work{{time.Minute, "delete the old activity of keys", oneNode, sweeper.Sweep}}
	}},
	{name: "key import", routes: func(a *App) Routes {
		return Routes{Admin: NewKeyImport(a.Store, a.Keyring, NewKeyForm(a.Keyring, a.keyRules())).AdminRoutes()}
	}},
	{name: "files", routes: func(a *App) Routes { return Routes{Admin: NewApplier(a.Store, a.applyParts()).AdminRoutes()} }},
	{name: "observed limits", work: func(a *App) []work {
		return []work{{a.config.Keys.LastUsedInterval, "store the counts of observed limits", eachNode, func(now time.Time) error {
			return a.Limiter.Observed.Flush(a.clock.Steady(now))
		}}}
	}},
	{name: "idempotency", tables: IdempotencyTables(), work: func(a *App) []work {
		return []work{{time.Minute, "delete old idempotency keys", oneNode, func(now time.Time) error {
			now = a.clock.Earliest(now)
			return errors.Join(SweepRequests(a.Store, now), SweepReplays(a.Store, now))
		}}}
	}},
	{name: "admin tokens", tables: TokenTables(), routes: func(a *App) Routes { return Routes{Admin: a.tokens.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "find admin tokens that expire soon", oneNode, func(now time.Time) error { return NoticeTokens(a.Store, a.clock.Latest(now)) }}}
	}},
	{name: "storage", tables: StorageWatchTables(), work: func(a *App) []work {
		return []work{
			{time.Second, "check the free disk space", eachNode, a.storage.CheckDisk},
			{time.Minute, "find owners whose storage is nearly full", oneNode, a.storage.CheckOwners},
		}
	}},
	{name: "notices", tables: NoticeTables(), work: func(a *App) []work {
		return []work{
			{time.Second, "store events about reached limits", eachNode, func(time.Time) error { return a.notices.Flush() }},
			{time.Minute, "find keys that expire soon", oneNode, func(now time.Time) error { return a.notices.Expiring(a.clock.Latest(now)) }},
			{time.Minute, "find and pause unused keys", oneNode, func(now time.Time) error { return a.notices.Unused(a.clock.Latest(now)) }},
		}
	}},
	{name: "webhooks", tables: slices.Concat(WebhookTables(), OutboxTables()), routes: func(a *App) Routes {
		p := NewWebhookAdmin(a.Store, a.peppers, a.targets, a.Sender)
		if !a.config.Contract.Enabled {
			a.absent.Add(Routes{Keyed: p.Routes()})
			return Routes{Admin: p.AdminRoutes()}
		}
		return Routes{Keyed: p.Routes(), Admin: p.AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{{time.Minute, "delete old webhook deliveries", oneNode, func(now time.Time) error { return SweepOutbox(a.Store, now) }}}
	}},
	{name: "mails", tables: MailTables(), routes: func(a *App) Routes { return Routes{Admin: a.mailer.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{10 * time.Second, "send mails to the operators", oneNode, func(time.Time) error { a.mailer.Wake(); return nil }}}
	}},
	{name: "operators", tables: OperatorTables(), routes: func(a *App) Routes { return Routes{Admin: a.Operators.AdminRoutes()} }},
	{name: "sessions", tables: slices.Concat(SessionTables(), FactorTables()), routes: func(a *App) Routes {
		return Routes{Admin: slices.Concat(a.sessions.AdminRoutes(), a.accounts.AdminRoutes())}
	}, work: func(a *App) []work {
		return []work{{time.Minute, "delete expired sessions", oneNode, func(now time.Time) error { return a.sessions.Sweep(a.clock.Earliest(now)) }}}
	}},
	{name: "usage history", routes: func(a *App) Routes {
		return Routes{Admin: NewUsage(a.Store, a.Keyring, a.history).AdminRoutes()}
	}, work: func(a *App) []work {
		return []work{
			{time.Minute, "delete old usage history", oneNode, a.history.Sweep},
			{time.Minute, "delete old counts of requests per minute", oneNode, func(now time.Time) error { return a.history.SweepMinutes(a.clock.Steady(now)) }},
			{time.Minute, "forget which keys were at a limit", eachNode, func(now time.Time) error { a.history.Forget(now); return nil }},
			{a.config.Keys.LastUsedInterval, "store the usage history", eachNode, func(time.Time) error { return a.history.Flush() }},
		}
	}},
	{name: "limits to try", routes: func(a *App) Routes {
		return Routes{Admin: NewWhatIf(a.Store, a.Keyring, a.Limiter).AdminRoutes()}
	}},
	{name: "audit log", tables: AuditTables(), routes: func(a *App) Routes { return Routes{Admin: a.audit.AdminRoutes()} }, work: func(a *App) []work {
		return []work{
			{time.Minute, "record in the audit log how many refusals it has left out", eachNode, a.audit.RecordSkipped},
			{time.Minute, "delete old audit entries", oneNode, a.audit.Cut},
			{time.Minute, "log the head of the audit log", eachNode, a.audit.LogHead},
		}
	}},
	{name: "metrics", routes: func(a *App) Routes { return Routes{Admin: a.metrics.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "count the keys", eachNode, func(now time.Time) error { return a.metrics.CountKeys(a.clock.Latest(now)) }}}
	}},
	{name: "backups", routes: func(a *App) Routes { return Routes{Admin: a.backups.AdminRoutes()} }, work: func(a *App) []work {
		return []work{{time.Minute, "make a scheduled backup", oneNode, a.backups.Due}}
	}},
	{name: "status", routes: func(a *App) Routes { return Routes{Admin: a.status.AdminRoutes()} }},
	{name: "refusals", routes: func(a *App) Routes { return Routes{Admin: a.refusals.AdminRoutes()} }},
	{name: "requests", routes: func(a *App) Routes { return Routes{Admin: a.requests.AdminRoutes()} }},
	{name: "overview", routes: func(a *App) Routes {
		return Routes{Admin: NewOverview(OverviewOptions{
			Usage: NewUsage(a.Store, a.Keyring, a.history), Requests: a.requests, Tags: NewKeyTagger(a.Keyring, a.history, a.refusals), Backups: a.backups,
			Cluster: func() int { return a.cluster.faults() },
		}).AdminRoutes()}
	}},
	{name: "cluster", routes: func(a *App) Routes {
		return Routes{Admin: NewClusterView(a.Store, func() ClusterReporter { return a.cluster }).AdminRoutes()}
	}, work: func(a *App) []work { return a.cluster.work() }},
	{name: "explain", routes: func(a *App) Routes {
		routes := ExplainedRoutes{&a.routes, a.guards}
		return Routes{Admin: NewExplainer(ExplainerOptions{
			Store: a.Store, Keyring: a.Keyring, Limiter: a.Limiter, Routes: routes, QueryAllowed: a.config.Keys.QueryAllowed,
		}).AdminRoutes()}
	}},
	{name: "configuration", routes: func(a *App) Routes { return Routes{Admin: a.Reloader.AdminRoutes()} }},
	{name: "routes", routes: func(a *App) Routes { return Routes{Admin: NewRouteList(&a.routes, a.guards).AdminRoutes()} }},
}

// tables returns the tables of all parts in registry.
func tables() []Checked {
	var all []Checked
	for _, p := range registry {
		all = append(all, p.tables...)
	}
	return all
}

// naming returns how the names of the records of all tables are found.
func naming() (all []*Naming) {
	for _, t := range tables() {
		if n := t.Naming(); n != nil {
			all = append(all, n)
		}
	}
	return all
}

// assemble creates parts and adds their routes and background work to a. It returns an
// error if two parts have the same name or the same route.
func (a *App) assemble(parts []part) error {
	var problems []error
	named, served := map[string]bool{}, map[string]string{}
	for _, p := range parts {
		if named[p.name] {
			problems = append(problems, fmt.Errorf("two parts in app_registry.go are named %q; list each part once, under a unique name", p.name))
			continue
		}
		named[p.name] = true
		absent := p.klen && !a.config.Contract.Enabled
		if p.work != nil && !absent {
			for _, w := range p.work(a) {
				if w.by != oneNode && w.by != eachNode {
					problems = append(problems, fmt.Errorf("the work %q in app_registry.go does not say which nodes of a cluster do it", w.what))
				}
				a.work = append(a.work, w)
			}
		}
		if p.routes == nil {
			continue
		}
		routes := p.routes(a)
		if absent {
			a.absent.Add(routes)
			continue
		}
		a.routes.Add(routes)
		for _, name := range routes.Names() {
			if other, taken := served[name]; taken {
				problems = append(problems, fmt.Errorf("%s is served by the part %q and by the part %q; list it in one of them", name, other, p.name))
			}
			served[name] = p.name
		}
	}
	return errors.Join(problems...)
}

// openMailer makes the Mailer of the configuration.
func (a *App) openMailer() error {
	c := a.config.Mail
	o := MailerOptions{
		Store: a.Store, Clock: a.clock, Log: a.log, Password: func() (string, error) { return MailPassword(a.config) },
		Server: smtpmail.Server{Address: c.Server, Username: c.Username, Security: c.Security()},
		From:   c.From, To: c.To, Events: c.Events, Dashboard: a.config.Admin.BaseURL,
	}
	if c.CAFile != "" {
		roots, err := certs.ReadRoots(c.CAFile)
		if err != nil {
			return err
		}
		o.Server.Roots = roots
	}
	a.mailer = NewMailer(o)
	return nil
}
