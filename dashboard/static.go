package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// staticFile is a file that pages load, as it is and packed with gzip.
type staticFile struct {
	name         string
	data, packed []byte
	version      string // of the content
}

// staticFiles returns the files that pages load, by their names.
func staticFiles() (map[string]staticFile, error) {
	all := map[string]staticFile{}
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			return nil, err
		}
		all[name] = staticFile{name, data, packed.Bytes(), fmt.Sprintf("%.12x", sha256.Sum256(data))}
	}
	return all, nil
}

// address returns the address of the file. It changes with the content, so that browsers may keep the
// file for good.
func (f staticFile) address() string { return "/static/" + f.name + "?v=" + f.version }

// ServeHTTP sends the file. Under another address than that of address, browsers must ask whether it has
// changed.
func (f staticFile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, data, tag := w.Header(), f.data, f.version
	h.Set("Vary", "Accept-Encoding")
	if takesGzip(r.Header) {
		data, tag = f.packed, tag+"-gzip"
		h.Set("Content-Encoding", "gzip")
		r.Header.Del("Range") // http.ServeContent would count the bytes of the packed file
	}
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "no-cache")
	if r.URL.RawQuery == (url.Values{"v": {f.version}}).Encode() {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(data))
}

// takesGzip reports whether a client accepts answers that are packed with gzip.
func takesGzip(h http.Header) bool {
	takes := false
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(part, " ", "")), ";q=")
		q, err := strconv.ParseFloat(weight, 64)
		if accepted := weight == "" || err == nil && q > 0; name == "gzip" {
			return accepted
		} else if name == "*" {
			takes = accepted
		}
	}
	return takes
}
