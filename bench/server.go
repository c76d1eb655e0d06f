package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a running server process.
type server struct {
	command *exec.Cmd
	url     string
	ready   time.Duration // from the start of the process to its first answer
	log     *os.File      // its output, which is removed at the end
}

// command returns a command whose output goes to standard error.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c
}

// The server that is measured has one core to itself. The load and the upstream of the proxies share
// the other core.
const (
	serverCore = "0"
	loadCore   = "1"
)

// process describes how to start a server.
type process struct {
	core string
	args []string // the program and its arguments
	env  []string
	url  string // where it listens; "" if it prints that
	path string // URL path of a request that it answers
	key  string // the key for that request; "" for none
}

// printed matches the URL that our program and the ceilings print when they listen.
var printed = regexp.MustCompile(`(?:"api":"|listening on )(http://[^"\s]+)`)

// launch starts a server. It waits until the server has answered a request. The output of the server,
// with its log of requests, goes to a file.
func (b *bench) launch(p process) (*server, error) {
	out, err := os.CreateTemp(b.dir, "output-")
	if err != nil {
		return nil, err
	}
	c := exec.Command("taskset", append([]string{"-c", p.core}, p.args...)...)
	c.Env = append(os.Environ(), p.env...)
	c.Stdout, c.Stderr = out, out
	s := &server{command: c, log: out, url: p.url}
	began := time.Now()
	if err := c.Start(); err != nil {
		return nil, err
	}
	late := began.Add(time.Minute)
	for s.ready == 0 {
		if time.Now().After(late) {
			return nil, s.stop(fmt.Errorf("%v did not answer within a minute: %s", p.args, s.output()))
		}
		if s.url == "" {
			if m := printed.FindSubmatch(s.output()); m != nil {
				s.url = string(m[1])
			}
		}
		if s.url != "" && answers(s.url+p.path, p.key) {
			s.ready = time.Since(began)
			break
		}
		time.Sleep(time.Millisecond)
	}
	return s, nil
}

// output returns the first output of the server.
func (s *server) output() []byte {
	text := make([]byte, 64<<10)
	n, _ := s.log.ReadAt(text, 0)
	return text[:n]
}

// answers reports whether a server answers a request with the status 200.
func answers(url, key string) bool {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return false
	}
	if key != "" {
		r.Header.Set("X-API-Key", key)
	}
	answer, err := http.DefaultClient.Do(r)
	return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}

// stop ends the process. It returns err joined with the errors of ending it.
func (s *server) stop(err error) error {
	_ = s.command.Process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	waitErr := s.command.Wait()
	if errors.As(waitErr, &exit) {
		status := exit.ProcessState.Sys().(syscall.WaitStatus)
		if status.Signal() == syscall.SIGTERM || status.ExitStatus() == 128+int(syscall.SIGTERM) {
			waitErr = nil // not every server handles SIGTERM; HAProxy exits with its number
		}
	}
	if err != nil || waitErr != nil {
		waitErr = errors.Join(waitErr, fmt.Errorf("its output: %.2000s", s.output()))
	}
	return errors.Join(err, waitErr, s.log.Close(), os.Remove(s.log.Name()))
}

// ceiling returns a function that starts the program ceiling on a core. The ceiling answers requests
// for path.
func (b *bench) ceiling(core, path string, args ...string) func() (*server, error) {
	return func() (*server, error) {
		return b.launch(process{core: core, path: path, args: append([]string{filepath.Join(b.dir, "ceiling"), "-path", path}, args...)})
	}
}

// buildPeers builds the program peers, if that has not been done.
func (b *bench) buildPeers() error {
	file := filepath.Join(b.dir, "peers")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := command("go", "build", "-C", "bench/peers", "-trimpath", "-o", file, ".").Run(); err != nil {
		return fmt.Errorf("the servers of bench/peers, which could not be built: %w", err)
	}
	return nil
}

// peer returns a function that starts one of the servers of the program peers. keys is the path of the
// file with the keys that it knows; "" if it checks none.
func (b *bench) peer(name, keys string) func() (*server, error) {
	return func() (*server, error) {
		p := process{core: serverCore, path: agentsPath, args: []string{filepath.Join(b.dir, "peers"), "-server", name, "-path", agentsPath, "-body", filepath.Join(b.dir, "body")}}
		if keys != "" {
			list, err := os.ReadFile(keys)
			if err != nil {
				return nil, err
			}
			p.key, _, _ = strings.Cut(string(list), "\n")
			p.args = append(p.args, "-keys", keys)
		}
		return b.launch(p)
	}
}

// build is a build of our program. Each has data folders of its own, because an older one cannot open
// what a newer one has written.
type build struct {
	name    string
	program string // its path
	beside  bool   // whether it is the one of -beside
}

// builds returns the builds to measure, this one first.
func (b *bench) builds() []build {
	list := []build{{name: ours, program: filepath.Join(b.dir, "latchkey")}}
	if b.beside != "" {
		list = append(list, build{name: "the other build", program: b.beside, beside: true})
	}
	return list
}

// store is a data folder of a build.
type store struct {
	bench  *bench
	build  build
	folder string
	keys   string // path of a file with its keys
	used   string // path of a file with those that requests use; "" for all
}

// path returns the path of the data folder.
func (s store) path() string {
	if s.build.beside {
		return filepath.Join(s.bench.dir, "beside-"+s.folder)
	}
	return filepath.Join(s.bench.dir, s.folder)
}

// starter returns a function that starts a server with the data folder, without a log of requests.
func (s store) starter(args ...string) func() (*server, error) { return s.start("false", args) }

// logging is like starter. logged is whether the server logs each request, as it does without settings.
func (s store) logging(logged bool) func() (*server, error) {
	return s.start(strconv.FormatBool(logged), nil)
}

// start returns a function that starts a server with a value of the setting log.access.
func (s store) start(access string, args []string) func() (*server, error) {
	return func() (*server, error) {
		return s.bench.launch(process{
			core: serverCore, path: "/healthz", env: []string{"LATCHKEY_LOG_ACCESS=" + access, "LATCHKEY_LOG_FORMAT=json", "LATCHKEY_AUDIT_MAX_ENTRIES=5000000"},
			args: append([]string{s.build.program, "serve", "--data", s.path(), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, args...),
		})
	}
}

// run runs a command of the build with the data folder and returns its standard output.
func (s store) run(stdin string, args ...string) ([]byte, error) {
	c := exec.Command(s.build.program, append(args, "--data", s.path())...)
	c.Stdin, c.Stderr = strings.NewReader(stdin), os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("latchkey %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// firstKeys returns the path of a file with the first n keys of the store.
func (s store) firstKeys(n int) (string, error) {
	all, err := os.ReadFile(s.keys)
	if err != nil {
		return "", err
	}
	lines := strings.SplitAfterN(string(all), "\n", n+1)
	file := fmt.Sprintf("%s.%d", s.keys, n)
	return file, os.WriteFile(file, []byte(strings.Join(lines[:min(n, len(lines))], "")), 0o600)
}

// seedAll creates a store for each build.
func (b *bench) seedAll(folder string, count int) ([]store, error) {
	var list []store
	for _, of := range b.builds() {
		s, err := b.seed(of, folder, count)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", of.name, err)
		}
		list = append(list, s)
	}
	return list, nil
}

// seed creates a data folder with an agent and some keys. In the folder "owners" each key has an owner
// and an agent of its own. It also saves an answer of the server, with which the ceilings answer.
func (b *bench) seed(of build, folder string, count int) (store, error) {
	made := store{bench: b, build: of, folder: folder}
	made.keys = made.path() + ".keys"
	s, err := made.starter()()
	if err != nil {
		return made, err
	}
	return made, s.stop(made.fill(s.url, count))
}

// fill creates the records of a new store through its running server.
func (s store) fill(url string, count int) error {
	if _, err := s.run("", "agents", "create", "--name", "Front desk", "--phone", "+4930555001"); err != nil {
		return err
	}
	var list bytes.Buffer
	for i := range count {
		args := []string{"keys", "create", "--name", fmt.Sprint("bench ", i), "--permission", "can_read_agents", "--permission", "can_initiate_calls",
			"--limit", "requests_per_minute_limit=100000000", "--limit", "calls_per_day_limit=1000000", "--json"}
		owner := fmt.Sprint("owner ", i)
		if s.folder == "owners" {
			args = append(args, "--owner", owner)
		}
		out, err := s.run("", args...)
		if err == nil && s.folder == "owners" {
			_, err = s.run("", "agents", "create", "--name", owner, "--owner", owner, "--phone", fmt.Sprintf("+4930555%04d", i))
		}
		if err != nil {
			return err
		}
		var made struct{ Key string }
		if err := json.Unmarshal(out, &made); err != nil {
			return err
		}
		fmt.Fprintln(&list, made.Key)
	}
	first, _, _ := strings.Cut(list.String(), "\n")
	if err := s.bench.saveBody(url, first); err != nil {
		return err
	}
	return os.WriteFile(s.keys, list.Bytes(), 0o600)
}

// saveBody requests GET /api/v1/agents and stores the body of the answer for the ceiling.
func (b *bench) saveBody(url, key string) error {
	r, err := http.NewRequest("GET", url+"/api/v1/agents", nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-API-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /api/v1/agents: status %d, %v", answer.StatusCode, err)
	}
	return os.WriteFile(filepath.Join(b.dir, "body"), body, 0o600)
}

// usage returns the CPU time that a process has used, and the memory that it has in RAM, in bytes.
func usage(pid int) (cpu time.Duration, rss int64, err error) {
	p, err := readProcess(pid)
	return p.cpu, p.rss, err
}

// treeUsage is like usage, for a process and all processes that it or its child processes have started.
func treeUsage(pid int) (cpu time.Duration, rss int64, err error) {
	if cpu, rss, err = usage(pid); err != nil {
		return 0, 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, 0, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(child); err == nil && p.parent == pid {
			childCPU, childRSS, err := treeUsage(child)
			if err != nil {
				return 0, 0, err
			}
			cpu, rss = cpu+childCPU, rss+childRSS
		}
	}
	return cpu, rss, nil
}

// running is what the system says of a process.
type running struct {
	parent int
	cpu    time.Duration
	rss    int64 // in bytes
}

// readProcess reads /proc/PID/stat.
func readProcess(pid int) (p running, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // fields[0] is the third field of the file
	if len(fields) < 22 {
		return p, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields)+2)
	}
	var numbers [4]int64
	for i, at := range []int{1, 11, 12, 21} { // parent, utime and stime in 1/100 s, pages
		if numbers[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
			return p, err
		}
	}
	p.parent = int(numbers[0])
	p.cpu = time.Duration(numbers[1]+numbers[2]) * 10 * time.Millisecond
	p.rss = numbers[3] * int64(os.Getpagesize())
	return p, nil
}
