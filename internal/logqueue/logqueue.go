// Package logqueue writes log lines without ever making the program wait for the reader of the log.
package logqueue

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// Lines are written in batches, because one write of many lines costs about as much as one write of
// one line: when batchBytes wait, when the first of them has waited for batchDelay, or at Flush.
const (
	batchBytes = 32 << 10
	batchDelay = 100 * time.Millisecond
)

// Queue is an io.Writer that stores lines in memory, while a goroutine of its own writes them to
// another writer, in their order and in batches. If that writer is slow or blocks, Write still
// returns immediately. Lines that do not fit into the limit are lost; the queue counts them and
// writes a notice in their place once the writer accepts data again. It is safe for concurrent use.
type Queue struct {
	to     io.Writer
	limit  int                      // bytes that may wait, including those that are being written
	notice func(lost uint64) []byte // returns a line with the number of lost lines

	mu      sync.Mutex
	waiting []byte
	writing int           // number of bytes that the goroutine is writing
	lost    uint64        // lines that did not fit after those in waiting
	missing uint64        // lines lost since the start, see Lost
	failed  uint64        // number of earlier lines that could not be written
	urgent  bool          // do not wait for more lines
	idle    bool          // the goroutine waits for a line, not for more lines
	written chan struct{} // closed when nothing waits any more; nil: nobody waits for that
	closed  bool

	wake chan struct{} // receives a value when a line ends idle, and when urgent or closed is set
	done chan struct{} // closed when the goroutine has ended
}

// New returns a Queue that writes to the writer to and starts its goroutine. At most limit bytes
// wait. notice returns the line that is written after lines were lost. The caller must call Close.
func New(to io.Writer, limit int, notice func(lost uint64) []byte) *Queue {
	q := &Queue{to: to, limit: limit, notice: notice, idle: true, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Write adds one or more whole lines. It never blocks and never returns an error. While a notice
// about lost lines is due, further lines are lost as well, so that the order stays right.
func (q *Queue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	if q.closed || q.lost > 0 || len(q.waiting)+q.writing+len(lines) > q.limit {
		n := countLines(lines)
		q.lost += n
		q.missing += n
	} else {
		q.waiting = append(q.waiting, lines...)
	}
	full := !q.urgent && len(q.waiting) >= min(batchBytes, q.limit/2)
	q.urgent = q.urgent || full
	wake := q.idle || full
	q.idle = false
	q.mu.Unlock()
	if wake {
		q.signal()
	}
	return len(lines), nil
}

// Flush writes the lines that wait. It returns when they are written, or after patience. With a
// patience of 0 it does not wait. If the writer fails, the lines are lost and Flush returns.
func (q *Queue) Flush(patience time.Duration) {
	q.mu.Lock()
	if q.closed || len(q.waiting)+q.writing == 0 && q.lost == 0 {
		q.mu.Unlock()
		return
	}
	q.urgent = true
	if q.written == nil {
		q.written = make(chan struct{})
	}
	written := q.written
	q.mu.Unlock()
	q.signal()
	if patience <= 0 {
		return
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-written:
	case <-q.done:
	case <-late.C:
	}
}

// Lost returns the number of lines that were lost since the start.
func (q *Queue) Lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.missing
}

// Close waits until all lines are written, but at most for patience, and reports whether they are.
// If the writer still blocks, the goroutine stays until the writer returns. Lines that are written
// after Close are lost.
func (q *Queue) Close(patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-q.done:
		return true
	case <-late.C:
		return false
	}
}

// signal wakes the goroutine.
func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run writes what waits until the queue is closed and empty.
func (q *Queue) run() {
	defer close(q.done)
	var spare []byte
	torn := false // the last write ended in the middle of a line
	for range q.wake {
		for {
			q.gather()
			c := q.take(spare)
			spare = c.data[:0] // the queue has the other buffer now
			if len(c.data) == 0 {
				break
			}
			if torn {
				_, err := q.to.Write([]byte{'\n'})
				torn = err != nil
			}
			n, err := q.to.Write(c.data)
			if n > 0 {
				torn = c.data[n-1] != '\n'
			}
			q.wrote(c, n, err)
			if err != nil {
				break // a full disk or a closed pipe stays so for a while: wait for the next line
			}
		}
		if q.ended() {
			return
		}
	}
}

// gather returns when it is time to write, see batchBytes.
func (q *Queue) gather() {
	delay := time.NewTimer(batchDelay)
	defer delay.Stop()
	for {
		q.mu.Lock()
		ready := q.urgent || q.closed || len(q.waiting) == 0 && q.lost == 0
		q.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-q.wake:
		case <-delay.C:
			return
		}
	}
}

// chunk is the data of one write of the goroutine.
type chunk struct {
	data           []byte
	head           int    // length of the notice at the start of data; 0: none
	failed, counts uint64 // number of lines that the notices at the start and at the end are about
}

// take returns what to write next. The queue uses spare for the lines that follow.
func (q *Queue) take(spare []byte) (c chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c.data, q.waiting = q.waiting, spare
	if len(c.data) == 0 && q.lost == 0 && !q.closed { // a notice alone is written only at the end
		q.urgent, q.idle = false, true
		q.release()
		return c
	}
	if c.failed, q.failed = q.failed, 0; c.failed > 0 {
		head := q.notice(c.failed)
		c.head = len(head)
		c.data = append(head, c.data...)
	}
	if c.counts, q.lost = q.lost, 0; c.counts > 0 {
		c.data = append(c.data, q.notice(c.counts)...)
	}
	q.writing, q.urgent = len(c.data), false
	return c
}

// wrote records the end of a write of c, of which n bytes were written. If err is not nil, the other
// lines are lost, and what a notice among them counts is counted again.
func (q *Queue) wrote(c chunk, n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = 0
	if err == nil {
		return
	}
	q.idle = true
	q.release()
	lines := countLines(c.data[n:])
	q.failed += lines
	q.missing += lines
	if n < c.head {
		q.failed += c.failed - 1 // without the notice itself
		q.missing--              // the notice
	}
	if c.counts > 0 {
		q.failed += c.counts - 1
		q.missing--
	}
}

// release lets the callers of Flush return. The caller holds the lock.
func (q *Queue) release() {
	if q.written != nil {
		close(q.written)
		q.written = nil
	}
}

// ended reports whether the queue is closed and a last attempt to write has been made.
func (q *Queue) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.waiting) == 0
}

// countLines returns the number of line ends in text.
func countLines(text []byte) uint64 { return uint64(bytes.Count(text, []byte{'\n'})) }
