package dashboard

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"latchkey/internal/query"
)

// Accounts manages the operators and their sessions. Package main implements it with its store, its
// throttling of logins and its audit log. An error that the operator may see is a *Fault. For any
// other error the dashboard answers 500.
type Accounts interface {
	// Any reports whether any operator exists.
	Any() (bool, error)
	// Login begins a session and returns its token. A Fault with status 401 means that the name or
	// the password is wrong. A Fault with status 429 means too many failed logins.
	Login(r *http.Request, c Credentials) (token string, err error)
	// Setup creates the first operator, begins a session and returns its token. A Fault with status
	// 403 means that the set-up link is not valid.
	Setup(r *http.Request, c Credentials) (token string, err error)
	// CheckSetup returns an error unless link is the token of a valid set-up link.
	CheckSetup(link string) error
	// Session returns the session with this token. It returns false if there is no such session.
	Session(token string) (Session, bool)
	// SessionMax returns the maximum duration of a session.
	SessionMax() time.Duration
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
	// sessions of the operator.
	ChangePassword(r *http.Request, s Session, old, password string) error
	// RecordCrossSite records that a request from another site was refused.
	RecordCrossSite(r *http.Request)
}

// Operator is a person who can log in to the dashboard.
type Operator struct {
	ID   uint64
	Name string
	Role string // such as "admin"
}

// Session is a login of an operator.
type Session struct {
	Operator
	Token    string    // secret value of the session cookie
	ProvenAt time.Time // when the operator last confirmed the password; zero: not since the login
}

// Credentials holds the values that the login form or the set-up form sends.
type Credentials struct {
	Name, Password string
	Link           string // token of the set-up link
	Old            string // token of the browser's previous session, which the login ends; "" if there is none
}

// endpoint passes a request on to the admin endpoint. If the request has a session cookie and no
// Authorization field, endpoint marks it as a request by the operator who has logged in.
func (d *Dashboard) endpoint(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" && (strings.HasPrefix(r.URL.Path, "/admin/") || r.URL.Path == "/metrics") {
		if s, ok := d.session(r); ok {
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

// cookieNames returns the names of the session cookie without and with TLS. The prefix __Host- makes
// browsers send the cookie only to this host and only over TLS. Browsers keep one cookie of a name
// for all ports of a host, so instance is a part of the name: otherwise a login at one of two
// services on a host would end the login at the other. If instance is "", the names are the same
// for all.
func cookieNames(instance string) (plain, secure string) {
	plain = "latchkey_session"
	if instance != "" {
		plain += "_" + instance
	}
	return plain, "__Host-" + plain
}

func (d *Dashboard) cookieName(r *http.Request) string {
	plain, secure := cookieNames(d.o.Instance)
	if d.secure(r) {
		return secure
	}
	return plain
}

// token returns the session token in the cookie of a request, or "" if there is none.
func (d *Dashboard) token(r *http.Request) string {
	cookie, err := r.Cookie(d.cookieName(r))
	if err != nil {
		return ""
	}
	return cookie.Value
}

func (d *Dashboard) setCookie(w http.ResponseWriter, r *http.Request, token string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: d.cookieName(r), Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: d.secure(r), MaxAge: age,
	})
}

// session returns the session of a request. It returns false if the request has no valid session
// token.
func (d *Dashboard) session(r *http.Request) (Session, bool) {
	token := d.token(r)
	if token == "" {
		return Session{}, false
	}
	return d.o.Accounts.Session(token)
}

// loggedIn returns a handler that shows a page to operators who have logged in and whose role allows
// it. It redirects to the login page if nobody has logged in.
func (d *Dashboard) loggedIn(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, ok := d.session(r)
		if !ok {
			next := ""
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				next = "?next=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(w, r, "/login"+next, http.StatusSeeOther)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		v := &pageRequest{W: w, R: d.o.Accounts.As(r, s), Session: s, dashboard: d}
		var err error
		if v.query, err = readQuery(r); err != nil {
			v.showFault(invalid("%s", err))
			return
		}
		if p.Needs != anyRole && !v.may(p.Needs) {
			fault := faultOf(d.o.Accounts.Refuse(r, s, p.Needs))
			v.show(fault.Status, "fault", view{Title: "Not allowed", Fault: fault.Message, Data: p.Needs})
			return
		}
		if _, ok := v.form(); ok {
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
		http.Error(w, "The store cannot be read.", http.StatusServiceUnavailable)
		return
	}
	q, err := readQuery(r)
	if err != nil {
		d.render(w, http.StatusBadRequest, "login", view{Title: "Log in", Fault: err.Error(), Data: known})
		return
	}
	d.render(w, http.StatusOK, "login", view{Title: "Log in", Data: known, Form: url.Values{"next": {q.Get("next")}}})
}

// login begins a session. If the login fails, it shows the form again with the reason.
func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	name := strings.TrimSpace(r.PostFormValue("name"))
	token, err := d.o.Accounts.Login(r, Credentials{Name: name, Password: r.PostFormValue("password"), Old: d.token(r)})
	if err == nil {
		d.setCookie(w, r, token, int(d.o.Accounts.SessionMax()/time.Second))
		http.Redirect(w, r, localPath(r.PostFormValue("next")), http.StatusSeeOther)
		return
	}
	status, text := http.StatusServiceUnavailable, "The store takes no writes just now. Try again shortly."
	switch fault := faultOf(err); fault.Status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", fmt.Sprint(int64((fault.RetryAfter+time.Second-1)/time.Second)))
		minutes := int64((fault.RetryAfter + time.Minute - 1) / time.Minute)
		status, text = fault.Status, fmt.Sprintf("Too many failed logins. Try again in %d minutes.", minutes)
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Cookie realm="latchkey", form-action="/login"`) // RFC 9110 section 15.5.2 requires a challenge
		status, text = fault.Status, "The name or the password is wrong."
	}
	known, _ := d.o.Accounts.Any()
	form := url.Values{"name": {name}, "next": {r.PostFormValue("next")}}
	d.render(w, status, "login", view{Title: "Log in", Fault: text, Data: known, Form: form})
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
		d.render(w, http.StatusBadRequest, "setup", view{Title: "Set up", Fault: err.Error(), Data: ""})
		return
	}
	link, status := q.Get("token"), http.StatusOK
	if err := d.o.Accounts.CheckSetup(link); err != nil {
		link, status = "", http.StatusForbidden
	}
	d.render(w, status, "setup", view{Title: "Set up", Data: link})
}

func (d *Dashboard) setup(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	c := Credentials{Name: r.PostFormValue("name"), Password: r.PostFormValue("password"), Link: r.PostFormValue("token"), Old: d.token(r)}
	token, err := d.o.Accounts.Setup(r, c)
	if err == nil {
		d.setCookie(w, r, token, int(d.o.Accounts.SessionMax()/time.Second))
		http.Redirect(w, r, "/keys", http.StatusSeeOther)
		return
	}
	fault := faultOf(err)
	page := view{Title: "Set up", Fault: fault.Message, Data: c.Link, Form: url.Values{"name": {c.Name}}}
	if fault.Status == http.StatusForbidden {
		page = view{Title: "Set up", Data: ""} // no form, because the link is not valid
	}
	d.render(w, fault.Status, "setup", page)
}

func (d *Dashboard) logout(v *pageRequest) { d.leave(v, d.o.Accounts.Logout(v.R, v.Session)) }

func (d *Dashboard) logoutEverywhere(v *pageRequest) {
	d.leave(v, d.o.Accounts.LogoutEverywhere(v.R, v.Session))
}

// leave ends a logout: it removes the cookie and redirects to the login page. If the logout failed
// with err, leave shows that error instead.
func (d *Dashboard) leave(v *pageRequest, err error) {
	if err != nil {
		v.showFault(faultOf(err))
		return
	}
	d.setCookie(v.W, v.R, "", -1)
	http.Redirect(v.W, v.R, "/login", http.StatusSeeOther)
}

func (d *Dashboard) showAccount(v *pageRequest) {
	v.show(http.StatusOK, "account", view{Title: "Account"})
}

func (d *Dashboard) changePassword(v *pageRequest) {
	err := d.o.Accounts.ChangePassword(v.R, v.Session, v.R.PostFormValue("old"), v.R.PostFormValue("password"))
	if err != nil {
		fault := faultOf(err)
		v.show(fault.Status, "account", view{Title: "Account", Fault: fault.Message})
		return
	}
	http.Redirect(v.W, v.R, "/account?done=password", http.StatusSeeOther)
}
