package dashboard

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// course returns an answer of the admin endpoint about some steps from a time on. counts returns the
// members of the bucket of a step, or nil if it has no request.
func course(from time.Time, step string, steps int, counts func(n int) map[string]int) map[string]any {
	line := timelineOf(map[string]any{"step": step})
	buckets := []any{}
	at := func(n int) string { return from.Add(time.Duration(n) * line.step).UTC().Format(time.RFC3339) }
	for n := range steps {
		bucket, sum := map[string]any{"start": at(n)}, 0
		for name, count := range counts(n) {
			bucket[name] = json.Number(fmt.Sprint(count))
			sum += count
		}
		if bucket["requests"] = json.Number(fmt.Sprint(sum)); sum > 0 {
			buckets = append(buckets, bucket)
		}
	}
	return map[string]any{"step": step, "from": at(0), "to": at(steps), "buckets": buckets}
}

// answered returns counts with one outcome.
func answered(n int) map[string]int { return map[string]int{"ok": n} }

// The top of an axis is round, holds the largest value without being much above it, and its lines are
// whole numbers at equal distances.
func TestRoundTop(t *testing.T) {
	for most, want := range map[int]int{1: 1, 2: 2, 3: 5, 5: 5, 6: 10, 10: 10, 11: 20, 401: 500, 5337: 10_000, 1_000_001: 2_000_000} {
		if got, _ := roundTop(most); got != want {
			t.Errorf("%d: got %d, want %d", most, got, want)
		}
	}
	for most := 1; most < 100_000; most += 1 + most/7 {
		top, lines := roundTop(most)
		if !regexp.MustCompile(`^[125]0*$`).MatchString(fmt.Sprint(top)) || top < most || top*2 > most*5 || lines < 1 || lines > 5 || top%lines != 0 {
			t.Errorf("%d: got %d with %d lines", most, top, lines)
		}
	}
}

// The ticks are where the clocks of a time zone show full hours and midnights, also on the days with 23
// and 25 hours.
func TestTimeline_Ticks(t *testing.T) {
	at := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, tt := range []struct{ name, zone, from, step, want string }{
		{"a day", "UTC", "2026-02-03T09:00:00Z", "hour 24", "3 12:00, 9 18:00, 15 Wed 4 Feb, 21 06:00"},
		{"a day in another zone", "America/New_York", "2026-02-03T09:00:00Z", "hour 24", "2 06:00, 8 12:00, 14 18:00, 20 Wed 4 Feb"},
		{"a zone of half hours", "Asia/Kolkata", "2026-02-03T09:00:00Z", "hour 24", "3.5 18:00, 9.5 Wed 4 Feb, 15.5 06:00, 21.5 12:00"},
		{"the clocks go forward", "Europe/Berlin", "2026-03-28T22:00:00Z", "hour 24", "1 Sun 29 Mar, 6 06:00, 12 12:00, 18 18:00"},
		{"the clocks go back", "Europe/Berlin", "2026-10-24T21:00:00Z", "hour 26", "1 Sun 25 Oct, 8 06:00, 14 12:00, 20 18:00"},
		{"the clocks skip midnight", "America/Havana", "2026-03-08T03:00:00Z", "hour 12", "2 Sun 8 Mar, 7 06:00"},
		{"a week", "Europe/Berlin", "2026-03-27T12:00:00Z", "hour 96", "11 Sat 28 Mar, 35 Sun 29 Mar, 58 Mon 30 Mar, 82 Tue 31 Mar"},
		{"an hour", "Asia/Kathmandu", "2026-02-03T09:07:00Z", "minute 60", "8 15:00, 23 15:15, 38 15:30, 53 15:45"},
		{"a month", "Europe/Berlin", "2026-02-03T00:00:00Z", "day 30", "6 9 Feb, 13 16 Feb, 20 23 Feb, 27 2 Mar"},
		{"a quarter", "UTC", "2025-12-01T00:00:00Z", "day 90", "7 8 Dec, 21 22 Dec, 35 5 Jan, 49 19 Jan, 63 2 Feb, 77 16 Feb"},
	} {
		zone, err := time.LoadLocation(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		var step string
		var steps int
		if _, err := fmt.Sscan(tt.step, &step, &steps); err != nil {
			t.Fatal(err)
		}
		line, got := timelineOf(course(at(tt.from), step, steps, func(int) map[string]int { return nil })), []string{}
		line.ticks(zone, func(at time.Time, label string) {
			got = append(got, fmt.Sprint(float64(at.Sub(line.from))/float64(line.step), " ", label))
		})
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, text, tt.want)
		}
	}
}

// parts returns for each outcome the heights of its parts of the bars, from left to right, and how far
// up the highest reaches.
func parts(t *testing.T, c chart) (heights map[string][]int, highest int) {
	t.Helper()
	heights, highest = map[string][]int{}, c.Height
	for _, p := range c.Parts {
		for _, m := range regexp.MustCompile(`M(\d+) (-?\d+)h(\d+)v(\d+)h-(\d+)z`).FindAllStringSubmatch(p.Path, -1) {
			var x, y, w, h int
			if _, err := fmt.Sscan(strings.Join(m[1:5], " "), &x, &y, &w, &h); err != nil {
				t.Fatal(err)
			}
			heights[p.Class] = append(heights[p.Class], h)
			highest = min(highest, y)
			if x+w > c.Width || y+h > c.Height || y < 0 || h < 1 || w < 1 {
				t.Errorf("a bar is outside: %v", m)
			}
		}
	}
	return heights, highest
}

// Each outcome has its part of a bar, in proportion, and what is not 0 can be seen.
func TestNewChart_Outcomes(t *testing.T) {
	from := time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC)
	c := newChart(history{course(from, "hour", 24, func(n int) map[string]int {
		switch n {
		case 3:
			return map[string]int{"ok": 100, "client_error": 40, "unauthorized": 10, "forbidden": 20, "rate_limited": 10, "server_error": 20}
		case 4:
			return map[string]int{"ok": 199, "server_error": 1}
		}
		return nil
	}), nil}, time.UTC)
	got, highest := parts(t, c)
	if fmt.Sprint(got) != "map[client:[36] ok:[90 179] refused:[36] server:[18 1]]" || highest != 0 {
		t.Errorf("got %v up to %d", got, highest)
	}
	if want := "3 Feb 03:00: 200 requests, 40 refused, 40 other 4xx, 20 server errors"; c.Steps[3].Label != want {
		t.Errorf("got %q, want %q", c.Steps[3].Label, want)
	}
	if len(c.Rows) != 2 || c.Rows[0].When != "3 Feb 03:00" || c.Rows[0].Forbidden != 20 || c.Label != "400 requests, 40 refused in the last 24 hours." || c.Before != "" {
		t.Errorf("got %+v %q", c.Rows, c.Label)
	}
	// Whatever the counts are, the bars stay inside.
	for _, counts := range []map[string]int{{"ok": 1}, {"ok": 1, "client_error": 1, "forbidden": 1, "server_error": 1}, {"ok": 1_000_000, "server_error": 1}, {"server_error": 7}} {
		used := course(from, "hour", 24, func(n int) map[string]int { return counts })
		for _, c := range []chart{newChart(history{used, nil}, time.UTC), newSparkline(keyUsage{Buckets: plotRows(used["buckets"])}, from.Add(23*time.Hour))} {
			if got, _ := parts(t, c); len(got) != len(counts) || len(got["server"]) != len(got["server"])/24*24 {
				t.Errorf("%v: got %v", counts, got)
			}
		}
	}
}

// The line of the period before lies over the bars that it is compared with, also if it has longer steps.
func TestNewChart_Before(t *testing.T) {
	now := time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)
	answer := course(now.Add(-47*time.Hour), "hour", 48, func(n int) map[string]int {
		return answered([]int{100, 50}[n/24] * (n % 2))
	})
	c := newChart(lastOf(answer, 24), time.UTC)
	if c.Requests != 12*50 || !strings.HasPrefix(c.Before, "M0 180V180H30V0H60V180H90") || !strings.HasSuffix(c.Before, "V0H720") || c.Line != "the 24 hours before" {
		t.Errorf("got %d requests and the line %q, %q", c.Requests, c.Before, c.Line)
	}
	if !strings.HasSuffix(c.Steps[1].Label, "50 requests; 100 before") || fmt.Sprint(c.Lines[5]) != "{0 100}" {
		t.Errorf("got %q and %v", c.Steps[1].Label, c.Lines)
	}
	week := course(now.Add(-167*time.Hour), "hour", 168, func(int) map[string]int { return answered(1) })
	days := course(time.Date(2026, 1, 21, 0, 0, 0, 0, time.UTC), "day", 7, func(n int) map[string]int { return answered(24 * (n + 1)) })
	c = newChart(history{week, days}, time.UTC)
	// The window begins on 27 January at 10:00, and the days before it are known from 21 January on.
	if top := c.Lines[len(c.Lines)-1].Text; top != "10" || !strings.HasPrefix(c.Before, "M60 162V") || !strings.HasSuffix(c.Line, "by day") {
		t.Errorf("got the top %s and the line %q, %q", top, c.Before, c.Line)
	}
	for i, m := range regexp.MustCompile(`V(\d+)H`).FindAllStringSubmatch(c.Before, -1) {
		if want := fmt.Sprint(180 - 18*(i+1)); m[1] != want {
			t.Errorf("day %d: got the height %s, want %s", i, m[1], want)
		}
	}
	if slices.ContainsFunc(c.Steps, func(s chartStep) bool { return strings.Contains(s.Label, "before") }) {
		t.Error("an hour is compared with a day")
	}
	quiet := newChart(history{week, course(now.Add(-335*time.Hour), "hour", 168, func(int) map[string]int { return nil })}, time.UTC)
	if quiet.Before != "" || quiet.Line != "" {
		t.Errorf("got the line %q of a period without requests", quiet.Before)
	}
}

// The number of requests is compared with that of the period before in words that can be read.
func TestChangeOf(t *testing.T) {
	for _, tt := range []struct {
		now, before int
		want        string
	}{
		{0, 0, "as in the period before"}, {5, 0, "none in the period before"}, {0, 5, "100 % fewer than before"}, {110, 100, "10 % more than before"},
		{99, 10, "890 % more than before"}, {100, 10, "10 times as many as before"}, {1_674_000, 2, "837,000 times as many as before"},
	} {
		if got := changeOf(tt.now, tt.before); got != tt.want {
			t.Errorf("%d after %d: got %q, want %q", tt.now, tt.before, got, tt.want)
		}
	}
}
