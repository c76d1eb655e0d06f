package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// grantTable returns the table of grants in docs/admin.md.
func grantTable(kind string, list []Grant) string {
	text := "| " + kind + " | What it may do |\n|---|---|\n"
	for _, g := range list {
		text += fmt.Sprintf("| `%s` | %s |\n", g.Name, g.About)
	}
	return text
}

// grantsWith returns the names of the grants in list that contain one of rights.
func grantsWith(list []Grant, rights AdminRights) string {
	var names []string
	for _, g := range list {
		if g.Rights&rights != 0 {
			names = append(names, "`"+g.Name+"`")
		}
	}
	return strings.Join(names, ", ")
}

// endpointTable returns the table of endpoints in docs/admin.md: a row for each rule, with all
// endpoints that it is for.
func endpointTable() string {
	groups := map[endpointRule]map[string][]string{} // the paths of a rule, by method
	for endpoint, rule := range endpointRules {
		method, path, _ := strings.Cut(endpoint, " ")
		if groups[rule] == nil {
			groups[rule] = map[string][]string{}
		}
		groups[rule][method] = append(groups[rule][method], strings.TrimPrefix(path, "/admin/v1"))
	}
	rules := slices.SortedFunc(maps.Keys(groups), func(a, b endpointRule) int {
		return cmp.Or(cmp.Compare(a.Rights, b.Rights), cmp.Compare(a.Proof, b.Proof))
	})
	text := "| Endpoints | Roles | Scopes | Password |\n|---|---|---|---|\n"
	for _, rule := range rules {
		var all []string
		for _, method := range slices.Sorted(maps.Keys(groups[rule])) {
			paths := groups[rule][method]
			slices.Sort(paths)
			all = append(all, method+" `"+strings.Join(paths, "`, `")+"`")
		}
		scopes := grantsWith(Scopes(), rule.Rights)
		if rule.Proof == humanProof || rule.Proof.own() {
			scopes = "no token"
		}
		password := map[bool]string{true: "yes", false: ""}[rule.Proof.needed()]
		text += fmt.Sprintf("| %s | %s | %s | %s |\n", strings.Join(all, "; "), grantsWith(Roles(), rule.Rights), scopes, password)
	}
	return text
}

// The tables of docs/admin.md are those of the program. With LATCHKEY_WRITE_DOCS set the test writes
// them.
func TestRoles_Docs(t *testing.T) {
	const file = "docs/admin.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name, want := range map[string]string{"roles": grantTable("Role", Roles()), "scopes": grantTable("Scope", Scopes()), "endpoints": endpointTable()} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
		before, rest, ok := strings.Cut(text, begin)
		got, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for the table of %s", file, name)
		}
		if os.Getenv("LATCHKEY_WRITE_DOCS") != "" {
			text = before + begin + want + end + after
		} else if got != want {
			t.Errorf("%s: the table of %s is\n%s\nwant (LATCHKEY_WRITE_DOCS=1 writes it)\n%s", file, name, got, want)
		}
	}
	if text != string(data) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
