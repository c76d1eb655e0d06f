package dashboard

import (
	"strings"
	"testing"
)

func TestTimeStyle_Fill(t *testing.T) {
	page := "<p>" + when("2026-11-28T22:36:07Z") + " " + whenIn("2026-11-28T22:36:07.123Z", showSeconds) + "; " + whenIn("2026-11-28T22:36:07Z", showClock) + "; " +
		whenIn("2026-11-28T23:36:07Z", showDay) + "; " + when("never") + when("") + "</p>"
	for _, tt := range []struct {
		p    Preferences
		want string
	}{
		{Preferences{}, "2026-11-28 22:36 2026-11-28 22:36:07; 22:36:07; Saturday, 2026-11-28; never"},
		{Preferences{Zone: "Europe/Berlin", Dates: "de"}, "28.11.2026, 23:36 28.11.2026, 23:36:07; 23:36:07; Sunday, 29.11.2026; never"},
		{Preferences{Zone: "America/New_York", Dates: "en-US"}, "11/28/2026, 5:36 PM 11/28/2026, 5:36:07 PM; 5:36:07 PM; Saturday, 11/28/2026; never"},
		{Preferences{Zone: "Asia/Kolkata", Dates: "en-GB"}, "29/11/2026, 04:06 29/11/2026, 04:06:07; 04:06:07; Sunday, 29/11/2026; never"},
		{Preferences{Zone: "No/Zone", Dates: "xx"}, "2026-11-28 22:36 2026-11-28 22:36:07; 22:36:07; Saturday, 2026-11-28; never"},
	} {
		if got := string(styleOf(tt.p).fill([]byte(page))); got != "<p>"+tt.want+"</p>" {
			t.Errorf("%+v: got %s, want %s", tt.p, got, tt.want)
		}
	}
}

// A mark in a name that somebody has chosen must neither hide a part of the page nor break it.
func TestTimeStyle_Forged(t *testing.T) {
	for _, text := range []string{markBegin, markEnd, markBegin + "m", markBegin + markEnd, markBegin + "mx" + markEnd, markBegin + strings.Repeat("m", 100) + markEnd, markEnd + markBegin} {
		got := string(styleOf(Preferences{}).fill([]byte("<b>" + text + "</b> " + when("2026-11-28T22:36:07Z") + " end")))
		if !strings.HasPrefix(got, "<b>") || !strings.HasSuffix(got, "</b> 2026-11-28 22:36 end") || strings.Contains(got, markBegin) {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestPreferences_Check(t *testing.T) {
	for _, p := range []Preferences{{}, {Theme: "dark", Zone: "Europe/Berlin", Dates: "de"}, {Theme: "light"}} {
		if err := p.Check(); err != nil {
			t.Errorf("%+v: got %v", p, err)
		}
	}
	for _, p := range []Preferences{{Theme: "pink"}, {Zone: "Mars"}, {Zone: "../etc/passwd"}, {Dates: "xx"}} {
		if err := p.Check(); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}
