package dashboard

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxForm is the maximum size of a form in bytes.
const maxForm = 1 << 20

// maxCarried is the maximum size of the fields that another form carries, in bytes. The fields of that
// form, which are sent with them, have the rest of maxForm.
const maxCarried = maxForm - 8<<10

// These are the fields with which a page asks for a login or for a password before it goes on with a
// form. They have names that no other form uses.
const (
	loginName       = "login.name"
	loginPassword   = "login.password"
	loginCode       = "login.code"
	loginPasskey    = "login.passkey" // answer of an authenticator, as JSON
	confirmPassword = "confirm.password"
	confirmCode     = "confirm.code"
	confirmPasskey  = "confirm.passkey" // answer of an authenticator, as JSON
	confirmTicket   = "confirm.ticket"
)

// carried has the fields of a form that a page keeps in another form, so that nothing that was typed is
// lost while the operator logs in or confirms the password.
type carried struct {
	Fields    []carriedField
	Multipart bool   // how the fields are sent
	Lost      string // sentence about what is not kept; "" if everything is
}

// carriedField is one value of a field.
type carriedField struct{ Name, Value string }

// carry returns the fields of the form in r. It leaves out passwords and files. r.Body must have the
// maximum size maxForm.
func carry(r *http.Request) (c carried) {
	c.Multipart = strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data")
	var err error
	if c.Multipart {
		err = r.ParseMultipartForm(maxForm)
	} else {
		err = r.ParseForm()
	}
	if err != nil || len(r.PostForm.Encode()) > maxCarried {
		c.Lost = "What you sent is too large to be kept. Send it again afterwards."
		return c
	}
	if c.Multipart && len(r.MultipartForm.File) > 0 {
		c.Lost = "A file is not kept. Choose it again afterwards."
	}
	for _, name := range slices.Sorted(maps.Keys(r.PostForm)) {
		if slices.Contains([]string{loginName, loginPassword, loginCode, loginPasskey, confirmPassword, confirmCode, confirmPasskey, confirmTicket, tryKey, "password", "old"}, name) {
			continue
		}
		for _, value := range r.PostForm[name] {
			c.Fields = append(c.Fields, carriedField{name, value})
		}
	}
	return c
}

// takeField removes a field from the form of r, so that the page does not see it, and returns its value.
// ok is false if there is no such field.
func takeField(r *http.Request, name string) (value string, ok bool) {
	value, ok = r.PostForm.Get(name), r.PostForm.Has(name)
	r.PostForm.Del(name)
	r.Form.Del(name)
	return value, ok
}

// logInFirst lets an operator log in who requests a page without a session, such as one whose session
// has ended. A form that was sent is not lost: the login form carries its fields and is sent to the same
// page. Then logInFirst begins a session, and the page goes on with the fields as if nothing had
// happened. ok is false if logInFirst has answered the request.
func (d *Dashboard) logInFirst(w http.ResponseWriter, r *http.Request) (s Session, ok bool) {
	if r.Method != http.MethodPost || strings.HasPrefix(r.URL.Path, "/logout") || r.URL.Path == "/account" {
		next := ""
		if r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Path == "/account" {
			next = "?next=" + url.QueryEscape(r.URL.RequestURI())
		}
		http.Redirect(w, r, "/login"+next, http.StatusSeeOther)
		return s, false
	}
	page := loginPage{To: r.URL.RequestURI(), NameField: loginName, PasswordField: loginPassword, Known: true, carried: carry(r)}
	if !r.PostForm.Has(loginPassword) && !r.PostForm.Has(loginCode) {
		challenge(w)
		d.renderLogin(w, r, http.StatusUnauthorized, "Your session has ended. Nothing has been changed.", page)
		return s, false
	}
	made, ok := d.tryLogin(w, r, page)
	if !ok {
		return s, false
	}
	d.setLogin(w, r, made)
	takeField(r, loginName)
	takeField(r, loginPassword)
	takeField(r, loginCode)
	takeField(r, loginPasskey)
	if s, ok = d.o.Accounts.Session(r, made.Token); !ok {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	}
	return s, ok
}

// confirmPage is the data of the form that asks for the password before something goes on.
type confirmPage struct {
	To   string // where the form is sent to
	What string // what the password is asked for
	Proofs
	Ask passkeyForm // for a passkey in place of the password
	carried
}

// purposes says what the endpoints are for that require a confirmed password, by the beginnings of their
// paths.
var purposes = []struct{ path, what string }{
	{"/admin/v1/tokens", "You are about to change admin tokens."},
	{"/admin/v1/factors", "You are about to change how you log in."},
	{"/admin/v1/recovery-codes", "You are about to replace your recovery codes."},
	{"/admin/v1/backup", "You are about to download a backup, which has everything that is stored."},
	{"", "You are about to change who may administer the service."},
}

// purpose returns a sentence that says what an endpoint is for.
func purpose(path string) string {
	for _, p := range purposes {
		if strings.HasPrefix(path, p.path) {
			return p.what
		}
	}
	return ""
}

// askConfirm shows a form for the password instead of the page. The form carries what the operator has
// sent to the page, which then goes on. endpoint is the path of the endpoint that requires the
// password. fault is the reason why a password was refused, or nil.
func (v *pageRequest) askConfirm(endpoint string, fault *Fault) {
	v.unproven = ""
	page := confirmPage{To: v.R.URL.RequestURI(), What: purpose(endpoint)}
	if v.R.Method == http.MethodPost {
		page.carried = carry(v.R)
	} else {
		page.To, page.Fields = "/confirm", []carriedField{{"next", v.R.URL.RequestURI()}}
	}
	status := http.StatusForbidden
	var err error
	if page.Proofs, err = v.dashboard.o.Accounts.Proofs(v.Session); err != nil && fault == nil {
		fault = faultOf(err)
	}
	page.Ask = v.dashboard.confirmPasskey(page.Proofs)
	shown := view{Title: "Confirm your password", Data: page}
	if fault != nil {
		status, shown.Fault = fault.Status, fault.Message
		if status == http.StatusTooManyRequests {
			shown.Fault = tooMany(v.W, "wrong passwords", fault)
		}
	}
	v.show(status, "confirm", shown)
}

// confirmed confirms the password if the form has it, see askConfirm. It returns false if the password
// was refused and the form is shown again.
func (v *pageRequest) confirmed() bool {
	password, typed := takeField(v.R, confirmPassword)
	answer, asked := takeField(v.R, confirmPasskey)
	code, _ := takeField(v.R, confirmCode)
	ticket, _ := takeField(v.R, confirmTicket)
	if !typed && !asked {
		return true
	}
	var err error
	if answer != "" {
		err = v.dashboard.o.Accounts.ConfirmWithPasskey(v.R, v.Session, ticket, answer)
	} else {
		err = v.dashboard.o.Accounts.Confirm(v.R, v.Session, Credentials{Password: password, Code: code})
	}
	if err != nil {
		v.askConfirm("", faultOf(err))
		return false
	}
	if s, ok := v.dashboard.o.Accounts.Session(v.R, v.Token); ok {
		v.Session, v.R = s, v.dashboard.o.Accounts.As(v.R, s)
	}
	return true
}

// showConfirm asks for the password before a link is followed, such as one that downloads a backup.
func (d *Dashboard) showConfirm(v *pageRequest) {
	next := localPath(v.query.Get("next"))
	proofs, err := d.o.Accounts.Proofs(v.Session)
	if err != nil {
		v.showFault(faultOf(err))
		return
	}
	page := confirmPage{To: "/confirm", What: purpose(next), Proofs: proofs, Ask: d.confirmPasskey(proofs), carried: carried{Fields: []carriedField{{"next", next}}}}
	v.show(http.StatusOK, "confirm", view{Title: "Confirm your password", Data: page})
}

// confirm goes on to a link, after loggedIn has confirmed the password.
func (d *Dashboard) confirm(v *pageRequest) {
	http.Redirect(v.W, v.R, localPath(v.R.PostFormValue("next")), http.StatusSeeOther)
}
