package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
)

// flagRule names flags that have an effect only in some combinations. The fields hold names that are
// separated by spaces. A name other than that of a flag is an argument: FILE or PATH is any argument,
// - is standard input or output, and .csv is a file with that ending.
type flagRule struct {
	flags    string // the flags that the rule is about
	needs    string // each of the flags needs one of these
	excludes string // each of the flags has no effect together with one of these
	why      string // why the flags never have an effect, if needs and excludes are empty
}

// commandFlags describes the flags of one command.
type commandFlags struct {
	place       place
	noJSON      string     // why --json has no effect; "" if it has one
	rules       []flagRule // in addition to those of place and noJSON
	independent string     // names of the flags that always have an effect, separated by spaces
}

// place is where a command does its work. It decides which of the global flags have an effect.
type place int

const (
	onServer  place = iota // at --url, or else at the server with the data folder open
	onBoth                 // like onServer; the configuration has an effect even with --url
	onHealth               // like onServer, but without a token
	onFolder               // in the data folder or the configuration on this machine
	onCluster              // in the etcd that the configuration names
	inMemory               // in the program alone
)

// rules returns the rules for the global flags.
func (p place) rules() []flagRule {
	remote := flagRule{flags: "ca token-file", needs: "url"}
	switch p {
	case onBoth:
		return []flagRule{remote}
	case onHealth:
		return []flagRule{{flags: "config data", excludes: "url"}, {flags: "ca", needs: "url"}, {flags: "token-file", why: "this command needs no token"}}
	case onFolder:
		return []flagRule{{flags: "url ca token-file", why: "this command works on the files of this machine"}}
	case onCluster:
		return []flagRule{{flags: "url ca token-file", why: "this command asks etcd, which the configuration names"}}
	case inMemory:
		return []flagRule{{flags: "config data url ca token-file", why: "this command uses neither a configuration nor a server"}}
	}
	return []flagRule{remote, {flags: "config data", excludes: "url"}}
}

// independent returns the global flags that always have an effect, besides --url.
func (p place) independent() string {
	if p == onBoth || p == onFolder || p == onCluster {
		return "config data"
	}
	return ""
}

// flagTable returns the flags of every command that does something, by its name without the name of
// the program. Each flag is in a rule or independent.
func flagTable() map[string]commandFlags {
	pages, spaces := commandFlags{independent: "page limit"}, commandFlags{independent: "page limit sandbox"}
	file := commandFlags{rules: []flagRule{{flags: "charset", needs: "csv .csv"}}, independent: "csv dry-run"}
	table := map[string]commandFlags{
		"serve": {place: onFolder, noJSON: "serve prints a log, whose form is set by --log-format", rules: []flagRule{{flags: "data", excludes: "demo"}},
			independent: "listen admin-listen log-level log-format demo"},
		"backup":       {rules: []flagRule{{flags: "json", excludes: "-"}}},
		"restore":      {place: onFolder, rules: []flagRule{{flags: "exactly", excludes: "other"}}, independent: "dry-run other send-webhooks unverified"},
		"check":        {rules: []flagRule{{flags: "url ca token-file", excludes: "FILE repair"}, {flags: "repair", excludes: "FILE"}}},
		"cluster init": {place: onCluster, independent: "from"}, "cluster nodes": {place: onCluster}, "cluster remove": {place: onCluster, independent: "yes"},
		"apply": {rules: []flagRule{{flags: "secrets yes", excludes: "dry-run"}, {flags: "yes", needs: "prune"}}, independent: "dry-run prune"}, "export": {},
		"compact": {place: onFolder}, "healthcheck": {place: onHealth},
		"config check": {place: onFolder}, "config print": {place: onFolder, noJSON: "the configuration is printed as text"},
		"version": {place: inMemory}, "man": {place: inMemory, noJSON: "the manual page is text"},
		"keys create":     {independent: "name ref permission limit owner environment sandbox allowed-ip resource expires metadata query-allowed secret-file"},
		"keys update":     {rules: []flagRule{{flags: "expires", excludes: "no-expiry"}}, independent: "name ref permission limit owner environment allowed-ip resource metadata query-allowed no-expiry"},
		"keys list":       {independent: "status search environment owner sandbox sort page limit"},
		"keys revoke":     {independent: "end-webhooks"},
		"keys activity":   {independent: "since kind page limit"},
		"keys rotate":     {rules: []flagRule{{flags: "overlap secret-file", excludes: "finish"}, {flags: "if-unused", needs: "finish"}}, independent: "finish"},
		"keys explain":    {independent: "method path ip carrier"},
		"keys leaked":     {rules: []flagRule{{flags: "json revoke", excludes: "pattern"}, {flags: "pattern", excludes: "PATH"}}},
		"keys import":     {rules: append([]flagRule{{flags: "csv charset", excludes: "from"}, {flags: "permission", needs: "from"}}, file.rules...), independent: "from dry-run owner"},
		"webhooks create": {independent: "name target event owner secret-file"}, "webhooks list": spaces, "webhooks logs": pages,
		"webhooks test": {independent: "event"}, "webhooks redeliver": {independent: "log"}, "webhooks retry-failed": {}, "webhooks release": {independent: "discard"}, "webhooks delete": {},
		"admin create": {independent: "name role password-file"}, "admin passwd": {independent: "password-file"}, "admin setup-link": {place: onBoth},
		"admin invite": {place: onBoth, independent: "name role"}, "admin list": {}, "admin set-role": {}, "admin disable": {}, "admin enable": {}, "admin remove": {},
		"admin reset": {place: onFolder, independent: "password-file"}, "admin enroll": {place: onBoth},
		"admin token create": {independent: "name scope expires allowed-ip secret-file"}, "admin token list": pages, "admin token revoke": {}, "admin token rotate": {independent: "overlap secret-file"},
		"audit list": {independent: "actor action object result kind from to page limit"}, "audit verify": {independent: "head"},
		"usage":          {rules: []flagRule{{flags: "json", excludes: "csv"}, {flags: "by", excludes: "key"}, {flags: "by", needs: "csv"}}, independent: "key step last csv"},
		"mail test":      {},
		"limits what-if": {rules: []flagRule{{flags: "owner", excludes: "key"}}, independent: "limit key since"},
		"refusals":       {independent: "id key code page limit"}, "requests": {independent: "id key route method status code client page limit"}, "routes": {}, "reload": {}, "status": {},
		"calls list": spaces, "events list": spaces, "sandbox reset": {independent: "owner yes"}, "events cancel": {independent: "reason"}, "owners update": {independent: "limit balance rate storage"}, "owners show": {},
	}
	for _, name := range []string{"show", "usage", "pause", "resume"} {
		table["keys "+name] = commandFlags{}
	}
	for name, flags := range map[string]string{
		"agents": "name role phone model voice team owner", "contacts": "first-name last-name email company phone stage status tag team owner",
		"teams": "name member", "owners": "name balance rate", "schedules": "owner time-zone buffer notice",
		"variables": "name display-name type context description option owner", "do-not-call": "phone reason",
		"events": "title start end type customer location agent team owner",
	} {
		table[name+" create"] = commandFlags{independent: flags}
		if name != "events" {
			table[name+" list"], table[name+" import"] = pages, file
		}
		if slices.Contains(strings.Fields("agents contacts schedules variables"), name) {
			table[name+" list"], table[name+" import"] = spaces, commandFlags{rules: file.rules, independent: file.independent + " owner"}
		}
		if name == "agents" {
			table[name+" update"] = commandFlags{independent: strings.TrimSuffix(flags, " owner")}
		}
		if name == "contacts" {
			table[name+" import"] = commandFlags{rules: append([]flagRule{{flags: "skip-duplicates", excludes: "update-by"}}, file.rules...), independent: file.independent + " owner update-by"}
		}
		if name != "events" && name != "owners" {
			table[name+" delete"] = commandFlags{}
		}
	}
	return table
}

// all returns the rules for all flags of the command, also the global ones.
func (f commandFlags) all() []flagRule {
	rules := slices.Concat(f.rules, f.place.rules())
	if f.noJSON != "" {
		rules = append(rules, flagRule{flags: "json", why: f.noJSON})
	}
	return rules
}

// commandName returns the name of a command without the name of the program, such as "keys list".
func commandName(c *cli.Command) string {
	_, name, _ := strings.Cut(c.FullName(), " ")
	return name
}

// checkFlags returns a *usageError if the user has set a flag that has no effect, or has given an
// argument to a command that takes none.
func checkFlags(c *cli.Command) error {
	if c.ArgsUsage == "" && c.Args().Present() {
		return misused(c, fmt.Errorf("unknown argument %q", c.Args().First()))
	}
	return checkRules(c, flagTable()[commandName(c)].all())
}

// checkRules returns a *usageError if a flag that the user has set breaks one of the rules.
func checkRules(c *cli.Command, rules []flagRule) error {
	for _, rule := range rules {
		for flag := range strings.FieldsSeq(rule.flags) {
			if !given(c, flag) || fromEnvironment(c, flag) {
				continue
			}
			if text := rule.broken(c, flag); text != "" {
				return misused(c, fmt.Errorf("--%s %s", flag, text))
			}
		}
	}
	return nil
}

// broken returns what is wrong with a flag that is set, and what to do. It returns "" if the flag
// has an effect.
func (r flagRule) broken(c *cli.Command, flag string) string {
	for name := range strings.FieldsSeq(r.excludes) {
		if given(c, name) {
			return fmt.Sprintf("has no effect with %s: leave out one of the two", label(c, name))
		}
	}
	if r.excludes != "" {
		return ""
	}
	var labels []string
	for name := range strings.FieldsSeq(r.needs) {
		if given(c, name) {
			return ""
		}
		labels = append(labels, label(c, name))
	}
	if len(labels) > 0 {
		return fmt.Sprintf("has no effect without %s: add it, or leave out --%s", strings.Join(labels, " or "), flag)
	}
	return fmt.Sprintf("has no effect here: %s; leave it out", r.why)
}

// given reports whether a flag or an argument of a flagRule is set. A flag may be set by the
// environment, and a flag such as --finish=false is not set.
func given(c *cli.Command, name string) bool {
	switch args := c.Args().Slice(); {
	case name == "FILE" || name == "PATH":
		return len(args) > 0
	case name == "-":
		return slices.Contains(args, "-")
	case strings.HasPrefix(name, "."):
		return slices.ContainsFunc(args, func(file string) bool { return strings.HasSuffix(strings.ToLower(file), name) })
	}
	if on, ok := c.Value(name).(bool); ok {
		return on
	}
	return c.IsSet(name) && c.Value(name) != ""
}

// label returns the name of a flag or an argument for a message.
func label(c *cli.Command, name string) string {
	switch {
	case name == "FILE" || name == "PATH":
		return "a " + name
	case name == "-":
		return "standard output (-)"
	case strings.HasPrefix(name, "."):
		return "a FILE that ends in " + name
	case fromEnvironment(c, name):
		return fmt.Sprintf("--%s, which %s sets", name, variable(c, name))
	}
	return "--" + name
}

// fromEnvironment reports whether the value of a flag is that of its environment variable.
func fromEnvironment(c *cli.Command, name string) bool {
	from := variable(c, name)
	return from != "" && os.Getenv(from) == c.String(name)
}

// variable returns the environment variable that sets a flag, or "" if there is none.
func variable(c *cli.Command, name string) string {
	for _, flag := range c.Root().Flags {
		if doc, ok := flag.(cli.DocGenerationFlag); ok && flag.Names()[0] == name && len(doc.GetEnvVars()) > 0 {
			return doc.GetEnvVars()[0]
		}
	}
	return ""
}
