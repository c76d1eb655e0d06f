package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// site is a piece of a file that a mutant replaces.
type site struct {
	number   int // of the mutant; 0 if it was not chosen
	file     string
	from, to int    // in bytes
	text     string // the replacement; NUMBER in it is the number of the mutant
	at, what string // for people
}

// finder collects the sites of a file.
type finder struct {
	pkg   *packages.Package
	src   []byte
	file  string
	sites []site
}

// findSites returns the places of all possible mutants in files of the main package whose names begin with one of the
// words.
func findSites(words []string) ([]site, error) {
	list, err := packages.Load(&packages.Config{Mode: packages.NeedName | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedExportFile}, ".")
	if err != nil {
		return nil, err
	}
	pkg := list[0]
	if len(pkg.Errors) > 0 {
		return nil, pkg.Errors[0]
	}
	var sites []site
	for _, file := range pkg.Syntax {
		path := pkg.Fset.Position(file.Pos()).Filename
		name := filepath.Base(path)
		if !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(name, w) }) {
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f := &finder{pkg: pkg, src: src, file: name}
		for _, d := range file.Decls {
			if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
				ast.Inspect(d.Body, f.visit)
			}
		}
		sites = append(sites, f.sites...)
	}
	return sites, nil
}

func (f *finder) offset(p token.Pos) int       { return f.pkg.Fset.Position(p).Offset }
func (f *finder) source(n ast.Node) string     { return string(f.src[f.offset(n.Pos()):f.offset(n.End())]) }
func (f *finder) typeOf(e ast.Expr) types.Type { return f.pkg.TypesInfo.Types[e].Type }
func (f *finder) constant(e ast.Expr) bool     { return f.pkg.TypesInfo.Types[e].Value != nil }

// add adds a mutant that replaces a node.
func (f *finder) add(n ast.Node, what, text string) {
	at := f.pkg.Fset.Position(n.Pos())
	f.sites = append(f.sites, site{file: f.file, from: f.offset(n.Pos()), to: f.offset(n.End()), text: text, what: what, at: fmt.Sprintf("%s:%d", f.file, at.Line)})
}

// visit adds the mutants of a node, and reports whether to look at what is in it.
func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR
	case *ast.CaseClause: // the cases of a switch must differ
		for _, s := range n.Body {
			ast.Inspect(s, f.visit)
		}
		return false
	case *ast.ArrayType, *ast.SelectorExpr:
		return false
	case *ast.BinaryExpr:
		f.operator(n)
	case *ast.IfStmt:
		if n.Else == nil {
			f.add(n.Cond, "the branch is never taken: "+f.source(n.Cond), "("+f.source(n.Cond)+") && !mutantOn(NUMBER)")
		} else {
			f.add(n.Cond, "the other branch is taken: "+f.source(n.Cond), "("+f.source(n.Cond)+") != mutantOn(NUMBER)")
		}
	case *ast.ReturnStmt:
		f.lostErrors(n)
	case *ast.BlockStmt:
		f.statements(n.List)
	}
	if e, ok := n.(ast.Expr); ok && f.constant(e) {
		f.number(e)
		return false
	}
	return true
}

// operator adds a mutant with another operator.
func (f *finder) operator(e *ast.BinaryExpr) {
	others := map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
		token.LAND: token.LOR, token.LOR: token.LAND,
	}
	other, ok := others[e.Op]
	if basic, _ := f.typeOf(e).(*types.Basic); !ok || f.constant(e) || basic == nil {
		return
	}
	x, y := f.source(e.X), f.source(e.Y)
	f.add(e, fmt.Sprintf("%s in place of %s: %s", other, e.Op, f.source(e)),
		fmt.Sprintf("func() bool { if mutantOn(NUMBER) { return %s %s %s }; return %s %s %s }()", x, other, y, x, e.Op, y))
}

// lostErrors adds mutants that return nil in place of an error.
func (f *finder) lostErrors(n *ast.ReturnStmt) {
	for _, e := range n.Results {
		if t := f.typeOf(e); t != nil && t.String() == "error" {
			f.add(e, "the error is lost: return "+f.source(e), "mutantError(NUMBER, "+f.source(e)+")")
		}
	}
}

// statements adds mutants without a statement.
func (f *finder) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && f.source(call.Fun) == "panic" {
				continue
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE || f.source(s.Lhs[0]) == "_" {
				continue
			}
		case *ast.IncDecStmt:
		default:
			continue
		}
		f.add(s, "the statement is missing: "+f.source(s), "if !mutantOn(NUMBER) { "+f.source(s)+" }")
	}
}

// number adds a mutant with a constant that is larger by 1, or twice as long.
func (f *finder) number(e ast.Expr) {
	t := f.typeOf(e)
	basic, ok := t.Underlying().(*types.Basic)
	if !ok || basic.Info()&types.IsInteger == 0 || basic.Info()&types.IsUntyped != 0 || basic.Kind() == types.Uintptr {
		return
	}
	name := types.TypeString(t, func(p *types.Package) string {
		if p == f.pkg.Types {
			return ""
		}
		return p.Name()
	})
	if strings.Contains(name, ".") && name != "time.Duration" {
		return // its package may not be imported
	}
	if name == "time.Duration" && !strings.Contains(f.source(e), "time.") {
		return
	}
	f.add(e, "another number: "+f.source(e), fmt.Sprintf("mutantNumber(NUMBER, %s(%s))", name, f.source(e)))
}

// choose returns the first n sites that do not overlap, with their numbers.
func choose(all []site, n int) []site {
	var chosen []site
	for _, s := range all {
		if len(chosen) == n {
			break
		}
		if !slices.ContainsFunc(chosen, func(c site) bool { return c.file == s.file && c.from < s.to && s.from < c.to }) {
			s.number = len(chosen) + 1
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// switches is the code that all mutants use.
const switches = `package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
)

var (
	theMutant, _   = strconv.Atoi(os.Getenv("LATCHKEY_MUTANT"))
	mutantsReached sync.Map
	mutantsFile, _ = os.OpenFile(os.Getenv("LATCHKEY_MUTANTS_REACHED"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
)

func mutantOn(n int) bool {
	if mutantsFile != nil {
		if _, loaded := mutantsReached.LoadOrStore(n, true); !loaded {
			fmt.Fprintln(mutantsFile, n)
		}
	}
	return n == theMutant
}

func mutantError(n int, err error) error {
	if mutantOn(n) {
		return nil
	}
	return err
}

func mutantNumber[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](n int, v T) T {
	if !mutantOn(n) {
		return v
	}
	if _, ok := any(v).(interface{ Seconds() float64 }); ok {
		return 2 * v
	}
	return v + 1
}
`

// build compiles the tests of the main package with all mutants.
func build(mutants []site, folder, program string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	overlay := map[string]string{}
	write := func(name, text string) error {
		overlay[filepath.Join(here, name)] = filepath.Join(folder, name)
		return os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600)
	}
	if err := write("mutants_switch.go", switches); err != nil {
		return err
	}
	files := map[string][]site{}
	for _, m := range mutants {
		files[m.file] = append(files[m.file], m)
	}
	for name, list := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b site) int { return b.from - a.from }) // from the end, so that offsets stay right
		for _, m := range list {
			text = slices.Concat(text[:m.from], []byte(strings.ReplaceAll(m.text, "NUMBER", fmt.Sprint(m.number))), text[m.to:])
		}
		if err := write(name, string(text)); err != nil {
			return err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return err
	}
	path := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", path, "-o", program, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
