//go:build unix

package durable_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"latchkey/internal/durable"
)

// TestOwner_Files has root create files and folders in a folder of another user.
func TestOwner_Files(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a folder of another user")
	}
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.Chown(dir, 64001, 64002); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	f, err := durable.OpenFile(at("opened"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if err := durable.WriteFile(at("written"), "text"); err != nil {
		t.Fatal(err)
	}
	if err := durable.MakeFolder(at("folder/below")); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(at("folder/below/written"), "text"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"opened", "written", "folder", "folder/below", "folder/below/written"} {
		info, err := os.Stat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); s.Uid != 64001 || s.Gid != 64002 {
			t.Errorf("%s belongs to %d:%d, want the owner of the folder", name, s.Uid, s.Gid)
		}
	}
	// What the owner of the folder has put there does not lead root elsewhere.
	if err := os.Symlink(outside, at("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(outside, at("second")); err != nil {
		t.Fatal(err)
	}
	if f, err := durable.OpenFile(at("link"), os.O_RDWR|os.O_CREATE, 0o600); err == nil {
		_ = f.Close()
		t.Error("a symbolic link was opened")
	}
	if f, err = durable.OpenFile(at("second"), os.O_RDWR, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if info, err := os.Stat(outside); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the file outside: got %v, %v; want it still to belong to root", info, err)
	}
}

// creators lists the functions of other packages that can create a file or folder.
var creators = []string{"os.Create", "os.CreateTemp", "os.OpenFile", "os.WriteFile", "os.Mkdir", "os.MkdirAll", "os.MkdirTemp", "bbolt.Open", "autocert.DirCache"}

// TestOwner_Walk finds calls in the program that create a file or folder in another way than by this
// package. The exceptions create nothing in an existing data folder.
func TestOwner_Walk(t *testing.T) {
	exceptions := map[string]string{
		"folder.go makeFolder os.MkdirAll":                    "the data folder itself",
		"main.go run os.MkdirTemp":                            "the data folder of a demo",
		"store_file.go openFormat os.OpenFile":                "without os.O_CREATE",
		"store_file.go openChecked bbolt.Open":                "opens by openFormat",
		"internal/sockpath/sockpath.go throughLink":           "a link in the temporary folder",
		"cli/store.go createBackup os.OpenFile":               "a file outside the data folder",
		"internal/certs/certs.go NewIssuer autocert.DirCache": "folderCache writes its files",
		"listen_acme.go adopt autocert.DirCache":              "only reads",
	}
	root := filepath.Join("..", "..")
	var names []string
	for _, pattern := range []string{"*.go", "cli/*.go", "dashboard/*.go", "internal/*/*.go"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: got %v, %v", pattern, found, err)
		}
		names = append(names, found...)
	}
	calls := 0
	for _, name := range names {
		short, _ := filepath.Rel(root, name)
		short = filepath.ToSlash(short)
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(short, "internal/durable/") || strings.HasPrefix(short, "internal/testwatch/") || strings.HasPrefix(short, "internal/mutants/") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				which := called(call)
				if !slices.Contains(creators, which) {
					return true
				}
				calls++
				place := short + " " + fn.Name.Name
				if exceptions[place] == "" && exceptions[place+" "+which] == "" && !opensDurably(call) {
					t.Errorf("%s calls %s; use durable.OpenFile, durable.WriteFile or durable.MakeFolder", place, which)
				}
				return true
			})
		}
	}
	if calls < 5 {
		t.Errorf("got %d calls, want those of the exceptions at least", calls)
	}
}

// called returns the package and name of the function that call calls, such as "os.Create", or "".
func called(call *ast.CallExpr) string {
	if to, ok := call.Fun.(*ast.SelectorExpr); ok {
		if pkg, ok := to.X.(*ast.Ident); ok {
			return pkg.Name + "." + to.Sel.Name
		}
	}
	return ""
}

// opensDurably reports whether call is given durable.OpenFile to open files with.
func opensDurably(call *ast.CallExpr) (found bool) {
	ast.Inspect(call, func(n ast.Node) bool {
		to, ok := n.(*ast.SelectorExpr)
		if ok && to.Sel.Name == "OpenFile" {
			pkg, ok := to.X.(*ast.Ident)
			found = found || ok && pkg.Name == "durable"
		}
		return true
	})
	return found
}
