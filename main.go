// Latchkey puts API keys, permissions and limits in front of an HTTP API: one
// binary, one data folder, no database to install. See README.md.
//
// The files of this package are grouped in families. The first word of a file's name
// is its family. A family uses only families below its own. layers_test.go lists them
// from the bottom up and checks this rule. The families are:
//
//	errors system               error codes of the API; operating systems
//	store                       bbolt: committer, transactions, tables, file
//	audit                       the log of who did what
//	limits                      limits with exact sliding windows
//	keys                        hashed keys, permissions
//	handlers                    code that all endpoints share
//	guard owners                routes of another API; owners and teams
//	server config webhooks      the checks of a request; settings; events to other servers
//	agents contacts             resources of the API
//	calls calendar              resources that refer to agents and contacts
//	admin                       the endpoints of the operator
//	folder listen               the data folder; listeners
//	app                         the list of all parts, and how they are connected
//	main                        what the commands need from the process
//
// The packages cli and dashboard are clients of the admin endpoint. The package
// reference shows openapi.json as pages. The packages in internal do not depend on any
// other package of Latchkey outside internal. The package tests tests the built
// program. docs/reading.md follows one request from the socket to the disk.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"latchkey/cli"
	"latchkey/internal/clock"
	"latchkey/internal/cluster"
	"latchkey/internal/hangup"
	"latchkey/internal/logqueue"
	"latchkey/internal/secrettext"
)

func main() {
	// Without this, a write to a closed pipe ends the program before it can report that
	// its output was lost.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if hangup.Signals == nil { // the command is not serve
		context.AfterFunc(ctx, stop) // a second Ctrl+C ends a command at once
	}
	os.Exit(cli.Run(ctx, os.Args, environment(os.Environ(), hangup.Signals)))
}

// environment returns the cli.Environment of this process. environ is the list of
// environment variables, in the form of os.Environ. hangups receives the SIGHUPs at which
// serve reloads its configuration; nil: there are none.
func environment(environ []string, hangups <-chan os.Signal) cli.Environment {
	return cli.Environment{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: environ, Version: ProgramVersion(),
		Words: cli.Words{
			Permissions: Permission(^uint64(0)).Names(), Ordinary: Ordinary.Names(),
			EventTypes: EventTypes(), OperatorEventTypes: OperatorEventTypes(), Outcomes: StatusClasses(), IsEnvironment: IsWord, Roles: GrantNames(Roles()),
		},
		Load: func(file string, flags map[string]string) (cli.Service, error) {
			s, err := loadService(file, environ, flags)
			s.hangups = hangups
			return s, err
		},
	}
}

// service is a loaded configuration. It implements cli.Service for the commands.
type service struct {
	config  Config
	sources Sources                 // where each value of config was set
	file    string                  // path of the configuration file; "" if none was read
	reload  func() (service, error) // loads the configuration again from the same sources
	hangups <-chan os.Signal        // receives SIGHUPs; nil: there are none
}

// installation has the paths of a package: its configuration file, and the data folder
// and the pepper that the package uses unless a setting names others. All are "" if the
// program was not installed by a package.
type installation struct{ config, data, pepper string }

// installedBy returns the paths of the package that has installed the program at path. A
// package installs it as /usr/bin/latchkey, or below another root folder, together with
// its configuration file. So every command uses the same files as the service.
func installedBy(program string) installation {
	root, ok := strings.CutSuffix(filepath.ToSlash(program), "/usr/bin/latchkey")
	at := installation{config: root + "/etc/latchkey/config.toml", data: root + "/var/lib/latchkey", pepper: root + "/etc/latchkey/pepper"}
	if _, err := os.Stat(at.config); !ok || err != nil {
		return installation{}
	}
	return at
}

// complete sets the data folder and the pepper file to those of the package where c has
// the defaults. The pepper of the package is used only for the package's data folder.
func (at installation) complete(c *Config, sources Sources) {
	if sources["server.data"] == "default" {
		c.Server.Data, sources["server.data"] = at.data, "package"
	}
	if sources["keys.pepper_file"] == "default" && filepath.Clean(c.Server.Data) == at.data {
		c.Keys.PepperFile, sources["keys.pepper_file"] = at.pepper, "package"
	}
}

// loadService loads a configuration and returns a service with it. The parameters and
// the error are those of LoadConfig. A program of a package uses the configuration file
// of the package if file is "".
func loadService(file string, environ []string, flags map[string]string) (service, error) {
	program, _ := os.Executable() // if the path is not known, no package has installed it
	at := installedBy(program)
	if file == "" {
		file = at.config
	}
	c, sources, err := LoadConfig(file, environ, flags)
	if err == nil && file != "" && file == at.config {
		at.complete(&c, sources)
	}
	reload := func() (service, error) { return loadService(file, environ, flags) }
	return service{config: c, sources: sources, file: file, reload: reload}, err
}

// usualFile is the name of the configuration file in the documentation. A service without a file does not read it.
const usualFile = "latchkey.toml"

// File returns the path of the configuration file, or "" if none is read.
func (s service) File() string { return s.file }

// Rows returns how many routes, permissions and limits the configuration has in [[...]] sections.
func (s service) Rows() (routes, permissions, limits int) {
	return len(s.config.Routes), len(s.config.Permissions), len(s.config.Limits) + len(s.config.Concurrent)
}

// Check checks the configuration, see ConfigCheck, and the variables with the name and the
// password of the first operator.
func (s service) Check() (warnings []string, err error) {
	check := ConfigCheck{Config: s.config, Sources: s.sources, Pepper: pepper(), Now: time.Now(), WayIn: s.wayIn}
	warnings, err = check.Run()
	_, _, unset := firstCredentials()
	if info, err := os.Stat(usualFile); s.file == "" && err == nil && info.Mode().IsRegular() {
		warnings = append(warnings, usualFile+" in this folder is not read; name it with --config or LATCHKEY_CONFIG if it is meant")
	}
	return append(warnings, PasskeyWarnings(s.AdminURL(), s.passkeyHosts())...), errors.Join(err, unset)
}

// passkeyHosts returns how many passkeys are stored, for each host name that they were made for. It asks
// the server, or reads the database if none is running. If neither can be done, it returns nil: that
// is no fault of the configuration.
func (s service) passkeyHosts() map[string]int {
	var answer struct {
		Factors []struct{ Host string }
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client := cli.NewSocketClient((&DataDir{Path: s.config.Server.Data}).Socket())
	if client.Do(ctx, cli.Request{Method: http.MethodGet, Path: "/admin/v1/factors"}, &answer) != nil {
		hosts, _ := PasskeyHosts(s.config.Server.Data)
		return hosts
	}
	hosts := map[string]int{}
	for _, f := range answer.Factors {
		if f.Host != "" {
			hosts[f.Host]++
		}
	}
	return hosts
}

// wayIn reports whether an admin has logged in without a password before. It asks the server if one is
// running, which has the database open, and otherwise reads the database.
func (s service) wayIn() (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	folder := DataDir{Path: s.config.Server.Data}
	client := cli.NewSocketClient(folder.Socket())
	if !client.Alive(ctx) {
		return HasWayIn(s.config, pepper())
	}
	var list struct {
		Operators []struct {
			Role, Status string
			Passwordless bool
			Issuer       *string
		}
	}
	if err := client.Do(ctx, cli.Request{Method: http.MethodGet, Path: "/admin/v1/operators"}, &list); err != nil {
		return false, err
	}
	for _, op := range list.Operators {
		// Who has logged in without a password, and not by single sign-on, has a passkey.
		if op.Passwordless && op.Role == RoleAdmin && op.Status == "active" && (op.Issuer == nil || *op.Issuer == s.config.Admin.OIDC.Issuer) {
			return true, nil
		}
	}
	return false, nil
}

// Notes returns sentences about the configuration that an operator needs elsewhere.
func (s service) Notes() []string {
	if address := s.config.RedirectURL(); address != "" {
		return []string{"Single sign-on: enter " + address + " as the redirect address at the provider, and " + s.config.Admin.BaseURL + "/login as the one after a logout."}
	}
	return nil
}

// DataDir returns the path of the data folder.
func (s service) DataDir() string { return s.config.Server.Data }

// APIURL returns the URL of the API according to the configuration. No server has to be
// running.
func (s service) APIURL() string {
	if s.config.Server.BaseURL == "" {
		return "http://" + s.config.Server.Listen
	}
	return strings.TrimSuffix(s.config.Server.BaseURL, "/")
}

// AdminURL returns the URL of the admin endpoint according to the configuration. No
// server has to be running.
func (s service) AdminURL() string {
	return s.config.DashboardURL(s.config.Admin.Listen)
}

// Overlaps returns one text for each pair of routes that FindOverlaps finds.
func (s service) Overlaps() []string {
	list := []string{}
	for _, o := range FindOverlaps(s.config.Routes, s.config.Rights()) {
		list = append(list, o.String())
	}
	return list
}

// Print writes the configuration to w, each value with its source.
func (s service) Print(w io.Writer) error { return s.config.Print(w, s.sources) }

// Restore replaces the database with a backup, see RestoreStore. It returns an error if a
// server has the data folder open.
func (s service) Restore(o cli.RestoreOptions) (cli.Restored, error) {
	r, err := RestoreApp(RestoreAppOptions{
		RestoreOptions: RestoreOptions{Config: s.config, Pepper: pepper(), From: o.From, DryRun: o.DryRun, Other: o.Other, Unverified: o.Unverified, Now: time.Now(), Progress: Progress(o.Progress)},
		Exactly:        o.Exactly, SendWebhooks: o.SendWebhooks,
	})
	return cli.Restored{From: r.From, To: r.To, Kept: r.Kept, StoreID: r.StoreID, Keys: r.Keys, CreatedAt: r.CreatedAt, Check: cli.CheckResult(r.Check), Carried: r.Carried, NotCarried: r.NotCarried, Gone: r.Gone, WebhooksHeld: r.WebhooksHeld}, err
}

// CheckFile checks the database file at path, see CheckStoreFile.
func (s service) CheckFile(path string, progress cli.Progress) (cli.CheckResult, error) {
	result, err := CheckStoreFile(path, s.config, pepper(), Progress(progress))
	return cli.CheckResult(result), err
}

// Repair makes the indexes and lists of the database anew, see RepairStore.
func (s service) Repair(progress cli.Progress) (cli.CheckResult, error) {
	result, err := RepairStore(s.config, pepper(), Progress(progress))
	return cli.CheckResult(result), err
}

// Compact rewrites the database without its free space. It returns the size of the file
// before and after, in bytes. It returns an error if a server has the data folder open.
func (s service) Compact(progress cli.Progress) (before, after int64, err error) {
	return CompactStore(s.config.Server.Data, time.Now(), Progress(progress))
}

// ClusterInit creates the store of a cluster, see InitCluster.
func (s service) ClusterInit(ctx context.Context, o cli.ClusterInitOptions) (cli.ClusterInit, error) {
	commands, err := ClusterCommands(s.config.Cluster)
	if err != nil {
		return cli.ClusterInit{}, err
	}
	made, err := commands.Create(ctx, ClusterInitOptions{
		Access: ClusterAccess{Config: s.config.Cluster}, Config: s.config, Pepper: pepper(), From: o.From, Clock: clock.NewClock(), Progress: Progress(o.Progress),
	})
	return cli.ClusterInit(made), err
}

// ClusterNodes returns the nodes of the cluster.
func (s service) ClusterNodes(ctx context.Context) ([]cli.ClusterNode, error) {
	commands, err := ClusterCommands(s.config.Cluster)
	if err != nil {
		return nil, err
	}
	nodes, err := commands.Nodes(ctx, s.config.Cluster)
	list, common := []cli.ClusterNode{}, cluster.CommonConfig(nodes)
	for _, n := range nodes {
		list = append(list, cli.ClusterNode{
			Name: n.Name, Running: n.Running, Host: n.Host, Version: n.Version, Format: n.Format, Started: n.Started, Config: n.Config, Differs: n.Differs(common),
		})
	}
	return list, err
}

// ClusterRemove removes a node from the cluster.
func (s service) ClusterRemove(ctx context.Context, name string) error {
	commands, err := ClusterCommands(s.config.Cluster)
	if err != nil {
		return err
	}
	return commands.Remove(ctx, s.config.Cluster, name)
}

// pepper returns the value of the environment variable LATCHKEY_KEYS_PEPPER, or "" if it
// is not set.
func pepper() string { return os.Getenv("LATCHKEY_KEYS_PEPPER") }

// Open opens the data folder for a command. It returns a handler of the admin endpoint
// that requires no token, and a function that closes the folder. It returns an error if
// a server has the folder open.
func (s service) Open() (http.Handler, func() error, error) {
	c := s.config
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: NewRedactor(c.Keys.Prefix).Attr}))
	a, err := OpenApp(AppOptions{Config: c, Clock: clock.NewClock(), Pepper: pepper(), Log: log})
	if err != nil {
		return nil, nil, err
	}
	h, err := a.Server.LocalAdmin()
	if err = errors.Join(err, a.AwaitServing()); err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return h, a.Close, nil
}

// serveOptions contains the service to run and the options of the serve command.
type serveOptions struct {
	service
	cli.ServeOptions
	log   *slog.Logger
	flush func(patience time.Duration) // writes the log lines that wait, see logqueue.Queue.Flush
}

// logLimit is the number of bytes of log lines that wait for a slow reader of the log.
const logLimit = 1 << 20

// logPatience is how long the end of the program waits until the log is written.
const logPatience = 2 * time.Second

// Serve opens the data folder, starts the listeners and serves requests until ctx ends
// or serving fails. It returns nil if ctx ended and all requests were finished.
func (s service) Serve(ctx context.Context, options cli.ServeOptions) error {
	o := serveOptions{service: s, ServeOptions: options}
	if os.Getenv("GOGC") == "" {
		// Go's default is 100. With 200 there are about half as many garbage
		// collections, and the heap may grow to three times the live data, not two.
		debug.SetGCPercent(200)
	}
	sink := LogSink{Terminal: cli.IsTerminal(o.Stderr), Journal: os.Getenv("JOURNAL_STREAM") != ""}
	lines := logqueue.New(o.Stderr, logLimit, func(lost uint64) []byte { return lostLines(o.config, sink, lost) })
	log := NewLog(lines, o.config, sink)
	o.log, o.flush = log.Logger, lines.Flush
	defer lines.Close(logPatience) // also if this goroutine panics
	err := o.run(ctx, log)
	if !lines.Close(logPatience) && err != nil {
		// Nobody reads standard error, so the caller's message would block the process.
		os.Exit(1)
	}
	return err
}

// startProgress returns a Progress for the start of the service, which ends with the error of ctx. It tells the service
// manager every 10 seconds that the start goes on.
func startProgress(ctx context.Context, log *slog.Logger) (Progress, error) {
	manager, err := NewSystemd(log)
	if err != nil {
		return nil, err
	}
	var told time.Time
	return func(step string, done, total int64) error {
		if now := time.Now(); now.Sub(told) >= 10*time.Second {
			told = now
			status := "migrating the database: " + step
			if total > 0 {
				status += fmt.Sprintf(", %d of %d", done, total)
			}
			manager.Starting(status)
		}
		return ctx.Err()
	}, nil
}

// lostLines returns the log line with the number of lost log lines.
func lostLines(c Config, sink LogSink, lost uint64) []byte {
	var line bytes.Buffer
	c.Log.Level = "info"
	log := NewLog(&line, c, sink)
	log.Warn("log lines were lost, because the log was not read in time or could not be written", "lines", lost)
	return line.Bytes()
}

// run is Serve with a log.
func (o serveOptions) run(ctx context.Context, log *Log) (err error) {
	if o.Demo && !o.config.Contract.Enabled {
		return errors.New("--demo shows the Klen AI API, but contract.enabled is false; start the demo without this setting")
	}
	if o.Demo {
		dir, err := os.MkdirTemp("", "latchkey-demo-")
		if err != nil {
			return fmt.Errorf("create the data folder of the demo: %w", err)
		}
		defer os.RemoveAll(dir)
		_, _ = fmt.Fprintln(o.Stdout, "Starting the demo, with a new store and sample data in "+dir) // on a slow disk that takes seconds
		o.config.Server.Data = dir
		o.config.Keys.PepperFile, o.config.Keys.RetiredPepperFiles = "", nil
	}
	warnings, err := o.Check()
	if err != nil {
		return err
	}
	warn(o.log, warnings)
	if _, err := os.Stat(o.config.Server.Data); errors.Is(err, os.ErrNotExist) && os.Getenv("LISTEN_FDS") == "" {
		if err := TryAddresses(o.config); err != nil {
			return err
		}
	}
	progress, err := startProgress(ctx, log.Logger)
	if err != nil {
		return err
	}
	a, err := OpenApp(AppOptions{Config: o.config, Clock: clock.NewClock(), Create: true, Pepper: pepper(), Log: log.Logger, Access: log.Access, Demo: o.Demo, Progress: progress})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		log.Warn("the service was stopped before it had started; the next start goes on", "because", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	var seedErr error
	if err := firstOperator(a); err != nil {
		return err
	}
	a.Reloader.From(o.again, log.Level)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = a.Serve(ctx, func(api, admin net.Addr) {
		go reloadOnHangup(ctx, a, o.hangups)
		a.Server.ListensAt(o.config.APIURL(api.String()))
		a.Operators.DashboardAt(o.config.DashboardURL(admin.String()))
		a.Passkeys.At(o.config.DashboardURL(admin.String()))
		hosts, err := a.Passkeys.Stored()
		if err != nil {
			log.Error("the passkeys could not be counted", "error", err)
		}
		for _, warning := range PasskeyWarnings(o.config.DashboardURL(admin.String()), hosts) {
			log.Warn(warning)
		}
		o.announce(a, api, admin)
		o.advise(a)
		go debug.FreeOSMemory() // the start leaves more garbage than an idle service would ever collect
		if o.Demo {
			if seedErr = demo(ctx, a, o, log.Level, [2]string{o.config.APIURL(api.String()), o.config.DashboardURL(admin.String())}); seedErr != nil {
				stop() // the demo cannot be used, because nobody has its key
			}
		}
	})
	if err = errors.Join(seedErr, err); err == nil {
		log.Info("stopped", "version", ProgramVersion())
	}
	return err
}

// again loads and checks the configuration again, for a reload.
func (o serveOptions) again() (Config, error) {
	s, err := o.reload()
	if err != nil {
		return Config{}, err
	}
	if o.Demo {
		s.config.Server.Data = o.config.Server.Data // the temporary folder of the demo
		s.config.Keys.PepperFile, s.config.Keys.RetiredPepperFiles = "", nil
	}
	warnings, err := s.Check()
	warn(o.log, warnings)
	return s.config, err
}

// warn logs the warnings of a check of the configuration.
func warn(log *slog.Logger, warnings []string) {
	for _, warning := range warnings {
		log.Warn("the configuration has a value that is probably a mistake", "warning", warning)
	}
}

// reloadOnHangup reloads the configuration and the certificates at each signal in hangups,
// until ctx ends. A signal that arrived before this call counts too.
func reloadOnHangup(ctx context.Context, a *App, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			a.Reload()
		}
	}
}

// demo adds sample data to the store and prints example requests, with a key and a
// password. addresses are the URL of the API and the URL of the dashboard. The requests that add
// the data are not logged, so that nothing hides what is printed. demo returns an error if the key
// and the password could not be printed.
func demo(ctx context.Context, a *App, o serveOptions, level *slog.LevelVar, addresses [2]string) error {
	h, err := a.Server.LocalAdmin()
	if err != nil {
		return err
	}
	usual := level.Level()
	level.Set(max(usual, slog.LevelWarn))
	defer level.Set(usual)
	made, err := cli.SeedDemo(ctx, cli.NewLocalClient(h), Ordinary.Names(), time.Now())
	if err != nil {
		return fmt.Errorf("add the sample data of the demo: %w", err)
	}
	o.flush(logPatience)
	err = cli.PrintDemo(o.Stdout, addresses[0], addresses[1], made)
	return cli.Kept(o.Stdout, err, "the key and the password of the demo", "The demo ends. Start it again with a standard output that can be written.")
}

// firstOperator creates the operator whose name and password are set in environment
// variables. It does nothing if they are not set or if there is an operator already.
func firstOperator(a *App) error {
	name, password, err := firstCredentials()
	if err != nil || name == "" {
		return err
	}
	if exists, err := a.Operators.Any(); err != nil || exists {
		return err
	}
	if err := a.Operators.CreateInitial(AuditContext{Actor: "environment", Action: "create operator", Now: time.Now()}, name, password); err != nil {
		return fmt.Errorf("LATCHKEY_ADMIN_NAME, LATCHKEY_ADMIN_PASSWORD: %s", Public(err).Message)
	}
	return nil
}

// firstCredentials returns the name and the password of the first operator, or "" if they are
// not set. It returns an error if only one of them is set, or if the password cannot be read.
func firstCredentials() (name, password string, err error) {
	name = os.Getenv("LATCHKEY_ADMIN_NAME")
	if password, err = firstPassword(); err != nil {
		return "", "", err
	}
	if (name == "") != (password == "") {
		return "", "", errors.New("LATCHKEY_ADMIN_NAME and LATCHKEY_ADMIN_PASSWORD (or LATCHKEY_ADMIN_PASSWORD_FILE) must be set together; set both or neither")
	}
	return name, password, nil
}

// firstPassword returns the password of the first operator from the file or the variable
// that contains it, or "" if neither is set.
func firstPassword() (string, error) {
	if file := os.Getenv("LATCHKEY_ADMIN_PASSWORD_FILE"); file != "" {
		return secrettext.Password.ReadFile("LATCHKEY_ADMIN_PASSWORD_FILE", file, nil)
	}
	value := os.Getenv("LATCHKEY_ADMIN_PASSWORD")
	if value == "" {
		return "", nil
	}
	return secrettext.Password.FromVariable("LATCHKEY_ADMIN_PASSWORD", value)
}

// announce prints the addresses of the service: five lines if standard output is a
// terminal, else one log line. The set-up link is a secret, so only the terminal
// shows it.
func (o serveOptions) announce(a *App, api, admin net.Addr) {
	source := o.file
	if source == "" {
		source = "defaults"
	}
	data, err := filepath.Abs(o.config.Server.Data)
	if err != nil {
		data = o.config.Server.Data
	}
	url := o.config.APIURL(api.String())
	if !cli.IsTerminal(o.Stdout) {
		o.log.Info("listening", "version", ProgramVersion(), "api", url, "api_addr", api.String(), "admin_addr", admin.String(), "data", data, "config", source)
		o.flush(0) // a script that has started the service may wait for this line
		return
	}
	dashboard := o.config.DashboardURL(admin.String())
	next := "Log in     " + dashboard + "/login"
	if o.Demo {
		next = "Log in     see below"
	} else if token, err := a.Operators.SetupToken(a.Deed("make set-up link")); err == nil {
		next = "Set up     " + dashboard + SetupPath(token)
	}
	_, err = fmt.Fprintf(o.Stdout, "API        %s\nDashboard  %s\n%s\nData       %s\nConfig     %s\n", apiBase(o.config, url), dashboard, next, data, source)
	if err != nil {
		o.log.Warn("the addresses could not be printed; to get another set-up link, run \"latchkey admin setup-link\"", "error", err, "api", url, "dashboard", dashboard)
	}
}

// advise logs how the first operator is created, unless there is one or announce has printed the set-up link.
func (o serveOptions) advise(a *App) {
	if o.Demo || cli.IsTerminal(o.Stdout) {
		return
	}
	if exists, err := a.Operators.Any(); err == nil && !exists {
		o.log.Info("nobody can log in to the dashboard yet, because there is no operator; create a link with: latchkey admin setup-link")
	}
}

// apiBase returns the URL that the paths of the API begin with. url is the URL of its listener.
// Without the Klen AI API the paths are those of the guarded routes.
func apiBase(c Config, url string) string {
	if !c.Contract.Enabled {
		return url
	}
	return url + "/api/v1"
}
