package program

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
)

// Client asks the admin endpoint of a server over its control socket, each time
// by a connection of its own, so that none is left open. It is safe for
// concurrent use.
type Client struct{ http *http.Client }

// StatusError is an answer other than success.
type StatusError struct {
	Status  int    `json:"-"`
	Code    string `json:"error"`
	Message string `json:"message"`
}

// Error returns the status, the code and the message as one string.
func (e *StatusError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// NewClient returns a client for the server of a data folder. Nothing need be
// listening yet.
func NewClient(data string) *Client {
	return &Client{&http.Client{Transport: SocketTransport(data), Timeout: patience}}
}

// SocketTransport sends all requests to the control socket of the server with a data folder.
func SocketTransport(data string) *http.Transport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(data, "control.sock"))
	}
	return &http.Transport{DialContext: dial, DisableKeepAlives: true}
}

// Do sends a value as JSON, nothing if it is nil, and decodes the answer into
// another, unless that is nil. An answer other than success is a *StatusError.
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	var answer bytes.Buffer
	if err := c.send(ctx, method, path, data, &answer); err != nil || into == nil {
		return err
	}
	return json.Unmarshal(answer.Bytes(), into)
}

// Copy writes the body of the answer to a GET to w. An answer other than success
// is a *StatusError.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	return c.send(ctx, http.MethodGet, path, nil, w)
}

func (c *Client) send(ctx context.Context, method, path string, body []byte, w io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		e := &StatusError{Status: answer.StatusCode}
		_ = json.NewDecoder(answer.Body).Decode(e) // a body of another shape leaves the status
		return e
	}
	_, err = io.Copy(w, answer.Body)
	return err
}
