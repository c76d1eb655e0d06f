//go:build unix

package tests

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"latchkey/tests/program"
)

// balancedRecipe returns the only block of a language in docs/cluster-proxies.md.
func balancedRecipe(t *testing.T, language string) string {
	t.Helper()
	blocks := regexp.MustCompile("(?s)\n```"+language+"\n(.*?\n)```").FindAllStringSubmatch(read(t, "docs/cluster-proxies.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/cluster-proxies.md has %d blocks of %s, want one", len(blocks), language)
	}
	return blocks[0][1]
}

// standIn answers in the place of a node.
type standIn struct {
	name, address string
	server        *http.Server

	mu    sync.Mutex
	ready bool
	asked int            // requests for something else than /readyz
	ids   map[string]int // how often each Request-Number was received
}

// ServeHTTP answers with the name of the node, or with 503 to every request while it is not ready. /fails is always answered with 503.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != "/readyz" {
		s.asked++
		s.ids[r.Header.Get("Request-Number")]++
	}
	if r.Header.Get("Node-Key") != "" {
		w.WriteHeader(http.StatusTeapot) // the proxy's own field must not reach a node
		return
	}
	if !s.ready || r.URL.Path == "/fails" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, s.name)
}

// listen serves at the address.
func (s *standIn) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.server = &http.Server{Handler: s}
	go func() { _ = s.server.Serve(l) }()
}

func (s *standIn) set(ready bool) (asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = ready
	return s.asked
}

// balanced is a proxy in front of three stand-ins.
type balanced struct {
	*testing.T
	nodes  []*standIn
	proxy  string
	keys   []string
	number int
}

// newBalanced starts the proxy of a recipe. find returns the path of its program, and command the command that runs it. The recipe is
// changed only in its addresses.
func newBalanced(t *testing.T, language string, find func(*testing.T) string, command func(path, text string, s setup) *exec.Cmd) *balanced {
	t.Helper()
	program.NotQuick(t)
	path := find(t)
	b := &balanced{T: t}
	dir, text := t.TempDir(), balancedRecipe(t, language)
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &standIn{name: string(rune('a' + i)), address: l.Addr().String(), ready: true, ids: map[string]int{}}
		_ = l.Close()
		s.listen(t)
		t.Cleanup(func() { _ = s.server.Close() })
		b.nodes = append(b.nodes, s)
		text = filled(t, text, fmt.Sprintf("10.0.0.%d:8080", i+1), s.address)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.proxy = l.Addr().String()
	_ = l.Close()
	out := &program.Output{}
	cmd := command(path, text, setup{dir: dir, listen: b.proxy})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.Tail())
		}
	})
	for range 60 {
		b.keys = append(b.keys, newSecret("klen_"))
	}
	b.until("the proxy answers for all keys", func() bool { return !slices.Contains(slices.Collect(maps.Values(b.where())), "") })
	return b
}

// until waits for a condition.
func (b *balanced) until(what string, is func() bool) {
	b.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if is() {
			return
		}
	}
	b.Fatalf("%s: never", what)
}

// send sends a request with a field. It returns the node that has answered, or "" if the answer is not 200, and the number of the request.
func (b *balanced) send(method, path, field, value string) (node, number string) {
	b.Helper()
	r, err := http.NewRequest(method, "http://"+b.proxy+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	if field != "" {
		r.Header.Set(field, value)
	}
	b.number++
	number = fmt.Sprint(b.number)
	r.Header.Set("Request-Number", number)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", number
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return "", number
	}
	return string(body), number
}

// where returns the node of each key, which is asked with the method GET.
func (b *balanced) where() map[string]string {
	b.Helper()
	nodes := map[string]string{}
	for _, key := range b.keys {
		nodes[key], _ = b.send("GET", "/api/v1/agents", "Authorization", "Bearer "+key)
	}
	return nodes
}

// check tests what the page says about all proxies. checked means that the proxy asks /readyz.
func (b *balanced) check(checked bool) {
	b.Helper()
	home := b.where()
	count := map[string]int{}
	for _, key := range b.keys {
		count[home[key]]++
		for _, way := range []struct{ path, field, value string }{
			{"/api/v1/agents?x=1", "Authorization", "Bearer " + key}, {"/api/v1/calls", "Authorization", "bearer " + key},
			{"/api/v1/agents", "X-API-Key", key}, {"/api/v1/agents?api_key=" + key, "", ""}, {"/api/v1/agents?x=1&api_key=" + key + "&y=2", "", ""},
		} {
			if node, _ := b.send("GET", way.path, way.field, way.value); node != home[key] {
				b.Errorf("a key that belongs to node %s reaches %q by %s %s", home[key], node, way.path, way.field)
			}
		}
		if node, _ := b.send("POST", "/api/v1/agents", "X-API-Key", key); node != home[key] {
			b.Errorf("POST with a key that belongs to node %s reaches %q", home[key], node)
		}
	}
	if len(count) != 3 || count[""] > 0 {
		b.Fatalf("60 keys are spread as %v, want all over three nodes", count)
	}
	if node, _ := b.send("GET", "/api/v1/agents", "", ""); node == "" {
		b.Error("a request without a key reaches no node")
	}
	left := b.nodes[1]
	moved := func() bool {
		for key, node := range b.where() {
			if node == "" || node == left.name || home[key] != left.name && node != home[key] {
				return false
			}
		}
		return true
	}
	left.set(false)
	b.until("the keys of a node that is not ready are on the others, and all others where they were", moved)
	if checked {
		unasked := func() bool {
			before := left.set(false)
			return moved() && left.set(false) == before
		}
		b.until("a node that is not ready gets no requests", unasked)
		if !unasked() {
			b.Error("a node that is not ready gets requests again")
		}
	}
	left.set(true)
	b.until("the keys of a node that is ready again are back", func() bool { return maps.Equal(b.where(), home) })
	b.refused(left, home)
	b.once(left, home)
}

// refused ends a node, so that connections to it are refused: its keys are answered by another at once, whatever the method.
func (b *balanced) refused(left *standIn, home map[string]string) {
	b.Helper()
	_ = left.server.Close()
	for _, key := range b.keys {
		for _, method := range []string{"GET", "POST"} {
			if node, _ := b.send(method, "/api/v1/agents", "X-API-Key", key); node == "" || node == left.name {
				b.Errorf("%s with a key of node %s, which has ended: got %q", method, home[key], node)
			}
		}
	}
	left.listen(b.T)
	b.until("the keys of a node that was started again are back", func() bool { return maps.Equal(b.where(), home) })
}

// once sends requests that a node answers with 503 although it is ready: one that changes something is sent once.
func (b *balanced) once(left *standIn, home map[string]string) {
	b.Helper()
	for _, key := range b.keys {
		if home[key] != left.name {
			continue
		}
		_, number := b.send("POST", "/fails", "X-API-Key", key)
		times := 0
		for _, s := range b.nodes {
			s.mu.Lock()
			times += s.ids[number]
			s.mu.Unlock()
		}
		if times != 1 {
			b.Errorf("a POST that was answered with 503 was sent %d times, want once", times)
		}
		return
	}
}

func TestClusterProxies_HAProxy(t *testing.T) {
	newBalanced(t, "haproxy", haproxyProgram, func(haproxy, text string, s setup) *exec.Cmd {
		overwrite(t, s.dir, "haproxy.cfg", filled(t, text, "bind :80", "bind "+s.listen))
		return exec.Command(haproxy, "-db", "-n", "200", "-f", filepath.Join(s.dir, "haproxy.cfg"))
	}).check(true)
}

func TestClusterProxies_Nginx(t *testing.T) {
	newBalanced(t, "nginx", nginxProgram, func(nginx, text string, s setup) *exec.Cmd {
		overwrite(t, s.dir, "nginx.conf", nginxFile(s.dir, filled(t, text, "listen 80;", "listen "+s.listen+";")))
		return exec.Command(nginx, "-p", s.dir, "-c", filepath.Join(s.dir, "nginx.conf"), "-e", "stderr")
	}).check(false)
}

func TestClusterProxies_Caddy(t *testing.T) {
	newBalanced(t, "caddyfile", caddyProgram, func(caddy, text string, s setup) *exec.Cmd {
		overwrite(t, s.dir, "Caddyfile", "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n"+filled(t, text, "keys.example.com {", "http://"+s.listen+" {\n\tbind 127.0.0.1"))
		cmd := exec.Command(caddy, "run", "--config", filepath.Join(s.dir, "Caddyfile"), "--adapter", "caddyfile")
		cmd.Env = []string{"HOME=" + s.dir, "XDG_CONFIG_HOME=" + s.dir, "XDG_DATA_HOME=" + s.dir}
		return cmd
	}).check(true)
}

// TestClusterProxies_Envoy reads the recipe that is not run.
func TestClusterProxies_Envoy(t *testing.T) {
	var envoy struct {
		Route struct {
			HashPolicy []struct {
				Header struct {
					Name string `yaml:"header_name"`
				}
				Query    struct{ Name string } `yaml:"query_parameter"`
				Terminal bool
			} `yaml:"hash_policy"`
			Retry struct {
				On string `yaml:"retry_on"`
			} `yaml:"retry_policy"`
		}
		Clusters []struct {
			Policy string `yaml:"lb_policy"`
			Health []struct {
				HTTP struct{ Path string } `yaml:"http_health_check"`
			} `yaml:"health_checks"`
		}
	}
	if err := yaml.Unmarshal([]byte(balancedRecipe(t, "yaml")), &envoy); err != nil {
		t.Fatal(err)
	}
	p := envoy.Route.HashPolicy
	if len(p) != 4 || p[0].Header.Name != "authorization" || p[1].Header.Name != "x-api-key" || p[2].Query.Name != "api_key" || !p[0].Terminal || !p[1].Terminal || !p[2].Terminal {
		t.Errorf("got %+v", p)
	}
	if envoy.Route.Retry.On != "connect-failure,refused-stream" || len(envoy.Clusters) != 1 || envoy.Clusters[0].Policy != "RING_HASH" || envoy.Clusters[0].Health[0].HTTP.Path != "/readyz" {
		t.Errorf("got %+v", envoy)
	}
}
