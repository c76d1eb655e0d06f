package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
)

// faultTitle returns the title of a page that shows an error with this status.
func faultTitle(status int) string {
	switch status {
	case http.StatusForbidden:
		return "Not allowed"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusTooManyRequests:
		return "Too many requests"
	case http.StatusServiceUnavailable:
		return "Not available at the moment"
	}
	if status >= 500 {
		return "Something went wrong"
	}
	return "That did not work"
}

// showFault sends a page that shows only the fault.
func (v *pageRequest) showFault(f *Fault) {
	message := f.Message
	if message == "No such object." {
		message = "There is nothing at this URL. It may have been deleted, or the URL has a typing error."
	}
	v.show(f.Status, "fault", view{Title: faultTitle(f.Status), Fault: message})
}

// fail sends a page that shows only a fault, to an operator who has logged in or to a stranger.
func (d *Dashboard) fail(w http.ResponseWriter, r *http.Request, f *Fault) {
	w.Header().Set("Vary", "Cookie")
	if s, ok := d.session(r); ok {
		v := &pageRequest{W: w, R: d.o.Accounts.As(r, s), Session: s, dashboard: d, query: url.Values{}}
		v.showFault(f)
		return
	}
	d.render(w, f.Status, "fault", view{Title: faultTitle(f.Status), Fault: f.Message})
}

// withFaults returns a handler that answers with pages what mux answers with a line of plain text: paths
// that no pattern has, and methods that a path does not have.
func (d *Dashboard) withFaults(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" || r.RequestURI == "*" { // mux refuses "*" in ServeHTTP
			mux.ServeHTTP(w, r)
			return
		}
		plain := httptest.NewRecorder()
		switch handler.ServeHTTP(plain, r); plain.Code {
		case http.StatusNotFound:
			d.fail(w, r, &Fault{Status: http.StatusNotFound, Message: "There is no page at this URL. Check it for a typing error."})
		case http.StatusMethodNotAllowed:
			w.Header().Set("Allow", plain.Header().Get("Allow"))
			d.fail(w, r, &Fault{Status: plain.Code, Message: fmt.Sprintf("This URL does not accept %s requests. Nothing was changed. Go back and use the form on the page.", r.Method)})
		default: // a redirect
			handler.ServeHTTP(w, r)
		}
	})
}

// broken sends a page that says that the wanted one cannot be rendered. It needs no template.
func broken(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>%s - Latchkey</title><link rel="stylesheet" href="/static/style.css"></head>
<body><main class="narrow"><h1>%[1]s</h1><p>This page cannot be shown. The server's log has the reason.</p><p><a class="button" href="/">Overview</a></p></main></body></html>
`, faultTitle(http.StatusInternalServerError))
}
