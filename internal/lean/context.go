package lean

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is the shortest time between two looks at the connection. The first looks after Done are
// this far apart, later ones up to lookLater.
const (
	lookEvery = 5 * time.Millisecond
	lookLater = 200 * time.Millisecond
)

// requestContext is the context of a request. It ends when the handler returns and when the client
// closes the connection. After the first call of Done it looks at the connection now and then; until
// then Err does. Nobody can wait for the end of the client, because the goroutine of the handler is
// the one that reads from the connection, see conn.answerAll. It is safe for concurrent use.
type requestContext struct {
	context.Context // of the connection

	conn *conn
	used bool // Done has been called; read by the connection after end

	mu     sync.Mutex
	asked  atomic.Bool     // inner is not nil
	inner  context.Context // what Done returns belongs to it; nil: nobody has asked
	cancel context.CancelFunc
	timer  *time.Timer   // calls watch; nil: nobody has asked
	every  time.Duration // until the next call of watch
	ended  bool          // the handler has returned
	gone   bool          // the client has closed the connection
	looked time.Time     // when Err last looked at the connection
}

// begin prepares x for the next request.
func (x *requestContext) begin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended, x.gone, x.looked = false, false, time.Time{}
}

// Done returns a channel that is closed when the context ends.
func (x *requestContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		x.used = true
		x.inner, x.cancel = context.WithCancel(x.Context)
		x.asked.Store(true)
		if x.ended || x.gone {
			x.cancel()
		} else {
			x.every = lookEvery
			x.timer = time.AfterFunc(x.every, x.watch)
		}
	}
	return x.inner.Done()
}

// watch ends the context if the client has closed the connection. Otherwise it is called again.
func (x *requestContext) watch() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return
	}
	if x.look(); x.gone {
		x.cancel()
		return
	}
	x.every = min(2*x.every, lookLater)
	x.timer.Reset(x.every)
}

// look sets gone if the client has closed the connection. x.mu must be locked.
func (x *requestContext) look() {
	if err := x.conn.raw.Control(func(fd uintptr) { x.gone, _ = peek(fd) }); err != nil {
		x.gone = true // the server has closed the connection
	}
}

// lost ends the context, because writing to the connection has failed.
func (x *requestContext) lost() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.gone = true
	if x.cancel != nil {
		x.cancel()
	}
}

// end ends the context, because the handler has returned.
func (x *requestContext) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.cancel != nil {
		x.cancel()
	}
}

// Err returns nil until the context ends, then context.Canceled.
func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner != nil {
		return x.inner.Err()
	}
	if !x.ended && !x.gone {
		now := time.Now()
		if x.looked.IsZero() {
			x.looked = now
		} else if now.Sub(x.looked) >= lookEvery {
			x.looked = now
			x.look()
		}
	}
	if x.ended || x.gone {
		return context.Canceled
	}
	return nil
}

// Value returns a value of the context. The context package uses it to find the context that Done
// belongs to.
func (x *requestContext) Value(key any) any {
	if !x.asked.Load() {
		return x.Context.Value(key)
	}
	return x.inner.Value(key)
}
