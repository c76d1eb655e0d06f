package main

import (
	"sync"
	"time"
)

// HeavyAlways is for the Heavy of a Route of which every request is heavy.
func HeavyAlways(*Request) bool { return true }

// HeavyWith returns a function for the Heavy of a Route. It reports whether the query of a request has
// one of these parameters with a value, such as a filter that is compared with every record.
func HeavyWith(names ...string) func(*Request) bool {
	return func(r *Request) bool {
		for _, name := range names {
			for _, value := range r.query[name] {
				if value != "" {
					return true
				}
			}
		}
		return false
	}
}

// The number of heavy requests that may run at the same time, and how long a further one of an owner
// waits before it is refused. Those of operators wait for as long as the client does.
const (
	heavyOfOwner     = 2
	heavyOfOperators = 4
	heavyWait        = time.Second
)

// operatorsTurn is the id under which HeavyTurns counts the requests of operators. It is no owner.
const operatorsTurn = ^uint64(0)

// HeavyTurns bounds how many heavy requests run at the same time. The zero value is ready to use. It is
// safe for concurrent use.
type HeavyTurns struct {
	mu      sync.Mutex
	holders map[uint64]*heavyHolder // by owner, or operatorsTurn; only those with requests
}

// heavyHolder has the turns of one owner or of the operators.
type heavyHolder struct {
	running chan struct{} // has one entry for each request that runs
	present int           // requests that run or wait
}

// Enter waits until the request may run. Call leave when it has ended. Enter returns ErrRateLimit if
// too many heavy requests of the key's owner are running, and ErrBroken if the client has disconnected.
func (h *HeavyTurns) Enter(r *Request) (leave func(), err error) {
	id, most, late := operatorsTurn, heavyOfOperators, (<-chan time.Time)(nil)
	if r.Key != nil {
		timer := time.NewTimer(heavyWait)
		defer timer.Stop()
		id, most, late = r.Key.Owner, heavyOfOwner, timer.C
	}
	holder := h.join(id, most)
	select {
	case holder.running <- struct{}{}:
		return func() {
			<-holder.running
			h.part(id, holder)
		}, nil
	case <-late:
		err = ErrRateLimit.With("%d searches, imports or exports of this key's owner are running, which is the most. Send the request again when one has ended.", most).
			After(time.Second)
	case <-r.Request.Context().Done():
		err = ErrBroken
	}
	h.part(id, holder)
	return nil, err
}

// join returns the holder with this id, with one more request.
func (h *HeavyTurns) join(id uint64, most int) *heavyHolder {
	h.mu.Lock()
	defer h.mu.Unlock()
	holder := h.holders[id]
	if holder == nil {
		holder = &heavyHolder{running: make(chan struct{}, most)}
		if h.holders == nil {
			h.holders = map[uint64]*heavyHolder{}
		}
		h.holders[id] = holder
	}
	holder.present++
	return holder
}

// part takes one request from holder, and forgets it with the last one.
func (h *HeavyTurns) part(id uint64, holder *heavyHolder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if holder.present--; holder.present == 0 {
		delete(h.holders, id)
	}
}

// View runs run in a read transaction of store, which ends when the client disconnects. View then
// returns ErrBroken.
func (r *Request) View(store *Store, run func(*Tx) error) error {
	return store.ViewFor(r.Request.Context(), run)
}
