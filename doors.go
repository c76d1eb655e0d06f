package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

// DoorOptions are what Doors are made of.
type DoorOptions struct {
	Config Config
	Socket string // path of the control socket
	Log    *slog.Logger

	API, Admin, Local http.Handler // what is served at each door
}

// Doors are the listeners of the service and what they serve: the API, the
// admin door and the control socket.
type Doors struct {
	o      DoorOptions
	doors  []door // in that order
	failed chan error
}

// door is one listener and what it serves.
type door struct {
	listener net.Listener
	server   *http.Server
}

// OpenDoors listens on all doors, or on none. Nothing is answered until Serve.
func OpenDoors(o DoorOptions) (*Doors, error) {
	d := &Doors{o: o}
	for _, at := range []struct {
		key, network, address string
		handler               http.Handler
	}{
		{"server.listen", "tcp", o.Config.Server.Listen, o.API},
		{"admin.listen", "tcp", o.Config.Admin.Listen, o.Admin},
		{"the control socket", "unix", shorter(o.Socket), o.Local},
	} {
		if err := d.open(at.key, at.network, at.address, at.handler); err != nil {
			return nil, errors.Join(err, d.release())
		}
	}
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		return nil, errors.Join(err, d.release())
	}
	d.failed = make(chan error, len(d.doors))
	return d, nil
}

func (d *Doors) open(key, network, address string, h http.Handler) error {
	if network == "unix" {
		// The folder is ours alone, so a socket in it is of a process that is gone.
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return fmt.Errorf("%s: %w; stop what listens there, or choose another address (port 0 takes a free one)", key, err)
	}
	d.doors = append(d.doors, door{l, d.httpServer(h)})
	return nil
}

// release lets go of listeners that serve nothing yet.
func (d *Doors) release() (err error) {
	for _, door := range d.doors {
		err = errors.Join(err, door.listener.Close())
	}
	return err
}

// API is where the API listens.
func (d *Doors) API() net.Addr { return d.doors[0].listener.Addr() }

// Admin is where the dashboard and the admin endpoint listen.
func (d *Doors) Admin() net.Addr { return d.doors[1].listener.Addr() }

// Serve begins to answer at all doors, and returns at once.
func (d *Doors) Serve() {
	for _, door := range d.doors {
		go func() { d.failed <- door.server.Serve(door.listener) }()
	}
}

// Failed gives the error of a door that no longer serves.
func (d *Doors) Failed() <-chan error { return d.failed }

// Close takes no more requests and finishes those under way, within the
// shutdown time of the config.
func (d *Doors) Close(ctx context.Context) (err error) {
	grace, cancel := context.WithTimeout(ctx, d.o.Config.Server.ShutdownTimeout)
	defer cancel()
	for _, door := range d.doors {
		if e := door.server.Shutdown(grace); e != nil {
			err = errors.Join(err, fmt.Errorf("stop: %w", e), door.server.Close())
		}
	}
	if e := os.Remove(d.o.Socket); !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// shorter is the shorter way to a socket: the system takes little more than
// 100 bytes.
func shorter(path string) string {
	if dir, err := os.Getwd(); err == nil && len(path) > 100 {
		if relative, err := filepath.Rel(dir, path); err == nil && len(relative) < len(path) {
			return relative
		}
	}
	return path
}

func (d *Doors) httpServer(h http.Handler) *http.Server {
	c := d.o.Config.Server
	return &http.Server{
		Handler: h, ReadHeaderTimeout: c.ReadHeaderTimeout, ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout,
		IdleTimeout: c.IdleTimeout, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
}
