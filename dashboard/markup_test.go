package dashboard

import (
	"html/template"
	"strings"
	"testing"
)

const hostile = `"><script>'&amp;` + "`</b>"

// What Go code writes is escaped as what the templates write: a hostile text adds no element and no
// attribute.
func TestMarkup(t *testing.T) {
	block := weekBlock{Title: hostile, Who: hostile, When: hostile, Status: hostile, Href: "/calendar/events/1?zone=" + hostile, X: hostile, Width: hostile, Y: 3, Height: 28}
	for name, got := range map[string]template.HTML{
		"options": optionsOf([]choice{{hostile, hostile, true}}), "suggestions": suggestionsOf([]choice{{hostile, hostile, true}}),
		"blocks": blocksOf([]weekBlock{block}), "agenda": agendaOf([]weekBlock{block}),
	} {
		if text := string(got); strings.Contains(text, "<script") || strings.Contains(text, "'&amp;`") || !strings.Contains(text, template.HTMLEscapeString(hostile)) {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if got := optionsOf([]choice{{"a", "A", false}, {"b", "B & C", true}}); got != `<option value="a">A</option><option value="b" selected>B &amp; C</option>` {
		t.Errorf("options: got %s", got)
	}
	if got := suggestionsOf([]choice{{"a", "A", true}}); got != `<option value="a">A</option>` {
		t.Errorf("suggestions: got %s", got)
	}
	if got := agendaOf([]weekBlock{{Title: "One", When: "9:00", Status: "scheduled", Href: "/e/1"}, {Title: "Two", When: "9:30", Who: "Ann", Status: "confirmed", Href: "/e/2"}}); got !=
		`<a class="event scheduled" href="/e/1"><b>One</b> <span>9:00</span></a><a class="event confirmed" href="/e/2"><b>Two</b> <span>9:30, Ann, confirmed</span></a>` {
		t.Errorf("agenda: got %s", got)
	}
	if got := blocksOf([]weekBlock{{Title: "Two", When: "9:30", Who: "Ann", Status: "confirmed", Href: "/e/2", X: "0%", Width: "50%", Y: 30, Height: 28}}); got !=
		`<foreignObject x="0%" y="30" width="50%" height="28"><a class="event confirmed" href="/e/2" title="9:30 Two, confirmed"><b>Two</b> <span>9:30, Ann</span></a></foreignObject>`+"\n" {
		t.Errorf("blocks: got %s", got)
	}
}

// An option and an event on a page cost a fraction of an allocation and a few: there may be a thousand.
func TestMarkup_Allocations(t *testing.T) {
	choices, blocks := make([]choice, 1000), make([]weekBlock, 1000)
	for i := range choices {
		choices[i], blocks[i] = choice{"value", "Label", false}, weekBlock{Title: "Title", When: "9:00 to 10:00", Who: "Ann", Status: "confirmed", Href: "/calendar/events/1?zone=UTC", Y: 3000}
	}
	if got := testing.AllocsPerRun(5, func() { optionsOf(choices); suggestionsOf(choices) }); got > 100 {
		t.Errorf("got %v allocations for 2,000 options, want at most 100", got)
	}
	if got := testing.AllocsPerRun(5, func() { blocksOf(blocks); agendaOf(blocks) }); got > 8000 {
		t.Errorf("got %v allocations for 1,000 events, want at most 8,000", got)
	}
}
