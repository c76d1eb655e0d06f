// Latchkey puts API keys, permissions and limits in front of an HTTP API: one
// binary, one data folder, no database to install. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
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

	"latchkey/internal/clock"
)

func main() {
	// Otherwise a write to a closed pipe ends the program before it can say what was lost.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := Environment{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		Serve: serve, Open: open, CheckFile: CheckStoreFile,
		Restore: func(c Config, from string, dryRun, other bool) (Restored, error) {
			return RestoreApp(RestoreOptions{Config: c, Pepper: pepper(), From: from, DryRun: dryRun, Other: other, Now: time.Now()}, clock.NewClock())
		},
	}
	os.Exit(RunCommand(ctx, os.Args, env))
}

// pepper is the pepper itself where the environment gives it.
func pepper() string { return os.Getenv("LATCHKEY_KEYS_PEPPER") }

// open opens the data folder for one command, when no server has it.
func open(c Config) (http.Handler, func() error, error) {
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

// serve runs the service until the context ends.
func serve(ctx context.Context, o ServeOptions) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200) // half as many collections, for a heap of three instead of two times what is in use
	}
	if o.Demo {
		dir, err := os.MkdirTemp("", "latchkey-demo-")
		if err != nil {
			return fmt.Errorf("make the demo's folder: %w", err)
		}
		defer os.RemoveAll(dir)
		o.Config.Server.Data = dir
	}
	log, level := NewLog(o.Stderr, o.Config, IsTerminal(o.Stderr), os.Getenv("JOURNAL_STREAM") != "")
	a, err := OpenApp(AppOptions{Config: o.Config, Clock: clock.NewClock(), Create: true, Pepper: pepper(), Log: log})
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
		a.Server.ListensAt(baseURL(o.Config, api))
		announce(a, o, log, api, admin)
		if o.Demo {
			if seedErr = demo(ctx, a, o, [2]string{baseURL(o.Config, api), dashboardURL(o.Config, admin)}); seedErr != nil {
				stop() // nobody has a key to it
			}
		}
	})
	return errors.Join(seedErr, err)
}

// reloadOnHangup has the configuration loaded again on SIGHUP, until stop is
// called.
func reloadOnHangup(a *App, o ServeOptions, level *slog.LevelVar) (stop func()) {
	a.Reloader.From(func() (Config, error) {
		c, err := o.Load()
		if o.Demo {
			c.Server.Data = o.Config.Server.Data // a folder of its own
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

// demo fills the store with samples and shows how to ask for them, by the
// addresses of the two doors.
func demo(ctx context.Context, a *App, o ServeOptions, doors [2]string) error {
	h, err := a.Server.Admin(true)
	if err != nil {
		return err
	}
	made, err := SeedDemo(ctx, NewLocalClient(h), time.Now())
	if err != nil {
		return fmt.Errorf("fill the demo: %w", err)
	}
	err = PrintDemo(o.Stdout, doors[0], doors[1], made)
	return Kept(o.Stdout, err, "the key and the password of the demo", "The demo ends: start it again with a standard output that takes them.")
}

// firstOperator makes the operator that the environment names, where there is
// none yet.
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
	if any, err := a.Operators.Any(); err != nil || any {
		return err
	}
	if _, err := a.Operators.Create(Deed{Actor: "environment", Action: "create operator", Now: time.Now()}, name, password, ""); err != nil {
		return fmt.Errorf("LATCHKEY_ADMIN_NAME, LATCHKEY_ADMIN_PASSWORD: %s", Public(err).Message)
	}
	return nil
}

// dashboardURL is where browsers reach the dashboard: never the address for
// all of a machine's addresses, which is none to go to.
func dashboardURL(c Config, at net.Addr) string {
	if c.Admin.BaseURL != "" {
		return c.Admin.BaseURL
	}
	return hostURL(c, at, c.AdminTLS())
}

// announce tells where the doors are: five lines to people, a log line to
// programs. The set-up link is a secret, so it goes to people alone.
func announce(a *App, o ServeOptions, log *slog.Logger, api, admin net.Addr) {
	source := o.ConfigFile
	if source == "" {
		source = "defaults"
	}
	data, err := filepath.Abs(o.Config.Server.Data)
	if err != nil {
		data = o.Config.Server.Data
	}
	url := baseURL(o.Config, api)
	if !IsTerminal(o.Stdout) {
		log.Info("listening", "api", url, "api_addr", api.String(), "admin_addr", admin.String(), "data", data, "config", source)
		return
	}
	dashboard := dashboardURL(o.Config, admin)
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

// baseURL is where clients reach the API: what the config says, or else the
// address it listens on, with a name that a client can use.
func baseURL(c Config, api net.Addr) string {
	if c.Server.BaseURL != "" {
		return strings.TrimSuffix(c.Server.BaseURL, "/")
	}
	return hostURL(c, api, c.ServerTLS())
}

// hostURL is the address of a listener as one goes to it.
func hostURL(c Config, at net.Addr, t DoorTLS) string {
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
		host = c.ACME.Domains[0] // its certificates have no other
	}
	return scheme + net.JoinHostPort(host, port)
}
