//go:build unix

package tests

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/certs/certstest"
	"latchkey/tests/program"
)

// serveWithFiles starts a server that may have this many files and connections open.
// environ is added to its environment.
func serveWithFiles(t *testing.T, files int, data string, environ ...string) *program.Server {
	t.Helper()
	cmd := program.Command(t, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", data)
	cmd.Args = append([]string{"sh", "-c", "ulimit -n " + strconv.Itoa(files) + ` && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Env, environ...)
	return program.ServeCommand(t, cmd, data)
}

// crowd opens connections to a server and keeps them open, each after it has sent a text. A
// connection that the server closes is closed here too, so that it takes no file descriptor.
func crowd(t *testing.T, address, text string, n int) {
	t.Helper()
	var all []net.Conn
	var reading sync.WaitGroup
	t.Cleanup(func() {
		for _, c := range all {
			_ = c.Close()
		}
		reading.Wait()
	})
	for i := range n {
		c, err := (&net.Dialer{Timeout: time.Minute}).Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		all = append(all, c)
		_, _ = io.WriteString(c, text) // an error means that the server has closed it meanwhile
		reading.Go(func() {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		})
	}
}

// wantServed wants new clients to be answered at the API, at the admin listener and at the control
// socket.
func wantServed(t *testing.T, p *program.Server, caller caller) {
	t.Helper()
	began := time.Now()
	if got := caller.ask(t, p.URL+"/api/v1/key"); got.status != 200 {
		t.Errorf("API: got %d, want 200", got.status)
	}
	api := time.Since(began)
	if got := caller.ask(t, "http://"+p.Admin+"/healthz"); got.status != 200 {
		t.Errorf("admin listener: got %d, want 200", got.status)
	}
	admin := time.Since(began) - api
	if _, errs, exit := program.Run(t, "keys", "list", "--data", p.Data); exit != 0 {
		t.Errorf("control socket: exit %d, %s", exit, errs)
	}
	t.Logf("answered: API after %v, admin listener after %v, a command after %v", api, admin, time.Since(began)-api-admin)
}

// caller is a client with a key. It keeps its connections open.
type caller struct {
	*http.Client
	key string
}

// answer is the status of an answer, and whether it came over a connection of before.
type answer struct {
	status int
	reused bool
}

// ask sends a request with the key.
func (c caller) ask(t *testing.T, url string) (got answer) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got.reused = i.Reused }})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", c.key)
	a, err := c.Do(r)
	if err != nil {
		t.Errorf("%s: %v", url, err)
		return got
	}
	defer a.Body.Close()
	_, _ = io.Copy(io.Discard, a.Body)
	got.status = a.StatusCode
	return got
}

// use returns the open and the most connections of the API listener.
func use(t *testing.T, data string) (open, most int) {
	t.Helper()
	var status struct {
		Connections map[string]struct{ Open, Max int }
	}
	if err := program.NewClient(data).Do(context.Background(), "GET", "/admin/v1/status", nil, &status); err != nil {
		t.Fatal(err)
	}
	return status.Connections["api"].Open, status.Connections["api"].Max
}

// Clients without a key cannot keep others from being answered, whatever they send. The test says
// nothing about times, which it only logs.
func TestProgram_IdleConnections(t *testing.T) {
	data, key := newFolder(t)
	ca := certstest.NewAuthority(t)
	cert, certKey := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	ca.Issue(cert, certKey, time.Now().Add(time.Hour))
	secured := []string{"LATCHKEY_SERVER_TLS_CERT_FILE=" + cert, "LATCHKEY_SERVER_TLS_KEY_FILE=" + certKey}
	for _, tt := range []struct {
		name, text string
		environ    []string
		busy       bool // the connections have a request in progress
	}{
		{"nothing sent", "", nil, false},
		{"answered", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", nil, false},
		{"half a header", "GET /healthz HTTP/1.1\r\nHost: local", nil, false},
		{"half a body", "POST /api/v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", nil, true},
		{"half a TLS handshake", "\x16\x03\x01\x02\x00\x01", secured, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := serveWithFiles(t, 1024, data, tt.environ...)
			client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
			if tt.environ != nil {
				client = certstest.Client(t, ca.File, nil)
			}
			defer client.CloseIdleConnections()
			known := caller{client, key}
			if got := known.ask(t, p.URL+"/api/v1/key"); got != (answer{200, false}) {
				t.Fatalf("before: got %+v, want an answer", got)
			}
			_, address, _ := strings.Cut(p.URL, "://")
			crowd(t, address, tt.text, 1100)
			stranger := caller{&http.Client{Transport: client.Transport.(*http.Transport).Clone(), Timeout: time.Minute}, key}
			defer stranger.CloseIdleConnections()
			wantServed(t, p, stranger)
			if open, most := use(t, data); open > most || most < 500 || most > 1000 {
				t.Errorf("got %d of %d connections; want no more than most, and that derived from the limit of open files", open, most)
			}
			if got := known.ask(t, p.URL+"/api/v1/key"); got.status != 200 || !got.reused && !tt.busy {
				t.Errorf("the client of before: got %+v; want an answer, over its connection unless all others were in use", got)
			}
			if tt.busy {
				return // a stop would wait for the requests
			}
			if exit := p.Stop(t); exit != 0 {
				t.Errorf("stop: got exit %d", exit)
			}
			if log := p.Out.String(); !strings.Contains(log, "connections closed to make room for others") {
				t.Error("the log does not mention the connections that were closed")
			}
		})
	}
}

// newFolder returns a data folder that was used, and a key of it.
func newFolder(t *testing.T) (data, key string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	out, errs, exit := program.Run(t, "keys", "create", "--data", data, "--name", "kept", "--permission", "all")
	if exit != 0 {
		t.Fatalf("keys create: exit %d, %s", exit, errs)
	}
	p.Stop(t)
	return data, strings.TrimSpace(out)
}

// With the usual limit of open files many connections stay open, and everybody is answered.
func TestProgram_ManyConnections(t *testing.T) {
	n := program.Long(t, "LATCHKEY_TEST_CONNECTIONS", 3000)
	data, key := newFolder(t)
	p := program.Serve(t, data, "LATCHKEY_LOG_ACCESS=false", "LATCHKEY_SERVER_IDLE_TIMEOUT=1h")
	_, address, _ := strings.Cut(p.URL, "://")
	crowd(t, address, "GET /api/v1/key HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "+key+"\r\n\r\n", n/2)
	crowd(t, address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", n-n/2)
	open, most := use(t, data)
	t.Logf("%d of %d connections are open", open, most)
	if open > most || open < min(n, most)/2 {
		t.Errorf("got %d of %d connections; want those with a key", open, most)
	}
	stranger := caller{&http.Client{Transport: &http.Transport{}, Timeout: time.Minute}, key}
	defer stranger.CloseIdleConnections()
	wantServed(t, p, stranger)
	if exit := p.Stop(t); exit != 0 {
		t.Errorf("stop: got exit %d", exit)
	}
}
