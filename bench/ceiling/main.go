// Ceiling is the server with which bench compares the program. It uses net/http and httprouter,
// answers every request with the same body and checks nothing. With -proxy it is a reverse proxy
// that forwards every request and checks nothing.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/julienschmidt/httprouter"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	path := flag.String("path", "/api/v1/agents", "URL path of the requests to answer")
	file := flag.String("body", "", "path of the file with the body of the answers")
	proxy := flag.String("proxy", "", "URL of an upstream to which requests are forwarded, in place of answering them")
	flag.Parse()
	kind, of := answering, *file
	if *proxy != "" {
		kind, of = passing, *proxy
	}
	handler, err := kind(of)
	if err != nil {
		log.Fatal(err)
	}
	router := httprouter.New()
	router.Handler("GET", *path, handler)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on http://%s", l.Addr())
	server := &http.Server{Handler: router, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	log.Fatal(server.Serve(l))
}

// answering returns a handler that answers with the contents of a file.
func answering(file string) (http.Handler, error) {
	body, err := os.ReadFile(file)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}), err
}

// passing returns a handler that forwards requests to upstream. It keeps as many idle connections, for
// as long, and uses buffers in the same way as the program.
func passing(upstream string) (http.Handler, error) {
	to, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to) },
		BufferPool: &buffers{},
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			IdleConnTimeout:     90 * time.Second,
			MaxIdleConnsPerHost: 1024,
			DisableCompression:  true,
		},
	}, nil
}

// buffers is a pool of buffers for copying bodies.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
