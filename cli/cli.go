// Package cli implements the commands. A command sends requests to the admin endpoint: to the
// server at --url, or through the control socket in the data folder. If no server has the data
// folder open, the command opens it and calls the endpoint in its own process.
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v3"
)

// Run executes the command line in args, which begins with the name of the program. It returns the
// exit code: 0 for success, 1 for a failure, 2 for a wrong command line, 3 if check could not verify
// the MACs, 130 if ctx ended before the command was done. A command also fails if its output cannot be written.
func Run(ctx context.Context, args []string, env Environment) int {
	out := newOutput(env.Stdout)
	env.Stdout, env.line = out, args
	err := out.result(Tree(env).Run(ctx, args))
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case out.quiet(err):
		return 1
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(env.Stderr, "latchkey: %v\nTry: %s --help\n", err, usage.command)
		return 2
	}
	var exit *exitError
	if !errors.As(err, &exit) && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err, exit = errors.New("interrupted before the command was done"), &exitError{code: exitInterrupted}
	}
	_, _ = fmt.Fprintf(env.Stderr, "latchkey: %v\n", err)
	if exit != nil {
		return exit.code
	}
	return 1
}

// Tree returns the root command. It contains all other commands.
func Tree(env Environment) *cli.Command {
	wrapHelp()
	s := &session{env: env}
	root := &cli.Command{
		Name:  "latchkey",
		Usage: "API keys, permissions and limits for an HTTP API",
		Description: `Examples:
  latchkey serve --demo
  latchkey keys create --name ci --permission can_read_calls
  latchkey keys revoke key_019c3e...`,
		Writer: env.Stdout, ErrWriter: env.Stderr, Reader: env.Stdin,
		HideVersion: true, Suggest: true, EnableShellCompletion: true, ConfigureShellCompletionCommand: s.completionScripts,
		ExitErrHandler: func(context.Context, *cli.Command, error) {}, // Run prints the error
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`", Sources: cli.EnvVars("LATCHKEY_CONFIG")},
			&cli.StringFlag{Name: "data", Usage: "data folder `DIR`"},
			&cli.StringFlag{Name: "url", Usage: "`URL` of the admin listener of a server elsewhere, such as http://127.0.0.1:8081", Sources: cli.EnvVars("LATCHKEY_URL")},
			&cli.StringFlag{Name: "ca", Usage: "PEM `FILE` with the certificate authority of --url; default: the authorities of the system", Sources: cli.EnvVars("LATCHKEY_CA")},
			&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the admin token for --url, or - for standard input; default: the token in LATCHKEY_ADMIN_TOKEN", Sources: cli.EnvVars("LATCHKEY_ADMIN_TOKEN_FILE")},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, for scripts"},
			&cli.BoolFlag{Name: "version", Usage: "print the version", Local: true},
		},
		Commands: slices.Concat([]*cli.Command{s.serveCommand(), s.keysCommand()}, s.fileCommands(), s.resourceCommands(), s.storeCommands(),
			[]*cli.Command{s.clusterCommand(), s.sandboxCommand(), s.webhooksCommand(), s.mailCommand(), s.adminCommand(), s.auditCommand(), s.usageCommand(), s.limitsCommand(), s.requestsCommand(), s.refusalsCommand(), s.configCommand(), s.reloadCommand(), s.statusCommand(), s.routesCommand(), s.versionCommand(), s.manCommand()}),
	}
	s.addUsageErrors(root)
	group := root.Action
	root.Action = func(ctx context.Context, c *cli.Command) error {
		if c.Bool("version") && c.Args().Len() == 0 {
			if err := checkRules(c, inMemory.rules()); err != nil {
				return err
			}
			return s.printVersion(c)
		}
		return group(ctx, c)
	}
	root.Before = func(ctx context.Context, c *cli.Command) (context.Context, error) {
		if c.Bool("version") && c.Args().Len() > 0 {
			return ctx, misused(c, errors.New("--version is used without a command"))
		}
		return ctx, nil
	}
	return root
}

// addUsageErrors makes c and all commands below it return a *usageError for a wrong flag, or for one
// without effect (see checkFlags), and complete command lines. A command
// that only groups other commands prints its help, or returns a *usageError for an unknown name.
func (s *session) addUsageErrors(c *cli.Command) {
	c.ShellComplete = s.complete
	c.OnUsageError = func(_ context.Context, c *cli.Command, err error, _ bool) error {
		if _, name, ok := strings.Cut(err.Error(), "flag provided but not defined: -"); ok {
			var known []string
			for _, flag := range slices.Concat(c.Flags, c.Root().Flags) {
				known = append(known, flag.Names()[0])
			}
			if near := nearest(name, known); near != "" {
				err = fmt.Errorf("%w; did you mean --%s?", err, near)
			}
		}
		return misused(c, err)
	}
	if c.Action == nil && len(c.Commands) > 0 {
		c.Action = func(_ context.Context, c *cli.Command) error {
			if name := c.Args().First(); name != "" {
				var known []string
				for _, sub := range c.Commands {
					known = append(known, sub.Name)
				}
				if near := nearest(name, known); near != "" {
					return misused(c, fmt.Errorf("unknown command %q; did you mean %s?", name, near))
				}
				return misused(c, fmt.Errorf("unknown command %q", name))
			}
			return cli.ShowSubcommandHelp(c)
		}
	}
	if run := c.Action; run != nil && len(c.Commands) == 0 {
		c.Action = func(ctx context.Context, c *cli.Command) error {
			if err := checkFlags(c); err != nil {
				return err
			}
			return s.announceOwners(ctx, c, run)
		}
	}
	for _, sub := range c.Commands {
		s.addUsageErrors(sub)
	}
}

// otherWords are names that commands have in other programs, with the names that they have here.
var otherWords = map[string][]string{
	"delete": {"revoke", "remove"}, "remove": {"revoke", "delete"}, "rm": {"revoke", "delete", "remove"}, "add": {"create"}, "new": {"create"}, "ls": {"list"}, "get": {"show"}, "edit": {"update"},
	"start": {"serve"}, "run": {"serve"}, "validate": {"check"},
}

// nearest returns the word of known that was probably meant by name, or "" if none is similar.
func nearest(name string, known []string) string {
	for _, word := range otherWords[name] {
		if slices.Contains(known, word) {
			return word
		}
	}
	best, least := "", len(name)/3+1
	for _, word := range known {
		if n := edits(name, word); n <= least {
			best, least = word, n-1
		}
	}
	return best
}

// edits returns how many letters must be inserted, deleted or replaced to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// helpWidth is the number of columns of a line of help.
const helpWidth = 80

// wrapHelp makes the help of all commands at most helpWidth columns wide. The printer is a variable
// of the library.
var wrapHelp = sync.OnceFunc(func() {
	cli.HelpPrinter = func(w io.Writer, text string, data any) {
		var b bytes.Buffer
		cli.DefaultPrintHelp(&b, text, data)
		for line := range strings.Lines(b.String()) {
			_, _ = fmt.Fprintln(w, wrapLine(strings.TrimRight(line, " \n")))
		}
	}
})

// column finds the gap between the two columns of a line of help.
var column = regexp.MustCompile(`\S(  +)\S`)

// wrapLine breaks a line of help at spaces. The second column of a table stays one, or moves below the
// first if it begins far to the right.
func wrapLine(line string) string {
	if len(line) <= helpWidth {
		return line
	}
	indent := len(line) - len(strings.TrimLeft(line, " ")) + 3
	text, head := strings.Fields(line), line[:indent-3]
	if gap := column.FindStringSubmatchIndex(line); gap != nil {
		text, head, indent = strings.Fields(line[gap[3]:]), line[:gap[3]], gap[3]
		if indent > helpWidth/2 {
			head, indent = strings.TrimRight(head, " ")+"\n"+strings.Repeat(" ", 10), 10
		}
	}
	at := len(head[strings.LastIndexByte(head, '\n')+1:])
	for n, word := range text {
		switch {
		case n == 0:
		case at+1+len(word) > helpWidth:
			head, at = head+"\n"+strings.Repeat(" ", indent), indent
		default:
			head, at = head+" ", at+1
		}
		head, at = head+word, at+len(word)
	}
	return head
}

// manCommand returns the command that prints the manual page.
func (s *session) manCommand() *cli.Command {
	return &cli.Command{Name: "man", Usage: "print the manual page, for man -l -", Action: func(_ context.Context, c *cli.Command) error {
		_, err := fmt.Fprint(s.env.Stdout, manPage(c.Root(), s.env.Version))
		return err
	}}
}

// manPage returns the manual page for root and all commands below it, in the format of man(7).
func manPage(root *cli.Command, version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"%s %s\" \"User Commands\"\n", strings.ToUpper(root.Name), root.Name, roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", root.Name, roff(root.Usage))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]\n", root.Name)
	b.WriteString(".SH DESCRIPTION\nOne program is the server and the commands for it. Commands reach a running server over the socket in its data folder. " +
		"If no server runs, they open the folder themselves.\n")
	fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", roff(root.Description))
	b.WriteString(".SH OPTIONS\n")
	manFlags(&b, root.Flags)
	b.WriteString(".SH COMMANDS\n")
	manCommands(&b, root)
	b.WriteString(".SH FILES\n.TP\n.I latchkey\\-data\nThe data folder, unless \\fB\\-\\-data\\fR names another.\n" +
		".TP\n.I /etc/latchkey/config.toml\nThe configuration of the Debian package, with the data folder /var/lib/latchkey and the pepper /etc/latchkey/pepper.\n" +
		".SH EXIT STATUS\n0 success, 1 failure (also if the output could not be written), 2 wrong command line, 130 ended by Ctrl+C.\n")
	return b.String()
}

// manCommands writes a section for each command below c. It leaves out hidden commands, help, and
// commands that only group others.
func manCommands(b *strings.Builder, c *cli.Command) {
	for _, sub := range c.Commands {
		if sub.Hidden || sub.Name == "help" {
			continue
		}
		if slices.ContainsFunc(sub.Commands, func(x *cli.Command) bool { return x.Name != "help" }) {
			manCommands(b, sub)
			continue
		}
		fmt.Fprintf(b, ".SS %s\n%s.\n", roff(strings.TrimSpace(sub.FullName()+" "+sub.ArgsUsage)), roff(sub.Usage))
		manFlags(b, sub.Flags)
	}
}

// manFlags writes an entry for each flag except --help.
func manFlags(b *strings.Builder, flags []cli.Flag) {
	for _, f := range flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok || slices.Contains(f.Names(), "help") {
			continue
		}
		// The word in backquotes names the value, as in the help.
		usage := doc.GetUsage()
		value := ""
		if before, rest, found := strings.Cut(usage, "`"); found {
			if name, after, closed := strings.Cut(rest, "`"); closed {
				value, usage = name, before+name+after
			}
		}
		if value == "" && doc.TakesValue() {
			value = strings.ToUpper(doc.TypeName())
		}
		fmt.Fprintf(b, ".TP\n\\fB\\-\\-%s\\fR", roff(f.Names()[0]))
		if doc.TakesValue() {
			fmt.Fprintf(b, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(b, "\n%s.\n", roff(usage))
	}
}

// roff escapes text so that man prints all of it literally.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
