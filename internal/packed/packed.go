// Package packed compresses files for the program and reads them there. A test of each user compares its packed files with the sources.
package packed

import (
	"bytes"
	"compress/gzip"
	"io"
)

// Pack returns data compressed by gzip. Packed data of other versions of Go may differ; what it unpacks to does not.
func Pack(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	_, _ = w.Write(data)                                  // a Buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// Unpack returns the data that was packed.
func Unpack(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
