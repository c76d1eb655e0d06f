// Package acceptgzip tells whether a client takes answers that are compressed with gzip.
package acceptgzip

import (
	"net/http"
	"strconv"
	"strings"
)

// By reports whether the header of a request accepts gzip (RFC 9110, section 12.5.3).
func By(h http.Header) bool {
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
