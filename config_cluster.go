package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"reflect"
	"slices"
	"strings"
)

// ClusterNode returns the name of this server in its cluster, or "" if it is alone.
func (c Config) ClusterNode() string {
	if !c.Cluster.On() {
		return ""
	}
	return c.Cluster.Name
}

// nodeSettings lists the settings, or the sections with a dot at the end, that may differ from node to node of a cluster: addresses,
// files, secrets, and what fits a machine. All others decide what requests may do and how they are answered, or about work that one
// node does for all.
var nodeSettings = []string{
	"server.listen", "server.data", "server.base_url", "server.trusted_proxies", "server.read_header_timeout", "server.read_timeout",
	"server.write_timeout", "server.idle_timeout", "server.shutdown_timeout", "server.max_connections", "server.max_connections_per_address", "server.lean",
	"server.tls", "server.tls_cert_file", "server.tls_key_file", "server.insecure_http",
	"admin.listen", "admin.base_url", "admin.hosts", "admin.tls", "admin.tls_cert_file", "admin.tls_key_file", "admin.insecure_http",
	"admin.oidc.client_secret", "admin.oidc.client_secret_file", "admin.oidc.button",
	"keys.pepper_file", "keys.retired_pepper_files", "keys.cache", "keys.last_used_interval", "backup.dir", "bounds.free_disk_bytes", "bounds.free_disk_percent",
	"mail.tls", "mail.ca_file", "mail.username", "mail.password", "mail.password_file", "acme.", "log.", "metrics.", "cluster.",
}

// nodeRouteSettings is like nodeSettings for a [[route]].
var nodeRouteSettings = []string{"upstream", "timeout"}

// isOf reports whether a list such as nodeSettings contains a setting or its section.
func isOf(list []string, key string) bool {
	return slices.ContainsFunc(list, func(own string) bool { return key == own || strings.HasSuffix(own, ".") && strings.HasPrefix(key, own) })
}

// ConfigSum returns the SHA-256, in hex digits, of all settings but nodeSettings. Nodes with the same sum decide alike about requests. It is
// no method, so that a program without clusters does not contain it.
func ConfigSum(c Config) string {
	sum := sha256.New()
	for _, s := range c.settings() {
		if !isOf(nodeSettings, s.Key) {
			_, _ = io.WriteString(sum, s.Key+" = "+s.Text()+"\n")
		}
	}
	rows := append(slices.Clone(c.Observed), rowTexts(c.Limits, nil)...)
	rows = append(append(rows, rowTexts(c.Concurrent, nil)...), rowTexts(c.Permissions, nil)...)
	slices.Sort(rows) // their order in the file decides nothing
	_, _ = io.WriteString(sum, strings.Join(append(rows, rowTexts(c.Routes, nodeRouteSettings)...), "\n"))
	return hex.EncodeToString(sum.Sum(nil))
}

// rowTexts returns the settings of each row but those in a list.
func rowTexts[T any](rows []T, without []string) (list []string) {
	for _, row := range rows {
		var b strings.Builder
		for _, s := range rowSettings(&row) {
			if !isOf(without, s.Key) {
				b.WriteString(s.Key + " = " + s.Text() + "\n")
			}
		}
		list = append(list, reflect.TypeFor[T]().Name()+"\n"+b.String())
	}
	return list
}

// ConfigInForce returns the configuration that applies after a reload: what a reload does not apply stays as in running.
func ConfigInForce(running, loaded Config) Config {
	theirs := loaded.settings()
	for i, s := range running.settings() {
		if !reloads(s.Key) {
			reflect.ValueOf(theirs[i].Field).Elem().Set(reflect.ValueOf(s.Field).Elem())
		}
	}
	return loaded
}
