package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestScript_Races wants test.sh to run every test that starts goroutines with the race detector, except those
// that drive the built program or a browser, and those that count allocations.
func TestScript_Races(t *testing.T) {
	script, err := os.ReadFile("test.sh")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, line := range regexp.MustCompile(`(?m)^walks=['"](?:\$walks)?(.*)['"]$`).FindAllStringSubmatch(string(script), -1) {
		text += strings.ReplaceAll(line[1], `\$`, "$")
	}
	walks, err := regexp.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	exempt := regexp.MustCompile(`^Test(Browser|Program_|Damage_|\w+_\w*Allocations)`)
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	plain, raced := 0, 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			switch {
			case !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") || exempt.MatchString(f.Name.Name):
			case !walks.MatchString("latchkey." + f.Name.Name):
				raced++
			default:
				plain++
				if starts(f) {
					t.Errorf("%s: %s starts goroutines, but test.sh runs it without the race detector", name, f.Name.Name)
				}
			}
		}
	}
	if plain < 250 || raced < 500 {
		t.Errorf("got %d tests without the race detector and %d with it", plain, raced)
	}
}

// starts reports whether a function starts goroutines itself.
func starts(f *ast.FuncDecl) (yes bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			yes = true
		case *ast.CallExpr:
			method, ok := n.Fun.(*ast.SelectorExpr)
			yes = yes || ok && method.Sel.Name == "Go"
		}
		return !yes
	})
	return yes
}
