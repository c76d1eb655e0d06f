//go:build !cluster

package main

import (
	"context"
	"errors"
	"log/slog"
)

// dialCluster returns an error: this build of the program has no client of etcd, which most do not need
// and which makes the program a fifth larger.
func dialCluster(context.Context, ClusterConfig, *slog.Logger) (clusterEngine, error) {
	return nil, errors.New("cluster.endpoints is set, but this build of latchkey cannot be part of a cluster: " +
		"install latchkey-cluster of the same version, which can and is the same otherwise, or build with 'go build -tags cluster'")
}
