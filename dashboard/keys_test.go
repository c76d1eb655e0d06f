package dashboard

import (
	"net/url"
	"testing"
	"time"
)

func TestKeyExpiry(t *testing.T) {
	now := time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		form string
		want any // the end, or with set false a status of 400
		set  bool
	}{
		{"expiry=never", nil, true}, {"expiry=date&expires=2026-12-24", "2026-12-24T23:59:59Z", true}, {"expiry=1y", "2027-02-03T09:00:00Z", true},
		{"expires=2026-12-24T10:00", "2026-12-24T10:00:00Z", true}, {"", nil, false},
	} {
		form, err := url.ParseQuery(tt.form)
		if err != nil {
			t.Fatal(err)
		}
		if end, set, err := keyExpiry(form, now); err != nil || end != tt.want || set != tt.set {
			t.Errorf("%q: got %v %v %v, want %v", tt.form, end, set, err, tt.want)
		}
	}
	for _, bad := range []string{"expiry=date", "expiry=date&expires=soon", "expiry=5d"} {
		form, _ := url.ParseQuery(bad)
		if _, _, err := keyExpiry(form, now); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
