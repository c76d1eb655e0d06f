package lean

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// lookEvery is the shortest time between two looks at the connection by Err.
const lookEvery = 5 * time.Millisecond

// requestContext is the context of a request. It ends when the handler returns and when the client
// closes the connection. The connection is watched only after the first call of Done; until then
// Err looks at it now and then. It is safe for concurrent use.
type requestContext struct {
	context.Context // of the connection

	conn *conn
	used bool // Done has been called; read by the connection after end

	mu       sync.Mutex
	inner    context.Context // what Done returns belongs to it; nil: nobody has asked
	cancel   context.CancelFunc
	watching chan struct{} // closed when watch has returned; nil: it does not run
	ended    bool          // the handler has returned
	gone     bool          // the client has closed the connection
	stopped  bool          // the connection must not be watched
	looked   time.Time     // when Err last looked at the connection
}

// begin prepares x for the next request.
func (x *requestContext) begin() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended, x.gone, x.stopped, x.looked = false, false, false, time.Time{}
}

// Done returns a channel that is closed when the context ends.
func (x *requestContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		x.used = true
		x.inner, x.cancel = context.WithCancel(x.Context)
		if x.ended || x.gone {
			x.cancel()
		} else if !x.stopped {
			x.watching = make(chan struct{})
			_ = x.conn.nc.SetReadDeadline(time.Time{})
			go x.watch(x.watching)
		}
	}
	return x.inner.Done()
}

// watch ends the context when the client closes the connection. It returns when bytes arrive, which
// belong to the next request, and when end interrupts it.
func (x *requestContext) watch(done chan struct{}) {
	defer close(done)
	gone := false
	err := x.conn.raw.Read(func(fd uintptr) bool {
		var again bool
		gone, again = peek(fd)
		return !again
	})
	if gone || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // the server may have closed the connection too
		x.cancel()
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

// stop ends watch, which reads from the connection.
func (x *requestContext) stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped = true
	if x.watching == nil {
		return
	}
	_ = x.conn.nc.SetReadDeadline(past)
	<-x.watching
	x.watching = nil
	x.conn.readMoved.Store(true)
}

// end ends the context, because the handler has returned.
func (x *requestContext) end() {
	x.stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
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
	if !x.ended && !x.gone && !x.stopped {
		now := time.Now()
		if x.looked.IsZero() {
			x.looked = now
		} else if now.Sub(x.looked) >= lookEvery {
			x.looked = now
			if err := x.conn.raw.Control(func(fd uintptr) { x.gone, _ = peek(fd) }); err != nil {
				x.gone = true // the server has closed the connection
			}
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
	x.mu.Lock()
	inner := x.inner
	x.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return x.Context.Value(key)
}
