package dashboard

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A page shows either live keys and records or those of sandboxes. Which of them an operator has chosen is in a cookie.

// spaceCookie is "sandbox" if the operator has chosen sandboxes.
const spaceCookie = "latchkey_space"

// spaceMax is how long a browser keeps the choice. It is short, so that nobody who comes back wonders where the records are.
const spaceMax = 12 * time.Hour

// spaceLists are the lists of the admin endpoint that have either live records or those of sandboxes.
// Lists of keys and of requests are of both spaces, unless their path is from listOfSpace.
var spaceLists = []string{"agents", "business-context", "calls", "contacts", "events", "schedules", "variables", "webhooks"}

// inSandbox reports whether the operator has chosen sandboxes.
func (v *pageRequest) inSandbox() bool { return v.dashboard.cookie(v.R, spaceCookie) == "sandbox" }

// ofSpace returns the path of a request to the admin endpoint with the parameter that selects the records of the chosen space, if the
// path is that of one of spaceLists.
func (v *pageRequest) ofSpace(method, path string) string {
	list, query, _ := strings.Cut(path, "?")
	list, is := strings.CutPrefix(list, "/admin/v1/")
	if method != http.MethodGet || !is || !slices.Contains(spaceLists, list) || !v.inSandbox() {
		return path
	}
	if query != "" {
		query += "&"
	}
	return "/admin/v1/" + list + "?" + query + "sandbox=true"
}

// listOfSpace returns the path of a list of keys or of what keys did, for the chosen space.
func (v *pageRequest) listOfSpace(path string) string {
	return path + "?sandbox=" + strconv.FormatBool(v.inSandbox())
}

// outsideSandboxes reports whether a section is about live keys alone.
func outsideSandboxes(path string) bool { return path == "/" || path == "/do-not-call" }

// chooseSpace stores the choice of the operator and leads back to the section from which it was made.
func (d *Dashboard) chooseSpace(v *pageRequest) {
	form := v.R.PostForm
	choice := http.Cookie{Name: spaceCookie, Value: "sandbox"}
	age := spaceMax
	if form.Get("space") != "sandbox" {
		choice.Value, age = "", -time.Second
	}
	d.setCookie(v.W, v.R, choice, age)
	next := "/"
	if slices.ContainsFunc(d.sections, func(s section) bool { return s.Path == form.Get("next") }) {
		next = form.Get("next")
	}
	http.Redirect(v.W, v.R, next, http.StatusSeeOther)
}

// sectionOf returns the path of the section of the navigation to which the page belongs, or "/".
func sectionOf(groups []navGroup) string {
	for _, g := range groups {
		for _, e := range g.Entries {
			if e.Here && e.Path != "/" {
				return e.Path
			}
		}
	}
	return "/"
}

// factsOf returns facts with the mark of a record of a sandbox, whichever space the operator has chosen.
func factsOf(facts []column, record map[string]any) []column {
	if record["sandbox"] == true {
		return append(slices.Clip(facts), column{Head: "In a sandbox", Member: "sandbox"})
	}
	return facts
}

// refuseInSandbox returns why a request to the admin endpoint is not sent, or nil. It would make live records while the pages show
// sandboxes, whose records are made with sandbox keys.
func (v *pageRequest) refuseInSandbox(method, path string) *Fault {
	list, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(path, "/admin/v1/"), "/import"), "?")
	makes := method == http.MethodPost && slices.Contains(spaceLists, list) || method == http.MethodPatch && list == "business-context"
	if !makes || !v.inSandbox() {
		return nil
	}
	return &Fault{Status: http.StatusConflict, Message: "The pages show sandboxes, and this would be live. Records of a sandbox are made with its keys. For a live one, choose Live in the navigation first."}
}
