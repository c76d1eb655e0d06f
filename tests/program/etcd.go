//go:build unix

package program

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Etcd is a running etcd cluster on loopback, with TLS between all.
type Etcd struct {
	Endpoints []string // client URLs of the servers
	Files     EtcdFiles
	Authority *EtcdAuthority
	PeerLinks []*Link // on each server's way to hear of the others; nil without EtcdOptions.PeerLinks

	t       testing.TB
	servers []*etcdServer
	client  *http.Client
}

// etcdServer is one server of an etcd cluster.
type etcdServer struct {
	args  []string
	out   *Output
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// EtcdOptions are the options of StartEtcdWith.
type EtcdOptions struct {
	Servers   int
	Args      []string // added to the command line of each server
	PeerLinks bool     // the servers reach each other over Etcd.PeerLinks
	Folder    string   // has a folder for the data of each server, named 0, 1, ...; "" for temporary ones
}

// StartEtcd starts an etcd cluster of n servers and waits until it works. It ends with the test. args are
// added to the command line of each server. The test is skipped with -short.
func StartEtcd(t testing.TB, n int, args ...string) *Etcd {
	t.Helper()
	return StartEtcdWith(t, EtcdOptions{Servers: n, Args: args})
}

// StartEtcdWith is StartEtcd with more options.
func StartEtcdWith(t testing.TB, o EtcdOptions) *Etcd {
	t.Helper()
	NotQuick(t)
	c := &Etcd{t: t, Authority: NewEtcdAuthority(t)}
	c.Files = c.Authority.Issue(IssueEtcd{})
	var peers, shown, cluster []string // shown is where the others reach a server
	for i, address := range FreeAddresses(t, 2*o.Servers) {
		if i < o.Servers {
			c.Endpoints = append(c.Endpoints, "https://"+address)
			continue
		}
		peers = append(peers, "https://"+address)
		if o.PeerLinks {
			link := NewLink(t, address)
			c.PeerLinks, address = append(c.PeerLinks, link), link.Address
		}
		shown = append(shown, "https://"+address)
		cluster = append(cluster, fmt.Sprintf("s%d=https://%s", i-o.Servers, address))
	}
	f, token := c.Files, rand.Text()
	for i := range o.Servers {
		folder := filepath.Join(o.Folder, strconv.Itoa(i))
		if o.Folder == "" {
			folder = t.TempDir()
		}
		c.servers = append(c.servers, &etcdServer{args: append([]string{
			fmt.Sprintf("--name=s%d", i), "--data-dir=" + filepath.Join(folder, "data"),
			"--listen-client-urls=" + c.Endpoints[i], "--advertise-client-urls=" + c.Endpoints[i],
			"--listen-peer-urls=" + peers[i], "--initial-advertise-peer-urls=" + shown[i],
			"--initial-cluster=" + strings.Join(cluster, ","), "--initial-cluster-token=" + token,
			"--cert-file=" + f.Cert, "--key-file=" + f.Key, "--trusted-ca-file=" + f.CA, "--client-cert-auth",
			"--peer-cert-file=" + f.Cert, "--peer-key-file=" + f.Key, "--peer-trusted-ca-file=" + f.CA, "--peer-client-cert-auth",
			"--max-txn-ops=8192", "--max-request-bytes=8388608",
			"--heartbeat-interval=50", "--election-timeout=500", "--logger=zap", "--log-level=error",
		}, o.Args...)})
	}
	c.client = c.newClient()
	t.Cleanup(c.client.CloseIdleConnections)
	for i := range o.Servers {
		c.Launch(i)
	}
	c.Wait()
	return c
}

// newClient returns a client for the HTTP side of the servers.
func (c *Etcd) newClient() *http.Client {
	pair, err := tls.LoadX509KeyPair(c.Files.Cert, c.Files.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(c.Files.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
}

// Start starts a server that was killed, and waits until the cluster works.
func (c *Etcd) Start(i int) {
	c.t.Helper()
	c.Launch(i)
	c.Wait()
}

// Launch starts a server and does not wait for it.
func (c *Etcd) Launch(i int) {
	c.t.Helper()
	s := c.servers[i]
	s.out, s.ended = &Output{}, make(chan struct{})
	s.cmd = exec.Command("etcd", s.args...)
	s.cmd.Env = []string{"PATH=/nowhere"}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	cmd, ended := s.cmd, s.ended
	go func() {
		_ = cmd.Wait() // Kill makes it fail
		close(ended)
	}()
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
}

// Kill ends a server as a crash would.
func (c *Etcd) Kill(i int) {
	_ = c.servers[i].cmd.Process.Kill()
	<-c.servers[i].ended
}

// Ended reports whether the process of a server has ended.
func (c *Etcd) Ended(i int) bool {
	select {
	case <-c.servers[i].ended:
		return true
	default:
		return false
	}
}

// Process returns the id of the process of a server.
func (c *Etcd) Process(i int) int { return c.servers[i].cmd.Process.Pid }

// Output returns what the process of a server has printed.
func (c *Etcd) Output(i int) *Output { return c.servers[i].out }

// Stop pauses a server: its connections stay open.
func (c *Etcd) Stop(i int) { _ = c.servers[i].cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends the pause of a server.
func (c *Etcd) Continue(i int) { _ = c.servers[i].cmd.Process.Signal(syscall.SIGCONT) }

// Wait waits until one of the servers says that the cluster works.
func (c *Etcd) Wait() {
	c.t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if c.healthy() {
			return
		}
		if time.Now().After(until) {
			c.t.Fatalf("etcd does not work after %s: %s", patience, c.servers[0].out.Tail())
		}
	}
}

// healthy asks the servers whether the cluster has a leader and takes changes.
func (c *Etcd) healthy() bool {
	for _, endpoint := range c.Endpoints {
		r, err := c.client.Get(endpoint + "/health")
		if err != nil {
			continue
		}
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return true
		}
	}
	return false
}

// Leader returns the index of the server that is the leader.
func (c *Etcd) Leader() int {
	c.t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if i, _ := c.FindLeader(); i >= 0 {
			return i
		}
	}
	c.t.Fatal("etcd has no leader")
	return 0
}

// FindLeader returns the index of the server that is the leader, or -1 if none says so now, and the ids of the members whose
// servers answer, "" for the others.
func (c *Etcd) FindLeader() (leader int, ids []string) {
	leader, ids = -1, make([]string, len(c.servers))
	for i := range c.servers {
		var status struct {
			Header struct {
				MemberID string `json:"member_id"`
			}
			Leader string
		}
		if c.Post(i, "/v3/maintenance/status", struct{}{}, &status) != nil {
			continue
		}
		if ids[i] = status.Header.MemberID; status.Leader != "" && status.Leader == ids[i] {
			leader = i
		}
	}
	return leader, ids
}

// MoveLeader makes another server the leader, see FindLeader.
func (c *Etcd) MoveLeader(leader int, id string) error {
	return c.Post(leader, "/v3/maintenance/transfer-leadership", map[string]string{"targetID": id}, nil)
}

// Post asks the HTTP side of a server, such as /v3/kv/compaction.
func (c *Etcd) Post(i int, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := c.client.Post(c.Endpoints[i]+path, "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, r.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(r.Body).Decode(answer)
}

// FreeAddresses returns loopback addresses on which nothing listens. The system does not choose their ports for outgoing
// connections, so they stay free while a server that listens there is restarted.
func FreeAddresses(t testing.TB, n int) (list []string) {
	t.Helper()
	for tries := 0; len(list) < n; tries++ {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", 12_000+mathrand.IntN(20_000)))
		if err != nil && tries > 1000 {
			t.Fatal(err)
		}
		if err == nil {
			defer func() { _ = l.Close() }() // at the end, so that all differ
			list = append(list, l.Addr().String())
		}
	}
	return list
}
