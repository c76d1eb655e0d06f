package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/urfave/cli/v3"
)

// tokenCommand returns the commands for admin tokens.
func (s *session) tokenCommand() *cli.Command {
	return &cli.Command{Name: "token", Usage: "create, list, rotate and revoke admin tokens", Commands: []*cli.Command{
		s.showsOnce(&cli.Command{
			Name: "create", Usage: "create an admin token and show it once", Action: s.createToken,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "name", Usage: "what the token is for"},
				&cli.StringFlag{Name: "scope", Usage: "what the token may do: metrics, read, dialer, keys, write or all; default: all"},
				&cli.StringFlag{Name: "expires", Usage: "a time such as 2027-01-31T00:00:00Z, how long from now, such as 90d, or never; default: one year"},
				&cli.StringSliceFlag{Name: "allowed-ip", Usage: "address or range from which the token is accepted (repeatable); default: any address"},
			},
			Description: `No admin token can create another one, so run this command on the machine of
the service, without --url.

Example:
  latchkey admin token create --name prometheus --scope metrics`,
		}),
		s.listOf("tokens", tokenColumns()),
		s.showsOnce(&cli.Command{
			Name: "rotate", Usage: "issue a new secret for an admin token and show it once; the previous one stays valid for the overlap", ArgsUsage: "ID", Action: s.rotateToken,
			Flags: []cli.Flag{&cli.StringFlag{Name: "overlap", Value: "24h", Usage: "how long the previous secret stays valid, up to 30d; 0 ends all earlier secrets immediately"}},
		}),
		{Name: "revoke", Usage: "revoke an admin token immediately and permanently", ArgsUsage: "ID", Action: s.revokeToken},
	}}
}

func tokenColumns() []string {
	return []string{"id", "name", "hint", "scope", "status", "made_by", "created_at", "expires_at", "allowed_ips", "last_used_at", "last_used_ip"}
}

// tokenNever is the value of --expires for a token that never expires.
const tokenNever = "never"

func (s *session) createToken(ctx context.Context, c *cli.Command) error {
	if c.String("name") == "" {
		return misused(c, errors.New("--name is needed"))
	}
	body := map[string]any{"name": c.String("name")}
	if c.IsSet("scope") {
		body["scope"] = c.String("scope")
	}
	if c.IsSet("allowed-ip") {
		body["allowed_ips"] = c.StringSlice("allowed-ip")
	}
	switch text := c.String("expires"); {
	case text == tokenNever:
		body["expires_at"] = tokenNever
	case c.IsSet("expires"):
		at, err := expiry(text, time.Now())
		if err != nil {
			return misused(c, fmt.Errorf("%w; or write %s", err, tokenNever))
		}
		body["expires_at"] = at
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/tokens", body})
	if err != nil {
		return err
	}
	lost := shownOnce{member: "token", kind: "admin token", remedy: "Revoke it and create another: latchkey admin token revoke ID"}
	if advise, err := s.printSecret(c, made, lost); err != nil || !advise {
		return err
	}
	ends := "It never expires."
	if made["expires_at"] != nil {
		ends = fmt.Sprintf("It expires on %s.", cell(made["expires_at"]))
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "\nThis is the only time that the token is shown: store it now.\nIts id is %s and its scope %s. %s\n", cell(made["id"]), cell(made["scope"]), ends)
	return nil
}

// tokenPath returns the path of the token that the argument of the command names.
func tokenPath(c *cli.Command) (string, error) {
	id, err := oneArgument(c)
	return "/admin/v1/tokens/" + url.PathEscape(id), err
}

func (s *session) rotateToken(ctx context.Context, c *cli.Command) error {
	overlap, err := seconds(c, "overlap")
	if err != nil {
		return err
	}
	path, err := tokenPath(c)
	if err != nil {
		return err
	}
	made, err := s.call(ctx, c, Request{http.MethodPost, path + "/rotate", map[string]any{"overlap_seconds": overlap}})
	if err != nil {
		return err
	}
	lost := shownOnce{member: "token", kind: "admin token", remedy: fmt.Sprintf("Rotate it again: latchkey admin token rotate ID --overlap %s", c.String("overlap"))}
	if advise, err := s.printSecret(c, made, lost); err != nil || !advise {
		return err
	}
	until := fmt.Sprintf("The previous secret stays valid for %s.", c.String("overlap"))
	if overlap == 0 {
		until = "All earlier secrets of the token have ended."
	}
	_, _ = fmt.Fprintf(s.env.Stderr, "\nThis is the only time that the new secret is shown: store it now.\n%s\n", until)
	return nil
}

func (s *session) revokeToken(ctx context.Context, c *cli.Command) error {
	path, err := tokenPath(c)
	if err != nil {
		return err
	}
	gone, err := s.call(ctx, c, Request{http.MethodPost, path + "/revoke", nil})
	if err != nil {
		return err
	}
	return s.printList(c, gone, "", tokenColumns())
}
