package acceptgzip

import (
	"net/http"
	"testing"
)

func TestBy(t *testing.T) {
	for _, tt := range []struct {
		fields []string
		want   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"gzip"}, true},
		{[]string{"deflate, GZIP;q=0.5"}, true},
		{[]string{"deflate", "gzip ; q=0.001"}, true},
		{[]string{"gzip;q=0"}, false},
		{[]string{"gzip; q=0.000, br"}, false},
		{[]string{"gzip;q=x"}, false},
		{[]string{"*"}, true},
		{[]string{"*, gzip;q=0"}, false},
		{[]string{"*;q=0"}, false},
		{[]string{"identity"}, false},
		{[]string{"x-gzipped"}, false},
	} {
		if got := By(http.Header{"Accept-Encoding": tt.fields}); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.fields, got, tt.want)
		}
	}
}
