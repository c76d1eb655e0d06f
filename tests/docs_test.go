package tests

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestDocs_Dialer builds the example of docs/dialer.md and lets it place calls
// of a real server.
func TestDocs_Dialer(t *testing.T) {
	text, err := os.ReadFile("docs/dialer.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\n")
	source, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("docs/dialer.md has no example")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"dialer.go": source, "go.mod": "module dialer\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", "dialer", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data := filepath.Join(dir, "data")
	p := program.Serve(t, data)
	socket := program.NewClient(data)
	post := func(path string, body, into any) {
		t.Helper()
		if err := socket.Do(context.Background(), "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	var token struct{ Token string }
	post("/admin/v1/tokens", map[string]any{"name": "dialer", "scope": "dialer"}, &token)
	post("/admin/v1/agents", map[string]any{"name": "Front desk", "phone_number": "+4930555001"}, nil)
	var made struct{ Key string }
	post("/admin/v1/keys", map[string]any{"name": "caller", "permissions": []string{"can_initiate_calls"}}, &made)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dialer := exec.CommandContext(ctx, filepath.Join(dir, "dialer"), "-admin", "http://"+p.Admin, "-calls", "2")
	dialer.Env = append(os.Environ(), "LATCHKEY_ADMIN_TOKEN="+token.Token)
	ended := make(chan error, 1)
	go func() {
		out, err := dialer.CombinedOutput()
		if err != nil || len(out) > 0 {
			err = fmt.Errorf("%v: %s", err, out)
		}
		ended <- err
	}()
	for range 2 { // while the dialer waits for them, or before
		r, err := http.NewRequestWithContext(ctx, "POST", p.URL+"/api/v1/calls", strings.NewReader(`{"phone_number": "+4930555044", "agent_id": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", made.Key)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != 201 {
			t.Fatalf("got %d, want 201", answer.StatusCode)
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var list struct {
		Count int
		Calls []struct{ Status, Summary string }
	}
	if err := socket.Do(context.Background(), "GET", "/admin/v1/calls?status=completed", nil, &list); err != nil {
		t.Fatal(err)
	}
	if list.Count != 2 || list.Calls[0].Summary != "Spoke with +4930555044." {
		t.Errorf("got %+v, want both calls completed", list)
	}
}

// links finds what a page leads to: [text](target).
var links = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestDocs_Links wants every link of the pages to lead to a file, and to a
// heading of it where it names one, and every page of docs to be led to.
func TestDocs_Links(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	led := map[string]bool{}
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md", "CHANGELOG.md") {
		for _, m := range links.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			name, heading, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(page), name)
			if name == "" {
				target = page
			}
			if page == "README.md" || page != target {
				led[target] = true
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s leads to %s, which is not there", page, m[1])
				continue
			}
			if heading != "" && !slices.Contains(headings(read(t, target)), heading) {
				t.Errorf("%s leads to %s, which has no such heading", page, m[1])
			}
		}
	}
	for _, page := range pages {
		if !led[page] {
			t.Errorf("no page leads to %s", page)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// headings gives the anchors of a page, as code hosts make them.
func headings(text string) (list []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			name := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
			list = append(list, strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(name, ""), " ", "-"))
		}
	}
	return list
}

// source returns all Go code of the program, tests included.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"*.go", "*/*.go", "*/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			all.WriteString(read(t, name))
		}
	}
	return all.String()
}

// TestDocs_Reading looks for the files, folders and methods that the guides to
// the source name.
func TestDocs_Reading(t *testing.T) {
	code := source(t)
	for _, page := range []string{"docs/reading.md", "CONTRIBUTING.md"} {
		text := read(t, page)
		for _, name := range regexp.MustCompile(`\b[a-z][a-z_/]*\.go\b|\b[a-z]+/(?: |$)`).FindAllString(text, -1) {
			if _, err := os.Stat(strings.TrimSpace(name)); err != nil {
				t.Errorf("%s names %s, which does not exist", page, name)
			}
		}
		for _, name := range regexp.MustCompile(`(?m)\b[a-z]+\*\.go`).FindAllString(text, -1) {
			if files, err := filepath.Glob(name); err != nil || len(files) == 0 {
				t.Errorf("%s names %s, which fits no file", page, name)
			}
		}
		for _, m := range regexp.MustCompile("`([A-Za-z]+)\\.([A-Za-z]+)`").FindAllStringSubmatch(text, -1) {
			if m[2] != "go" && m[1] != "program" && !regexp.MustCompile(`func \(\w+ \*?`+m[1]+`(\[\w+\])?\) `+m[2]+`\(`).MatchString(code) {
				t.Errorf("%s names %s.%s, which does not exist", page, m[1], m[2])
			}
		}
	}
}

// TestDocs_Families compares the families of docs/reading.md with the files of
// the root.
func TestDocs_Families(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, "docs/reading.md")
	table := regexp.MustCompile(`(?s)\n\| Family \|.*?\n\n`).FindString(text)
	for _, name := range files {
		family, _, _ := strings.Cut(strings.TrimSuffix(name, ".go"), "_")
		if !strings.HasSuffix(name, "_test.go") && !regexp.MustCompile(`[| ]`+family+`[ ,]`).MatchString(table) {
			t.Errorf("docs/reading.md has no row for %s", name)
		}
	}
}

// TestDocs_Contract looks for the sections of docs/contract.md that comments in
// the code refer to.
func TestDocs_Contract(t *testing.T) {
	page := read(t, "docs/contract.md")
	refs := regexp.MustCompile(`\bcontract ((?:\d+(?:\.\d+)?(?:, )?)+)`).FindAllStringSubmatch(source(t), -1)
	if len(refs) < 20 {
		t.Fatalf("found %d references to the contract, too few to show anything", len(refs))
	}
	for _, ref := range refs {
		for _, section := range regexp.MustCompile(`\d+(\.\d+)?`).FindAllString(ref[1], -1) {
			if !regexp.MustCompile(`(?m)^## ` + section + `\. |\*\*(?:[^*\n]*, )?` + regexp.QuoteMeta(section) + `[ .,]`).MatchString(page) {
				t.Errorf("a comment refers to contract %s, which docs/contract.md does not have", section)
			}
		}
	}
}

// TestDocs_Configuration holds the tables of docs/configuration.md against
// config.example.toml. With LATCHKEY_WRITE_DOCS set it writes them anew.
func TestDocs_Configuration(t *testing.T) {
	const page, mark = "docs/configuration.md", "<!-- from here on made from config.example.toml -->\n"
	text := read(t, page)
	head, _, ok := strings.Cut(text, mark)
	if !ok {
		t.Fatalf("%s lacks the line %q", page, mark)
	}
	want := head + mark + settingTables(read(t, "config.example.toml"))
	if text != want && os.Getenv("LATCHKEY_WRITE_DOCS") != "" {
		overwrite(t, ".", page, want)
	} else if text != want {
		t.Errorf("%s is not what config.example.toml says; run LATCHKEY_WRITE_DOCS=1 go test -run TestDocs_Configuration ./tests", page)
	}
}

// settingTables makes a table for each section of the example: the key, its
// default, and the comment above it without the line of the variable.
func settingTables(example string) string {
	var b strings.Builder
	var comment []string
	for line := range strings.Lines(example) {
		line = strings.TrimSuffix(line, "\n")
		key, value, isKey := strings.Cut(line, " = ")
		switch {
		case strings.HasPrefix(line, "#"):
			if text := strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "); !strings.HasPrefix(text, "Variable: ") {
				comment = append(comment, text)
			}
			continue
		case strings.HasPrefix(line, "["):
			fmt.Fprintf(&b, "\n## `%s`\n\n| Key | Default | Meaning |\n|---|---|---|\n", line)
		case isKey:
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", key, value, strings.ReplaceAll(strings.Join(comment, " "), "|", "\\|"))
		}
		comment = nil
	}
	return b.String()
}

// TestDocs_Settings looks up each setting that the README and the documents name with its section, such as "[bounds] owner_bytes", in
// config.example.toml.
func TestDocs_Settings(t *testing.T) {
	known, section := map[string]bool{}, ""
	for line := range strings.Lines(read(t, "config.example.toml")) {
		if m := regexp.MustCompile(`^\[([a-z_.]+)\]`).FindStringSubmatch(line); m != nil {
			section = m[1]
			known[section] = true
		}
		if key, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			known[section+" "+key] = true
		}
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("got %v, %v", pages, err)
	}
	named := 0
	for _, page := range append(pages, "README.md", "SECURITY.md") {
		text := read(t, page)
		look := func(section, key string) {
			if named++; known[section] && !known[section+" "+key] {
				t.Errorf("%s names the setting %s of [%s], which does not exist", page, key, section)
			}
		}
		for _, m := range regexp.MustCompile("`\\[([a-z_.]+)\\] ([a-z_0-9]+)( = [^`]*)?`").FindAllStringSubmatch(text, -1) {
			look(m[1], m[2])
		}
		for _, m := range regexp.MustCompile("`([a-z_0-9]+)` (?:under|of|in) `\\[([a-z_.]+)\\]`").FindAllStringSubmatch(text, -1) {
			look(m[2], m[1])
		}
	}
	if named < 10 {
		t.Errorf("got %d settings, want those of the documents", named)
	}
}

// shellBlocks returns the sh blocks of a section of a page, from its heading to the next one of the
// same level.
func shellBlocks(t *testing.T, page, heading string) (blocks []string) {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, page), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", page, heading)
	}
	section, _, _ := strings.Cut(rest, "\n## ")
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// readmeShell runs the lines of blocks of the README in a folder.
type readmeShell struct {
	t           *testing.T
	dir         string
	replacer    *strings.Replacer // puts the addresses of the test in the place of those of the README
	environment []string
}

// run runs a line. A line that ends in a comment with a status, such as "# 401: no key", is a curl
// command that has to print this status.
func (s *readmeShell) run(line string) {
	s.t.Helper()
	if name, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
		s.environment = append(s.environment, strings.ReplaceAll(name, "$PWD", s.dir))
		return
	}
	cmd := exec.Command("sh", "-c", s.replacer.Replace(line))
	cmd.Dir = s.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}, s.environment...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", line, err, out)
	}
	if m := regexp.MustCompile(`# ([1-5][0-9][0-9])\b`).FindStringSubmatch(line); m != nil && !strings.Contains(string(out), "HTTP/1.1 "+m[1]+" ") {
		s.t.Errorf("%s: got %s, want status %s", line, out, m[1])
	}
}

// TestDocs_Readme runs the blocks of the README in their order, in an empty folder, for both kinds of
// readers. The commands that build the program and start a server are run by the test in their place.
func TestDocs_Readme(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "report\n") }))
	defer upstream.Close()
	dir := t.TempDir()
	if err := os.Symlink(program.Path(t), filepath.Join(dir, "latchkey")); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(read(t, "README.md"), "```toml\n")
	config, _, ok := strings.Cut(rest, "```")
	if lines := len(strings.Fields(strings.ReplaceAll(config, " = ", "="))); !ok || lines > 6 {
		t.Errorf("the first configuration of the README has %d lines: %q; want at most 6", lines, config)
	}
	overwrite(t, dir, "latchkey.toml", strings.ReplaceAll(config, "127.0.0.1:3000", upstream.Listener.Addr().String()))
	s := program.Serve(t, filepath.Join(dir, "latchkey-data"), "--config", filepath.Join(dir, "latchkey.toml"))
	replacer := strings.NewReplacer("http://127.0.0.1:8080", s.URL)
	shell, ran := &readmeShell{t: t, dir: dir, replacer: replacer}, 0
	demo, key := (*program.Server)(nil), ""
	for _, block := range append(shellBlocks(t, "README.md", "Protect your own API"), shellBlocks(t, "README.md", "Serve the Klen AI API")...) {
		for line := range strings.Lines(block) {
			switch {
			case strings.HasPrefix(line, "./latchkey serve --demo"):
				demo = program.Serve(t, "", "--demo")
				for begun := time.Now(); key == "" && time.Since(begun) < time.Minute; time.Sleep(20 * time.Millisecond) { // it is printed after the log line
					if m := regexp.MustCompile(`export KEY=(klen_\w+)`).FindStringSubmatch(demo.Out.String()); m != nil {
						key = m[1]
					}
				}
				continue
			case strings.Contains(line, "go build"), strings.HasPrefix(line, "./latchkey serve"):
				continue
			case strings.Contains(line, "$KEY"):
				other := &readmeShell{t: t, dir: dir, replacer: strings.NewReplacer("http://127.0.0.1:8080", demo.URL, "curl ", "curl --fail-with-body "), environment: []string{"KEY=" + key}}
				other.run(line)
			default:
				shell.run(line)
			}
			ran++
		}
	}
	if ran < 15 {
		t.Errorf("only %d lines of the README were run", ran)
	}
}

// runMark is the line above a block of commands in a page of docs that TestDocs_Commands runs.
const runMark = "<!-- run -->\n```sh\n"

// fileBlocks finds the blocks that are files for the commands of a page and no configurations.
var fileBlocks = regexp.MustCompile("(?s)<!-- file (\\S+) -->\n```toml\n(.*?)```")

// TestDocs_Commands runs the marked blocks of each page of docs in their order, beside a server with
// the first configuration of the page, if it has one.
func TestDocs_Commands(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "report\n") }))
	defer upstream.Close()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range pages {
		text := read(t, page)
		blocks := strings.Split(text, runMark)[1:]
		if len(blocks) == 0 {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			dir := t.TempDir()
			for _, m := range fileBlocks.FindAllStringSubmatch(text, -1) {
				overwrite(t, dir, m[1], m[2])
			}
			_, rest, _ := strings.Cut(fileBlocks.ReplaceAllString(text, ""), "\n```toml\n")
			config, _, _ := strings.Cut(rest, "```")
			overwrite(t, dir, "latchkey.toml", strings.NewReplacer("127.0.0.1:3000", upstream.Listener.Addr().String(), "/var/backups", dir).Replace(config))
			s := program.Serve(t, filepath.Join(dir, "latchkey-data"), "--config", filepath.Join(dir, "latchkey.toml"))
			shell := &readmeShell{
				t: t, dir: dir, replacer: strings.NewReplacer("http://127.0.0.1:8080", s.URL, "http://127.0.0.1:8081", "http://"+s.Admin),
				environment: []string{"PATH=" + filepath.Dir(program.Path(t)) + ":" + os.Getenv("PATH"), "LATCHKEY_CONFIG=latchkey.toml"},
			}
			for _, block := range blocks {
				commands, _, _ := strings.Cut(block, "```")
				for line := range strings.Lines(commands) {
					shell.run(line)
					ran++
				}
			}
		})
	}
	if ran < 30 {
		t.Errorf("only %d commands were run", ran)
	}
}

// TestDocs_Toml checks the configurations in the pages with latchkey config check.
func TestDocs_Toml(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked, dir := 0, t.TempDir()
	overwrite(t, dir, "secret", "a secret")
	client := program.NewEtcdAuthority(t).Issue(program.IssueEtcd{})
	places := strings.NewReplacer("/var/backups", dir, "/etc/latchkey/oidc-secret", filepath.Join(dir, "secret"), "/etc/latchkey/mail-password", filepath.Join(dir, "secret"),
		"/etc/latchkey/etcd-ca.crt", client.CA, "/etc/latchkey/etcd-10.0.0.1.crt", client.Cert, "/etc/latchkey/etcd-10.0.0.1.key", client.Key)
	for _, page := range append(pages, "README.md") {
		for _, m := range regexp.MustCompile("(?s)\n```toml\n(.*?)```").FindAllStringSubmatch(fileBlocks.ReplaceAllString(read(t, page), ""), -1) {
			overwrite(t, dir, "latchkey.toml", places.Replace(m[1]))
			command := program.Command
			if strings.Contains(m[1], "[cluster]") {
				command = program.ClusterCommand
			}
			_, errs, exit := program.RunCommand(t, command(t, "config", "check", "--config", filepath.Join(dir, "latchkey.toml")))
			if missing := strings.Contains(m[1], "/etc/latchkey/tls.crt") && strings.Contains(errs, "/etc/latchkey/tls.crt"); exit != 0 && !missing {
				t.Errorf("%s: exit %d, %s in the block\n%s", page, exit, errs, m[1])
			}
			checked++
		}
	}
	if checked < 10 {
		t.Errorf("only %d configurations were checked", checked)
	}
}

// TestDocs_Words looks in comments for turns of phrase that take a second
// reading. Each has the words to use in its place.
func TestDocs_Words(t *testing.T) {
	banned := map[string]string{
		`says whether`: "reports whether", `gives`: "returns", `told of`: "names the event", `tells of`: "reports", `without a word`: "silently",
		`who asks`: "the caller", `whoever`: "the caller", `is had`: "is available", `nil for none`: "nil if", `where there is none`: "if there is none",
		`of the caller's own`: "a copy", `is to be called`: "call it", `stands`: "is", `stood`: "was",
	}
	exceptions := []string{"stands in front of"} // what a proxy does
	for _, pattern := range []string{"*.go", "cli/*.go", "dashboard/*.go", "reference/*.go", "internal/*/*.go", "internal/*/*/*.go", "bench/*.go", "bench/*/*.go", "packaging/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %v, %v", pattern, files, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range f.Comments {
				text := strings.Join(strings.Fields(group.Text()), " ")
				for _, good := range exceptions {
					text = strings.ReplaceAll(text, good, "")
				}
				for words, better := range banned {
					if regexp.MustCompile(`(?i)\b` + words + `\b`).MatchString(text) {
						t.Errorf("%s: %q in a comment; write %q or the like", fset.Position(group.Pos()), words, better)
					}
				}
			}
		}
	}
}
