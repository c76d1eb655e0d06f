package dashboard

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"latchkey/internal/acceptgzip"
	"latchkey/internal/packed"
)

// staticFile is a file that pages load.
type staticFile struct {
	name    string
	packed  []byte                 // the file as gzip
	data    func() ([]byte, error) // the file; the first call unpacks it
	version string                 // of the content
}

// staticNames are the names of the files that pages load.
var staticNames = []string{"style.css", "script.js", "icon.svg"}

// staticFiles returns the files that pages load, by their names.
func staticFiles() (map[string]staticFile, error) {
	all := map[string]staticFile{}
	for _, name := range staticNames {
		file, err := files.ReadFile("packed/" + name + ".gz")
		if err != nil {
			return nil, err
		}
		data := sync.OnceValues(func() ([]byte, error) { return packed.Unpack(file) })
		all[name] = staticFile{name, file, data, fmt.Sprintf("%.12x", sha256.Sum256(file))}
	}
	return all, nil
}

// address returns the address of the file. It changes with the content, so that browsers may keep the
// file for good.
func (f staticFile) address() string { return "/static/" + f.name + "?v=" + f.version }

// ServeHTTP sends the file. Under another address than that of address, browsers must ask whether it has
// changed.
func (f staticFile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, tag := w.Header(), f.version
	h.Set("Vary", "Accept-Encoding")
	data := f.packed
	if acceptgzip.By(r.Header) {
		tag += "-gzip"
		h.Set("Content-Encoding", "gzip")
		r.Header.Del("Range") // http.ServeContent would count the bytes of the packed file
	} else {
		data, _ = f.data() // a test unpacks it
	}
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "no-cache")
	if r.URL.RawQuery == (url.Values{"v": {f.version}}).Encode() {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(data))
}
