package dashboard

import (
	"net/url"
	"testing"
	"time"
)

func TestKeyExpiry(t *testing.T) {
	now := time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)
	in := func(zone string) *pageRequest {
		v := &pageRequest{dashboard: &Dashboard{o: Options{Now: func() time.Time { return now }}}}
		v.Operator.Zone = zone
		return v
	}
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
		if end, set, err := in("").keyExpiry(form); err != nil || end != tt.want || set != tt.set {
			t.Errorf("%q: got %v %v %v, want %v", tt.form, end, set, err, tt.want)
		}
	}
	for _, bad := range []string{"expiry=date", "expiry=date&expires=soon", "expiry=5d"} {
		form, _ := url.ParseQuery(bad)
		if _, _, err := in("").keyExpiry(form); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
	for zone, want := range map[string]string{"Europe/Berlin": "2026-03-29T21:59:59Z", "America/New_York": "2026-03-30T03:59:59Z"} { // a day of 23 hours in Berlin
		if end, _, err := in(zone).keyExpiry(url.Values{"expires": {"2026-03-29"}}); err != nil || end != want {
			t.Errorf("%s: got %v %v, want %s", zone, end, err, want)
		}
	}
}
