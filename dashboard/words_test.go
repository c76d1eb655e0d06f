package dashboard

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

// oldWords are words that pages had, and what they say now. One thing has one word on all pages.
var oldWords = map[string]string{
	`\bfits\b`:                         "matches",
	`\(needed\)`:                       "(required)",
	`Rows to mend`:                     "Rows to fix",
	`or its lines`:                     "or paste CSV",
	`\bMail\b|\bmail address`:          "Email, email address",
	`[Pp]resent (password|secret|one)`: "current",
	`Finish early|whoever uses them`:   "End old secret, even if still in use",
	`\b[Aa]new\b`:                      "again",
	`Free (within|inside)`:             "Reusable space",
	`\bDoors\b`:                        "Listeners",
	`Clock of the limits`:              "Limit clock",
	`The key is made`:                  "Key created",
	`Sign out|Signed out`:              "Log out",
	`\bGo on\b|go on here`:             "Continue",
	`^Address$|>Address<|this address`: "URL, IP address or Street",
	`Made by`:                          "Created by",
}

// TestPages_Words looks for old words in the templates and in the texts of the code.
func TestPages_Words(t *testing.T) {
	texts := map[string][]string{}
	templates, err := filepath.Glob("*.html")
	if err != nil || len(templates) < 50 {
		t.Fatalf("got %d templates, %v", len(templates), err)
	}
	for _, name := range templates {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = []string{string(text)}
	}
	code, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range code {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, is := n.(*ast.BasicLit); is && text.Kind == token.STRING {
				texts[name] = append(texts[name], strings.Trim(text.Value, "\"`"))
			}
			return true
		})
	}
	for old, instead := range oldWords {
		pattern := regexp.MustCompile(old)
		for name, list := range texts {
			for _, text := range list {
				if found := pattern.FindString(text); found != "" {
					t.Errorf("%s says %q; write %s", name, found, instead)
				}
			}
		}
	}
}
