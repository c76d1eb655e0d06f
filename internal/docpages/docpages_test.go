package docpages

import (
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	source := "# The `first` title\n\nSee [limits](limits.md#per-key), [here](#b-c), [there](https://example.com/), [the source](../main.go) and ![a picture](images/a.png).\n\n" +
		"![alone](images/b.png)\n\n| caption | |\n|---|---|\n| ![one](a.png) | ![two](b.png) |\n\n| | filled |\n|---|---|\n| x | y |\n\n## B, c\n\n| a | b |\n|---|--:|\n| 1 | `x|y` |\n\n```sh\necho \"<b>\"\n```\n\n<script>alert(1)</script>\n\n[bad](javascript:alert(1)) <b>raw</b>\n"
	page, err := Render("docs/a.md", []byte(source), map[string]string{"docs/limits.md": "/docs/limits"})
	if err != nil {
		t.Fatal(err)
	}
	if page.Title != "The first title" {
		t.Errorf("got the title %q", page.Title)
	}
	for _, want := range []string{
		`<a href="/docs/limits#per-key">limits</a>`, `<a href="#b-c">here</a>`, `<a href="https://example.com/">there</a>`, `, the source and`, `<h2 id="b-c">B, c</h2>`,
		`<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>`, `<th scope="col">a</th>`, `<td></td>
<th scope="col">filled</th>`, `<pre tabindex="0"><code class="language-sh">echo &quot;&lt;b&gt;&quot;`,
	} {
		if !strings.Contains(page.HTML, want) {
			t.Errorf("lacks %s", want)
		}
	}
	for _, never := range []string{"<h1", "<img", "<script", "javascript:", "style=", "<b>", "main.go", "alone", "caption", "<th scope=\"col\"></th>"} {
		if strings.Contains(page.HTML, never) {
			t.Errorf("has %s", never)
		}
	}
	if t.Failed() {
		t.Log(page.HTML)
	}
}
