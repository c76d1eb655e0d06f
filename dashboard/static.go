package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"latchkey/internal/acceptgzip"
)

// staticFile is a file that pages load.
type staticFile struct {
	name    string
	data    []byte
	packed  func() []byte // data as gzip, made at the first use
	version string        // of the content
}

// staticFiles returns the files that pages load, by their names.
func staticFiles() (map[string]staticFile, error) {
	all := map[string]staticFile{}
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all[name] = staticFile{name, data, sync.OnceValue(func() []byte { return pack(data) }), fmt.Sprintf("%.12x", sha256.Sum256(data))}
	}
	return all, nil
}

// pack returns data as gzip.
func pack(data []byte) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(data) // a Buffer takes everything
	_ = w.Close()
	return packed.Bytes()
}

// address returns the address of the file. It changes with the content, so that browsers may keep the
// file for good.
func (f staticFile) address() string { return "/static/" + f.name + "?v=" + f.version }

// ServeHTTP sends the file. Under another address than that of address, browsers must ask whether it has
// changed.
func (f staticFile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, data, tag := w.Header(), f.data, f.version
	h.Set("Vary", "Accept-Encoding")
	if acceptgzip.By(r.Header) {
		data, tag = f.packed(), tag+"-gzip"
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
