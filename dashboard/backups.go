package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"latchkey/internal/figures"
)

// backupPages are the page of the backups and its actions.
type backupPages struct{}

func (backupPages) sections() []section { return []section{{"System", "Backups", "/backups"}} }

func (p backupPages) pages() map[string]page {
	return map[string]page{
		"GET /backups":             {"GET /admin/v1/backups", func(v *pageRequest) { p.show(v, backupPage{}, "") }},
		"POST /backups/download":   {"GET /admin/v1/backup", p.download},
		"POST /backups/check":      {"POST /admin/v1/check", p.checkStore},
		"POST /backups/{id}/check": {"POST /admin/v1/backups/:name/check", p.checkFile},
	}
}

// backupPage is the data of the page.
type backupPage struct {
	Schedule map[string]any // the answer of the endpoint
	Every    string         // time between two backups in words; "" if none are made
	Due      bool           // the next backup is made within a minute
	Files    []backupFile   // newest first
	Result   *checkWords    // result of a check that was just made; nil if none was
	Sending  string         // address of the download that begins; "" if none does
}

// backupFile is a scheduled backup as the page shows it.
type backupFile struct {
	Name, At, Bytes string
	Check           *checkWords // nil if it was not checked since the start of the server
}

// checkWords is the result of a check in words.
type checkWords struct {
	Of       string // what was checked, such as "The database"
	At       string // when, as a time of the admin endpoint; "" for just now
	Good     bool
	Text     string // a sentence
	Problems []string
}

// checkOf returns the result of a check in words. answer is that of the admin endpoint.
func checkOf(of string, answer map[string]any) *checkWords {
	c := &checkWords{Of: of, At: textOf(answer["at"]), Problems: texts(answer["problems"])}
	counted := fmt.Sprintf("%s records and %s index entries were read.", figures.Grouped(int(numberOf(answer["records"]))), figures.Grouped(int(numberOf(answer["index_entries"]))))
	switch why := textOf(answer["not_verified"]); {
	case len(c.Problems) > 0:
		c.Text = of + " is damaged or was changed. " + counted
	case why != "":
		c.Text = of + " has no damage, but nobody can tell whether it was changed: " + why + ". " + counted
	default:
		c.Good, c.Text = true, of+" has no damage and was not changed. "+counted
	}
	return c
}

// show sends the page. done is a sentence about what has just happened, or "".
func (backupPages) show(v *pageRequest, page backupPage, done string) {
	answer, e := v.call(http.MethodGet, "/admin/v1/backups", nil)
	if e != nil {
		v.showFault(e)
		return
	}
	page.Schedule = answer
	if every := numberOf(answer["every_seconds"]); every > 0 {
		page.Every, page.Due = intervalText(time.Duration(every)*time.Second), !momentOf(answer["next_at"]).After(v.now())
	}
	rows, _ := answer["backups"].([]any)
	for _, row := range rows {
		r, _ := row.(map[string]any)
		file := backupFile{Name: textOf(r["name"]), At: textOf(r["created_at"]), Bytes: bytesShown(r["bytes"])}
		if check, ok := r["check"].(map[string]any); ok {
			file.Check = checkOf(file.Name, check)
		}
		page.Files = append(page.Files, file)
	}
	v.show(http.StatusOK, "backups", view{Title: "Backups", Data: page, Done: done})
}

// intervalText returns a duration in words, such as "24 hours".
func intervalText(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := d / unit.of; n > 0 && d%unit.of == 0 {
			if n == 1 {
				return "1 " + unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return d.String()
}

// download begins the download of a fresh backup, once the operator has confirmed the password. The
// page stays, because the browser does not leave it for a file.
func (p backupPages) download(v *pageRequest) {
	const path = "/admin/v1/backup"
	if v.dashboard.o.Accounts.NeedsProof(v.Session, "GET "+path) {
		v.askConfirm(path, nil)
		return
	}
	v.W.Header().Set("Refresh", "0; url="+path)
	p.show(v, backupPage{Sending: path}, "The backup is made now, and then the download begins.")
}

// checkStore checks the database and shows the result.
func (p backupPages) checkStore(v *pageRequest) {
	v.noDeadline()
	answer, e := v.call(http.MethodPost, "/admin/v1/check", nil)
	if e != nil {
		v.showFault(e)
		return
	}
	p.show(v, backupPage{Result: checkOf("The database", answer)}, "")
}

// checkFile checks a scheduled backup and shows the result.
func (p backupPages) checkFile(v *pageRequest) {
	v.noDeadline()
	answer, e := v.call(http.MethodPost, "/admin/v1/backups/"+url.PathEscape(v.R.PathValue("id"))+"/check", nil)
	if e != nil {
		v.showFault(e)
		return
	}
	check, _ := answer["check"].(map[string]any)
	result := checkOf(textOf(answer["name"]), check)
	p.show(v, backupPage{Result: result}, "")
}
