package main

import (
	"fmt"
	"time"
)

// Plot is a chart of requests as a page draws it: a bar for each step, what
// was refused stacked on top. Its units are those of the drawing.
type Plot struct {
	Says          string // the whole as a sentence
	Width, Height int
	Bars          []Bar
	Top, Middle   string   // of the axis
	Marks         []string // under the bars, spread evenly
	Rows          []PlotRow
	CSV           string
	Title         string
}

// Bar is a step of a plot.
type Bar struct {
	Says     string
	X, Width int
	Y, H     int // what was answered
	RefusedY int
	RefusedH int
}

// PlotRow is a line of the table beside a plot.
type PlotRow struct {
	Start                                                                  string
	Requests, OK, Client, Unauthorized, Forbidden, Limited, Server, Refuse int
}

// plotRow reads the counts of one step or of a sum.
func plotRow(v any) PlotRow {
	row, _ := v.(map[string]any)
	n := func(name string) int {
		f, _ := row[name].(float64)
		return int(f)
	}
	start, _ := row["start"].(string)
	r := PlotRow{start, n("requests"), n("ok"), n("client_error"), n("unauthorized"), n("forbidden"), n("rate_limited"), n("server_error"), 0}
	r.Refuse = r.Unauthorized + r.Forbidden + r.Limited
	return r
}

// NewPlot draws the buckets of a history over the last so many steps up to a
// time, in a drawing of a height and with bars of a width.
func NewPlot(buckets any, step Step, last int, now time.Time, width, height int) Plot {
	list, _ := buckets.([]any)
	found := map[string]PlotRow{}
	most, sum := 1, PlotRow{}
	p := Plot{Width: last * width, Height: height}
	period := Period{step, last, now}
	begin := *Seconds(period.From())
	for _, v := range list {
		row := plotRow(v)
		if row.Start < begin { // whole seconds in UTC sort as text
			continue
		}
		found[row.Start] = row
		p.Rows = append(p.Rows, row)
		most = max(most, row.Requests)
		sum.Requests, sum.Refuse = sum.Requests+row.Requests, sum.Refuse+row.Refuse
	}
	for i := range last {
		at := period.From().Add(time.Duration(i) * time.Duration(step) * time.Second)
		row := found[*Seconds(at)]
		total := scaled(row.Requests, most, height)
		refused := min(scaled(row.Refuse, most, height), total)
		bar := Bar{X: i * width, Width: max(1, width-1), H: total - refused, Y: height - total + refused, RefusedY: height - total, RefusedH: refused}
		layout := "2 Jan 15:04"
		if step == StepDay {
			layout = "2 Jan"
		}
		bar.Says = fmt.Sprintf("%s: %s", at.Format(layout), counted(row.Requests, row.Refuse))
		p.Bars = append(p.Bars, bar)
	}
	length := time.Duration(last) * time.Duration(step) * time.Second
	p.Says = fmt.Sprintf("%s in the last %s.", counted(sum.Requests, sum.Refuse), lengthOf(length))
	p.Top, p.Middle = fmt.Sprint(most), ""
	if most > 1 {
		p.Middle = fmt.Sprint((most + 1) / 2)
	}
	for i := range 4 {
		p.Marks = append(p.Marks, period.From().Add(length*time.Duration(i)/4).Format("2 Jan"))
	}
	p.Marks = append(p.Marks, "now")
	return p
}

// scaled gives a height; anything at all is seen.
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

// lengthOf says a length of time in days, or in hours where it is one day.
func lengthOf(d time.Duration) string {
	if d <= 24*time.Hour {
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

// Spark is a small plot of the last 24 hours, with the numbers beside it.
type Spark struct {
	Plot
	Requests, Refused int
}

// NewSpark draws the last 24 hours of a row of a history.
func NewSpark(v any, now time.Time) Spark {
	row, _ := v.(map[string]any)
	sum := plotRow(v)
	return Spark{NewPlot(row["buckets"], StepHour, 24, now, 4, 24), sum.Requests, sum.Refuse}
}
