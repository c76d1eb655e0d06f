package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"latchkey/internal/clock"
	"latchkey/internal/cluster"
	"latchkey/internal/durable"
	"latchkey/internal/keytext"
)

// errNoCluster is the error of the commands about a cluster if none is configured.
var errNoCluster = errors.New("no cluster is configured: set cluster.name and cluster.endpoints in the configuration file, see docs/cluster.md")

// ClusterAccess is how the commands reach the etcd of a configuration. They are no nodes.
type ClusterAccess struct {
	Config ClusterConfig
	// open connects to it; nil: as dialCluster does.
	open func(context.Context, ClusterConfig, *slog.Logger) (clusterEngine, error)
}

// connect calls run with a connection. It waits at most firstDial for that.
func (a ClusterAccess) connect(ctx context.Context, run func(clusterEngine) error) (err error) {
	if !a.Config.On() {
		return errNoCluster
	}
	open := a.open
	if open == nil {
		open = dialCluster
	}
	dial, cancel := context.WithTimeout(ctx, firstDial)
	defer cancel()
	engine, err := open(dial, a.Config, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	return run(engine)
}

// store is like connect, for the store that the cluster has.
func (a ClusterAccess) store(ctx context.Context, run func(clusterEngine) error) error {
	return a.connect(ctx, func(engine clusterEngine) error {
		store, err := engine.Store(ctx)
		if err != nil {
			return err
		}
		engine.Use(store.ID)
		return run(engine)
	})
}

// Nodes returns the nodes of the cluster by name, those that do not run as well. It may take as long as a lease.
func (a ClusterAccess) Nodes(ctx context.Context) (nodes []cluster.Node, err error) {
	err = a.store(ctx, func(engine clusterEngine) error {
		nodes, err = engine.Nodes(ctx)
		return err
	})
	return nodes, err
}

// Remove ends the membership of a node. It returns once the node can no longer answer requests, which takes as
// long as a lease if the node cannot be reached.
func (a ClusterAccess) Remove(ctx context.Context, name string) error {
	return a.store(ctx, func(engine clusterEngine) error { return engine.Remove(ctx, name) })
}

// ClusterInitOptions are the options of InitCluster.
type ClusterInitOptions struct {
	Access   ClusterAccess
	Config   Config
	Pepper   string // the pepper itself; if "", it is read from the pepper file
	From     string // path of a backup or of another data folder; "": the data folder of Config
	Clock    *clock.Clock
	Log      *slog.Logger
	Progress Progress // if it returns an error, the cluster gets no store
}

// ClusterInit describes the new store of a cluster.
type ClusterInit struct {
	StoreID  string
	From     string // path of the database or the backup whose records the store has
	Created  bool   // the data folder had no store, so that a new one was made
	Restored bool   // From is a backup, so that logins were ended
	Held     bool   // the backup has webhooks, which are held back
	Records  int64
	Pepper   string // path of the pepper file; "" if the pepper is in no file
}

// InitCluster creates the store of a cluster from that of a data folder or from a backup. It locks a
// data folder meanwhile, and creates a store and a pepper in an empty one, as the first start of a server does. A
// backup gets the changes of a restore first, see RestoreApp. InitCluster returns an error if the cluster has a store
// already, if the records have another format than this program writes, if they were made under another pepper, or
// if they are damaged.
func InitCluster(ctx context.Context, o ClusterInitOptions) (result ClusterInit, err error) {
	err = o.Access.connect(ctx, func(engine clusterEngine) error {
		if store, err := engine.Store(ctx); err == nil {
			return fmt.Errorf("the cluster has a store already (%s): start the nodes, or use another etcd for a new one", store.ID)
		} else if errors.Is(err, errUnreachable) || ctx.Err() != nil {
			return err
		}
		result, err = o.init(ctx, engine)
		return err
	})
	return result, err
}

// init is InitCluster for a cluster that has no store.
func (o ClusterInitOptions) init(ctx context.Context, engine clusterEngine) (result ClusterInit, err error) {
	dir := o.Config.Server.Data
	if result.Pepper = PeppersOf(o.Config, o.Pepper).Path(dir); result.Pepper != "" {
		if result.Pepper, err = filepath.Abs(result.Pepper); err != nil {
			return result, err
		}
	}
	if o.From != "" {
		if info, err := os.Stat(o.From); err != nil {
			return result, err
		} else if !info.IsDir() {
			return o.fromBackup(ctx, engine, result)
		}
		dir = o.From
	}
	open := CreateDataDir
	if o.From != "" {
		open = OpenDataDir
	}
	folder, err := open(dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	if o.Log != nil {
		folder.Log = o.Log
	}
	result.From = folder.Database()
	if _, err := os.Stat(result.From); errors.Is(err, os.ErrNotExist) {
		if o.From != "" {
			return result, fmt.Errorf("%s is no data folder: it has no database", o.From)
		}
		result.Created = true
		store, _, err := folder.Open(FolderOptions{Peppers: PeppersOf(o.Config, o.Pepper), Clock: o.Clock})
		if err != nil {
			return result, err
		}
		if err := store.Close(); err != nil {
			return result, err
		}
	}
	return result, o.load(ctx, engine, &result)
}

// fromBackup restores a backup to a temporary folder and takes the records from there.
func (o ClusterInitOptions) fromBackup(ctx context.Context, engine clusterEngine, result ClusterInit) (_ ClusterInit, err error) {
	if err := currentFormat(o.From); err != nil {
		return result, err
	}
	folder, err := CreateDataDir(o.Config.Server.Data)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	temp := filepath.Join(folder.Path, "cluster-init-"+keytext.RandomHex(4))
	if err := durable.MakeFolder(temp); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	c := o.Config
	c.Cluster = ClusterConfig{} // the folder is no node
	c.Keys.PepperFile, c.Server.Data = result.Pepper, temp
	restored, err := RestoreApp(RestoreAppOptions{RestoreOptions: RestoreOptions{Config: c, Pepper: o.Pepper, From: o.From, Now: o.Clock.Now(), Progress: o.Progress}})
	if err != nil {
		return result, err
	}
	result.From, result.Restored, result.Held = restored.To, true, restored.WebhooksHeld
	err = o.load(ctx, engine, &result)
	result.From = o.From
	return result, err
}

// currentFormat returns an error if the database at path has another format than this program writes.
func currentFormat(path string) error {
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil || f.Current() {
		return err
	}
	return fmt.Errorf("%s has format %d, and a cluster needs format %d of this version: start a server without [cluster] on the data folder, or restore the backup and do so, which migrates it; then run the command again", path, f.Header.Format, StoreFormat)
}

// load stores the records of the database at result.From in the cluster. It completes result.
func (o ClusterInitOptions) load(ctx context.Context, engine clusterEngine, result *ClusterInit) (err error) {
	if err := currentFormat(result.From); err != nil {
		return err
	}
	peppers, err := PeppersOf(o.Config, o.Pepper).Load(o.Config.Server.Data)
	if err != nil {
		return err
	}
	keys, err := peppers.MACKeys()
	if err != nil {
		return err
	}
	f, err := OpenFile(result.From, ReadOnly)
	if err != nil {
		return err
	}
	f.Progress = o.Progress
	defer func() { err = errors.Join(err, f.Close()) }()
	result.StoreID = f.Header.StoreID
	if err := errors.Join(o.mine(result.StoreID), f.View(peppers.Match)); err != nil {
		return err
	}
	f.Authenticate(keys)
	err = f.View(func(tx *Tx) error {
		check, err := CheckStore(tx, tables())
		if err == nil && len(check.Problems) > 0 {
			err = fmt.Errorf("%s is damaged, so that the cluster does not get its records: %s (%d problems)", result.From, check.Problems[0], len(check.Problems))
		}
		return err
	})
	if err != nil {
		return err
	}
	return engine.Create(ctx, result.StoreID, func(put func(cluster.Write) error) error {
		result.Records = 0
		return EachShared(f, func(w cluster.Write) error {
			result.Records++
			return errors.Join(put(w), ctx.Err())
		})
	})
}

// mine returns an error if the data folder of the configuration has another store than the one with this id. This
// machine could not be a node then.
func (o ClusterInitOptions) mine(id string) error {
	there, err := ReadSmall(filepath.Join(o.Config.Server.Data, "store.id"))
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(there)) == id {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the data folder %s has another store than %s: name an empty folder with --data", o.Config.Server.Data, o.From)
}
