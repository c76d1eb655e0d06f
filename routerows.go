package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// RouteRow is a [[route]] of a config file: what of another API may be asked
// for by whom, and where it is.
type RouteRow struct {
	Path         string        `toml:"path" check:"pattern" example:"/reports/:id"`
	Methods      []string      `toml:"methods" default:"*" check:"method" single:"true"`
	Permission   []string      `toml:"permission" check:"permission" example:"can_read_reports" single:"true"` // one of them is enough
	Limits       []string      `toml:"limits" default:"" example:"reports_per_hour" check:"limit" single:"true"`
	Cost         int           `toml:"cost" default:"1" min:"0" max:"10000"`
	Upstream     string        `toml:"upstream" default:"" example:"http://127.0.0.1:3000" check:"upstream"` // empty: only for /authz
	StripPrefix  string        `toml:"strip_prefix" default:"" example:"/reports" check:"prefixpath"`
	Timeout      time.Duration `toml:"timeout" default:"60s" min:"0s" max:"24h"`
	MaxBodyBytes int           `toml:"max_body_bytes" default:"0" min:"0" max:"1099511627776"`
}

// ReadGuards makes the guards that rows describe, for what permissions and
// limits there are. The problems say which row they are of, and how to mend it.
func ReadGuards(rows []RouteRow, r *Rights) (guards []*Guard, problems []string) {
	for i, row := range rows {
		at := fmt.Sprintf("route %d (%q): ", i+1, row.Path)
		for _, problem := range row.problems(r) {
			problems = append(problems, at+problem)
		}
		g := &Guard{
			Index: i + 1, Path: row.Path, Limits: row.Limits, Cost: row.Cost, Timeout: row.Timeout,
			StripPrefix: row.StripPrefix, MaxBody: int64(row.MaxBodyBytes), Methods: row.Methods,
		}
		if len(row.Methods) == 0 || row.Methods[0] == "*" {
			g.Methods = nil
		}
		g.Permission, _ = r.OfOwn(row.Permission)
		if row.Upstream != "" {
			u, err := url.Parse(strings.TrimSuffix(row.Upstream, "/"))
			if err != nil {
				problems = append(problems, at+"upstream cannot be read; it must be such as \"http://127.0.0.1:3000\"")
			}
			g.Upstream = u
		}
		guards = append(guards, g)
	}
	if problems == nil {
		if _, err := NewRouteTable(guards, nil); err != nil {
			problems = strings.Split(err.Error(), "\n")
		}
	}
	return guards, problems
}

// problems lists what is wrong with a row whose values are good by themselves.
func (row RouteRow) problems(r *Rights) (list []string) {
	fail := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for i, m := range row.Methods {
		switch {
		case m == "*" && len(row.Methods) > 1:
			fail("methods has * and others; leave the others out, or the *")
		case m == "CONNECT" || m == "TRACE":
			fail("methods has %s, which is never passed on; leave it out", m)
		case slices.Contains(row.Methods[:i], m):
			fail("methods has %s twice; leave one out", m)
		}
	}
	if _, unknown := r.OfOwn(row.Permission); len(unknown) > 0 {
		fail("permission %q does not exist; add a [[permission]] of that name, or choose one of %s", unknown[0], strings.Join(r.Names(^Permission(0)), ", "))
	}
	for i, name := range row.Limits {
		rule, ok := r.Limit(name)
		switch {
		case !ok:
			fail("limit %q does not exist; add a [[limit]] of that name, or choose one of %s", name,
				strings.Join(r.LimitNames(func(l LimitRule) bool { return l.With == "" && l.Name != RequestsPerMinute }), ", "))
		case name == RequestsPerMinute:
			fail("limits has %s, which every request pays; leave it out", name)
		case rule.With != "":
			fail("limits has %s, which is paid along with %s; leave it out", name, rule.With)
		case slices.Contains(row.Limits[:i], name):
			fail("limits has %s twice; leave one out", name)
		}
	}
	if parts, prefix := Segments(row.Path), Segments(row.StripPrefix); len(prefix) > len(parts) || !slices.Equal(prefix, parts[:len(prefix)]) {
		fail("strip_prefix %q is not what its path begins with; the path of every request begins with it, or it is left out", row.StripPrefix)
	}
	if row.Upstream == "" && row.StripPrefix != "" {
		fail("strip_prefix is of no use without upstream; add one, or leave it out")
	}
	return list
}
