package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"
)

// leakChunk is how much of a file is in memory at once, however long its lines
// are.
const leakChunk = 256 << 10

// ScanKeys looks for keys with a prefix, by their form and checksum, in a text
// of any size and kind, and gives each with the line it is on.
func ScanKeys(r io.Reader, prefix string, found func(secret string, line int)) error {
	length := len(prefix) + SecretLength
	buf, line := make([]byte, 0, leakChunk), 1
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		at := 0
		for {
			i := bytes.Index(buf[at:], []byte(prefix))
			if i < 0 || at+i+length > len(buf) {
				break
			}
			line += bytes.Count(buf[at:at+i], []byte("\n"))
			at += i
			if secret := string(buf[at : at+length]); WellFormed(secret, prefix) {
				found(secret, line)
			}
			at++ // a prefix has no line break
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// The end may be the beginning of a key.
		keep := max(at, len(buf)-length+1)
		line += bytes.Count(buf[at:keep], []byte("\n"))
		buf = append(buf[:0], buf[keep:]...)
	}
}

// leak is one secret that was found, without the secret itself.
type leak struct {
	digest Digest
	hint   string
	place  string // where it was first
	times  int
	known  map[string]any // what the server says of it, nil where it knows nothing
}

// leaks collects what is found, each secret once.
type leaks struct {
	prefix string
	list   []*leak
	seen   map[Digest]*leak
}

func (l *leaks) scan(r io.Reader, name string) error {
	err := ScanKeys(r, l.prefix, func(secret string, line int) {
		d := DigestOf(secret)
		if l.seen[d] == nil {
			l.seen[d] = &leak{digest: d, hint: Hint(secret, l.prefix), place: fmt.Sprintf("%s:%d", name, line)}
			l.list = append(l.list, l.seen[d])
		}
		l.seen[d].times++
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// scanPath looks into a file, or all files of a folder. What cannot be read is
// an error, and does not keep the rest from being read.
func (l *leaks) scanPath(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // WalkDir follows no link, not even the one it is given
	}
	var all []error
	err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && (entry.Type().IsRegular() || name == path && !entry.IsDir()) {
			var f *os.File
			if f, err = os.Open(name); err == nil {
				err = errors.Join(l.scan(f, name), f.Close())
			}
		}
		all = append(all, err)
		return nil
	})
	return errors.Join(append(all, err)...)
}

// Leaked is the command that looks for keys where they should not be.
func (s *Session) Leaked() *cli.Command {
	return &cli.Command{
		Name: "leaked", Usage: "find keys in files, folders or standard input (-), and say which of them are live", ArgsUsage: "PATH...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "revoke", Usage: "revoke the live ones; of an earlier secret of a rotated key end that one"},
			&cli.BoolFlag{Name: "pattern", Usage: "print a regular expression for secret scanners and do nothing else"},
		},
		Description: `Keys are known by their form and checksum, so a key that was imported is not
found. The server is asked by SHA-256: nothing found is sent or printed in
clear. The exit code is 1 where live keys were found and not revoked.

Examples:
  latchkey keys leaked access.log
  git log -p | latchkey keys leaked --revoke -`,
		Action: s.leaked,
	}
}

func (s *Session) leaked(ctx context.Context, c *cli.Command) error {
	found := &leaks{seen: map[Digest]*leak{}}
	answer, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": []string{}})
	if err != nil {
		return err
	}
	found.prefix, _ = answer["prefix"].(string)
	if c.Bool("pattern") {
		_, err := fmt.Fprintf(s.Env.Stdout, "%s[0-9A-Za-z]{%d}\n", found.prefix, SecretLength)
		return err
	}
	if c.Args().Len() == 0 {
		return Misused(c, errors.New("at least one PATH is needed, - for standard input"))
	}
	var unread error
	for _, path := range c.Args().Slice() {
		if path == "-" {
			unread = errors.Join(unread, found.scan(s.Env.Stdin, "standard input"))
			continue
		}
		unread = errors.Join(unread, found.scanPath(path))
	}
	if err := s.lookUp(ctx, c, found.list); err != nil {
		return err
	}
	left, err := s.end(ctx, c, found.list)
	return errors.Join(s.tell(c, found.list), unread, err, left)
}

// lookUp asks the server which of the secrets it knows.
func (s *Session) lookUp(ctx context.Context, c *cli.Command, list []*leak) error {
	const batch = 1000
	for at := 0; at < len(list); at += batch {
		part := list[at:min(at+batch, len(list))]
		var sums []string
		for _, l := range part {
			sums = append(sums, fmt.Sprintf("%x", l.digest))
		}
		answer, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": sums})
		if err != nil {
			return err
		}
		rows, _ := answer["keys"].([]any)
		for _, v := range rows {
			row, _ := v.(map[string]any)
			for i, sum := range sums {
				if row["sha256"] == sum {
					part[i].known = row
				}
			}
		}
	}
	return nil
}

// end revokes the live ones if that was asked for, present secrets before the
// earlier ones, which end with their key. left says that live ones remain.
func (s *Session) end(ctx context.Context, c *cli.Command, list []*leak) (left, err error) {
	live, revoked := 0, map[any]bool{}
	for _, present := range []bool{true, false} {
		for _, l := range list {
			if l.known["live"] != true || l.known["present"] != present {
				continue
			}
			if !c.Bool("revoke") {
				live++
				continue
			}
			verb := "/revoke"
			if !present {
				verb = "/rotate/finish"
			}
			if id := fmt.Sprint(l.known["id"]); !revoked[id] {
				if _, err := s.Call(ctx, c, http.MethodPost, "/admin/v1/keys/"+id+verb, nil); err != nil {
					return nil, fmt.Errorf("end %s of %s: %w", l.hint, id, err)
				}
				revoked[id] = true
			}
			l.known["live"], l.known["status"] = false, "revoked now"
			if !present {
				l.known["status"] = "ended now"
			}
		}
	}
	if live > 0 {
		return fmt.Errorf("%d live keys were found: have them rotated, or run this again with --revoke", live), nil
	}
	return nil, nil
}

// tell prints what was found, live ones and others.
func (s *Session) tell(c *cli.Command, list []*leak) error {
	rows, unknown := []any{}, 0
	for _, l := range list {
		if l.known == nil {
			unknown++
			continue
		}
		l.known["hint"], l.known["found"], l.known["times"] = l.hint, l.place, l.times
		delete(l.known, "sha256")
		rows = append(rows, l.known)
	}
	if c.Bool("json") {
		return s.PrintJSON(map[string]any{"keys": rows, "unknown": unknown})
	}
	if err := s.PrintList(c, map[string]any{"keys": rows}, "keys", []string{"hint", "id", "name", "owner", "status", "live", "present", "times", "found"}); err != nil {
		return err
	}
	if unknown > 0 {
		_, _ = fmt.Fprintf(s.Env.Stderr, "Texts in the form of a key that are none here: %d\n", unknown)
	}
	return nil
}
