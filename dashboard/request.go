package dashboard

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"time"

	"latchkey/internal/strictjson"
)

// Fault is an error that a page shows: an error answer of the admin endpoint, or a mistake in a
// form.
type Fault struct {
	Status     int            // HTTP status that the page is sent with
	Message    string         // a sentence that the page shows
	RetryAfter time.Duration  // how long to wait before the next login; 0 if not throttled
	Fields     map[string]any // members of the admin endpoint's error answer; nil if there was no answer
}

// Error returns the message.
func (f *Fault) Error() string { return f.Message }

// unexpected returns a Fault with status 500, for an error whose text users must not see.
func unexpected() *Fault {
	return &Fault{Status: http.StatusInternalServerError, Message: "Unexpected fault. The server's log has the details under this request id."}
}

// faultOf returns the *Fault that err is or wraps. For any other error it returns unexpected().
func faultOf(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return unexpected()
}

// invalid returns a Fault with status 400. format and args are as in fmt.Sprintf.
func invalid(format string, args ...any) *Fault {
	return &Fault{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// pageRequest is a request for a page by an operator who has logged in.
type pageRequest struct {
	W http.ResponseWriter
	R *http.Request
	Session
	dashboard *Dashboard
	query     url.Values // parameters of the address, without empty ones
	note      string     // sentence about what was done with the form that is shown again; "" if there is none
	unproven  string     // path of an endpoint that required a confirmed password; "" if none did
	contacts  []any      // the newest contacts, once they were read for suggestions
}

// now returns the current time from Options.Now.
func (v *pageRequest) now() time.Time { return v.dashboard.o.Now() }

// may reports whether the operator may use an endpoint, such as "POST /admin/v1/keys".
func (v *pageRequest) may(endpoint string) bool {
	return v.dashboard.o.Accounts.May(v.Operator, endpoint)
}

// mayOpen reports whether the operator may open the page with the pattern "GET " and path.
func (v *pageRequest) mayOpen(path string) bool {
	if path == "/" {
		path = "/{$}"
	}
	needs := v.dashboard.needs["GET "+path]
	return needs == anyRole || v.may(needs)
}

// show renders the template name with page and sends it. It fills in the operator's name and role,
// the navigation, and the sentence for the parameter "done" in the address.
// If an endpoint required a confirmed password, it shows the form for that instead.
func (v *pageRequest) show(status int, name string, page view) {
	if v.unproven != "" {
		v.askConfirm(v.unproven, nil)
		return
	}
	d := v.dashboard
	page.Operator, page.may = v.Operator.Name, v.may
	if v.Operator.Role != "admin" {
		page.Role = roleLabel(v.Operator.Role)
	}
	page.Theme, page.Zone, page.style = v.Operator.Theme, v.zone(), styleOf(v.Operator.Preferences)
	page.Nav, page.Done, page.Sandbox = v.navigation(), cmp.Or(page.Done, v.note), v.inSandbox()
	if link, ok := helpFor(v.R.URL.Path); ok {
		page.Help = &link
	}
	if word := v.query.Get("done"); page.Done == "" && d.takeNote(v.W, v.R, word) {
		if text := done(word); testFault(word) != "" || slices.Contains([]string{"exposed", "leaked"}, word) {
			page.Fault = cmp.Or(page.Fault, text)
		} else {
			page.Done = text
		}
	}
	d.render(v.W, status, name, page)
}

// done returns the sentence for a value of the parameter "done" in an address, or "" if the value
// is unknown. A link therefore cannot make a page show any other sentence.
func done(word string) string {
	for _, of := range []func(string) string{importNote, retryNote, testFault} {
		if note := of(word); note != "" {
			return note
		}
	}
	return map[string]string{
		"saved": "Saved.", "made": "Created.", "deleted": "Deleted.", "emptied": "The sandbox is empty. The next request with one of its keys fills it again.",
		"cancelled": "Cancelled. Subscribed webhooks are notified.", "queued": "It is sent again now, with the same delivery id.", "delivered": "The sample was delivered.",
		"paused": "Paused. Nothing is sent to it until it is resumed.", "resumed": "Resumed.",
		"found": "This is the key that has the secret. The secret was not kept.",
		"exposed": "The address of the last page had the secret of this key. The browser's history and logs may keep it, so consider the key exposed: rotate it. " +
			"Searches send no secrets in addresses if the browser runs scripts.",
		"leaked": "The address of the last page had what looks like a secret, which no key of this service has. The browser's history and logs may keep it, so consider it exposed.",
		"finish": "The previous secrets are no longer valid. Only the current secret is.",
		"pause":  "Paused: requests get 401 from now on.", "resume": "Resumed.",
		"revoke":   "Revoked: requests get 401 from now on.",
		"password": "The password is changed. All other sessions are ended.",
		"factor":   "Added. The next login asks for it. Create recovery codes now, in case you lose the device.",
		"unfactor": "Removed. It is no longer accepted.",
		"linked":   "Linked. From now on you can log in with single sign-on, which also sets your role.",
		"passkey":  "Added. You can log in with it.", "unpassword": "The password is removed. All other sessions are ended.",
		"ended": "The session is ended.", "others": "All other sessions are ended.",
	}[word]
}

// form returns the submitted form. If the form cannot be read, it sends an error page and returns
// false.
func (v *pageRequest) form() (form url.Values, ok bool) {
	if err := v.R.ParseForm(); err != nil {
		v.showFault(invalid("The form cannot be read. Its size must be at most 1 MiB."))
		return nil, false
	}
	return v.R.PostForm, true
}

// noDeadline lets the answer take as long as it needs, for work of which the admin endpoint says so.
func (v *pageRequest) noDeadline() {
	_ = http.NewResponseController(v.W).SetWriteDeadline(time.Time{}) // without a connection, as in tests, there is no deadline
}

// call sends a request with body as JSON to the admin endpoint, on behalf of the operator. It
// returns the members of the answer, or a Fault if the status is 300 or more.
func (v *pageRequest) call(method, path string, body any) (map[string]any, *Fault) {
	return v.callOnce("", method, path, body)
}

// callOnce does the same as call, for a request that must not take effect twice. It sends
// idempotencyKey in the field Idempotency-Key, or no such field if idempotencyKey is "".
func (v *pageRequest) callOnce(idempotencyKey, method, path string, body any) (map[string]any, *Fault) {
	data, err := strictjson.Encode(body)
	if bad, ok := errors.AsType[*strictjson.Error](err); ok {
		return nil, invalid("%s", bad.Text)
	}
	if err != nil {
		return nil, unexpected()
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if idempotencyKey != "" {
		header.Set("Idempotency-Key", idempotencyKey)
	}
	return v.send(method, path, header, data)
}

// sendAs does the same as call, but sends data unchanged, with contentType as the content type.
func (v *pageRequest) sendAs(method, path, contentType string, data []byte) (map[string]any, *Fault) {
	return v.send(method, path, http.Header{"Content-Type": {contentType}}, data)
}

// read asks the admin endpoint on behalf of the operator, and decodes the answer into the variable that
// into points to. It suits long answers, for which call is slow.
func (v *pageRequest) read(path string, into any) *Fault {
	return v.decode(path, v.pass(http.MethodGet, path, http.Header{}, nil), into)
}

func (v *pageRequest) send(method, path string, header http.Header, data []byte) (answer map[string]any, e *Fault) {
	if e := v.refuseInSandbox(method, path); e != nil {
		return nil, e
	}
	e = v.decode(path, v.pass(method, path, header, data), &answer)
	return answer, e
}

// pass sends a request to the admin endpoint and returns the answer.
func (v *pageRequest) pass(method, path string, header http.Header, data []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(v.R.Context(), method, v.ofSpace(method, path), bytes.NewReader(data))
	r.RemoteAddr, r.Header = v.R.RemoteAddr, header
	w := httptest.NewRecorder()
	v.dashboard.o.Admin.ServeHTTP(w, r)
	return w
}

// decode decodes an answer of the admin endpoint into the variable that into points to. It returns a
// Fault if the status is 300 or more.
func (v *pageRequest) decode(path string, w *httptest.ResponseRecorder, into any) *Fault {
	if w.Code < 300 {
		if strictjson.Decode(w.Body.Bytes(), into) != nil {
			return unexpected()
		}
		return nil
	}
	answer := map[string]any{}
	if strictjson.Decode(w.Body.Bytes(), &answer) != nil {
		return unexpected()
	}
	if answer["error"] == "confirmation_required" {
		v.unproven = path
	}
	message, _ := answer["message"].(string)
	return &Fault{Status: w.Code, Message: message, Fields: answer}
}
