package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"latchkey/tests/program"
)

// toolCommand returns a command of the system, such as a packaging tool.
func toolCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	program.NotQuick(t)
	return exec.Command(name, args...)
}

// tool runs a command of the system and returns what it printed.
func tool(t *testing.T, dir string, environ []string, name string, args ...string) string {
	t.Helper()
	c := toolCommand(t, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), environ...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestPackaging_man(t *testing.T) {
	page, errs, exit := program.Run(t, "man")
	if exit != 0 || errs != "" {
		t.Fatalf("got exit %d, %s", exit, errs)
	}
	file := filepath.Join(t.TempDir(), "latchkey.1")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	c := toolCommand(t, "man", "--warnings", "-l", file)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "MANWIDTH=100"}
	var out, warnings bytes.Buffer
	c.Stdout, c.Stderr = &out, &warnings
	if err := c.Run(); err != nil || warnings.Len() != 0 {
		t.Errorf("got %v and warnings %s, want none", err, &warnings)
	}
	for _, want := range []string{"latchkey keys create", "latchkey admin token revoke", "--permission", "--ca FILE", "EXIT STATUS"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

func TestPackaging_completion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "pwsh"} {
		out, errs, exit := program.Run(t, "completion", shell)
		if exit != 0 || !strings.Contains(out, "latchkey") && shell != "pwsh" || len(out) < 200 { // that of pwsh takes its name from the file
			t.Errorf("%s: got exit %d, %q %s", shell, exit, out, errs)
		}
		if shell == "bash" {
			file := filepath.Join(t.TempDir(), "completion")
			if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "", nil, "bash", "-n", file)
		}
	}
	if out, _, _ := program.Run(t, "keys", "--generate-shell-completion"); !strings.Contains(out, "rotate") {
		t.Errorf("after keys: got %q, want its commands", out)
	}
}

// TestPackaging_otherShells completes command lines in the other shells that are installed. In zsh the
// test takes the place of its completion system.
func TestPackaging_otherShells(t *testing.T) {
	for shell, script := range map[string]string{
		"bash": `source <(latchkey completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _latchkey; printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh": `compdef() { }; compadd() { print -rl -- $values; }; _files() { print -r -- files; }
			source <(latchkey completion zsh); words=("$@"); CURRENT=$#; _latchkey`,
		"fish": `latchkey completion fish | source; complete -C "$argv"`,
	} {
		path, err := exec.LookPath(shell)
		if err != nil && shell != "bash" {
			t.Logf("%s is not installed", shell)
			continue
		}
		for line, want := range map[string]string{
			"ke": "keys", "keys ro": "rotate", "keys rotate --if": "--if-unused", "--json keys list --status ": "paused", "keys import --from ": "litellm",
			"completion ": "fish",
		} {
			words := append([]string{"latchkey"}, strings.Split(line, " ")...)
			args := []string{"-c", script, shell}
			if shell == "fish" {
				words, args = []string{strings.Join(words, " ")}, []string{"--no-config", "-c", script}
			}
			c := exec.Command(path, append(args, words...)...)
			c.Env, c.Dir = []string{"PATH=" + filepath.Dir(program.Path(t)) + ":/usr/bin:/bin", "HOME=" + t.TempDir()}, t.TempDir()
			var errs bytes.Buffer
			c.Stderr = &errs
			out, err := c.Output()
			var got []string
			for row := range strings.Lines(string(out)) {
				word, _, _ := strings.Cut(strings.TrimSpace(row), "\t")
				got = append(got, word)
			}
			if err != nil || errs.Len() > 0 || !slices.Contains(got, want) || slices.Contains(got, "help") {
				t.Errorf("%s, latchkey %s: got %q, %v, %s; want %q", shell, line, out, err, &errs, want)
			}
		}
	}
}

// TestPackaging_completed completes command lines in a bash without any other completion, beside a
// server and without one.
func TestPackaging_completed(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	for _, args := range [][]string{
		{"keys", "create", "--name", "nightly", "--owner", "ann", "--permission", "all"}, {"keys", "create", "--name", "$(touch x); a b", "--permission", "all"},
		{"webhooks", "create", "--name", "w", "--target", "https://hooks.example.net/", "--event", "all"}, {"agents", "create", "--name", "desk"},
		{"admin", "token", "create", "--name", "ops"}, {"contacts", "create", "--first-name", "Mara"},
	} {
		if _, errs, exit := program.Run(t, append(args, "--data", data)...); exit != 0 {
			t.Fatalf("%q: exit %d, %s", args, exit, errs)
		}
	}
	const script = `source <(latchkey completion bash); COMP_WORDS=(latchkey "$@"); COMP_CWORD=$#; _latchkey; echo "status $?"; printf '%s\n' "${COMPREPLY[@]}"`
	complete := func(words ...string) string {
		t.Helper()
		c := exec.Command(bash, append([]string{"--norc", "--noprofile", "-c", script, "bash"}, words...)...)
		c.Env, c.Dir = []string{"PATH=" + filepath.Dir(program.Path(t)), "HOME=" + t.TempDir()}, t.TempDir()
		var errs bytes.Buffer
		c.Stderr = &errs
		began := time.Now()
		out, err := c.Output()
		if err != nil || errs.Len() > 0 || !strings.HasPrefix(string(out), "status 0\n") || time.Since(began) > 20*time.Second {
			t.Errorf("%q: %v, %s after %s, want no message", words, err, errs.String(), time.Since(began))
		}
		return strings.Join(strings.Fields(strings.TrimPrefix(string(out), "status 0\n")), " ")
	}
	from := []string{"--data", data}
	for _, tt := range []struct {
		words []string
		want  string // in the proposals
	}{
		{[]string{"ke"}, "keys"},
		{[]string{"keys", "ro"}, "rotate"},
		{[]string{"keys", "rotate", "--if"}, "--if-unused"},
		{[]string{"keys", "import", "--from", ""}, "unkey litellm"},
		{[]string{"keys", "show", "key_"}, "key_"},
		{[]string{"keys", "rotate", "--finish", "ni"}, "nightly"},
		{[]string{"usage", "--key", "ni"}, "nightly"},
		{[]string{"keys", "create", "--permission", "can_read_ca"}, "can_read_calls"},
		{[]string{"keys", "create", "--limit", "requests_per"}, "requests_per_minute_limit="},
		{[]string{"keys", "list", "--owner", "a"}, "ann"},
		{[]string{"webhooks", "test", ""}, "1"},
		{[]string{"agents", "delete", ""}, "1"},
		{[]string{"contacts", "delete", ""}, "1"},
		{[]string{"admin", "token", "revoke", ""}, "1"},
		{[]string{"keys", "show", "nightly", ""}, ""},
		{[]string{"keys", "list", "--limit", ""}, ""},
	} {
		words := append(slices.Clone(from), tt.words...)
		if got := complete(words...); !strings.Contains(got, tt.want) || tt.want == "" && got != "" || strings.Contains(got, "touch") || strings.Contains(got, "help ") {
			t.Errorf("%q: got %q, want %q", tt.words, got, tt.want)
		}
	}
	if got := " " + complete("") + " "; strings.Contains(got, " help ") || !strings.Contains(got, " serve ") {
		t.Errorf("got %q, want the commands without help", got)
	}
	p.Stop(t)
	for _, words := range [][]string{{"keys", "show", ""}, {"--url", "http://127.0.0.1:1", "keys", "show", ""}, {"--config", "/nowhere", "usage", "--key", ""}, {"keys", "show", "--nothing", ""}} {
		if got := complete(words...); got != "" {
			t.Errorf("%q without a server: got %q, want nothing", words, got)
		}
	}
}

func TestPackaging_units(t *testing.T) {
	path := program.Path(t)
	dir := t.TempDir()
	var files []string
	for _, name := range []string{"latchkey.service", "latchkey.socket", "latchkey-admin.socket"} {
		text, err := os.ReadFile(filepath.Join("packaging", name))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, bytes.ReplaceAll(text, []byte("/usr/bin/latchkey"), []byte(path)), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	c := toolCommand(t, "systemd-analyze", append([]string{"verify", "--man=no"}, files...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		// Those two are known from systemd 254 on, and passed over before.
		if strings.Contains(line, dir) && !strings.Contains(line, "'RestartSteps'") && !strings.Contains(line, "'RestartMaxDelaySec'") {
			t.Errorf("verify: %s", line)
		}
	}
	// The threshold is in tenths: 0 is closed, 10.0 wide open.
	report := tool(t, "", nil, "systemd-analyze", "security", "--offline=true", "--threshold=15", filepath.Join("packaging", "latchkey.service"))
	t.Log(regexp.MustCompile(`Overall exposure level.*\d`).FindString(report))
}

// installPackage builds the Debian package and installs it below the folder root, with its
// scripts. It returns the package, what its scripts printed, and a function that runs dpkg there.
func installPackage(t *testing.T, root string) (file, printed string, dpkg func(args ...string) string) {
	t.Helper()
	path, out := program.Path(t), t.TempDir()
	// Little compression: at the usual level it takes most of the test's time.
	file = strings.TrimSpace(tool(t, "", []string{"DPKG_DEB_COMPRESSOR_LEVEL=0"}, "sh", "packaging/deb.sh", path, "0.1.0", out))
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dpkg = func(args ...string) string {
		t.Helper()
		return tool(t, "", nil, "dpkg", append([]string{"--root=" + root, "--log=/dev/null", "--force-script-chrootless", "--force-not-root", "--force-unsafe-io"}, args...)...)
	}
	return file, dpkg("-i", file), dpkg
}

// The package is installed below a folder, started from there and removed.
func TestPackaging_deb(t *testing.T) {
	root := t.TempDir()
	file, printed, dpkg := installPackage(t, root)
	if again := dpkg("-i", file); !strings.Contains(printed, "systemctl enable --now latchkey") || strings.Contains(again, "systemctl") {
		t.Errorf("the first installation printed %s, the second %s; want what to run next only from the first", printed, again)
	}
	pepper := filepath.Join(root, "etc/latchkey/pepper")
	if info, err := os.Stat(pepper); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the pepper: got %v, %v; want mode 0600", info, err)
	}
	for _, name := range []string{"lib/systemd/system/latchkey.service", "usr/share/man/man1/latchkey.1.gz", "usr/share/bash-completion/completions/latchkey",
		"usr/share/doc/latchkey/copyright", "usr/share/doc/latchkey/config.example.toml",
		"usr/share/doc/latchkey/docs/guard.md", "usr/share/doc/latchkey/docs/samples/README.md", "usr/share/doc/latchkey/packaging/prometheus/latchkey.rules.yml", "usr/share/doc/latchkey/packaging/grafana/latchkey.json"} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: got %v, %v", name, info, err)
		}
	}
	config := filepath.Join(root, "etc/latchkey/config.toml")
	n := program.ListenForNotices(t)
	c := exec.Command(filepath.Join(root, "usr/bin/latchkey"), "serve", "--config", config, "--data", filepath.Join(root, "var/lib/latchkey"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c.Env = []string{"LATCHKEY_KEYS_PEPPER_FILE=" + pepper, "NOTIFY_SOCKET=" + n.Path}
	askAndStop(t, c, n)
	dpkg("-r", "latchkey")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/latchkey")); !os.IsNotExist(err) {
		t.Errorf("after removal: got %v, want the program gone", err)
	}
	dpkg("-P", "latchkey")
	if _, err := os.Stat(pepper); err != nil {
		t.Errorf("after the purge: got %v, want the pepper kept", err)
	}
}

// askAndStop starts a server, asks whether it is well, and stops it.
func askAndStop(t *testing.T, c *exec.Cmd, n *program.Notices) {
	t.Helper()
	c.Stderr = t.Output()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	ready := n.Next()
	_, address, _ := strings.Cut(ready, "API on ")
	address, _, _ = strings.Cut(address, ",")
	_, port, _ := strings.Cut(strings.TrimPrefix(address, "[::]"), ":")
	answer, err := http.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		t.Fatalf("%v, after %q", err, ready)
	}
	body, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("got %d %s, want it well", answer.StatusCode, body)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// What the image would run, in a folder with nothing else, as its user and with
// its environment.
func TestPackaging_image(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can change the root folder of a process")
		}
		t.Skip("only root can change the root folder of a process")
	}
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	line := func(word string) []string {
		var all []string
		for _, m := range regexp.MustCompile(`(?m)(?:^|\s)`+word+` (.*)$`).FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
		}
		return all
	}
	_, last, _ := strings.Cut(string(text), "FROM scratch")
	if user := line("USER"); len(user) != 1 || user[0] != "65532:65532" || !strings.Contains(last, "USER") {
		t.Fatalf("got user %v, want a number that is not root's", user)
	}
	if volume := line("VOLUME"); len(volume) != 1 || volume[0] != "/data" {
		t.Fatalf("got volume %v", volume)
	}
	root, err := os.MkdirTemp("", "image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(root, "latchkey")
	tool(t, "", []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v0.0.0-test", "-o", binary, ".")
	if err := os.Mkdir(filepath.Join(root, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "data"), 65532, 65532); err != nil {
		t.Fatal(err)
	}
	environ := line("ENV")
	if len(environ) < 5 {
		t.Fatalf("got environment %v", environ)
	}
	// On a free port, and telling when it is ready, both otherwise as in the image.
	environ = append(environ, "LATCHKEY_SERVER_LISTEN=0.0.0.0:0", "LATCHKEY_ADMIN_LISTEN=0.0.0.0:0")
	within := func(args ...string) *exec.Cmd {
		c := exec.Command("/latchkey", args...)
		c.Dir, c.Env = "/", environ
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		return c
	}
	var entry, command, probe []string
	for into, word := range map[*[]string]string{&entry: "ENTRYPOINT", &command: "CMD", &probe: "HEALTHCHECK .* CMD"} {
		for _, found := range line(word) {
			if err := json.Unmarshal([]byte(found), into); err != nil {
				t.Fatalf("%s %s: %v", word, found, err)
			}
			if word == "CMD" && len(*into) > 0 && (*into)[0] != "/latchkey" {
				break
			}
		}
	}
	if fmt.Sprint(entry, probe) != "[/latchkey] [/latchkey healthcheck]" {
		t.Fatalf("got entry %v and probe %v", entry, probe)
	}
	c := within(command[len(command)-1])
	c.Stdout = io.Discard // a pipe: without /dev/null a missing one would be taken for a terminal
	logs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	late := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	defer late.Stop()
	buf := make([]byte, 1<<16)
	size, err := logs.Read(buf)
	if err != nil || !strings.Contains(string(buf[:size]), "listening") {
		t.Fatalf("got %s, %v; want it listening", buf[:size], err)
	}
	go func() { _, _ = io.Copy(io.Discard, logs) }()
	if out, err := within(probe[1:]...).CombinedOutput(); err != nil || string(out) != "ready\n" {
		t.Errorf("the probe: got %s, %v", out, err)
	}
	if out, err := within("version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "latchkey v0.0.0-test go") {
		t.Errorf("version: got %s, %v", out, err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if out, err := within(probe[1:]...).CombinedOutput(); err == nil {
		t.Errorf("the probe of a stopped server: got %s, want an error", out)
	}
}

// fakeDigests makes a folder with programs in place of those that look up the digest of an image. They
// print it, or fail if it is empty.
func fakeDigests(t *testing.T, digest string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"docker", "skopeo", "crane"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho \"$1 says\"; echo '"+digest+"'\ntest -n '"+digest+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The same source and digest give the same bytes in another folder.
func TestPackaging_release(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	refused := toolCommand(t, "sh", "packaging/release.sh", t.TempDir())
	refused.Env = append(os.Environ(), "GO_IMAGE_DIGEST=", "PATH="+fakeDigests(t, "")+":"+os.Getenv("PATH"))
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "GO_IMAGE_DIGEST") {
		t.Errorf("without a digest: got %v, %s; want it refused", err, out)
	}
	version := sourceVersion(t)
	tracked := strings.Split(strings.TrimRight(tool(t, "", nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00"), "\x00")
	var sums []string
	for _, environ := range [][]string{{"GO_IMAGE_DIGEST=" + digest}, {"GO_IMAGE_DIGEST=", "PATH=" + fakeDigests(t, digest) + ":" + os.Getenv("PATH")}} {
		src, out := t.TempDir(), t.TempDir()
		for _, name := range tracked {
			data, err := os.ReadFile(name)
			if os.IsNotExist(err) {
				continue // deleted, and not committed yet
			}
			if err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(src, name)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		tool(t, src, append(environ, "TARGETS=linux/amd64"), "sh", "packaging/release.sh", out)
		image, err := os.ReadFile(filepath.Join(out, "latchkey-"+version+".Dockerfile"))
		if err != nil || !strings.Contains(string(image), "\nARG GO_IMAGE=golang:1.26@"+digest+"\n") || !strings.Contains(string(image), "\nARG VERSION="+version+"\n") {
			t.Errorf("the Dockerfile: got %v, %s; want the digest and the version", err, image)
		}
		sum, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, string(sum))
		for _, program := range []string{"latchkey", "latchkey-cluster"} {
			name := program + "-" + version + "-linux-amd64"
			if list := tool(t, out, nil, "tar", "tzf", name+".tar.gz"); !strings.Contains(list, name+"/latchkey\n") {
				t.Errorf("%s: got the files %q, want latchkey among them", name, list)
			}
			checkBill(t, filepath.Join(out, name+".cdx.json"), version, program == "latchkey-cluster")
		}
	}
	if sums[0] != sums[1] || strings.Count(sums[0], "\n") != 5 {
		t.Errorf("got\n%s\nand\n%s\nwant the same, of five files", sums[0], sums[1])
	}
}

// checkBill wants the bill of materials at path to have what is in the program and nothing else.
func checkBill(t *testing.T, path, version string, etcd bool) {
	t.Helper()
	bill := read(t, path)
	var parts struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, PURL string }
	}
	if err := json.Unmarshal([]byte(bill), &parts); err != nil || parts.BOMFormat != "CycloneDX" || parts.Metadata.Component.Version != version {
		t.Errorf("%s: got %v, %+v", path, err, parts)
	}
	if !strings.Contains(bill, "pkg:golang/go.etcd.io/bbolt@v") || !strings.Contains(bill, "pkg:golang/stdlib@1.") || strings.Contains(bill, "pebble") {
		t.Errorf("%s lacks what is in the program, or has what only tests use: %s", path, bill)
	}
	if strings.Contains(bill, "pkg:golang/go.etcd.io/etcd/client/v3@v") != etcd {
		t.Errorf("%s: want the client of etcd in latchkey-cluster alone", path)
	}
}

// sourceVersion returns the version in system.go.
func sourceVersion(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^const release = "(\d+\.\d+\.\d+)"$`).FindStringSubmatch(read(t, "system.go"))
	if m == nil {
		t.Fatal("system.go has no version")
	}
	return m[1]
}

// TestPackaging_version compares the versions in the program, the changelog and the notes for upgrades.
func TestPackaging_version(t *testing.T) {
	version := sourceVersion(t)
	headings := func(page, mark string) (list []string) {
		for _, m := range regexp.MustCompile(`(?m)^`+mark+` (Unreleased|\d+\.\d+\.\d+)$`).FindAllStringSubmatch(read(t, page), -1) {
			list = append(list, m[1])
		}
		return list
	}
	changes := headings("CHANGELOG.md", "##")
	if len(changes) < 2 || changes[0] != "Unreleased" || changes[1] != version {
		t.Errorf("CHANGELOG.md has the versions %v, want Unreleased and then %s", changes, version)
	}
	for _, noted := range headings("docs/upgrade.md", "###") {
		if !slices.Contains(changes, noted) {
			t.Errorf("docs/upgrade.md has notes for %s, which is not in CHANGELOG.md", noted)
		}
	}
	if !slices.Contains(headings("docs/upgrade.md", "###"), version) {
		t.Errorf("docs/upgrade.md has no notes for %s", version)
	}
	if out, errs, exit := program.Run(t, "version"); exit != 0 || !regexp.MustCompile(`^latchkey `+regexp.QuoteMeta(version)+`(\+\S+)? go`).MatchString(out) {
		t.Errorf("got exit %d, %q %s, want version %s", exit, out, errs, version)
	}
}
