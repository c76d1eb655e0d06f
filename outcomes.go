package main

import (
	"net/netip"
	"time"

	"github.com/julienschmidt/httprouter"
)

// The checks of a request in their order (see Server).
const (
	StepRoute      = "route"
	StepCarrier    = "carrier"
	StepKey        = "key"
	StepState      = "state"
	StepAddress    = "address"
	StepLimit      = "limit"
	StepPermission = "permission"
	StepHandler    = "handler" // what the endpoint itself demands
)

// Outcome tells of one answered request. It is valid for the length of the call
// alone.
type Outcome struct {
	ID     string
	Method string
	Route  string // the pattern, "-" where none fits: never the address itself
	Status int
	Code   string // of the error that was answered, "" for none
	Text   string // its message
	Step   string // the check that was made last, one of the Step constants
	Key    *Key   // who asked, nil where no valid key came
	Found  *Key   // the same, also where the key may not be used: revoked, paused, expired
	Actor  string // who asked on the admin door
	Client netip.Addr
	Params httprouter.Params // what stood in the place of the route's wildcards
	Began  time.Time         // wall clock
	Took   time.Duration
	Limits []Standing // how the limits stood
}
