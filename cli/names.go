package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v3"
)

// keyID matches the ids of keys.
var keyID = regexp.MustCompile(`^key_[0-9a-f]{1,40}$`)

// longestName is the length up to which an error repeats a text that names no key. A longer text may
// be a key itself.
const longestName = 20

// findKey returns the id of the key that text names: its id, its name, or its hint, such as
// klen_...x9Qa. If text names several keys, those that were revoked do not count. Text may be a key
// itself by mistake, so findKey sends only what nameSearch returns.
func (s *session) findKey(ctx context.Context, c *cli.Command, text string) (id string, err error) {
	if keyID.MatchString(text) {
		return text, nil
	}
	found, err := s.keysNamed(ctx, c, text)
	if err != nil {
		return "", err
	}
	if len(found) == 0 && len(text) > longestName {
		return "", errors.New("there is no key with this id, name or hint; if the text is a key itself, look it up with: latchkey keys leaked -")
	}
	if len(found) == 0 {
		return "", fmt.Errorf("there is no key with the id, name or hint %q", text)
	}
	var usable []map[string]any
	for _, key := range found {
		if key["status"] != "revoked" {
			usable = append(usable, key)
		}
	}
	if len(usable) == 0 {
		usable = found
	}
	if len(usable) > 1 {
		var b strings.Builder
		fmt.Fprintf(&b, "%d keys have the name or hint %q; use the id of one of them:", len(usable), text)
		for _, key := range usable {
			fmt.Fprintf(&b, "\n  %s  %s  %s  %s", cell(key["id"]), cell(key["hint"]), cell(key["status"]), cell(key["name"]))
		}
		return "", errors.New(b.String())
	}
	id, _ = usable[0]["id"].(string)
	return id, nil
}

// shownEnd is the number of characters of a key that a hint shows.
const shownEnd = 4

// nameSearch returns words that are parts of text and that may appear in a URL. If text may be a key,
// they are from its first and last few characters. The result is "" if there are no such words.
func nameSearch(text string) string {
	if len(text) <= longestName {
		return text
	}
	begin, end := 0, len(text)
	for begin < shownEnd && text[begin] < utf8.RuneSelf {
		begin++
	}
	for end > len(text)-shownEnd && end > begin && text[end-1] < utf8.RuneSelf {
		end--
	}
	return strings.TrimSpace(text[:begin] + " " + text[end:])
}

// keysNamed returns the keys whose name or hint is text.
func (s *session) keysNamed(ctx context.Context, c *cli.Command, text string) (found []map[string]any, err error) {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	seen := map[any]bool{} // a key that is created meanwhile moves others to the next page
	for page, pages := 1, 1; page <= pages; page++ {
		var answer map[string]any
		query := url.Values{"status": {"any"}, "limit": {"1000"}, "page": {strconv.Itoa(page)}, "search": {nameSearch(text)}}
		if err := client.Do(ctx, Request{http.MethodGet, "/admin/v1/keys?" + query.Encode(), nil}, &answer); err != nil {
			return nil, err
		}
		pages = whole(answer["pages"])
		rows, _ := answer["keys"].([]any)
		for _, v := range rows {
			key, _ := v.(map[string]any)
			if named := key["name"] == text || key["hint"] == text && strings.Contains(text, "..."); named && !seen[key["id"]] {
				seen[key["id"]] = true
				found = append(found, key)
			}
		}
	}
	return found, nil
}

// ownerNames explains how the commands name an owner.
const ownerNames = "OWNER is the id of an owner, or its name. A number is an id."

// ownerNamed returns the id of the owner with this name, or "" if there is none.
func (s *session) ownerNamed(ctx context.Context, c *cli.Command, name string) (string, error) {
	for page, pages := 1, 1; page <= pages; page++ {
		query := url.Values{"limit": {"1000"}, "page": {strconv.Itoa(page)}, "search": {name}}
		answer, err := s.call(ctx, c, Request{http.MethodGet, "/admin/v1/owners?" + query.Encode(), nil})
		if err != nil {
			return "", err
		}
		pages = whole(answer["pages"])
		rows, _ := answer["owners"].([]any)
		for _, v := range rows {
			if owner, _ := v.(map[string]any); owner["name"] == name {
				return cell(owner["id"]), nil
			}
		}
	}
	return "", nil
}

// oneOwnerPath returns the URL path of the owner that the argument of the command names.
func (s *session) oneOwnerPath(ctx context.Context, c *cli.Command) (string, error) {
	text, err := oneArgument(c)
	if err != nil {
		return "", err
	}
	id := text
	if strings.Trim(text, "0123456789") != "" {
		if id, err = s.ownerNamed(ctx, c, text); err == nil && id == "" {
			err = fmt.Errorf("there is no owner with the id or name %q; list them with: latchkey owners list", text)
		}
	}
	return "/admin/v1/owners/" + url.PathEscape(id), err
}

// announceOwners runs a command. If it creates or changes a record, announceOwners then writes to
// standard error which of the owners that its flags name are new: a name may have a typing error.
func (s *session) announceOwners(ctx context.Context, c *cli.Command, run cli.ActionFunc) error {
	var missing []string
	if c.Name == "create" || c.Name == "update" {
		for _, name := range append([]string{c.String("owner")}, c.StringSlice("member")...) {
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if id, err := s.ownerNamed(ctx, c, name); err == nil && id == "" {
				missing = append(missing, name)
			}
		}
	}
	if err := run(ctx, c); err != nil {
		return err
	}
	for _, name := range missing {
		if id, err := s.ownerNamed(ctx, c, name); err == nil && id != "" {
			_, _ = fmt.Fprintf(s.env.Stderr, "Made the owner %s (%s).\n", cell(name), id)
		}
	}
	return nil
}

// oneKeyPath returns the URL path of the key that the argument of the command names.
func (s *session) oneKeyPath(ctx context.Context, c *cli.Command) (string, error) {
	text, err := oneArgument(c)
	if err != nil {
		return "", err
	}
	id, err := s.findKey(ctx, c, text)
	return "/admin/v1/keys/" + id, err
}
