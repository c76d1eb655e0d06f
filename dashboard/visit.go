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

// Fault is why a page cannot do what it was asked for: an answer of the admin
// endpoint other than success, or what is wrong with a form.
type Fault struct {
	Status     int    // of the page
	Message    string // a sentence for people
	RetryAfter time.Duration
	Fields     map[string]any // the members of the answer
}

// Error returns the message.
func (f *Fault) Error() string { return f.Message }

// unexpected is the Fault for an error that is none.
func unexpected() *Fault {
	return &Fault{Status: http.StatusInternalServerError, Message: "Unexpected fault. The server's log has the details under this request id."}
}

// faultOf returns the Fault that an error is, or else an unexpected one.
func faultOf(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return unexpected()
}

// invalid returns the Fault of a request that is not valid (400).
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

// now returns the time of the wall clock.
func (v *visit) now() time.Time { return v.dashboard.o.Now() }

// show sends the page of a template.
func (v *visit) show(status int, name string, page view) {
	d := v.dashboard
	page.Operator = v.Operator.Name
	page.Nav = navigation(d.sections, v.R.URL.Path)
	if page.Done == "" {
		page.Done = done(v.R.URL.Query().Get("done"))
	}
	d.render(v.W, status, name, page)
}

// done returns the sentence for a word in an address, so that no address can put
// a sentence of its own on a page.
func done(word string) string {
	return map[string]string{
		"saved": "Saved.", "made": "Created.", "deleted": "Deleted.", "imported": "Imported: every row is stored.",
		"cancelled": "Cancelled. Webhooks that hear of it are told.", "queued": "Queued: it is sent again, with the same delivery id.",
		"delivered": "The sample was delivered.", "failed": "The sample was not delivered: the first line of the attempts says why.",
		"paused": "Paused: nothing is sent to it until it is resumed.", "resumed": "Resumed.",
		"finish": "The earlier secrets are ended. Only the present one holds.",
		"pause":  "Paused: requests get 401 from now on.", "resume": "Resumed.",
		"revoke":   "Revoked: requests get 401 from now on.",
		"password": "The password is changed. All other sessions are ended.",
	}[word]
}

// showFault shows why something did not work.
func (v *visit) showFault(f *Fault) {
	v.show(f.Status, "fault", view{Title: "That did not work", Fault: f.Message})
}

// form reads the form that was sent. If ok is false it has shown why that failed.
func (v *visit) form() (form url.Values, ok bool) {
	if err := v.R.ParseForm(); err != nil {
		v.showFault(invalid("The form cannot be read; it may be larger than a megabyte."))
		return nil, false
	}
	return v.R.PostForm, true
}

// writeJSON answers a request of the page's script.
func (v *visit) writeJSON(value any) {
	v.W.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(v.W)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // values of the admin endpoint; a browser that has gone away is no error
}

// call sends a request to the admin endpoint in the operator's name and returns
// the members of its answer.
func (v *visit) call(method, path string, body any) (map[string]any, *Fault) {
	return v.callOnce("", method, path, body)
}

// callOnce is call for a request that must not be made twice: its name is sent
// as the Idempotency-Key.
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

// sendAs is call with a body of another kind.
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
