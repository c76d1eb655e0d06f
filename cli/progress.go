package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"latchkey/internal/figures"
)

// Progress receives how much of one step of a long piece of work is done: done of total records or
// pages, or 0 of 0 if the number is not known. step says what is being done, such as "copying
// records". If Progress returns an error, the work ends, undoes what it has begun, and returns that
// error. It is fast, so that it can be called for each record, and safe for concurrent use.
type Progress func(step string, done, total int64) error

// The times of the reports about long work.
const (
	reportDelay = time.Second            // work that ends earlier shows nothing
	drawPeriod  = 200 * time.Millisecond // time between two updates of the line on a terminal
	linePeriod  = 10 * time.Second       // time between two lines if standard error is not a terminal
)

// exitInterrupted is the exit code of a command that the user has ended, as shells report it for
// SIGINT.
const exitInterrupted = 130

// longWork shows on standard error how much of a long command is done, and ends it when the user
// does. On a terminal it keeps one line up to date, otherwise it writes a line every 10 seconds. Its
// methods are safe for concurrent use.
type longWork struct {
	ctx    context.Context
	name   string // of the command, such as "restore"
	out    io.Writer
	redraw bool // out is a terminal, on which a line can be written over
	began  time.Time
	ended  chan struct{} // closed by end
	idle   sync.WaitGroup

	mu    sync.Mutex
	step  workStep
	shown int       // number of characters of the line that is on the terminal
	line  time.Time // when the last line was written; zero: none was
}

// workStep is a step of long work.
type workStep struct {
	name        string
	unit        unit
	began       time.Time
	done, total int64 // total is 0 if it is not known
}

// unit is what the numbers of a step count.
type unit int

const (
	inRecords unit = iota // records or pages
	inBytes               // bytes
)

// startWork returns a longWork for the command c. Call end when the work is done, before anything is
// printed.
func (s *session) startWork(ctx context.Context, c *cli.Command) *longWork {
	w := &longWork{ctx: ctx, name: commandName(c), out: s.env.Stderr, began: time.Now(), ended: make(chan struct{})}
	w.redraw = IsTerminal(w.out) && !slices.Contains(s.env.Environ, "TERM=dumb")
	w.idle.Go(w.show)
	return w
}

// Report is the Progress of the work. Its error is that of the context, which ends when the user ends
// the command.
func (w *longWork) Report(step string, done, total int64) error {
	w.set(workStep{name: step, done: done, total: total})
	return w.ctx.Err()
}

// set stores the state of a step, which may be a new one.
func (w *longWork) set(step workStep) {
	w.mu.Lock()
	defer w.mu.Unlock()
	step.began = w.step.began
	if step.name != w.step.name {
		step.began = time.Now()
	}
	w.step = step
}

// end removes the line from the terminal. After it nothing more is shown.
func (w *longWork) end() {
	close(w.ended)
	w.idle.Wait()
}

// show shows the state of the work until end is called.
func (w *longWork) show() {
	tick := time.NewTicker(drawPeriod)
	defer tick.Stop()
	for {
		select {
		case <-w.ended:
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.shown > 0 {
				w.draw("")
				_, _ = fmt.Fprint(w.out, "\r")
			}
			return
		case now := <-tick.C:
			w.update(now)
		}
	}
}

// update shows the state of the work at the time now, if it is time for that.
func (w *longWork) update(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.step.name == "":
	case w.redraw:
		if now.Sub(w.began) >= reportDelay {
			w.draw(w.name + ": " + w.step.text(now))
		}
	case now.Sub(w.began) >= linePeriod && now.Sub(w.line) >= linePeriod:
		w.line = now
		_, _ = fmt.Fprintf(w.out, "%s: %s\n", w.name, w.step.text(now))
	}
}

// draw writes text over the line on the terminal. What does not fit is cut. The caller holds w.mu.
func (w *longWork) draw(text string) {
	columns := 80
	if f, ok := w.out.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			columns = n
		}
	}
	text = text[:min(len(text), columns-1)] // it is ASCII; a full line would move the cursor to the next
	_, _ = fmt.Fprintf(w.out, "\r%-*s", w.shown, text)
	w.shown = len(text)
}

// text returns the state of the step at the time now as part of a line.
func (s workStep) text(now time.Time) string {
	format := figures.Grouped[int64]
	if s.unit == inBytes {
		format = megabytes
	}
	took := now.Sub(s.began)
	if s.total == 0 {
		return fmt.Sprintf("%s, %s so far", s.name, took.Round(time.Second))
	}
	text := fmt.Sprintf("%s, %s of %s", s.name, format(s.done), format(s.total))
	if s.done == 0 {
		return text
	}
	left := time.Duration(float64(took) / float64(s.done) * float64(s.total-s.done))
	return text + fmt.Sprintf(", about %s left for this step", max(left.Round(time.Second), time.Second))
}

// interrupted returns err, the error of a command, unless the user has ended the command. Then it
// returns an error that says so and what was changed, with the exit code exitInterrupted. It keeps
// the text of an error that has another cause.
func interrupted(ctx context.Context, err error, changed string) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	ended := fmt.Errorf("interrupted; %s", changed)
	if _, answered := errors.AsType[*ClientError](err); !answered && !errors.Is(err, context.Canceled) {
		ended = errors.Join(ended, err)
	}
	return &exitError{ended, exitInterrupted}
}

// counting is an io.Writer that reports the number of bytes that were written to it.
type counting struct {
	to   io.Writer
	work *longWork
	step workStep // the writes set its done
}

// Write writes b and reports it. It returns an error if the user has ended the command.
func (c *counting) Write(b []byte) (int, error) {
	if err := c.work.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.to.Write(b)
	c.step.done += int64(n)
	c.work.set(c.step)
	return n, err
}

// readInput reads a file, or standard input if file is "-". It returns the error of ctx as soon as
// that ends, because reading from a terminal or a pipe may block forever.
func (s *session) readInput(ctx context.Context, file string) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data, err := readFileOr(s.env.Stdin, file)
		read <- result{data, err}
	}()
	select {
	case r := <-read:
		return r.data, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// body is the body of a request that can be interrupted only until all of it was sent. After that the
// server acts on the request, and only its answer says what it has done.
type body struct {
	work *longWork
	stop context.CancelFunc // ends the request

	mu   sync.Mutex // guards what follows
	from *strings.Reader
	size int64
	cut  bool // the user has ended the request before all of the body was sent
}

// sendWhole sends a request that changes all or nothing, and shows how much of its body was sent. If
// the user ends the command before all of the body was sent, it returns the error of the context of
// w, and the server has changed nothing. If the user ends the command later, it waits for the answer.
func (w *longWork) sendWhole(client *Client, request RawRequest, result any) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(w.ctx))
	defer stop()
	b := &body{work: w, stop: stop, from: strings.NewReader(string(request.Body)), size: int64(len(request.Body))}
	told := make(chan struct{})
	ignore := context.AfterFunc(w.ctx, func() {
		defer close(told)
		b.interrupt()
	})
	err := client.patient().sendBody(ctx, request, b, result)
	if !ignore() {
		<-told
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return w.ctx.Err()
	}
	return err
}

// rewind makes the next Read return the beginning of the body. It is for a request that is sent again
// because the connection was closed before it was sent.
func (b *body) rewind() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.from.Seek(0, io.SeekStart) // cannot fail
}

// Read reads the next part of the body.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return 0, context.Canceled
	}
	n, err := b.from.Read(p)
	if left := int64(b.from.Len()); left > 0 {
		b.work.set(workStep{name: "sending the file", unit: inBytes, done: b.size - left, total: b.size})
	} else {
		b.work.set(workStep{name: "storing the rows"})
	}
	return n, err
}

// interrupt ends the request if the server does not have all of it.
func (b *body) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.from.Len() > 0 {
		b.cut = true
		b.stop()
		return
	}
	_, _ = io.WriteString(b.work.out, "\nThe server has the whole file. Waiting for its answer, because an import is all or nothing. Press Ctrl+C again to stop waiting.\n")
}
