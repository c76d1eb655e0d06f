package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// AccessLine is the line of one request in the access log.
type AccessLine struct {
	At     time.Time // when the request ended
	ID     string
	Method string
	Route  string
	Status int
	Key    string // id of the key, "" if there is none
	Client netip.Addr
	Took   time.Duration
}

// AccessWriter writes lines of the access log exactly as a handler of log/slog would, but without
// its allocations, because the line of a request would otherwise cost more than all its checks. It
// is safe for concurrent use.
type AccessWriter struct {
	Out     io.Writer
	Level   slog.Leveler // lines are written if it is info or lower
	Text    bool         // key=value, otherwise JSON
	Untimed bool         // without the time; for Text only
	Redact  func(string) string
	// Other writes the lines whose values need quotes or escapes, and those that contain secrets.
	Other slog.Handler

	buffers sync.Pool // of *[]byte
}

// Write writes a line. It ignores errors, as log/slog does.
func (a *AccessWriter) Write(l *AccessLine) {
	if a.Level.Level() > slog.LevelInfo {
		return
	}
	b, _ := a.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	defer a.buffers.Put(b)
	if line, plain := a.line((*b)[:0], l); plain {
		*b = line
		_, _ = a.Out.Write(line)
		return
	}
	r := slog.NewRecord(l.At, slog.LevelInfo, "request", 0)
	r.AddAttrs(l.attrs()...)
	_ = a.Other.Handle(context.Background(), r)
}

// attrs returns the values of the line as attributes of log/slog.
func (l *AccessLine) attrs() []slog.Attr {
	return []slog.Attr{
		slog.String("id", l.ID), slog.String("method", l.Method), slog.String("route", l.Route), slog.Int("status", l.Status),
		slog.String("key", l.Key), slog.String("client", AddrText(l.Client)), slog.Float64("ms", l.milliseconds()),
	}
}

// milliseconds returns Took in milliseconds, in steps of a microsecond.
func (l *AccessLine) milliseconds() float64 { return float64(l.Took.Microseconds()) / 1000 }

// line appends the line to b. plain is false if a value would need quotes or escapes, or is not as it
// was after Redact.
func (a *AccessWriter) line(b []byte, l *AccessLine) (line []byte, plain bool) {
	var space [64]byte
	client := "unknown"
	if l.Client.IsValid() {
		if l.Client.Zone() != "" {
			return b, false
		}
		client = string(l.Client.AppendTo(space[:0]))
	}
	for _, text := range [...]string{l.ID, l.Method, l.Route, l.Key} {
		if !isPlain(text) || len(text) >= 8 && a.Redact(text) != text {
			return b, false
		}
	}
	if a.Text {
		return a.text(b, l, client), true
	}
	b = append(b, `{"time":"`...)
	b = l.At.Local().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"INFO","msg":"request","id":"`...)
	b = append(b, l.ID...)
	b = append(b, `","method":"`...)
	b = append(b, l.Method...)
	b = append(b, `","route":"`...)
	b = append(b, l.Route...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(l.Status), 10)
	b = append(b, `,"key":"`...)
	b = append(b, l.Key...)
	b = append(b, `","client":"`...)
	b = append(b, client...)
	b = append(b, `","ms":`...)
	b = strconv.AppendFloat(b, l.milliseconds(), 'f', -1, 64)
	return append(b, "}\n"...), true
}

// text appends the line in the form key=value to b.
func (a *AccessWriter) text(b []byte, l *AccessLine, client string) []byte {
	if !a.Untimed {
		b = append(b, "time="...)
		b = l.At.Local().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
		b = append(b, ' ')
	}
	b = append(b, "level=INFO msg=request id="...)
	b = append(b, quoteEmpty(l.ID)...)
	b = append(b, " method="...)
	b = append(b, quoteEmpty(l.Method)...)
	b = append(b, " route="...)
	b = append(b, quoteEmpty(l.Route)...)
	b = append(b, " status="...)
	b = strconv.AppendInt(b, int64(l.Status), 10)
	b = append(b, " key="...)
	b = append(b, quoteEmpty(l.Key)...)
	b = append(b, " client="...)
	b = append(b, client...)
	b = append(b, " ms="...)
	b = strconv.AppendFloat(b, l.milliseconds(), 'g', -1, 64)
	return append(b, '\n')
}

// quoteEmpty returns text, or two quotes if it is empty.
func quoteEmpty(text string) string {
	if text == "" {
		return `""`
	}
	return text
}

// isPlain reports whether text is written as it is in both forms of the log.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=' {
			return false
		}
	}
	return true
}
