package etcd

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchkey/internal/cluster"
	"latchkey/tests/program"
)

// TestOpen_Settings opens an engine with settings that cannot work, without asking etcd.
func TestOpen_Settings(t *testing.T) {
	ca := program.NewEtcdAuthority(t)
	good := ca.Issue(program.IssueEtcd{})
	other := ca.Issue(program.IssueEtcd{})
	ended := ca.Issue(program.IssueEtcd{Until: time.Now().Add(-time.Minute)})
	future := ca.Issue(program.IssueEtcd{From: time.Now().Add(time.Minute)})
	server := ca.Issue(program.IssueEtcd{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	https := []string{"https://10.0.0.1:2379"}
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"no endpoint", Options{}, "cluster.endpoints is empty"},
		{"no scheme", Options{Endpoints: []string{"10.0.0.1:2379"}}, `"10.0.0.1:2379" is not the client URL of an etcd server, such as https://`},
		{"no port", Options{Endpoints: []string{"https://etcd.example.com"}}, "is not the client URL"},
		{"path", Options{Endpoints: []string{"https://etcd.example.com:2379/v3"}}, "is not the client URL"},
		{"unencrypted", Options{Endpoints: []string{"http://10.0.0.1:2379"}}, "would send all records over the network unencrypted"},
		{"mixed", Options{Endpoints: []string{"https://127.0.0.1:2379", "http://127.0.0.1:2380"}}, "have different schemes"},
		{"twice", Options{Endpoints: []string{"https://127.0.0.1:2379", "https://127.0.0.1:2379"}}, "appears twice"},
		{"files without TLS", Options{Endpoints: []string{"http://127.0.0.1:2379"}, CAFile: good.CA}, "are not used: write https://"},
		{"no CA file", Options{Endpoints: https, CAFile: "/none/ca.pem"}, "cluster.ca_file: open /none/ca.pem"},
		{"empty CA file", Options{Endpoints: https, CAFile: empty}, "has no certificate in PEM"},
		{"certificate without key", Options{Endpoints: https, CertFile: good.Cert}, "belong together"},
		{"no certificate file", Options{Endpoints: https, CertFile: "/none/cert.pem", KeyFile: good.Key}, "cluster.cert_file: open /none/cert.pem"},
		{"no key file", Options{Endpoints: https, CertFile: good.Cert, KeyFile: "/none/key.pem"}, "cluster.key_file: open /none/key.pem"},
		{"key of another", Options{Endpoints: https, CertFile: good.Cert, KeyFile: other.Key}, "are not a certificate and its key"},
		{"expired", Options{Endpoints: https, CertFile: ended.Cert, KeyFile: ended.Key}, "the certificate expired at"},
		{"not yet valid", Options{Endpoints: https, CertFile: future.Cert, KeyFile: future.Key}, "valid only from"},
		{"for servers", Options{Endpoints: https, CertFile: server.Cert, KeyFile: server.Key}, "is not for clients"},
	} {
		e, err := Open(t.Context(), tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if e != nil {
			t.Error("got an engine")
		}
	}
}

// TestOpen_Servers opens engines for etcd servers that cannot be used as they are.
func TestOpen_Servers(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	stranger := program.NewEtcdAuthority(t)
	foreign := stranger.Issue(program.IssueEtcd{})
	free := "https://127.0.0.1:1"
	for _, tt := range []struct {
		name        string
		change      func(*Options)
		unreachable bool
		want        []string
	}{
		{"nothing listens", func(o *Options) { o.Endpoints = []string{free, "https://127.0.0.1:2"} }, true,
			[]string{"none of the etcd servers in cluster.endpoints can be reached", free + ": dial tcp 127.0.0.1:1: connect: connection refused", "https://127.0.0.1:2: dial"}},
		{"unknown name", func(o *Options) { o.Endpoints = []string{"https://nowhere.invalid:2379"} }, true, []string{"https://nowhere.invalid:2379: "}},
		{"other CA", func(o *Options) { o.CAFile = foreign.CA }, false, []string{"not signed by an authority in cluster.ca_file"}},
		{"no CA", func(o *Options) { o.CAFile = "" }, false, []string{"not signed by an authority in cluster.ca_file"}},
		{"certificate of another CA", func(o *Options) { o.CertFile, o.KeyFile = foreign.Cert, foreign.Key }, false,
			[]string{"etcd refuses the certificate of this node: cluster.cert_file"}},
		{"no certificate", func(o *Options) { o.CertFile, o.KeyFile = "", "" }, false, []string{"etcd refuses the certificate of this node: cluster.cert_file"}},
		{"other name", func(o *Options) { o.Endpoints = []string{strings.Replace(c.Endpoints[0], "127.0.0.1", "127.0.0.2", 1)} }, true, []string{"127.0.0.2"}},
		{"no TLS", func(o *Options) {
			o.Endpoints = []string{strings.Replace(c.Endpoints[0], "https", "http", 1)}
			o.CAFile, o.CertFile, o.KeyFile = "", "", ""
		}, true, []string{"whether the URL should begin with https://"}},
	} {
		o := options(c, "a")
		tt.change(&o)
		_, err := Open(within(t, 10*time.Second), o)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrUnreachable) != tt.unreachable {
				t.Errorf("%s: got %v (unreachable: %v), want %q", tt.name, err, errors.Is(err, ErrUnreachable), want)
			}
		}
	}
	var log bytes.Buffer
	o := options(c, "a")
	o.Endpoints = append(o.Endpoints, free)
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	if err := open(t, o, "one").Close(); err != nil || !strings.Contains(log.String(), free+": dial") {
		t.Errorf("got %v, %q; want a warning about the server that does not run", err, &log)
	}
}

// TestOpen_Flags opens engines for etcd servers without the flags that Latchkey needs.
func TestOpen_Flags(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1, "--max-txn-ops=128")
	if _, err := Open(t.Context(), options(c, "a")); err == nil || !strings.Contains(err.Error(), "start each of its servers with --max-txn-ops=8192") {
		t.Errorf("got %v", err)
	}
	c = program.StartEtcd(t, 1, "--max-request-bytes=1572864", "--quota-backend-bytes=16777216")
	e := open(t, options(c, "a"), "one")
	ctx := within(t, 60*time.Second)
	if err := e.Create(ctx, "one", 1, fill(1, 1), nil); err == nil || !strings.Contains(err.Error(), "--max-request-bytes=8388608") {
		t.Errorf("got %v from Create", err)
	}
	set := func(n, size int) *cluster.Set {
		s := &cluster.Set{Node: "a", Nonce: 1}
		for i := range n {
			s.Writes = append(s.Writes, cluster.Write{Bucket: "b", Key: fmt.Append(nil, i), Value: make([]byte, size)})
		}
		return s
	}
	for _, bytes := range []int{1 << 20, 4 << 20} { // beyond etcd's own bound, and that of its gRPC
		_, err := e.Commit(ctx, 0, set(2, bytes))
		for errors.Is(err, cluster.ErrUnsure) && ctx.Err() == nil { // an attempt has taken too long
			_, err = e.Commit(ctx, 0, set(2, bytes))
		}
		if err == nil || !strings.Contains(err.Error(), "--max-request-bytes=8388608") {
			t.Errorf("got %v for a large Set", err)
		}
	}
	if _, err := e.Commit(ctx, 0, set(9000, 1)); err == nil || !strings.Contains(err.Error(), "--max-txn-ops=8192") {
		t.Errorf("got %v for a Set of many writes", err)
	}
	if head, err := e.Barrier(ctx); err != nil || head != 0 {
		t.Errorf("got %d, %v; want that nothing was committed", head, err)
	}

	// Fill the space that etcd has.
	head, err := cluster.Head(0), error(nil)
	for nonce := uint64(2); err == nil && nonce < 100; nonce++ {
		s := set(1, 1<<20)
		s.Nonce = nonce
		head, err = e.Commit(ctx, head, s)
	}
	if err == nil || !strings.Contains(err.Error(), "etcd has no space left") || !strings.Contains(err.Error(), "disarm the alarm") {
		t.Errorf("got %v when etcd is full", err)
	}
	if _, err := Open(ctx, options(c, "b")); err == nil || !strings.Contains(err.Error(), "etcd has no space left") {
		t.Errorf("got %v from Open when etcd is full", err)
	}
}

// TestOpen_Users has etcd check users and roles.
func TestOpen_Users(t *testing.T) {
	t.Parallel()
	c := program.StartEtcd(t, 1)
	ctx := within(t, 30*time.Second)
	e := open(t, options(c, "a"), "one")
	user := func(name, role string) {
		t.Helper()
		if _, err := e.client.UserAdd(ctx, name, "secret"); err != nil {
			t.Fatal(err)
		}
		if _, err := e.client.RoleAdd(ctx, role); err != nil {
			t.Fatal(err)
		}
		if _, err := e.client.UserGrantRole(ctx, name, role); err != nil {
			t.Fatal(err)
		}
	}
	user("root", "root")
	user("latchkey", "nothing")
	if _, err := e.client.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Commit(ctx, 0, &cluster.Set{Node: "a", Nonce: 1}); err == nil || !strings.Contains(err.Error(), "a role that may read and write that prefix") {
		t.Errorf("got %v from Commit", err)
	}
	if _, err := Open(ctx, options(c, "a")); err == nil || !strings.Contains(err.Error(), "a role that may read and write that prefix") {
		t.Errorf("got %v from Open", err)
	}
}

// TestOpen_Renewed replaces the certificate of a node while it runs.
func TestOpen_Renewed(t *testing.T) {
	ca := program.NewEtcdAuthority(t)
	first, second := ca.Issue(program.IssueEtcd{}), ca.Issue(program.IssueEtcd{})
	o := Options{Endpoints: []string{"https://127.0.0.1:1"}, CAFile: first.CA, CertFile: first.Cert, KeyFile: first.Key}
	config, err := o.security()
	if err != nil {
		t.Fatal(err)
	}
	before, err := config.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{second.Cert: first.Cert, second.Key: first.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	after, err := config.GetClientCertificate(nil)
	if err != nil || bytes.Equal(before.Certificate[0], after.Certificate[0]) {
		t.Errorf("got the same certificate, %v", err)
	}
}

// TestOlder compares versions of etcd.
func TestOlder(t *testing.T) {
	for version, want := range map[string]bool{"3.3.27": true, "2.9": true, "3": true, "3.4.0": false, "3.4.23": false, "3.10.1": false, "4.0.0-rc.1": false, "": true} {
		if got := older(version, minVersion); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}

// TestOpen_Canceled opens an engine with a context that ends.
func TestOpen_Canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Options{Endpoints: []string{"http://127.0.0.1:1"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
}

// TestEnded names the reason of an error once.
func TestEnded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{context.DeadlineExceeded, "etcd does not answer in time (context deadline exceeded)"},
		{errors.New("refused"), "etcd cannot be reached: refused (context deadline exceeded)"},
	} {
		if got := ended(ctx, tt.err); got.Error() != tt.want || !errors.Is(got, context.DeadlineExceeded) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
