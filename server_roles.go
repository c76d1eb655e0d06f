package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The roles of operators.
const (
	RoleViewer     = "viewer"
	RoleKeyManager = "key_manager"
	RoleAdmin      = "admin"
)

// Grant is a named AdminRights: a role of operators or a scope of admin tokens.
type Grant struct {
	Name   string
	Rights AdminRights
	About  string // what it is for, for help and pages
}

// Roles returns the roles of operators, the least one first.
func Roles() []Grant {
	return []Grant{
		{RoleViewer, RightMetrics | RightRead, "sees everything except secrets and changes nothing"},
		{RoleKeyManager, RightMetrics | RightRead | RightKeys, "manages keys and owners"},
		{RoleAdmin, RightAll, "may do everything"},
	}
}

// ScopeAll is the scope of an admin token that was created without a scope.
const ScopeAll = "all"

// Scopes returns the scopes of admin tokens.
func Scopes() []Grant {
	return []Grant{
		{"metrics", RightMetrics, "reads the metrics, for Prometheus"},
		{"read", RightMetrics | RightRead, "reads everything except secrets"},
		{"dialer", RightDial, "claims calls and reports their results"},
		{"keys", RightMetrics | RightRead | RightKeys, "manages keys and owners"},
		{"write", RightMetrics | RightRead | RightDial | RightWrite, "changes calls, contacts, webhooks and other records, but no keys"},
		{ScopeAll, RightAll, "may do everything that an admin token can do"},
	}
}

// FindGrant returns the grant in list with this name.
func FindGrant(list []Grant, name string) (Grant, bool) {
	i := slices.IndexFunc(list, func(g Grant) bool { return g.Name == name })
	if i < 0 {
		return Grant{}, false
	}
	return list[i], true
}

// GrantNames returns the names of the grants in list, in their order.
func GrantNames(list []Grant) (names []string) {
	for _, g := range list {
		names = append(names, g.Name)
	}
	return names
}

// endpointRule is what an admin endpoint requires of its caller.
type endpointRule struct {
	Rights AdminRights // a set, of which the caller needs one
	Proof  proof
}

// proof says which callers an endpoint accepts, and for which it requires that the operator has confirmed
// the password within ProofSpan. The control socket never needs it.
type proof uint8

const (
	noProof    proof = iota
	loginProof       // a login needs it; an admin token is accepted without
	humanProof       // a login needs it; an admin token is refused, so that a stolen one cannot create lasting access
	ownNoProof       // is about the login that asks, so only a login may use it; without a confirmation
	ownProof         // the same, and the login needs it
)

// needed reports whether a login needs a confirmed password.
func (p proof) needed() bool { return p == loginProof || p == humanProof || p == ownProof }

// own reports whether only a login may use the endpoint.
func (p proof) own() bool { return p == ownNoProof || p == ownProof }

// ProofSpan is how long a confirmation of the password counts.
const ProofSpan = 10 * time.Minute

// endpointRules has a row for each admin endpoint. The service does not start if an endpoint has
// none.
var endpointRules = map[string]endpointRule{
	"GET /metrics": {RightMetrics, noProof},

	"GET /admin/v1/status":          {RightRead, noProof},
	"GET /admin/v1/routes":          {RightRead, noProof},
	"GET /admin/v1/permissions":     {RightRead, noProof},
	"GET /admin/v1/limits":          {RightRead, noProof},
	"POST /admin/v1/limits/what-if": {RightRead, noProof},
	"GET /admin/v1/audit":           {RightRead, noProof},
	"GET /admin/v1/audit/verify":    {RightRead, noProof},
	"GET /admin/v1/refusals":        {RightRead, noProof},
	"GET /admin/v1/usage":           {RightRead, noProof},
	"GET /admin/v1/requests":        {RightRead, noProof},
	"GET /admin/v1/overview":        {RightRead, noProof},

	"GET /admin/v1/cluster":                     {RightRead, noProof},
	"POST /admin/v1/cluster/nodes/:name/remove": {RightAdmin, loginProof},

	// What an apply changes needs the rights for the endpoint that makes that change alone, see Permit.
	"POST /admin/v1/apply": {RightKeys | RightWrite | RightAdmin, noProof},
	"GET /admin/v1/export": {RightRead, noProof},

	"GET /admin/v1/keys":                    {RightRead, noProof},
	"GET /admin/v1/keys/:id":                {RightRead, noProof},
	"GET /admin/v1/keys/:id/usage":          {RightRead, noProof},
	"GET /admin/v1/keys/:id/history":        {RightRead, noProof},
	"GET /admin/v1/keys/:id/activity":       {RightRead, noProof},
	"POST /admin/v1/keys/:id/explain":       {RightRead, noProof},
	"POST /admin/v1/keys/lookup":            {RightRead, noProof},
	"POST /admin/v1/keys":                   {RightKeys, noProof},
	"POST /admin/v1/keys/import":            {RightKeys, noProof},
	"PATCH /admin/v1/keys/:id":              {RightKeys, noProof},
	"POST /admin/v1/keys/:id/revoke":        {RightKeys, noProof},
	"POST /admin/v1/keys/:id/pause":         {RightKeys, noProof},
	"POST /admin/v1/keys/:id/resume":        {RightKeys, noProof},
	"POST /admin/v1/keys/:id/rotate":        {RightKeys, noProof},
	"POST /admin/v1/keys/:id/rotate/finish": {RightKeys, noProof},
	"GET /admin/v1/owners":                  {RightRead, noProof},
	"GET /admin/v1/owners/:id":              {RightRead, noProof},
	"GET /admin/v1/owners/:id/usage":        {RightRead, noProof},
	"POST /admin/v1/owners":                 {RightKeys, noProof},
	"PATCH /admin/v1/owners/:id":            {RightKeys, noProof},
	"POST /admin/v1/sandbox/reset":          {RightWrite, noProof},
	"POST /admin/v1/owners/import":          {RightKeys, noProof},

	"GET /admin/v1/calls":                      {RightRead, noProof},
	"GET /admin/v1/calls/:id":                  {RightRead | RightDial, noProof},
	"POST /admin/v1/calls":                     {RightWrite | RightDial, noProof},
	"PATCH /admin/v1/calls/:id":                {RightWrite | RightDial, noProof},
	"POST /admin/v1/calls/claim":               {RightDial, noProof},
	"POST /admin/v1/calls/:id/heartbeat":       {RightDial, noProof},
	"POST /admin/v1/calls/:id/start":           {RightDial, noProof},
	"POST /admin/v1/calls/:id/complete":        {RightDial, noProof},
	"POST /admin/v1/calls/:id/fail":            {RightDial, noProof},
	"GET /admin/v1/webhooks":                   {RightRead, noProof},
	"GET /admin/v1/webhooks/:id":               {RightRead, noProof},
	"GET /admin/v1/webhooks/:id/logs":          {RightRead, noProof},
	"POST /admin/v1/webhooks":                  {RightWrite, noProof},
	"PATCH /admin/v1/webhooks/:id":             {RightWrite, noProof},
	"DELETE /admin/v1/webhooks/:id":            {RightWrite, noProof},
	"POST /admin/v1/webhooks/:id/test":         {RightWrite, noProof},
	"POST /admin/v1/webhooks/:id/redeliver":    {RightWrite, noProof},
	"POST /admin/v1/webhooks/:id/retry-failed": {RightWrite, noProof},
	"GET /admin/v1/webhooks/:id/logs/:entry":   {RightRead, noProof},
	"POST /admin/v1/webhooks/release":          {RightWrite, noProof},
	"POST /admin/v1/mail/test":                 {RightWrite, noProof},
	"GET /admin/v1/business-context":           {RightRead, noProof},
	"PATCH /admin/v1/business-context":         {RightWrite, noProof},
	"GET /admin/v1/events":                     {RightRead, noProof},
	"GET /admin/v1/events/:id":                 {RightRead, noProof},
	"POST /admin/v1/events":                    {RightWrite, noProof},
	"PATCH /admin/v1/events/:id":               {RightWrite, noProof},
	"POST /admin/v1/events/:id/cancel":         {RightWrite, noProof},

	"GET /admin/v1/tokens":                     {RightRead, noProof},
	"POST /admin/v1/tokens":                    {RightAdmin, humanProof},
	"POST /admin/v1/tokens/:id/revoke":         {RightAdmin, noProof},
	"GET /admin/v1/sessions":                   {RightRead, noProof},
	"DELETE /admin/v1/sessions/:id":            {RightRead, noProof},
	"POST /admin/v1/sessions/end":              {RightRead, noProof},
	"POST /admin/v1/confirm":                   {RightRead, ownNoProof},
	"GET /admin/v1/factors":                    {RightRead, noProof},
	"POST /admin/v1/factors":                   {RightRead, ownProof},
	"POST /admin/v1/factors/totp":              {RightRead, ownProof},
	"PATCH /admin/v1/factors/:id":              {RightRead, ownNoProof},
	"DELETE /admin/v1/factors/:id":             {RightRead, ownProof},
	"POST /admin/v1/recovery-codes":            {RightRead, ownProof},
	"POST /admin/v1/operators/:id/enroll-link": {RightAdmin, humanProof},
	"POST /admin/v1/tokens/:id/rotate":         {RightAdmin, humanProof},
	"GET /admin/v1/operators":                  {RightRead, noProof},
	"POST /admin/v1/operators":                 {RightAdmin, humanProof},
	"POST /admin/v1/operators/invite":          {RightAdmin, humanProof},
	"PATCH /admin/v1/operators/:id":            {RightAdmin, humanProof},
	"POST /admin/v1/operators/:id/password":    {RightAdmin, humanProof},
	"DELETE /admin/v1/operators/:id":           {RightAdmin, humanProof},
	"POST /admin/v1/setup-link":                {RightAdmin, humanProof},
	"POST /admin/v1/reload":                    {RightAdmin, noProof},
	"POST /admin/v1/check":                     {RightAdmin, noProof},
	"GET /admin/v1/backups":                    {RightRead, noProof},
	"POST /admin/v1/backups/:name/check":       {RightAdmin, noProof},
	"GET /admin/v1/backup":                     {RightAdmin, loginProof},
}

func init() {
	for _, kind := range []string{"agents", "contacts", "teams", "do-not-call", "schedules", "variables"} {
		at := "/admin/v1/" + kind
		for _, read := range []string{"GET " + at, "GET " + at + "/:id"} {
			endpointRules[read] = endpointRule{RightRead, noProof}
		}
		for _, write := range []string{"POST " + at, "POST " + at + "/import", "PATCH " + at + "/:id", "DELETE " + at + "/:id"} {
			endpointRules[write] = endpointRule{RightWrite, noProof}
		}
	}
}

// May reports whether a caller with these rights may use an endpoint, such as "POST
// /admin/v1/keys". It returns false for an endpoint that does not exist.
func (a AdminRights) May(endpoint string) bool { return endpointRules[endpoint].Rights&a != 0 }

// checkRules returns an error that names each route without a row in endpointRules.
func checkRules(routes []Route) error {
	var problems []error
	for _, row := range routes {
		if name := row.Method + " " + row.Path; endpointRules[name].Rights == 0 {
			problems = append(problems, fmt.Errorf("the admin endpoint %s has no row in endpointRules, which says who may use it", name))
		}
	}
	return errors.Join(problems...)
}

// permit notes that the permission is checked, and returns the error of Permit.
func permit(x *exchange, endpoint string) error {
	x.step = StepPermission
	return Permit(&x.Request, endpoint)
}

// Permit returns nil if the caller of a request may use an endpoint, such as "POST /admin/v1/keys", and otherwise
// ErrPermission or ErrProof.
func Permit(r *Request, endpoint string) error {
	rule, c := endpointRules[endpoint], r.Caller
	switch {
	case rule.Rights&c.Rights == 0:
		return ErrPermission.With("%s %s needs %s.", c.Grant, endpoint, holders(rule.Rights, c.Token != 0))
	case rule.Proof.own() && c.Operator == 0:
		return ErrPermission.With("%s is about the login that asks, and this request has none. Log in to the dashboard.", endpoint)
	case rule.Proof == humanProof && c.Token != 0:
		return ErrPermission.With("An admin token cannot be used for %s, so that a stolen one cannot create lasting access. Log in to the dashboard, or run the command on the machine of the service, without --url.", endpoint)
	case c.Operator != 0 && Unproven(endpoint, c.ProvenAt, r.Latest):
		return ErrProof
	}
	return nil
}

// Unproven reports whether an endpoint, such as "GET /admin/v1/backup", requires that an operator has
// confirmed the password, and the last confirmation, at provenAt, is too long ago. provenAt is zero if
// there was none.
func Unproven(endpoint string, provenAt, now time.Time) bool {
	return endpointRules[endpoint].Proof.needed() && now.Sub(provenAt) > ProofSpan
}

// RoleRefused returns the error for an operator whose role does not allow an endpoint, in the words of
// the dashboard.
func RoleRefused(role, endpoint string) *Error {
	roles := holders(endpointRules[endpoint].Rights, false)
	return ErrPermission.With("Your role is %s. This needs %s. Ask an operator who has it.", plainRole(role), plainRole(roles))
}

// plainRole returns the name of a role, or a text with such names, as pages show it: "key manager" for
// "key_manager".
func plainRole(text string) string { return strings.ReplaceAll(text, "_", " ") }

// holders returns the scopes (for a token) or the roles that contain one of rights, as a text such as
// "the scope keys or all".
func holders(rights AdminRights, token bool) string {
	kind, list := "the role", Roles()
	if token {
		kind, list = "the scope", Scopes()
	}
	var names []string
	for _, g := range list {
		if g.Rights&rights != 0 {
			names = append(names, g.Name)
		}
	}
	last := len(names) - 1
	if last > 0 {
		return kind + " " + strings.Join(names[:last], ", ") + " or " + names[last]
	}
	return kind + " " + names[0]
}
