package main

import (
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers lists the families of files from the bottom up. The first word of a
// file's name, up to _ or the dot, is its family. A file may use its own
// family and those on the lines above, never one on the same line or below; of
// another family only names with a capital letter. The table is the map of the
// program: keep it true.
var layers = [][]string{
	{"errors", "system", "bounds"},
	{"store"},
	{"audit"},
	{"limits"},
	{"keys"},
	{"handlers"},
	{"guard", "owners"},
	{"server", "config", "webhooks"},
	{"agents", "contacts"},
	{"calls", "calendar"},
	{"sandbox"},
	{"admin"},
	{"folder", "listen"},
	{"app"},
	{"main"},
}

// clients lists the packages that are clients of the admin endpoint, and the
// families that may import each.
var clients = map[string][]string{"latchkey/cli": {"main"}, "latchkey/dashboard": {"admin", "app"}}

// source is the program's own code, without tests.
type source struct {
	pkg   *types.Package
	fset  *token.FileSet
	files []*ast.File
	*types.Info
}

// readSource reads the code of the package. Imports stay unresolved, which is
// quick and enough: only names that the package declares itself matter.
func readSource(t *testing.T) source {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	s := source{fset: token.NewFileSet(), Info: &types.Info{
		Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{},
	}}
	for _, name := range names {
		if ok, err := build.Default.MatchFile(".", name); err != nil || !ok || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.files = append(s.files, f)
	}
	conf := types.Config{Error: func(error) {}}
	s.pkg, _ = conf.Check("main", s.fset, s.files, s.Info)
	return s
}

func TestLayers(t *testing.T) {
	testsStayOutside(t)
	s := readSource(t)
	place := func(pos token.Pos) (file, family string, layer int) {
		file = filepath.Base(s.fset.Position(pos).Filename)
		family, _, _ = strings.Cut(strings.TrimSuffix(file, ".go"), "_")
		return file, family, slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, family) })
	}
	for id, obj := range s.Uses {
		if obj.Pkg() != s.pkg {
			continue
		}
		from, fromFamily, low := place(id.Pos())
		to, toFamily, high := place(obj.Pos())
		switch {
		case low < 0:
			t.Errorf("%s is in no family", from)
		case fromFamily == toFamily:
		case high >= low:
			t.Errorf("%s uses %s of %s, a family that is not below its own", s.fset.Position(id.Pos()), id.Name, to)
		case !obj.Exported():
			t.Errorf("%s uses %s, which is private to the family of %s", s.fset.Position(id.Pos()), id.Name, to)
		}
	}
}

// testsStayOutside wants the tests of the built program to import nothing of it.
func testsStayOutside(t *testing.T) {
	t.Helper()
	here, err1 := filepath.Glob("tests/*.go")
	below, err2 := filepath.Glob("tests/*/*.go")
	if err := errors.Join(err1, err2); err != nil || len(here) == 0 || len(below) == 0 {
		t.Fatalf("got %v and %v, %v; want the files of tests/ and tests/program/", here, below, err)
	}
	for _, name := range slices.Concat(here, below) {
		for _, path := range imports(t, name) {
			if strings.HasPrefix(path, "latchkey/") && path != "latchkey/tests/program" && path != "latchkey/internal/certs/certstest" {
				t.Errorf("%s imports %s; write out what it needs", name, path)
			}
		}
	}
}

// TestLayers_Clients wants the clients of the admin endpoint to import only what knows
// nothing of the service.
func TestLayers_Clients(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		family, _, _ := strings.Cut(strings.TrimSuffix(name, ".go"), "_")
		for _, path := range imports(t, name) {
			if families, ok := clients[path]; ok && !strings.HasSuffix(name, "_test.go") && !slices.Contains(families, family) {
				t.Errorf("%s imports %s, a client of the admin endpoint; only the families %v may", name, path, families)
			}
		}
	}
	for client := range clients {
		names, err := filepath.Glob(strings.TrimPrefix(client, "latchkey/") + "/*.go")
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: got %v, %v; want its files", client, names, err)
		}
		for _, name := range names {
			for _, path := range imports(t, name) {
				if strings.HasPrefix(path, "latchkey/") && !strings.HasPrefix(path, "latchkey/internal/") {
					t.Errorf("%s imports %s; a client may import only packages of internal/", name, path)
				}
			}
		}
	}
}

// imports returns the paths that a file imports.
func imports(t *testing.T, name string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range f.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}
