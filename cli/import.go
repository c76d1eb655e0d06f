package cli

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
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

	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/internal/strictjson"
)

// foreignKeys holds keys of another program, converted to the rows of an import, and notes about the
// keys and members that were left out.
type foreignKeys struct {
	Rows    []map[string]any
	Numbers []int    // Numbers[i] is the row number of Rows[i] in the export, from 1
	Notes   []string // one line each, sorted
}

// foreignReader converts the rows of an export and collects the result in keys.
type foreignReader struct {
	foreignOptions
	keys     foreignKeys
	counts   map[string]int    // number of keys for each note, by the text of the note
	firstKey map[string]string // name of the first key for each note, by the text of the note
}

// foreignOptions are the options of readForeignKeys.
type foreignOptions struct {
	words       Words     // with the permissions that the server has
	permissions []string  // for each key that has no permission known here
	now         time.Time // keys that have expired by now are left out
}

// foreignSources returns the names of the programs whose exports readForeignKeys can read.
func foreignSources() []string { return []string{"unkey", "litellm"} }

// readForeignKeys converts data, the export of a program in foreignSources.
//
// From Unkey it reads one of three forms: rows of the table keys, the answer of apis.listKeys with
// the column hash (or plaintext) added, or a body for keys.migrateKeys. From LiteLLM it reads the
// answer of /key/list with return_full_object, or rows of the table LiteLLM_VerificationToken.
//
// It hashes plaintext secrets and returns only their hashes. The error for an invalid row names the
// row.
func readForeignKeys(program string, data []byte, o foreignOptions) (foreignKeys, error) {
	r := &foreignReader{foreignOptions: o, counts: map[string]int{}, firstKey: map[string]string{}}
	rows, err := foreignRows(data)
	if err != nil {
		return foreignKeys{}, err
	}
	for n, row := range rows {
		read := r.unkey
		if program == "litellm" {
			read = r.litellm
		}
		if err := read(row); err != nil {
			return foreignKeys{}, fmt.Errorf("row %d: %w", n+1, err)
		}
		if len(r.keys.Rows) > len(r.keys.Numbers) { // the row was not left out
			r.keys.Numbers = append(r.keys.Numbers, n+1)
		}
	}
	for note, count := range r.counts {
		r.keys.Notes = append(r.keys.Notes, fmt.Sprintf("%s (%d of %d keys, first %s)", note, count, len(rows), r.firstKey[note]))
	}
	slices.Sort(r.keys.Notes)
	return r.keys, nil
}

// foreignRows returns the rows of an export. The file must contain an array of objects, or an object
// with such an array in its member "keys" or "data".
func foreignRows(data []byte) ([]map[string]any, error) {
	all, err := strictjson.Value(bytes.TrimPrefix(data, []byte("\ufeff")))
	if err != nil {
		return nil, fmt.Errorf("the file is not JSON, or cannot be stored as it is: %w", err)
	}
	if object, ok := all.(map[string]any); ok {
		all = object["keys"]
		if all == nil {
			all = object["data"]
		}
	}
	list, ok := all.([]any)
	if !ok {
		return nil, fmt.Errorf("the file must contain an array of keys, or an object with the array as \"keys\" or \"data\"")
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

// note records a note about the key that has this name. It counts a note that is already recorded
// for another key.
func (r *foreignReader) note(name, format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	if r.counts[note]++; r.counts[note] == 1 {
		r.firstKey[note] = name
	}
}

// drop records a note for each listed member that is not empty in row. members are names of members
// that Latchkey cannot store. name is the name of the key.
func (r *foreignReader) drop(name string, row map[string]any, members ...string) {
	for _, m := range members {
		if v := row[m]; !empty(v) {
			r.note(name, "%s has no counterpart and is left out", m)
		}
	}
}

// empty reports whether a JSON value is null, false, 0, "", "{}", "[]", or an empty array or object.
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

// text returns the value of the first listed member of row that is a number or a string other than
// "". It returns "" if there is no such member.
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

// unkey adds the key in a row from Unkey. The row contains the SHA-256 of the secret, in base64 or
// hexadecimal, or the secret in plaintext.
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

// first returns the value of the first listed member of row that is not null. It returns nil if
// there is no such member.
func first(row map[string]any, members ...string) any {
	for _, m := range members {
		if row[m] != nil {
			return row[m]
		}
	}
	return nil
}

// litellm adds the key in a row from LiteLLM. The member token of the row is the SHA-256 of the
// secret, in hexadecimal.
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
	extra := map[string]string{}
	if text(row, "user_id") != "" {
		extra["litellm_team_id"] = text(row, "team_id")
	}
	r.metadata(key, row["metadata"], extra)
	r.drop(name, row, "models", "max_budget", "budget_duration", "budget_id", "tpm_limit", "max_parallel_requests", "model_max_budget",
		"allowed_routes", "aliases", "config", "organization_id", "project_id", "agent_id", "object_permission_id")
	return r.add(name, key, nil)
}

// common sets the hint, the owner and the expiry time of key. It leaves out empty values.
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

// clipHint returns start, the beginning of a secret, cut to 16 bytes. Other programs show as much of
// a secret.
func clipHint(start string) string {
	if len(start) > 16 {
		return start[:16] + "..."
	}
	return start
}

// foreignTime returns the time v in UTC and the format of RFC 3339. v is a number of milliseconds
// since 1970, an SQL time, or a time in the format of RFC 3339. It returns any other text unchanged;
// the server then refuses the text.
func foreignTime(v any) string {
	s := fmt.Sprint(v)
	if n, ok := v.(json.Number); ok {
		if ms, err := n.Int64(); err == nil {
			if t := time.UnixMilli(ms); clock.InRange(t) {
				return t.UTC().Format(time.RFC3339)
			}
		}
	}
	if t, err := clock.ParseISO(strings.Replace(s, " ", "T", 1)); err == nil {
		return t.Format(time.RFC3339)
	}
	return s
}

// metadata sets the metadata of key to the members of tags and extra. tags is a JSON object, or a
// string that contains one. Members of tags that are not strings are stored as JSON; null is left
// out, and so are empty values in extra.
func (r *foreignReader) metadata(key map[string]any, tags any, extra map[string]string) {
	list := map[string]any{}
	if s, ok := tags.(string); ok { // a table row contains the JSON object as a string
		if inner, err := strictjson.Value([]byte(s)); err == nil {
			tags = inner // if the string is not JSON, a note is recorded below
		}
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
		if encoded, err := strictjson.Encode(v); err == nil && v != nil {
			list[name] = string(encoded)
		}
	}
	for name, v := range extra {
		if v != "" {
			list[name] = v
		}
	}
	if len(list) > 0 {
		key["metadata"] = list
	}
}

// add adds key to the result, unless the key has expired. The key keeps the permissions that are
// known here. If there are none, it gets r.permissions. add returns an error if the hash is not a
// SHA-256, or if the key would have no permission.
func (r *foreignReader) add(name string, key map[string]any, permissions any) error {
	if end, err := clock.ParseTime(fmt.Sprint(key["expires_at"])); err == nil && !end.After(r.now) {
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
		return fmt.Errorf("%q has no permission that is known here; set the permissions of such keys with --permission", name)
	}
	key["permissions"] = kept
	r.keys.Rows = append(r.keys.Rows, key)
	return nil
}

// leakChunk is the size of the buffer of scanKeys, in bytes. It does not limit the length of a line.
const leakChunk = 256 << 10

// spelling is a form in which a text may contain secrets: each character takes width bytes, all but
// one of which are 0. The widths 1, 2 and 4 are UTF-8, UTF-16 and UTF-32, in either byte order.
type spelling struct {
	width  int
	prefix []byte // the prefix of secrets from its first to its last byte that is not 0
	length int    // number of bytes that a secret takes up in this spelling
	at     int    // position in the buffer from which to search
	line   int    // number of the line at that position
}

// newSpelling returns the spelling of secrets that begin with prefix.
func newSpelling(prefix string, width int) *spelling {
	s := &spelling{width: width, length: (len(prefix)+keytext.SecretLength-1)*width + 1, line: 1}
	s.prefix = make([]byte, (len(prefix)-1)*width+1)
	for i := range len(prefix) {
		s.prefix[i*width] = prefix[i]
	}
	return s
}

// scan searches buf from s.at for secrets that are complete and calls report for each.
func (s *spelling) scan(buf []byte, prefix string, report func(secret string, line int)) {
	for {
		i := bytes.Index(buf[s.at:], s.prefix)
		if i < 0 || s.at+i+s.length > len(buf) {
			break
		}
		s.skip(buf, s.at+i)
		if secret, ok := s.read(buf[s.at : s.at+s.length]); ok && keytext.WellFormed(secret, prefix) {
			report(secret, s.line)
		}
		s.at++ // skips no line break, because a prefix contains none
	}
	// The last bytes may be the beginning of a secret that the next read completes.
	s.skip(buf, max(s.at, len(buf)-s.length+1))
}

// skip moves s.at to a later position in buf.
func (s *spelling) skip(buf []byte, to int) {
	s.line += bytes.Count(buf[s.at:to], []byte("\n"))
	s.at = to
}

// read returns the characters in raw. ok is false if a byte between them is not 0.
func (s *spelling) read(raw []byte) (secret string, ok bool) {
	if s.width == 1 {
		return string(raw), true
	}
	var text []byte
	for i, c := range raw {
		if i%s.width == 0 {
			text = append(text, c)
		} else if c != 0 {
			return "", false
		}
	}
	return string(text), true
}

// scanKeys searches r for secrets of keys. They begin with prefix, and scanKeys recognizes them by
// their form and checksum. It calls report for each occurrence; line is the number of its line, from
// 1. The contents of r may be binary, in UTF-16 or UTF-32, and of any size.
func scanKeys(r io.Reader, prefix string, report func(secret string, line int)) error {
	spellings := make([]*spelling, 0, 6)
	for _, width := range []int{1, 2, 4} {
		spellings = append(spellings, newSpelling(prefix, width), newSpelling(prefix+keytext.SandboxMark, width))
	}
	buf := make([]byte, 0, leakChunk)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		first := len(buf)
		for _, s := range spellings {
			s.scan(buf, prefix, report)
			first = min(first, s.at)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		buf = append(buf[:0], buf[first:]...)
		for _, s := range spellings {
			s.at -= first
		}
	}
}

// packings returns the first bytes of files that contain other data compressed or encrypted, by the
// name of their format. Without unpacking, a search finds nothing in them.
func packings() map[string]string {
	return map[string]string{
		"\x1f\x8b": "gzip", "BZh": "bzip2", "\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "PK\x03\x04": "zip", "x\x01": "zlib", "x\x9c": "zlib", "x\xda": "zlib", "PACK\x00\x00\x00": "a git pack", "7z\xbc\xaf\x27\x1c": "7z",
		"\x04\x22\x4d\x18": "lz4", "Rar!\x1a\x07": "rar", "\x1f\x9d": "compress", "%PDF-": "PDF", "age-encryption.org/": "age", "-----BEGIN PGP MESSAGE": "PGP",
	}
}

// unpacked returns a reader of the contents of r. It decompresses gzip, bzip2 and zlib. It returns an error
// if r is packed in another format.
func unpacked(r io.Reader) (io.Reader, error) {
	in := bufio.NewReader(r)
	start, err := in.Peek(32)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for first, format := range packings() {
		if !bytes.HasPrefix(start, []byte(first)) {
			continue
		}
		switch format {
		case "gzip":
			plain, err := gzip.NewReader(in)
			if err != nil {
				return nil, err
			}
			return unpacked(plain)
		case "zlib":
			return zlib.NewReader(in)
		case "bzip2":
			return unpacked(bzip2.NewReader(in))
		}
		return nil, fmt.Errorf("not searched, because it is %s; unpack it first", format)
	}
	return in, nil
}

// leak describes one secret that was found. It does not contain the secret.
type leak struct {
	digest keytext.Digest
	hint   string
	place  string         // file and line of the first occurrence
	times  int            // number of occurrences
	known  map[string]any // the server's description of the key; nil if the server does not know the secret
}

// leaks collects the secrets that were found. Each secret has one entry in list.
type leaks struct {
	prefix string
	list   []*leak
	seen   map[keytext.Digest]*leak
	// searched holds the files and folders that were searched, as absolute paths, so that a symbolic
	// link to one of them does not lead round in a circle.
	searched map[string]bool
}

// scan adds the secrets that r contains. name is the name of r for people, such as its path.
func (l *leaks) scan(r io.Reader, name string) error {
	plain, err := unpacked(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	err = scanKeys(plain, l.prefix, func(secret string, line int) {
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

// scanPath scans the file at path, or all files in and below the folder at path. It follows symbolic
// links. If something cannot be searched, it continues with the rest. It returns all errors, joined.
func (l *leaks) scanPath(path string) error {
	real, err := filepath.EvalSymlinks(path) // WalkDir does not follow symbolic links, not even path itself
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return fmt.Errorf("not searched: %w", err)
	}
	var all []error
	err = filepath.WalkDir(real, func(file string, entry fs.DirEntry, err error) error {
		name := file // as the user has named it
		if below, err := filepath.Rel(real, file); err == nil {
			name = filepath.Join(path, below)
		}
		if err != nil {
			all = append(all, fmt.Errorf("not searched: %w", err))
			return nil
		}
		if l.searched[file] {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		l.searched[file] = true
		all = append(all, l.scanEntry(file, name, entry.Type(), file == real))
		return nil
	})
	return errors.Join(append(all, err)...)
}

// scanEntry scans a file that WalkDir has found. argument means that the user has named the file
// itself, which may then be a device or a pipe.
func (l *leaks) scanEntry(file, name string, kind fs.FileMode, argument bool) error {
	switch {
	case kind.IsDir() || kind&fs.ModeSocket != 0: // a socket has no contents
		return nil
	case kind&fs.ModeSymlink != 0:
		return l.scanPath(name)
	case !kind.IsRegular() && !argument:
		return fmt.Errorf("%s: not searched, because it is not a file", name)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("not searched: %w", err)
	}
	return errors.Join(l.scan(f, name), f.Close())
}

// leakedCommand returns the command that searches files for leaked keys.
func (s *session) leakedCommand() *cli.Command {
	return &cli.Command{
		Name: "leaked", Usage: "find keys in files, folders or standard input (-), and print which of them are live", ArgsUsage: "PATH...",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "revoke", Usage: "revoke the live keys; if only an earlier secret of a rotated key was found, end its earlier secrets"},
			&cli.BoolFlag{Name: "pattern", Usage: "print a regular expression for secret scanners and do nothing else"},
		},
		Description: `Keys are recognized by their form and checksum, so an imported key is not
found. The server is sent only the SHA-256 of what is found, and no secret is
printed. Files may be text in UTF-8, UTF-16 or UTF-32, or binary; gzip, bzip2
and zlib are unpacked.
The exit code is 1 if live keys were found and not revoked, or if something
could not be searched, such as an unreadable file or a zip archive.

Examples:
  latchkey keys leaked access.log
  git log -p | latchkey keys leaked --revoke -`,
		Action: s.leaked,
	}
}

func (s *session) leaked(ctx context.Context, c *cli.Command) error {
	found := &leaks{seen: map[keytext.Digest]*leak{}, searched: map[string]bool{}}
	answer, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": []string{}}})
	if err != nil {
		return err
	}
	found.prefix, _ = answer["prefix"].(string)
	if c.Bool("pattern") {
		_, err := fmt.Fprintf(s.env.Stdout, "%s(%s)?[0-9A-Za-z]{%d}\n", found.prefix, keytext.SandboxMark, keytext.SecretLength)
		return err
	}
	if c.Args().Len() == 0 {
		return misused(c, errors.New("at least one PATH is needed; use - for standard input"))
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
	return errors.Join(s.printLeaks(c, found.list), unread, err, left)
}

// lookUp requests the keys with the secrets in list from the server, in batches of 1000. It sets
// leak.known for each secret that the server knows.
func (s *session) lookUp(ctx context.Context, c *cli.Command, list []*leak) error {
	const batch = 1000
	for at := 0; at < len(list); at += batch {
		part := list[at:min(at+batch, len(list))]
		var sums []string
		for _, l := range part {
			sums = append(sums, fmt.Sprintf("%x", l.digest))
		}
		answer, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/keys/lookup", map[string]any{"sha256": sums}})
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

// end ends the live secrets in list if --revoke is set. If the current secret of a key is in list,
// it revokes the key. If only earlier secrets of the key are in list, it ends all earlier secrets of
// the key. left is an error if live secrets remain, that is without --revoke.
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
				key, err := s.call(ctx, c, Request{http.MethodPost, "/admin/v1/keys/" + id + verb, nil})
				if err != nil {
					return nil, fmt.Errorf("end %s of %s: %w", l.hint, id, err)
				}
				s.noteWebhooks(key)
				revoked[id] = true
			}
			l.known["live"], l.known["status"] = false, "revoked now"
			if !present {
				l.known["status"] = "ended now"
			}
		}
	}
	if live > 0 {
		return fmt.Errorf("%d live keys were found; rotate them, or run this command again with --revoke", live), nil
	}
	return nil, nil
}

// printLeaks prints the secrets that the server knows, whether live or not, and the number of
// secrets that it does not know.
func (s *session) printLeaks(c *cli.Command, list []*leak) error {
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
		_, _ = fmt.Fprintf(s.env.Stderr, "Texts that look like keys but are unknown to the server: %d\n", unknown)
	}
	return nil
}
