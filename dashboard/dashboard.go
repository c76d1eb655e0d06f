// Package dashboard serves the web pages of the operator. It is a client of the
// admin endpoint. A page reads and changes everything by requests to that
// endpoint, on behalf of the operator who has logged in. The interface Accounts
// is its only other connection to the program.
//
// Read dashboard.go first (the handler and the list of pages), then accounts.go
// (login and sessions), factors.go, passkeys.go and oidc.go (other ways to log in), request.go and notes.go
// (a request for a page), spaces.go (live records or sandboxes), faults.go and static.go (what is no page), records.go, forms.go and columns.go (the pages that most kinds of records share).
// The other files hold the pages: overview.go, requests.go, keylist.go and keybulk.go (the list of keys),
// keys.go with keyform.go, keypermissions.go, keysamples.go and charts.go (one key), calendar.go, contacts.go,
// import.go, webhooks.go, tokens.go, operators.go, backups.go, system.go, cluster.go and pages.go.
package dashboard

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"iter"
	"latchkey/internal/packed"
	"latchkey/internal/strictjson"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/template/parse"
	"time"
)

// Options holds what a Dashboard needs.
type Options struct {
	Admin    http.Handler // the admin endpoint for requests that Accounts.As has marked as an operator's
	Door     http.Handler // the admin endpoint for all other requests; it requires a token
	Accounts Accounts
	Now      func() time.Time // returns the time on the wall clock
	Log      *slog.Logger
	Listen   string        // address of the admin listener
	Hosts    []string      // further host names of the admin listener
	BaseURL  string        // URL at which browsers reach the admin listener; "" if it is not configured
	APIURL   func() string // returns the URL of the API
	// Changes returns a number that grows with each request to the API and each change by an operator,
	// and whether the service is not stopping.
	Changes func() (count uint64, serving bool)
	// KeyPrefix is the prefix of the secrets of keys, by which searches recognize them.
	KeyPrefix string
	Reference Reference
	API       http.Handler // serves the API listener
	Instance  string       // letters and digits that differ between services on one host; part of the cookie's name

	WithoutContract bool // the service does not serve the Klen AI API, so its pages are left out
	Node            bool // the server is a node of a cluster
	Demo            bool // each page says that the data are samples
}

// Dashboard serves the pages on the admin listener. It also lets operators who have logged in use
// the admin endpoint directly. It is safe for concurrent use.
type Dashboard struct {
	o         Options
	sets      []pageSet
	sections  []section
	templates func() (*template.Template, error) // parses them at the first use: many services never show a page
	needs     map[string]string                  // for each pattern of a page, see page.Needs
	static    map[string]staticFile
}

// New returns a Dashboard. It returns an error if a page does not say which endpoint it needs.
func New(o Options) (*Dashboard, error) {
	d := &Dashboard{o: o, sets: pageSets(o)}
	for _, set := range d.sets {
		d.sections = append(d.sections, set.sections()...)
	}
	last := slices.IndexFunc(d.sections, func(s section) bool { return s.Group == "Help" })
	d.sections = slices.Insert(d.sections, last, section{"System", "Account", "/account"})
	d.needs = map[string]string{}
	for pattern, p := range d.pages() {
		if p.Needs == "" {
			return nil, fmt.Errorf("the page %s does not say which endpoint it needs", pattern)
		}
		d.needs[pattern] = p.Needs
	}
	var err error
	if d.static, err = staticFiles(); err != nil {
		return nil, err
	}
	functions := template.FuncMap{
		"static":   func(name string) string { return d.static[name].address() },
		"ago":      func(at any) string { return ago(at, o.Now()) },
		"until":    func(at any) string { return until(at, o.Now()) },
		"free":     func(m limitBar) string { return m.nextFree(o.Now()) },
		"when":     when,
		"clock":    func(text string) string { return whenIn(text, showClock) },
		"plain":    plainName,
		"times":    times,
		"subtract": func(a, b int) int { return a - b },
		"carrier":  carrier,
		"options":  optionsOf, "suggestions": suggestionsOf, "blocks": blocksOf, "agenda": agendaOf,
	}
	d.templates = sync.OnceValues(func() (*template.Template, error) { return parsePages(functions) })
	return d, nil
}

// pageSets returns all sets of pages in the order of the navigation.
func pageSets(o Options) []pageSet {
	apiURL := o.APIURL
	events := Vocabulary().WebhookEvents
	if o.WithoutContract {
		events = slices.DeleteFunc(events, func(name string) bool {
			return strings.HasPrefix(name, "call.") || strings.HasPrefix(name, "calendar.")
		})
		return []pageSet{findPages{}, overviewPages{}, newKeyLists(apiURL), keyBulkPages{}, newKeyPages(apiURL), requestPages{}, newHookPages(events), ownerPages{}, operatorPages{}, tokenPages{}, auditPages{}, backupPages{}, statusPages{}, clusterPages{o.Node}, newReferencePages(o), docPages{}}
	}
	return []pageSet{
		findPages{}, overviewPages{}, newKeyLists(apiURL), keyBulkPages{}, newKeyPages(apiURL), requestPages{}, newHookPages(events), callPages(), agentPages(), newContactPages(), newEventPages(apiURL),
		schedulePages(), newVariablePages(), blockPages(), ownerPages{contract: true}, teamPages(), operatorPages{}, tokenPages{}, auditPages{}, backupPages{}, statusPages{}, clusterPages{o.Node}, newReferencePages(o), docPages{},
	}
}

// pages yields the pattern of each page that requires a login, and the page.
func (d *Dashboard) pages() iter.Seq2[string, page] {
	all := []map[string]page{{
		"POST /logout": {anyRole, d.logout}, "POST /logout-everywhere": {anyRole, d.logoutEverywhere}, "GET /account": {anyRole, d.showAccount},
		"POST /account":                   {anyRole, d.changePassword},
		"POST /account/preferences":       {anyRole, d.prefer},
		"POST /space":                     {anyRole, d.chooseSpace},
		"POST /account/sessions/{id}/end": {anyRole, d.endSession}, "POST /account/sessions/end": {anyRole, d.endOthers},
		"POST /account/app":          {anyRole, d.addApp},
		"POST /account/factors/{id}": {anyRole, d.renameFactor}, "POST /account/factors/{id}/remove": {anyRole, d.removeFactor},
		"POST /account/passkeys": {anyRole, d.addPasskey}, "POST /account/password/remove": {anyRole, d.removePassword},
		"POST /account/recovery-codes": {anyRole, d.makeCodes},
		"GET /confirm":                 {anyRole, d.showConfirm}, "POST /confirm": {anyRole, d.confirm},
		"POST /confirm/oidc": {anyRole, d.confirmBySignOn}, "POST /account/link": {anyRole, d.linkAccount},
	}}
	for _, set := range d.sets {
		all = append(all, set.pages())
	}
	return func(yield func(string, page) bool) {
		for _, pages := range all {
			for pattern, p := range pages {
				if !yield(pattern, p) {
					return
				}
			}
		}
	}
}

// Patterns returns the http.ServeMux patterns of the pages that require a login.
func (d *Dashboard) Patterns() (list []string) {
	for pattern := range d.pages() {
		list = append(list, pattern)
	}
	return list
}

// Needs returns for each of Patterns the endpoint that the page needs, such as "GET
// /admin/v1/keys/:id", or "any role".
func (d *Dashboard) Needs() map[string]string { return maps.Clone(d.needs) }

// Handler returns the handler of the admin listener. It serves the admin endpoint and the pages,
// and an originCheck protects both. It returns an error if Options.BaseURL is not a URL.
func (d *Dashboard) Handler() (http.Handler, error) {
	plain, secure := cookieNames(sessionCookie, d.o.Instance)
	origins, err := newOriginCheck(d.o.Listen, d.o.BaseURL, d.o.Hosts, []string{plain, secure})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for _, at := range []string{"/admin/", "/metrics", "/healthz", "/readyz", "/openapi.json", "/reference", "/reference/", "/errors", "/errors/"} {
		mux.HandleFunc(at, d.endpoint)
	}
	mux.HandleFunc("GET /reference/style.css", d.endpoint) // of the pages of errors, which need no login
	for name, file := range d.static {
		mux.Handle("GET /static/"+name, file)
	}
	handle := func(pattern string, serve http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Cookie")
			serve(w, r)
		})
	}
	handle("GET /login", d.showLogin)
	handle("POST /login", d.login)
	handle("GET /login/oidc", d.startSignOn)
	handle("GET /login/oidc/callback", d.finishSignOn)
	handle("GET /login/done", d.showSignedOn)
	handle("GET /setup", d.showSetup)
	handle("POST /setup", d.setup)
	handle("GET /join", d.showJoin)
	handle("POST /join", d.join)
	for pattern, p := range d.pages() {
		handle(pattern, d.loggedIn(p))
	}
	handle("GET /live", d.loggedIn(page{anyRole, d.live}))
	origins.refused = d.o.Accounts.RecordCrossSite
	return origins.protect(d.withFaults(mux)), nil
}

// pageSet is a group of related pages.
type pageSet interface {
	// sections returns the entries of these pages in the navigation, nil if there are none.
	sections() []section
	// pages returns the pages by their http.ServeMux patterns.
	pages() map[string]page
}

// page is a page that requires a login.
type page struct {
	// Needs is the endpoint that the operator's role must allow, such as "GET /admin/v1/keys/:id", or
	// anyRole. The page of a form needs the endpoint that the form is for. So nobody fills in a form
	// that is refused afterwards.
	Needs string
	Serve func(*pageRequest)
}

// anyRole as page.Needs means that every operator may use the page.
const anyRole = "any role"

// view is the data that a template is rendered with.
type view struct {
	Title    string
	Operator string // name of the operator who has logged in; "" on the login page
	Role     string // role of the operator in plain words; "" for an admin, who may do everything
	Theme    string // one of Themes; "" for that of the browser
	Nav      []navGroup
	Demo     bool       // the data are samples
	Sandbox  bool       // the page shows sandboxes and no live records
	Contract bool       // the service serves the Klen AI API
	Fault    string     // sentence about an error; "" if there was none
	Done     string     // sentence about a change that was made; "" if there was none
	Help     *docLink   // the document that helps with the page; nil if there is none
	Form     url.Values // values to fill the form with
	Data     any        // data that only this template uses

	Zone *time.Location // time zone of the times of the page; nil for UTC

	style timeStyle                  // how the page shows times; the zero value is that of Preferences{}
	may   func(endpoint string) bool // nil on pages without a login
}

// May reports whether the operator may use an endpoint, such as "POST /admin/v1/keys". A page leaves
// out what the operator may not use.
func (v view) May(endpoint string) bool { return v.may != nil && v.may(endpoint) }

// Section returns the path of the section of the navigation to which the page belongs.
func (v view) Section() string { return sectionOf(v.Nav) }

// Dates returns the name of the form of dates of the page; "" is ISO 8601.
func (v view) Dates() string { return v.style.form.Name }

// ZoneName returns the name of the time zone of the page.
func (v view) ZoneName() string {
	if v.Zone == nil {
		return "UTC"
	}
	return v.Zone.String()
}

// render executes the template name and sends the page. If the template fails, it answers 500 and
// logs the error.
func (d *Dashboard) render(w http.ResponseWriter, status int, name string, v view) {
	if v.Form == nil {
		v.Form = url.Values{}
	}
	v.Demo, v.Contract = d.o.Demo, !d.o.WithoutContract
	if v.style.zone == nil {
		v.style = styleOf(Preferences{})
	}
	page, err := d.execute(layoutOf(name), v, v.style)
	if err != nil {
		d.o.Log.Error("page not rendered", "page", name, "error", err)
		broken(w)
		return
	}
	sendHTML(w, status, page)
}

// execute returns the output of a template, with times in a style.
func (d *Dashboard) execute(name string, data any, style timeStyle) ([]byte, error) {
	templates, err := d.templates()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := templates.ExecuteTemplate(&buf, name, data); err != nil {
		return nil, err
	}
	return style.fill(buf.Bytes()), nil
}

func sendHTML(w http.ResponseWriter, status int, page []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(status)
	_, _ = w.Write(page)
}

// section is an entry of the navigation. Group is the heading that it is shown under.
type section struct{ Group, Name, Path string }

// navGroup is a heading of the navigation with its entries.
type navGroup struct {
	Name    string
	Entries []navEntry
}

// navEntry is a section as a page shows it. Here is true if the page belongs to the section.
type navEntry struct {
	Name, Path string
	Here       bool
}

// navigation returns the navigation for the requested page, without the sections that the operator
// may not see. The groups are in the order of their first sections.
func (v *pageRequest) navigation() (groups []navGroup) {
	path := v.R.URL.Path
	for _, s := range v.dashboard.sections {
		if !v.mayOpen(s.Path) || outsideSandboxes(s.Path) && v.inSandbox() {
			continue
		}
		i := slices.IndexFunc(groups, func(g navGroup) bool { return g.Name == s.Group })
		if i < 0 {
			i, groups = len(groups), append(groups, navGroup{Name: s.Group})
		}
		here := path == s.Path || strings.HasPrefix(path, s.Path+"/")
		groups[i].Entries = append(groups[i].Entries, navEntry{s.Name, s.Path, here})
	}
	return groups
}

// files has the templates in pages.json.gz, by the name of the file, and what pages load. A test makes them, see TestDocs_Packed.
//
//go:embed packed/*.gz
var files embed.FS

// parsePages returns the templates of all files. The page of a file that defines "content" is executed
// under the name of layoutOf. All pages share one set: a copy of the shared templates for each page would
// be most of an idle server's memory.
func parsePages(functions template.FuncMap) (*template.Template, error) {
	file, err := files.ReadFile("packed/pages.json.gz")
	if err != nil {
		return nil, err
	}
	data, err := packed.Unpack(file)
	if err != nil {
		return nil, err
	}
	var texts map[string]string
	if err := strictjson.Decode(data, &texts); err != nil {
		return nil, err
	}
	set, pages := template.New("").Funcs(functions), []string{}
	const content = `{{define "content"}}`
	for _, file := range slices.Sorted(maps.Keys(texts)) {
		text := texts[file]
		page, is := strings.TrimSuffix(file, ".html"), strings.Contains(text, content)
		if is {
			pages = append(pages, page)
		}
		if _, err := set.Parse(strings.Replace(text, content, fmt.Sprintf("{{define %q}}", contentOf(page)), 1)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, page := range pages {
		layout := set.Lookup("layout").Tree.Copy()
		for _, node := range layout.Root.Nodes {
			if use, is := node.(*parse.TemplateNode); is && use.Name == "content" {
				use.Name = contentOf(page)
			}
		}
		if _, err := set.AddParseTree(layoutOf(page), layout); err != nil {
			return nil, fmt.Errorf("page %s: %w", page, err)
		}
	}
	return set, nil
}

// contentOf and layoutOf return the names of the templates of a page: what the page itself has, and that
// within the layout.
func contentOf(page string) string { return "content of " + page }
func layoutOf(page string) string  { return "layout of " + page }

// originCheck refuses requests that another site makes a browser send to the admin listener. It is
// safe for concurrent use.
type originCheck struct {
	listen  string // address of the listener
	baseURL string
	names   []string // host names of the listener
	cookies []string // names of the session cookies
	cross   *http.CrossOriginProtection
	// refused is called with each request that is refused because another site may have caused it.
	// It may be nil.
	refused func(r *http.Request)
}

// newOriginCheck returns the check for the listener with the address listen. Browsers reach it at
// that address, at the host names hosts, and at baseURL unless baseURL is "". cookies are the names
// of the session cookies. It returns an error if baseURL is not a URL.
func newOriginCheck(listen, baseURL string, hosts, cookies []string) (*originCheck, error) {
	o := &originCheck{
		listen: listen, baseURL: baseURL, names: append([]string{"localhost", "control", "local"}, hosts...), cookies: cookies,
		cross: http.NewCrossOriginProtection(),
	}
	if baseURL == "" {
		return o, nil
	}
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	o.names = append(o.names, u.Hostname())
	// A proxy may replace the host name that the browser sent.
	if err := o.cross.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
		return nil, fmt.Errorf("admin.base_url: %w", err)
	}
	return o, nil
}

// protect returns a handler that passes allowed requests to next and sets the security header
// fields of every answer. It refuses unknown host names, which prevents DNS rebinding. It also
// refuses requests from other sites that could change something.
func (o *originCheck) protect(next http.Handler) http.Handler {
	deny := func(w http.ResponseWriter, r *http.Request, why string) {
		if o.refused != nil {
			o.refused(r)
		}
		http.Error(w, why, http.StatusForbidden)
	}
	o.cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deny(w, r, "This request came from another site, so it was refused. Behind a proxy, set base_url under [admin] in the configuration to the address in the browser.")
	}))
	protected := o.cross.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("Cache-Control", "no-store") // the static files set another value
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case !o.known(r.Host):
			text := "%q is not a known host name of this server. If a proxy with TLS is in front, set base_url under [admin] in the configuration to https:// and this name. Otherwise add the name to hosts there."
			http.Error(w, fmt.Sprintf(text, r.Host), http.StatusMisdirectedRequest)
		case o.unproven(r):
			deny(w, r, "This request does not show which site it came from, so it was refused. Programs must use a token.")
		default:
			protected.ServeHTTP(w, r)
		}
	})
}

func (o *originCheck) known(hostport string) bool {
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		// DNS rebinding needs a host name, so an address is safe. But a listener on loopback is
		// only reached at a loopback address, unless a proxy passes on another one.
		return ip.IsLoopback() || !isLoopbackListen(o.listen) || slices.Contains(o.names, ip.String())
	}
	return host != "" && slices.ContainsFunc(o.names, func(k string) bool { return strings.EqualFold(k, host) })
}

func isLoopbackListen(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// unproven reports whether a request could change something and does not show which site it came
// from. A browser shows that with Sec-Fetch-Site or Origin. http.CrossOriginProtection accepts
// requests without both fields, because programs send them. Here they are accepted only below
// /admin/, with a token or without a session cookie.
func (o *originCheck) unproven(r *http.Request) bool {
	safe := slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method)
	if safe || r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "" {
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
