package cli

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/keytext"
)

var epoch = time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)

// testWords returns words as those of the service.
func testWords() Words {
	return Words{Permissions: []string{"can_read_calls", "can_read_agents"}, IsEnvironment: func(text string) bool { return text == "live" }}
}

func sha(secret string) string { return fmt.Sprintf("%x", keytext.DigestOf(secret)) }

// readExport reads an export of another program.
func readExport(t *testing.T, from string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + from + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadForeignKeys_Unkey(t *testing.T) {
	export := readExport(t, "unkey")
	keys, err := readForeignKeys("unkey", export, foreignOptions{testWords(), []string{"can_read_calls"}, epoch})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(keys.Rows)
	want := `[{"expires_at":"2096-01-01T00:00:00Z","hint":"uk_on","limits":{"requests_per_minute_limit":100},"metadata":{"plan":"pro","seats":"3","unkey_key_id":"key_1"},"name":"one","owner":"user_1","permissions":["can_read_agents"],"sha256":"` + sha("uk_one") + `"},` +
		`{"hint":"uk_tw","metadata":{"unkey_key_id":"key_2"},"name":"key_2","paused":true,"permissions":["can_read_calls"],"sha256":"` + sha("uk_two") + `"},` +
		`{"environment":"live","expires_at":"2096-01-01T00:00:00Z","limits":{"requests_per_minute_limit":7},"metadata":{"a":"b","unkey_key_id":"key_4"},"name":"row","owner":"ann","permissions":["can_read_calls"],"sha256":"` + sha("uk_four") + `"}]`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	wantNotes := []string{
		`a rate limit over 3600000 ms has no counterpart and is left out (1 of 5 keys, first one)`,
		`credits has no counterpart and is left out (1 of 5 keys, first one)`,
		`keys that have expired are left out (1 of 5 keys, first old)`,
		`keys that were deleted there are left out (1 of 5 keys, first gone)`,
		`remaining_requests has no counterpart and is left out (1 of 5 keys, first row)`,
		`roles has no counterpart and is left out (1 of 5 keys, first one)`,
		`the permission "documents.read" has no counterpart and is left out (1 of 5 keys, first one)`,
	}
	if !slices.Equal(keys.Notes, wantNotes) {
		t.Errorf("got notes\n%s\nwant\n%s", strings.Join(keys.Notes, "\n"), strings.Join(wantNotes, "\n"))
	}
}

func TestReadForeignKeys_LiteLLM(t *testing.T) {
	export := readExport(t, "litellm")
	keys, err := readForeignKeys("litellm", export, foreignOptions{testWords(), []string{"can_read_agents"}, epoch})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(keys.Rows)
	want := `[{"expires_at":"2096-01-01T00:00:00Z","hint":"sk-...one","limits":{"requests_per_minute_limit":120},"metadata":{"env":"prod","litellm_team_id":"t1"},"name":"one","owner":"ann","permissions":["can_read_agents"],"sha256":"` + sha("sk-one") + `"},` +
		`{"name":"litellm ` + sha("sk-two")[:8] + `","owner":"t2","paused":true,"permissions":["can_read_agents"],"sha256":"` + sha("sk-two") + `"}]`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if got := strings.Join(keys.Notes, "\n"); !strings.Contains(got, "max_budget has no") || !strings.Contains(got, "models has no") || !strings.Contains(got, "tpm_limit has no") || len(keys.Notes) != 3 {
		t.Errorf("got notes %s", got)
	}
	for _, tt := range []struct{ from, data, want string }{
		{"litellm", `{"keys": ["` + sha("x") + `"]}`, "return_full_object"},
		{"litellm", `[{"key_alias": "x"}]`, "row 1: token is missing"},
		{"litellm", `[{"token": "zz"}]`, "64 hex digits"},
		{"unkey", `[{"keyId": "key_1", "name": "x"}]`, "row 1: hash is missing"},
		{"unkey", `{"apiId": "x"}`, "array of keys"},
		{"unkey", `nothing`, "not JSON"},
	} {
		if _, err := readForeignKeys(tt.from, []byte(tt.data), foreignOptions{testWords(), []string{"can_read_agents"}, epoch}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.data, err, tt.want)
		}
	}
	if _, err := readForeignKeys("litellm", export, foreignOptions{testWords(), nil, epoch}); err == nil || !strings.Contains(err.Error(), "--permission") {
		t.Errorf("no permission: got %v", err)
	}
}

// FuzzReadForeignKeys: of an export there come rows that an import can take,
// and no secret that stood in it.
func FuzzReadForeignKeys(f *testing.F) {
	for _, s := range []string{
		`[{"id": "key_1", "name": "a", "hash": "` + strings.Repeat("ab", 32) + `", "permissions": ["p"], "expires": 1700000000000}]`,
		`{"keys": [{"name": "b", "plaintext": "unkey_secret_3ZJQ0000", "meta": {"a": [1]}, "ratelimits": [{"limit": 1}], "enabled": false}]}`,
		`{"keys": [{"token": "` + strings.Repeat("0f", 32) + `", "key_name": "sk-...1234", "metadata": {"tags": ["x"]}, "rpm_limit": 5, "expires": "2030-01-01T00:00:00Z", "blocked": true}]}`,
		`{"data": [{"token": "sk-secret-of-the-other", "user_id": 5}]}`,
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, data string, unkey bool) {
		from := "litellm"
		if unkey {
			from = "unkey"
		}
		keys, err := readForeignKeys(from, []byte(data), foreignOptions{testWords(), []string{"can_read_calls"}, epoch})
		if err != nil {
			return
		}
		out, err := json.Marshal(keys.Rows)
		if err != nil || len(out) > 64<<10+100*len(data) {
			t.Fatalf("%d bytes of %d, %v", len(out), len(data), err)
		}
		rows, _ := foreignRows([]byte(data))
		if len(keys.Rows) > len(rows) {
			t.Errorf("got %d keys of %d", len(keys.Rows), len(rows))
		}
		for _, row := range rows {
			secret, _ := row["plaintext"].(string)
			if unkey && len(secret) >= 12 && strings.Count(data, secret) == 1 && strings.Contains(string(out)+strings.Join(keys.Notes, ""), secret) {
				t.Errorf("the secret %q is in %s %q", secret, out, keys.Notes)
			}
		}
	})
}

// pieces returns a text in reads of some size.
type pieces struct {
	text []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}

// TestScanKeys hides keys in noise that looks like their beginning, also over
// the seams of the chunks, and wants each of them on its line.
func TestScanKeys(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var text bytes.Buffer
		var want []string
		line := 1
		for range rapid.IntRange(0, 12).Draw(rt, "parts") {
			noise := rapid.SampledFrom([]string{"\n", "klen_", "k", "klen_klen_", "GET /?api_key=", "\x00\xff", strings.Repeat("x", leakChunk-3), strings.Repeat("klen_\n", 100), keytext.NewSecret("klen_")[:40] + "\n", keytext.NewSecret("acme_")}).Draw(rt, "noise")
			text.WriteString(noise)
			line += strings.Count(noise, "\n")
			if rapid.Bool().Draw(rt, "key") {
				secret := keytext.NewSecret("klen_")
				text.WriteString(secret)
				want = append(want, fmt.Sprint(secret, ":", line))
			}
		}
		var got []string
		size := rapid.SampledFrom([]int{7, 1000, leakChunk, 10 * leakChunk}).Draw(rt, "size")
		err := scanKeys(&pieces{text.Bytes(), size}, "klen_", func(secret string, line int) { got = append(got, fmt.Sprint(secret, ":", line)) })
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			rt.Fatalf("got %v, %v; want %v", got, err, want)
		}
	})
}

// TestScanKeys_LongLine reads a line of 15 MB, in one buffer, and passes on what
// the reader says.
func TestScanKeys_LongLine(t *testing.T) {
	secret := keytext.NewSecret("klen_")
	noise := strings.Repeat("klen-0123456789", 1<<20)
	found := 0
	allocs := testing.AllocsPerRun(1, func() {
		found = 0
		err := scanKeys(io.MultiReader(strings.NewReader(noise), strings.NewReader(secret)), "klen_", func(s string, line int) {
			if s == secret && line == 1 {
				found++
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	if found != 1 || allocs > 20 {
		t.Errorf("got %d keys in %v allocations, want 1 in a handful", found, allocs)
	}
	broken := errors.New("broken")
	if err := scanKeys(io.MultiReader(strings.NewReader(secret), failing{broken}), "klen_", func(string, int) {}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestLeaks_EveryWayIn hides a key in every form of file and in every way to name it. What cannot
// be searched is an error that names it.
func TestLeaks_EveryWayIn(t *testing.T) {
	secret := keytext.NewSecret("klen_")
	text := "first\nGET /?api_key=" + secret + " \u20ac\n"
	wide := func(width int, big bool, mark string) string {
		var b strings.Builder
		b.WriteString(mark)
		for _, c := range []byte(strings.ReplaceAll(text, "\u20ac", "")) {
			unit := make([]byte, width)
			if unit[0] = c; big {
				unit[0], unit[width-1] = 0, c
			}
			b.Write(unit)
		}
		return b.String()
	}
	pack := func(w func(io.Writer) io.WriteCloser, text string) string {
		var b bytes.Buffer
		z := w(&b)
		if _, err := io.WriteString(z, text); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	gz := func(text string) string {
		return pack(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, text)
	}
	for _, tt := range []struct{ name, data, unread string }{
		{"UTF-8", text, ""}, {"with a mark", "\ufeff" + text, ""}, {"binary", "\x00\xff\x7fELF" + text, ""},
		{"UTF-16LE", wide(2, false, "\xff\xfe"), ""}, {"UTF-16BE", wide(2, true, "\xfe\xff"), ""}, {"UTF-16LE without a mark", wide(2, false, ""), ""}, {"UTF-16BE without a mark", wide(2, true, ""), ""},
		{"UTF-32LE", wide(4, false, ""), ""}, {"UTF-32BE", wide(4, true, ""), ""}, {"UTF-16 behind other bytes", "x" + wide(2, false, ""), ""},
		{"gzip", gz(text), ""}, {"gzip of UTF-16", gz(wide(2, false, "\xff\xfe")), ""}, {"gzip twice", gz(gz(text)), ""}, {"two gzip files in one", gz("\n") + gz(text), ""},
		{"zlib", pack(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, text), ""},
		{"half of a gzip", gz(text)[:30], "unexpected EOF"}, {"zip", "PK\x03\x04" + text, "it is zip"}, {"xz", "\xfd7zXZ\x00\x00", "it is xz"}, {"zstd", "\x28\xb5\x2f\xfd\x04", "it is zstd"},
		{"PDF", "%PDF-1.7\n", "it is PDF"}, {"git pack", "PACK\x00\x00\x00\x02", "it is a git pack"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "below", "a.log")
			link := filepath.Join(t.TempDir(), "link")
			err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(tt.data), 0o600), os.Symlink(file, link), os.Symlink(dir, filepath.Join(dir, "below", "circle")))
			if err != nil {
				t.Skip(err) // a system without symbolic links
			}
			for way, scan := range map[string]func(*leaks) error{
				"file":              func(l *leaks) error { return l.scanPath(file) },
				"folder":            func(l *leaks) error { return l.scanPath(dir) },
				"link":              func(l *leaks) error { return l.scanPath(link) },
				"folder with links": func(l *leaks) error { return l.scanPath(filepath.Dir(link)) },
				"standard input":    func(l *leaks) error { return l.scan(strings.NewReader(tt.data), "standard input") },
			} {
				l := &leaks{prefix: "klen_", seen: map[keytext.Digest]*leak{}, searched: map[string]bool{}}
				err := scan(l)
				if tt.unread != "" {
					if err == nil || !strings.Contains(err.Error(), tt.unread) {
						t.Errorf("%s: got %v, want an error with %q", way, err, tt.unread)
					}
					continue
				}
				if err != nil || len(l.list) != 1 || l.list[0].times != 1 || l.list[0].digest != keytext.DigestOf(secret) {
					t.Errorf("%s: got %v, %v; want the key once", way, l.list, err)
				}
			}
		})
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "gone")); err != nil {
		t.Skip(err)
	}
	l := &leaks{prefix: "klen_", seen: map[keytext.Digest]*leak{}, searched: map[string]bool{}}
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		if err := l.scanPath(path); err == nil || !strings.Contains(err.Error(), "not searched") {
			t.Errorf("%s: got %v, want an error", path, err)
		}
	}
}
