package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"latchkey/tests/program"
)

// logLine is a line of the log in JSON.
type logLine struct {
	Msg, API string
	Lines    int
}

// TestProgram_LogNobodyReads has a reader of the log stop. Every request is answered, and when the
// reader goes on, it learns how many lines it has missed. Then the reader goes away, and the server
// goes on and ends in order.
func TestProgram_LogNobodyReads(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := program.Command(t, "serve", "--data", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	_ = write.Close()
	lines := bufio.NewReader(read)
	next := func() (l logLine) {
		text, err := lines.ReadBytes('\n')
		if err != nil || json.Unmarshal(text, &l) != nil {
			t.Fatalf("got %q, %v; want a whole line of the log", text, err)
		}
		return l
	}
	url := ""
	for url == "" {
		if l := next(); l.Msg == "listening" {
			url = l.API
		}
	}
	const asked = 12_000 // about 2 MB of log
	ask := func() {
		r, err := http.Get(url + "/none")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Fatalf("got %d, want 404", r.StatusCode)
		}
	}
	for range asked {
		ask()
	}
	seen, lost := 0, 0
	for seen+lost < asked {
		if l := next(); l.Msg == "request" {
			seen++
		} else {
			lost += l.Lines
		}
	}
	if lost == 0 || seen+lost != asked {
		t.Errorf("got %d lines and %d told as lost, want %d together", seen, lost, asked)
	}
	ask()
	if l := next(); l.Msg != "request" {
		t.Errorf("got %+v, want the log to go on", l)
	}
	_ = read.Close() // as head does when it has its lines
	for range 10 {
		ask()
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v at the end, want exit code 0", err)
	}
}

// TestProgram_Reloads reloads the configuration again and again, for which the server asks itself over its control socket. No
// connection is left open.
func TestProgram_Reloads(t *testing.T) {
	w := newWire(t)
	const reloads = 20
	_, before := w.weight(t)
	for range reloads {
		w.operate("POST", "/admin/v1/reload", "", nil)
	}
	if _, after := w.weight(t); after >= before+reloads {
		t.Errorf("%d files are open after %d reloads, %d before", after, reloads, before)
	}
}

// TestProgram_EarlyHangup sends SIGHUP while the server opens its data folder: it starts all the
// same.
func TestProgram_EarlyHangup(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cmd := program.Command(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	sent := make(chan error, 1)
	go func() {
		for {
			text, _ := os.ReadFile(filepath.Join(data, "lock"))
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				server, err := os.FindProcess(pid)
				if err == nil {
					err = server.Signal(syscall.SIGHUP)
				}
				sent <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	s := program.ServeCommand(t, cmd, data)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if exit := s.Stop(t); exit != 0 {
		t.Errorf("got exit code %d, want SIGTERM to end it in order", exit)
	}
}

// TestProgram_FirstHangup looks at the order in which the program starts: it asks for SIGHUP before it
// initializes what takes most of the time.
func TestProgram_FirstHangup(t *testing.T) {
	cmd := program.Command(t, "serve", "--help")
	cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1")
	var trace bytes.Buffer
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	at := func(name string) int { return strings.Index(trace.String(), "init "+name+" @") }
	if first := at("latchkey/internal/hangup"); first < 0 || first > at("crypto/tls") || first > at("net/http") || first > at("main") {
		t.Errorf("SIGHUP is not received before other packages are initialized:\n%s", &trace)
	}
}

// TestProgram_Interrupt sends the signals of Ctrl+C and of a service manager to an import that waits
// for its standard input.
func TestProgram_Interrupt(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	program.Serve(t, data).Stop(t)
	for _, sent := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := program.Command(t, "keys", "import", "-", "--data", data)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// More than a pipe holds: when it is written, the command reads.
		if _, err := in.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if exit := cmd.ProcessState.ExitCode(); exit != 130 || errs.String() != "latchkey: interrupted; nothing was imported\n" {
			t.Errorf("%s: got exit code %d, %q, want 130 and that nothing was imported", sent, exit, &errs)
		}
	}
}

// TestProgram_LongPath has a data folder whose path is too long for the address of a socket.
func TestProgram_LongPath(t *testing.T) {
	for _, length := range []int{90, 104, 108, 250} {
		data := filepath.Join(t.TempDir(), strings.Repeat("x", length))
		s := program.Serve(t, data)
		for _, args := range [][]string{{"keys", "list"}, {"healthcheck"}, {"reload"}} {
			if _, errs, exit := program.Run(t, append(args, "--data", data)...); exit != 0 {
				t.Errorf("%d bytes more, %v: got exit code %d, %s", length, args, exit, errs)
			}
		}
		if exit := s.Stop(t); exit != 0 {
			t.Errorf("%d bytes more: got exit code %d", length, exit)
		}
		if _, err := os.Lstat(filepath.Join(data, "control.sock")); err == nil {
			t.Errorf("%d bytes more: the socket is left over", length)
		}
	}
}

// TestProgram_Secrets supplies the secrets of the commands in every way and form: an admin token in
// its variable, in the file of the flag and on standard input, a password in a file and on standard
// input.
func TestProgram_Secrets(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	s := program.Serve(t, data)
	token, _, _ := program.Run(t, "admin", "token", "create", "--data", data, "--name", "t")
	token = strings.TrimSpace(token)
	file := filepath.Join(dir, "secret")
	run := func(stdin string, environ []string, args ...string) (int, string) {
		cmd := program.Command(t, args...)
		cmd.Env = append(cmd.Env, environ...)
		cmd.Stdin = strings.NewReader(stdin)
		var said bytes.Buffer
		cmd.Stderr = &said
		_ = cmd.Run() // the exit code tells
		return cmd.ProcessState.ExitCode(), said.String()
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := []string{"keys", "list", "--url", "http://" + s.Admin}
	for _, form := range []struct{ text, want string }{
		{token, ""}, {token + "\n", ""}, {token + "\r\n", ""}, {token + "\r", ""}, {" " + token + " \n", ""}, {"\ufeff" + token, ""},
		{" \n", "is empty"}, {token + "\n" + token, "several lines"}, {"\u00fc" + token, "outside ASCII"}, {token[:8] + " " + token[8:], "a blank"}, {token + "\xff", "not text in UTF-8"}, {token + "\x01", "control character"},
	} {
		write(form.text)
		for way, args := range map[string][2][]string{
			"LATCHKEY_ADMIN_TOKEN":   {{"LATCHKEY_ADMIN_TOKEN=" + form.text}, list},
			"the file of a variable": {{"LATCHKEY_ADMIN_TOKEN_FILE=" + file}, list},
			"--token-file":           {nil, append(list[:len(list):len(list)], "--token-file", file)},
			"standard input":         {nil, append(list[:len(list):len(list)], "--token-file", "-")},
		} {
			exit, said := run(form.text, args[0], args[1]...)
			if (exit == 0) != (form.want == "") || !strings.Contains(said, form.want) || strings.Contains(said, token[8:]) || strings.Contains(said, "reached") {
				t.Errorf("token %q by %s: got exit code %d, %s; want %q", form.text, way, exit, said, form.want)
			}
		}
	}
	const password = " correct horse battery "
	for i, form := range []struct{ text, want string }{
		{password, ""}, {password + "\n", ""}, {password + "\r\n", ""}, {"\ufeff" + password, ""},
		{"\n", "is empty"}, {password + "\nx", "several lines"}, {password + "\xff", "not text in UTF-8"}, {password + "\t", "control character"},
	} {
		write(form.text)
		for way, path := range map[string]string{"file": file, "standard input": "-"} {
			name := fmt.Sprintf("op%d%c", i, way[0])
			exit, said := run(form.text, nil, "admin", "create", "--data", data, "--name", name, "--password-file", path)
			if (exit == 0) != (form.want == "") || !strings.Contains(said, form.want) || strings.Contains(said, "horse") {
				t.Errorf("password %q by %s: got exit code %d, %s; want %q", form.text, way, exit, said, form.want)
			}
			if form.want != "" {
				continue
			}
			body := "name=" + name + "&password=" + strings.ReplaceAll(password, " ", "+")
			r, err := http.NewRequest("POST", "http://"+s.Admin+"/login", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			answer, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusSeeOther {
				t.Errorf("password %q by %s: the login is answered with %d, want 303", form.text, way, answer.StatusCode)
			}
		}
	}
}
