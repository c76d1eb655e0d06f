package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"latchkey/internal/logqueue"
)

// accessForms are the forms of the log, each with what NewLog needs to choose it.
var accessForms = []struct {
	format string
	sink   LogSink
}{{"json", LogSink{}}, {"json", LogSink{Journal: true}}, {"text", LogSink{}}, {"text", LogSink{Journal: true}}}

// TestAccess_AsSlog compares lines of the access log byte by byte with what log/slog writes.
func TestAccess_AsSlog(t *testing.T) {
	secret := "klen_" + strings.Repeat("a", 36)
	plain := rapid.SampledFrom([]string{"", "-", "GET", "/api/v1/calls/:call_id", "/x/*rest", "<&>", "'`|!#$%^~", "key_018c5b0a1f2e9d3b7c6a55", "5f2a81c07"})
	odd := rapid.OneOf(plain, rapid.SampledFrom([]string{
		"/ä/*rest", "a b", `"`, `\`, "a=b", "\x7f", "\u2028", "\xff", secret, "/x/" + secret, strings.Repeat("0123456789abcdef", 4), "token=hunter2hunter2",
	}), rapid.String())
	addresses := rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.7"), netip.MustParseAddr("fe80::1%eth0")})
	rapid.Check(t, func(t *rapid.T) {
		c := defaultConfig()
		form := rapid.SampledFrom(accessForms).Draw(t, "form")
		c.Log.Format = form.format
		words := plain // no value needs quotes or escapes, so that Other does not write the line
		if rapid.Bool().Draw(t, "odd") {
			words = odd
		}
		var got, want bytes.Buffer
		l := AccessLine{
			At: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")),
			ID: words.Draw(t, "id"), Method: words.Draw(t, "method"), Route: words.Draw(t, "route"), Key: words.Draw(t, "key"),
			Status: rapid.IntRange(0, 999).Draw(t, "status"), Client: addresses.Draw(t, "client"),
			Took: time.Duration(rapid.OneOf(rapid.Int64Range(0, 1e6), rapid.Int64Range(0, 1e17)).Draw(t, "took")),
		}
		NewLog(&got, c, form.sink).Access.Write(&l)
		r := slog.NewRecord(l.At, slog.LevelInfo, "request", 0)
		r.AddAttrs(l.attrs()...)
		if err := NewLog(&want, c, form.sink).Handler().Handle(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Fatalf("got  %swant %s", got.String(), want.String())
		}
		if strings.Contains(got.String(), secret) {
			t.Fatalf("the line has a secret: %s", got.String())
		}
	})
}

// TestAccess_Level logs no requests at a level above info, also after a change of the level.
func TestAccess_Level(t *testing.T) {
	var out bytes.Buffer
	c := defaultConfig()
	c.Log.Level = "warn"
	log := NewLog(&out, c, LogSink{})
	if log.Access.Write(&AccessLine{}); out.Len() > 0 {
		t.Errorf("got %s at the level warn", out.String())
	}
	log.Level.Set(slog.LevelDebug)
	if log.Access.Write(&AccessLine{}); out.Len() == 0 {
		t.Error("got nothing at the level debug")
	}
}

// TestAccess_Allocs writes the line of a usual request almost without allocations.
func TestAccess_Allocs(t *testing.T) {
	for _, form := range accessForms {
		c := defaultConfig()
		c.Log.Format = form.format
		access := NewLog(io.Discard, c, form.sink).Access
		l := AccessLine{At: epoch, ID: "5f2a81c07", Method: "GET", Route: "/api/v1/agents", Status: 200, Key: "key_018c5b0a1f2e9d3b7c6a55", Client: netip.MustParseAddr("192.0.2.7"), Took: 123 * time.Microsecond}
		if n := testing.AllocsPerRun(1000, func() { access.Write(&l) }); n > 1 {
			t.Errorf("%+v: got %v allocations for a line, want at most 1, the text of the address", form, n)
		}
	}
}

// TestAccess_Requests has a line for each request, with what is known of it.
func TestAccess_Requests(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission)
	if w := a.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	var l struct {
		Msg, ID, Method, Route, Key, Client string
		Status                              int
		MS                                  *float64
	}
	lines := strings.Split(strings.TrimSpace(a.log.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &l); err != nil {
		t.Fatal(err)
	}
	if l.Msg != "request" || l.ID == "" || l.Method != "GET" || l.Route != "/api/v1/agents" || l.Key != id || l.Client == "" || l.Status != 200 || l.MS == nil {
		t.Errorf("got %+v", l)
	}
}

// flushed counts calls of Flush.
type flushed struct {
	bytes.Buffer
	calls int
}

func (f *flushed) Flush(time.Duration) { f.calls++ }
func (f *flushed) Lost() uint64        { return 7 }

// TestLog_Prompt writes errors, and what waits when a goroutine panics, without delay.
func TestLog_Prompt(t *testing.T) {
	var out flushed
	log := NewLog(&out, defaultConfig(), LogSink{})
	for _, l := range []*slog.Logger{log.Logger, log.With("a", 1), log.WithGroup("g")} {
		before := out.calls
		l.Info("kept for a moment")
		l.Warn("kept for a moment")
		if out.calls != before {
			t.Error("a line without an error is written without delay")
		}
		if l.Error("now"); out.calls != before+1 {
			t.Error("an error is kept")
		}
	}
	if n := LostLines(log.With("a", 1)); n != 7 {
		t.Errorf("got %d lost lines, want 7", n)
	}
	before := out.calls
	defer func() {
		if p := recover(); p != "bug" || out.calls != before+1 {
			t.Errorf("got panic %v and %d calls of Flush, want the same panic and one call", p, out.calls-before)
		}
	}()
	defer FlushAtPanic(log.Logger)
	panic("bug")
}

// TestLog_CompleteAtPanic runs this test in a process of its own, in which a change of the store
// panics. The lines before the panic are written before the process ends.
func TestLog_CompleteAtPanic(t *testing.T) {
	const variable = "LATCHKEY_TEST_PANIC"
	if os.Getenv(variable) != "" {
		lines := logqueue.New(os.Stderr, logLimit, func(uint64) []byte { return nil })
		log := NewLog(lines, defaultConfig(), LogSink{})
		store := newTestStore(t)
		store.LogTo(log.Logger)
		log.Info("the line before the panic")
		_ = store.Update(func(*Tx) error { panic("a bug in a change") })
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLog_CompleteAtPanic$")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	line, bug := bytes.Index(out, []byte("the line before the panic")), bytes.Index(out, []byte("panic: a bug in a change"))
	if err == nil || line < 0 || bug < line {
		t.Errorf("got %v, %s; want the line, then the panic", err, out)
	}
}
