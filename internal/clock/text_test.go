package clock

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-02-03T09:15:00Z": "2026-02-03T09:15:00Z", "2026-02-03T09:15:00+05:30": "2026-02-03T03:45:00Z", "2026-02-03T09:15:00.123456789123Z": "2026-02-03T09:15:00.123456789Z",
		"0001-01-01T00:00:00.1Z": "0001-01-01T00:00:00.1Z", "9999-12-31T23:59:59.999999999Z": "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59+01:00": "9999-12-31T22:59:59Z",
		"9999-12-31T23:59:59-01:00": "", "0001-01-01T00:00:00Z": "", "0001-01-01T00:59:59+01:00": "", "0000-01-01T00:00:00Z": "", "0000-01-01T00:00:00+01:00": "",
		"10000-01-01T00:00:00Z": "", "-0001-01-01T00:00:00Z": "", "2026-02-03T09:15:60Z": "", "2026-06-30T23:59:60Z": "", "2026-02-03T24:00:00Z": "", "2026-02-30T00:00:00Z": "",
		"2026-02-03T9:15:00Z": "", "2026-02-03T09:15:00,5Z": "", "2026-02-03T09:15:00+24:00": "", "2026-02-03T09:15:00+05:60": "", "2026-02-03T09:15:00": "", "2026-02-03T09:15Z": "",
		"2026-02-03 09:15:00Z": "", "2026-02-03": "", "": "", " 2026-02-03T09:15:00Z": "", "2026-02-03T09:15:00.Z": "",
	} {
		got, err := ParseTime(text)
		if (err == nil) != (want != "") || err == nil && got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: got %s, %v; want %q", text, got, err, want)
		}
		if iso, err := ParseISO(text); want != "" && (err != nil || !iso.Equal(got)) {
			t.Errorf("%q: ParseISO returns %s, %v; ParseTime returns %s", text, iso, err, got)
		}
	}
}

func TestParseISO(t *testing.T) {
	for text, want := range map[string]string{
		"2026-03-02T09:00": "2026-03-02T09:00:00Z", "2026-03-02T09:00:05.5": "2026-03-02T09:00:05.5Z", "2026-03-02T09:00+01:00": "2026-03-02T08:00:00Z",
		"2026-03-02T09:00:60": "", "9999-12-31T23:59-00:01": "", "2026-03-02T09:00:05,5": "", "2026-03-02": "", "2026-03-02T0900": "",
	} {
		if got, err := ParseISO(text); (err == nil) != (want != "") || err == nil && got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: got %s, %v; want %q", text, got, err, want)
		}
	}
}

func TestParseDate(t *testing.T) {
	for text, good := range map[string]bool{
		"2026-03-02": true, "0001-01-01": true, "9999-12-31": true, "2028-02-29": true, "2026-02-29": false, "0000-12-31": false, "10000-01-01": false, "2026-3-2": false, "": false, "2026-03-02T00:00": false,
	} {
		if got, err := ParseDate(text); (err == nil) != good || good && got.Format(time.DateOnly) != text {
			t.Errorf("%q: got %s, %v", text, got, err)
		}
	}
}

// SortKey and time.Time agree on what is earlier, and ordinary times have the number of their
// nanoseconds.
func TestSortKey(t *testing.T) {
	last := uint64(0)
	for _, text := range []string{
		"0001-06-01T00:00:00Z", "1677-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2026-02-03T09:15:00.000000001Z", "2262-04-11T23:47:16Z", "2262-04-12T00:00:00Z", "2400-01-01T00:00:00Z",
		"2554-07-21T23:34:31Z", "2554-07-21T23:34:33Z", "2600-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
	} {
		at, err := ParseTime(text)
		if err != nil {
			t.Fatal(err)
		}
		key := SortKey(at)
		if key < last {
			t.Errorf("%s sorts before an earlier time", text)
		}
		if year := at.Year(); year >= 1970 && year < 2262 && key != uint64(at.UnixNano()) {
			t.Errorf("%s: got %d, want %d", text, key, at.UnixNano())
		}
		last = key
	}
}

// allowedParsers are the calls of package time that this package cannot replace, by file.
var allowedParsers = map[string]int{
	"internal/clock/text.go":   2, // the parsers of this package
	"internal/clock/zones.go":  1,
	"admin_backup.go":          1, // the time in the name of a backup file
	"calendar_availability.go": 1, // a time of the day
}

// TestParsers_Only searches the sources of the program for other ways to read a time, a date or a
// zone than this package.
func TestParsers_Only(t *testing.T) {
	call := regexp.MustCompile(`time\.(Parse|ParseInLocation|LoadLocation|LoadLocationFromTZData)\(`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch name := filepath.ToSlash(strings.TrimPrefix(path, filepath.Join("..", "..")+string(filepath.Separator))); {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "bench" || name == "tests"):
			return fs.SkipDir
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			data, err := os.ReadFile(path)
			n := len(call.FindAll(data, -1))
			if found += n; n != allowedParsers[name] {
				t.Errorf("%s has %d calls such as time.Parse, want %d. Use package clock, so that one rule holds for all times.", name, n, allowedParsers[name])
			}
			return err
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("got %d calls, %v", found, err)
	}
}
