//go:build unix

package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/tests/program"
)

// clusterBlock returns the block of a language in docs/cluster.md that contains a text.
func clusterBlock(t *testing.T, language, text string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?\n)```").FindAllStringSubmatch(read(t, "docs/cluster.md"), -1) {
		if strings.Contains(m[1], text) {
			return m[1]
		}
	}
	t.Fatalf("docs/cluster.md has no block of %s with %q", language, text)
	return ""
}

// freeOnAll returns n ports that are free on 127.0.0.1 to 127.0.0.3.
func freeOnAll(t *testing.T, n int) (ports []string) {
	t.Helper()
	for tries := 0; len(ports) < n && tries < 200; tries++ {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(first.Addr().String())
		free := true
		for _, host := range []string{"127.0.0.2", "127.0.0.3"} {
			l, err := net.Listen("tcp", host+":"+port)
			if err != nil {
				t.Logf("port %s of %s: %v", port, host, err)
				free = false
				continue
			}
			defer l.Close()
		}
		defer first.Close() // only now, so that no port is chosen twice
		if free {
			ports = append(ports, port)
		}
	}
	if len(ports) < n {
		t.Skip("127.0.0.2 and 127.0.0.3 are no addresses of this machine")
	}
	return ports
}

// TestClusterDocs_FromNothing does what docs/cluster.md says about three machines, with the addresses 127.0.0.1 to 127.0.0.3 and folders in
// their place: the certificates, the settings of etcd, the configuration of each node, and the commands.
func TestClusterDocs_FromNothing(t *testing.T) {
	program.NotQuick(t)
	dir, ports := t.TempDir(), freeOnAll(t, 2)
	places := func(machine int) *strings.Replacer {
		return strings.NewReplacer("10.0.0.1", "127.0.0.1", "10.0.0.2", "127.0.0.2", "10.0.0.3", "127.0.0.3", ":2379", ":"+ports[0], ":2380", ":"+ports[1],
			"/etc/etcd/", dir+"/", "/etc/latchkey/", dir+"/")
	}
	script := exec.Command("sh", "-eu", "-c", places(1).Replace(clusterBlock(t, "sh", "openssl")))
	script.Dir = dir
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("make the certificates: %v, %s", err, out)
	}
	settings, toml := clusterBlock(t, "sh", "ETCD_NAME"), clusterBlock(t, "toml", "[cluster]")
	commands, settingsOf, endEtcd := map[int]func(args ...string) *exec.Cmd{}, map[int][]string{}, map[int]func(){}
	for machine := 1; machine <= 3; machine++ {
		mine := settings
		for _, line := range []string{"ETCD_NAME=etcd-1", "ETCD_CERT_FILE=/etc/etcd/etcd-10.0.0.1.crt", "ETCD_LISTEN_CLIENT_URLS=https://10.0.0.1:2379"} {
			if !strings.Contains(mine, line+"\n") {
				t.Fatalf("the settings of etcd lack %s", line)
			}
		}
		var env []string
		for line := range strings.Lines(mine) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "ETCD_INITIAL_CLUSTER=") {
				line = strings.NewReplacer("etcd-10.0.0.1", fmt.Sprintf("etcd-10.0.0.%d", machine), "etcd-1", fmt.Sprintf("etcd-%d", machine), "10.0.0.1", fmt.Sprintf("10.0.0.%d", machine)).Replace(line)
			}
			env = append(env, places(machine).Replace(line))
		}
		env = append(env, "ETCD_DATA_DIR="+filepath.Join(dir, fmt.Sprintf("etcd-%d", machine)), "PATH=/nowhere")
		settingsOf[machine], endEtcd[machine] = env, startEtcd(t, env)
		file := fmt.Sprintf("latchkey-%d.toml", machine)
		config := strings.NewReplacer(`name = "a"`, fmt.Sprintf(`name = "%c"`, 'a'+machine-1), "etcd-10.0.0.1", fmt.Sprintf("etcd-10.0.0.%d", machine)).Replace(toml)
		overwrite(t, dir, file, places(machine).Replace(config))
		data := filepath.Join(dir, fmt.Sprintf("data-%d", machine))
		commands[machine] = func(args ...string) *exec.Cmd {
			return program.ClusterCommand(t, append(args, "--config", filepath.Join(dir, file), "--data", data)...)
		}
	}
	command := func(machine int, block string) *exec.Cmd {
		line := strings.TrimSpace(clusterBlock(t, "sh", block))
		return commands[machine](strings.Fields(strings.TrimPrefix(line, "latchkey "))...)
	}
	var out, errs string
	for until := time.Now().Add(60 * time.Second); ; time.Sleep(300 * time.Millisecond) { // etcd may not have a leader yet
		var exit int
		if out, errs, exit = program.RunCommand(t, command(1, "latchkey cluster init\n")); exit == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("cluster init: exit %d, %s", exit, errs)
		}
	}
	pepper := regexp.MustCompile(`the pepper file (\S+) to each node`).FindStringSubmatch(out)
	if pepper == nil {
		t.Fatalf("cluster init does not name the pepper file: %s", out)
	}
	text, err := os.ReadFile(pepper[1])
	if err != nil {
		t.Fatal(err)
	}
	var servers []*program.Server
	for machine := 1; machine <= 3; machine++ {
		data := filepath.Join(dir, fmt.Sprintf("data-%d", machine))
		if machine > 1 {
			if err := os.Mkdir(data, 0o700); err != nil {
				t.Fatal(err)
			}
			overwrite(t, data, "pepper", string(text))
			if err := os.Chmod(filepath.Join(data, "pepper"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		serve := command(machine, "latchkey serve\n")
		serve.Args = append(serve.Args, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		servers = append(servers, program.ServeCommand(t, serve, data))
	}
	allRun := func(what string) {
		t.Helper()
		for until := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out, errs, exit := program.RunCommand(t, command(1, "latchkey cluster nodes\n"))
			if exit == 0 && strings.Contains(out, "3 of 3 nodes run.") {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%s: cluster nodes: exit %d, %s%s", what, exit, out, errs)
			}
		}
	}
	allRun("from nothing")

	// Two of the etcd servers are lost for good, and the third goes on alone.
	for machine := 1; machine <= 3; machine++ {
		endEtcd[machine]()
	}
	for _, node := range servers {
		awaitReady(t, node, http.StatusServiceUnavailable)
	}
	alone := regexp.MustCompile(`echo (\S+) >> /etc/default/etcd`).FindStringSubmatch(clusterBlock(t, "sh", "systemctl restart etcd"))
	if alone == nil {
		t.Fatal("docs/cluster.md does not say how a server goes on alone")
	}
	end := startEtcd(t, append(settingsOf[1], alone[1]))
	for _, node := range servers {
		awaitReady(t, node, http.StatusOK)
	}
	end()
	startEtcd(t, settingsOf[1])
	for _, node := range servers {
		awaitReady(t, node, http.StatusOK)
	}
	allRun("with one etcd server")
}

// awaitReady waits until /readyz of a node answers with a status.
func awaitReady(t *testing.T, node *program.Server, status int) {
	t.Helper()
	for until := time.Now().Add(90 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if got, _ := node.Get(t, "/readyz", ""); got == status {
			return
		}
	}
	t.Fatalf("/readyz never answered %d; %s", status, node.Out.Tail())
}

// startEtcd starts an etcd server with an environment, until the test ends or end is called.
func startEtcd(t *testing.T, env []string) (end func()) {
	t.Helper()
	etcd, out := exec.Command("etcd", "--logger=zap", "--log-level=error"), &program.Output{}
	etcd.Env, etcd.Stdout, etcd.Stderr = env, out, out
	if err := etcd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = etcd.Process.Kill()
		_ = etcd.Wait()
		if t.Failed() {
			t.Log(out.Tail())
		}
	})
	t.Cleanup(end)
	return end
}

// TestClusterDocs_Commands holds the commands in docs/cluster.md that are not run against the help of the program: each exists.
func TestClusterDocs_Commands(t *testing.T) {
	tried := 0
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(read(t, "docs/cluster.md"), -1) {
		for line := range strings.Lines(m[1]) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "latchkey" {
				continue
			}
			for len(words) > 2 && strings.HasPrefix(words[1], "--") {
				words = append(words[:1], words[3:]...)
			}
			args := []string{words[1]}
			if words[1] == "cluster" {
				args = append(args, words[2])
			}
			help, errs, exit := program.RunCommand(t, program.ClusterCommand(t, append(args, "--help")...))
			if exit != 0 || !strings.Contains(help, "latchkey "+strings.Join(args, " ")) {
				t.Errorf("%s: exit %d, %s%s", strings.TrimSpace(line), exit, help, errs)
			}
			for _, word := range words {
				if strings.HasPrefix(word, "--") && !strings.Contains(help, word) {
					t.Errorf("%s: the command has no flag %s", strings.TrimSpace(line), word)
				}
			}
			tried++
		}
	}
	if tried < 7 {
		t.Errorf("tried %d commands", tried)
	}
}
