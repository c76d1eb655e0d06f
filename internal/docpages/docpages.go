// Package docpages renders documents in Markdown as parts of web pages. The documents link to each other
// by file; the pages by address. Raw HTML, images and tables of images are left out. The program itself
// does not use the package: a test renders the documents into files that the program embeds, because the
// renderer would add about 0.8 MB to it.
package docpages

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	east "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// Page is a rendered document.
type Page struct {
	Title string // its first heading, as text
	HTML  string // without the first heading
}

// Render renders the document in the file with a path such as "docs/limits.md". addresses has the
// addresses of pages and files by path. A link to another file becomes plain text.
func Render(file string, source []byte, addresses map[string]string) (Page, error) {
	links := &linker{folder: path.Dir(file), addresses: addresses}
	md := goldmark.New(
		goldmark.WithExtensions(extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignNone))), // a style attribute would be against the pages' policy
		goldmark.WithParserOptions(parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(links, 100))),
		goldmark.WithRendererOptions(html.WithXHTML()),
	)
	var out bytes.Buffer
	if err := md.Convert(source, &out); err != nil {
		return Page{}, fmt.Errorf("%s: %w", file, err)
	}
	body := strings.NewReplacer(
		"<table>", `<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>`, "</table>", "</table></div>",
		"<pre>", `<pre tabindex="0">`, "<th></th>", "<td></td>", "<th>", `<th scope="col">`,
	).Replace(out.String())
	return Page{links.title, strings.TrimSpace(body)}, nil
}

// linker changes a parsed document: it takes its title, removes images, and changes where links lead.
type linker struct {
	folder    string
	addresses map[string]string
	title     string
}

// Transform implements parser.ASTTransformer.
func (l *linker) Transform(doc *ast.Document, reader text.Reader, _ parser.Context) {
	var gone []ast.Node
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level == 1 && l.title == "" {
				l.title = textOf(n, reader.Source())
				gone = append(gone, n)
			}
		case *ast.HTMLBlock:
			if lines := n.Lines(); lines.Len() > 0 && bytes.HasPrefix(lines.Value(reader.Source()), []byte("<!--")) {
				gone = append(gone, n) // a comment; other HTML remains, so that the tests see it
			}
		case *ast.Image:
			gone = append(gone, withCaptions(n))
			return ast.WalkSkipChildren, nil
		case *ast.Link:
			to, ok := l.address(string(n.Destination))
			if n.Destination = []byte(to); !ok {
				gone = append(gone, n)
			}
		}
		return ast.WalkContinue, nil
	})
	for _, n := range gone {
		parent := n.Parent()
		if parent == nil {
			continue // a table with several images
		}
		if link, is := n.(*ast.Link); is {
			for child := link.FirstChild(); child != nil; child = link.FirstChild() {
				parent.InsertBefore(parent, link, child)
			}
		}
		if parent.RemoveChild(parent, n); parent.Kind() == ast.KindParagraph && parent.ChildCount() == 0 {
			parent.Parent().RemoveChild(parent.Parent(), parent)
		}
	}
}

// withCaptions returns the table that an image is in, whose other cells are captions, or the image.
func withCaptions(image ast.Node) ast.Node {
	for n := image.Parent(); n != nil; n = n.Parent() {
		if n.Kind() == east.KindTable {
			return n
		}
	}
	return image
}

// address returns where a link leads. ok is false if it leads to a file without an address.
func (l *linker) address(to string) (address string, ok bool) {
	if strings.HasPrefix(to, "#") || strings.HasPrefix(to, "https://") || strings.HasPrefix(to, "http://") {
		return to, true
	}
	file, anchor, has := strings.Cut(to, "#")
	address, ok = l.addresses[path.Join(l.folder, file)]
	if has {
		address += "#" + anchor
	}
	return address, ok
}

// textOf returns the text of a node without its marks.
func textOf(n ast.Node, source []byte) string {
	var out strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, is := n.(*ast.Text); is && entering {
			out.Write(t.Segment.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return out.String()
}
