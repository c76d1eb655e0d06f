package dashboard

import (
	"net/http"
	"net/url"
	"strings"
)

// Passkeys lets operators use passkeys. It is a part of Accounts, whose comment says which errors the
// methods return.
type Passkeys interface {
	// PasskeyURL returns the address at which passkeys work. ok is false if there can be none.
	PasskeyURL() (url string, ok bool)
	// AskLogin returns the question for a login without a password, and the host names of stored passkeys
	// if none works here.
	AskLogin() (q Question, lost []string)
	// LoginWithPasskey begins a session. Faults are as for Login.
	LoginWithPasskey(r *http.Request, c Credentials) (Login, error)
	// ConfirmWithPasskey is like Confirm, with the answer to Proofs.Passkey in place of the password.
	ConfirmWithPasskey(r *http.Request, s Session, ticket, answer string) error
	// Proven reports whether the operator of s has confirmed the password, or used a passkey, just now.
	Proven(s Session) bool
	// AskNew returns the question for a new passkey of the operator of s.
	AskNew(s Session) Question
	// AddPasskey stores the passkey in the answer to AskNew. It needs a session that is Proven.
	AddPasskey(r *http.Request, s Session, name, ticket, answer string) error
	// AskFirst returns the question for a new passkey in place of a password, by the set-up link or the
	// invitation with this token. Setup and Join accept the answer.
	AskFirst(link, name string) Question
	// HasPassword reports whether the operator of s can log in with a password.
	HasPassword(s Session) bool
	// RemovePassword removes the password of the operator of s, who must have other ways to log in. It
	// needs a session that is Proven.
	RemovePassword(r *http.Request, s Session) error
}

// Question is a question to an authenticator. Its zero value means that there is nothing to ask.
type Question struct {
	Options string // for navigator.credentials, as JSON
	Ticket  string // goes back with the answer
}

// passkeyForm is the part of a form that asks for a passkey. Its zero value shows nothing.
type passkeyForm struct {
	Question
	Kind   string // "get" or "create", a method of navigator.credentials
	Label  string // of the button
	Field  string // name of the field for the answer
	Back   string // name of the field for the ticket; "" if a cookie has it
	Origin string // address at which passkeys work
	Quiet  bool   // the browser offers passkeys in the field for the name too
}

// passkeyForm returns the part of a form that asks q.
func (d *Dashboard) passkeyForm(q Question, form passkeyForm) passkeyForm {
	form.Question = q
	form.Origin, _ = d.o.Accounts.PasskeyURL()
	return form
}

// loginPasskeys returns the part of the login form that asks for a passkey, and sets the cookie with its
// ticket. The form has no such part if no passkey is stored that works here; lost are the host names of
// those that do not.
func (d *Dashboard) loginPasskeys(w http.ResponseWriter, r *http.Request) (form passkeyForm, lost []string) {
	q, lost := d.o.Accounts.AskLogin()
	if q.Options == "" {
		return form, lost
	}
	d.setCookie(w, r, http.Cookie{Name: passkeyCookie, Value: q.Ticket}, passkeyMax)
	return d.passkeyForm(q, passkeyForm{Kind: "get", Label: "Log in with a passkey", Field: loginPasskey, Quiet: true}), nil
}

// firstPasskey returns the part of a form that asks for a new passkey in place of a password.
func (d *Dashboard) firstPasskey(link, name string) passkeyForm {
	return d.passkeyForm(d.o.Accounts.AskFirst(link, name), passkeyForm{Kind: "create", Label: "Create account with a passkey", Field: "passkey", Back: "passkey.ticket"})
}

// confirmPasskey returns the part of a form that asks for a passkey in place of the password.
func (d *Dashboard) confirmPasskey(p Proofs) passkeyForm {
	return d.passkeyForm(p.Passkey, passkeyForm{Kind: "get", Label: "Use a passkey", Field: confirmPasskey, Back: confirmTicket})
}

// passkeyList is the part of the page of the account about passkeys.
type passkeyList struct {
	URL         string   // address at which passkeys work
	Possible    bool     // there can be passkeys at URL
	Here        bool     // the page was requested at URL, as far as the request shows
	Lost        []string // names of passkeys that belong to another host name
	HasPassword bool
	Proven      bool // the operator has confirmed who it is, just now
}

// passkeys returns what the page of the account says about passkeys. rows are the operator's factors.
func (v *pageRequest) passkeys(rows []factorRow) (list passkeyList) {
	accounts := v.dashboard.o.Accounts
	list.URL, list.Possible = accounts.PasskeyURL()
	list.HasPassword, list.Proven = accounts.HasPassword(v.Session), accounts.Proven(v.Session)
	u, err := url.Parse(list.URL)
	list.Here = err == nil && strings.EqualFold(u.Host, v.R.Host) && (u.Scheme == "https") == v.dashboard.secure(v.R)
	for _, row := range rows {
		if row.Elsewhere != "" {
			list.Lost = append(list.Lost, row.Name)
		}
	}
	return list
}

// newPasskeyPage is the data of the page on which an operator adds a passkey.
type newPasskeyPage struct {
	Passkeys passkeyList
	Form     passkeyForm
}

// newPasskey asks for a new passkey, with a fault unless it is nil.
func (v *pageRequest) newPasskey(fault *Fault) {
	d := v.dashboard
	page := newPasskeyPage{Passkeys: v.passkeys(nil)}
	page.Form = d.passkeyForm(d.o.Accounts.AskNew(v.Session), passkeyForm{Kind: "create", Label: "Create a passkey", Field: "passkey", Back: "passkey.ticket"})
	status, shown := http.StatusOK, view{Title: "Add a passkey", Data: page, Form: v.R.PostForm}
	if fault != nil {
		status, shown.Fault = fault.Status, fault.Message
	}
	v.show(status, "newpasskey", shown)
}

// addPasskey asks for a new passkey, or stores it if the form has one. The operator confirms first who it is.
func (d *Dashboard) addPasskey(v *pageRequest) {
	form := v.R.PostForm
	if !d.o.Accounts.Proven(v.Session) {
		v.askConfirm("/admin/v1/factors", nil)
		return
	}
	if !form.Has("passkey") {
		v.newPasskey(nil)
		return
	}
	if err := d.o.Accounts.AddPasskey(v.R, v.Session, form.Get("name"), form.Get("passkey.ticket"), form.Get("passkey")); err != nil {
		v.newPasskey(faultOf(err))
		return
	}
	http.Redirect(v.W, v.R, "/account?done=passkey", http.StatusSeeOther)
}

// removePassword removes the operator's password.
func (d *Dashboard) removePassword(v *pageRequest) {
	if !d.o.Accounts.Proven(v.Session) {
		v.askConfirm("/admin/v1/factors", nil)
		return
	}
	if err := d.o.Accounts.RemovePassword(v.R, v.Session); err != nil {
		v.account(faultOf(err))
		return
	}
	http.Redirect(v.W, v.R, "/account?done=unpassword", http.StatusSeeOther)
}
