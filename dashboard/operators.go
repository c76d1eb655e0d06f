package dashboard

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"latchkey/internal/clock"
)

// operatorPages are the pages of the operators.
type operatorPages struct{}

func (operatorPages) sections() []section {
	return []section{{"System", "Operators", "/operators"}}
}

func (operatorPages) pages() map[string]page {
	const list, invite, change, remove = "GET /admin/v1/operators", "POST /admin/v1/operators/invite", "PATCH /admin/v1/operators/:id", "DELETE /admin/v1/operators/:id"
	return map[string]page{
		"GET /operators": {list, showOperators}, "POST /operators": {invite, inviteOperator},
		"GET /operators/{id}": {list, showOperator}, "GET /operators/{id}/delete": {remove, askDeleteOperator}, "POST /operators/{id}/delete": {remove, deleteOperator},
		"POST /operators/{id}/role": {change, changeRole}, "POST /operators/{id}/disable": {change, setDisabled(true)}, "POST /operators/{id}/enable": {change, setDisabled(false)},
		"POST /operators/{id}/reset-factors": {change, resetFactors},
	}
}

// operatorRow is an operator as the pages show it.
type operatorRow struct {
	ID, Name, Role, Status string
	LastLogin, Created     string // times as text; LastLogin is "never" if there was none
	InvitedUntil           string // when the open invitation expires, or "" if there is none
	Factors                int    // second factors
	You                    bool   // whether this is who looks at the page
	Roles                  []string
}

// Label returns the role as text.
func (o operatorRow) Label() string { return roleLabel(o.Role) }

// RoleLabel returns another role as text.
func (o operatorRow) RoleLabel(role string) string { return roleLabel(role) }

// roleLabel returns the name of a role as the pages show it.
func roleLabel(role string) string { return strings.ReplaceAll(role, "_", " ") }

// operatorList is the data of the page with all operators.
type operatorList struct {
	Rows  []operatorRow
	Roles []roleChoice
}

// roleChoice is a role in the form of an invitation.
type roleChoice struct {
	Name, Label, About string
	Chosen             bool
}

func roleChoices(chosen string) (list []roleChoice) {
	about := map[string]string{
		"viewer": "sees everything except secrets and changes nothing", "key_manager": "manages keys and owners", "admin": "may do everything",
	}
	for _, role := range Vocabulary().Roles {
		list = append(list, roleChoice{role, roleLabel(role), about[role], role == chosen})
	}
	return list
}

// operators returns all operators.
func (v *pageRequest) operators() (rows []operatorRow, fault *Fault) {
	answer, fault := v.call(http.MethodGet, "/admin/v1/operators", nil)
	list, _ := answer["operators"].([]any)
	for _, item := range list {
		op, _ := item.(map[string]any)
		row := operatorRow{
			ID: textOf(op["id"]), Name: textOf(op["name"]), Role: textOf(op["role"]), Status: textOf(op["status"]), Created: when(textOf(op["created_at"])),
			LastLogin: ago(op["last_login_at"], v.now()), You: uint64(numberOf(op["id"])) == v.Session.ID, Factors: int(numberOf(op["second_factors"])), Roles: Vocabulary().Roles,
		}
		if ends, err := clock.ParseTime(textOf(op["invitation_expires_at"])); err == nil && ends.After(v.now()) {
			row.InvitedUntil = until(op["invitation_expires_at"], v.now())
		}
		rows = append(rows, row)
	}
	return rows, fault
}

// operator returns the operator whose id is in the path of the page.
func (v *pageRequest) operator() (operatorRow, *Fault) {
	rows, fault := v.operators()
	if fault != nil {
		return operatorRow{}, fault
	}
	for _, row := range rows {
		if row.ID == v.R.PathValue("id") {
			return row, nil
		}
	}
	return operatorRow{}, &Fault{Status: http.StatusNotFound, Message: "There is no such operator."}
}

func showOperators(v *pageRequest) { v.showOperators(http.StatusOK, view{}) }

// showOperators sends the list of operators. The fault and the form in page are shown with it.
func (v *pageRequest) showOperators(status int, page view) {
	rows, fault := v.operators()
	if fault != nil {
		v.showFault(fault)
		return
	}
	page.Title, page.Data = "Operators", operatorList{rows, roleChoices(page.Form.Get("role"))}
	v.show(status, "operators", page)
}

// inviteOperator creates an invitation and shows its link.
func inviteOperator(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	link, fault := v.call(http.MethodPost, "/admin/v1/operators/invite", map[string]any{"name": form.Get("name"), "role": form.Get("role")})
	if fault != nil {
		v.showOperators(fault.Status, view{Fault: fault.Message, Form: form})
		return
	}
	if link["url"] == nil { // the address of the dashboard is not known, so the browser's is used
		scheme := "http://"
		if v.dashboard.secure(v.R) {
			scheme = "https://"
		}
		link["url"] = scheme + v.R.Host + textOf(link["path"])
	}
	link["role"] = roleLabel(textOf(link["role"]))
	v.show(http.StatusCreated, "invited", view{Title: "Invitation", Data: link})
}

func showOperator(v *pageRequest) {
	row, fault := v.operator()
	if fault != nil {
		v.showFault(fault)
		return
	}
	v.show(http.StatusOK, "operator", view{Title: row.Name, Data: row})
}

func askDeleteOperator(v *pageRequest) {
	row, fault := v.operator()
	if fault != nil {
		v.showFault(fault)
		return
	}
	v.show(http.StatusOK, "removeoperator", view{Title: "Remove " + row.Name, Data: row})
}

func deleteOperator(v *pageRequest) {
	if _, fault := v.call(http.MethodDelete, operatorPath(v), nil); fault != nil {
		v.showFault(fault)
		return
	}
	http.Redirect(v.W, v.R, "/operators?done=deleted", http.StatusSeeOther)
}

func changeRole(v *pageRequest) {
	if form, ok := v.form(); ok {
		v.changeOperator(map[string]any{"role": form.Get("role")})
	}
}

func setDisabled(disabled bool) func(*pageRequest) {
	return func(v *pageRequest) { v.changeOperator(map[string]any{"disabled": disabled}) }
}

func resetFactors(v *pageRequest) { v.changeOperator(map[string]any{"reset_factors": true}) }

// changeOperator changes the operator whose id is in the path of the page.
func (v *pageRequest) changeOperator(change map[string]any) {
	if _, fault := v.call(http.MethodPatch, operatorPath(v), change); fault != nil {
		v.showFault(fault)
		return
	}
	http.Redirect(v.W, v.R, "/operators/"+url.PathEscape(v.R.PathValue("id"))+"?done=saved", http.StatusSeeOther)
}

// operatorPath returns the path at the admin endpoint of the operator whose id is in the path of the page.
func operatorPath(v *pageRequest) string {
	return "/admin/v1/operators/" + url.PathEscape(v.R.PathValue("id"))
}

// invitation is the data of the page on which an invited operator sets a password. Link is "" if the
// invitation is not valid.
type invitation struct {
	Link, Name, Role string
	Passkey          passkeyForm
}

func (d *Dashboard) showJoin(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r)
	if err != nil {
		d.render(w, http.StatusBadRequest, "join", view{Title: "Invitation", Fault: err.Error(), Data: invitation{}})
		return
	}
	d.renderJoin(w, http.StatusOK, q.Get("token"), "")
}

// renderJoin sends the page of the invitation with this token, with fault unless that is "". If the
// invitation is not valid, the page has no form and the status is 403.
func (d *Dashboard) renderJoin(w http.ResponseWriter, status int, link, fault string) {
	invited, err := d.o.Accounts.CheckInvitation(link)
	if err != nil {
		d.render(w, faultOf(err).Status, "join", view{Title: "Invitation", Data: invitation{}})
		return
	}
	d.render(w, status, "join", view{Title: "Invitation", Fault: cmp.Or(fault, d.noPasswords()), Data: invitation{link, invited.Name, roleLabel(invited.Role), d.firstPasskey(link, invited.Name)}})
}

func (d *Dashboard) join(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	c := Credentials{Password: r.PostFormValue("password"), Link: r.PostFormValue("token"), Old: d.cookie(r, sessionCookie), Device: d.cookie(r, deviceCookie)}
	c.Ticket, c.Passkey = r.PostFormValue("passkey.ticket"), r.PostFormValue("passkey")
	made, err := d.o.Accounts.Join(r, c)
	if err != nil {
		fault := faultOf(err)
		d.renderJoin(w, fault.Status, c.Link, fault.Message)
		return
	}
	if made.Step != nil {
		d.showSecond(w, r, afterLink, made.Step, "")
		return
	}
	d.setLogin(w, r, made)
	http.Redirect(w, r, "/keys", http.StatusSeeOther)
}
