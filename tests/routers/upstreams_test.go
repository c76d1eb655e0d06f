package routers

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gofiber/fiber/v2"
	"github.com/gorilla/mux"
	"github.com/julienschmidt/httprouter"
)

// anyMethod are the methods of a row without methods, for routers that want them by name.
var anyMethod = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// row is a [[route]] section, and the handler of an upstream for the same paths and methods.
type row struct {
	Path    string   // a pattern of Latchkey, without the prefix of the upstream
	Methods []string // nil: any method
	Need    int      // a set of permissions, of which a key needs one; 0: any key will do
}

// hiddenRow is the Need of a handler that the configuration has no route for: no key may use it.
const hiddenRow = 1 << 30

// String returns the row for messages.
func (r *row) String() string {
	return fmt.Sprintf("%s %s", strings.Join(r.Methods, ","), r.Path)
}

// upstream is an API behind Latchkey, made with a router.
type upstream struct {
	Name    string // also the first segment of its paths
	Rows    []*row
	Strip   bool // Latchkey removes the first segment, so the router does not know it
	Cases   bool // the router tells upper and lower case apart, and its routes say so
	Address string

	mu      sync.Mutex
	reached map[*row]int
	holes   []string
}

// reach notes that a request has arrived at the handler of a row. try is its X-Try field: what the
// key may do, as a number, and what the client sent.
func (u *upstream) reach(r *row, method, uri, try string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reached[r]++
	may := 0
	_, err := fmt.Sscan(try, &may)
	path, _, _ := strings.Cut(uri, "?")
	if r.Need == hiddenRow && strings.HasSuffix(path, "/") {
		return // a slash at the end makes no difference to Latchkey, unless a route says so
	}
	if err != nil || r.Need != 0 && r.Need&may == 0 {
		u.holes = append(u.holes, fmt.Sprintf("%s: %s %q reached %q, which needs %04b; sent was %s", u.Name, method, uri, r, r.Need, try))
	}
}

// handler returns the handler of a row.
func (u *upstream) handler(r *row) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		u.reach(r, req.Method, req.RequestURI, req.Header.Get("X-Try"))
		_, _ = io.WriteString(w, "reached")
	}
}

// endpoint is what a router registers: a method ("" for any), a pattern, and the row.
type endpoint struct {
	method, path string
	row          *row
	others       []string // for any method: those that no other row of the pattern names
}

// endpoints returns what the rows register, the narrowest patterns first. A pattern with *rest is
// also registered without it, because it fits the path in front of it too.
func (u *upstream) endpoints() (list []endpoint) {
	prefix := "/" + u.Name
	if u.Strip {
		prefix = ""
	}
	has := func(path string) bool {
		return slices.ContainsFunc(u.Rows, func(r *row) bool { return r.Path == path })
	}
	add := func(r *row, path string) {
		if path == "" {
			path = "/"
		}
		for _, m := range r.Methods {
			list = append(list, endpoint{m, path, r, nil})
		}
		if r.Methods == nil {
			others := slices.DeleteFunc(slices.Clone(anyMethod), func(m string) bool {
				return slices.ContainsFunc(u.Rows, func(o *row) bool { return o.Path == r.Path && slices.Contains(o.Methods, m) })
			})
			list = append(list, endpoint{"", path, r, others})
		}
	}
	for _, r := range u.Rows {
		if bare, ok := strings.CutSuffix(r.Path, "/*rest"); ok && !has(bare) && (bare != "" || !has("/")) {
			add(r, prefix+bare)
		}
		if r.Path == "/" {
			add(r, prefix)
		} else {
			add(r, prefix+r.Path)
		}
	}
	slices.SortStableFunc(list, func(a, b endpoint) int { return strings.Compare(width(a), width(b)) })
	return list
}

// width returns a text that sorts narrow endpoints before wide ones: each literal segment is a, each
// :name b, the end c, *rest d.
func width(e endpoint) string {
	var b strings.Builder
	for part := range strings.SplitSeq(strings.TrimPrefix(e.path, "/"), "/") {
		switch {
		case strings.HasPrefix(part, "*"):
			b.WriteByte('d')
		case strings.HasPrefix(part, ":"):
			b.WriteByte('b')
		default:
			b.WriteByte('a')
		}
	}
	if e.method == "" {
		return b.String() + "cz"
	}
	return b.String() + "ca"
}

// rewritten returns a pattern with its wildcards in the syntax of a router. In one and rest, %s is the name of the wildcard.
func rewritten(path, one, rest string, escape bool) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		switch {
		case strings.HasPrefix(part, ":"):
			parts[i] = strings.ReplaceAll(one, "%s", part[1:])
		case strings.HasPrefix(part, "*"):
			parts[i] = strings.ReplaceAll(rest, "%s", part[1:])
		case escape:
			parts[i] = strings.TrimPrefix((&url.URL{Path: "/" + part}).EscapedPath(), "/")
		}
	}
	return strings.Join(parts, "/")
}

// kinds are the routers, each as its documentation shows it and with its options. They register the
// endpoints of an upstream and panic if two of these cannot stand beside each other.
var kinds = map[string]func(u *upstream) http.Handler{
	"nethttp":    netHTTP,
	"httprouter": httpRouter,
	"gorilla":    func(u *upstream) http.Handler { return gorilla(u, mux.NewRouter(), false) },
	"gorillaraw": func(u *upstream) http.Handler {
		return gorilla(u, mux.NewRouter().UseEncodedPath().SkipClean(true), true)
	},
	"gorillaends": func(u *upstream) http.Handler { return gorilla(u, mux.NewRouter().StrictSlash(true), false) },
	"chi":         func(u *upstream) http.Handler { return chiRouter(u) },
	"chiclean":    func(u *upstream) http.Handler { return chiRouter(u, middleware.CleanPath) },
	"chistrip":    func(u *upstream) http.Handler { return chiRouter(u, middleware.StripSlashes, middleware.GetHead) },
	"gin":         func(u *upstream) http.Handler { return ginRouter(u, func(*gin.Engine) {}) },
	"ginraw": func(u *upstream) http.Handler {
		return ginRouter(u, func(g *gin.Engine) { g.UseRawPath, g.RemoveExtraSlash, g.HandleMethodNotAllowed = true, true, true })
	},
	"ginfixed": func(u *upstream) http.Handler {
		return ginRouter(u, func(g *gin.Engine) { g.RedirectFixedPath, g.UseRawPath, g.UnescapePathValues = true, true, false })
	},
}

func netHTTP(u *upstream) http.Handler {
	m := http.NewServeMux()
	for _, e := range u.endpoints() {
		path := rewritten(e.path, "{%s}", "{%s...}", false)
		if path == "/" {
			path = "/{$}" // otherwise it stands for all paths
		}
		m.HandleFunc(strings.TrimSpace(e.method+" "+path), u.handler(e.row))
	}
	return m
}

// isCatchAll reports whether an endpoint is for all paths of the upstream that no other is for.
// Routers that cannot have it beside others have another place for it.
func (u *upstream) isCatchAll(e endpoint) bool {
	return e.row.Path == "/*rest" && strings.HasSuffix(e.path, "/*rest")
}

func httpRouter(u *upstream) http.Handler {
	m := httprouter.New()
	m.HandleMethodNotAllowed = false
	for _, e := range u.endpoints() {
		switch {
		case u.isCatchAll(e):
			m.NotFound = u.catchAll()
		case e.method == "":
			for _, method := range e.others {
				m.Handler(method, e.path, u.handler(e.row))
			}
		default:
			m.Handler(e.method, e.path, u.handler(e.row))
		}
	}
	return m
}

// catchAll returns a handler that chooses among the rows of /*rest by the method. Without a row for
// it, or with a method that no row in front of it is registered for, it refuses the request.
func (u *upstream) catchAll() http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var found *row
		for _, r := range u.Rows {
			if r.Path == "/*rest" && (slices.Contains(r.Methods, req.Method) || r.Methods == nil && found == nil && slices.Contains(anyMethod, req.Method)) {
				found = r
			}
		}
		if found == nil {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		u.handler(found)(w, req)
	}
}

func gorilla(u *upstream, m *mux.Router, escape bool) http.Handler {
	for _, e := range u.endpoints() {
		r := m.HandleFunc(rewritten(e.path, "{%s}", "{%s:.*}", escape), u.handler(e.row))
		if e.method != "" {
			r.Methods(e.method)
		}
	}
	return m
}

func chiRouter(u *upstream, use ...func(http.Handler) http.Handler) http.Handler {
	m := chi.NewRouter()
	m.Use(use...)
	list := u.endpoints()
	slices.Reverse(list) // Handle sets all methods, and Method then replaces one
	for _, e := range list {
		if path := rewritten(e.path, "{%s}", "*", false); e.method == "" {
			m.HandleFunc(path, u.handler(e.row))
		} else {
			m.MethodFunc(e.method, path, u.handler(e.row))
		}
	}
	return m
}

func ginRouter(u *upstream, change func(*gin.Engine)) http.Handler {
	g := gin.New()
	change(g)
	for _, e := range u.endpoints() {
		methods := e.others
		if e.method != "" {
			methods = []string{e.method}
		}
		if u.isCatchAll(e) {
			g.NoRoute(gin.WrapF(u.catchAll()))
			continue
		}
		for _, method := range methods {
			g.Handle(method, e.path, gin.WrapF(u.handler(e.row)))
		}
	}
	return g
}

// fibers are the forms of Fiber, which is built on another server than net/http. Without its option
// for that it does not tell upper and lower case apart.
var fibers = map[string]fiber.Config{
	"fiber":       {},
	"fiberplain":  {UnescapePath: true},
	"fiberstrict": {CaseSensitive: true, StrictRouting: true},
}

// withFiber returns an app of Fiber. It takes the first endpoint that fits, in the order in which
// they were registered.
func withFiber(u *upstream, config fiber.Config) *fiber.App {
	config.DisableStartupMessage = true
	app := fiber.New(config)
	for _, e := range u.endpoints() {
		h := func(c *fiber.Ctx) error {
			u.reach(e.row, c.Method(), string(c.Request().Header.RequestURI()), c.Get("X-Try"))
			return c.SendString("reached")
		}
		path := rewritten(e.path, ":%s", "*", !config.UnescapePath)
		switch e.method {
		case "":
			app.All(path, h)
		case "GET":
			app.Get(path, h) // takes HEAD too
		default:
			app.Add(e.method, path, h)
		}
	}
	return app
}

// start makes the router of a kind and serves it on a free port. Rows that the router cannot have
// beside the others are removed from u.
func (u *upstream) start(t *testing.T, kind string) {
	t.Helper()
	u.reached = map[*row]int{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Address = listener.Addr().String()
	if config, ok := fibers[kind]; ok {
		app := withFiber(u, config)
		go func() { _ = app.Listener(listener) }()
		t.Cleanup(func() { _ = app.ShutdownWithTimeout(time.Second) })
		return
	}
	h := u.possible(func() http.Handler { return kinds[kind](u) })
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(func() { _ = s.Close() })
}

// possible adds the rows one by one, and leaves out each with which the router panics.
func (u *upstream) possible(build func() http.Handler) (h http.Handler) {
	all := u.Rows
	u.Rows = nil
	try := func() (h http.Handler, failed any) {
		defer func() { failed = recover() }()
		return build(), nil
	}
	for _, r := range all {
		u.Rows = append(u.Rows, r)
		if built, failed := try(); failed != nil {
			u.Rows = u.Rows[:len(u.Rows)-1]
		} else {
			h = built
		}
	}
	return h
}
