package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
)

// Man is the command that prints the manual page.
func (s *Session) Man() *cli.Command {
	return &cli.Command{Name: "man", Usage: "print the manual page, for man -l -", Action: func(_ context.Context, c *cli.Command) error {
		_, err := fmt.Fprint(s.Env.Stdout, manPage(c.Root()))
		return err
	}}
}

// manPage gives the manual page of a tree of commands, as man(7) has it.
func manPage(root *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"%s %s\" \"User Commands\"\n", strings.ToUpper(root.Name), root.Name, roff(ProgramVersion()))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", root.Name, roff(root.Usage))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]\n", root.Name)
	b.WriteString(".SH DESCRIPTION\nOne program is the server and the commands for it. Commands reach a running server over the socket in its data folder, " +
		"and open the folder where none runs.\n")
	fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", roff(root.Description))
	b.WriteString(".SH OPTIONS\n")
	manFlags(&b, root.Flags)
	b.WriteString(".SH COMMANDS\n")
	manCommands(&b, root)
	b.WriteString(".SH FILES\n.TP\n.I latchkey\\-data\nThe data folder, unless \\fB\\-\\-data\\fR names another.\n" +
		".SH EXIT STATUS\n0 done, 1 failed, 2 not understood.\n")
	return b.String()
}

// manCommands describes the commands below one that do something.
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

// roff keeps text from being taken for instructions.
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
