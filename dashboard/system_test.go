package dashboard

import (
	"encoding/json"
	"testing"
)

func TestStatusValues(t *testing.T) {
	for n, want := range map[json.Number]string{"0": "0 bytes", "999": "999 bytes", "1000": "1 kB", "1.25e6": "1.2 MB", "3e13": "30.0 TB"} {
		if got := bytesShown(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[json.Number]string{"59": "59s", "3600": "1h0m0s", "90000": "1 days 1h0m0s"} {
		if got := uptime(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
}
