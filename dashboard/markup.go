package dashboard

import (
	"html/template"
	"strconv"
	"strings"
)

// markup builds HTML. It is for elements of which a page may have thousands: a template allocates about
// ten objects for each value that it writes. Everything else is in the templates.
type markup struct{ strings.Builder }

// write appends markup and text by turns, beginning with markup. It escapes the text.
func (m *markup) write(pieces ...string) {
	for i, piece := range pieces {
		if i%2 == 1 {
			piece = template.HTMLEscapeString(piece)
		}
		m.WriteString(piece)
	}
}

// html returns what was written.
func (m *markup) html() template.HTML { return template.HTML(m.String()) }

// optionsOf returns the elements of a select element.
func optionsOf(list []choice) template.HTML {
	var m markup
	for _, c := range list {
		m.write(`<option value="`, c.Value, `"`)
		if c.Chosen {
			m.write(` selected`)
		}
		m.write(`>`, c.Label, `</option>`)
	}
	return m.html()
}

// suggestionsOf returns the elements of a datalist.
func suggestionsOf(list []choice) template.HTML {
	var m markup
	for _, c := range list {
		m.write(`<option value="`, c.Value, `">`, c.Label, `</option>`)
	}
	return m.html()
}

// blocksOf returns the events in the grid of a day.
func blocksOf(list []weekBlock) template.HTML {
	var m markup
	for i := range list {
		b := &list[i]
		m.write(`<foreignObject x="`, b.X, `" y="`, strconv.Itoa(b.Y), `" width="`, b.Width, `" height="`, strconv.Itoa(b.Height), `"><a class="event `, b.Status, `" href="`, b.Href,
			`" title="`, b.When+" "+b.Title+", "+b.Status, `"><b>`, b.Title, `</b> <span>`, b.about(), "</span></a></foreignObject>\n")
	}
	return m.html()
}

// agendaOf returns the events in the list of a day.
func agendaOf(list []weekBlock) template.HTML {
	usual := Vocabulary().EventStates[0] // not worth a word
	var m markup
	for i := range list {
		b, about := &list[i], list[i].about()
		if b.Status != usual {
			about += ", " + b.Status
		}
		m.write(`<a class="event `, b.Status, `" href="`, b.Href, `"><b>`, b.Title, `</b> <span>`, about, `</span></a>`)
	}
	return m.html()
}

// about returns when the event is, and with whom.
func (b *weekBlock) about() string {
	if b.Who == "" {
		return b.When
	}
	return b.When + ", " + b.Who
}
