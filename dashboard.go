package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"latchkey/internal/clock"
)

// DashboardOptions are what a Dashboard is made of.
type DashboardOptions struct {
	Admin     http.Handler // the admin endpoint, for who has logged in
	Door      http.Handler // the admin endpoint, which asks for a token
	Operators *Operators
	Sessions  *Sessions
	Clock     *clock.Clock
	Log       *slog.Logger
	Listen    string   // of the admin door
	Hosts     []string // further names by which browsers reach it
	BaseURL   string   // by which they do, "" where none is set
	Proxies   []netip.Prefix
	Pages     []PageSet
	Refused   func(by Deed, why *Error) // told of what was refused
}

// Dashboard serves the pages of the admin door, and lets its logins use the
// admin endpoint. Everything on the pages is read and changed by way of that
// endpoint. It is safe for concurrent use.
type Dashboard struct {
	o         DashboardOptions
	pages     map[string]*template.Template
	sections  []Section
	addresses *Throttle // failed logins by address
	accounts  *Throttle // and by account
}

// The failed logins that an address and an account may have in a quarter of an
// hour.
const (
	loginSpan       = 15 * time.Minute
	loginsByAddress = 10
	loginsByAccount = 30
)

// NewDashboard makes the pages ready.
func NewDashboard(o DashboardOptions) (*Dashboard, error) {
	d := &Dashboard{
		o: o, addresses: NewThrottle(loginsByAddress, loginSpan), accounts: NewThrottle(loginsByAccount, loginSpan),
	}
	for _, set := range o.Pages {
		d.sections = append(d.sections, set.Sections()...)
	}
	d.sections = append(d.sections, Section{"System", "Account", "/account"})
	var err error
	d.pages, err = ParsePages(template.FuncMap{"ago": func(at any) string { return Ago(at, o.Clock.Now()) }, "until": func(at any) string { return Until(at, o.Clock.Now()) }, "when": When, "carrier": Carrier})
	return d, err
}

// Handler serves the admin door: the admin endpoint under its paths, the pages
// under all others, and both behind Origins.Guard.
func (d *Dashboard) Handler() (http.Handler, error) {
	static, err1 := DashboardFiles()
	origins, err2 := NewOrigins(d.o.Listen, d.o.BaseURL, d.o.Hosts, []string{plainCookie, secureCookie})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for _, at := range []string{"/admin/", "/metrics", "/healthz", "/readyz", "/openapi.json", "/reference", "/reference/", "/errors", "/errors/"} {
		mux.HandleFunc(at, d.endpoint)
	}
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		mux.HandleFunc("GET /static/"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, static, name)
		})
	}
	mux.HandleFunc("GET /login", d.showLogin)
	mux.HandleFunc("POST /login", d.login)
	mux.HandleFunc("GET /setup", d.showSetup)
	mux.HandleFunc("POST /setup", d.setup)
	for pattern, page := range d.own() {
		mux.HandleFunc(pattern, d.loggedIn(page))
	}
	for _, set := range d.o.Pages {
		for pattern, page := range set.Pages() {
			mux.HandleFunc(pattern, d.loggedIn(page))
		}
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusSeeOther) })
	origins.Refused = func(r *http.Request) {
		d.o.Refused(d.deed(r, Operator{}, "request from another site"), ErrPermission)
	}
	return origins.Guard(mux), nil
}

// Visit is a request of somebody who has logged in.
type Visit struct {
	W         http.ResponseWriter
	R         *http.Request
	Operator  Operator
	token     string
	dashboard *Dashboard
}

// PageSet is a part of the dashboard: an entry of the navigation for each of
// its sections, and its pages by their patterns, as http.ServeMux has them.
type PageSet interface {
	Sections() []Section
	Pages() map[string]func(*Visit)
}

// own lists the pages of the account.
func (d *Dashboard) own() map[string]func(*Visit) {
	return map[string]func(*Visit){
		"POST /logout": d.logout, "POST /logout-everywhere": d.logoutEverywhere, "GET /account": d.showAccount, "POST /account": d.changePassword,
	}
}

// endpoint hands a request to the admin endpoint: as the operator's where it
// comes with a login and no token.
func (d *Dashboard) endpoint(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" && (strings.HasPrefix(r.URL.Path, "/admin/") || r.URL.Path == "/metrics") {
		if op, _, ok := d.whose(r); ok {
			d.o.Admin.ServeHTTP(w, ByActor(r, op.Actor(), ClientAddr(r, d.o.Proxies)))
			return
		}
	}
	d.o.Door.ServeHTTP(w, r)
}

// deed says who does what on a page; the zero Operator is nobody yet.
func (d *Dashboard) deed(r *http.Request, op Operator, action string) Deed {
	now := d.o.Clock.Now()
	by := Deed{Actor: "nobody", Client: ClientAddr(r, d.o.Proxies), Action: action, Now: now, Latest: d.o.Clock.Latest(now)}
	if op.ID != 0 {
		by.Actor, by.Object = op.Actor(), fmt.Sprintf("operator %d", op.ID)
	}
	return by
}

// secure says whether browsers reach the door by TLS.
func (d *Dashboard) secure(r *http.Request) bool {
	return r.TLS != nil || strings.HasPrefix(d.o.BaseURL, "https://")
}

// The names of the cookie with a session's token. The prefix __Host- has
// browsers keep it to this host and to TLS.
const (
	plainCookie  = "latchkey_session"
	secureCookie = "__Host-latchkey_session"
)

func (d *Dashboard) cookieName(r *http.Request) string {
	if d.secure(r) {
		return secureCookie
	}
	return plainCookie
}

func (d *Dashboard) setCookie(w http.ResponseWriter, r *http.Request, token string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: d.cookieName(r), Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: d.secure(r), MaxAge: age,
	})
}

// whose gives the operator whose login a request has.
func (d *Dashboard) whose(r *http.Request) (op Operator, token string, ok bool) {
	cookie, err := r.Cookie(d.cookieName(r))
	if err != nil {
		return op, "", false
	}
	id, err := d.o.Sessions.Find(cookie.Value, d.o.Clock.Latest(d.o.Clock.Now()))
	if err != nil {
		return op, "", false
	}
	op, err = d.o.Operators.Find(id)
	return op, cookie.Value, err == nil
}

// loggedIn lets those through who have logged in, and sends the others there.
func (d *Dashboard) loggedIn(page func(*Visit)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		op, token, ok := d.whose(r)
		if !ok {
			next := ""
			if r.Method == http.MethodGet {
				next = "?next=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(w, r, "/login"+next, http.StatusSeeOther)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		page(&Visit{w, ByActor(r, op.Actor(), ClientAddr(r, d.o.Proxies)), op, token, d})
	}
}

// Now is the wall clock.
func (v *Visit) Now() time.Time { return v.dashboard.o.Clock.Now() }

// View is what a page is made of.
type View struct {
	Title    string
	Operator string // who has logged in, "" for nobody
	Nav      []NavGroup
	Fault    string // what went wrong
	Done     string // what was done
	Form     url.Values
	Data     any
}

// render sends a page.
func (d *Dashboard) render(w http.ResponseWriter, status int, name string, v View) {
	if v.Form == nil {
		v.Form = url.Values{}
	}
	var buf bytes.Buffer
	if err := d.pages[name].ExecuteTemplate(&buf, "layout", v); err != nil {
		d.o.Log.Error("render page", "page", name, "error", err)
		http.Error(w, "This page cannot be shown. The log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes())
}

// Show sends a page, made of the template of a name.
func (v *Visit) Show(status int, name string, page View) {
	d := v.dashboard
	page.Operator = v.Operator.Name
	page.Nav = Navigation(d.sections, v.R.URL.Path)
	if page.Done == "" {
		page.Done = done(v.R.URL.Query().Get("done"))
	}
	d.render(v.W, status, name, page)
}

// done gives the sentence for a word in an address, so that no address can put
// a sentence of its own on a page.
func done(word string) string {
	return map[string]string{
		"saved": "Saved.", "made": "Created.", "deleted": "Deleted.", "imported": "Imported: every row is stored.",
		"cancelled": "Cancelled. Webhooks that hear of it are told.", "queued": "Queued: it is sent again, with the same delivery id.",
		"delivered": "The sample was delivered.", "failed": "The sample was not delivered: the first line of the attempts says why.",
		"paused": "Paused: nothing is sent to it until it is resumed.", "resumed": "Resumed.", "finish": "The earlier secrets are ended. Only the present one holds.", "pause": "Paused: requests get 401 from now on.", "resume": "Resumed.", "revoke": "Revoked: requests get 401 from now on.",
		"password": "The password is changed. All other sessions are ended.",
	}[word]
}

// Fault shows an error.
func (v *Visit) Fault(e *Error) {
	v.Show(e.Status, "fault", View{Title: "That did not work", Fault: e.Message})
}

// Form reads the form that was sent; where that fails it says so, and the
// visit is over.
func (v *Visit) Form() (form url.Values, ok bool) {
	if err := v.R.ParseForm(); err != nil {
		v.Fault(ErrValidation.With("The form cannot be read; it may be larger than a megabyte."))
		return nil, false
	}
	return v.R.PostForm, true
}

// Call asks the admin endpoint in the operator's name.
func (v *Visit) Call(method, path string, body any) (map[string]any, *Error) {
	return v.CallOnce("", method, path, body)
}

// CallOnce is Call for a request that must not be made twice: its name goes
// with it as the Idempotency-Key.
func (v *Visit) CallOnce(name, method, path string, body any) (map[string]any, *Error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, ErrServer
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if name != "" {
		header.Set("Idempotency-Key", name)
	}
	return v.send(method, path, header, data)
}

// Send is Call with a body as it is.
func (v *Visit) Send(method, path, kind string, data []byte) (map[string]any, *Error) {
	return v.send(method, path, http.Header{"Content-Type": {kind}}, data)
}

func (v *Visit) send(method, path string, header http.Header, data []byte) (map[string]any, *Error) {
	r := httptest.NewRequestWithContext(v.R.Context(), method, path, bytes.NewReader(data))
	r.RemoteAddr, r.Header = v.R.RemoteAddr, header
	w := httptest.NewRecorder()
	v.dashboard.o.Admin.ServeHTTP(w, r)
	answer := map[string]any{}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		return nil, ErrServer
	}
	if w.Code >= 300 {
		code, _ := answer["error"].(string)
		message, _ := answer["message"].(string)
		return nil, &Error{Status: w.Code, Code: code, Message: message, Fields: answer}
	}
	return answer, nil
}

func (d *Dashboard) showLogin(w http.ResponseWriter, r *http.Request) {
	any, err := d.o.Operators.Any()
	if err != nil {
		http.Error(w, "The store cannot be read.", http.StatusServiceUnavailable)
		return
	}
	d.render(w, http.StatusOK, "login", View{Title: "Log in", Data: any, Form: url.Values{"next": {r.URL.Query().Get("next")}}})
}

// login checks a name and a password. Who guesses is slowed down, by address
// and by account, before any hashing.
func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	now := d.o.Clock.Service(d.o.Clock.Now())
	from, name := ClientAddr(r, d.o.Proxies), strings.TrimSpace(r.PostFormValue("name"))
	account := strings.ToLower(name[:min(len(name), 128)]) // there is no longer one, and this is kept
	refuse := func(status int, text string) {
		any, _ := d.o.Operators.Any()
		d.render(w, status, "login", View{Title: "Log in", Fault: text, Data: any, Form: url.Values{"name": {name}, "next": {r.PostFormValue("next")}}})
	}
	undoAddress, wait1 := d.addresses.Try(NetworkOf(from), now)
	undoAccount, wait2 := d.accounts.Try(account, now)
	undo := func() {
		undoAddress()
		undoAccount()
	}
	if wait := max(wait1, wait2); wait > 0 {
		undo() // the one that had room
		w.Header().Set("Retry-After", fmt.Sprint(int64((wait+time.Second-1)/time.Second)))
		d.o.Refused(d.deed(r, Operator{}, "log in"), ErrRateLimit)
		refuse(http.StatusTooManyRequests, fmt.Sprintf("Too many failed logins. Try again in %d minutes.", int64((wait+time.Minute-1)/time.Minute)))
		return
	}
	op, err := d.o.Operators.Authenticate(name, r.PostFormValue("password"))
	if errors.Is(err, ErrLogin) {
		d.o.Log.Warn("login failed", "client", from)
		d.o.Refused(d.deed(r, Operator{}, "log in"), ErrLogin)
		refuse(http.StatusUnauthorized, "The name or the password is wrong.")
		return
	}
	undo()
	if err == nil {
		err = d.begin(w, r, op)
	}
	if err != nil {
		refuse(http.StatusServiceUnavailable, "The store takes no writes just now. Try again shortly.")
		return
	}
	http.Redirect(w, r, localPath(r.PostFormValue("next")), http.StatusSeeOther)
}

// localPath gives a path of this server, so that no address can send somebody
// elsewhere after the login.
func localPath(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n") {
		return "/keys"
	}
	return path
}

// begin starts a session with a new token; the one from before, if any, ends.
func (d *Dashboard) begin(w http.ResponseWriter, r *http.Request, op Operator) error {
	if cookie, err := r.Cookie(d.cookieName(r)); err == nil {
		if err := d.o.Sessions.End(d.deed(r, op, "log in anew"), cookie.Value); err != nil {
			return err
		}
	}
	token, err := d.o.Sessions.Begin(d.deed(r, op, "log in"), op.ID)
	if err != nil {
		return err
	}
	d.setCookie(w, r, token, int(d.o.Sessions.Longest()/time.Second))
	return nil
}

func (d *Dashboard) showSetup(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("token")
	status := http.StatusOK
	if err := d.o.Operators.SetupHolds(token, d.o.Clock.Latest(d.o.Clock.Now())); err != nil {
		token, status = "", http.StatusForbidden
	}
	d.render(w, status, "setup", View{Title: "Set up", Data: token})
}

func (d *Dashboard) setup(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	name, token := r.PostFormValue("name"), r.PostFormValue("token")
	if token == "" {
		token = "none"
	}
	op, err := d.o.Operators.Create(d.deed(r, Operator{}, "set up"), name, r.PostFormValue("password"), token)
	if errors.Is(err, ErrSetup) {
		d.o.Refused(d.deed(r, Operator{}, "set up"), ErrSetup)
		d.render(w, http.StatusForbidden, "setup", View{Title: "Set up", Data: ""})
		return
	}
	if err == nil {
		err = d.begin(w, r, op)
	}
	if err != nil {
		e := Public(err)
		d.render(w, e.Status, "setup", View{Title: "Set up", Fault: e.Message, Data: token, Form: url.Values{"name": {name}}})
		return
	}
	http.Redirect(w, r, "/keys", http.StatusSeeOther)
}

func (d *Dashboard) logout(v *Visit) {
	if err := d.o.Sessions.End(d.deed(v.R, v.Operator, "log out"), v.token); err != nil {
		v.Fault(Public(err))
		return
	}
	d.setCookie(v.W, v.R, "", -1)
	http.Redirect(v.W, v.R, "/login", http.StatusSeeOther)
}

func (d *Dashboard) logoutEverywhere(v *Visit) {
	if err := d.o.Sessions.EndAll(d.deed(v.R, v.Operator, "log out everywhere"), v.Operator.ID); err != nil {
		v.Fault(Public(err))
		return
	}
	d.setCookie(v.W, v.R, "", -1)
	http.Redirect(v.W, v.R, "/login", http.StatusSeeOther)
}

func (d *Dashboard) showAccount(v *Visit) { v.Show(http.StatusOK, "account", View{Title: "Account"}) }

func (d *Dashboard) changePassword(v *Visit) {
	_, err := d.o.Operators.Authenticate(v.Operator.Name, v.R.PostFormValue("old"))
	if errors.Is(err, ErrLogin) {
		d.o.Refused(d.deed(v.R, v.Operator, "change password"), ErrLogin)
		err = ErrValidation.With("The present password is wrong.")
	}
	if err == nil {
		err = d.o.Operators.SetPassword(d.deed(v.R, v.Operator, "change password"), v.Operator.ID, v.R.PostFormValue("password"), SessionHash(v.token))
	}
	if err != nil {
		v.Show(Public(err).Status, "account", View{Title: "Account", Fault: Public(err).Message})
		return
	}
	http.Redirect(v.W, v.R, "/account?done=password", http.StatusSeeOther)
}

// Section is an entry of the navigation, in a group of entries. Groups stand in
// the order in which they are first named.
type Section struct{ Group, Name, Path string }

// NavGroup is a group of entries as a page shows it.
type NavGroup struct {
	Name    string
	Entries []NavEntry
}

// NavEntry is a section as a page shows it; Here on the section's own pages.
type NavEntry struct {
	Name, Path string
	Here       bool
}

// Navigation groups the sections for a page at a path.
func Navigation(sections []Section, at string) (groups []NavGroup) {
	for _, s := range sections {
		i := slices.IndexFunc(groups, func(g NavGroup) bool { return g.Name == s.Group })
		if i < 0 {
			i, groups = len(groups), append(groups, NavGroup{Name: s.Group})
		}
		here := at == s.Path || strings.HasPrefix(at, s.Path+"/")
		groups[i].Entries = append(groups[i].Entries, NavEntry{s.Name, s.Path, here})
	}
	return groups
}

//go:embed dashboard
var dashboardFiles embed.FS

// DashboardFiles are the files of the dashboard: templates, style, script.
func DashboardFiles() (fs.FS, error) { return fs.Sub(dashboardFiles, "dashboard") }

// ParsePages makes a page of each template file that has a content, by the
// file's name; the others are parts that every page may use.
func ParsePages(functions template.FuncMap) (map[string]*template.Template, error) {
	files, err := fs.Glob(dashboardFiles, "dashboard/*.html")
	if err != nil {
		return nil, err
	}
	parts, pages := template.New("layout").Funcs(functions), map[string]string{}
	for _, file := range files {
		text, err := fs.ReadFile(dashboardFiles, file)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(text), `{{define "content"}}`) {
			pages[strings.TrimSuffix(path.Base(file), ".html")] = string(text)
		} else if _, err := parts.Parse(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	made := map[string]*template.Template{}
	for name, text := range pages {
		page, err := parts.Clone()
		if err == nil {
			page, err = page.Parse(text)
		}
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		made[name] = page
	}
	return made, nil
}

// Origins says under which names browsers reach a door, and refuses what other
// sites have them send there. It is safe for concurrent use.
type Origins struct {
	listen  string // of the door
	baseURL string
	names   []string
	cookies []string
	cross   *http.CrossOriginProtection
	// Refused, unless it is nil, is told of requests that another site made. It
	// is set before Guard.
	Refused func(r *http.Request)
}

// NewOrigins knows a door by the address it listens on, by further host names,
// and by the URL under which browsers reach it, "" where none is set. cookies
// names those that say who somebody is.
func NewOrigins(listen, baseURL string, hosts, cookies []string) (*Origins, error) {
	o := &Origins{listen: listen, baseURL: baseURL, names: append([]string{"localhost", "control", "local"}, hosts...), cookies: cookies, cross: http.NewCrossOriginProtection()}
	if baseURL == "" {
		return o, nil
	}
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	o.names = append(o.names, u.Hostname())
	// A proxy may ask under another host name than the browser does.
	if err := o.cross.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	return o, nil
}

// Guard sets the header fields that every answer of the door has, and refuses
// requests under a foreign host name, against DNS rebinding, and such as another
// site made that would change something.
func (o *Origins) Guard(next http.Handler) http.Handler {
	deny := func(w http.ResponseWriter, r *http.Request, why string) {
		if o.Refused != nil {
			o.Refused(r)
		}
		http.Error(w, why, http.StatusForbidden)
	}
	o.cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deny(w, r, "This request came from another site, so it was refused.")
	}))
	protected := o.cross.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case !o.known(r.Host):
			http.Error(w, fmt.Sprintf("This server does not know itself as %q. Add the name to hosts under [admin] in the configuration.", r.Host), http.StatusMisdirectedRequest)
		case o.unproven(r):
			deny(w, r, "A browser says where a form was sent from, and this request does not. Use a token for programs.")
		default:
			protected.ServeHTTP(w, r)
		}
	})
}

func (o *Origins) known(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if ip, err := netip.ParseAddr(host); err == nil {
		// An address is no name that somebody else's DNS could point here.
		return ip.IsLoopback() || !isLoopbackListen(o.listen)
	}
	return host != "" && slices.ContainsFunc(o.names, func(k string) bool { return strings.EqualFold(k, host) })
}

func isLoopbackListen(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// unproven says whether a request that would change something, for a login or
// on a page, lacks both fields by which a browser says what site made it.
// CrossOriginProtection lets such pass, for programs; those have tokens here.
func (o *Origins) unproven(r *http.Request) bool {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method) || r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "" {
		return false
	}
	if !strings.HasPrefix(r.URL.Path, "/admin/") {
		return true
	}
	return r.Header.Get("Authorization") == "" && slices.ContainsFunc(o.cookies, func(name string) bool {
		_, err := r.Cookie(name)
		return err == nil
	})
}
