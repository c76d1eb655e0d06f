package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"
)

// Fault is the error of a request for a page: an error answer of the admin
// endpoint, or a mistake in a form.
type Fault struct {
	Status     int    // HTTP status of the page
	Message    string // a sentence that the page shows
	RetryAfter time.Duration
	Fields     map[string]any // the members of the admin endpoint's answer, nil if there was none
}

// Error returns the message.
func (f *Fault) Error() string { return f.Message }

// unexpected returns the Fault (500) for an error whose text users must not see.
func unexpected() *Fault {
	return &Fault{Status: http.StatusInternalServerError, Message: "Unexpected fault. The server's log has the details under this request id."}
}

// faultOf returns the *Fault that err is or wraps, or else an unexpected one.
func faultOf(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return unexpected()
}

// invalid returns a Fault with status 400. Its message is formatted as by Sprintf.
func invalid(format string, args ...any) *Fault {
	return &Fault{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// visit is a request for a page by an operator who has logged in.
type visit struct {
	W http.ResponseWriter
	R *http.Request
	Session
	dashboard *Dashboard
}

// now returns the time of Options.Now.
func (v *visit) now() time.Time { return v.dashboard.o.Now() }

// show answers with the page of a template, with the operator's name, navigation
// and the sentence for done in the address filled in.
func (v *visit) show(status int, name string, page view) {
	d := v.dashboard
	page.Operator = v.Operator.Name
	page.Nav = navigation(d.sections, v.R.URL.Path)
	if page.Done == "" {
		page.Done = done(v.R.URL.Query().Get("done"))
	}
	d.render(v.W, status, name, page)
}

// done returns the sentence for a word in an address, or "" if the word is unknown.
// So nobody can make a link that shows another sentence on a page.
func done(word string) string {
	return map[string]string{
		"saved": "Saved.", "made": "Created.", "deleted": "Deleted.", "imported": "Imported: every row is stored.",
		"cancelled": "Cancelled. Subscribed webhooks are notified.", "queued": "Queued: it is sent again, with the same delivery id.",
		"delivered": "The sample was delivered.", "failed": "The sample was not delivered: the first line of the attempts says why.",
		"paused": "Paused: nothing is sent to it until it is resumed.", "resumed": "Resumed.",
		"finish": "The earlier secrets are ended. Only the present one holds.",
		"pause":  "Paused: requests get 401 from now on.", "resume": "Resumed.",
		"revoke":   "Revoked: requests get 401 from now on.",
		"password": "The password is changed. All other sessions are ended.",
	}[word]
}

// showFault answers with a page that shows only the fault.
func (v *visit) showFault(f *Fault) {
	v.show(f.Status, "fault", view{Title: "That did not work", Fault: f.Message})
}

// form returns the form that was sent. If it cannot be read, ok is false and form
// has answered the request already.
func (v *visit) form() (form url.Values, ok bool) {
	if err := v.R.ParseForm(); err != nil {
		v.showFault(invalid("The form cannot be read; it may be larger than a megabyte."))
		return nil, false
	}
	return v.R.PostForm, true
}

// writeJSON answers a request of a page's script with value as JSON.
func (v *visit) writeJSON(value any) {
	v.W.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(v.W)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // only a write can fail, if the browser has gone
}

// call sends body as JSON to the admin endpoint in the operator's name. It returns
// the members of the answer, or a Fault if the status is 300 or more.
func (v *visit) call(method, path string, body any) (map[string]any, *Fault) {
	return v.callOnce("", method, path, body)
}

// callOnce works as call for a request that must not take effect twice. It sends
// name as the Idempotency-Key, unless that is "".
func (v *visit) callOnce(name, method, path string, body any) (map[string]any, *Fault) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, unexpected()
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if name != "" {
		header.Set("Idempotency-Key", name)
	}
	return v.send(method, path, header, data)
}

// sendAs works as call, but sends data as it is. kind is its content type.
func (v *visit) sendAs(method, path, kind string, data []byte) (map[string]any, *Fault) {
	return v.send(method, path, http.Header{"Content-Type": {kind}}, data)
}

func (v *visit) send(method, path string, header http.Header, data []byte) (map[string]any, *Fault) {
	r := httptest.NewRequestWithContext(v.R.Context(), method, path, bytes.NewReader(data))
	r.RemoteAddr, r.Header = v.R.RemoteAddr, header
	w := httptest.NewRecorder()
	v.dashboard.o.Admin.ServeHTTP(w, r)
	answer := map[string]any{}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		return nil, unexpected()
	}
	if w.Code >= 300 {
		message, _ := answer["message"].(string)
		return nil, &Fault{Status: w.Code, Message: message, Fields: answer}
	}
	return answer, nil
}
