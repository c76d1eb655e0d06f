package dashboard

import (
	"net/http"
	"net/url"
	"time"
)

// What a browser is sent to the identity provider for.
const (
	SignOnLogin   = "login"
	SignOnLink    = "link"    // to link the operator's account to the login at the provider
	SignOnConfirm = "confirm" // to confirm an action
)

// Ways says how operators can log in.
type Ways struct {
	Password bool   // with a password
	SignOn   string // text of the button for single sign-on; "" if there is none
}

// SignOn is the beginning of a login at the identity provider.
type SignOn struct {
	Purpose string  // such as SignOnLogin
	Next    string  // where the browser goes on afterwards, a path of the dashboard
	Session Session // in which it begins; the zero Session for SignOnLogin
}

// SignOnStart says where a browser is sent.
type SignOnStart struct {
	URL    string // at the identity provider
	Ticket string // secret value of the cookie that the browser keeps meanwhile
}

// SignOnAnswer is what a browser brings back from the identity provider.
type SignOnAnswer struct {
	Query   url.Values
	Ticket  string  // SignOnStart.Ticket; "" if there is none
	Session Session // of the browser; the zero Session if there is none
	Old     string  // as in Credentials
	Device  string  // as in Credentials
}

// SignOnEnd is the end of a login at the identity provider.
type SignOnEnd struct {
	Purpose, Next string // of the SignOn
	Login         Login  // for SignOnLogin
}

// signOnSpan is how long the cookie for single sign-on is kept.
const signOnSpan = 10 * time.Minute

// renderLogin shows the login page with a fault, unless that is "".
func (d *Dashboard) renderLogin(w http.ResponseWriter, r *http.Request, status int, fault string, page loginPage) {
	page.Ways = d.o.Accounts.Ways()
	page.Passkey, page.OtherHosts = d.loginPasskeys(w, r)
	d.render(w, status, "login", view{Title: "Log in", Fault: fault, Data: page})
}

// signOnFault shows the login page with the reason why a single sign-on did not succeed.
func (d *Dashboard) signOnFault(w http.ResponseWriter, r *http.Request, fault *Fault) {
	page := loginPage{To: "/login", NameField: "name", PasswordField: "password", carried: carried{Fields: []carriedField{{"next", "/keys"}}}}
	page.Known, _ = d.o.Accounts.Any()
	text := fault.Message
	if fault.Status == http.StatusTooManyRequests {
		text = tooMany(w, "failed logins", fault)
	}
	d.renderLogin(w, r, fault.Status, text, page)
}

// nextOf returns the path to which a browser goes after a single sign-on. It is kept in a cookie, so it
// must be short.
func nextOf(next string) string {
	if next = localPath(next); len(next) > 1000 {
		return "/keys"
	}
	return next
}

// noPasswords returns a sentence for a page that asks for a new password, or "" if passwords are
// accepted.
func (d *Dashboard) noPasswords() string {
	if d.o.Accounts.Ways().Password {
		return ""
	}
	return "This service accepts no passwords, because admin.password_login is false."
}

// startSignOn sends the browser to the identity provider. It is a link, not a form: browsers apply the
// rule form-action of the page to the redirects that follow a form.
func (d *Dashboard) startSignOn(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r)
	if err != nil {
		d.signOnFault(w, r, invalid("%s", err))
		return
	}
	start, err := d.o.Accounts.StartSignOn(r, SignOn{Purpose: SignOnLogin, Next: nextOf(q.Get("next"))})
	if err != nil {
		d.signOnFault(w, r, faultOf(err))
		return
	}
	d.setCookie(w, r, http.Cookie{Name: signOnCookie, Value: start.Ticket}, signOnSpan)
	http.Redirect(w, r, start.URL, http.StatusSeeOther)
}

// finishSignOn handles the answer with which the identity provider sends the browser back.
func (d *Dashboard) finishSignOn(w http.ResponseWriter, r *http.Request) {
	ticket := d.cookie(r, signOnCookie)
	d.setCookie(w, r, http.Cookie{Name: signOnCookie}, -time.Second)
	q, err := readQuery(r)
	if err != nil {
		d.signOnFault(w, r, invalid("%s", err))
		return
	}
	s, loggedIn := d.session(r)
	end, err := d.o.Accounts.FinishSignOn(r, SignOnAnswer{Query: q, Ticket: ticket, Session: s, Old: d.cookie(r, sessionCookie), Device: d.cookie(r, deviceCookie)})
	switch {
	case err != nil && (end.Purpose == SignOnLogin || !loggedIn):
		d.signOnFault(w, r, faultOf(err))
	case err != nil:
		v := &pageRequest{W: w, R: d.o.Accounts.As(r, s), Session: s, dashboard: d}
		v.showFault(faultOf(err))
	case end.Purpose == SignOnLink:
		http.Redirect(w, r, "/account?done=linked", http.StatusSeeOther)
	case end.Purpose == SignOnConfirm:
		http.Redirect(w, r, localPath(end.Next), http.StatusSeeOther)
	default:
		d.setLogin(w, r, end.Login)
		http.Redirect(w, r, localPath(end.Next), http.StatusSeeOther)
	}
}

// showSignedOn is where a login or a confirmation ends that was opened in a second tab, so that a form
// in the first one is not lost.
func (d *Dashboard) showSignedOn(w http.ResponseWriter, r *http.Request) {
	d.render(w, http.StatusOK, "signedon", view{Title: "Done"})
}

// departPage is the data of the page that leads to the identity provider.
type departPage struct {
	URL  string
	What string // a sentence
}

// depart shows a page that leads to the identity provider at once. It answers forms, whose redirects
// browsers do not follow to other hosts, see startSignOn.
func (d *Dashboard) depart(w http.ResponseWriter, page departPage) {
	w.Header().Set("Refresh", "0; url="+page.URL)
	d.render(w, http.StatusOK, "depart", view{Title: "Identity provider", Data: page})
}

// departWith begins a login at the identity provider in the session of v.
func (v *pageRequest) departWith(s SignOn) {
	s.Session = v.Session
	start, err := v.dashboard.o.Accounts.StartSignOn(v.R, s)
	if err != nil {
		v.showFault(faultOf(err))
		return
	}
	v.dashboard.setCookie(v.W, v.R, http.Cookie{Name: signOnCookie, Value: start.Ticket}, signOnSpan)
	v.dashboard.depart(v.W, departPage{start.URL, "Log in at the identity provider to go on."})
}

// linkAccount links the operator's account to a login at the identity provider. It requires what a new
// second factor requires.
func (d *Dashboard) linkAccount(v *pageRequest) {
	if d.o.Accounts.NeedsProof(v.Session, "POST /admin/v1/factors") {
		v.askConfirm("/admin/v1/factors", nil)
		return
	}
	v.departWith(SignOn{Purpose: SignOnLink, Next: "/account"})
}

// confirmBySignOn confirms who the operator is by a login at the identity provider.
func (d *Dashboard) confirmBySignOn(v *pageRequest) {
	v.departWith(SignOn{Purpose: SignOnConfirm, Next: nextOf(v.R.PostFormValue("next"))})
}
