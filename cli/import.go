package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"latchkey/internal/keytext"
)

// foreignKeys holds keys of another program in the form of an import, and notes
// about parts of them that have no counterpart here.
type foreignKeys struct {
	Rows    []map[string]any
	Numbers []int    // for each of Rows its row in the export, from 1
	Notes   []string // one line each, sorted
}

// foreignReader collects foreignKeys. By the text of a note, counts holds the
// number of keys it is about and first the name of the first one.
type foreignReader struct {
	foreignOptions
	keys   foreignKeys
	counts map[string]int
	first  map[string]string
}

// foreignOptions are the options of readForeignKeys.
type foreignOptions struct {
	words       Words
	permissions []string  // for keys without a permission that is known here
	now         time.Time // keys that expired before are left out
}

// foreignSources names the programs whose exports readForeignKeys knows.
func foreignSources() []string { return []string{"unkey", "litellm"} }

// readForeignKeys reads an export of another program. From Unkey it reads rows
// of the table keys, the answer of apis.listKeys with the column hash (or
// plaintext) added, or a body for keys.migrateKeys. From LiteLLM it reads the
// answer of /key/list with return_full_object, or rows of
// LiteLLM_VerificationToken. A plaintext secret is hashed here, and only its
// hash is returned. The error for a bad row says which row it is.
func readForeignKeys(from string, data []byte, o foreignOptions) (foreignKeys, error) {
	r := &foreignReader{foreignOptions: o, counts: map[string]int{}, first: map[string]string{}}
	rows, err := foreignRows(data)
	if err != nil {
		return foreignKeys{}, err
	}
	for n, row := range rows {
		read := r.unkey
		if from == "litellm" {
			read = r.litellm
		}
		if err := read(row); err != nil {
			return foreignKeys{}, fmt.Errorf("row %d: %w", n+1, err)
		}
		if len(r.keys.Rows) > len(r.keys.Numbers) { // the row was not left out
			r.keys.Numbers = append(r.keys.Numbers, n+1)
		}
	}
	for what, count := range r.counts {
		r.keys.Notes = append(r.keys.Notes, fmt.Sprintf("%s (%d of %d keys, first %s)", what, count, len(rows), r.first[what]))
	}
	slices.Sort(r.keys.Notes)
	return r.keys, nil
}

// foreignRows returns the array of objects in an export: the whole file, or its
// member "keys" or "data".
func foreignRows(data []byte) ([]map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	dec.UseNumber()
	var all any
	if err := dec.Decode(&all); err != nil {
		return nil, fmt.Errorf("the file is not JSON: %w", err)
	}
	if object, ok := all.(map[string]any); ok {
		all = object["keys"]
		if all == nil {
			all = object["data"]
		}
	}
	list, ok := all.([]any)
	if !ok {
		return nil, fmt.Errorf("the file must hold an array of keys, as it is or under \"keys\" or \"data\"")
	}
	var rows []map[string]any
	for n, v := range list {
		row, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("row %d is not an object; export whole keys (LiteLLM: /key/list?return_full_object=true)", n+1)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// note adds a note about the key with a name. The same note about several keys
// is kept once, with their number.
func (r *foreignReader) note(name, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if r.counts[what]++; r.counts[what] == 1 {
		r.first[what] = name
	}
}

// drop adds a note for each of the members, which have no counterpart here, that
// is not empty in the row.
func (r *foreignReader) drop(name string, row map[string]any, members ...string) {
	for _, m := range members {
		if v := row[m]; !empty(v) {
			r.note(name, "%s has no counterpart and is left out", m)
		}
	}
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "{}" || v == "[]"
	case bool:
		return !v
	case json.Number:
		return v == "0" || v == "0.0"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// text returns the first of a row's members that is a number or a text that is
// not empty. It returns "" if there is none.
func text(row map[string]any, members ...string) string {
	for _, m := range members {
		switch v := row[m].(type) {
		case string:
			if v != "" {
				return v
			}
		case json.Number:
			return v.String()
		}
	}
	return ""
}

// unkey adds one key of Unkey. Its hash is the SHA-256 in base64 or hex; a row
// may have the plaintext instead.
func (r *foreignReader) unkey(row map[string]any) error {
	name := text(row, "name", "keyId", "id", "start")
	if name == "" {
		name = "unkey"
	}
	if !empty(row["deleted_at"]) || !empty(row["deletedAtM"]) || !empty(row["deleted_at_m"]) {
		r.note(name, "keys that were deleted there are left out")
		return nil
	}
	hash := text(row, "hash")
	if sum, err := base64.StdEncoding.DecodeString(hash); err == nil && len(sum) == len(keytext.Digest{}) {
		hash = fmt.Sprintf("%x", sum)
	}
	if plain := text(row, "plaintext"); hash == "" && plain != "" {
		hash = fmt.Sprintf("%x", keytext.DigestOf(plain))
	}
	if hash == "" {
		return fmt.Errorf("hash is missing: the answer of apis.listKeys has none; add the column hash of the table keys")
	}
	key := map[string]any{"name": name, "sha256": hash}
	common(key, clipHint(text(row, "start")), text(row, "externalId", "ownerId", "owner_id"), row["expires"])
	if identity, ok := row["identity"].(map[string]any); ok && key["owner"] == nil && !empty(identity["externalId"]) {
		key["owner"] = identity["externalId"]
	}
	if enabled := row["enabled"]; enabled == false || enabled == json.Number("0") {
		key["paused"] = true
	}
	if env := strings.ToLower(text(row, "environment")); r.words.IsEnvironment(env) {
		key["environment"] = env
	}
	r.metadata(key, row["meta"], map[string]string{"unkey_key_id": text(row, "keyId", "id")})
	limits, _ := row["ratelimits"].([]any)
	limits = append(limits, map[string]any{"limit": first(row, "ratelimit_limit", "ratelimitLimit"), "duration": first(row, "ratelimit_duration", "ratelimitDuration")})
	for _, v := range limits {
		limit, _ := v.(map[string]any)
		switch {
		case empty(limit["limit"]):
		case text(limit, "duration") == "60000":
			key["limits"] = map[string]any{requestsPerMinute: limit["limit"]}
		default:
			r.note(name, "a rate limit over %s ms has no counterpart and is left out", text(limit, "duration"))
		}
	}
	r.drop(name, row, "roles", "credits", "remaining", "remaining_requests", "refill_amount")
	return r.add(name, key, row["permissions"])
}

// first returns the first of a row's members that is not null, or nil.
func first(row map[string]any, members ...string) any {
	for _, m := range members {
		if row[m] != nil {
			return row[m]
		}
	}
	return nil
}

// litellm adds one key of LiteLLM. Its token is the SHA-256 in hex.
func (r *foreignReader) litellm(row map[string]any) error {
	hash := text(row, "token")
	if strings.HasPrefix(hash, "sk-") { // old versions store the plaintext
		hash = fmt.Sprintf("%x", keytext.DigestOf(hash))
	}
	if hash == "" {
		return fmt.Errorf("token is missing: export with /key/list?return_full_object=true")
	}
	name := text(row, "key_alias", "key_name")
	if name == "" {
		name = "litellm " + hash[:min(8, len(hash))]
	}
	key := map[string]any{"name": name, "sha256": hash}
	common(key, clipHint(text(row, "key_name")), text(row, "user_id", "team_id"), row["expires"])
	if row["blocked"] == true {
		key["paused"] = true
	}
	if rpm := row["rpm_limit"]; !empty(rpm) {
		key["limits"] = map[string]any{requestsPerMinute: rpm}
	}
	more := map[string]string{}
	if text(row, "user_id") != "" {
		more["litellm_team_id"] = text(row, "team_id")
	}
	r.metadata(key, row["metadata"], more)
	r.drop(name, row, "models", "max_budget", "budget_duration", "budget_id", "tpm_limit", "max_parallel_requests", "model_max_budget",
		"allowed_routes", "aliases", "config", "organization_id", "project_id", "agent_id", "object_permission_id")
	return r.add(name, key, nil)
}

// common sets hint, owner and expiry of a key, each unless it is empty.
func common(key map[string]any, hint, owner string, expires any) {
	if hint != "" {
		key["hint"] = hint
	}
	if owner != "" {
		key["owner"] = owner
	}
	if !empty(expires) {
		key["expires_at"] = foreignTime(expires)
	}
}

// clipHint shortens the beginning of a secret to 16 bytes, which other programs
// show as well.
func clipHint(start string) string {
	if len(start) > 16 {
		return start[:16] + "..."
	}
	return start
}

// foreignTime returns a time in the form of RFC 3339, in UTC. It reads
// milliseconds since 1970, SQL times and RFC 3339. It returns any other text
// unchanged, and the server refuses that.
func foreignTime(v any) string {
	s := fmt.Sprint(v)
	if n, ok := v.(json.Number); ok {
		if ms, err := n.Int64(); err == nil {
			return time.UnixMilli(ms).UTC().Format(time.RFC3339)
		}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format(time.RFC3339)
		}
	}
	return s
}

// metadata sets the metadata of a key from tags and more. Values that are not
// texts become their JSON; null and the empty values of more are left out.
func (r *foreignReader) metadata(key map[string]any, tags any, more map[string]string) {
	list := map[string]any{}
	if s, ok := tags.(string); ok { // a row of a table has the JSON as a text
		dec := json.NewDecoder(strings.NewReader(s))
		dec.UseNumber()
		_ = dec.Decode(&tags) // a text that is not JSON gets a note below
	}
	object, ok := tags.(map[string]any)
	if !ok && !empty(tags) {
		r.note(fmt.Sprint(key["name"]), "metadata that is not an object is left out")
	}
	for name, v := range object {
		if s, ok := v.(string); ok {
			list[name] = s
			continue
		}
		if encoded, err := json.Marshal(v); err == nil && v != nil {
			list[name] = string(encoded)
		}
	}
	for name, v := range more {
		if v != "" {
			list[name] = v
		}
	}
	if len(list) > 0 {
		key["metadata"] = list
	}
}

// add adds a key with those of its permissions that are known here, or with
// r.permissions if there are none. It leaves out a key that has expired. It
// returns an error if the hash is not a SHA-256 or no permission is left.
func (r *foreignReader) add(name string, key map[string]any, permissions any) error {
	if end, err := time.Parse(time.RFC3339, fmt.Sprint(key["expires_at"])); err == nil && !end.After(r.now) {
		r.note(name, "keys that have expired are left out")
		return nil
	}
	if _, err := keytext.ParseDigest(fmt.Sprint(key["sha256"])); err != nil {
		return fmt.Errorf("the hash of %q %w", name, err)
	}
	var kept []string
	list, _ := permissions.([]any)
	for _, v := range list {
		p := fmt.Sprint(v)
		if !slices.Contains(r.words.Permissions, p) {
			r.note(name, "the permission %q has no counterpart and is left out", p)
			continue
		}
		kept = append(kept, p)
	}
	if len(kept) == 0 {
		kept = r.permissions
	}
	if len(kept) == 0 {
		return fmt.Errorf("%q brings no permission known here: name one for such keys with --permission", name)
	}
	key["permissions"] = kept
	r.keys.Rows = append(r.keys.Rows, key)
	return nil
}

// leakChunk is the number of bytes of a file that scanKeys holds in memory. Long
// lines do not need more.
const leakChunk = 256 << 10

// scanKeys searches r, which may be of any size and also binary, for keys with a
// prefix. It recognizes them by form and checksum. It calls found for each
// occurrence, with its line from 1.
func scanKeys(r io.Reader, prefix string, found func(secret string, line int)) error {
	length := len(prefix) + keytext.SecretLength
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
			if secret := string(buf[at : at+length]); keytext.WellFormed(secret, prefix) {
				found(secret, line)
			}
			at++ // no line break is skipped: a prefix has none
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// The last bytes may be the beginning of a key that the next read completes.
		keep := max(at, len(buf)-length+1)
		line += bytes.Count(buf[at:keep], []byte("\n"))
		buf = append(buf[:0], buf[keep:]...)
	}
}

// leak is one secret that was found, without the secret itself.
type leak struct {
	digest keytext.Digest
	hint   string
	place  string // file and line of the first occurrence
	times  int
	known  map[string]any // the key as the server describes it, nil if it knows none
}

// leaks collects the secrets that were found, each once.
type leaks struct {
	prefix string
	list   []*leak
	seen   map[keytext.Digest]*leak
}

func (l *leaks) scan(r io.Reader, name string) error {
	err := scanKeys(r, l.prefix, func(secret string, line int) {
		d := keytext.DigestOf(secret)
		if l.seen[d] == nil {
			l.seen[d] = &leak{digest: d, hint: keytext.Hint(secret, l.prefix), place: fmt.Sprintf("%s:%d", name, line)}
			l.list = append(l.list, l.seen[d])
		}
		l.seen[d].times++
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// scanPath scans a file, or all files in a folder and below it. If a file cannot
// be read, it continues with the others. It returns all errors, joined.
func (l *leaks) scanPath(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // WalkDir follows no symbolic link, not even path itself
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

// leakedCommand returns the command that searches files for leaked keys.
func (s *session) leakedCommand() *cli.Command {
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

func (s *session) leaked(ctx context.Context, c *cli.Command) error {
	found := &leaks{seen: map[keytext.Digest]*leak{}}
	answer, err := s.call(ctx, c, http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": []string{}})
	if err != nil {
		return err
	}
	found.prefix, _ = answer["prefix"].(string)
	if c.Bool("pattern") {
		_, err := fmt.Fprintf(s.env.Stdout, "%s[0-9A-Za-z]{%d}\n", found.prefix, keytext.SecretLength)
		return err
	}
	if c.Args().Len() == 0 {
		return misused(c, errors.New("at least one PATH is needed, - for standard input"))
	}
	var unread error
	for _, path := range c.Args().Slice() {
		if path == "-" {
			unread = errors.Join(unread, found.scan(s.env.Stdin, "standard input"))
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

// lookUp requests the keys of the secrets from the server, 1000 at a time. It sets
// known of each secret that the server knows.
func (s *session) lookUp(ctx context.Context, c *cli.Command, list []*leak) error {
	const batch = 1000
	for at := 0; at < len(list); at += batch {
		part := list[at:min(at+batch, len(list))]
		var sums []string
		for _, l := range part {
			sums = append(sums, fmt.Sprintf("%x", l.digest))
		}
		answer, err := s.call(ctx, c, http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": sums})
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

// end ends the live secrets in list if --revoke is set. If the present secret of a
// key was found, it revokes the key, which ends all its secrets. If only earlier
// secrets were found, it ends those. left is an error if live secrets remain.
func (s *session) end(ctx context.Context, c *cli.Command, list []*leak) (left, err error) {
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
				if _, err := s.call(ctx, c, http.MethodPost, "/admin/v1/keys/"+id+verb, nil); err != nil {
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

// tell prints the secrets that the server knows, live or not, and the number of
// the others.
func (s *session) tell(c *cli.Command, list []*leak) error {
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
		return s.printJSON(map[string]any{"keys": rows, "unknown": unknown})
	}
	if err := s.printList(c, map[string]any{"keys": rows}, "keys", []string{"hint", "id", "name", "owner", "status", "live", "present", "times", "found"}); err != nil {
		return err
	}
	if unknown > 0 {
		_, _ = fmt.Fprintf(s.env.Stderr, "Texts in the form of a key that are none here: %d\n", unknown)
	}
	return nil
}
