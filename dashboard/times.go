package dashboard

import (
	"bytes"
	"slices"
	"time"

	"latchkey/internal/clock"
)

// Each operator chooses the time zone and the form of dates. All operators share one set of templates, so
// templates and code write a time as a mark, which timeStyle.fill replaces when the page is sent.

// The forms in which a mark shows a time. A mark is markBegin, one of these, a time of the admin endpoint
// and markEnd. Neither of the two characters is part of a text that a browser can show.
const (
	markBegin = "\x02"
	markEnd   = "\x03"

	showMinutes = "m" // date, hour and minute
	showSeconds = "s" // date, hour, minute and second
	showClock   = "c" // hour, minute and second
	showDay     = "d" // day of the week and date
)

// when returns the mark of a time of the admin endpoint, for reading. If text is not a time, when returns
// it unchanged.
func when(text string) string { return whenIn(text, showMinutes) }

// whenIn does the same as when, in another form.
func whenIn(text, form string) string {
	if _, err := clock.ParseTime(text); err != nil {
		return text
	}
	return markBegin + form + text + markEnd
}

// moment returns the mark of a time, in a form.
func moment(t time.Time, form string) string {
	return whenIn(t.UTC().Format(time.RFC3339Nano), form)
}

// dateForm is a way to write dates and times. Its fields are layouts of package time.
type dateForm struct {
	Name, Label string
	Date        string // of a date
	Joint       string // between a date and a time
	Minutes     string
	Seconds     string
}

// dateForms returns the forms that an operator can choose. The first one is the default.
func dateForms() []dateForm {
	return []dateForm{
		{"", "2026-11-28 22:36 (ISO 8601)", "2006-01-02", " ", "15:04", "15:04:05"},
		{"en-GB", "28/11/2026, 22:36 (en-GB)", "02/01/2006", ", ", "15:04", "15:04:05"},
		{"en-US", "11/28/2026, 10:36 PM (en-US)", "01/02/2006", ", ", "3:04 PM", "3:04:05 PM"},
		{"de", "28.11.2026, 22:36 (de)", "02.01.2006", ", ", "15:04", "15:04:05"},
		{"fr", "28/11/2026 22:36 (fr)", "02/01/2006", " ", "15:04", "15:04:05"},
	}
}

// timeStyle is how a page shows times.
type timeStyle struct {
	zone *time.Location
	form dateForm
}

// styleOf returns the style that an operator has chosen. Unknown choices are the defaults.
func styleOf(p Preferences) timeStyle {
	s := timeStyle{time.UTC, dateForms()[0]}
	if zone, err := clock.Zone(p.Zone); err == nil && p.Zone != "" {
		s.zone = zone
	}
	if i := slices.IndexFunc(dateForms(), func(f dateForm) bool { return f.Name == p.Dates }); i >= 0 {
		s.form = dateForms()[i]
	}
	return s
}

// Format returns a time in one of the forms of marks.
func (s timeStyle) Format(t time.Time, form string) string {
	layout := s.form.Date + s.form.Joint + s.form.Minutes
	switch form {
	case showSeconds:
		layout = s.form.Date + s.form.Joint + s.form.Seconds
	case showClock:
		layout = s.form.Seconds
	case showDay:
		layout = "Monday, " + s.form.Date
	}
	return t.In(s.zone).Format(layout)
}

// fill returns a page in which each mark is replaced by its time.
func (s timeStyle) fill(page []byte) []byte {
	filled := make([]byte, 0, len(page))
	for {
		at := bytes.IndexByte(page, markBegin[0])
		if at < 0 {
			return append(filled, page...)
		}
		filled, page = append(filled, page[:at]...), page[at+1:]
		end := bytes.IndexByte(page[:min(len(page), 64)], markEnd[0])
		if end < 1 {
			continue // a text of somebody else, and no mark
		}
		if t, err := clock.ParseTime(string(page[1:end])); err == nil {
			filled, page = append(filled, s.Format(t, string(page[:1]))...), page[end+1:]
		}
	}
}

// zone returns the time zone that the operator has chosen.
func (v *pageRequest) zone() *time.Location { return styleOf(v.Operator.Preferences).zone }
