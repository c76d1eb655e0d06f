package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// meter is a bar that shows how much of a limit is used. Free is the time when
// the next unit is free, "" if nothing is used.
type meter struct {
	Label       string
	Used, Limit int
	Percent     int
	Free        string
}

// Says returns the meter as a text.
func (m meter) Says() string { return fmt.Sprintf("%s: %d of %d", m.Label, m.Used, m.Limit) }

// Level returns "full" if nothing is left, "high" from 80 percent on, or else "".
func (m meter) Level() string {
	switch {
	case m.Percent >= 100:
		return "full"
	case m.Percent >= 80:
		return "high"
	}
	return ""
}

// nextFree returns a text such as "next unit free in 5 minutes", or "nothing
// used".
func (m meter) nextFree(now time.Time) string {
	if m.Free == "" {
		return "nothing used"
	}
	return "next unit free " + until(m.Free, now)
}

// carrier returns the readable name of a way to send a key.
func carrier(way any) string {
	switch way {
	case carrierBearer:
		return "bearer token"
	case carrierHeader:
		return "X-API-Key"
	case carrierQuery:
		return "?api_key= in the address"
	}
	return fmt.Sprint(way)
}

// limitLabel returns the readable name of a limit.
func limitLabel(name string) string {
	return capital(strings.ReplaceAll(strings.TrimSuffix(name, "_limit"), "_", " "))
}

// meters returns the meters of a key, with the shortest window first. It leaves
// out limits that the key cannot use for lack of a permission. key is the key as
// the admin endpoint returns it.
func (p permissions) meters(key map[string]any) []meter {
	var list []meter
	usage, _ := key["usage"].(map[string]any)
	held := texts(key["permissions"])
	window := func(name string) float64 {
		u, _ := usage[name].(map[string]any)
		seconds, _ := u["window_seconds"].(float64)
		return seconds
	}
	names := slices.SortedFunc(maps.Keys(usage), func(a, b string) int {
		return cmp.Or(cmp.Compare(window(a), window(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		u, ok := usage[name].(map[string]any)
		if !ok || p.unused(name, held) {
			continue
		}
		used, _ := u["used"].(float64)
		limit, _ := u["limit"].(float64)
		m := meter{Label: limitLabel(name), Used: int(used), Limit: int(limit), Percent: int(min(100, 100*used/max(1, limit)))}
		if u["observe"] == true {
			m.Label += " (observed)"
		}
		m.Free, _ = u["resets_at"].(string)
		list = append(list, m)
	}
	return list
}

// state is the state of a key on a page: a word and the CSS class of its label.
type state struct{ Word, Class string }

// soon is the time before its expiry in which a key is shown as expiring.
const soon = 7 * 24 * time.Hour

// stateOf returns the first state that applies: revoked, expired or paused;
// rate-limited; expires soon; never used; active. limited is true if a limit has
// refused a request in the last minutes.
func stateOf(key map[string]any, limited bool, now time.Time) state {
	status, _ := key["status"].(string)
	if status != keyActive {
		return state{capital(status), status}
	}
	ends, _ := key["expires_at"].(string)
	at, err := time.Parse(time.RFC3339, ends)
	switch {
	case limited:
		return state{"Rate-limited", "failed"}
	case err == nil && at.Sub(now) < soon:
		return state{"Expires soon", "paused"}
	case key["last_used_at"] == nil:
		return state{"Never used", "unused"}
	}
	return state{"Active", keyActive}
}

// capital returns a word with a capital letter.
func capital(word string) string {
	if word == "" {
		return ""
	}
	return strings.ToUpper(word[:1]) + word[1:]
}

// until returns a text for the time from now to a time of the admin endpoint, such
// as "in 2 days". It returns "never" if at is no time.
func until(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
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

// ago describes how long ago the timestamp at was, such as "2 days ago". It returns
// "never" if at is not a timestamp.
func ago(at any, now time.Time) string {
	text, _ := at.(string)
	t, err := time.Parse(time.RFC3339, text)
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

// chart is a bar chart of requests. Each step of time has a bar, with the refused
// requests on top. Lengths are in units of the drawing.
type chart struct {
	Says          string // the chart as a sentence
	Width, Height int
	Bars          []chartBar
	Top, Middle   string   // numbers at the axis
	Marks         []string // under the bars, spread evenly
	Rows          []chartRow
	CSV           string
	Title         string
}

// chartBar is a step of a chart.
type chartBar struct {
	Says     string
	X, Width int
	Y, H     int // of the requests that were not refused
	RefusedY int
	RefusedH int
}

// chartRow is a line of the table beside a chart.
type chartRow struct {
	Start                                                                  string
	Requests, OK, Client, Unauthorized, Forbidden, Limited, Server, Refuse int
}

// plotRow returns the counts of one step or of a sum of steps.
func plotRow(v any) chartRow {
	row, _ := v.(map[string]any)
	n := func(name string) int {
		f, _ := row[name].(float64)
		return int(f)
	}
	start, _ := row["start"].(string)
	r := chartRow{start, n("requests"), n("ok"), n("client_error"), n("unauthorized"), n("forbidden"), n("rate_limited"), n("server_error"), 0}
	r.Refuse = r.Unauthorized + r.Forbidden + r.Limited
	return r
}

// timeline is the steps of time that a chart shows. from is in UTC.
type timeline struct {
	from  time.Time
	step  time.Duration
	steps int
}

// The lengths of steps.
const (
	hourStep = time.Hour
	dayStep  = 24 * time.Hour
)

// lastDay returns 24 steps of an hour. The last one holds now.
func lastDay(now time.Time) timeline {
	return timeline{now.UTC().Truncate(hourStep).Add(-23 * hourStep), hourStep, 24}
}

// timelineOf returns the steps from "from" to "to" in the answer of a history.
func timelineOf(answer map[string]any, step time.Duration) timeline {
	from := momentOf(answer["from"])
	return timeline{from, step, int(momentOf(answer["to"]).Sub(from) / step)}
}

// start returns the time when step n begins, also as the text that the admin
// endpoint writes.
func (l timeline) start(n int) (at time.Time, text string) {
	at = l.from.Add(time.Duration(n) * l.step)
	return at, at.Format("2006-01-02T15:04:05Z")
}

// newChart returns a chart of the buckets of a history. height is that of the
// drawing, width that of a bar and the gap beside it. Buckets before the timeline
// are left out.
func newChart(buckets any, over timeline, width, height int) chart {
	list, _ := buckets.([]any)
	found := map[string]chartRow{}
	most, sum := 1, chartRow{}
	p := chart{Width: over.steps * width, Height: height}
	_, begin := over.start(0)
	for _, v := range list {
		row := plotRow(v)
		if row.Start < begin { // times in this form sort as texts
			continue
		}
		found[row.Start] = row
		p.Rows = append(p.Rows, row)
		most = max(most, row.Requests)
		sum.Requests, sum.Refuse = sum.Requests+row.Requests, sum.Refuse+row.Refuse
	}
	for i := range over.steps {
		at, text := over.start(i)
		row := found[text]
		total := scaled(row.Requests, most, height)
		refused := min(scaled(row.Refuse, most, height), total)
		bar := chartBar{X: i * width, Width: max(1, width-1), H: total - refused, Y: height - total + refused, RefusedY: height - total, RefusedH: refused}
		layout := "2 Jan 15:04"
		if over.step == dayStep {
			layout = "2 Jan"
		}
		bar.Says = fmt.Sprintf("%s: %s", at.Format(layout), counted(row.Requests, row.Refuse))
		p.Bars = append(p.Bars, bar)
	}
	length := time.Duration(over.steps) * over.step
	p.Says = fmt.Sprintf("%s in the last %s.", counted(sum.Requests, sum.Refuse), lengthOf(length))
	p.Top, p.Middle = fmt.Sprint(most), ""
	if most > 1 {
		p.Middle = fmt.Sprint((most + 1) / 2)
	}
	for i := range 4 {
		p.Marks = append(p.Marks, over.from.Add(length*time.Duration(i)/4).Format("2 Jan"))
	}
	p.Marks = append(p.Marks, "now")
	return p
}

// scaled returns the height of a bar for n, if most has the whole height. It is 0
// for 0, and else at least 1 so that the bar can be seen.
func scaled(n, most, height int) int {
	if n == 0 {
		return 0
	}
	return max(1, n*height/most)
}

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

// lengthOf returns a length of time in days, or in hours if it is a day or less.
func lengthOf(d time.Duration) string {
	if d <= 24*time.Hour {
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

// spark is a small chart of the last 24 hours, and the sums beside it.
type spark struct {
	chart
	Requests, Refused int
}

// newSpark returns the chart of the last 24 hours of a key. v is its part of a
// history, nil if it has none.
func newSpark(v any, now time.Time) spark {
	row, _ := v.(map[string]any)
	sum := plotRow(v)
	return spark{newChart(row["buckets"], lastDay(now), 4, 24), sum.Requests, sum.Refuse}
}
