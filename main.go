// Latchkey puts API keys, permissions and limits in front of an HTTP API: one
// binary, one data folder, no database to install. See README.md.
//
// The package is flat and its files come in families, named by their first
// word; layers_test.go has the families from the bottom up and checks that each
// uses only those below it:
//
//	errors system               codes of the API; operating systems
//	store                       bbolt: committer, transactions, tables, file
//	audit                       who did what
//	limits                      exact sliding windows
//	keys                        hashed keys, permissions
//	handlers                    what all endpoints share
//	guard owners                another API behind the checks; whose things are whose
//	server config webhooks      the order of the checks; settings; events out
//	agents contacts             the contract's resources,
//	calls calendar              and those that refer to them
//	admin                       the operator's endpoint
//	folder listen               the data folder; listeners
//	app                         every part in one table
//	main                        flags and wiring
//
// Clients of the admin endpoint are packages of their own: cli and dashboard.
// reference shows openapi.json as pages, internal has leaves that know nothing
// of keys or stores, tests drives the built program. docs/reading.md follows one
// request from the socket to the disk.
package main

import (
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
	_ "time/tzdata"

	"latchkey/cli"
	"latchkey/internal/clock"
)

func main() {
	// Otherwise a write to a closed pipe ends the program before it can report what was lost.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, os.Args, environment(os.Environ())))
}

// environment returns what the commands need from the process and the service.
func environment(environ []string) cli.Environment {
	return cli.Environment{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: environ, Version: ProgramVersion(),
		Words: cli.Words{
			Permissions: Permission(^uint64(0)).Names(), Ordinary: Ordinary.Names(),
			EventTypes: EventTypes(), OperatorEventTypes: OperatorEventTypes(), Outcomes: StatusClasses(), IsEnvironment: IsWord,
		},
		Load: func(file string, flags map[string]string) (cli.Service, error) {
			return loadService(file, environ, flags)
		},
		CheckFile: func(path string) (cli.CheckResult, error) {
			result, err := CheckStoreFile(path)
			return cli.CheckResult(result), err
		},
	}
}

// service is a loaded configuration. It is the cli.Service of the commands.
type service struct {
	config  Config
	sources Sources
	file    string                 // path of the loaded file, "" if there was none
	reload  func() (Config, error) // loads the configuration again
}

// loadService returns the service of the configuration that LoadConfig loads, or
// the error of LoadConfig.
func loadService(file string, environ []string, flags map[string]string) (service, error) {
	c, sources, err := LoadConfig(file, environ, flags)
	reload := func() (Config, error) {
		c, _, err := LoadConfig(file, environ, flags)
		return c, err
	}
	return service{config: c, sources: sources, file: file, reload: reload}, err
}

// DataDir returns the path of the data folder.
func (s service) DataDir() string { return s.config.Server.Data }

// APIURL returns the URL of the API according to the configuration, even if no
// server is running.
func (s service) APIURL() string {
	if s.config.Server.BaseURL == "" {
		return "http://" + s.config.Server.Listen
	}
	return strings.TrimSuffix(s.config.Server.BaseURL, "/")
}

// AdminURL returns the URL of the admin endpoint according to the configuration,
// even if no server is running.
func (s service) AdminURL() string {
	if s.config.Admin.BaseURL != "" {
		return s.config.Admin.BaseURL
	}
	scheme := "http://"
	if s.config.AdminTLS().On() {
		scheme = "https://"
	}
	return scheme + strings.Replace(s.config.Admin.Listen, "0.0.0.0", "localhost", 1)
}

// Print writes the configuration, each value with its source.
func (s service) Print(w io.Writer) error { return s.config.Print(w, s.sources) }

// Restore puts a backup into the data folder. It fails while a server has the
// folder open.
func (s service) Restore(o cli.RestoreOptions) (cli.Restored, error) {
	r, err := RestoreApp(RestoreOptions{Config: s.config, Pepper: pepper(), From: o.From, DryRun: o.DryRun, Other: o.Other, Now: time.Now()}, clock.NewClock())
	return cli.Restored{From: r.From, To: r.To, Kept: r.Kept, StoreID: r.StoreID, Keys: r.Keys, CreatedAt: r.CreatedAt, Check: cli.CheckResult(r.Check)}, err
}

// Compact rewrites the database without its free space and returns its size before
// and after, in bytes. It fails while a server has the data folder open.
func (s service) Compact() (before, after int64, err error) {
	return CompactStore(s.config.Server.Data, time.Now())
}

// pepper returns the pepper from the environment, or "" if it is not set there.
func pepper() string { return os.Getenv("LATCHKEY_KEYS_PEPPER") }

// Open opens the data folder for a command. It returns the admin endpoint and a
// function that closes the folder. It fails while a server has the folder open.
func (s service) Open() (http.Handler, func() error, error) {
	c := s.config
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: NewRedactor(c.Keys.Prefix).Attr}))
	a, err := OpenApp(AppOptions{Config: c, Clock: clock.NewClock(), Pepper: pepper(), Log: log})
	if err != nil {
		return nil, nil, err
	}
	h, err := a.Server.Admin(true)
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return h, a.Close, nil
}

// serveOptions are the service to run and the options of the serve command.
type serveOptions struct {
	service
	cli.ServeOptions
}

// Serve runs the service until the context ends.
func (s service) Serve(ctx context.Context, options cli.ServeOptions) (err error) {
	o := serveOptions{s, options}
	if os.Getenv("GOGC") == "" {
		// Half as many collections; the heap grows to three times the live data,
		// instead of two.
		debug.SetGCPercent(200)
	}
	if o.Demo {
		dir, err := os.MkdirTemp("", "latchkey-demo-")
		if err != nil {
			return fmt.Errorf("make the demo's folder: %w", err)
		}
		defer os.RemoveAll(dir)
		o.config.Server.Data = dir
	}
	log, level := NewLog(o.Stderr, o.config, cli.IsTerminal(o.Stderr), os.Getenv("JOURNAL_STREAM") != "")
	a, err := OpenApp(AppOptions{Config: o.config, Clock: clock.NewClock(), Create: true, Pepper: pepper(), Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	var seedErr error
	if err := firstOperator(a); err != nil {
		return err
	}
	defer reloadOnHangup(a, o, level)()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = a.Serve(ctx, func(api, admin net.Addr) {
		a.Server.ListensAt(baseURL(o.config, api))
		announce(a, o, log, api, admin)
		if o.Demo {
			if seedErr = demo(ctx, a, o, [2]string{baseURL(o.config, api), dashboardURL(o.config, admin)}); seedErr != nil {
				stop() // the demo is useless: nobody has its key
			}
		}
	})
	return errors.Join(seedErr, err)
}

// reloadOnHangup reloads the configuration and the certificates on each SIGHUP
// until stop is called. Call stop once.
func reloadOnHangup(a *App, o serveOptions, level *slog.LevelVar) (stop func()) {
	a.Reloader.From(func() (Config, error) {
		c, err := o.reload()
		if o.Demo {
			c.Server.Data = o.config.Server.Data // the demo's temporary folder
		}
		return c, err
	}, level)
	hangup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-hangup:
				a.Reload()
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(done)
	}
}

// demo fills the store with samples and prints how to request them. addresses are the
// URLs of the API and of the dashboard.
func demo(ctx context.Context, a *App, o serveOptions, addresses [2]string) error {
	h, err := a.Server.Admin(true)
	if err != nil {
		return err
	}
	made, err := cli.SeedDemo(ctx, cli.NewLocalClient(h), Ordinary.Names(), time.Now())
	if err != nil {
		return fmt.Errorf("fill the demo: %w", err)
	}
	err = cli.PrintDemo(o.Stdout, addresses[0], addresses[1], made)
	return cli.Kept(o.Stdout, err, "the key and the password of the demo", "The demo ends: start it again with a standard output that takes them.")
}

// firstOperator creates the operator that the environment names, if there is no
// operator yet. It returns an error if only a name or only a password is set.
func firstOperator(a *App) error {
	name, password := os.Getenv("LATCHKEY_ADMIN_NAME"), os.Getenv("LATCHKEY_ADMIN_PASSWORD")
	if file := os.Getenv("LATCHKEY_ADMIN_PASSWORD_FILE"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("LATCHKEY_ADMIN_PASSWORD_FILE: %w", err)
		}
		password = strings.TrimRight(string(data), "\r\n")
	}
	if name == "" && password == "" {
		return nil
	}
	if name == "" || password == "" {
		return errors.New("LATCHKEY_ADMIN_NAME and LATCHKEY_ADMIN_PASSWORD (or LATCHKEY_ADMIN_PASSWORD_FILE) go together; set both, or neither")
	}
	if exists, err := a.Operators.Any(); err != nil || exists {
		return err
	}
	if _, err := a.Operators.Create(AuditContext{Actor: "environment", Action: "create operator", Now: time.Now()}, name, password, ""); err != nil {
		return fmt.Errorf("LATCHKEY_ADMIN_NAME, LATCHKEY_ADMIN_PASSWORD: %s", Public(err).Message)
	}
	return nil
}

// dashboardURL returns the URL at which browsers reach the dashboard. It is the URL
// of the config, if set, else that of hostURL for the listener's address at.
func dashboardURL(c Config, at net.Addr) string {
	if c.Admin.BaseURL != "" {
		return c.Admin.BaseURL
	}
	return hostURL(c, at, c.AdminTLS())
}

// announce prints the addresses of the service: five lines if standard output is a
// terminal, else one log line. The set-up link is a secret, so only the terminal
// shows it.
func announce(a *App, o serveOptions, log *slog.Logger, api, admin net.Addr) {
	source := o.file
	if source == "" {
		source = "defaults"
	}
	data, err := filepath.Abs(o.config.Server.Data)
	if err != nil {
		data = o.config.Server.Data
	}
	url := baseURL(o.config, api)
	if !cli.IsTerminal(o.Stdout) {
		log.Info("listening", "api", url, "api_addr", api.String(), "admin_addr", admin.String(), "data", data, "config", source)
		return
	}
	dashboard := dashboardURL(o.config, admin)
	next := "Log in     " + dashboard + "/login"
	if o.Demo {
		next = "Log in     as below"
	} else if token, err := a.Operators.SetupToken(a.Deed("make set-up link")); err == nil {
		next = "Set up     " + dashboard + SetupPath(token)
	}
	_, err = fmt.Fprintf(o.Stdout, "API        %s/api/v1\nDashboard  %s\n%s\nData       %s\nConfig     %s\n", url, dashboard, next, data, source)
	if err != nil {
		log.Warn("print the addresses; for another set-up link run \"latchkey admin setup-link\"", "error", err, "api", url, "dashboard", dashboard)
	}
}

// baseURL returns the URL at which clients reach the API. It is the URL of the
// config, if set, else that of hostURL for the listener's address api.
func baseURL(c Config, api net.Addr) string {
	if c.Server.BaseURL != "" {
		return strings.TrimSuffix(c.Server.BaseURL, "/")
	}
	return hostURL(c, api, c.ServerTLS())
}

// hostURL returns the URL of a listener at address at. It has localhost in place of
// 0.0.0.0 or [::], which are no addresses for clients. If t uses ACME, it has the
// first ACME domain of the config.
func hostURL(c Config, at net.Addr, t ListenerTLS) string {
	scheme := "http://"
	if t.On() {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(at.String())
	if err != nil {
		return scheme + at.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if t.ACME {
		host = c.ACME.Domains[0] // its certificates are valid only for these names
	}
	return scheme + net.JoinHostPort(host, port)
}
