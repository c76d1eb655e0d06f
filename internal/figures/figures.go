// Package figures writes numbers as people read them.
package figures

import "strconv"

// Grouped returns n with a comma between each three digits, such as "12,300". n must not be negative.
func Grouped[N int | int64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
