package clock

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The list of names is that of the database which is built into the program.
func TestZones_SameAsGo(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := zip.OpenReader(filepath.Join(string(bytes.TrimSpace(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	var names []string
	for _, f := range files.File {
		if !strings.HasSuffix(f.Name, "/") && f.Name != "Factory" {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, Zones()) {
		t.Error("zones.txt is not the list of names in lib/time/zoneinfo.zip of this Go. Write it anew, sorted and without Factory.")
	}
}

// A name means the same on every machine, whatever files of zones it has.
func TestZone(t *testing.T) {
	bad := []string{
		"localtime", "posixrules", "posix/Europe/Berlin", "right/Europe/Berlin", "Mars/Phobos", "Factory", "europe/berlin", "EUROPE/BERLIN", "utc", "Europe/berlin", "Local", "local", "tzdata.zi",
		"+VERSION", "leapseconds", "Europe\\Berlin", "UTC ",
	}
	if os.Getenv("ZONEINFO") == "" { // package time reads the variable once, so a child tests with it
		folder := t.TempDir()
		data := make([]byte, 20, 60)
		copy(data, "TZif")
		for _, n := range []uint32{0, 0, 0, 0, 1, 4, 3600} { // the counts of the header, and the only offset
			data = binary.BigEndian.AppendUint32(data, n)
		}
		data = append(data, "\x00\x00LOC\x00"...)
		if _, err := time.LoadLocationFromTZData("x", data); err != nil {
			t.Fatal(err)
		}
		for _, name := range bad {
			at := filepath.Join(folder, name)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		child := exec.Command(os.Args[0], "-test.run", "^TestZone$")
		child.Env = append(os.Environ(), "ZONEINFO="+folder)
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("with ZONEINFO: %s", out)
		}
	} else if _, err := time.LoadLocation("Mars/Phobos"); err != nil {
		t.Errorf("the files are not found: %v", err)
	}
	for _, name := range append(bad, "", "Europe", "Europe/../Europe/Berlin", "./UTC", "Europe/Berlin\n", "/etc/localtime", "../localtime", "Europe/Berlin/", "/Europe/Berlin", "UTC\x00") {
		if zone, err := Zone(name); err == nil {
			t.Errorf("%q: got %s, want an error", name, zone)
		}
	}
	for _, name := range Zones() {
		if zone, err := Zone(name); err != nil || zone.String() != name {
			t.Errorf("%q: got %s, %v", name, zone, err)
		}
	}
}

func TestParseLocal(t *testing.T) {
	for _, tt := range []struct{ text, zone, want string }{
		{"2026-03-02T09:00", "Europe/Berlin", "2026-03-02T08:00:00Z"}, {"2026-03-02T09:00:30", "Europe/Berlin", "2026-03-02T08:00:30Z"},
		{"2026-03-29T02:30", "Europe/Berlin", ""}, {"2026-03-29T02:00", "Europe/Berlin", ""}, {"2026-03-29T03:00", "Europe/Berlin", "2026-03-29T01:00:00Z"}, {"2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		{"2018-11-04T00:30", "America/Sao_Paulo", ""}, {"2018-02-17T23:30", "America/Sao_Paulo", "2018-02-18T01:30:00Z"}, {"2011-12-30T12:00", "Pacific/Apia", ""}, {"2026-10-04T02:15", "Australia/Lord_Howe", ""},
		{"9999-12-31T23:59", "America/New_York", ""}, {"0001-01-01T00:00", "Asia/Tokyo", ""}, {"2026-03-02T09:00Z", "UTC", ""}, {"2026-03-02", "UTC", ""}, {"2026-03-02T09:00:60", "UTC", ""},
	} {
		zone, err := Zone(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLocal(tt.text, zone)
		if (err == nil) != (tt.want != "") || err == nil && got.Format(time.RFC3339) != tt.want {
			t.Errorf("%s in %s: got %s, %v; want %q", tt.text, tt.zone, got, err, tt.want)
		}
	}
}
