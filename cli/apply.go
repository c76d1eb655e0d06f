package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/urfave/cli/v3"
)

// fileCommands returns the commands for files of keys.
func (s *session) fileCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "apply", Usage: "bring keys, owners, webhooks and admin tokens to the state of a file", ArgsUsage: "FILE", Action: s.apply,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "dry-run", Usage: "only print what would change"},
				&cli.StringFlag{Name: "secrets", Usage: "write the secrets of new keys, webhooks and tokens to a new `FILE` that only its owner can read; needed if there are any"},
				&cli.BoolFlag{Name: "prune", Usage: "also revoke keys and tokens and delete webhooks that FILE does not have, after a confirmation; kinds that it does not mention stay"},
				&cli.BoolFlag{Name: "yes", Usage: "do not ask for a confirmation"},
			},
			Description: `All changes are made or none. A field that FILE leaves out gets its default.
An example of FILE (- for standard input):
  [[key]]
  ref = "billing/ci"
  name = "CI of billing"
  permissions = ["can_read_calls"]`},
		{Name: "export", Usage: "print keys, owners, webhooks and admin tokens as a file for apply, without secrets", Action: s.export},
	}
}

// apply prints the plan for a file, and then makes exactly its changes.
func (s *session) apply(ctx context.Context, c *cli.Command) (err error) {
	name, err := oneArgument(c)
	if err != nil {
		return err
	}
	data, err := readFileOr(s.env.Stdin, name)
	if err != nil {
		return err
	}
	file := readRecordFile(data)
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	client = client.patient()
	body := map[string]any{"dry_run": true, "prune": c.Bool("prune")}
	maps.Copy(body, file.members)
	var plan appliedPlan
	err = client.Do(ctx, Request{http.MethodPost, "/admin/v1/apply", body}, &plan.answer)
	if err := file.refused(name, err); err != nil {
		return err
	}
	plan.read()
	if !c.Bool("json") {
		if err := s.printPlan(plan); err != nil {
			return err
		}
	}
	if c.Bool("dry-run") || len(plan.steps) == 0 {
		return s.printApplied(c, plan.answer)
	}
	if err := s.agree(c, name, plan); err != nil {
		return err
	}
	body["dry_run"], body["fingerprint"] = false, plan.answer["fingerprint"]
	return s.makeChanges(ctx, c, client, body, plan)
}

// appliedPlan is the answer of the server to a dry run.
type appliedPlan struct {
	answer  map[string]any
	steps   []map[string]any
	counts  map[string]int // changes by action
	secrets int            // changes that make a secret
}

// read fills in the fields that follow from the answer.
func (p *appliedPlan) read() {
	list, _ := p.answer["plan"].([]any)
	p.counts = map[string]int{}
	for _, v := range list {
		step, _ := v.(map[string]any)
		p.steps = append(p.steps, step)
		if p.counts[fmt.Sprint(step["action"])]++; step["secret"] == true {
			p.secrets++
		}
	}
}

// ends returns the number of records that the plan revokes or deletes.
func (p *appliedPlan) ends() int { return p.counts["revoke"] + p.counts["delete"] }

// printPlan prints a plan: a line for each record, and one for each of its fields.
func (s *session) printPlan(p appliedPlan) error {
	signs := map[string]string{"create": "+", "change": "~", "revoke": "-", "delete": "-"}
	var b strings.Builder
	for _, step := range p.steps {
		action := fmt.Sprint(step["action"])
		fmt.Fprintf(&b, "%s %s %s", signs[action], action, cell(step["kind"]))
		if ref := step["ref"]; ref != nil {
			fmt.Fprintf(&b, " %s", cell(ref))
		}
		fmt.Fprintf(&b, " (%s)\n", cell(step["name"]))
		fields, _ := step["fields"].([]any)
		for _, v := range fields {
			field, _ := v.(map[string]any)
			switch {
			case action == "create" && (field["field"] == "ref" || field["field"] == "name"): // in the line above
			case action == "create":
				fmt.Fprintf(&b, "    %s: %s\n", cell(field["field"]), cell(field["after"]))
			default:
				fmt.Fprintf(&b, "    %s: %s -> %s\n", cell(field["field"]), planCell(field["before"]), planCell(field["after"]))
			}
		}
	}
	if len(p.steps) > 0 {
		fmt.Fprintf(&b, "Plan: %d to create, %d to change, %d to revoke, %d to delete.\n", p.counts["create"], p.counts["change"], p.counts["revoke"], p.counts["delete"])
	}
	_, err := io.WriteString(s.env.Stdout, b.String())
	return err
}

// planCell returns a value of a field as text.
func planCell(v any) string {
	if v == nil {
		return "default"
	}
	return cell(v)
}

// printApplied prints the message of an answer, or with --json the answer without secrets.
func (s *session) printApplied(c *cli.Command, answer map[string]any) error {
	if c.Bool("json") {
		rest := maps.Clone(answer)
		delete(rest, "secrets")
		return s.printJSON(rest)
	}
	_, err := fmt.Fprintln(s.env.Stdout, cell(answer["message"]))
	return err
}

// agree returns nil if the plan may be carried out: there is a file for its secrets, and the user has confirmed what it
// revokes and deletes.
func (s *session) agree(c *cli.Command, name string, p appliedPlan) error {
	if p.secrets > 0 && c.String("secrets") == "" {
		return fmt.Errorf("nothing was changed: the plan makes new secrets (%d), which are shown only once; name a new file for them with --secrets FILE", p.secrets)
	}
	if p.ends() == 0 || c.Bool("yes") {
		return nil
	}
	if _, ok := s.terminal(); !ok || name == "-" {
		return fmt.Errorf("nothing was changed: the plan revokes or deletes %d records, and standard input is no terminal on which to confirm; add --yes", p.ends())
	}
	return endsQuestion(p.ends()).ask(s.env.Stdin, s.env.Stderr)
}

// endsQuestion returns the question whether so many records should end.
func endsQuestion(ends int) question {
	return question{
		text: fmt.Sprintf("%d records are revoked or deleted, permanently. To go on, type yes: ", ends),
		want: "yes", refused: "yes was not typed, so nothing was changed",
	}
}

// makeChanges sends the request that makes the changes of a plan. The file for the secrets is created before that, so
// that a path which cannot be written costs nothing.
func (s *session) makeChanges(ctx context.Context, c *cli.Command, client *Client, body map[string]any, p appliedPlan) error {
	if p.secrets == 0 {
		return s.sendChanges(ctx, c, client, body)
	}
	return s.withSecretFile("secrets", c.String("secrets"), func() error { return s.sendChanges(ctx, c, client, body) })
}

func (s *session) sendChanges(ctx context.Context, c *cli.Command, client *Client, body map[string]any) error {
	var answer map[string]any
	if err := client.Do(ctx, Request{http.MethodPost, "/admin/v1/apply", body}, &answer); err != nil {
		if _, refused := errors.AsType[*ClientError](err); !refused {
			err = fmt.Errorf("%w; the changes may have been made: run the command with --dry-run to see, and rotate new keys, whose secrets are lost", err)
		}
		return err
	}
	if s.secretFile != nil {
		secrets, _ := answer["secrets"].([]any)
		var b strings.Builder
		for _, v := range secrets {
			secret, _ := v.(map[string]any)
			writeTable(&b, "secret", secret)
		}
		if err := s.storeSecret(strings.TrimRight(b.String(), "\n")); err != nil {
			return &lostSecret{err: err, name: fmt.Sprintf("%d secrets", len(secrets)), remedy: "Issue new secrets of the keys: latchkey keys rotate KEY\nRevoke the new tokens, and delete the new webhooks, before the file is applied again."}
		}
	}
	return s.printApplied(c, answer)
}

// export prints what is stored as a file.
func (s *session) export(ctx context.Context, c *cli.Command) error {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return err
	}
	var answer map[string]any
	err = client.patient().Do(ctx, Request{http.MethodGet, "/admin/v1/export", nil}, &answer)
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	_, err = io.WriteString(s.env.Stdout, recordFileText(answer))
	return err
}
