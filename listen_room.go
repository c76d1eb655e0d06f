package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"latchkey/internal/conns"
)

// firstKeyTime is how long a connection may stay idle without a request with a valid key, counted
// from its beginning.
const firstKeyTime = 10 * time.Second

// unknownFiles is the assumed limit of open files if the real one is not known.
const unknownFiles = 16384

// usualConnections is the largest number of connections to the API that Latchkey derives from the
// limit of open files. Each idle connection takes about 20 KB.
const usualConnections = 32768

// fileShares divides the limit of open files.
type fileShares struct {
	Limit  int // the whole
	Admin  int // connections of the admin listener
	Socket int // connections of the control socket
	ACME   int // connections of the listener for ACME challenges
	API    int // connections of the API listener, and connections to upstreams
}

// shareFiles divides the limit of open files. What is not in a share is for the database, the log,
// backups, webhooks and name servers. 0 means that the limit is not known.
func shareFiles(limit int) fileShares {
	if limit <= 0 {
		limit = unknownFiles
	}
	part := func(n, least, most int) int { return min(max(limit/n, least), most) }
	s := fileShares{Limit: limit, Admin: part(16, 8, 1024), Socket: part(32, 8, 256), ACME: part(32, 8, 256)}
	s.API = max(limit-s.Admin-s.Socket-s.ACME-part(8, 32, 1024), 8)
	return s
}

// Connections bounds the open connections of all listeners. It is safe for concurrent use.
type Connections struct {
	o                        ConnectionsOptions
	set                      *conns.Set
	api, admin, socket, acme *conns.Group // acme is nil if no listener uses ACME
	shares                   fileShares
	logged                   time.Time // when tend last logged closed connections; only tend uses it
	reported                 uint64    // how many closed connections tend has logged
}

// ConnectionsOptions are the options of NewConnections.
type ConnectionsOptions struct {
	Config Config
	Files  int    // the limit of open files, see OpenFileLimit
	Free   func() // closes the idle connections to upstreams
	Log    *slog.Logger
}

// NewConnections returns a Connections for the listeners of a configuration.
func NewConnections(o ConnectionsOptions) *Connections {
	c := &Connections{o: o, set: conns.NewSet(), shares: shareFiles(o.Files)}
	proxies := o.Config.TrustedProxies()
	peer := func(conn net.Conn) (netip.Addr, bool) {
		address, proxy := proxies.Peer(conn)
		return address, proxy || !address.IsValid() // a client of a unix socket may exceed the number for one address
	}
	c.api = c.set.Add(conns.Options{Name: "api", KeyTime: firstKeyTime, Peer: peer}, conns.Limits{})
	c.admin = c.set.Add(conns.Options{Name: "admin", KeyTime: firstKeyTime, Peer: peer}, conns.Limits{})
	c.socket = c.set.Add(conns.Options{Name: "socket", Trusted: true}, conns.Limits{Max: c.shares.Socket})
	if o.Config.ServerTLS().ACME || o.Config.AdminTLS().ACME {
		c.acme = c.set.Add(conns.Options{Name: "acme", KeyTime: firstKeyTime, Peer: peer}, conns.Limits{Max: c.shares.ACME})
	}
	c.set.Share(c.api, c.shares.API, o.Free)
	c.Use(o.Config)
	return c
}

// Use applies server.max_connections and server.max_connections_per_address of a configuration. It
// logs a warning if the limit of open files allows fewer connections.
func (c *Connections) Use(config Config) {
	most, each := config.Server.MaxConnections, config.Server.MaxConnectionsPerAddress
	if most > c.shares.API {
		c.o.Log.Warn("server.max_connections is larger than the limit of open files allows; raise the limit, for example LimitNOFILE= of the systemd unit",
			"max_connections", most, "open_files", c.shares.Limit, "used", c.shares.API)
	}
	if most == 0 {
		most = usualConnections
	}
	most = min(most, c.shares.API)
	perNetwork := func(most int) int {
		if each == 0 {
			return max(most/4, 1)
		}
		return each
	}
	c.api.SetLimits(conns.Limits{Max: most, MaxPerNetwork: perNetwork(most)})
	c.admin.SetLimits(conns.Limits{Max: c.shares.Admin, MaxPerNetwork: perNetwork(c.shares.Admin)})
}

// Hold makes room for a connection to an upstream, see conns.Set.Hold.
func (c *Connections) Hold() (done func(), err error) { return c.set.Hold() }

// Usage returns the use of each listener, and the number of connections to upstreams.
func (c *Connections) Usage() (listeners []conns.Usage, upstreams int) {
	return c.set.Usage(), c.set.Held()
}

// tend closes the connections that have had no request with a valid key for too long, and logs
// closed connections, until ctx ends.
func (c *Connections) tend(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			c.logClosed(c.logged.Add(time.Minute))
			return
		case now := <-tick.C:
			c.set.Sweep()
			c.logClosed(now)
		}
	}
}

// logClosed logs how many connections were closed because there was no room for more. It logs at
// most once a minute. Connections without a request with a valid key do not count: they are closed
// also if there is room.
func (c *Connections) logClosed(now time.Time) {
	if now.Sub(c.logged) < time.Minute {
		return
	}
	var args []any
	total := uint64(0)
	for _, u := range c.set.Usage() {
		for i, n := range u.Closed {
			if reason := conns.Reason(i); reason != conns.NoKey && n > 0 {
				total += n
				args = append(args, u.Name+"_"+reason.String(), n)
			}
		}
	}
	if total > c.reported {
		c.o.Log.Warn("connections closed to make room for others; the numbers are totals since the start by listener and reason", append([]any{"new", total - c.reported}, args...)...)
		c.reported, c.logged = total, now
	}
}
