package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"latchkey/internal/clock"
)

// limitBar is a bar that shows how much of a limit is used. Free is the time at which the next unit is
// free, or "" if nothing is used or the bar counts requests in flight.
type limitBar struct {
	Name        string
	Label       string
	Used, Limit int
	Percent     int // used part of the limit, 0 to 100
	Free        string
	Concurrent  bool // counts requests in flight, not units in a window
}

// Text returns the values of the bar as a text.
func (m limitBar) Text() string { return fmt.Sprintf("%s: %d of %d", m.Label, m.Used, m.Limit) }

// Level returns "full" at 100 percent, "high" from 80 percent, and otherwise "".
func (m limitBar) Level() string {
	switch {
	case m.Percent >= 100:
		return "full"
	case m.Percent >= 80:
		return "high"
	}
	return ""
}

// nextFree returns a text such as "next unit free in 5 minutes", "in flight now" or "nothing used".
func (m limitBar) nextFree(now time.Time) string {
	switch {
	case m.Concurrent && m.Used > 0:
		return "in flight now"
	case m.Concurrent:
		return "none in flight"
	case m.Free == "":
		return "nothing used"
	}
	return "next unit free " + until(m.Free, now)
}

// carrier returns the readable name of one of Words.Carriers, a way to send a key.
func carrier(way any) string {
	switch way {
	case carrierBearer:
		return "bearer token"
	case carrierHeader:
		return "X-API-Key"
	case carrierQuery:
		return "?api_key= in a URL"
	}
	return fmt.Sprint(way)
}

// limitLabel returns the label of a limit, such as "Requests per minute" for
// "requests_per_minute_limit".
func limitLabel(name string) string {
	return capital(strings.ReplaceAll(strings.TrimSuffix(name, "_limit"), "_", " "))
}

// meters returns the bars of a key's limits, shortest window first, and those that count requests in
// flight at the end. It leaves out the limits that
// the key cannot use because it lacks a permission. key is the admin endpoint's answer about the
// key.
func (p permissions) meters(key map[string]any) []limitBar {
	var list []limitBar
	usage, _ := key["usage"].(map[string]any)
	held := texts(key["permissions"])
	window := func(name string) float64 {
		u, _ := usage[name].(map[string]any)
		if u["kind"] == kindConcurrent {
			return math.Inf(1)
		}
		return numberOf(u["window_seconds"])
	}
	names := slices.SortedFunc(maps.Keys(usage), func(a, b string) int {
		return cmp.Or(cmp.Compare(window(a), window(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		u, ok := usage[name].(map[string]any)
		if !ok || p.unused(name, held) {
			continue
		}
		used, limit := numberOf(u["used"]), numberOf(u["limit"])
		m := limitBar{Name: name, Label: limitLabel(name), Concurrent: u["kind"] == kindConcurrent, Used: int(used), Limit: int(limit), Percent: int(min(100, 100*used/max(1, limit)))}
		if u["observe"] == true {
			m.Label += " (observed)"
		}
		m.Free, _ = u["resets_at"].(string)
		list = append(list, m)
	}
	return list
}

// kindConcurrent is the kind of a limit on requests in flight, in answers of the admin endpoint.
const kindConcurrent = "concurrent"

// windowMeters returns the bars of meters that do not count requests in flight, which is enough for
// a list of many keys.
func (p permissions) windowMeters(key map[string]any) []limitBar {
	return slices.DeleteFunc(p.meters(key), func(m limitBar) bool { return m.Concurrent })
}

// state is the state of a key as a page shows it: a word, and the CSS class of its label.
type state struct{ Word, Class string }

// soon is how long before its expiry a key is shown as "Expires soon".
const soon = 7 * 24 * time.Hour

// stateOf returns the first state that applies: revoked, expired or paused; rate-limited; expires
// soon; never used; active. used is the usage of the key in the last 24 hours; its member
// limited_at is set if a limit has refused a request in the last minutes.
func stateOf(key, used map[string]any, now time.Time) state {
	status, _ := key["status"].(string)
	if status != keyActive {
		return state{capital(status), status}
	}
	ends, _ := key["expires_at"].(string)
	at, err := clock.ParseTime(ends)
	switch {
	case used["limited_at"] != nil:
		return state{"Rate-limited", "failed"}
	case err == nil && at.Sub(now) < soon:
		return state{"Expires soon", "paused"}
	case key["last_used_at"] == nil:
		return state{"Never used", "unused"}
	}
	return state{"Active", keyActive}
}

// capital returns word with its first letter in upper case.
func capital(word string) string {
	if word == "" {
		return ""
	}
	return strings.ToUpper(word[:1]) + word[1:]
}

// until describes the time from now to at, a time of the admin endpoint, such as "in 2 days". It
// returns "never" if at is not a time, and the same as ago if at has passed.
func until(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := clock.ParseTime(text)
	switch {
	case err != nil:
		return "never"
	case !t.After(now):
		return ago(at, now)
	}
	left := t.Sub(now)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(left / unit.length); n > 1 {
			return fmt.Sprintf("in %d %ss", n, unit.name)
		} else if n == 1 {
			return "in 1 " + unit.name
		}
	}
	return "in less than a minute"
}

// ago describes the time from at, a time of the admin endpoint, to now, such as "2 days ago". It
// returns "never" if at is not a time.
func ago(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := clock.ParseTime(text)
	if err != nil {
		return "never"
	}
	since := now.Sub(t)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(since / unit.length); n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		} else if n == 1 {
			return "1 " + unit.name + " ago"
		}
	}
	return "just now"
}

// chart is a bar chart of requests. Each hour or day has a bar, with the refused requests at its
// top. Lengths are in units of the drawing.
type chart struct {
	Label         string // what the chart shows, as a sentence
	Width, Height int
	Bars          []chartBar
	Top, Middle   string   // numbers at the vertical axis
	Marks         []string // texts under the bars, evenly spaced
	Rows          []chartRow
	CSV           string // address of the same data as CSV
	Title         string
}

// chartBar is the bar of one hour or day.
type chartBar struct {
	Label    string
	X, Width int
	Y, H     int // top and height of the part for requests that were not refused
	RefusedY int // top of the part for refused requests
	RefusedH int // height of that part
}

// chartRow is a row of the table beside a chart.
type chartRow struct {
	Start                                                                  string
	Requests, OK, Client, Unauthorized, Forbidden, Limited, Server, Refuse int
}

// plotRow reads a row from an object of the admin endpoint. The object holds the counts of one hour
// or day, or their sums.
func plotRow(v any) chartRow {
	row, _ := v.(map[string]any)
	n := func(name string) int { return int(numberOf(row[name])) }
	start, _ := row["start"].(string)
	r := chartRow{start, n("requests"), n("ok"), n("client_error"), n("unauthorized"), n("forbidden"), n("rate_limited"), n("server_error"), 0}
	r.Refuse = r.Unauthorized + r.Forbidden + r.Limited
	return r
}

// timeline is the time that a chart covers, in steps of equal length. from is in UTC.
type timeline struct {
	from  time.Time
	step  time.Duration
	steps int
}

// These are the lengths of the steps of a timeline.
const (
	hourStep = time.Hour
	dayStep  = 24 * time.Hour
)

// lastDay returns a timeline of 24 steps of an hour each. The last step contains now.
func lastDay(now time.Time) timeline {
	return timeline{now.UTC().Truncate(hourStep).Add(-23 * hourStep), hourStep, 24}
}

// timelineOf returns the timeline from "from" to "to" in an answer of the endpoint for histories.
func timelineOf(answer map[string]any, step time.Duration) timeline {
	from := momentOf(answer["from"])
	return timeline{from, step, int(momentOf(answer["to"]).Sub(from) / step)}
}

// start returns the start of step n, as a time and in the text form that the admin endpoint uses.
func (l timeline) start(n int) (at time.Time, text string) {
	at = l.from.Add(time.Duration(n) * l.step)
	return at, at.Format("2006-01-02T15:04:05Z")
}

// newChart returns a chart of the buckets of a history. barWidth is the width of a bar with the gap
// beside it, and height the height of the chart. Buckets before the timeline are left out.
func newChart(buckets any, line timeline, barWidth, height int) chart {
	list, _ := buckets.([]any)
	found := map[string]chartRow{}
	most, sum := 1, chartRow{}
	p := chart{Width: line.steps * barWidth, Height: height}
	_, begin := line.start(0)
	for _, v := range list {
		row := plotRow(v)
		if row.Start < begin { // texts of this form sort by time
			continue
		}
		found[row.Start] = row
		p.Rows = append(p.Rows, row)
		most = max(most, row.Requests)
		sum.Requests, sum.Refuse = sum.Requests+row.Requests, sum.Refuse+row.Refuse
	}
	for i := range line.steps {
		at, text := line.start(i)
		row := found[text]
		total := scaled(row.Requests, most, height)
		refused := min(scaled(row.Refuse, most, height), total)
		bar := chartBar{X: i * barWidth, Width: max(1, barWidth-1), H: total - refused, Y: height - total + refused, RefusedY: height - total, RefusedH: refused}
		layout := "2 Jan 15:04"
		if line.step == dayStep {
			layout = "2 Jan"
		}
		bar.Label = fmt.Sprintf("%s: %s", at.Format(layout), counted(row.Requests, row.Refuse))
		p.Bars = append(p.Bars, bar)
	}
	length := time.Duration(line.steps) * line.step
	p.Label = fmt.Sprintf("%s in the last %s.", counted(sum.Requests, sum.Refuse), lengthOf(length))
	p.Top, p.Middle = fmt.Sprint(most), ""
	if most > 1 {
		p.Middle = fmt.Sprint((most + 1) / 2)
	}
	for i := range 4 {
		p.Marks = append(p.Marks, line.from.Add(length*time.Duration(i)/4).Format("2 Jan"))
	}
	p.Marks = append(p.Marks, "now")
	return p
}

// scaled returns the height of the bar for n requests in a chart in which largest requests have the
// whole height. It returns at least 1 if n is not 0, so that the bar can be seen.
func scaled(n, largest, height int) int {
	if n == 0 {
		return 0
	}
	return max(1, n*height/largest)
}

// times returns a text such as "once" or "5 times" for a number of the admin endpoint.
func times(n any) string {
	if count := int(numberOf(n)); count != 1 {
		return fmt.Sprintf("%d times", count)
	}
	return "once"
}

// plainName returns a name in which every character can be seen and none changes the direction of what
// follows. So a name cannot pass for another one.
func plainName(value any) string {
	text := textOf(value)
	joiner := func(r rune) bool { return r == '\u200c' || r == '\u200d' } // some scripts and emoji need them inside a word
	var out strings.Builder
	for i, r := range text {
		if unicode.In(r, unicode.Cf, unicode.Cc, unicode.Co, unicode.Zl, unicode.Zp) && !(joiner(r) && i > 0) {
			fmt.Fprintf(&out, "<U+%04X>", r)
		} else {
			out.WriteRune(r)
		}
	}
	if strings.TrimSpace(out.String()) == "" {
		return "(no name)"
	}
	return out.String()
}

// counted returns a text such as "5 requests, 2 refused".
func counted(requests, refused int) string {
	text := fmt.Sprintf("%d requests", requests)
	if requests == 1 {
		text = "1 request"
	}
	if refused > 0 {
		text += fmt.Sprintf(", %d refused", refused)
	}
	return text
}

// lengthOf returns a duration in days, or in hours if it is at most one day.
func lengthOf(d time.Duration) string {
	if d <= 24*time.Hour {
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

// sparkline is a small chart of the last 24 hours, with the totals beside it.
type sparkline struct {
	chart
	Requests, Refused int
}

// newSparkline returns the chart of the last 24 hours of a key. v is the key's object in the answer
// about usage, or nil if it has none.
func newSparkline(v any, now time.Time) sparkline {
	row, _ := v.(map[string]any)
	sum := plotRow(v)
	return sparkline{newChart(row["buckets"], lastDay(now), 4, 24), sum.Requests, sum.Refuse}
}
