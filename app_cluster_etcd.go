//go:build cluster

package main

import (
	"context"
	"errors"
	"log/slog"

	"latchkey/internal/cluster"
	"latchkey/internal/cluster/etcd"
)

func init() {
	clusters = &ClusterSupport{
		join: newMembership, check: func(c ClusterConfig) error { return etcdOptions(c).Check() },
		Create: InitCluster,
		Nodes: func(ctx context.Context, c ClusterConfig) ([]cluster.Node, error) {
			return ClusterAccess{Config: c}.Nodes(ctx)
		},
		Remove: func(ctx context.Context, c ClusterConfig, name string) error {
			return ClusterAccess{Config: c}.Remove(ctx, name)
		},
	}
}

// dialCluster connects to the etcd servers of a configuration. The error says what to do; it is an errUnreachable if
// that may be nothing but to wait.
func dialCluster(ctx context.Context, c ClusterConfig, log *slog.Logger) (clusterEngine, error) {
	o := etcdOptions(c)
	o.Log = log
	e, err := etcd.Open(ctx, o)
	if errors.Is(err, etcd.ErrUnreachable) {
		return nil, notNow{err}
	}
	if err != nil {
		return nil, err
	}
	return etcdEngine{e}, nil
}

// etcdOptions returns the options of the client of etcd.
func etcdOptions(c ClusterConfig) etcd.Options {
	return etcd.Options{Endpoints: c.Endpoints, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Node: c.Name, Lease: c.Lease}
}

// notNow is an errUnreachable with the reason.
type notNow struct{ error }

// Is reports whether the error counts as another.
func (notNow) Is(other error) bool { return other == errUnreachable }

// etcdEngine is an etcd.Engine as a clusterEngine.
type etcdEngine struct{ *etcd.Engine }

// Store implements clusterEngine.
func (e etcdEngine) Store(ctx context.Context) (ClusterStore, error) {
	info, err := e.Engine.Store(ctx)
	return ClusterStore(info), err
}

// Create implements clusterEngine.
func (e etcdEngine) Create(ctx context.Context, id string, each func(put func(cluster.Write) error) error) error {
	return e.Engine.Create(ctx, id, StoreFormat, each, nil)
}
