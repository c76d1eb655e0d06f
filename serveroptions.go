package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// ServerOptions are what a Server is made of.
type ServerOptions struct {
	Clock   *Clock
	Store   *Store
	Keyring *Keyring
	Limiter *Limiter
	Tokens  *Tokens
	Log     *slog.Logger
	Redact  func(string) string // takes secrets out of what an error says

	Keyed []Route // the API door: a key is needed, every check applies
	Free  []Route // the same, but costing nothing and needing no permission
	Open  []Route // the API door: no key is needed
	Admin []Route // the admin door and the control socket

	Pages func(admin bool) []Row // of a door, for people, without a key

	Access       bool  // log every request
	QueryAllowed bool  // take ?api_key=
	DraftHeaders bool  // send RateLimit and RateLimit-Policy
	MaxBody      int64 // bytes of a body on the API door
	Proxies      []netip.Prefix
	Guards       *Guards // the routes of another API, nil for none

	// Reached is told of each request that a limit of its key refused: how the
	// limits stood, wall clock and service time. It must be quick.
	Reached func(k *Key, limits []Standing, now, moment time.Time)

	// Watch is told of every request when it has been answered. Each must be
	// quick, and may keep nothing of what it is given but its strings.
	Watch []func(*Outcome)
}

// Add adds the routes that a part of the program has, by its methods Routes
// (for keys), FreeRoutes (for keys, at no
// cost), OpenRoutes (for everybody) and AdminRoutes.
func (o *ServerOptions) Add(part any) {
	if p, ok := part.(interface{ Routes() []Route }); ok {
		o.Keyed = append(o.Keyed, p.Routes()...)
	}
	if p, ok := part.(interface{ FreeRoutes() []Route }); ok {
		o.Free = append(o.Free, p.FreeRoutes()...)
	}
	if p, ok := part.(interface{ OpenRoutes() []Route }); ok {
		o.Open = append(o.Open, p.OpenRoutes()...)
	}
	if p, ok := part.(interface{ AdminRoutes() []Route }); ok {
		o.Admin = append(o.Admin, p.AdminRoutes()...)
	}
}

// Own lists the endpoints of the API door, by method and path.
func (o *ServerOptions) Own() []string {
	names := []string{"GET /healthz", "GET /readyz", "GET /openapi.json"}
	names = append(names, AuthzEndpoints()...)
	for _, row := range slices.Concat(o.Keyed, o.Free, o.Open) {
		names = append(names, row.Method+" "+row.Path)
	}
	if o.Pages != nil {
		for _, row := range o.Pages(false) {
			names = append(names, row.Method+" "+row.Path)
		}
	}
	return names
}
