package main

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"latchkey/internal/upstream"
)

// read sends the request whose head is given through upstream.Pool and writes the answer. It sets x.err
// if there is no answer.
func (x *proxyExchange) read(head []byte) {
	res, err := x.proxy.upstreams.RoundTrip(x.request.Request, upstream.Call{
		Host: x.guard.Upstream.Host, Head: head, Timeout: x.guard.Timeout,
		Hint: func(hint *http.Response) {
			x.extendWrite()
			x.take(hint.Header)
			x.WriteHeader(hint.StatusCode)
			clear(x.Header())
		},
		Context: x.context,
	})
	defer func() {
		if x.cancel != nil {
			x.cancel()
		}
	}()
	if err != nil {
		x.fail(x, x.request.Request, err)
		return
	}
	defer res.Body.Close()
	if err := x.answer(res); err != nil {
		x.fail(x, x.request.Request, err)
		return
	}
	x.take(res.Header)
	said := slices.Sorted(maps.Keys(res.Trailer))
	if len(said) > 0 {
		x.Header()["Trailer"] = []string{strings.Join(said, ", ")}
	}
	x.WriteHeader(res.StatusCode)
	if body, ok := res.Body.(interface{ Soon() bool }); ok && !x.stream && !body.Soon() {
		_ = x.control.Flush() // the next Write reports the error
	}
	if err := x.copy(res.Body); err != nil {
		x.proxy.quiet.Printf("request %s: the upstream's answer ended too early: %v", x.request.ID, err)
		panic(http.ErrAbortHandler) // so that the client sees that the answer is incomplete
	}
	for name, values := range res.Trailer {
		if !slices.Contains(said, name) {
			name = http.TrailerPrefix + name
		}
		x.Header()[name] = values
	}
}

// take copies the header fields of an answer to the answer for the client, except those that dropHop
// removes. It changes the header it is passed.
func (x *proxyExchange) take(from http.Header) {
	dropHop(from)
	maps.Copy(x.Header(), from)
}

// dropHop removes the fields that concern only one connection (RFC 9110, section 7.6.1).
func dropHop(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopFields {
		delete(h, name)
	}
}

// hopFields are the fields that dropHop always removes.
var hopFields = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate", "Proxy-Authorization"}

// copy writes a body to the client. It returns the error of the reader or of the writer.
func (x *proxyExchange) copy(from io.Reader) error {
	buf := x.proxy.buffers.Get()
	defer x.proxy.buffers.Put(buf)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := x.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// WriteHeader begins the answer. It leaves out informational answers to HTTP/1.0 clients, which do
// not know them (RFC 9110, section 15.2), and those with status 100, because net/http sends its own
// when the body of the client is read. It restores Connection: close if the server had set it, because
// httputil.ReverseProxy removes all fields that concern one connection.
func (x *proxyExchange) WriteHeader(status int) {
	switch {
	case status == http.StatusSwitchingProtocols: // for a valid switch, ReverseProxy hijacks the connection and does not call WriteHeader
		x.lost = true
		return
	case status == http.StatusContinue, status < http.StatusOK && !x.request.ProtoAtLeast(1, 1):
		return
	case status < http.StatusOK:
		dropHop(x.Header())
	}
	if x.last && status >= http.StatusOK {
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
	if x.stream && status >= http.StatusOK {
		_ = x.control.Flush() // the next Write reports the error
	}
}

// Write writes part of the body and extends the write deadline. Unless the body is complete, it
// sends the part immediately, because nobody knows when the upstream sends the next.
func (x *proxyExchange) Write(b []byte) (int, error) {
	x.extendWrite()
	n, err := x.ResponseWriter.Write(b)
	if x.left -= int64(n); x.left != 0 || x.stream {
		_ = x.control.Flush() // the next Write reports the error
	}
	return n, err
}

// answer prepares the header of the upstream's answer for the client. Header fields that the server
// had set override those of the upstream, such as Cache-Control if the key was in the URL. If
// Content-Type is missing, answer keeps net/http from adding a guessed one. It returns an error for
// a status below 100, which net/http cannot write, for a 101 that does not accept a WebSocket
// handshake, and for a stream if the key has too many.
func (x *proxyExchange) answer(res *http.Response) error {
	switch {
	case res.StatusCode < 100:
		return fmt.Errorf("the upstream answered with the invalid status %d", res.StatusCode)
	case x.lost:
		return errNotAsked
	case res.StatusCode == http.StatusSwitchingProtocols:
		if err := checkSwitch(res); err != nil {
			return err
		}
	}
	if res.StatusCode == http.StatusSwitchingProtocols || isEventStream(res.Header) {
		if s, ok := x.ResponseWriter.(Streamer); ok {
			if err := s.BeginStream(); err != nil {
				return err
			}
		}
	}
	// An answer of unknown length may be a stream, and one of events is, whatever its length.
	x.left = res.ContentLength
	x.stream = res.ContentLength < 0 || len(res.Trailer) > 0 || isEventStream(res.Header)
	if res.Header["Content-Type"] == nil {
		x.Header()["Content-Type"] = nil
	}
	maps.Copy(res.Header, x.said)
	return nil
}

// isEventStream reports whether a body consists of server-sent events.
func isEventStream(h http.Header) bool {
	const name = "text/event-stream"
	for _, value := range h["Content-Type"] {
		kind, _, _ := strings.Cut(value, ";")
		if kind = strings.TrimSpace(kind); len(kind) == len(name) && strings.EqualFold(kind, name) {
			return true
		}
	}
	return false
}

var errNotAsked = errors.New("the upstream answered with status 101, but the request did not ask for another protocol")

// checkSwitch returns an error if an answer with status 101 does not accept the WebSocket handshake
// of its request. A wrong Sec-WebSocket-Accept shows that the answer belongs to another request
// (RFC 6455, section 4.2.2). A missing one is not an error here, because the client must then close
// the connection itself (section 4.1).
func checkSwitch(res *http.Response) error {
	sent := res.Request.Header
	if !onlyWebSocket(sent["Upgrade"]) {
		return errNotAsked
	}
	if to := res.Header["Upgrade"]; !onlyWebSocket(to) {
		return fmt.Errorf("the upstream switched to the protocol %q, but the request asked for websocket", strings.Join(to, ", "))
	}
	sum := sha1.Sum([]byte(sent.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if accept := res.Header["Sec-Websocket-Accept"]; accept != nil && !slices.Equal(accept, []string{base64.StdEncoding.EncodeToString(sum[:])}) {
		return errors.New("the upstream switched to websocket, but its Sec-WebSocket-Accept does not belong to this request")
	}
	return nil
}
