package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// failingWriter takes nothing.
type failingWriter struct{ err error }

// Write fails.
func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestOutput_Result has errors beside the one of a write.
func TestOutput_Result(t *testing.T) {
	other := errors.New("other")
	for _, tt := range []struct {
		name  string
		write error
		err   func(write error) error
		quiet bool
		says  []string
	}{
		{"nobody looked", syscall.EPIPE, func(error) error { return nil }, true, []string{"broken pipe"}},
		{"wrapped", syscall.EPIPE, func(write error) error { return fmt.Errorf("read: %w", write) }, true, []string{"broken pipe"}},
		{"joined", syscall.EPIPE, func(write error) error { return errors.Join(nil, write) }, true, []string{"broken pipe"}},
		{"beside another", syscall.EPIPE, func(write error) error { return errors.Join(write, other) }, false, []string{"broken pipe", "other"}},
		{"another", syscall.EPIPE, func(error) error { return other }, false, []string{"broken pipe", "other"}},
		{"a secret", syscall.EPIPE, func(write error) error { return &lostSecret{err: write, name: "the key"} }, false, []string{"the key"}},
		{"a full disk", syscall.ENOSPC, func(error) error { return nil }, false, []string{"no space left"}},
		{"no failed write", nil, func(error) error { return syscall.EPIPE }, false, []string{"broken pipe"}},
	} {
		out := newOutput(failingWriter{tt.write})
		_, write := out.Write([]byte("x"))
		err := out.result(tt.err(write))
		if quiet := out.quiet(err); quiet != tt.quiet {
			t.Errorf("%s: quiet is %v, want %v", tt.name, quiet, tt.quiet)
		}
		for _, says := range tt.says {
			if strings.Count(err.Error(), says) != 1 {
				t.Errorf("%s: got %q, want %q in it once", tt.name, err, says)
			}
		}
	}
}

func TestCell(t *testing.T) {
	for text, want := range map[string]string{
		`null`: "-", `""`: "-", `"a\u001b[2Jb"`: "a?[2Jb", `3`: "3", `2.50`: "2.50", `4.00`: "4", `true`: "true", `[]`: "-", `["a", 2]`: "a,2",
		`{}`: "-", `{"b": 2, "a\u001b": "x\u001b"}`: "a?=x?,b=2", `{"bytes": 1024, "limit": 2048}`: "1.0 KiB of 2.0 KiB", `{"bytes": 849, "limit": null}`: "849 bytes",
	} {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if got := cell(v); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
