package dashboard

import (
	"cmp"
	"embed"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"

	"latchkey/internal/packed"
	"latchkey/internal/sorted"
)

// docFiles has the documentation as it was rendered by a test, see TestDocs: in each file the title on
// the first line, then the HTML.
//
//go:embed docs/*.gz
var docFiles embed.FS

// docPages are the pages of the documentation.
type docPages struct{}

func (docPages) sections() []section { return []section{{"Help", "Documentation", "/docs"}} }

func (docPages) pages() map[string]page {
	return map[string]page{"GET /docs": {anyRole, listDocs}, "GET /docs/{id}": {anyRole, showDoc}}
}

// docLink is an entry in the list of the documents.
type docLink struct{ Name, Title string }

// Path returns the path of the page of the document.
func (l docLink) Path() string { return "/docs/" + l.Name }

// docLinks returns all documents by title, the introduction first.
var docLinks = sync.OnceValue(func() (list []docLink) {
	files, err := docFiles.ReadDir("docs")
	if err != nil {
		return nil
	}
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".gz")
		if title, _, err := readDoc(name); err == nil {
			list = append(list, docLink{name, title})
		}
	}
	sorted.Func(list, func(a, b docLink) int {
		return cmp.Or(cmp.Compare(docRank(a.Name), docRank(b.Name)), strings.Compare(a.Title, b.Title))
	})
	return list
})

// docRank is 0 for the introduction, and 1 for the rest.
func docRank(name string) int {
	if name == "readme" {
		return 0
	}
	return 1
}

// readDoc returns the title of a document and its HTML.
func readDoc(name string) (title string, text template.HTML, err error) {
	file, err := docFiles.ReadFile("docs/" + name + ".gz")
	if err != nil {
		return "", "", err
	}
	data, err := packed.Unpack(file)
	title, body, _ := strings.Cut(string(data), "\n")
	return title, template.HTML(body), err
}

// contractDocs are the documents about the Klen AI API alone.
var contractDocs = []string{"contract", "dialer"}

func listDocs(v *pageRequest) {
	list := slices.Clone(docLinks())
	if v.dashboard.o.WithoutContract {
		list = slices.DeleteFunc(list, func(l docLink) bool { return slices.Contains(contractDocs, l.Name) })
	}
	v.show(http.StatusOK, "docs", view{Title: "Documentation", Data: list})
}

func showDoc(v *pageRequest) {
	title, text, err := readDoc(v.R.PathValue("id"))
	if err != nil {
		v.showFault(&Fault{Status: http.StatusNotFound, Message: "There is no such document."})
		return
	}
	v.show(http.StatusOK, "doc", view{Title: title, Data: text})
}

// helps has the document, or the part of one, that helps with the pages whose paths begin with a path.
// The longest path counts.
var helps = []struct{ path, doc string }{
	{"/keys", "keys"}, {"/keys/new", "limits"}, {"/requests", "observe"}, {"/webhooks", "webhooks"}, {"/calls", "dialer"}, {"/contacts/import", "import"},
	{"/owners", "limits"}, {"/operators", "admin#roles-of-operators"}, {"/tokens", "admin#admin-tokens"}, {"/account", "admin#sessions"}, {"/status", "operate"}, {"/cluster", "cluster"},
	{"/backups", "operate#backup-and-restore"}, {"/activity", "admin"},
}

// helpFor returns the document that helps with the page at a path. ok is false if there is none.
func helpFor(path string) (link docLink, ok bool) {
	longest := ""
	for _, help := range helps {
		if (path == help.path || strings.HasPrefix(path, help.path+"/")) && len(help.path) > len(longest) {
			longest, link.Name = help.path, help.doc
		}
	}
	name, _, _ := strings.Cut(link.Name, "#")
	for _, one := range docLinks() {
		if one.Name == name {
			link.Title, ok = one.Title, true
		}
	}
	return link, ok
}
