package lean

import (
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"testing"
)

// heads are complete heads that the lean loop reads.
var heads = []string{
	"GET /a/?b=c HTTP/1.1\r\nHost: one\r\nX-API-Key: k\r\nAccept: */*\r\n\r\n",
	"GET /a/?b=c HTTP/1.1\r\nHost: one\r\nX-API-Key: l\r\nAccept: */*\r\n\r\n", // as long as the first
	"POST /%41 HTTP/1.1\r\nhost: two\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
	"HEAD / HTTP/1.1\r\nHost: three\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: four\r\n" + manyFields(maxRepeated) + "\r\n",
	"GET / HTTP/1.1\r\nHost: four\r\n" + manyFields(maxRepeated+1) + "\r\n",
}

func manyFields(n int) (text string) {
	for i := range n {
		text += "X-Field-" + string(rune('A'+i)) + ": v\r\n"
	}
	return text
}

// spoil changes everything in a request that a handler can change.
func spoil(r *http.Request) {
	for name, values := range r.Header {
		values[0] = "spoiled"
		r.Header["Not-"+name] = values
		delete(r.Header, name)
	}
	*r.URL = url.URL{Path: "/spoiled"}
	r.Method, r.Host, r.RequestURI, r.Header, r.Body = "SPOILED", "spoiled", "/spoiled", http.Header{}, nil
	r.ContentLength, r.Close, r.URL = 99, !r.Close, nil
	r.SetPathValue("spoiled", "yes")
}

// A head that is equal to the one before is not read again, and yet the request is the same,
// whatever the handler has done to the last one.
func TestHead_Repeats(t *testing.T) {
	type result struct {
		request http.Request
		url     url.URL
		header  http.Header
		length  int
		text    string
		n       int
	}
	scan := func(s *slot, text string) result {
		n, verdict := s.fields.scan([]byte(text+"next"), s.fields.text)
		if n != len(text) || verdict != whole {
			t.Fatalf("%q: got %d bytes and verdict %d, want %d and %d", text, n, verdict, len(text), whole)
		}
		got := result{s.request, *s.request.URL, maps.Clone(s.request.Header), s.fields.length, s.fields.text, n}
		if reflect.ValueOf(s.request.Header).Pointer() != reflect.ValueOf(s.header).Pointer() || s.request.URL != &s.fields.url {
			t.Fatalf("%q: the request does not use the memory of the slot", text)
		}
		for name, values := range got.header {
			got.header[name] = []string{values[0]}
			if len(values) != 1 || cap(values) != 1 {
				t.Fatalf("%q: got the values %q with capacity %d, want one", name, values, cap(values))
			}
		}
		got.request.URL, got.request.Header = nil, nil
		return got
	}
	used := newSlot()
	for _, first := range heads {
		for _, second := range heads {
			for i, text := range []string{first, first, second, first, second, second, second} {
				fresh := newSlot()
				got, want := scan(used, text), scan(fresh, text)
				if got.request.Context() != &used.context || want.request.Context() != &fresh.context {
					t.Fatalf("%q: the request has another context than its slot", text)
				}
				got.request, want.request = *got.request.WithContext(t.Context()), *want.request.WithContext(t.Context())
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%q: got %+v, want %+v", text, got, want)
				}
				spoil(&used.request)
				if i%2 == 0 {
					continue
				}
				if n, verdict := used.fields.scan([]byte(text[:len(text)/2]), ""); n != 0 || verdict != partial {
					t.Fatalf("%q: got verdict %d for its first half", text, verdict)
				}
			}
		}
	}
}

// A head that was the same twice is not read a third time, which this sees by a mark in what was
// kept.
func TestHead_ReadsOnce(t *testing.T) {
	s := newSlot()
	read := func(text string) string {
		if _, verdict := s.fields.scan([]byte(text), s.fields.text); verdict != whole {
			t.Fatalf("%q: got verdict %d", text, verdict)
		}
		return s.request.Host
	}
	read(heads[0])
	read(heads[0])
	s.fields.last.request.Host = "mark"
	if got := read(heads[0]); got != "mark" {
		t.Errorf("got host %q, want that of the head before", got)
	}
	if got := read(heads[1]); got != "one" {
		t.Errorf("got host %q of another head, want its own", got)
	}
}
