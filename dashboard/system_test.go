package dashboard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStatusValues(t *testing.T) {
	for n, want := range map[json.Number]string{"0": "0 bytes", "999": "999 bytes", "1000": "1 kB", "1.25e6": "1.2 MB", "3e13": "30.0 TB"} {
		if got := bytesShown(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[json.Number]string{"0": "0 seconds", "59": "59 seconds", "60": "1 minute", "3600": "1 hour", "86461": "1 day", "90000": "1 day 1 hour", "180000": "2 days 2 hours"} {
		if got := uptime(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
}

// Every page with a button that copies has the line in which the script says so.
func TestCopyButtons(t *testing.T) {
	pages, err := filepath.Glob("*.html")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		buttons := strings.Count(string(text), "data-copy=")
		if found += buttons; buttons == 0 {
			continue
		}
		if !strings.Contains(string(text), `id="copied"`) || strings.Count(string(text), "data-what=") != buttons {
			t.Errorf("%s has a button that copies, but no element with the id copied, or a button without data-what", name)
		}
	}
	if found < 4 {
		t.Errorf("found %d buttons", found)
	}
}
