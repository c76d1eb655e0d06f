package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"latchkey/internal/keytext"
)

// pieces gives a text in reads of some size.
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
		err := ScanKeys(&pieces{text.Bytes(), size}, "klen_", func(secret string, line int) { got = append(got, fmt.Sprint(secret, ":", line)) })
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
		err := ScanKeys(io.MultiReader(strings.NewReader(noise), strings.NewReader(secret)), "klen_", func(s string, line int) {
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
	if err := ScanKeys(io.MultiReader(strings.NewReader(secret), failing{broken}), "klen_", func(string, int) {}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
