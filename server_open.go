package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// EndTime is the period at which EndRequests must be called. A request that its key may no longer
// make ends within twice this time.
const EndTime = 300 * time.Millisecond

// openRequests lists the requests with a key whose handler runs. The requests are spread over
// shards, so that they rarely wait for each other. The zero value is ready to use. It is safe for
// concurrent use.
type openRequests struct{ shards [64]openShard }

type openShard struct {
	sync.Mutex
	first *exchange
	_     [48]byte // keeps two shards out of one cache line
}

// openRequest is the entry of an exchange in openRequests, and what EndRequests needs to know about
// the exchange. The handler's goroutine sets the fields before shard. The mutex of shard guards
// the fields below it.
type openRequest struct {
	routes     any        // the guarded routes under which the request is allowed; nil: no guarded route
	permission Permission // a set, of which the key needs one; 0: no permission is needed
	liveOnly   bool       // see Route.LiveOnly
	rights     *Policy    // the policy of routes; nil: the current one
	key        *Key       // the state of the key at the last check
	changes    uint64     // Keyring.Changes before key was read

	over  atomic.Bool // ended is not nil
	shard *openShard  // nil: the request is in no list

	previous, next *exchange
	seen           bool     // the request was open at an earlier call of EndRequests
	conn           net.Conn // the client's connection after an upgrade; nil: there was none
	onEnd          func()   // see Ender
	ended          error    // why EndRequests has ended the request; nil: it has not
}

// enter adds an exchange whose fields above are set.
func (l *openRequests) enter(x *exchange) {
	s := &l.shards[rand.IntN(len(l.shards))]
	o := &x.open
	o.shard = s
	s.Lock()
	defer s.Unlock()
	if o.next = s.first; o.next != nil {
		o.next.open.previous = x
	}
	s.first = x
}

// leave removes the entry from its list. It returns why the request was ended, or nil if it was
// not. It must be called before the handler's goroutine returns to net/http.
func (o *openRequest) leave() error {
	if o.shard == nil {
		return nil
	}
	o.shard.Lock()
	defer o.shard.Unlock()
	if o.next != nil {
		o.next.open.previous = o.previous
	}
	if o.previous != nil {
		o.previous.open.next = o.next
	} else {
		o.shard.first = o.next
	}
	return o.ended
}

// tunnel notes the client's connection after an upgrade to another protocol.
func (o *openRequest) tunnel(conn net.Conn) {
	if o.shard == nil {
		return
	}
	o.shard.Lock()
	defer o.shard.Unlock()
	if o.conn = conn; o.ended != nil {
		_ = conn.SetDeadline(past)
	}
}

// past is a deadline that makes reading and writing fail immediately.
var past = time.Unix(1, 0)

// OnEnd makes the end of the exchange by EndRequests call f (see Ender).
func (x *exchange) OnEnd(f func()) {
	o := &x.open
	if o.shard == nil {
		return
	}
	o.shard.Lock()
	o.onEnd = f
	ended := o.ended
	o.shard.Unlock()
	if ended != nil {
		f()
	}
}

// SetReadDeadline sets the deadline for reading the body. It has no effect once EndRequests has
// ended the exchange.
func (x *exchange) SetReadDeadline(t time.Time) error {
	control := http.NewResponseController(x.ResponseWriter)
	err := control.SetReadDeadline(t)
	if x.open.over.Load() {
		err = control.SetReadDeadline(past)
	}
	return err
}

// SetWriteDeadline sets the deadline for writing the answer. It has no effect once EndRequests has
// ended the exchange.
func (x *exchange) SetWriteDeadline(t time.Time) error {
	control := http.NewResponseController(x.ResponseWriter)
	err := control.SetWriteDeadline(t)
	if x.open.over.Load() {
		err = control.SetWriteDeadline(past)
	}
	return err
}

// cut ends an exchange because of err. It makes the handler's reads and writes fail and never
// blocks. The caller must hold the mutex of the exchange's shard.
func (x *exchange) cut(err error) {
	o := &x.open
	o.ended = err
	o.over.Store(true)
	if o.conn != nil {
		_ = o.conn.SetDeadline(past)
	} else {
		control := http.NewResponseController(x.ResponseWriter)
		_ = control.SetReadDeadline(past) // an error means that the writer has no deadlines
		_ = control.SetWriteDeadline(past)
	}
	if o.onEnd != nil {
		o.onEnd()
	}
}

// EndRequests ends the requests that would now be refused: their key is revoked, paused or expired,
// their secret was replaced, the key lacks the permission or may not be used from the client's
// address, or no guarded route accepts them any more. It skips requests that were not open at the
// previous call, because most of those are short. It does not check limits. Call it every
// EndTime.
func (s *Server) EndRequests() {
	now := s.o.Clock.Latest(s.o.Clock.Now())
	for i := range s.running.shards {
		for _, x := range s.endIn(&s.running.shards[i], now) {
			s.o.Log.Info("request ended early", "id", x.id, "route", x.route, "key", x.key, "client", x.client, "reason", x.reason)
		}
	}
}

// endedRequest describes a request that was ended, for the log.
type endedRequest struct{ id, route, key, client, reason string }

// endIn is EndRequests for the requests of one shard. now is a time from Clock.Latest.
func (s *Server) endIn(shard *openShard, now time.Time) (list []endedRequest) {
	shard.Lock()
	defer shard.Unlock()
	for x := shard.first; x != nil; x = x.open.next {
		o := &x.open
		if !o.seen {
			o.seen = true
			continue
		}
		if o.ended != nil {
			continue
		}
		if err := s.recheck(x, now); err != nil {
			x.cut(err)
			list = append(list, endedRequest{x.ID, x.Route, x.Key.ID, AddrText(x.Client), err.Error()})
		}
	}
	return list
}

// recheck returns nil if the request of x would be accepted at now, and otherwise an error. The
// caller must hold the mutex of the exchange's shard.
func (s *Server) recheck(x *exchange, now time.Time) error {
	o := &x.open
	changes := s.o.Keyring.Changes()
	key, err := s.o.Keyring.Current(x.holder, o.key, o.changes)
	if errors.Is(err, ErrKey) {
		return err
	}
	if err != nil {
		return nil // the store has failed, which the server handles
	}
	o.key, o.changes = key, changes
	if o.routes != nil {
		if routes := s.o.Guards.Now(); routes != o.routes {
			row, _, err := routes.Find(&http.Request{Method: x.Method, URL: x.URL}) // without the header, which the handler may change meanwhile
			if err != nil {
				return err
			}
			if row == nil {
				return ErrRoute.With("The configuration no longer has a [[route]] for this request.")
			}
			o.routes, o.rights, o.permission, o.liveOnly = routes, routes.Rights, row.Permission, row.LiveOnly
		}
	}
	key = key.Fit(o.rights)
	if _, err := s.usable(x, key, now); err != nil {
		return err
	}
	return Permitted(key, o.permission, o.liveOnly)
}
