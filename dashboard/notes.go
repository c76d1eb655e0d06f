package dashboard

import (
	"net/http"
	"net/url"
)

// After a change, a page redirects to an address with the parameter done, see the function done. The
// note is shown once: to the browser that was redirected, and not again if the page is reloaded or its
// address is opened elsewhere, where it could say what is not so. A cookie tells that.

// noteWriter sets the cookie whenever a page redirects to an address with the parameter done.
type noteWriter struct {
	http.ResponseWriter
	cookie string // name of the cookie
}

// WriteHeader sends the header with the status.
func (w noteWriter) WriteHeader(status int) {
	if to, err := url.Parse(w.Header().Get("Location")); err == nil && status == http.StatusSeeOther {
		if word := to.Query().Get("done"); done(word) != "" {
			http.SetCookie(w, w.note(word+"."+to.Path, 60))
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap returns the writer for http.ResponseController.
func (w noteWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// note returns the cookie, which is valid for some seconds. If seconds is negative, the browser deletes
// it.
func (w noteWriter) note(value string, seconds int) *http.Cookie {
	return &http.Cookie{Name: w.cookie, Value: url.QueryEscape(value), Path: "/", MaxAge: seconds, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// noteCookie returns the name of the cookie.
func (d *Dashboard) noteCookie() string { return "latchkey_note_" + d.o.Instance }

// takeNote reports whether the browser was just redirected to the requested page with the word as its
// parameter done. It deletes the cookie.
func (d *Dashboard) takeNote(w http.ResponseWriter, r *http.Request, word string) bool {
	c, err := r.Cookie(d.noteCookie())
	if word == "" || err != nil || c.Value != url.QueryEscape(word+"."+r.URL.Path) {
		return false
	}
	http.SetCookie(w, noteWriter{w, d.noteCookie()}.note("", -1))
	return true
}
