package main

import (
	"errors"
	"go/ast"
	"go/constant"
	"go/types"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/clock"
)

// Every route of every part is answered by the row that the part lists.
func TestRegistry_served(t *testing.T) {
	a := newTestApp(t)
	var last Outcome
	a.Server.o.Watch = append(a.Server.o.Watch, func(o *Outcome) { last = *o })
	asked := 0
	ask := func(part string, door http.Handler, rows []Route) {
		for _, row := range rows {
			asked++
			_, key := a.key(everyPermission) // another each time: some routes end it
			last = Outcome{}
			askDoor(door, row.Method, fill(row.Path, "999"), "[]", "X-API-Key: "+key)
			if last.Route != row.Path || last.Method != row.Method {
				t.Errorf("%s: %s %s is answered by the row %q", part, row.Method, row.Path, last.Route)
			}
		}
	}
	for _, p := range registry {
		if p.routes == nil {
			continue
		}
		routes := p.routes(a.App)
		if len(routes.Names()) == 0 {
			t.Errorf("%s serves nothing", p.name)
		}
		ask(p.name, a.api, slices.Concat(routes.Keyed, routes.Free, routes.Open))
		ask(p.name, a.local, routes.Admin)
	}
	if all := len(a.Server.o.Names()); asked != all {
		t.Errorf("%d routes of parts were asked for, and the server has %d", asked, all)
	}
}

// What is listed twice is found when the service starts.
func TestRegistry_doubles(t *testing.T) {
	row := func(path string) func(*App) Routes {
		return func(*App) Routes { return Routes{Admin: []Route{{Method: "GET", Path: path}}} }
	}
	open := func(path string) func(*App) Routes {
		return func(*App) Routes { return Routes{Open: []Route{{Method: "GET", Path: path}}} }
	}
	for _, tt := range []struct {
		name string
		list []part
		want string
	}{
		{"nothing twice", []part{{name: "a", routes: row("/a")}, {name: "b", routes: row("/b")}}, ""},
		{"one path at both listeners", []part{{name: "a", routes: row("/a")}, {name: "b", routes: open("/a")}}, ""},
		{"a part", []part{{name: "a", routes: row("/a")}, {name: "a", routes: row("/a")}}, `two parts in app_registry.go are named "a"`},
		{"a name", []part{{name: "a"}, {name: "a", routes: row("/b")}}, `two parts in app_registry.go are named "a"`},
		{"a route", []part{{name: "a", routes: row("/a")}, {name: "b", routes: row("/a")}}, `GET /a at the admin listener is served by the part "a" and by the part "b"`},
		{"a route of the API", []part{{name: "a", routes: open("/a")}, {name: "b", routes: open("/a")}}, `GET /a is served by the part "a" and by the part "b"`},
	} {
		err := new(App).assemble(tt.list)
		if tt.want == "" && err == nil {
			continue
		}
		if err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A route that is listed twice is found also where its literals stand beside a
// wildcard.
func TestRouter_doubles(t *testing.T) {
	rows := []Row{{Route: Route{Method: "GET", Path: "/a/:id"}}, {Route: Route{Method: "GET", Path: "/a/new"}}, {Route: Route{Method: "GET", Path: "/a/new"}}}
	plain := func(*Error) http.Handler { return http.NotFoundHandler() }
	if _, err := NewRouter(rows[:2], plain); err != nil {
		t.Error(err)
	}
	if _, err := NewRouter(rows, plain); err == nil || !strings.Contains(err.Error(), "GET /a/new is listed twice") {
		t.Errorf("got %v", err)
	}
}

// listsRoutes reports whether a function has the form of those that list the
// routes of a part.
func (s source) listsRoutes(f *types.Func) bool {
	sig := f.Signature()
	return sig.Params().Len() == 0 && sig.Results().Len() == 1 && types.TypeString(sig.Results().At(0).Type(), types.RelativeTo(s.pkg)) == "[]Route"
}

// Every method that lists routes is used by a row of the registry, or by a
// method that is.
func TestRegistry_everyRoute(t *testing.T) {
	s := readSource(t)
	used := map[*types.Func]bool{}
	lists := 0
	note := func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			if f, ok := s.Uses[id].(*types.Func); ok {
				used[f.Origin()] = true
			}
		}
		return true
	}
	for _, file := range s.files {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if f, ok := s.Defs[d.Name].(*types.Func); ok && s.listsRoutes(f) {
					lists++
					ast.Inspect(d.Body, note)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && v.Names[0].Name == "registry" {
						ast.Inspect(v, note)
					}
				}
			}
		}
	}
	if lists < 30 {
		t.Fatalf("only %d methods that list routes were found", lists)
	}
	for id, def := range s.Defs {
		if f, ok := def.(*types.Func); ok && s.listsRoutes(f) && !used[f] {
			t.Errorf("%s: no row of app_registry.go lists the routes of %s", s.fset.Position(id.Pos()), f.FullName())
		}
	}
}

// storedTables returns the names of all tables of the program that hold records.
func (s source) storedTables() (names []string) {
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if named, ok := s.Types[lit].Type.(*types.Named); !ok || named.Obj().Pkg() != s.pkg || named.Obj().Name() != "Table" {
				return true
			}
			fields := map[string]ast.Expr{}
			for _, e := range lit.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					fields[kv.Key.(*ast.Ident).Name] = kv.Value
				}
			}
			if name := s.Types[fields["Name"]].Value; name != nil && fields["Key"] != nil { // one without a key is a sequence only
				names = append(names, constant.StringVal(name))
			}
			return true
		})
	}
	return names
}

// Every table belongs to exactly one part, so that a check and a restore go
// through all.
func TestRegistry_everyTable(t *testing.T) {
	owners := map[string][]string{}
	for _, p := range registry {
		for _, table := range p.tables {
			if t, ok := table.(anyTable); ok {
				name := t.settings().name
				owners[name] = append(owners[name], p.name)
			}
		}
	}
	stored := readSource(t).storedTables()
	if len(stored) < 20 {
		t.Fatalf("only the tables %q were found", stored)
	}
	for _, name := range slices.Concat(stored, slices.Collect(maps.Keys(owners))) {
		if !slices.Contains(stored, name) || len(owners[name]) != 1 {
			t.Errorf("the table %s belongs to the parts %q, want exactly one", name, owners[name])
		}
	}
}

// Background work has a period and a name, and no two pieces run at a time.
func TestApp_work(t *testing.T) {
	for _, w := range newTestApp(t).work {
		if w.every < time.Second || w.what == "" || w.run == nil {
			t.Errorf("%q every %s", w.what, w.every)
		}
	}
	log := &lockedBuffer{}
	a := &App{cluster: alone{}, clock: clock.NewClock(), log: slog.New(slog.NewJSONHandler(log, nil)), Store: &Store{}, stop: make(chan struct{})}
	var busy, together atomic.Bool
	var runs atomic.Int64
	run := func(time.Time) error {
		if busy.Swap(true) {
			together.Store(true)
		}
		for range 100 {
			runtime.Gosched()
		}
		busy.Store(false)
		if runs.Add(1) == 200 {
			close(a.stop)
		}
		return errors.New("a fault of it")
	}
	a.repeat([]work{{time.Millisecond, "first", eachNode, run}, {time.Millisecond, "second", eachNode, run}, {2 * time.Millisecond, "third", eachNode, run}, {3 * time.Millisecond, "fourth", eachNode, run}})
	if together.Load() {
		t.Error("two pieces of work ran at the same time")
	}
	if text := log.String(); strings.Index(text, "first") > strings.Index(text, "second") {
		t.Errorf("got the log %.300s", text)
	}
}
