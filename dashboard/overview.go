package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"latchkey/internal/figures"
)

// overviewPages are the page that a person keeps open.
type overviewPages struct{}

func (overviewPages) sections() []section { return []section{{"API", "Overview", "/"}} }

func (overviewPages) pages() map[string]page {
	return map[string]page{"GET /{$}": {"GET /admin/v1/overview", showOverview}}
}

// overviewPage is the data of the overview.
type overviewPage struct {
	Ranges    []chip
	Span      string // the same in a sentence, such as "hour" or "7 days"
	Tiles     []tile
	Chart     chart
	Attention []attentionRow
	Tops      []topTable
	Quiet     bool // no request in the range
	Updated   string
}

// tile is a figure of the overview. Level is "bad" or "warn" if somebody should look at it, and
// otherwise "".
type tile struct{ Name, Value, More, Link, Level string }

// attentionRow is a line under "Needs attention".
type attentionRow struct{ Text, Link, Level string }

// topTable is a table with what has the most requests.
type topTable struct {
	Title string
	Rows  []topRow
}

// topRow is a line of a table with the most requests.
type topRow struct {
	Name, Sub, Link           string
	Requests, Refused, Failed int
}

// rangeNames are the ranges of the overview with their labels.
var rangeNames = [][2]string{{"1h", "1 hour"}, {"24h", "24 hours"}, {"7d", "7 days"}, {"90d", "90 days"}}

func showOverview(v *pageRequest) {
	if v.inSandbox() {
		http.Redirect(v.W, v.R, "/keys", http.StatusSeeOther)
		return
	}
	chosen := cmp.Or(v.query.Get("range"), "24h")
	answer, fault := v.call(http.MethodGet, "/admin/v1/overview?range="+url.QueryEscape(chosen), nil)
	if fault != nil {
		v.showFault(fault)
		return
	}
	status, fault := v.call(http.MethodGet, "/admin/v1/status", nil)
	if fault != nil {
		v.showFault(fault)
		return
	}
	p := overviewPage{Updated: v.updated()}
	for _, r := range rangeNames {
		p.Ranges = append(p.Ranges, chip{r[1], "/?range=" + r[0], r[0] == chosen})
		if r[0] == chosen {
			p.Span = strings.TrimPrefix(r[1], "1 ")
		}
	}
	p.Tiles = v.tiles(answer, status)
	before, _ := answer["previous"].(map[string]any)
	p.Chart = newChart(history{answer, before}, v.zone())
	p.Quiet = p.Chart.Requests == 0
	p.Attention = v.attention(answer)
	keys := topRows(answer["keys"], func(row map[string]any) (string, string, string) {
		return textOf(row["name"]), textOf(row["owner"]), "/keys/" + textOf(row["id"])
	})
	routes := topRows(answer["routes"], func(row map[string]any) (string, string, string) {
		route := textOf(row["route"])
		return routeName(route), "", "/requests?route=" + url.QueryEscape(route)
	})
	errors := topRows(answer["errors"], func(row map[string]any) (string, string, string) {
		return textOf(row["error"]), "", "/requests?code=" + url.QueryEscape(textOf(row["error"]))
	})
	p.Tops = []topTable{{"Keys", keys}, {"Routes", routes}, {"Errors", errors}}
	v.show(http.StatusOK, "overview", view{Title: "Overview", Data: p})
}

// attention returns the lines of what somebody should look at that the operator may see. answer is that of the
// overview.
func (v *pageRequest) attention(answer map[string]any) (list []attentionRow) {
	rows, _ := answer["attention"].([]any)
	for _, row := range rows {
		if line, ok := attentionOf(row); ok && v.mayOpen(strings.SplitN(line.Link, "?", 2)[0]) {
			list = append(list, line)
		}
	}
	return list
}

// routeName returns the name of a route as the pages show it.
func routeName(route string) string {
	if route == "-" {
		return "no route matches"
	}
	return route
}

// topRows returns the lines of a table. name returns the name, the text below it and the link of a row.
func topRows(v any, name func(row map[string]any) (name, sub, link string)) (list []topRow) {
	rows, _ := v.([]any)
	for _, item := range rows {
		row, _ := item.(map[string]any)
		counts := plotRow(item)
		t := topRow{Requests: counts.Requests, Refused: counts.Refuse(), Failed: counts.Server}
		t.Name, t.Sub, t.Link = name(row)
		list = append(list, t)
	}
	return list
}

// tiles returns the figures at the top of the overview.
func (v *pageRequest) tiles(answer, status map[string]any) []tile {
	total, before := plotRow(answer["total"]), plotRow(answer["previous"])
	share := func(n int) string {
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("%.3g %% of all", 100*float64(n)/float64(total.Requests))
	}
	change := ""
	if answer["previous"] != nil {
		change = changeOf(total.Requests, before.Requests)
	}
	latency, _ := answer["latency"].(map[string]any)
	speed := tile{Name: "Latency now", Value: "-", More: "no request in the last 5 minutes"}
	if n := numberOf(latency["requests"]); n > 0 {
		speed = tile{Name: "Latency now", Value: milliseconds(latency["p50_ms"]), More: fmt.Sprintf("half are faster; 99\u00a0%% within %s", milliseconds(latency["p99_ms"]))}
	}
	list := []tile{
		{Name: "Requests", Value: figures.Grouped(total.Requests), More: change, Link: "/requests"},
		{Name: "Refused", Value: figures.Grouped(total.Refuse()), More: share(total.Refuse()), Link: "/requests?status=4xx"},
		{Name: "Server errors", Value: figures.Grouped(total.Server), More: share(total.Server), Link: "/requests?status=5xx", Level: levelIf(total.Server > 0, "bad")},
		speed,
		{Name: "Active keys", Value: figures.Grouped(int(numberOf(answer["active_keys"]))), More: fmt.Sprintf("%s used", figures.Grouped(int(numberOf(answer["keys_used"])))), Link: "/keys?status=active"},
	}
	waiting := int(numberOf(status["webhook_backlog"]))
	hooks := tile{Name: "Webhooks waiting", Value: figures.Grouped(waiting), Link: "/webhooks"}
	if oldest := textOf(status["webhook_oldest_at"]); oldest != "" {
		hooks.More = "the oldest since " + ago(oldest, v.now())
	}
	if status["webhooks_held_since"] != nil {
		hooks.More, hooks.Level, hooks.Link = "held back since the restore", "warn", "/status"
	}
	backup := tile{Name: "Last backup", Value: ago(status["last_backup_at"], v.now()), Link: "/backups"}
	if problem := textOf(status["last_backup_error"]); problem != "" {
		backup.More, backup.Level = "the last one failed", "bad"
	}
	disk := tile{Name: "Disk free", Value: bytesShown(status["disk_free_bytes"]), More: "database " + bytesShown(status["store_bytes"]), Link: "/status"}
	if space, _ := status["disk"].(map[string]any); space["refusing"] == true || space["low"] == true {
		disk.More, disk.Level = diskShown(status["disk"]), "bad"
	}
	return append(list, hooks, backup, disk)
}

func levelIf(b bool, level string) string {
	if b {
		return level
	}
	return ""
}

// changeOf compares the requests of a period with those of the one before.
func changeOf(now, before int) string {
	switch {
	case now == before:
		return "as in the period before"
	case before == 0:
		return "none in the period before"
	case now >= 10*before:
		return fmt.Sprintf("%s times as many as before", figures.Grouped(now/before))
	}
	percent := 100 * (float64(now) - float64(before)) / float64(before)
	word := "more"
	if percent < 0 {
		word, percent = "fewer", -percent
	}
	return fmt.Sprintf("%.3g %% %s than before", percent, word)
}

// milliseconds returns a duration in milliseconds with two digits, such as "0.4 ms".
func milliseconds(v any) string {
	n := numberOf(v)
	if n >= 1000 {
		return fmt.Sprintf("%.2g s", n/1000)
	}
	if n >= 10 {
		return fmt.Sprintf("%.0f ms", n)
	}
	return fmt.Sprintf("%.2g ms", n)
}

// attentionKinds says what the kinds of the endpoint mean: the sentence for one and for several, where
// to look, and how bad it is.
var attentionKinds = map[string]struct{ one, many, link, level string }{
	"cluster":           {"1 thing about the cluster needs attention", "%s things about the cluster need attention", "/cluster", "bad"},
	"backup_failed":     {"The last backup failed", "", "/backups", "bad"},
	"no_backup":         {"There is no backup yet", "", "/backups", "warn"},
	"keys_revoked_used": {"1 revoked key is still sent", "%s revoked keys are still sent", "/keys?status=revoked&tag=still_sent", "bad"},
	"keys_expired_used": {"1 expired key is still sent", "%s expired keys are still sent", "/keys?status=expired&tag=still_sent", "bad"},
	"keys_at_limit":     {"1 key was refused by a limit in the last 5 minutes", "%s keys were refused by a limit in the last 5 minutes", "/keys?tag=rate_limited", "warn"},
	"keys_expiring":     {"1 key ends within 7 days", "%s keys end within 7 days", "/keys?tag=expires_soon", "warn"},
	"keys_in_url":       {"1 key was sent in a URL, where logs keep it", "%s keys were sent in a URL, where logs keep them", "/keys?tag=sent_in_url", "warn"},
	"keys_rotating":     {"1 key has an old secret that is still valid", "%s keys have an old secret that is still valid", "/keys?tag=rotating", ""},
	"webhooks_failing":  {"Deliveries to 1 webhook fail", "Deliveries to %s webhooks fail", "/webhooks?failing=true", "bad"},
	"owners_full":       {"1 owner has little storage left", "%s owners have little storage left", "/owners?storage=low", "warn"},
	"tokens_ending":     {"1 admin token ends within 14 days", "%s admin tokens end within 14 days", "/tokens?ends_soon=true", "warn"},
	"keys_never_used":   {"1 key was never used", "%s keys were never used", "/keys?tag=never_used", ""},
	"keys_idle_90":      {"1 key was not used for 90 days", "%s keys were not used for 90 days", "/keys?status=active&unused_days=90", ""},
	"keys_without_end":  {"1 key never expires", "%s keys never expire", "/keys?tag=never_expires", ""},
}

// attentionOf returns the line for an object of the endpoint. ok is false if its kind is not known.
func attentionOf(v any) (line attentionRow, ok bool) {
	row, _ := v.(map[string]any)
	kind, ok := attentionKinds[textOf(row["kind"])]
	if !ok {
		return line, false
	}
	line = attentionRow{kind.one, kind.link, kind.level}
	if n := int(numberOf(row["count"])); n != 1 {
		line.Text = fmt.Sprintf(kind.many, figures.Grouped(n))
	}
	return line, true
}

// live is the stream of a page that is open (Server-Sent Events, HTML Living Standard, section 9.2). It
// sends the number of changes so far whenever that has changed, at most every two seconds, and a
// comment otherwise, so that the page knows that the stream works. It ends with the session and when
// the service stops.
func (d *Dashboard) live(v *pageRequest) {
	const look, beat = 2 * time.Second, 14 * time.Second
	control := http.NewResponseController(v.W)
	_ = control.SetWriteDeadline(time.Time{}) // fails only if there is no deadline
	h := v.W.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // for nginx
	v.W.WriteHeader(http.StatusOK)
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	last, quiet := uint64(0), time.Duration(0)
	for first := true; ; first = false {
		n, serving := d.o.Changes()
		if !serving {
			return
		}
		text := ""
		switch {
		case n != last || first:
			text, last, quiet = fmt.Sprintf("id: %d\ndata: %d\n\n", n, n), n, 0
		case quiet >= beat:
			text, quiet = ": no change\n\n", 0
		}
		if text != "" {
			if _, ok := d.o.Accounts.Session(v.R, v.Token); !ok {
				return
			}
			if _, err := v.W.Write([]byte(text)); err != nil || control.Flush() != nil {
				return
			}
		}
		select {
		case <-v.R.Context().Done():
			return
		case <-ticker.C:
			quiet += look
		}
	}
}
