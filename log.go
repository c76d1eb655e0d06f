package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// NewLog makes the log of a server: text to people, JSON to programs, unless the
// config says which. It has no time where the system's journal, which notes the
// time itself, reads text. Whatever has the shape of a secret is taken out of it.
// The level may be changed at any time.
func NewLog(w io.Writer, c Config, person, journal bool) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level.Set(slog.LevelInfo) // the config allows only names that can be read
	}
	text := c.Log.Format == "text" || c.Log.Format == "auto" && person
	redact := NewRedactor(c.Keys.Prefix).Attr
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if text && journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return redact(groups, a)
	}}
	if text {
		return slog.New(slog.NewTextHandler(w, opts)), level
	}
	return slog.New(slog.NewJSONHandler(w, opts)), level
}

// Redactor takes secrets out of texts. What is written with care has none: it is
// for what somebody put where nobody thought of. It is safe for concurrent use.
type Redactor struct {
	prefixes []string
	keys     *regexp.Regexp
}

// Redacted stands in the place of a secret.
const Redacted = "(redacted)"

// secretShapes are secrets that are known by what stands before them, and the
// tokens of logins and set-up links, which are 64 hex digits.
var secretShapes = regexp.MustCompile(`(?i)((?:bearer|basic)\s+|(?:api_key|token|password|secret|authorization|x-api-key|cookie)["']?\s*[=:]\s*["']?)[^\s"'&,;]+|\b()[0-9a-f]{64}\b`)

// NewRedactor knows API keys by their prefix; admin tokens and the secrets of
// webhooks have their own.
func NewRedactor(prefix string) *Redactor {
	r := &Redactor{prefixes: []string{prefix, tokenShape, hookShape}}
	r.keys = regexp.MustCompile(`(` + regexp.QuoteMeta(prefix) + `|` + tokenShape + `|` + hookShape + `)[0-9A-Za-z]{12,}`)
	return r
}

// How admin tokens and the secrets of webhooks begin.
const (
	tokenShape = "lka_"
	hookShape  = "whsec_"
)

// Keys takes what has the shape of a key, an admin token or a webhook's secret
// out of a text, and gives it as it is where there is none.
func (r *Redactor) Keys(text string) string {
	for _, prefix := range r.prefixes {
		if strings.Contains(text, prefix) {
			return r.keys.ReplaceAllString(text, "${1}"+Redacted)
		}
	}
	return text
}

// Text is Keys, and takes out what is a secret by what stands before it too:
// Bearer, api_key= and their kin.
func (r *Redactor) Text(text string) string {
	if len(text) < 8 {
		return text
	}
	text = r.Keys(text)
	// Most of what is logged, such as a route, has none of these.
	if len(text) < 64 && !strings.ContainsAny(text, " =\"") {
		return text
	}
	return secretShapes.ReplaceAllString(text, "${1}"+Redacted)
}

// Attr takes secrets out of an attribute of the log, as slog.HandlerOptions
// wants it.
func (r *Redactor) Attr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if text := a.Value.String(); len(text) >= 8 {
			a.Value = slog.StringValue(r.Text(text))
		}
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(r.Text(v.Error()))
		case *url.URL:
			a.Value = slog.StringValue(v.Scheme + "://" + v.Host) // a path or query may hold anything
		case http.Header:
			a.Value = slog.StringValue(Redacted)
		case []string:
			a.Value = slog.StringValue(r.Text(strings.Join(v, " ")))
		case []byte:
			a.Value = slog.StringValue(r.Text(string(v)))
		}
	}
	return a
}
