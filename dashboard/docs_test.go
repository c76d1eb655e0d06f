package dashboard

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"latchkey/internal/docpages"
	"latchkey/internal/packed"
	"latchkey/internal/strictjson"
)

// developersOnly are the documents that only matter to those who change the program. They have no page, nor has the changelog:
// the program would be larger for everybody.
var developersOnly = []string{"benchmarks", "reading", "security-tests"}

// documents returns the files of the documentation by the names of their pages.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{"readme": "README.md", "security": "SECURITY.md", "samples": "docs/samples/README.md"}
	all, err := filepath.Glob("../docs/*.md")
	if err != nil || len(all) < 15 {
		t.Fatalf("got %v, %v, want the documents", all, err)
	}
	for _, file := range all {
		if name := strings.TrimSuffix(filepath.Base(file), ".md"); !slices.Contains(developersOnly, name) {
			files[name] = "docs/" + name + ".md"
		}
	}
	return files
}

// TestDocs renders the documentation and holds it against the embedded pages. With LATCHKEY_WRITE_DOCS
// set, it writes them.
func TestDocs(t *testing.T) {
	files, addresses := documents(t), map[string]string{"openapi.json": "/openapi.json"}
	for name, file := range files {
		addresses[file] = "/docs/" + name
	}
	pages, anchors := map[string]string{}, map[string]bool{}
	ids := regexp.MustCompile(` id="([^"]+)"`)
	for name, file := range files {
		source, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		page, err := docpages.Render(file, source, addresses)
		if err != nil {
			t.Fatal(err)
		}
		if page.Title == "" {
			t.Errorf("%s has no title", file)
		}
		pages[name] = page.Title + "\n" + page.HTML
		anchors["/docs/"+name] = true
		for _, m := range ids.FindAllStringSubmatch(page.HTML, -1) {
			anchors["/docs/"+name+"#"+m[1]] = true
			if slices.Contains([]string{"main", "palette", "found", "copied"}, m[1]) {
				t.Errorf("%s: the heading %s has the id of another part of the page", file, m[1])
			}
		}
		if strings.Contains(page.HTML, "raw HTML omitted") {
			t.Errorf("%s has raw HTML, which is left out", file)
		}
	}
	for name, page := range pages {
		for _, m := range regexp.MustCompile(`href="([^"]+)"`).FindAllStringSubmatch(page, -1) {
			to := m[1]
			if strings.HasPrefix(to, "#") {
				to = "/docs/" + name + to
			}
			if !anchors[to] && !strings.HasPrefix(to, "http") && to != "/openapi.json" {
				t.Errorf("%s: the link %s leads nowhere", files[name], m[1])
			}
		}
		if os.Getenv("LATCHKEY_WRITE_DOCS") != "" {
			if err := os.WriteFile("docs/"+name+".gz", packed.Pack([]byte(page)), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if title, text, err := readDoc(name); err != nil || title+"\n"+string(text) != page {
			t.Errorf("the page of %s is not that of the file; run LATCHKEY_WRITE_DOCS=1 go test -run TestDocs ./dashboard (%v)", files[name], err)
		}
	}
	for _, link := range docLinks() {
		if files[link.Name] == "" {
			t.Errorf("dashboard/docs/%s.gz is the page of no document; remove it", link.Name)
		}
	}
	for _, help := range helps {
		if !anchors["/docs/"+help.doc] {
			t.Errorf("the help for %s leads to %s, which is not there", help.path, help.doc)
		}
	}
}

// TestDocs_Packed compares the packed files with the templates and with what pages load. With LATCHKEY_WRITE_DOCS it packs them.
func TestDocs_Packed(t *testing.T) {
	names, err := filepath.Glob("*.html")
	if err != nil || len(names) < 50 {
		t.Fatalf("got %d templates, %v", len(names), err)
	}
	pages, sources := map[string]string{}, map[string][]byte{}
	for _, name := range slices.Concat(names, staticNames) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(names, name) {
			pages[name] = string(data)
		} else {
			sources[name] = data
		}
	}
	if sources["pages.json"], err = strictjson.Encode(pages); err != nil {
		t.Fatal(err)
	}
	for name, data := range sources {
		file := "packed/" + name + ".gz"
		if os.Getenv("LATCHKEY_WRITE_DOCS") != "" {
			if err := os.WriteFile(file, packed.Pack(data), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		there, err := files.ReadFile(file)
		if err == nil {
			there, err = packed.Unpack(there)
		}
		if err != nil || !bytes.Equal(there, data) {
			t.Errorf("%s does not have the present files; run LATCHKEY_WRITE_DOCS=1 go test -run TestDocs ./dashboard (%v)", file, err)
		}
	}
}
