package lean

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// holdSize is how much of a body is held back, in bytes. If the handler returns before that, the
// answer has a Content-Length; otherwise it is sent in chunks. It is the figure of net/http.
const holdSize = 2048

// response is an http.ResponseWriter with the rules of that of net/http. It writes into the buffer
// of the connection.
type response struct {
	conn   *conn
	header http.Header
	status int    // 0: WriteHeader has not been called
	length int64  // declared by the handler; -1: not declared
	lines  []byte // see SetFieldLines

	mark      int         // where the answer begins in the buffer, until the head is complete
	sent      bool        // the head is complete
	written   int64       // bytes of the body that the handler has written
	hold      []byte      // the beginning of the body
	coding    string      // Transfer-Encoding by the handler
	hasLength bool        // the handler has set Content-Length
	link      []string    // Connection by the handler
	trailers  []string    // names declared in Trailer
	late      bool        // there are trailers
	has       fieldsGiven // fields that the handler has set
	chunked   bool
	close     bool // the connection must be closed after the answer
	flushed   bool
	done      bool // the handler has returned
}

// fieldsGiven says which fields a handler has set.
type fieldsGiven struct{ kind, date, encoding bool }

// begin prepares w for the next answer.
func (w *response) begin() {
	clear(w.header)
	*w = response{conn: w.conn, header: w.header, length: -1, hold: w.hold[:0], lines: w.lines[:0], close: w.conn.slot.request.Close, trailers: w.trailers[:0]}
}

// Header returns the fields of the answer.
func (w *response) Header() http.Header { return w.header }

// FieldLines returns memory for SetFieldLines.
func (w *response) FieldLines() []byte { return w.lines[:0] }

// SetFieldLines adds fields to the answer, beside those of Header. lines has a line for each, such
// as "Age: 5\r\n", and belongs to w from then on. The caller vouches that they are correct, that
// the header has none of them, and that none of Content-Length, Transfer-Encoding, Connection,
// Date, Trailer, Content-Type and Content-Encoding is among them. It must be called before
// WriteHeader.
func (w *response) SetFieldLines(lines []byte) { w.lines = lines }

// isHead reports whether the request is HEAD, so that the answer has no body.
func (w *response) isHead() bool { return w.conn.slot.request.Method == http.MethodHead }

// bodyAllowed reports whether an answer with a status has a body (RFC 9110, section 6.4.1).
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// WriteHeader sets the status and takes the fields from the header.
func (w *response) WriteHeader(status int) {
	switch {
	case w.status != 0:
		w.conn.server.logf("http: superfluous response.WriteHeader call")
		return
	case status < 100 || status > 999:
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	out := w.conn.output()
	if status < 200 && status != http.StatusSwitchingProtocols {
		*out = appendStatus(*out, status)
		for name, values := range w.header {
			if name != "Content-Length" && name != "Transfer-Encoding" {
				*out = appendField(*out, name, values)
			}
		}
		*out = append(*out, "\r\n"...)
		w.conn.flush()
		w.flushed = true
		return
	}
	w.status, w.mark = status, len(*out)
	*out = appendStatus(*out, status)
	w.fields(out)
	*out = append(*out, w.lines...)
	if !w.hasLength {
		return
	}
	declared := w.header.Get("Content-Length")
	if n, err := strconv.ParseInt(declared, 10, 64); err == nil && n >= 0 {
		w.length = n
	} else if declared != "" {
		w.conn.server.logf("http: invalid Content-Length of %q", declared)
	}
}

// fields appends the fields of the header, except those that depend on the body.
func (w *response) fields(out *[]byte) {
	for name, values := range w.header {
		switch name {
		case "Content-Length":
			w.hasLength = true
			continue
		case "Transfer-Encoding":
			if len(values) > 0 {
				w.coding = values[0]
			}
			continue
		case "Connection":
			w.link = values
			continue
		case "Content-Type":
			w.has.kind = true
			if w.status == http.StatusNotModified {
				continue
			}
		case "Content-Encoding":
			w.has.encoding = len(values) > 0 && values[0] != ""
		case "Date":
			w.has.date = true
		case "Trailer":
			w.late = w.late || len(values) > 0
			w.declare(values)
		}
		if strings.HasPrefix(name, http.TrailerPrefix) {
			w.late = true
			continue
		}
		*out = appendField(*out, name, values)
	}
}

// declare notes the names in the field Trailer.
func (w *response) declare(values []string) {
	for _, value := range values {
		for name := range strings.SplitSeq(textproto.TrimString(value), ",") {
			if name = http.CanonicalHeaderKey(textproto.TrimString(name)); name != "" && httpguts.ValidTrailerHeader(name) {
				w.trailers = append(w.trailers, name)
			}
		}
	}
}

// appendStatus appends a status line.
func appendStatus(b []byte, status int) []byte {
	if status == http.StatusOK {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = append(b, "status code "...)
		b = strconv.AppendInt(b, int64(status), 10)
	}
	return append(b, "\r\n"...)
}

// isUsual reports whether name is that of a field which most answers have. It must not be true for a
// name that is not valid.
func isUsual(name string) bool {
	switch name {
	case "Cache-Control", "Content-Type", "Link", "Ratelimit", "Ratelimit-Policy", "Referrer-Policy", "Vary",
		"X-Content-Type-Options", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset":
		return true
	}
	return false
}

var spaces = strings.NewReplacer("\n", " ", "\r", " ")

// appendField appends a field. A name that is not valid is left out, and line ends in a value
// become spaces, so that a value cannot add fields or end the head.
func appendField(b []byte, name string, values []string) []byte {
	if !isUsual(name) && !httpguts.ValidHeaderFieldName(name) {
		return b
	}
	for _, value := range values {
		if strings.IndexByte(value, '\n') >= 0 || strings.IndexByte(value, '\r') >= 0 {
			value = spaces.Replace(value)
		}
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, textproto.TrimString(value)...)
		b = append(b, "\r\n"...)
	}
	return b
}

// sendHead completes the head of the answer. w.hold is the beginning of its body.
func (w *response) sendHead() {
	if w.sent {
		return
	}
	w.sent = true
	w.conn.now = time.Now()
	out := w.conn.output()
	b := *out
	allowed, coded := bodyAllowed(w.status), w.coding != ""
	if w.done && !w.late && !coded && allowed && !w.hasLength && (!w.isHead() || len(w.hold) > 0) {
		w.length = int64(len(w.hold))
	}
	counted := w.length >= 0
	stopping := w.conn.server.stage.Load() != serving
	if stopping || len(w.link) > 0 && w.link[0] == "close" {
		w.close = true
	}
	if allowed && !w.has.encoding && !w.has.kind && !coded && len(w.hold) > 0 {
		b = append(b, "Content-Type: "...)
		b = append(b, http.DetectContentType(w.hold)...)
		b = append(b, "\r\n"...)
	}
	if !w.has.date {
		b = append(b, w.conn.server.dateField(w.conn.now)...)
	}
	if counted && coded && w.coding != "identity" {
		w.conn.server.logf("http: WriteHeader called with both Transfer-Encoding of %q and a Content-Length of %d", w.coding, w.length)
		counted = false
	}
	switch {
	case w.isHead() || !allowed || counted:
	case w.coding == "identity":
		w.close = true
	default:
		w.chunked = true
		if coded && w.coding != "chunked" {
			b = appendField(b, "Transfer-Encoding", w.header["Transfer-Encoding"])
		}
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if allowed && counted && !w.chunked {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, w.length, 10)
		b = append(b, "\r\n"...)
	}
	if w.close && (stopping || !hasToken(w.link, "close")) {
		b = append(b, "Connection: close\r\n"...)
	} else {
		b = appendField(b, "Connection", w.link)
	}
	*out = append(b, "\r\n"...)
}

// hasToken reports whether the first value is a list with a token.
func hasToken(values []string, token string) bool {
	return len(values) > 0 && httpguts.HeaderValuesContainsToken(values[:1], token)
}

// Write sends a part of the body.
func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(b) == 0 {
		return 0, nil
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(len(b))
	if w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	if !w.sent && len(w.hold)+len(b) <= holdSize {
		w.hold = append(w.hold, b...)
		return len(b), w.conn.werr
	}
	if !w.sent {
		n := min(len(b), holdSize-len(w.hold))
		w.hold = append(w.hold, b[:n]...)
		w.sendHold()
		b = b[n:]
		w.body(b)
		return n + len(b), w.conn.werr
	}
	w.body(b)
	return len(b), w.conn.werr
}

// WriteString is like Write.
func (w *response) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// sendHold completes the head and sends the beginning of the body.
func (w *response) sendHold() {
	if !w.sent {
		w.sendHead()
		w.body(w.hold)
		w.hold = w.hold[:0]
	}
}

// body appends a part of the body to the buffer, or writes it if it is large.
func (w *response) body(b []byte) {
	if len(b) == 0 || w.isHead() {
		return
	}
	out := w.conn.output()
	if w.chunked {
		*out = strconv.AppendInt(*out, int64(len(b)), 16)
		*out = append(*out, "\r\n"...)
	}
	if len(b) >= flushSize {
		w.conn.flush()
		w.conn.write(b)
	} else {
		*out = append(*out, b...)
	}
	if w.chunked {
		*out = append(*out, "\r\n"...)
	}
	if len(*out) >= flushSize {
		w.conn.flush()
	}
}

// Flush sends what has been written so far.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is like Flush, and returns the first error of writing.
func (w *response) FlushError() error {
	w.flushed = true
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.sendHold()
	w.conn.flush()
	return w.conn.werr
}

// SetReadDeadline sets the read deadline of the connection until the handler returns. Like
// SetWriteDeadline, it may be called by several goroutines.
func (w *response) SetReadDeadline(t time.Time) error {
	w.conn.readMoved.Store(true)
	return w.conn.nc.SetReadDeadline(t)
}

// SetWriteDeadline sets the write deadline of the connection until the handler returns.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.conn.writeMoved.Store(true)
	return w.conn.nc.SetWriteDeadline(t)
}

// EnableFullDuplex does nothing: the whole body of the request has been read.
func (w *response) EnableFullDuplex() error { return nil }

// finish completes the answer. It returns false if the connection must be closed.
func (w *response) finish() (reuse bool) {
	w.done = true
	if w.sent {
		w.conn.now = time.Now() // the head may have been sent long ago
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.sendHold()
	if w.chunked {
		out := w.conn.output()
		*out = append(*out, "0\r\n"...)
		w.appendTrailers(out)
		*out = append(*out, "\r\n"...)
	}
	short := !w.isHead() && w.length >= 0 && bodyAllowed(w.status) && w.length != w.written
	return !w.close && !short && w.conn.werr == nil
}

// appendTrailers appends the fields that follow the body.
func (w *response) appendTrailers(out *[]byte) {
	if len(w.trailers) == 0 && len(w.header) == 0 {
		return
	}
	late := http.Header{}
	for name, values := range w.header {
		if name, found := strings.CutPrefix(name, http.TrailerPrefix); found {
			late[name] = values
		}
	}
	for _, name := range w.trailers {
		late[name] = append(slices.Clip(late[name]), w.header[name]...)
	}
	for _, name := range slices.Sorted(maps.Keys(late)) {
		*out = appendField(*out, name, late[name])
	}
}

// abort drops the part of the answer that is not complete enough to be sent, after a panic.
func (w *response) abort() {
	if w.status != 0 && !w.sent && w.conn.out != nil {
		*w.conn.out = (*w.conn.out)[:w.mark]
	}
}

// body is the body of a request, of which all bytes have been received. It is used by one goroutine
// at a time, as that of net/http.
type body struct {
	reader *bytes.Reader
	closed bool
}

// newBody returns a body with a copy of b.
func newBody(b []byte) *body { return &body{reader: bytes.NewReader(bytes.Clone(b))} }

// Read reads from the body.
func (b *body) Read(p []byte) (int, error) {
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.reader.Read(p)
}

// Close ends the body.
func (b *body) Close() error {
	b.closed = true
	return nil
}

// newSlot returns memory for the requests of one connection after the other, see serve.
func newSlot() *slot {
	s := &slot{header: make(http.Header, 16)}
	s.plain = new(http.Request).WithContext(&s.context)
	s.fields.slot = s
	s.response = response{header: make(http.Header, 16), hold: make([]byte, 0, 512)}
	return s
}

// serve makes s the memory for the requests of c. nil: of no connection.
func (s *slot) serve(c *conn) {
	s.context.Context, s.context.conn, s.response.conn, s.fields.checked = context.Background(), c, c, 0
	if c != nil {
		s.context.Context = c.base
	}
}
