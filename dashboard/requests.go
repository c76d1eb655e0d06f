package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// requestPages are the pages of the latest requests to the API.
type requestPages struct{}

func (requestPages) sections() []section { return []section{{"API", "Requests", "/requests"}} }

func (requestPages) pages() map[string]page {
	const list, change = "GET /admin/v1/requests", "PATCH /admin/v1/keys/:id"
	return map[string]page{
		"GET /requests": {list, showRequests}, "GET /requests/{id}": {list, showRequest},
		"GET /requests/{id}/fix": {change, askFix}, "POST /requests/{id}/fix": {change, doFix},
	}
}

// requestLine is a request as the pages show it.
type requestLine struct {
	ID, At, Method, Route, Error, Step, KeyID, KeyName, Owner, Client, Took string
	Status                                                                  int
}

// When returns the time for reading.
func (r requestLine) When() string { return whenIn(r.At, showSeconds) }

// RouteName returns the route as the pages show it.
func (r requestLine) RouteName() string { return routeName(r.Route) }

// Class returns the CSS class of the status.
func (r requestLine) Class() string {
	switch {
	case r.Status >= 500:
		return "failed"
	case r.Status >= 400:
		return "paused"
	}
	return keyActive
}

func requestOf(v any) requestLine {
	row, _ := v.(map[string]any)
	return requestLine{
		ID: textOf(row["request_id"]), At: textOf(row["at"]), Method: textOf(row["method"]), Route: textOf(row["route"]), Error: textOf(row["error"]), Step: textOf(row["refused_by"]),
		KeyID: textOf(row["key_id"]), KeyName: textOf(row["key_name"]), Owner: textOf(row["owner"]), Client: textOf(row["client"]), Took: milliseconds(row["duration_ms"]),
		Status: int(numberOf(row["status"])),
	}
}

// requestList is the data of the list.
type requestList struct {
	listPage
	Inputs  []input
	Lines   []requestLine
	Kept    string
	Updated string
}

func requestFilters() []formField {
	return []formField{
		{Name: "status", Label: "Status", Kind: fieldSelect, Blank: "any", Choices: words("2xx", "4xx", "5xx", "401", "403", "404", "429", "503")},
		{Name: "method", Label: "Method", Kind: fieldSelect, Blank: "any", Choices: words("GET", "POST", "PATCH", "PUT", "DELETE")}, {Name: "route", Label: "Route", Kind: fieldText}, {Name: "key", Label: "Key id", Kind: fieldText},
		{Name: "client", Label: "IP address", Kind: fieldText}, {Name: "id", Label: "Request id", Kind: fieldText},
	}
}

func showRequests(v *pageRequest) {
	query, filters := v.query, requestFilters()
	names := []string{"status", "method", "route", "key", "client", "id", "code"}
	var page requestList
	var fault *Fault
	path := "/admin/v1/requests"
	if query.Get("key") == "" && query.Get("id") == "" {
		path = v.listOfSpace(path)
	}
	page.listPage, fault = v.list(path, "requests", names...)
	page.Inputs = v.inputs(filters, fillBy(func(f formField) string { return query.Get(f.Name) }), fault)
	for _, row := range page.Rows {
		page.Lines = append(page.Lines, requestOf(row))
	}
	page.Updated = v.updated()
	shown, status := view{Title: "Requests", Data: page, Form: query}, http.StatusOK
	if fault != nil {
		status, shown.Fault = fault.Status, labelled(fault.Message, filters...)
	}
	v.show(status, "requests", shown)
}

// requestDetail is the data of the page of a request.
type requestDetail struct {
	requestLine
	Message string
	Limits  []usedLimit
	Fix     *requestFix // what an operator can do about the refusal; nil: nothing here
}

// usedLimit is a limit as it was when the request was refused.
type usedLimit struct {
	Name, Label string
	Used, Most  int
	Wait        int // seconds until the next request; 0: the limit allowed the request
}

// requestFix is a change of a key that would have let the request through.
type requestFix struct {
	Permission string // to add; "" if a limit is raised
	Limit      string // to raise
	Label      string // of the limit
	From, To   int    // of the limit
}

// request returns the request whose id is in the path of the page.
func (v *pageRequest) request() (d requestDetail, fault *Fault) {
	q := "?id=" + url.QueryEscape(v.R.PathValue("id"))
	answer, fault := v.call(http.MethodGet, "/admin/v1/requests"+q, nil)
	if fault != nil {
		return d, fault
	}
	refused, fault := v.call(http.MethodGet, "/admin/v1/refusals"+q, nil)
	if fault != nil {
		return d, fault
	}
	rows, _ := answer["requests"].([]any)
	refusals, _ := refused["refusals"].([]any)
	if len(rows) == 0 {
		rows = refusals // the list of refusals goes further back
	}
	if len(rows) == 0 {
		return d, &Fault{Status: http.StatusNotFound, Message: "This request is not among the latest ones. The list is kept in memory, so it is empty after a restart."}
	}
	d.requestLine = requestOf(rows[0])
	if len(refusals) == 0 {
		return d, nil
	}
	why, _ := refusals[0].(map[string]any)
	d.Message = textOf(why["message"])
	limits, _ := why["limits"].([]any)
	for _, item := range limits {
		l, _ := item.(map[string]any)
		name := textOf(l["name"])
		d.Limits = append(d.Limits, usedLimit{name, limitLabel(name), int(numberOf(l["used"])), int(numberOf(l["max"])), int(numberOf(l["retry_after"]))})
	}
	d.Fix, fault = v.fixOf(d)
	return d, fault
}

// fixOf returns the change of the key that would have let a refused request through, or nil.
func (v *pageRequest) fixOf(d requestDetail) (*requestFix, *Fault) {
	if d.KeyID == "" || !v.may("PATCH /admin/v1/keys/:id") {
		return nil, nil
	}
	switch d.Error {
	case "rate_limit_exceeded":
		i := slices.IndexFunc(d.Limits, func(l usedLimit) bool { return l.Wait > 0 })
		if i < 0 {
			return nil, nil
		}
		l := d.Limits[i]
		return &requestFix{Limit: l.Name, Label: l.Label, From: l.Most, To: 2 * l.Most}, nil
	case "permission_denied":
		routes, fault := v.call(http.MethodGet, "/admin/v1/routes", nil)
		list, _ := routes["routes"].([]any)
		for _, item := range list {
			row, _ := item.(map[string]any)
			needed, accepted := texts(row["permissions"]), strings.Split(textOf(row["method"]), ",") // "*": all methods
			if textOf(row["path"]) == d.Route && len(needed) > 0 && (slices.Contains(accepted, d.Method) || slices.Contains(accepted, "*")) {
				return &requestFix{Permission: needed[0]}, nil
			}
		}
		return nil, fault
	}
	return nil, nil
}

func showRequest(v *pageRequest) {
	d, fault := v.request()
	if fault != nil {
		v.showFault(fault)
		return
	}
	v.show(http.StatusOK, "request", view{Title: "Request " + d.ID, Data: d})
}

// askFix says what a change of the key does, before it is made.
func askFix(v *pageRequest) { v.askFix(http.StatusOK, view{}) }

func (v *pageRequest) askFix(status int, page view) {
	d, fault := v.request()
	if fault == nil && d.Fix == nil {
		fault = &Fault{Status: http.StatusNotFound, Message: "There is nothing to change for this request."}
	}
	if fault != nil {
		v.showFault(fault)
		return
	}
	page.Title, page.Data = "Change "+d.KeyName, d
	v.show(status, "requestfix", page)
}

// doFix changes the key of a refused request and shows the key.
func doFix(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	d, fault := v.request()
	if fault == nil && d.Fix == nil {
		fault = &Fault{Status: http.StatusNotFound, Message: "There is nothing to change for this request."}
	}
	if fault != nil {
		v.showFault(fault)
		return
	}
	path := "/admin/v1/keys/" + url.PathEscape(d.KeyID)
	key, fault := v.call(http.MethodGet, path, nil)
	if fault != nil {
		v.showFault(fault)
		return
	}
	change := map[string]any{}
	if d.Fix.Permission != "" {
		held := texts(key["permissions"])
		if !slices.Contains(held, d.Fix.Permission) {
			held = append(held, d.Fix.Permission)
		}
		change["permissions"] = held
	} else {
		var to int
		if _, err := fmt.Sscan(cmp.Or(form.Get("to"), "0"), &to); err != nil || to < 1 {
			v.askFix(http.StatusBadRequest, view{Fault: "The limit must be a whole number of at least 1.", Form: form})
			return
		}
		change["limits"] = map[string]any{d.Fix.Limit: to}
	}
	if _, fault := v.call(http.MethodPatch, path, change); fault != nil {
		v.askFix(fault.Status, view{Fault: fault.Message, Form: form})
		return
	}
	http.Redirect(v.W, v.R, "/keys/"+url.PathEscape(d.KeyID)+"?done=saved", http.StatusSeeOther)
}
