// Package timespan reads lengths of time as people write them.
package timespan

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// MaxDays is the longest length in days that Parse accepts in the unit d: about 100 years. A time.Duration holds
// less than three times as much.
const MaxDays = 36500

// ErrTooLong is the error for more than MaxDays.
var ErrTooLong = errors.New("is more than 36500d")

// Parse returns the length of time that text describes. text is a whole number of days of 24 hours such as
// "7d", or a Go duration such as "12h" or "1h30m".
func Parse(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.Atoi(days)
	if err == nil && (n > MaxDays || n < -MaxDays) {
		return 0, ErrTooLong
	}
	return time.Duration(n) * 24 * time.Hour, err
}
