package figures

import "testing"

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 12_300: "12,300", 123_456: "123,456", 1_000_007: "1,000,007", 1_234_567: "1,234,567", 1<<63 - 1: "9,223,372,036,854,775,807"} {
		if got := Grouped(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
