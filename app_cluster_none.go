//go:build !cluster

package main

import (
	"context"
	"log/slog"
)

// dialCluster returns an error: this build of the program has no client of etcd, which most do not need
// and which makes the program a fifth larger. Only tests call it.
func dialCluster(context.Context, ClusterConfig, *slog.Logger) (clusterEngine, error) {
	return nil, errNoClusters
}
