package cli

import (
	"strings"
	"testing"
)

func TestExpiry(t *testing.T) {
	for _, tt := range []struct {
		text, want, fault string
	}{
		{"2027-01-31T01:00:00+01:00", "2027-01-31T00:00:00Z", ""},
		{"12h", "2026-02-03T21:00:00Z", ""},
		{"90d", "2026-05-04T09:00:00Z", ""},
		{"36500d", "2126-01-10T09:00:00Z", ""},
		{"36501d", "", "at most 36500d"},
		{"220000d", "", "at most 36500d"}, // as a time.Duration this wraps round to 2044
		{"99999999999999999999d", "", "such as"},
		{"-1d", "", "such as"},
		{"0h", "", "such as"},
		{"soon", "", "such as"},
		{"", "", "such as"},
	} {
		got, err := expiry(tt.text, epoch)
		if got != tt.want || (err == nil) != (tt.fault == "") {
			t.Errorf("%q: got %q, %v, want %q", tt.text, got, err, tt.want)
		}
		if err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%q: got %v, want it to say %q", tt.text, err, tt.fault)
		}
	}
}
