// Package bytesize reads and writes numbers of bytes, such as 512MiB.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Max is the largest number that Parse accepts, 1 PiB. JSON numbers are exact up to it.
const Max = 1 << 50

// units lists the units from the largest (IEC 80000-13).
var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// Parse returns the number of bytes that text names: a whole number of bytes, or of KiB, MiB, GiB or
// TiB, without a space between number and unit. The error says which forms are accepted.
func Parse(text string) (int64, error) {
	digits, factor := text, int64(1)
	for _, u := range units {
		if before, found := strings.CutSuffix(text, u.name); found {
			digits, factor = before, u.bytes
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || digits[0] == '+' || int64(n) > math.MaxInt64/factor || int64(n)*factor > Max {
		return 0, fmt.Errorf("%q is not a size: write a whole number of bytes, or of KiB, MiB, GiB or TiB, such as 512MiB; at most 1024TiB", text)
	}
	return int64(n) * factor, nil
}

// Format returns n as Parse reads it, in the largest unit in which it is a whole number.
func Format(n int64) string {
	for _, u := range units {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Rounded returns n for people, with one digit after the point, such as "12.5 MiB".
func Rounded(n int64) string {
	for _, u := range units {
		if n >= u.bytes {
			return strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
