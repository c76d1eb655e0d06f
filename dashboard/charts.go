package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"latchkey/internal/clock"
	"latchkey/internal/figures"
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
// soon; never used; active. used is the usage of the key in the last 24 hours.
func stateOf(key map[string]any, used keyUsage, now time.Time) state {
	status, _ := key["status"].(string)
	if status != keyActive {
		return state{capital(status), status}
	}
	ends, _ := key["expires_at"].(string)
	at, err := clock.ParseTime(ends)
	switch {
	case used.LimitedAt != "":
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

// chart is a bar chart of requests by outcome. Each step of time, such as an hour, has a bar. Lengths
// are in units of the drawing.
type chart struct {
	Label         string // what the chart shows, as a sentence
	Width, Height int
	Parts         []chartPart
	Before        string // path of the line of the period before; "" if there is none
	Line          string // what the line shows
	Lines         []axisLine
	Ticks         []axisTick
	Steps         []chartStep
	Rows          []chartRow // for the table beside the chart: the steps with requests
	Requests      int
	Refused       int
	Times         string // which times the chart shows
	CSV           string // address of the same data as CSV; "" if there is none
}

// chartPart holds the parts of all bars that stand for one outcome. Class is a CSS class.
type chartPart struct{ Class, Path string }

// axisLine is a horizontal line with its number, and axisTick a time below the chart.
type (
	axisLine struct {
		Y    int
		Text string
	}
	axisTick struct {
		X    int
		Text string
	}
)

// chartStep is the place of one step of time in a chart, and its counts as a text.
type chartStep struct {
	Label    string
	X, Width int
}

// Box returns the width of the drawing with the numbers of the vertical axis.
func (c chart) Box() int { return c.Width + 60 }

// chartRow holds the counts of one step of time, or their sums, as the admin endpoint names them.
type chartRow struct {
	Start        string `json:"start"`
	Requests     int    `json:"requests"`
	OK           int    `json:"ok"`
	Client       int    `json:"client_error"`
	Unauthorized int    `json:"unauthorized"`
	Forbidden    int    `json:"forbidden"`
	Limited      int    `json:"rate_limited"`
	Server       int    `json:"server_error"`
	When         string `json:"-"` // start for reading
}

// Refuse returns the number of requests that Latchkey has refused.
func (r chartRow) Refuse() int { return r.Unauthorized + r.Forbidden + r.Limited }

// plotRow reads a row from an object of the admin endpoint. The object holds the counts of one step of
// time, or their sums.
func plotRow(v any) chartRow {
	row, _ := v.(map[string]any)
	n := func(name string) int { return int(numberOf(row[name])) }
	start, _ := row["start"].(string)
	return chartRow{start, n("requests"), n("ok"), n("client_error"), n("unauthorized"), n("forbidden"), n("rate_limited"), n("server_error"), ""}
}

// plus returns the sums of two rows, with the start of row.
func (r chartRow) plus(row chartRow) chartRow {
	return chartRow{
		row.Start, r.Requests + row.Requests, r.OK + row.OK, r.Client + row.Client, r.Unauthorized + row.Unauthorized, r.Forbidden + row.Forbidden, r.Limited + row.Limited, r.Server + row.Server, "",
	}
}

// plotRows reads the rows of a list of the admin endpoint, unless v has been read already.
func plotRows(v any) (rows []chartRow) {
	if rows, ok := v.([]chartRow); ok {
		return rows
	}
	list, _ := v.([]any)
	for _, row := range list {
		rows = append(rows, plotRow(row))
	}
	return rows
}

// timeline is the time that a chart covers, in steps of equal length. from is in UTC.
type timeline struct {
	from  time.Time
	step  time.Duration
	steps int
}

// These are the lengths of the steps of a timeline.
const (
	minuteStep = time.Minute
	hourStep   = time.Hour
	dayStep    = 24 * time.Hour
)

// lastDay returns a timeline of 24 steps of an hour each. The last step contains now.
func lastDay(now time.Time) timeline {
	return timeline{now.UTC().Truncate(hourStep).Add(-23 * hourStep), hourStep, 24}
}

// timelineOf returns the timeline of an answer of the admin endpoint, by its members step, from and to.
func timelineOf(answer map[string]any) timeline {
	step := map[string]time.Duration{"minute": minuteStep, "hour": hourStep}[textOf(answer["step"])]
	if step == 0 {
		step = dayStep
	}
	from := momentOf(answer["from"])
	return timeline{from, step, int(momentOf(answer["to"]).Sub(from) / step)}
}

// start returns the time at which step n begins.
func (l timeline) start(n int) time.Time { return l.from.Add(time.Duration(n) * l.step) }

// length returns the time that the timeline covers.
func (l timeline) length() time.Duration { return time.Duration(l.steps) * l.step }

// place returns where a time is in a drawing of this width. It may be outside.
func (l timeline) place(at time.Time, width int) int {
	return int(math.Round(float64(width) * float64(at.Sub(l.from)) / float64(l.length())))
}

// rows returns a row for each step, by those of the admin endpoint, which are sorted by time and have
// only the steps with requests. Rows at other times are left out.
func (l timeline) rows(found []chartRow) []chartRow {
	rows := make([]chartRow, l.steps)
	for n := range rows {
		text := l.start(n).UTC().Format("2006-01-02T15:04:05Z") // texts of this form sort by time
		for len(found) > 0 && found[0].Start < text {
			found = found[1:]
		}
		if len(found) > 0 && found[0].Start == text {
			rows[n] = found[0]
		}
	}
	return rows
}

// label returns a time for reading, in a time zone. Days are shown without a time.
func (l timeline) label(at time.Time, zone *time.Location) string {
	switch l.step {
	case minuteStep:
		return at.In(zone).Format("15:04")
	case hourStep:
		return at.In(zone).Format("2 Jan 15:04")
	}
	return at.UTC().Format("2 Jan")
}

// ticks calls add for the times below a chart, with their labels: full quarter hours of an hour, every
// sixth hour of two days, and the midnights of a week, all by the clocks of a time zone. Days of the
// history begin at midnight UTC, so longer charts have Mondays in UTC.
func (l timeline) ticks(zone *time.Location, add func(at time.Time, label string)) {
	end := l.start(l.steps)
	within := func(at time.Time, layout string) {
		if !at.Before(l.from) && at.Before(end) {
			add(at, at.Format(layout))
		}
	}
	switch l.step {
	case minuteStep:
		for at := l.from.Truncate(15 * time.Minute); at.Before(end); at = at.Add(15 * time.Minute) {
			within(at.In(zone), "15:04")
		}
	case hourStep:
		year, month, day := l.from.In(zone).Date()
		for ; ; day++ {
			midnight := startOfDay(year, month, day, zone)
			if !midnight.Before(end) {
				return
			}
			within(midnight, "Mon 2 Jan")
			for hour := 6; hour < 24 && l.length() <= 2*dayStep; hour += 6 {
				within(time.Date(year, month, day, hour, 0, 0, 0, zone), "15:04")
			}
		}
	default:
		for n := range l.steps {
			at := l.start(n).UTC()
			if week := at.Unix() / int64(7*dayStep/time.Second); at.Weekday() == time.Monday && (l.steps <= 45 || week%2 == 0) {
				within(at, "2 Jan")
			}
		}
	}
}

// startOfDay returns the first moment of a day. Where the clocks skip midnight, that is later.
func startOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	at := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if noon := time.Date(year, month, day, 12, 0, 0, 0, zone); at.Day() != noon.Day() {
		return at.Add(time.Hour)
	}
	return at
}

// history is what a chart shows. Now and before are answers of the admin endpoint with the members
// step, from, to and buckets. before is about the period before now, perhaps in longer steps; it is nil
// if that is not known.
type history struct{ now, before map[string]any }

// lastOf returns the last steps of an answer, and the same number of steps before them.
func lastOf(answer map[string]any, steps int) history {
	line := timelineOf(answer)
	middle := line.start(line.steps - steps)
	now, before := maps.Clone(answer), maps.Clone(answer)
	now["from"], before["to"] = middle.Format(time.RFC3339), middle.Format(time.RFC3339)
	before["from"] = middle.Add(-time.Duration(steps) * line.step).Format(time.RFC3339)
	return history{now, before}
}

// newChart returns the chart of a history, with times in a time zone.
func newChart(h history, zone *time.Location) chart {
	const width, height = 720, 180
	line := timelineOf(h.now)
	rows := line.rows(plotRows(h.now["buckets"]))
	c := chart{Width: width, Height: height, Times: "times are " + zone.String()}
	if line.step == dayStep {
		c.Times = "days begin at midnight UTC"
	}
	most := 1
	for i := range rows {
		most = max(most, rows[i].Requests)
		c.add(&rows[i], line.label(line.start(i), zone))
	}
	old := timelineOf(h.before)
	earlier := old.rows(plotRows(h.before["buckets"]))
	each := float64(line.step) / float64(old.step)
	for _, row := range earlier {
		most = max(most, int(math.Ceil(float64(row.Requests)*each)))
	}
	top, lines := roundTop(most)
	for i := range lines + 1 {
		c.Lines = append(c.Lines, axisLine{height - height*i/lines, figures.Grouped(top * i / lines)})
	}
	c.Parts = barParts(rows, width, height, top)
	for i, row := range rows {
		x, label := i*width/line.steps, line.label(line.start(i), zone)+": "+outcomes(row)
		if old.step == line.step && i < len(earlier) {
			label += fmt.Sprintf("; %s before", figures.Grouped(earlier[i].Requests))
		}
		c.Steps = append(c.Steps, chartStep{label, x, (i+1)*width/line.steps - x})
	}
	line.ticks(zone, func(at time.Time, label string) {
		if x := line.place(at, width); x < width-40 {
			c.Ticks = append(c.Ticks, axisTick{x, label})
		}
	})
	sum := 0
	for _, row := range earlier {
		sum += row.Requests
	}
	c.Label = fmt.Sprintf("%s in the last %s.", counted(c.Requests, c.Refused), lengthOf(line.length()))
	if sum > 0 {
		c.Line = fmt.Sprintf("the %s before", lengthOf(line.length()))
		if old.step > line.step {
			c.Line += ", by day"
		}
		c.Before = line.stairs(old, earlier, func(row chartRow) int { return height - int(float64(row.Requests)*each*height/float64(top)) })
	}
	return c
}

// add adds the counts of a step to the sums and to the table.
func (c *chart) add(row *chartRow, when string) {
	c.Requests, c.Refused = c.Requests+row.Requests, c.Refused+row.Refuse()
	if row.When = when; row.Requests > 0 {
		c.Rows = append(c.Rows, *row)
	}
}

// stairs returns the path of a line over the drawing of a chart, which is as wide as newChart makes it.
// The rows belong to old, the period before. y returns the height of a row.
func (l timeline) stairs(old timeline, rows []chartRow, y func(chartRow) int) string {
	const width = 720
	var path strings.Builder
	for i, row := range rows {
		from, to := max(0, l.place(old.start(i).Add(l.length()), width)), min(width, l.place(old.start(i+1).Add(l.length()), width))
		if from >= to {
			continue
		}
		if path.Len() == 0 {
			fmt.Fprintf(&path, "M%d %d", from, y(row))
		}
		fmt.Fprintf(&path, "V%dH%d", y(row), to)
	}
	return path.String()
}

// barParts returns the bars of the rows in a drawing of this size, in which top requests have the whole
// height. The outcomes are from the bottom up. What is not 0 is at least 1 high, so that it can be seen.
func barParts(rows []chartRow, width, height, top int) (parts []chartPart) {
	names := [...]string{"ok", "client", "refused", "server"}
	var paths [len(names)][]byte
	for i, row := range rows {
		x := i * width / len(rows)
		wide := max(1, (i+1)*width/len(rows)-x-1)
		y, sum := height, 0
		for k, n := range [len(names)]int{row.OK, row.Client, row.Refuse(), row.Server} {
			if sum += n; n == 0 {
				continue
			}
			h := min(y, max(1, y-height+sum*height/top))
			y -= h
			path := strconv.AppendInt(append(paths[k], 'M'), int64(x), 10)
			path = strconv.AppendInt(append(path, ' '), int64(y), 10)
			path = strconv.AppendInt(append(path, 'h'), int64(wide), 10)
			path = strconv.AppendInt(append(path, 'v'), int64(h), 10)
			path = strconv.AppendInt(append(path, "h-"...), int64(wide), 10)
			paths[k] = append(path, 'z')
		}
	}
	for k, path := range paths {
		if len(path) > 0 {
			parts = append(parts, chartPart{names[k], string(path)})
		}
	}
	return parts
}

// roundTop returns the round number at the top of an axis for values up to most, which is at least 1:
// 1, 2 or 5 with zeros. It also returns how many lines of whole numbers divide the axis.
func roundTop(most int) (top, lines int) {
	for power := 1; ; power *= 10 {
		switch {
		case most <= power:
			return power, min(power, 5)
		case most <= 2*power:
			return 2 * power, min(2*power, 4)
		case most <= 5*power:
			return 5 * power, 5
		}
	}
}

// outcomes returns the counts of a step as a text.
func outcomes(row chartRow) string {
	text := counted(row.Requests, row.Refuse())
	if row.Client > 0 {
		text += fmt.Sprintf(", %s other 4xx", figures.Grouped(row.Client))
	}
	if row.Server > 0 {
		text += fmt.Sprintf(", %s server errors", figures.Grouped(row.Server))
	}
	return text
}

// updated returns the time of a page that is kept up to date.
func (v *pageRequest) updated() string { return moment(v.now(), showClock) }

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
	text := figures.Grouped(requests) + " requests"
	if requests == 1 {
		text = "1 request"
	}
	if refused > 0 {
		text += fmt.Sprintf(", %s refused", figures.Grouped(refused))
	}
	return text
}

// lengthOf returns a duration in days, or in hours if it is at most one day.
func lengthOf(d time.Duration) string {
	switch {
	case d == time.Hour:
		return "hour"
	case d <= 24*time.Hour:
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

// newSparkline returns a small chart, without axes, of the last 24 hours of a key.
func newSparkline(used keyUsage, now time.Time) chart {
	const width, height = 96, 24
	rows, most := lastDay(now).rows(used.Buckets), 1
	c := chart{Width: width, Height: height}
	for i := range rows {
		most = max(most, rows[i].Requests)
		c.add(&rows[i], "")
	}
	c.Parts = barParts(rows, width, height, most)
	c.Label = counted(c.Requests, c.Refused) + " in the last 24 hours."
	return c
}
