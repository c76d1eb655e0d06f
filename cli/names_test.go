package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"latchkey/internal/fold"
)

// TestFindKey_Search looks for keys by what an operator may type. The server lists only the keys that
// match the search, and a key that was typed by mistake is not in any request.
func TestFindKey_Search(t *testing.T) {
	const secret = "klen_7pJ3rQ9sTbVwXyZ2aBcDeFgHiJkLmNoPqRsT"
	names := []string{"caller", "a-name-that-is-longer-than-20", "\u00dcber-Stra\u00dfe mit langem Namen", "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9", "two words"}
	var asked []string
	listed := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		rows := []any{}
		for i, name := range names {
			hint := "klen_...x9Q" + string(rune('a'+i))
			if fold.Match(fold.Words(r.URL.Query().Get("search")), name, hint) {
				rows = append(rows, map[string]any{"id": "key_" + string(rune('a'+i)), "name": name, "hint": hint, "status": "active"})
			}
		}
		if r.URL.Path == "/admin/v1/keys" {
			listed = len(rows)
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"keys": rows, "count": len(rows), "pages": 1}); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("klat_x"), 0o600); err != nil {
		t.Fatal(err)
	}
	try := &commandTry{t: t}
	for text, want := range map[string]struct {
		id     string
		listed int
	}{
		"caller": {"key_a", 1}, names[1]: {"key_b", 1}, names[2]: {"key_c", 1}, names[3]: {"key_d", len(names)}, "two words": {"key_e", 1},
		"klen_...x9Qb": {"key_b", 1}, "nobody": {"", 0}, "a-name-that-is-longer-than-this": {"", 0}, secret: {"", 0}, secret + " ": {"", 0}, "\u201c" + secret + "\u201d": {"", len(names)},
	} {
		asked = nil
		exit, _, errs := try.run("--url", server.URL, "--token-file", token, "keys", "pause", text)
		if (exit == 0) != (want.id != "") || listed != want.listed {
			t.Errorf("%q: got exit code %d, %d keys listed, %s; want %+v", text, exit, listed, errs, want)
		}
		if want.id != "" && !slices.ContainsFunc(asked, func(url string) bool { return strings.HasPrefix(url, "/admin/v1/keys/"+want.id+"/") }) {
			t.Errorf("%q: got %q, want a request for %s", text, asked, want.id)
		}
		if strings.Contains(text, secret) && strings.Contains(strings.Join(asked, " ")+errs, secret[:shownEnd+1]) {
			t.Errorf("a key is in the requests %q or the message %q", asked, errs)
		}
	}
}
