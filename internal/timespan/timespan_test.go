package timespan

import (
	"errors"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		text string
		want time.Duration
		good bool
	}{
		{"7d", 7 * 24 * time.Hour, true},
		{"-1d", -24 * time.Hour, true},
		{"36500d", MaxDays * 24 * time.Hour, true},
		{"12h", 12 * time.Hour, true},
		{"1h30m", 90 * time.Minute, true},
		{"0", 0, true},
		{"36501d", 0, false},
		{"-36501d", 0, false},
		{"220000d", 0, false}, // as a time.Duration this wraps round
		{"99999999999999999999d", 0, false},
		{"1.5d", 0, false},
		{"1d12h", 0, false},
		{"d", 0, false},
		{"7", 0, false},
		{"", 0, false},
	} {
		got, err := Parse(tt.text)
		if (err == nil) != tt.good || tt.good && got != tt.want {
			t.Errorf("%q: got %v, %v; want %v, %t", tt.text, got, err, tt.want, tt.good)
		}
	}
	if _, err := Parse("36501d"); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
}
