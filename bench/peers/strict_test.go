package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// wrong lists requests that RFC 9112 calls errors, or that two programs may read in two ways.
var wrong = map[string]string{
	"unknown coding and a length":   "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"two lengths":                   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
	"length with a plus":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
	"length with a minus":           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
	"blank before a colon":          "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
	"blank before a length's colon": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
	"bare CR in a field":            "GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n",
	"NUL in a field":                "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
	"no Host":                       "GET / HTTP/1.1\r\nA: b\r\n\r\n",
	"two Hosts":                     "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
	"field without a colon":         "GET / HTTP/1.1\r\nHost: x\r\nwhat\r\n\r\n",
	"empty field name":              "GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
	"unknown coding":                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding behind a vertical tab":  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"chunk size with 0x":            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
	"chunk size with a minus":       "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
	"chunk without its end":         "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
	"bare LF in an extension":       "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
	"no version":                    "GET /\r\nHost: x\r\n\r\n",
	"method with a parenthesis":     "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
}

// start serves h with a server of a name, and returns its address.
func start(t *testing.T, name string, h http.HandlerFunc) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = servers[name](l, h) }()
	return l.Addr().String()
}

// ask sends bytes and returns the status of the answer, or "closed".
func ask(t *testing.T, address, text string) string {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "no answer"
	}
	return fmt.Sprint(r.StatusCode)
}

// net/http and our loop refuse every error. For the other servers the test only lists what they accept,
// and whether the context of a request ends with its client.
func TestErrors(t *testing.T) {
	for name := range servers {
		ended := make(chan bool, 1)
		address := start(t, name, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				select {
				case <-r.Context().Done():
					ended <- true
				case <-time.After(3 * time.Second):
					ended <- false
				}
				return
			}
			if _, err := io.ReadAll(r.Body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
		})
		for range 100 { // until it listens
			if c, err := net.Dial("tcp", address); err == nil {
				_ = c.Close()
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := ask(t, address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); got != "200" {
			t.Errorf("%s: a correct request got %s", name, got)
		}
		var accepted []string
		for what, text := range wrong {
			if ask(t, address, text) == "200" {
				accepted = append(accepted, what)
			}
		}
		slices.Sort(accepted)
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		_ = c.Close()
		followed := <-ended
		t.Logf("%s: accepts %d of %d errors: %s; the context ends with the client: %v", name, len(accepted), len(wrong), strings.Join(accepted, ", "), followed)
		if ours := name == "net/http" || name == "lean"; ours && (len(accepted) > 0 || !followed) {
			t.Errorf("%s must refuse all errors and notice the end of the client", name)
		}
	}
}
