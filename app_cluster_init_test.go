package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/cluster"
)

// madeCluster is an etcd in memory, for the commands about a cluster.
type madeCluster struct {
	clusterEngine // the methods that the commands do not call
	id            string
	records       map[string]string
	nodes         []cluster.Node
	removed       string
	madeReport
}

// Store implements clusterEngine.
func (m *madeCluster) Store(context.Context) (ClusterStore, error) {
	if m.id == "" {
		return ClusterStore{}, errors.New("no store yet")
	}
	return ClusterStore{ID: m.id, Format: StoreFormat, CreatedAt: time.Unix(1, 0)}, nil
}

// Create implements clusterEngine.
func (m *madeCluster) Create(_ context.Context, id string, each func(func(cluster.Write) error) error) error {
	m.records = map[string]string{}
	err := each(func(w cluster.Write) error {
		m.records[w.Bucket+"/"+string(w.Key)] = string(w.Value)
		return nil
	})
	if err == nil {
		m.id = id
	}
	return err
}

// Use implements clusterEngine.
func (m *madeCluster) Use(string) {}

// Nodes implements clusterEngine.
func (m *madeCluster) Nodes(context.Context) ([]cluster.Node, error) {
	if m.fault != nil {
		return nil, m.fault
	}
	return slices.Clone(m.nodes), nil
}

// Remove implements clusterEngine.
func (m *madeCluster) Remove(_ context.Context, name string) error {
	m.removed = name
	m.nodes = slices.DeleteFunc(m.nodes, func(n cluster.Node) bool { return n.Name == name })
	return m.fault
}

// Close implements clusterEngine.
func (m *madeCluster) Close() error { return nil }

// access returns the way to the cluster.
func (m *madeCluster) access() ClusterAccess {
	return ClusterAccess{Config: ClusterConfig{Name: "a", Endpoints: []string{"https://127.0.0.1:1"}}, open: func(context.Context, ClusterConfig, *slog.Logger) (clusterEngine, error) { return m, nil }}
}

// TestInitCluster creates the store of a cluster from data folders and from a backup.
func TestInitCluster(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"]}`)
	backup := filepath.Join(t.TempDir(), "b.db")
	if exit, _, errs := a.run("", "backup", backup); exit != 0 {
		t.Fatal(errs)
	}
	c := a.config
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	pepper, err := os.ReadFile(pepperPath(c.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	in := func(dir string) Config {
		c := c
		c.Server.Data = dir
		return c
	}
	run := func(m *madeCluster, c Config, from string) (ClusterInit, error) {
		return InitCluster(t.Context(), ClusterInitOptions{Access: m.access(), Config: c, From: from, Clock: clock.NewClock()})
	}
	fresh := func() string { // a data folder with the right pepper alone
		dir := t.TempDir()
		if err := os.WriteFile(pepperPath(dir), pepper, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	var own, other, restored madeCluster
	first, err := run(&own, c, "")
	if err != nil || first.StoreID != own.id || first.Records != int64(len(own.records)) || first.Created || first.Restored || first.Pepper != pepperPath(c.Server.Data) {
		t.Fatalf("got %+v, %v", first, err)
	}
	for at := range own.records {
		if bucket, key, _ := strings.Cut(at, "/"); !isShared(bucket, []byte(key)) && bucket != sequenceBucket {
			t.Errorf("the cluster has %q, which is of one machine or derived", at)
		}
	}
	if _, err := run(&own, c, ""); err == nil || !strings.Contains(err.Error(), "has a store already") {
		t.Errorf("got %v, want a refusal, because there is a store", err)
	}
	second, err := run(&other, in(fresh()), c.Server.Data)
	if err != nil || second.StoreID != first.StoreID || len(other.records) != len(own.records) {
		t.Errorf("from another folder: got %+v, %v", second, err)
	}
	dir := fresh()
	third, err := run(&restored, in(dir), backup)
	if err != nil || third.StoreID != first.StoreID || !third.Restored || third.From != backup {
		t.Errorf("from a backup: got %+v, %v", third, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "cluster-init-*")); err != nil || len(left) > 0 {
		t.Errorf("got %q, %v, want nothing to be left of the copy", left, err)
	}
	var empty madeCluster
	folder := filepath.Join(t.TempDir(), "new")
	made, err := run(&empty, in(folder), "")
	if err != nil || !made.Created || made.Records == 0 || !hasStore(folder) {
		t.Errorf("an empty folder: got %+v, %v", made, err)
	}
	old := filepath.Join(t.TempDir(), "old.db")
	data, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, from, want string
		config           Config
	}{
		{"another pepper", backup, "pepper", in(folder)},
		{"a folder with another store", c.Server.Data, "pepper", in(folder)},
		{"a folder without a store", t.TempDir(), "is no data folder", in(fresh())},
		{"no such file", filepath.Join(t.TempDir(), "x"), "no such file", in(fresh())},
		{"half a backup", old, "", in(fresh())},
		{"without a pepper", backup, "pepper", in(t.TempDir())},
	} {
		var m madeCluster
		if _, err := run(&m, tt.config, tt.from); err == nil || !strings.Contains(err.Error(), tt.want) || m.id != "" {
			t.Errorf("%s: got %v and the store %q, want %q and none", tt.name, err, m.id, tt.want)
		}
	}
	if _, err := InitCluster(t.Context(), ClusterInitOptions{Config: c}); !errors.Is(err, errNoCluster) {
		t.Errorf("got %v, want %v", err, errNoCluster)
	}
	lock, err := OpenDataDir(c.Server.Data)
	if err != nil {
		t.Fatal(err)
	}
	var m madeCluster
	if _, err := run(&m, c, ""); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v, want a refusal, because the folder is in use", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestInitCluster_Interrupted ends the command while the records are stored.
func TestInitCluster_Interrupted(t *testing.T) {
	dir, ended := newClosedFolder(t), errors.New("ended")
	var m madeCluster
	c, _, err := LoadConfig("", nil, map[string]string{"server.data": dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = InitCluster(t.Context(), ClusterInitOptions{Access: m.access(), Config: c, Clock: clock.NewClock(), Progress: func(step string, _, _ int64) error {
		if strings.Contains(step, "cluster") {
			return ended
		}
		return nil
	}})
	if !errors.Is(err, ended) || m.id != "" {
		t.Errorf("got %v and the store %q, want none", err, m.id)
	}
}

// TestClusterCommands runs the commands in a program that has no client of etcd, and without a cluster.
func TestClusterCommands(t *testing.T) {
	m := madeCluster{id: "ab", nodes: []cluster.Node{{Name: "b", Host: "h", Running: true}}}
	if nodes, err := m.access().Nodes(t.Context()); err != nil || len(nodes) != 1 || nodes[0].Name != "b" {
		t.Errorf("got %v, %v", nodes, err)
	}
	if err := m.access().Remove(t.Context(), "b"); err != nil || m.removed != "b" {
		t.Errorf("got %q, %v", m.removed, err)
	}
	a := newTestApp(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[cluster]\nname = \"a\"\nendpoints = [\"http://127.0.0.1:1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"cluster", "init"}, {"cluster", "nodes"}, {"cluster", "remove", "b", "--yes"}} {
		if exit, _, errs := a.run("", command...); exit != 1 || !strings.Contains(errs, "no cluster is configured") {
			t.Errorf("%q: exit %d, %s", command, exit, errs)
		}
		_, err := dialCluster(t.Context(), ClusterConfig{}, nil)
		exit, _, errs := a.run("", append([]string{"--config", file}, command...)...)
		if exit != 1 || err != nil && strings.Contains(err.Error(), "this build") && !strings.Contains(errs, err.Error()) {
			t.Errorf("%q: exit %d, %s", command, exit, errs)
		}
	}
	if exit, _, errs := a.run("b\n", "cluster", "remove", "b"); exit != 2 || !strings.Contains(errs, "add --yes") {
		t.Errorf("exit %d, %s, want no removal without a terminal and --yes", exit, errs)
	}
}
