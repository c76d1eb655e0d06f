// Ceiling is what the program is measured against: net/http and httprouter
// with one static answer and no check at all, or with -proxy a bare reverse
// proxy, which passes every request on and checks nothing either.
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
	listen := flag.String("listen", "127.0.0.1:0", "address")
	path := flag.String("path", "/api/v1/agents", "the one path")
	file := flag.String("body", "", "file with the body to answer")
	proxy := flag.String("proxy", "", "URL of an upstream to pass requests on to, in place of an answer")
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

// answering makes a handler that answers with a file.
func answering(file string) (http.Handler, error) {
	body, err := os.ReadFile(file)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}), err
}

// passing makes a handler that passes requests on, with connections and buffers
// kept as many and as long as the program keeps them.
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

// buffers lends what bodies are copied with.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
