package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// tokenPages are the pages of the admin tokens.
type tokenPages struct{}

func (tokenPages) sections() []section { return []section{{"System", "Admin tokens", "/tokens"}} }

func (tokenPages) pages() map[string]page {
	const list, create, rotate, revoke = "GET /admin/v1/tokens", "POST /admin/v1/tokens", "POST /admin/v1/tokens/:id/rotate", "POST /admin/v1/tokens/:id/revoke"
	return map[string]page{
		"GET /tokens":              {list, listTokens},
		"GET /tokens/new":          {create, func(v *pageRequest) { askToken(v, nil, url.Values{"scope": {"read"}, "expiry": {"1y"}}) }},
		"POST /tokens":             {create, createToken},
		"GET /tokens/{id}/rotate":  {rotate, func(v *pageRequest) { oneToken(v, "tokenrotate") }},
		"POST /tokens/{id}/rotate": {rotate, rotateToken},
		"GET /tokens/{id}/revoke":  {revoke, func(v *pageRequest) { oneToken(v, "tokenrevoke") }},
		"POST /tokens/{id}/revoke": {revoke, revokeToken},
	}
}

func listTokens(v *pageRequest) {
	page, e := v.list("/admin/v1/tokens", "tokens", "ends_soon")
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, "tokens", view{Title: "Admin tokens", Data: page, Form: v.query})
}

// scopeChoice is a scope in the form of a new token.
type scopeChoice struct {
	Name, About string
	Chosen      bool
}

// askToken shows the form of a new token. e is why the form was refused, or nil.
func askToken(v *pageRequest, e *Fault, form url.Values) {
	status, fault := http.StatusOK, ""
	if e != nil {
		status, fault = e.Status, e.Message
	}
	var scopes []scopeChoice
	for _, s := range Vocabulary().TokenScopes {
		if s[0] == "dialer" && v.dashboard.o.WithoutContract {
			continue // there are no calls
		}
		scopes = append(scopes, scopeChoice{s[0], s[1], form.Get("scope") == s[0]})
	}
	v.show(status, "newtoken", view{Title: "Create admin token", Fault: fault, Form: form, Data: scopes})
}

func createToken(v *pageRequest) {
	form, ok := v.form()
	if !ok {
		return
	}
	body := map[string]any{"name": strings.TrimSpace(form.Get("name")), "scope": form.Get("scope"), "allowed_ips": addressList(form.Get("ips"))}
	end, set, err := v.keyExpiry(form)
	if err != nil {
		askToken(v, faultOf(err), form)
		return
	}
	if set && end == nil {
		end = "never"
	}
	if set {
		body["expires_at"] = end
	}
	made, e := v.call(http.MethodPost, "/admin/v1/tokens", body)
	if e != nil {
		askToken(v, e, form)
		return
	}
	v.show(http.StatusCreated, "tokencreated", view{Title: textOf(made["name"]), Data: made})
}

// tokenPath returns the path at the admin endpoint for the token in the path of the page.
func tokenPath(v *pageRequest) string {
	return "/admin/v1/tokens/" + url.PathEscape(v.R.PathValue("id"))
}

// findToken returns the token in the path of the page, which it looks for in the list of tokens.
func findToken(v *pageRequest) (map[string]any, *Fault) {
	for page := 1; ; page++ {
		answer, e := v.call(http.MethodGet, fmt.Sprintf("/admin/v1/tokens?limit=1000&page=%d", page), nil)
		if e != nil {
			return nil, e
		}
		rows, _ := answer["tokens"].([]any)
		for _, row := range rows {
			if token, _ := row.(map[string]any); textOf(token["id"]) == v.R.PathValue("id") {
				return token, nil
			}
		}
		if len(rows) == 0 {
			return nil, &Fault{Status: http.StatusNotFound, Message: "There is no admin token with this id."}
		}
	}
}

// oneToken shows the page with this template, which asks before a token is changed.
func oneToken(v *pageRequest, template string) {
	token, e := findToken(v)
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, template, view{Title: textOf(token["name"]), Data: token})
}

func rotateToken(v *pageRequest) {
	var overlap int
	if _, err := fmt.Sscan(v.R.PostFormValue("overlap"), &overlap); err != nil {
		v.showFault(invalid("The overlap must be a number of seconds."))
		return
	}
	made, e := v.call(http.MethodPost, tokenPath(v)+"/rotate", map[string]any{"overlap_seconds": overlap})
	if e != nil {
		v.showFault(e)
		return
	}
	v.show(http.StatusOK, "tokencreated", view{Title: textOf(made["name"]), Data: made})
}

func revokeToken(v *pageRequest) {
	if _, e := v.call(http.MethodPost, tokenPath(v)+"/revoke", nil); e != nil {
		v.showFault(e)
		return
	}
	http.Redirect(v.W, v.R, "/tokens?done=revoke", http.StatusSeeOther)
}
