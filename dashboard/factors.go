package dashboard

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/boombuler/barcode/qr"
)

// LoginStep is a further step that a login needs before the session begins.
type LoginStep struct {
	Ticket string // secret value of the cookie that continues the login
	// Secret and URL are of the authenticator app that the operator must set up. They are "" if the
	// operator has a second factor already.
	Secret, URL string

	Passkey Question // for the operator's passkeys; without options if there is none that works here
}

// Proofs says what an operator must send to confirm an action.
type Proofs struct {
	Password bool     // the operator has a password, and passwords are accepted
	Code     bool     // a code of an app, or a recovery code, besides the password
	Passkey  Question // for a passkey in place of both; without options if there is none that works here
	SignOn   bool     // the operator can confirm by a login at the identity provider
}

// secondPage is the data of the page that asks for the second factor.
type secondPage struct {
	To  string    // where the form is sent to
	App *appOffer // the app that the operator must set up; nil if there is a factor already
	Ask passkeyForm
	carried
}

// appOffer is an authenticator app that can be added.
type appOffer struct {
	Secret string
	QR     template.HTML
}

// newAppOffer returns an offer with a drawn QR code of the otpauth URL address.
func newAppOffer(secret, address string) (*appOffer, error) {
	drawn, err := drawQR(address)
	return &appOffer{spaced(secret), drawn}, err
}

// spaced returns text in groups of four characters, which are easier to type.
func spaced(text string) string {
	var groups []string
	for len(text) > 4 {
		groups, text = append(groups, text[:4]), text[4:]
	}
	return strings.Join(append(groups, text), " ")
}

// drawQR returns a QR code as an SVG element. A margin of four modules belongs to the code (ISO/IEC
// 18004, section 9.1), and it is black on white in dark pages too, because many cameras read no other.
func drawQR(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M, qr.Auto)
	if err != nil {
		return "", err
	}
	size := code.Bounds().Dx()
	var path strings.Builder
	for y := range size {
		for x := range size {
			if light, _, _, _ := code.At(x, y).RGBA(); light == 0 {
				_, _ = fmt.Fprintf(&path, "M%d %dh1v1h-1z", x+4, y+4)
			}
		}
	}
	side := size + 8
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR code for the app" shape-rendering="crispEdges">`+
		`<rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="%s"/></svg>`, side, side, side, side, path.String())), nil
}

// showSecond asks for the second factor. The form carries the fields of page and is sent to the same
// place.
func (d *Dashboard) showSecond(w http.ResponseWriter, r *http.Request, page loginPage, step *LoginStep, fault string) {
	second, title := secondPage{To: page.To, carried: page.carried}, "Second factor"
	second.Ask = d.passkeyForm(step.Passkey, passkeyForm{Kind: "get", Label: "Use a passkey", Field: loginPasskey})
	if step.Secret != "" {
		title = "Set up a second factor"
		var err error
		if second.App, err = newAppOffer(step.Secret, step.URL); err != nil {
			d.o.Log.Error("QR code not drawn", "error", err)
			broken(w)
			return
		}
	}
	d.setCookie(w, r, http.Cookie{Name: stepCookie, Value: step.Ticket}, stepMax)
	challenge(w)
	d.render(w, http.StatusUnauthorized, "second", view{Title: title, Fault: fault, Data: second})
}

// factorRow is a second factor as the page of the account shows it.
type factorRow struct {
	ID, Name, Kind string
	Created, Used  any
	BackedUp       bool   // a passkey that is copied to other devices of the operator
	Elsewhere      string // host name of a passkey that does not work here; "" for all others
}

// factorKinds are the names of the kinds of factors as the pages show them.
var factorKinds = map[string]string{"totp": "authenticator app", "passkey": "passkey"}

// factorList is the part of the page of the account about second factors.
type factorList struct {
	Rows     []factorRow
	Codes    int  // recovery codes that were not used
	Required bool // a login with a password needs a second factor
}

// Passkeys returns how many passkeys work here.
func (l factorList) Passkeys() (count int) {
	for _, row := range l.Rows {
		if row.Kind == factorKinds["passkey"] && row.Elsewhere == "" {
			count++
		}
	}
	return count
}

// Suffices reports whether the operator can do without a password, as the admin endpoint decides it: with two passkeys that work here, or
// with one and recovery codes.
func (l factorList) Suffices() bool { return l.Passkeys() >= 2 || l.Passkeys() == 1 && l.Codes > 0 }

// factors returns the operator's second factors.
func (v *pageRequest) factors() (list factorList, fault *Fault) {
	answer, fault := v.call(http.MethodGet, "/admin/v1/factors", nil)
	if fault != nil {
		return list, fault
	}
	address, _ := v.dashboard.o.Accounts.PasskeyURL()
	here, _ := url.Parse(address) // the configuration has been checked
	rows, _ := answer["factors"].([]any)
	for _, item := range rows {
		f, _ := item.(map[string]any)
		kind := textOf(f["kind"])
		row := factorRow{ID: textOf(f["id"]), Name: textOf(f["name"]), Kind: cmp.Or(factorKinds[kind], kind), Created: f["created_at"], Used: f["last_used_at"], BackedUp: f["backed_up"] == true}
		if host, ok := f["host"].(string); ok && !strings.EqualFold(host, here.Hostname()) {
			row.Elsewhere = host
		}
		list.Rows = append(list.Rows, row)
	}
	list.Codes, list.Required = int(numberOf(answer["recovery_codes"])), answer["required"] == true
	return list, nil
}

// newAppPage is the data of the page on which an operator adds an app. Secret and URL are sent with the
// form, so that the page can be shown again after a wrong code.
type newAppPage struct {
	App                 *appOffer
	Ticket, Secret, URL string
}

// addApp offers a new authenticator app, or stores it if the form has a code that the app shows.
func (d *Dashboard) addApp(v *pageRequest) {
	form := v.R.PostForm
	if !form.Has("ticket") {
		offer, fault := v.call(http.MethodPost, "/admin/v1/factors/totp", nil)
		if fault != nil {
			v.showFault(fault)
			return
		}
		v.newApp(http.StatusOK, view{}, newAppPage{Ticket: textOf(offer["ticket"]), Secret: textOf(offer["secret"]), URL: textOf(offer["url"])})
		return
	}
	_, fault := v.call(http.MethodPost, "/admin/v1/factors", map[string]any{"ticket": form.Get("ticket"), "code": form.Get("code"), "name": form.Get("name")})
	if fault != nil {
		v.newApp(fault.Status, view{Fault: fault.Message, Form: form}, newAppPage{Ticket: form.Get("ticket"), Secret: form.Get("secret"), URL: form.Get("url")})
		return
	}
	http.Redirect(v.W, v.R, "/account?done=factor", http.StatusSeeOther)
}

// newApp sends the page with an offered app.
func (v *pageRequest) newApp(status int, page view, offer newAppPage) {
	var err error
	if offer.App, err = newAppOffer(offer.Secret, offer.URL); err != nil {
		v.showFault(invalid("The QR code cannot be drawn. Open the page again."))
		return
	}
	page.Title, page.Data = "Add an authenticator app", offer
	v.show(status, "newapp", page)
}

func (d *Dashboard) renameFactor(v *pageRequest) {
	_, fault := v.call(http.MethodPatch, "/admin/v1/factors/"+url.PathEscape(v.R.PathValue("id")), map[string]any{"name": v.R.PostForm.Get("name")})
	v.accountAfter(fault, "saved")
}

func (d *Dashboard) removeFactor(v *pageRequest) {
	_, fault := v.call(http.MethodDelete, "/admin/v1/factors/"+url.PathEscape(v.R.PathValue("id")), nil)
	v.accountAfter(fault, "unfactor")
}

// makeCodes replaces the recovery codes and shows the new ones.
func (d *Dashboard) makeCodes(v *pageRequest) {
	answer, fault := v.call(http.MethodPost, "/admin/v1/recovery-codes", nil)
	if fault != nil {
		v.accountAfter(fault, "")
		return
	}
	v.show(http.StatusCreated, "codes", view{Title: "Recovery codes", Data: answer["recovery_codes"]})
}
