package main

import (
	"errors"
	"strings"
	"testing"
)

func TestReadPath(t *testing.T) {
	for raw, want := range map[string]string{ // "" is a refusal
		"/":                             "/",
		"/a/b":                          "/a/b",
		"/a/b/":                         "/a/b/",
		"/a%20b":                        "/a b",
		"/caf%C3%A9":                    "/caf\u00e9",
		"/caf\u00e9":                    "/caf\u00e9",
		"/100%25":                       "/100%",
		"/100%2525":                     "/100%25",
		"/a%2520b":                      "/a%20b",
		"/a.b/...":                      "/a.b/...",
		"/.well-known/x":                "/.well-known/x",
		"/a%3Bb":                        "/a;b",
		"":                              "",
		"*":                             "",
		"a/b":                           "",
		"http://elsewhere/a":            "",
		"//a":                           "",
		"/a//b":                         "",
		"/a//":                          "",
		"/a/%2Fb":                       "",
		"/a%2fb":                        "",
		"/a%5Cb":                        "",
		"/a%5cb":                        "",
		"/a\\b":                         "",
		"/a/./b":                        "",
		"/a/../b":                       "",
		"/..":                           "",
		"/a/.":                          "",
		"/a/%2e%2e/b":                   "",
		"/a/.%2E/b":                     "",
		"/a/..;x=1/b":                   "",
		"/a/..%3Bx/b":                   "",
		"/a;x=1/b":                      "",
		"/a%00b":                        "",
		"/a%0Ab":                        "",
		"/a%0d%0ab":                     "",
		"/a%7f":                         "",
		"/a\x00":                        "",
		"/a%C0%AFb":                     "",
		"/a%ff":                         "",
		"/a%E0%80%AE":                   "",
		"/a%C2%85b":                     "", // a control character of Latin-1
		"/a%252fb":                      "",
		"/a%252e%252e/b":                "",
		"/a%255cb":                      "",
		"/a%2500":                       "",
		"/a%25252fb":                    "",
		"/a%253bb":                      "",
		"/a%":                           "",
		"/a%zz":                         "",
		"/a%2":                          "",
		"/" + strings.Repeat("a/", 200): "/" + strings.Repeat("a/", 200),
	} {
		got, err := ReadPath(raw)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrValidation) {
			t.Errorf("%q: got %q, %v; want %q", raw, got, err, want)
		}
	}
}

// Whatever is accepted must be one thing however often it is unescaped.
func FuzzReadPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e%2e/", "/a%252fb", "/a;b", "/\xff", "/%25%32%66"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := ReadPath(raw)
		if err != nil {
			return
		}
		for _, part := range strings.Split(path, "/") {
			if part == ".." || part == "." {
				t.Errorf("%q: a dot segment passed", raw)
			}
		}
		if strings.ContainsAny(path, "\\\x00\r\n") || strings.Contains(path, "//") || strings.Count(path, "/") != strings.Count(raw, "/") {
			t.Errorf("%q: got %q", raw, path)
		}
		if again, err := ReadPath(path); err == nil && strings.Count(again, "/") != strings.Count(path, "/") {
			t.Errorf("%q: another path when unescaped twice: %q", raw, again)
		}
	})
}
