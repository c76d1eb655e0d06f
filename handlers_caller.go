package main

import (
	"context"
	"net/http"
	"net/netip"
	"time"
)

// AdminRights is a set of groups of admin endpoints. A role of an operator and a scope of an admin token
// are such sets. Which endpoint belongs to which groups is in endpointRules.
type AdminRights uint8

// The groups of admin endpoints.
const (
	RightMetrics AdminRights = 1 << iota // the metrics
	RightRead                            // show records; no secrets
	RightDial                            // what a dialer does: claim calls and report their results
	RightKeys                            // create and change keys and owners
	RightWrite                           // create and change calls, contacts, webhooks and other records
	RightAdmin                           // operators, admin tokens, backups and the configuration
	rightEnd
	RightAll = rightEnd - 1
)

// Caller is who sends a request to the admin endpoint.
type Caller struct {
	Name   string     // for the audit log, such as "token 3 ci", "operator 1 ann" or "control socket"
	From   netip.Addr // zero Addr for the control socket
	Rights AdminRights
	// Grant is a sentence for refusals that says why the caller has only these rights, such as "This
	// admin token has the scope read."
	Grant    string
	Token    uint64    // id of the admin token; 0: none was sent
	Operator uint64    // id of the operator who has logged in; 0: nobody has
	Session  []byte    // hash of the token of the operator's session; nil if Operator is 0
	ProvenAt time.Time // when the operator last confirmed the password in this session; zero: never
}

// callerKey is the key under which a context holds a *Caller.
type callerKey struct{}

// ByCaller returns a copy of r whose context holds c, for CallerOf.
func ByCaller(r *http.Request, c *Caller) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
}

// CallerOf returns the caller that ByCaller stored in r, or nil if there is none.
func CallerOf(r *http.Request) *Caller {
	c, _ := r.Context().Value(callerKey{}).(*Caller)
	return c
}
