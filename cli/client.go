package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"latchkey/internal/sockpath"
	"latchkey/internal/strictjson"
)

// Client sends requests to the admin endpoint. Over the network or a socket, a request times out
// after a minute; Copy has no timeout. A Client is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// ClientError is the error for an answer with a status other than 2xx.
type ClientError struct {
	Status  int    `json:"-"`       // HTTP status
	Code    string `json:"error"`   // error code; "" if the answer contains none
	Message string `json:"message"` // explanation for people; "" if the answer contains none
	// Rows are the rows of an import that were refused, up to the number that the server lists. Count
	// is the number of all of them.
	Rows  []RefusedRow `json:"errors"`
	Count int          `json:"error_count"`
	// MaxRows is how many rows of an import fit into one request; 0 unless it had too many.
	MaxRows int `json:"max_rows"`
}

// RefusedRow is a row of an import that was refused.
type RefusedRow struct {
	Kind    string `json:"kind"`  // of an entry of a file for apply; "" for an import
	Field   string `json:"field"` // of such an entry; "" if the whole entry is wrong
	Row     int    `json:"row"`   // from 1
	Line    int    `json:"line"`  // line of the file; 0 for JSON
	Message string `json:"message"`
}

// Error returns the server's message. If there is none, it returns a text with the status.
func (e *ClientError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answered with status %d", e.Status)
	}
	return e.Message
}

// folderClient returns a client for the control socket of the server that has the data folder dir
// open.
func folderClient(dir string) *Client { return NewSocketClient(filepath.Join(dir, "control.sock")) }

// NewSocketClient returns a client that connects to the control socket at path. Each request has a
// connection of its own, because a server that reloads its configuration asks itself: it would keep
// both ends open until they have been idle for long enough.
func NewSocketClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, release, err := sockpath.Short(path)
		if err != nil {
			return nil, err
		}
		defer release()
		return (&net.Dialer{}).DialContext(ctx, "unix", short)
	}
	return &Client{base: "http://control", http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: time.Minute}}
}

// NewTCPClient returns a client for the admin listener at url. It sends token with each request
// unless token is "". roots are the certificate authorities that the client trusts; nil means the
// authorities of the system.
func NewTCPClient(url, token string, roots *x509.CertPool) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &Client{base: strings.TrimSuffix(url, "/"), token: token, http: &http.Client{Transport: transport, Timeout: time.Minute}}
}

// NewLocalClient returns a client that passes requests to a handler in this process, without a
// timeout.
func NewLocalClient(h http.Handler) *Client {
	return &Client{base: "http://local", http: &http.Client{Transport: inProcess{h}}}
}

// inProcess is an http.RoundTripper that passes requests to a handler.
type inProcess struct{ handler http.Handler }

// RoundTrip calls the handler and returns as soon as the handler has set the status. The caller
// reads the body while the handler writes it, so the body may be larger than the memory.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.RemoteAddr, in.RequestURI = "127.0.0.1:0", r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, writer := io.Pipe()
	w := &pipedAnswer{body: writer, header: http.Header{}, began: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.handler.ServeHTTP(w, in)
		w.WriteHeader(http.StatusOK) // in case the handler wrote nothing
		_ = writer.Close()
	}()
	<-w.began
	length, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64)
	if err != nil {
		length = -1
	}
	return &http.Response{StatusCode: w.status, Header: w.sent, Body: pipedBody{body, ended}, ContentLength: length, Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
}

// pipedBody is the body of an answer of a handler in this process.
type pipedBody struct {
	*io.PipeReader
	ended <-chan struct{} // closed when the handler has returned
}

// Close makes further writes of the handler fail and waits until the handler has returned. So the
// handler has removed its temporary files before the caller closes the data folder.
func (b pipedBody) Close() error {
	err := b.PipeReader.Close()
	<-b.ended
	return err
}

// pipedAnswer is an http.ResponseWriter that writes the body to a pipe.
type pipedAnswer struct {
	body   *io.PipeWriter
	header http.Header   // the fields that the handler sets
	sent   http.Header   // a copy of header, made when the status is set
	status int           // 0 until it is set
	began  chan struct{} // closed when the status is set
}

// Header returns the header fields. The handler may change them until it sets the status.
func (w *pipedAnswer) Header() http.Header { return w.header }

// WriteHeader sets the status and sends the header fields. Only the first call has an effect.
func (w *pipedAnswer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status, w.sent = status, w.header.Clone()
	close(w.began)
}

// Write writes a part of the body and blocks until the client has read it. It sets the status 200
// if no status is set.
func (w *pipedAnswer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// Alive reports whether the server answers GET /healthz with a 2xx status within two seconds.
func (c *Client) Alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return c.Do(ctx, Request{http.MethodGet, "/healthz", nil}, nil) == nil
}

// Copy sends a GET request for path, without a timeout, and copies the body of the answer to w. If
// the status is not 2xx, it writes nothing and returns a *ClientError. After any other error w may
// contain a part of the body.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	return c.copyAnswer(ctx, path, func(int64) io.Writer { return w })
}

// copyAnswer is like Copy for a writer that open returns. The argument of open is the length of the
// body in bytes, or -1 if it is not known.
func (c *Client) copyAnswer(ctx context.Context, path string, open func(length int64) io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.patient().http.Do(r)
	if err != nil {
		return unreachable(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		data, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
		if err != nil {
			return err
		}
		return c.refused(ctx, answer.StatusCode, data)
	}
	n, err := io.Copy(open(answer.ContentLength), answer.Body)
	if err == nil && answer.ContentLength >= 0 && n != answer.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// unreachable returns the error for a request that got no answer, with what to do about a wrong --url or a
// certificate that is not trusted.
func unreachable(err error) error {
	fix := ""
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		fix = "; name the authority with --ca FILE (or LATCHKEY_CA)"
	case errors.As(err, &notTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		fix = "; the server does not speak TLS there: write http:// in --url (or LATCHKEY_URL) if it is on this machine"
	}
	return fmt.Errorf("the server cannot be reached: %w%s", err, fix)
}

// refused returns the *ClientError for an answer with this status and body. It says so if the server is not that of
// an admin listener, or speaks TLS.
func (c *Client) refused(ctx context.Context, status int, body []byte) error {
	e := &ClientError{Status: status}
	_ = json.Unmarshal(body, e) // if the body is not an error in JSON, Code and Message stay empty
	switch {
	case status == http.StatusBadRequest && bytes.HasPrefix(body, []byte("Client sent an HTTP request to an HTTPS server")): // net/http says so
		e.Message = "the server speaks TLS there: write https:// in --url (or LATCHKEY_URL)"
	case status == http.StatusNotFound && c.token != "" && (e.Message == "" || !c.isAdmin(ctx)):
		e.Message = "--url (or LATCHKEY_URL) must be the URL of the admin listener, which by default is at port 8081; there is no such endpoint at " + c.base
	}
	return e
}

// isAdmin reports whether the server has the admin endpoints. It reports true if that is not known.
func (c *Client) isAdmin(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/admin/v1/status", nil)
	if err != nil {
		return true
	}
	r.Header.Set("Authorization", "Bearer "+c.token) // or the server would count it among the wrong ones
	answer, err := c.http.Do(r)
	if err != nil {
		return true
	}
	_ = answer.Body.Close()
	return answer.StatusCode != http.StatusNotFound
}

// Request is a request with a body in JSON.
type Request struct {
	Method string
	Path   string // URL path, with the query
	Body   any    // value to send as JSON; nil for no body
}

// raw returns the request with its body encoded.
func (r Request) raw() (RawRequest, error) {
	raw := RawRequest{Method: r.Method, Path: r.Path, ContentType: "application/json"}
	if r.Body == nil {
		return raw, nil
	}
	var err error
	raw.Body, err = strictjson.Encode(r.Body)
	return raw, err
}

// RawRequest is a request with an encoded body.
type RawRequest struct {
	Method      string
	Path        string // URL path, with the query
	ContentType string // of Body; ignored if Body is empty
	Body        []byte
}

// Do sends a request and decodes the JSON of the answer into result, which is a pointer. A number
// whose type result does not give becomes a json.Number, with all its digits. If result is nil, Do
// ignores the body of the answer. It returns a *ClientError if the status is not 2xx.
func (c *Client) Do(ctx context.Context, request Request, result any) error {
	raw, err := request.raw()
	if err != nil {
		return err
	}
	return c.Send(ctx, raw, result)
}

// patient returns a client that is like c and has no timeout.
func (c *Client) patient() *Client {
	patient, client := *c, *c.http
	client.Timeout = 0
	patient.http = &client
	return &patient
}

// Send is like Do for a request whose body is already encoded.
func (c *Client) Send(ctx context.Context, request RawRequest, result any) error {
	return c.sendBody(ctx, request, nil, result)
}

// sendBody is like Send, but it reads the body of the request from b, unless that is nil.
func (c *Client) sendBody(ctx context.Context, request RawRequest, b *body, result any) error {
	r, err := http.NewRequestWithContext(ctx, request.Method, c.base+request.Path, bytes.NewReader(request.Body))
	if err != nil {
		return err
	}
	if b != nil {
		r.Body = io.NopCloser(b)
		r.GetBody = func() (io.ReadCloser, error) {
			b.rewind()
			return io.NopCloser(b), nil
		}
	}
	if len(request.Body) > 0 {
		r.Header.Set("Content-Type", request.ContentType)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return unreachable(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		return c.refused(ctx, answer.StatusCode, data)
	}
	if result == nil {
		return nil
	}
	if err := strictjson.Decode(data, result); err != nil {
		return errors.Join(errors.New("the answer is not JSON; check that the URL is that of the admin listener"), err)
	}
	return nil
}
