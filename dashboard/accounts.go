package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/query"
)

// Accounts manages the operators and their sessions. Package main implements it with its store, its
// throttling of logins and its audit log. An error that the operator may see is a *Fault. For any
// other error the dashboard answers 500.
type Accounts interface {
	Passkeys
	// Any reports whether any operator exists.
	Any() (bool, error)
	// Login begins a session, or returns the next step that the login needs in Login.Step. A Fault with
	// status 401 means that the name, the password or the second factor is wrong. It comes with a Step
	// if only that step must be repeated. A Fault with status 429 means too many failed logins.
	Login(r *http.Request, c Credentials) (Login, error)
	// Setup creates the first operator and begins a session. A Fault with status 403 means that the
	// set-up link is not valid.
	Setup(r *http.Request, c Credentials) (Login, error)
	// CheckSetup returns an error unless link is the token of a valid set-up link.
	CheckSetup(link string) error
	// CheckInvitation returns the operator whom the invitation with this token is for, or an error if
	// the invitation is not valid.
	CheckInvitation(link string) (Operator, error)
	// Join sets the password of the invited operator and begins a session. A Fault
	// with status 403 means that the invitation is not valid.
	Join(r *http.Request, c Credentials) (Login, error)
	// Session returns the session with this token, which r has sent. It returns false if there is no
	// such session. The session then counts as in use, unless IsLive(r).
	Session(r *http.Request, token string) (Session, bool)
	// SessionMax returns the maximum duration of a session.
	SessionMax() time.Duration
	// DeviceMax returns how long a browser counts as known after a login.
	DeviceMax() time.Duration
	// NeedsProof reports whether an endpoint, such as "GET /admin/v1/backup", requires that the operator
	// of s confirms the password first.
	NeedsProof(s Session, endpoint string) bool
	// Proofs returns what the operator of s must send to Confirm.
	Proofs(s Session) (Proofs, error)
	// Confirm records in s that the operator has confirmed the password, and the second factor if there
	// is one. A Fault with status 400 means that one of them is wrong. A Fault with status 429 means too
	// many wrong ones.
	Confirm(r *http.Request, s Session, c Credentials) error
	// As returns a copy of r that the admin endpoint accepts as a request by the operator of s.
	As(r *http.Request, s Session) *http.Request
	// May reports whether the role of an operator allows an endpoint, such as "POST /admin/v1/keys".
	May(op Operator, endpoint string) bool
	// Refuse records in the audit log that a page was refused to the operator of s, whose role does
	// not allow the endpoint that the page needs. It returns a Fault with status 403 that says who may.
	Refuse(r *http.Request, s Session, endpoint string) error
	// Logout ends the session s.
	Logout(r *http.Request, s Session) error
	// LogoutEverywhere ends all sessions of the operator.
	LogoutEverywhere(r *http.Request, s Session) error
	// ChangePassword changes the operator's password from old to password and ends all other
	// sessions of the operator. Faults are as for Confirm.
	ChangePassword(r *http.Request, s Session, old, password string) error
	// Prefer stores what the operator of s has chosen for the pages.
	Prefer(r *http.Request, s Session, p Preferences) error
	// Ways returns how operators can log in.
	Ways() Ways
	// StartSignOn returns where a browser is sent to log in at the identity provider. A Fault with
	// status 503 means that the provider cannot be reached.
	StartSignOn(r *http.Request, s SignOn) (SignOnStart, error)
	// FinishSignOn handles the answer of the identity provider. The result has the purpose even if
	// there is an error.
	FinishSignOn(r *http.Request, answer SignOnAnswer) (SignOnEnd, error)
	// SignOnHome returns where a browser goes to log out at the identity provider too, or "". back is
	// the page of the dashboard to which the provider sends it back.
	SignOnHome(s Session, back string) string
	// RecordCrossSite records that a request from another site was refused.
	RecordCrossSite(r *http.Request)
}

// Operator is a person who can log in to the dashboard.
type Operator struct {
	ID   uint64
	Name string
	Role string // such as "admin"
	Preferences
}

// Preferences are what an operator has chosen for the pages. An empty field is the default.
type Preferences struct {
	Theme string `json:"theme,omitempty"`     // one of Themes
	Zone  string `json:"time_zone,omitempty"` // IANA name of the time zone of all times; "": UTC
	Dates string `json:"dates,omitempty"`     // the form of dates, one of DateForms

	Presets []OwnPreset `json:"presets,omitempty"` // of the form of a new key, at most maxOwnPresets
}

// OwnPreset is what an operator has saved of the form of a new key. Form has the fields, encoded as the query
// of an address.
type OwnPreset struct {
	Name string `json:"name"`
	Form string `json:"form"`
}

// Themes returns the themes of the pages. The default is that of the browser.
func Themes() []string { return []string{"light", "dark"} }

// Check returns an error that names a choice that does not exist.
func (p Preferences) Check() error {
	if p.Theme != "" && !slices.Contains(Themes(), p.Theme) {
		return invalid("Choose a theme of the list.")
	}
	if _, err := clock.Zone(p.Zone); p.Zone != "" && err != nil {
		return invalid("The time zone must be a name such as Europe/Berlin; got %q.", p.Zone)
	}
	if !slices.ContainsFunc(dateForms(), func(f dateForm) bool { return f.Name == p.Dates }) {
		return invalid("Choose a form of dates of the list.")
	}
	return nil
}

// Session is a login of an operator.
type Session struct {
	Operator
	Token    string    // secret value of the session cookie
	ProvenAt time.Time // when the operator last confirmed the password; zero: not since the login
	SignedOn bool      // began by single sign-on
}

// Login holds the secret values of the cookies that a login sets.
type Login struct {
	Token  string // of the session
	Device string // by which the browser counts as known; it stays when the session ends

	Step *LoginStep // what the login needs next; nil if the session has begun
}

// Credentials holds the values that the login form or the set-up form sends.
type Credentials struct {
	Name, Password string
	Second         bool   // the form is the one of the second step
	Ticket         string // LoginStep.Ticket of the second step, or Question.Ticket
	Code           string // of an authenticator app, or a recovery code
	Link           string // token of the set-up link or of the invitation
	Enroll         string // token of the link with which an operator may set up a second factor
	Old            string // token of the browser's previous session, which the login ends; "" if there is none
	Device         string // Login.Device of the browser's last login; "" if there is none
	Passkey        string // answer of an authenticator, as JSON; "" if there is none
}

// IsLive reports whether a script of a page sent r to bring the page up to date. Such a request is no
// sign that somebody looks at the page, so it does not make a session last longer.
func IsLive(r *http.Request) bool {
	return r.Header.Get("Latchkey-Live") != "" || r.URL.Path == "/live"
}

// endpoint passes a request on to the admin endpoint. If the request has a session cookie and no
// Authorization field, endpoint marks it as a request by the operator who has logged in. A browser that
// follows a link to an endpoint that requires a confirmed password gets the form for it.
func (d *Dashboard) endpoint(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" && (strings.HasPrefix(r.URL.Path, "/admin/") || r.URL.Path == "/metrics") {
		if s, ok := d.session(r); ok {
			if r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Dest") == "document" && d.o.Accounts.NeedsProof(s, "GET "+r.URL.Path) {
				http.Redirect(w, r, "/confirm?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
				return
			}
			d.o.Admin.ServeHTTP(w, d.o.Accounts.As(r, s))
			return
		}
	}
	d.o.Door.ServeHTTP(w, r)
}

// secure reports whether browsers reach the listener over TLS.
func (d *Dashboard) secure(r *http.Request) bool {
	return r.TLS != nil || strings.HasPrefix(d.o.BaseURL, "https://")
}

// These are the cookies.
const (
	sessionCookie = "latchkey_session" // the token of the session
	deviceCookie  = "latchkey_device"  // Login.Device
	signOnCookie  = "latchkey_signon"  // SignOnStart.Ticket
	stepCookie    = "latchkey_step"    // LoginStep.Ticket
	passkeyCookie = "latchkey_passkey" // Question.Ticket of a login with a passkey
)

// stepMax is how long a browser keeps the cookie of a login's second step.
const stepMax = 10 * time.Minute

// passkeyMax is how long a browser keeps the cookie of a login with a passkey.
const passkeyMax = 10 * time.Minute

// cookieNames returns the names of a cookie without and with TLS. The prefix __Host- makes
// browsers send the cookie only to this host and only over TLS. Browsers keep one cookie of a name
// for all ports of a host, so instance is a part of the name: otherwise a login at one of two
// services on a host would end the login at the other. If instance is "", the names are the same
// for all.
func cookieNames(cookie, instance string) (plain, secure string) {
	plain = cookie
	if instance != "" {
		plain += "_" + instance
	}
	return plain, "__Host-" + plain
}

func (d *Dashboard) cookieName(r *http.Request, cookie string) string {
	plain, secure := cookieNames(cookie, d.o.Instance)
	if d.secure(r) {
		return secure
	}
	return plain
}

// cookie returns the value of a cookie of a request, or "" if there is none.
func (d *Dashboard) cookie(r *http.Request, cookie string) string {
	found, err := r.Cookie(d.cookieName(r, cookie))
	if err != nil {
		return ""
	}
	return found.Value
}

// setCookie sets a cookie for the duration age. If age is negative, it removes the cookie.
func (d *Dashboard) setCookie(w http.ResponseWriter, r *http.Request, cookie http.Cookie, age time.Duration) {
	cookie.Name = d.cookieName(r, cookie.Name)
	cookie.Path, cookie.HttpOnly, cookie.SameSite, cookie.Secure, cookie.MaxAge = "/", true, http.SameSiteLaxMode, d.secure(r), int(age/time.Second)
	http.SetCookie(w, &cookie)
}

// setLogin sets the cookies of a new login.
func (d *Dashboard) setLogin(w http.ResponseWriter, r *http.Request, made Login) {
	for _, name := range []string{stepCookie, passkeyCookie} {
		if d.cookie(r, name) != "" {
			d.setCookie(w, r, http.Cookie{Name: name}, -time.Second)
		}
	}
	d.setCookie(w, r, http.Cookie{Name: sessionCookie, Value: made.Token}, d.o.Accounts.SessionMax())
	d.setCookie(w, r, http.Cookie{Name: deviceCookie, Value: made.Device}, d.o.Accounts.DeviceMax())
}

// session returns the session of a request. It returns false if the request has no valid session
// token.
func (d *Dashboard) session(r *http.Request) (Session, bool) {
	token := d.cookie(r, sessionCookie)
	if token == "" {
		return Session{}, false
	}
	return d.o.Accounts.Session(r, token)
}

// loggedIn returns a handler that shows a page to operators who have logged in and whose role allows
// it. All others have to log in first, see logInFirst.
func (d *Dashboard) loggedIn(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		s, ok := d.session(r)
		if !ok {
			if _, secret := secretIn(r.URL.RawQuery, d.o.KeyPrefix); secret && r.Method == http.MethodGet {
				r.URL.RawQuery = "" // the address of the login would repeat it
			}
			if s, ok = d.logInFirst(w, r); !ok {
				return
			}
		}
		v := &pageRequest{W: noteWriter{w, d.noteCookie()}, R: d.o.Accounts.As(r, s), Session: s, dashboard: d}
		var err error
		if v.query, err = readQuery(r); err != nil {
			v.showFault(invalid("%s", err))
			return
		}
		if v.clearAddress() {
			return
		}
		if p.Needs != anyRole && !v.may(p.Needs) {
			fault := faultOf(d.o.Accounts.Refuse(r, s, p.Needs))
			v.show(fault.Status, "fault", view{Title: faultTitle(fault.Status), Fault: fault.Message})
			return
		}
		if _, ok := v.form(); ok && v.confirmed() {
			p.Serve(v)
		}
	}
}

// readQuery returns the parameters in the address of a page, without empty ones. It returns an error
// if the query cannot be read or if a parameter appears more than once. The addresses of forms, which
// end in "/new", may repeat a parameter: there it is a field with several values.
func readQuery(r *http.Request) (url.Values, error) {
	q, err := query.Parse(r.URL.RawQuery)
	if err != nil || strings.HasSuffix(r.URL.Path, "/new") {
		return q, err
	}
	return query.Once(q, slices.Sorted(maps.Keys(q))...)
}

func (d *Dashboard) showLogin(w http.ResponseWriter, r *http.Request) {
	known, err := d.o.Accounts.Any()
	if err != nil {
		d.render(w, http.StatusServiceUnavailable, "fault", view{Title: faultTitle(http.StatusServiceUnavailable), Fault: "The store cannot be read. Try again in a moment; if it lasts, the server's log has the reason."})
		return
	}
	page := loginPage{Known: known, To: "/login", NameField: "name", PasswordField: "password"}
	q, err := readQuery(r)
	if err != nil {
		d.renderLogin(w, r, http.StatusBadRequest, err.Error(), page)
		return
	}
	page.Fields = []carriedField{{"next", q.Get("next")}}
	if enroll := q.Get("enroll"); enroll != "" {
		page.Fields = append(page.Fields, carriedField{"enroll", enroll})
	}
	d.renderLogin(w, r, http.StatusOK, "", page)
}

// loginPage is the data of the login form.
type loginPage struct {
	Known                    bool   // an operator exists
	To                       string // where the form is sent to
	NameField, PasswordField string // names of the two fields
	Ways
	Name       string // value of the field for the name
	Passkey    passkeyForm
	OtherHosts []string // host names of the stored passkeys, if none works here
	carried
}

// login begins a session. If the login fails, it shows the form again with the reason.
func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	next := r.PostFormValue("next")
	page := loginPage{To: "/login", NameField: "name", PasswordField: "password", carried: carried{Fields: []carriedField{{"next", next}}}}
	if enroll := r.PostFormValue("enroll"); enroll != "" {
		page.Fields = append(page.Fields, carriedField{"enroll", enroll})
	}
	if made, ok := d.tryLogin(w, r, page); ok {
		d.setLogin(w, r, made)
		http.Redirect(w, r, localPath(next), http.StatusSeeOther)
	}
}

// tryLogin logs in with what the form of r has: the name and the password, or the second factor. If the
// login fails or needs another step, it shows page again or asks for that step, and ok is false.
func (d *Dashboard) tryLogin(w http.ResponseWriter, r *http.Request, page loginPage) (made Login, ok bool) {
	page.Name = strings.TrimSpace(r.PostFormValue(page.NameField))
	c := Credentials{
		Name: page.Name, Password: r.PostFormValue(page.PasswordField), Old: d.cookie(r, sessionCookie), Device: d.cookie(r, deviceCookie),
		Second: r.PostForm.Has(loginCode), Code: r.PostFormValue(loginCode), Ticket: d.cookie(r, stepCookie), Enroll: r.PostFormValue("enroll"),
		Passkey: r.PostFormValue(loginPasskey),
	}
	logIn := d.o.Accounts.Login
	if c.Passkey != "" && !c.Second {
		c.Ticket, logIn = d.cookie(r, passkeyCookie), d.o.Accounts.LoginWithPasskey
	}
	made, err := logIn(r, c)
	return made, d.loginGoesOn(w, r, page, made, err)
}

// loginGoesOn reports whether a session has begun. Otherwise it asks for the next step of the login, or
// shows page again with the reason why the login failed.
func (d *Dashboard) loginGoesOn(w http.ResponseWriter, r *http.Request, page loginPage, made Login, err error) bool {
	if err == nil && made.Step == nil {
		return true
	}
	status, text := http.StatusOK, ""
	if err != nil {
		status, text = http.StatusServiceUnavailable, "The store takes no writes just now. Try again shortly."
		switch fault := faultOf(err); fault.Status {
		case http.StatusTooManyRequests:
			status, text = fault.Status, tooMany(w, "failed logins", fault)
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest:
			status, text = fault.Status, fault.Message
		}
	}
	if made.Step != nil {
		d.showSecond(w, r, page, made.Step, text)
		return false
	}
	if status == http.StatusUnauthorized {
		challenge(w)
	}
	page.Known, _ = d.o.Accounts.Any()
	d.renderLogin(w, r, status, text, page)
	return false
}

// challenge sets the field that an answer with the status 401 must have (RFC 9110, section 15.5.2).
func challenge(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Cookie realm="latchkey", form-action="/login"`)
}

// tooMany sets Retry-After and returns a sentence for a fault with the status 429. what there were too
// many of, such as "failed logins", is a part of the sentence.
func tooMany(w http.ResponseWriter, what string, fault *Fault) string {
	w.Header().Set("Retry-After", fmt.Sprint(int64((fault.RetryAfter+time.Second-1)/time.Second)))
	return fmt.Sprintf("Too many %s. Try again in %d minutes.", what, int64((fault.RetryAfter+time.Minute-1)/time.Minute))
}

// localPath returns path if it is a path on this server, and otherwise the path of the list of
// keys. So a link to the login page cannot redirect the operator to another site.
func localPath(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n") {
		return "/keys"
	}
	return path
}

func (d *Dashboard) showSetup(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r)
	if err != nil {
		d.renderSetup(w, http.StatusBadRequest, "", view{Fault: err.Error()})
		return
	}
	link, status := q.Get("token"), http.StatusOK
	if err := d.o.Accounts.CheckSetup(link); err != nil {
		link, status = "", http.StatusForbidden
	}
	d.renderSetup(w, status, link, view{})
}

// setupPage is the data of the page on which the first operator is created. Link is "" if the set-up
// link is not valid.
type setupPage struct {
	Link    string
	Passkey passkeyForm
}

// renderSetup sends the page of the set-up link with this token.
func (d *Dashboard) renderSetup(w http.ResponseWriter, status int, link string, v view) {
	page := setupPage{Link: link}
	if link != "" {
		page.Passkey = d.firstPasskey(link, "")
	}
	v.Title, v.Fault, v.Data = "Set up", cmp.Or(v.Fault, d.noPasswords()), page
	d.render(w, status, "setup", v)
}

// afterLink is the login page of an operator who has just set a password by a link.
var afterLink = loginPage{To: "/login", NameField: "name", PasswordField: "password", Known: true, carried: carried{Fields: []carriedField{{"next", "/keys"}}}}

func (d *Dashboard) setup(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	c := Credentials{Name: r.PostFormValue("name"), Password: r.PostFormValue("password"), Link: r.PostFormValue("token"), Old: d.cookie(r, sessionCookie), Device: d.cookie(r, deviceCookie)}
	c.Ticket, c.Passkey = r.PostFormValue("passkey.ticket"), r.PostFormValue("passkey")
	made, err := d.o.Accounts.Setup(r, c)
	if err == nil && made.Step != nil {
		d.showSecond(w, r, afterLink, made.Step, "")
		return
	}
	if err == nil {
		d.setLogin(w, r, made)
		http.Redirect(w, r, "/keys", http.StatusSeeOther)
		return
	}
	fault := faultOf(err)
	if fault.Status == http.StatusForbidden {
		d.renderSetup(w, fault.Status, "", view{}) // no form, because the link is not valid
		return
	}
	d.renderSetup(w, fault.Status, c.Link, view{Fault: fault.Message, Form: url.Values{"name": {c.Name}}})
}

func (d *Dashboard) logout(v *pageRequest) {
	d.leave(v, d.o.Accounts.Logout(v.R, v.Session), sessionCookie)
}

func (d *Dashboard) logoutEverywhere(v *pageRequest) {
	d.leave(v, d.o.Accounts.LogoutEverywhere(v.R, v.Session), sessionCookie, deviceCookie)
}

// leave ends a logout: it removes cookies and redirects to the login page. If the logout failed
// with err, leave shows that error instead.
func (d *Dashboard) leave(v *pageRequest, err error, cookies ...string) {
	if err != nil {
		v.showFault(faultOf(err))
		return
	}
	for _, name := range cookies {
		d.setCookie(v.W, v.R, http.Cookie{Name: name}, -time.Second)
	}
	if address := d.o.Accounts.SignOnHome(v.Session, "/login"); address != "" {
		d.depart(v.W, departPage{address, "You are logged out here. Next, you are logged out at the identity provider."})
		return
	}
	http.Redirect(v.W, v.R, "/login", http.StatusSeeOther)
}

func (d *Dashboard) showAccount(v *pageRequest) { v.account(nil) }

// accountPage is the data of the page of the operator's account.
type accountPage struct {
	Sessions any
	Factors  factorList
	Proofs
	Ways
	Passkeys passkeyList
	Inputs   []input // of the form for Preferences
}

// preferenceFields returns the fields of the form for Preferences.
func preferenceFields() []formField {
	themes := func(*pageRequest) []choice {
		return []choice{{Value: "light", Label: "Light"}, {Value: "dark", Label: "Dark"}}
	}
	dates := func(*pageRequest) (list []choice) {
		for _, f := range dateForms()[1:] {
			list = append(list, choice{Value: f.Name, Label: f.Label})
		}
		return list
	}
	return []formField{
		{Name: "theme", Label: "Theme", Kind: fieldSelect, Blank: "as the browser", Choices: themes},
		{Name: "time_zone", Label: "Time zone of all times", Kind: fieldText, Hint: "such as Europe/Berlin; empty: UTC", Choices: timeZones},
		{Name: "dates", Label: "Dates", Kind: fieldSelect, Blank: dateForms()[0].Label, Choices: dates},
	}
}

// prefer stores the operator's Preferences.
func (d *Dashboard) prefer(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	p := v.Operator.Preferences
	p.Theme, p.Zone, p.Dates = form.Get("theme"), strings.TrimSpace(form.Get("time_zone")), form.Get("dates")
	err := p.Check()
	if err == nil {
		err = d.o.Accounts.Prefer(v.R, v.Session, p)
	}
	if err != nil {
		v.account(faultOf(err))
		return
	}
	http.Redirect(v.W, v.R, "/account?done=saved", http.StatusSeeOther)
}

// account shows the page of the operator's account, with a fault unless it is nil.
func (v *pageRequest) account(fault *Fault) {
	status, page := http.StatusOK, view{Title: "Account"}
	answer, e := v.call(http.MethodGet, "/admin/v1/sessions?limit=1000", nil)
	if fault == nil {
		fault = e
	}
	factors, e := v.factors()
	if fault == nil {
		fault = e
	}
	proofs, err := v.dashboard.o.Accounts.Proofs(v.Session)
	if fault == nil && err != nil {
		fault = faultOf(err)
	}
	page.Data = accountPage{answer["sessions"], factors, proofs, v.dashboard.o.Accounts.Ways(), v.passkeys(factors.Rows), v.preferenceInputs(fault)}
	if fault != nil {
		status, page.Fault = fault.Status, fault.Message
		if status == http.StatusTooManyRequests {
			page.Fault = tooMany(v.W, "wrong passwords", fault)
		}
	}
	v.show(status, "account", page)
}

func (d *Dashboard) changePassword(v *pageRequest) {
	if !d.o.Accounts.HasPassword(v.Session) && !d.o.Accounts.Proven(v.Session) {
		v.askConfirm("/admin/v1/factors", nil)
		return
	}
	if !v.R.PostForm.Has("password") { // a form that asks does not carry it
		v.account(nil)
		return
	}
	err := d.o.Accounts.ChangePassword(v.R, v.Session, v.R.PostFormValue("old"), v.R.PostFormValue("password"))
	if err != nil {
		v.account(faultOf(err))
		return
	}
	http.Redirect(v.W, v.R, "/account?done=password", http.StatusSeeOther)
}

// preferenceInputs returns the form for Preferences, with what was typed if the form was refused.
func (v *pageRequest) preferenceInputs(fault *Fault) []input {
	p := v.Operator.Preferences
	if v.R.PostForm.Has("dates") {
		p = Preferences{Theme: v.R.PostForm.Get("theme"), Zone: v.R.PostForm.Get("time_zone"), Dates: v.R.PostForm.Get("dates")}
	}
	values := map[string]string{"theme": p.Theme, "time_zone": p.Zone, "dates": p.Dates}
	return v.inputs(preferenceFields(), fillBy(func(f formField) string { return values[f.Name] }), fault)
}

// endSession ends one session of the operator.
func (d *Dashboard) endSession(v *pageRequest) {
	_, e := v.call(http.MethodDelete, "/admin/v1/sessions/"+url.PathEscape(v.R.PathValue("id")), nil)
	v.accountAfter(e, "ended")
}

// endOthers ends all sessions of the operator except this one.
func (d *Dashboard) endOthers(v *pageRequest) {
	_, e := v.call(http.MethodPost, "/admin/v1/sessions/end", map[string]any{"keep": "this"})
	v.accountAfter(e, "others")
}

// accountAfter shows the page of the account after a change. If the change failed, e is the reason, and
// otherwise done selects the sentence that the page shows.
func (v *pageRequest) accountAfter(e *Fault, done string) {
	if e != nil {
		v.account(e)
		return
	}
	http.Redirect(v.W, v.R, "/account?done="+done, http.StatusSeeOther)
}
