// Peers serves one handler, or one static answer, with a choice of HTTP servers written in Go, so that
// bench can compare the servers alone.
//
// The handler does in memory what the program does on each request: the SHA-256 of the key, its client
// in a map, a permission, a limit of two windows, three fields about the limit, and a body. It keeps
// nothing on disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"latchkey/internal/lean"
)

// A serve function answers requests on l with h until the process ends.
type serve func(l net.Listener, h http.Handler) error

// servers are the choices for -server that take a net/http handler.
var servers = map[string]serve{
	"net/http":        serveStandard,
	"lean":            serveLean,
	"fasthttpadaptor": serveAdapted,
	"nbio":            func(l net.Listener, h http.Handler) error { return serveNbio(l, h, func(f func()) { f() }) },
	"nbio-pool":       func(l net.Listener, h http.Handler) error { return serveNbio(l, h, nil) },
}

func main() {
	name := flag.String("server", "net/http", "server: net/http, lean, fasthttpadaptor, nbio, nbio-pool, or fasthttp, which only has a static answer")
	path := flag.String("path", "/api/v1/agents", "URL path of the requests to answer")
	file := flag.String("body", "", "path of the file with the body of the answers")
	keys := flag.String("keys", "", "path of a file with one key per line; needed except by fasthttp")
	flag.Parse()
	if err := run(*name, *path, *file, *keys); err != nil {
		log.Fatal(err)
	}
}

// run serves path with the server of a name until a signal ends the process.
func run(name, path, file, keys string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	if name == "fasthttp" {
		go func() { ended <- serveStatic(l, path, body) }()
	} else {
		start, ok := servers[name]
		if !ok {
			return fmt.Errorf("-server must be net/http, lean, fasthttpadaptor, nbio, nbio-pool or fasthttp; got %s", name)
		}
		c, err := newChecker(keys, path, body)
		if err != nil {
			return err
		}
		go func() { ended <- start(l, c) }()
	}
	log.Printf("listening on http://%s", l.Addr())
	stop, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer release()
	select {
	case err := <-ended:
		return err
	case <-stop.Done():
		return nil
	}
}

// standard returns the net/http server of h, with the timeouts of the program.
func standard(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

func serveStandard(l net.Listener, h http.Handler) error { return standard(h).Serve(l) }

func serveLean(l net.Listener, h http.Handler) error { return lean.New(standard(h)).Serve(l) }

func serveAdapted(l net.Listener, h http.Handler) error {
	s := &fasthttp.Server{Handler: fasthttpadaptor.NewFastHTTPHandler(h), ReadTimeout: time.Minute, IdleTimeout: time.Minute}
	return s.Serve(l)
}

// serveNbio serves with one poller per core. executor calls the handler: in the goroutine that has read
// the request, which is the fastest, but a handler that waits then stops all other connections of the
// poller; or, if it is nil, in a pool of goroutines.
func serveNbio(l net.Listener, h http.Handler, executor func(func())) error {
	logging.SetLevel(logging.LevelError)
	engine := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp", Handler: h, NPoller: runtime.GOMAXPROCS(0), IOMod: nbhttp.IOModNonBlocking,
		ServerExecutor: executor,
		ReadBufferSize: 16 << 10, KeepaliveTime: time.Minute, Addrs: []string{l.Addr().String()},
		Listen: func(string, string) (net.Listener, error) { return l, nil },
	})
	if err := engine.Start(); err != nil {
		return err
	}
	select {}
}

// serveStatic answers with body and checks nothing: the most that a server written in Go reaches here.
func serveStatic(l net.Listener, path string, body []byte) error {
	return fasthttp.Serve(l, func(r *fasthttp.RequestCtx) {
		if string(r.Path()) != path {
			r.SetStatusCode(http.StatusNotFound)
			return
		}
		r.SetContentType("application/json")
		r.SetBody(body)
	})
}
