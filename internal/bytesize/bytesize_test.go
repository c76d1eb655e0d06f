package bytesize

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "268435456": 256 << 20, "512MiB": 512 << 20, "1KiB": 1024, "3GiB": 3 << 30, "1024TiB": 1 << 50, "1125899906842624": 1 << 50, "007": 7,
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
		if back, err := Parse(Format(got)); err != nil || back != got {
			t.Errorf("Parse(Format(%d)) = %d, %v", got, back, err)
		}
	}
	for _, text := range []string{
		"", " 1", "512 MB", "512 MiB", "512MB", "512mib", "MiB", "-1", "+1", "1e9", "1.5GiB", "1_000", "0x10", "1025TiB", "1125899906842625",
		"9223372036854775807", "9223372036854775807KiB", "18446744073709551616", "none", "512MiBMiB", "１",
	} {
		if got, err := Parse(text); err == nil || !strings.Contains(err.Error(), "such as 512MiB") {
			t.Errorf("Parse(%q) = %d, %v; want an error that shows a valid size", text, got, err)
		}
	}
}

func TestRounded(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 13107200: "12.5 MiB", 1 << 40: "1.0 TiB"} {
		if got := Rounded(n); got != want {
			t.Errorf("Rounded(%d) = %q, want %q", n, got, want)
		}
	}
}
