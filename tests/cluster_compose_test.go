//go:build unix

package tests

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"latchkey/tests/program"
)

// composeService is a service of packaging/compose.cluster.yaml.
type composeService struct {
	Image       string
	Build       map[string]any
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
}

// env returns the environment of a service outside of a container: in is what its files, names and addresses are here.
func (s composeService) env(in *strings.Replacer) (env []string) {
	for name, value := range s.Environment {
		env = append(env, name+"="+in.Replace(value))
	}
	return env
}

// TestClusterCompose does what packaging/compose.cluster.yaml says without containers: the services are processes, and their volumes are
// folders.
func TestClusterCompose(t *testing.T) {
	program.NotQuick(t)
	var file struct {
		Services map[string]composeService
		Volumes  map[string]any
	}
	text := read(t, "packaging/compose.cluster.yaml")
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(file.Services)), []string{"certificates", "etcd-1", "etcd-2", "etcd-3", "node-a", "node-b"}; !slices.Equal(got, want) {
		t.Fatalf("got the services %q, want %q", got, want)
	}
	used := map[string]bool{}
	for name, s := range file.Services {
		if s.Image == "" {
			t.Errorf("%s has no image", name)
		}
		for _, volume := range s.Volumes {
			from, _, _ := strings.Cut(volume, ":")
			if _, ok := file.Volumes[from]; !ok {
				t.Errorf("%s: the volume %s is not declared", name, volume)
			}
			used[from] = true
		}
		for _, port := range s.Ports {
			if !regexp.MustCompile(`^127\.0\.0\.1:\d+:808[01]$`).MatchString(port) {
				t.Errorf("%s publishes %s", name, port)
			}
		}
	}
	if len(used) != len(file.Volumes) {
		t.Errorf("got the volumes %v, and %d are used", file.Volumes, len(used))
	}
	settings := clusterBlock(t, "sh", "ETCD_NAME")
	for _, m := range regexp.MustCompile(`(?m)^(ETCD_\w+)=(.*)$`).FindAllStringSubmatch(settings, -1) {
		got, ok := file.Services["etcd-1"].Environment[m[1]]
		if !ok || !strings.ContainsAny(m[2], "/.-") && got != m[2] {
			t.Errorf("%s is %q, and docs/cluster.md has %q", m[1], got, m[2])
		}
	}
	for line := range strings.Lines(clusterBlock(t, "sh", "docker compose")) {
		if !strings.Contains(text, "#   "+line) {
			t.Errorf("the file lacks the command of docs/cluster.md: %s", line)
		}
	}

	dir, ports := t.TempDir(), freeOnAll(t, 2)
	in := func(name string) *strings.Replacer {
		pairs := []string{"/certificates", dir, "/pepper/", filepath.Join(dir, "pepper") + "/", "/var/lib/etcd", filepath.Join(dir, name+"-data"), "/pepper", filepath.Join(dir, "pepper"), "$$", "$",
			"0.0.0.0:2379", "127.0.0." + name[len(name)-1:] + ":" + ports[0], "0.0.0.0:2380", "127.0.0." + name[len(name)-1:] + ":" + ports[1], "65532:65532", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())}
		for i := 1; i <= 3; i++ {
			pairs = append(pairs, fmt.Sprintf("//etcd-%d:2379", i), fmt.Sprintf("//127.0.0.%d:%s", i, ports[0]), fmt.Sprintf("//etcd-%d:2380", i), fmt.Sprintf("//127.0.0.%d:%s", i, ports[1]),
				fmt.Sprintf("DNS:etcd-%d", i), fmt.Sprintf("IP:127.0.0.%d", i))
		}
		return strings.NewReplacer(pairs...)
	}
	once := file.Services["certificates"]
	for range 2 { // docker compose up starts it each time
		args := append(slices.Clone(once.Entrypoint), in("-").Replace(once.Command[0]))
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("certificates: %v, %s", err, out)
		}
	}
	for _, name := range []string{"etcd-1", "etcd-2", "etcd-3"} {
		startEtcd(t, append(file.Services[name].env(in(name)), "PATH=/nowhere"))
	}
	data := func(name string) string { return filepath.Join(dir, name) }
	command := func(name string, args ...string) *exec.Cmd {
		c := program.ClusterCommand(t, append(args, "--data", data(name))...)
		c.Env = append(c.Env, file.Services[name].env(in(name))...)
		return c
	}
	for until := time.Now().Add(60 * time.Second); ; time.Sleep(300 * time.Millisecond) { // etcd may not have a leader yet
		_, errs, exit := program.RunCommand(t, command("node-a", "cluster", "init"))
		if exit == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("cluster init: exit %d, %s", exit, errs)
		}
	}
	for _, name := range []string{"node-a", "node-b"} {
		program.ServeCommand(t, command(name, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), data(name))
	}
	for until := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, errs, exit := program.RunCommand(t, command("node-a", "cluster", "nodes"))
		if exit == 0 && strings.Contains(out, "2 of 2 nodes run.") {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("cluster nodes: exit %d, %s%s", exit, out, errs)
		}
	}
}
