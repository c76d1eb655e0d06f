package lean

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// maxFields is the largest number of fields in a head; net/http serves requests with more.
const maxFields = 48

// The verdicts of head.scan.
const (
	odd     = iota // net/http must read it
	partial        // correct so far, but not complete
	whole
	empty // see conn.scan
)

// head is what the head of a request says.
type head struct {
	slot   *slot
	url    url.URL
	text   string
	length int // of the body in bytes
	host   string
	n      int                 // number of fields in the header
	names  [maxRepeated]string // of the first fields in the header
	close  bool

	checked int // bytes of the incomplete head that are known to be correct
	last    parsed
}

// maxRepeated is the largest number of fields of a head that is kept for the next request.
const maxRepeated = 16

// parsed is what a head has been read as, before the handler could change it. Many clients send the
// same head again and again on a connection, and it is read only once.
type parsed struct {
	text    string // all bytes of the head; "": none
	request http.Request
	url     url.URL
	length  int
	n       int // number of fields
	names   [maxRepeated]string
	values  [maxRepeated]string
}

// keep notes what the head has been read as.
func (h *head) keep() {
	p, s := &h.last, h.slot
	if p.text = ""; h.n > maxRepeated {
		return
	}
	p.text, p.request, p.url, p.length, p.n = h.text, s.request, h.url, h.length, h.n
	copy(p.names[:], h.names[:h.n])
	copy(p.values[:], s.values[:h.n])
}

// repeat makes the request of the slot what keep has noted.
func (h *head) repeat() {
	p, s := &h.last, h.slot
	s.request, h.url, h.text, h.length, h.n = p.request, p.url, p.text, p.length, p.n
	clear(s.header)
	for i := range p.n {
		s.values[i] = p.values[i]
		s.header[p.names[i]] = s.values[i : i+1 : i+1]
	}
}

// classes of bytes. A byte may be in several.
const (
	inName  = 1 << iota // in the name of a field
	inValue             // in the value of a field
	inPath              // in a path, without a special meaning
	inQuery             // in a query
	inHost              // in the field Host
)

var classes = func() (t [256]byte) {
	set := func(class byte, list string) {
		for i := range len(list) {
			t[list[i]] |= class
		}
	}
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	set(inName, alnum+"-")
	set(inPath, alnum+"-_.~/")
	set(inQuery, alnum+"-_.~/!$&'()*+,;=:@?%") // RFC 3986, section 3.4
	set(inHost, alnum+"-.:[]_")
	for b := byte(' '); b < 0x7f; b++ {
		t[b] |= inValue
	}
	return t
}()

// all reports whether all bytes of s are in a class.
func all(s string, class byte) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}

var headEnd = []byte("\r\n\r\n")

// scan reads the head of a request at the beginning of b into the request of the slot. It returns
// the length of the head. last is the text of the head before, which is used again if it is the
// same.
func (h *head) scan(b []byte, last string) (n int, verdict int) {
	i := bytes.Index(b, headEnd)
	if i < 0 {
		end := bytes.LastIndexByte(b, '\n') + 1
		if end == h.checked || h.read(string(b[:end])) {
			h.checked = end
			return 0, partial
		}
		return 0, odd
	}
	n, h.checked = i+len(headEnd), 0
	if string(b[:n]) == h.last.text {
		h.repeat()
		return n, whole
	}
	repeated := len(last) == n && string(b[:n]) == last
	if h.text = last; !repeated {
		h.text = string(b[:n])
	}
	if !h.read(h.text[:n-2]) || h.host == "" {
		return n, odd
	}
	h.fill()
	if repeated { // and so, probably, again
		h.keep()
	}
	return n, whole
}

// fill completes the request.
func (h *head) fill() {
	r := &h.slot.request
	r.URL, r.Host, r.Header, r.ContentLength, r.Close = &h.url, h.host, h.slot.header, int64(h.length), h.close
	r.Proto, r.ProtoMajor, r.ProtoMinor, r.Body = "HTTP/1.1", 1, 1, http.NoBody
}

// read reads lines that each end with CR LF: the request line and fields. It returns false if
// net/http must read them.
func (h *head) read(lines string) bool {
	s := h.slot
	s.request = *s.plain
	clear(s.header)
	h.length, h.host, h.n, h.close = 0, "", 0, false
	line, lines, ok := cutLine(lines)
	if !ok || !h.requestLine(line) {
		return false
	}
	for lines != "" {
		if line, lines, ok = cutLine(lines); !ok || !h.field(line) {
			return false
		}
	}
	return true
}

// cutLine cuts the first line off, which ends with CR LF. ok is false if a lone CR or LF ends it.
func cutLine(s string) (line, rest string, ok bool) {
	i := strings.IndexByte(s, '\n')
	if i < 1 || s[i-1] != '\r' {
		return "", "", false
	}
	return s[:i-1], s[i+1:], true
}

// methods are the methods of requests that are served.
var methods = [...]string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// requestLine reads the first line of a request.
func (h *head) requestLine(line string) bool {
	method, rest, _ := strings.Cut(line, " ")
	target, isHTTP := strings.CutSuffix(rest, " HTTP/1.1")
	if !isHTTP || target == "" || target[0] != '/' {
		return false
	}
	r := &h.slot.request
	for _, m := range methods {
		if m == method {
			r.Method = m
		}
	}
	path, query, _ := strings.Cut(target, "?")
	if r.Method == "" || !all(query, inQuery) {
		return false
	}
	r.RequestURI = target
	if all(path, inPath) && (query != "" || len(path) == len(target)) {
		h.url = url.URL{Path: path, RawQuery: query}
		return true
	}
	if !all(path, inQuery) {
		return false
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return false
	}
	h.url = *u
	return true
}

// field reads the line of a field.
func (h *head) field(line string) bool {
	colon := strings.IndexByte(line, ':')
	if colon <= 0 || !all(line[:colon], inName) || !all(line[colon+1:], inValue) {
		return false
	}
	name, value := canonical(line[:colon]), strings.Trim(line[colon+1:], " ")
	switch name {
	case "Host":
		if h.host != "" || value == "" || !all(value, inHost) {
			return false
		}
		h.host = value
		return true
	case "Connection":
		switch value {
		case "close":
			h.close = true
		case "keep-alive", "Keep-Alive":
		default:
			return false
		}
	case "Content-Length":
		if !h.contentLength(value) {
			return false
		}
	case "Transfer-Encoding", "Expect", "Upgrade", "Http2-Settings", "Te", "Trailer", "Pragma", "Proxy-Connection":
		return false
	}
	if h.n == maxFields || h.slot.header[name] != nil {
		return false
	}
	if h.n < maxRepeated {
		h.names[h.n] = name
	}
	s := h.slot
	s.values[h.n] = value
	s.header[name] = s.values[h.n : h.n+1 : h.n+1]
	h.n++
	return true
}

// contentLength reads the value of Content-Length. It returns false for a value that is not written
// in the shortest way, for a body that does not fit, and for a body where none is usual.
func (h *head) contentLength(value string) bool {
	if value == "" || len(value) > 5 || len(value) > 1 && value[0] == '0' {
		return false
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return false
		}
		h.length = 10*h.length + int(value[i]-'0')
	}
	method := h.slot.request.Method
	return h.length <= bufferSize && (h.length == 0 || method != http.MethodGet && method != http.MethodHead)
}

// canonical returns the name of a field as in http.Header.
func canonical(name string) string {
	switch name {
	case "host":
		return "Host"
	case "X-API-Key", "x-api-key":
		return "X-Api-Key"
	case "authorization":
		return "Authorization"
	case "accept":
		return "Accept"
	case "user-agent":
		return "User-Agent"
	case "accept-encoding":
		return "Accept-Encoding"
	case "accept-language":
		return "Accept-Language"
	case "connection":
		return "Connection"
	case "content-type":
		return "Content-Type"
	case "content-length":
		return "Content-Length"
	case "x-forwarded-for":
		return "X-Forwarded-For"
	case "x-forwarded-proto":
		return "X-Forwarded-Proto"
	case "x-forwarded-host":
		return "X-Forwarded-Host"
	case "x-real-ip":
		return "X-Real-Ip"
	case "idempotency-key":
		return "Idempotency-Key"
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}
