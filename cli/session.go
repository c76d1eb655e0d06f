package cli

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"latchkey/internal/bytesize"
	"latchkey/internal/certs"
	"latchkey/internal/secrettext"
)

// Environment holds the streams, names and functions that package main supplies to the commands.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string // environment variables, in the form of os.Environ
	Version        string   // of the program
	Words          Words
	// Load reads the configuration. file is the value of --config, or "" if that is not set. flags
	// holds configuration values that were set by other flags, by configuration key, such as
	// server.listen.
	Load func(file string, flags map[string]string) (Service, error)

	line []string // the command line, set by Run
}

// Words holds names that the service defines. The commands need them without a request to a server.
type Words struct {
	Permissions        []string // all built-in permissions
	Ordinary           []string // the permissions of the contract
	EventTypes         []string // types of events that webhooks of an owner can receive
	OperatorEventTypes []string // types of events that webhooks of the operator can receive
	Roles              []string // roles of operators, the least one first
	Outcomes           []string // outcomes of requests, in the order of the columns in a table
	// IsEnvironment reports whether a text can be the environment of a key.
	IsEnvironment func(text string) bool
}

// Service is the service with a configuration that was loaded. It need not be running.
type Service interface {
	// DataDir returns the path of the data folder.
	DataDir() string
	// APIURL returns the URL of the API, without a slash at its end.
	APIURL() string
	// AdminURL returns the URL of the admin endpoint, without a slash at its end.
	AdminURL() string
	// Check checks the configuration against the files and folders that it names, as serve does.
	// warnings are sentences about values that are probably mistakes.
	Check() (warnings []string, err error)
	// File returns the path of the configuration file, or "" if none is read.
	File() string
	// Rows returns how many routes, permissions and limits the configuration adds to the built-in ones.
	Rows() (routes, permissions, limits int)
	// Notes returns sentences about the configuration that an operator needs elsewhere.
	Notes() []string
	// Print writes each value of the configuration with its source to w.
	Print(w io.Writer) error
	// Overlaps returns one text for each pair of routes of which one could receive a path of the
	// other in another spelling.
	Overlaps() []string
	// Serve runs the service until ctx ends or the service fails.
	Serve(ctx context.Context, o ServeOptions) error
	// Open opens the data folder, which no server may have open. It returns the handler of the
	// admin endpoint and a function that closes the folder.
	Open() (http.Handler, func() error, error)
	// Restore replaces the database with a backup. No server may have the data folder open.
	Restore(o RestoreOptions) (Restored, error)
	// CheckFile checks the database file at path, which no server may have open.
	CheckFile(path string, progress Progress) (CheckResult, error)
	// Repair makes the indexes and lists of the database anew from its records, and then checks it.
	// No server may have the data folder open.
	Repair(progress Progress) (CheckResult, error)
	// Compact rewrites the database without its free space. It returns the sizes of the file before
	// and after, in bytes. No server may have the data folder open. If progress returns an error, the
	// database is not changed.
	Compact(progress Progress) (before, after int64, err error)
	// ClusterInit creates the store of the cluster of the configuration. No server may have the data folder open from
	// which it takes the records.
	ClusterInit(ctx context.Context, o ClusterInitOptions) (ClusterInit, error)
	// ClusterNodes returns the nodes of the cluster of the configuration, by name.
	ClusterNodes(ctx context.Context) ([]ClusterNode, error)
	// ClusterRemove removes a node from the cluster of the configuration. It returns once the node answers no requests.
	ClusterRemove(ctx context.Context, name string) error
}

// ServeOptions are the options of Service.Serve.
type ServeOptions struct {
	Demo           bool // use a temporary folder with sample data
	Stdout, Stderr io.Writer
}

// RestoreOptions are the options of Service.Restore.
type RestoreOptions struct {
	From         string // path of the backup
	DryRun       bool   // check everything and change nothing
	Other        bool   // allow a backup of another store than the one in the data folder
	Unverified   bool   // allow a file without a valid MAC
	Exactly      bool   // carry nothing over from the previous database
	SendWebhooks bool   // send the pending deliveries of the backup
	// Progress receives how much is done. If it returns an error, nothing is restored.
	Progress Progress
}

// Restored describes a restore, or after a dry run the restore that would happen.
type Restored struct {
	From       string      `json:"from"`                       // path of the backup
	To         string      `json:"to"`                         // path of the database
	Kept       string      `json:"kept,omitempty"`             // path to which the previous database was moved; "" if none was
	StoreID    string      `json:"store_id"`                   // of the backup
	Keys       int         `json:"keys"`                       // number of keys in the backup
	CreatedAt  time.Time   `json:"created_at"`                 // time at which the store was created
	Check      CheckResult `json:"check"`                      // result of checking the backup
	Carried    []string    `json:"carried_over"`               // what has ended since the backup and was carried over, one sentence each
	NotCarried string      `json:"not_carried_over,omitempty"` // why nothing could be carried over, or ""
	Gone       []string    `json:"gone"`                       // what was created since the backup, which does not have it, one sentence each
	// WebhooksHeld reports whether the backup has webhooks, which are held back. It is false after a dry run.
	WebhooksHeld bool `json:"webhooks_held"`
}

// CheckResult is the result of a check of the database.
type CheckResult struct {
	Records  int      `json:"records"`       // number of records
	Entries  int      `json:"index_entries"` // number of index entries
	Problems []string `json:"problems"`      // one sentence each; empty if the database is sound
	// NotVerified is why the MACs were not verified, or "" if they were.
	NotVerified string `json:"not_verified,omitempty"`
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

// usageError is the error of a command that was called with wrong flags or arguments.
type usageError struct {
	err     error
	command string // full name of the command, such as "latchkey keys list"
}

// Error returns the text of the wrapped error.
func (e *usageError) Error() string { return e.err.Error() }

// misused wraps err in a *usageError for the command c. It returns err unchanged if it already is or
// wraps a *usageError.
func misused(c *cli.Command, err error) error {
	var already *usageError
	if errors.As(err, &already) {
		return err
	}
	return &usageError{err, c.FullName()}
}

// session is one run of the program. All commands are its methods.
type session struct {
	env        Environment
	secretFile *os.File // the open file of --secret-file until a secret was written to it; nil without the flag
	typed      string   // the admin token that was read from standard input; "" if none was
}

// settings returns the configuration key that each flag sets, by the name of the flag.
func settings() map[string]string {
	return map[string]string{
		"data": "server.data", "listen": "server.listen", "admin-listen": "admin.listen",
		"log-level": "log.level", "log-format": "log.format",
	}
}

// load reads the configuration file of --config and applies the flags that set configuration keys.
func (s *session) load(c *cli.Command) (Service, error) {
	flags := map[string]string{}
	for name, key := range settings() {
		if c.IsSet(name) {
			flags[key] = c.String(name)
		}
	}
	return s.env.Load(c.String("config"), flags)
}

// reach returns a client for the admin endpoint, and a function to call after the client's last use.
// The client sends requests to --url if that is set. Otherwise it uses the control socket of the
// data folder if a server answers there. Otherwise reach opens the data folder in this process.
func (s *session) reach(ctx context.Context, c *cli.Command) (*Client, func() error, error) {
	nothing := func() error { return nil }
	if c.String("url") != "" {
		token, err := s.token(c)
		if err != nil {
			return nil, nil, err
		}
		client, err := s.remote(c, token)
		return client, nothing, err
	}
	service, err := s.load(c)
	if err != nil {
		return nil, nil, err
	}
	dir := service.DataDir()
	socket := folderClient(dir)
	if socket.Alive(ctx) {
		return socket, nothing, nil
	}
	if err := ctx.Err(); err != nil { // the user has ended the command, so Alive proves nothing
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "store.id")); errors.Is(err, os.ErrPermission) {
		return nil, nil, fmt.Errorf("the data folder %s is for its owner only: %w; run the command as root or as the user of the service, or name another folder with --data", dir, err)
	} else if err != nil {
		return nil, nil, fmt.Errorf("there is no data folder at %s: run \"latchkey serve\" first, or name the folder with --data", dir)
	}
	h, closeIt, err := service.Open()
	if err != nil {
		return nil, nil, err
	}
	return NewLocalClient(h), closeIt, nil
}

// remote returns a client for the server at --url, which sends token unless that is "". It trusts
// the certificate authorities in the file of --ca, or those of the system if --ca is not set.
func (s *session) remote(c *cli.Command, token string) (*Client, error) {
	var roots *x509.CertPool
	if file := c.String("ca"); file != "" {
		var err error
		if roots, err = certs.ReadRoots(file); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	if u, err := url.Parse(c.String("url")); c.String("url") != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return nil, misused(c, errors.New("--url (or LATCHKEY_URL) must be http:// or https:// and a host, such as http://127.0.0.1:8081"))
	}
	return NewTCPClient(c.String("url"), token, roots), nil
}

// token returns the admin token from the file of --token-file, or else from LATCHKEY_ADMIN_TOKEN. It
// reads standard input once, for all requests of a command.
func (s *session) token(c *cli.Command) (string, error) {
	if file := c.String("token-file"); file != "" { // also LATCHKEY_ADMIN_TOKEN_FILE
		if file != "-" || s.typed == "" {
			token, err := secrettext.Token.ReadFile("--token-file", file, s.env.Stdin)
			if err != nil || file != "-" {
				return token, err
			}
			s.typed = token
		}
		return s.typed, nil
	}
	for _, v := range s.env.Environ {
		if token, ok := strings.CutPrefix(v, "LATCHKEY_ADMIN_TOKEN="); ok {
			return secrettext.Token.FromVariable("LATCHKEY_ADMIN_TOKEN", token)
		}
	}
	return "", errors.New("--url needs an admin token: set LATCHKEY_ADMIN_TOKEN or name a --token-file")
}

// call sends a request to the admin endpoint and returns the answer, which must be a JSON object. It
// returns a *ClientError if the status is not 2xx.
func (s *session) call(ctx context.Context, c *cli.Command, request Request) (answer map[string]any, err error) {
	raw, err := request.raw()
	if err != nil {
		return nil, err
	}
	return s.send(ctx, c, raw)
}

// send is like call for a request whose body is already encoded.
func (s *session) send(ctx context.Context, c *cli.Command, request RawRequest) (answer map[string]any, err error) {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = client.Send(ctx, request, &answer)
	return answer, err
}

// output is the standard output of a command. It stores the first error of a write, so that Run can
// report the error even if the command ignored it. It is not safe for concurrent use.
type output struct {
	to  io.Writer
	err error
}

// newOutput returns an output that writes to the writer to.
func newOutput(to io.Writer) *output { return &output{to: to} }

// Write writes b to the underlying writer. After the first error it writes nothing and returns that
// error again.
func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(b)
	if err != nil {
		o.err = fmt.Errorf("standard output: %w", err)
	}
	return n, o.err
}

// result returns the error of a command whose action has returned err. If a write to the output has
// failed and err does not contain that error, result joins the two.
func (o *output) result(err error) error {
	if o.err == nil || errors.Is(err, o.err) {
		return err
	}
	return errors.Join(err, o.err)
}

// quiet reports whether err means only that the reader of standard output has closed it, as in
// "latchkey keys list | head -1". Run prints no message for such an error.
func (o *output) quiet(err error) bool {
	return errors.Is(o.err, syscall.EPIPE) && nothingBut(err, o.err)
}

// nothingBut reports whether err is target, or wraps target and no other error. It returns false for
// a *lostSecret, because the user must see the text of that error.
func nothingBut(err, target error) bool {
	if err == target {
		return true
	}
	switch e := err.(type) {
	case *lostSecret:
		return false
	case interface{ Unwrap() error }:
		return nothingBut(e.Unwrap(), target)
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !nothingBut(part, target) {
				return false
			}
		}
		return true
	}
	return false
}

// flush returns an error if the output may be lost: the error of an earlier write, an error of
// syncing the output to disk if it is a file, or an error if standard output was already closed when
// the program started. It returns nil otherwise.
func (o *output) flush() error {
	f, ok := o.to.(*os.File)
	if !ok || o.err != nil {
		return o.err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		// A file system that does not support sync is not an error.
		if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	// If standard output is closed at the start, Go's runtime opens the null device in its place, for
	// reading and writing. For "> /dev/null", which is the user's choice, a shell opens the null
	// device only for writing. So if a read succeeds, standard output was closed.
	if isNull(info) {
		if _, err := f.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			o.err = errors.New("standard output is closed")
		}
	}
	return o.err
}

// isNull reports whether info describes the null device.
func isNull(info os.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// shownOnce describes a secret that the server shows in one answer only.
type shownOnce struct {
	member string // member of the answer that contains the secret
	kind   string // kind of object to which the secret belongs, such as "key"
	remedy string // what to do if the secret is lost; "ID" in it is replaced by the object's id
}

// lostSecret is the error of a command that could not print a secret.
type lostSecret struct {
	err    error
	name   string // name of the secret, such as "the key"
	remedy string // what the user can do
}

// Error returns a text that names the secret, the reason and the remedy.
func (e *lostSecret) Error() string {
	return fmt.Sprintf("%s could not be printed, and will not be shown again: %v\n%s", e.name, e.err, e.remedy)
}

// Unwrap returns the error of the write.
func (e *lostSecret) Unwrap() error { return e.err }

// Kept checks that a secret was written to stdout, and returns a *lostSecret if it was not. err is
// the result of the write. If err is nil, Kept also checks that all output so far was written (see
// output.flush). name is the name of the secret, such as "the key". remedy describes what the user
// can do if the secret is lost.
func Kept(stdout io.Writer, err error, name, remedy string) error {
	if out, ok := stdout.(*output); ok && err == nil {
		err = out.flush()
	}
	if err == nil {
		return nil
	}
	return &lostSecret{err: err, name: name, remedy: remedy}
}

// printSecret prints the secret in an answer, or with --json the whole answer. With --secret-file it
// writes the secret to the file and prints only the id. It returns a *lostSecret if the secret could
// not be written. advise reports whether the command should go on with advice for people.
func (s *session) printSecret(c *cli.Command, answer map[string]any, secret shownOnce) (advise bool, err error) {
	toFile := s.secretFile != nil
	switch {
	case toFile:
		if err = s.storeSecret(answer[secret.member]); err == nil {
			return false, s.printWithout(c, answer, secret.member)
		}
	case c.Bool("json"):
		err = s.printJSON(answer)
	default:
		_, err = fmt.Fprintln(s.env.Stdout, answer[secret.member])
	}
	name := "the " + secret.kind
	if id := answer["id"]; id != nil {
		name = fmt.Sprintf("the secret of the %s %s", secret.kind, cell(id))
	}
	if given := answer["name"]; given != nil {
		name += fmt.Sprintf(" (%s)", cell(given))
	}
	return !c.Bool("json") && !toFile, Kept(s.env.Stdout, err, name, strings.ReplaceAll(secret.remedy, "ID", cell(answer["id"])))
}

// printJSON prints v as indented JSON.
func (s *session) printJSON(v any) error {
	enc := json.NewEncoder(s.env.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printList prints an answer as a table with columns, or with --json as JSON. The rows are the
// objects in the given member of the answer. If member is "", the answer itself is the only row.
func (s *session) printList(c *cli.Command, answer map[string]any, member string, columns []string) error {
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	list := []any{answer}
	if member != "" {
		list, _ = answer[member].([]any)
	}
	if slices.Contains(columns, "balance") && !slices.ContainsFunc(list, hasWallet) {
		columns = slices.DeleteFunc(slices.Clone(columns), func(name string) bool { return name == "balance" || name == "rate" })
	}
	var head []string
	for _, column := range columns {
		head = append(head, strings.ToUpper(strings.ReplaceAll(column, "_", " ")))
	}
	var rows [][]string
	for _, v := range list {
		row, _ := v.(map[string]any)
		var cells []string
		for _, column := range columns {
			cells = append(cells, short(row[column]))
		}
		rows = append(rows, cells)
	}
	if err := s.printTable(head, rows); err != nil {
		return err
	}
	if count := whole(answer["count"]); count > len(rows) {
		_, err := fmt.Fprintf(s.env.Stderr, "\n%d of %d rows, page %v of %v\n", len(rows), count, answer["page"], answer["pages"])
		return err
	}
	return nil
}

// hasWallet reports whether a row of a list is an owner with a wallet.
func hasWallet(v any) bool {
	row, _ := v.(map[string]any)
	return row["balance"] != nil || cell(row["rate"]) != "0"
}

// short returns cell(v). For a list of more than two values it returns only the first value and the
// number of the others, so that tables stay narrow.
func short(v any) string {
	if list, ok := v.([]any); ok && len(list) > 2 {
		return fmt.Sprintf("%s +%d", cell(list[0]), len(list)-1)
	}
	return cell(v)
}

// printTable prints head and rows in aligned columns. If head is nil, it prints only the rows.
func (s *session) printTable(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(s.env.Stdout, 0, 0, 2, ' ', 0)
	if head != nil {
		rows = append([][]string{head}, rows...)
	}
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// cell returns a JSON value as text, or "-" if the value is empty. Members of an object are
// "name=value", in the order of their names. cell replaces control characters in
// a string by "?", so that they cannot control the terminal.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return "-"
		}
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				return '?'
			}
			return r
		}, v)
	case json.Number:
		n, err := v.Float64()
		if err != nil || !strings.ContainsAny(v.String(), ".eE") {
			return v.String()
		}
		return strings.TrimSuffix(fmt.Sprintf("%.2f", n), ".00")
	case []any:
		var parts []string
		for _, part := range v {
			parts = append(parts, cell(part))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	case map[string]any:
		if used, ok := v["bytes"].(json.Number); ok {
			return storageCell(used, v["limit"])
		}
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, cell(name)+"="+cell(v[name]))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

// storageCell returns how much of a limit is used, such as "1.5 MiB of 256.0 MiB". limit is nil if
// there is none.
func storageCell(used json.Number, limit any) string {
	text := bytesize.Rounded(int64(whole(used)))
	if limit == nil {
		return text
	}
	return text + " of " + bytesize.Rounded(int64(whole(limit)))
}

// whole returns v, a whole number in an answer of the server. It returns 0 if v is not one.
func whole(v any) int {
	number, _ := v.(json.Number)
	n, _ := strconv.Atoi(number.String())
	return n
}

// readFileOr reads a file, or stdin if file is "-".
func readFileOr(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// question is what a command asks before it does something that cannot be undone.
type question struct {
	text    string // the question
	want    string // what the user must type to go on
	without string // what --yes does without the question
	refused string // the error if the user types something else
}

// confirm asks the user on standard error, unless --yes is set. It returns nil if the command may go on.
func (s *session) confirm(c *cli.Command, q question) error {
	if c.Bool("yes") {
		return nil
	}
	if _, ok := s.terminal(); !ok {
		return misused(c, fmt.Errorf("standard input is no terminal on which to confirm; add --yes to %s without a question", q.without))
	}
	return q.ask(s.env.Stdin, s.env.Stderr)
}

// ask writes the question to out and reads the answer from in.
func (q question) ask(in io.Reader, out io.Writer) error {
	if _, err := io.WriteString(out, q.text); err != nil {
		return err
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != q.want {
		return errors.New(q.refused)
	}
	return nil
}

// terminal returns standard input if it is a terminal, on which a command can ask.
func (s *session) terminal() (in *os.File, ok bool) {
	in, ok = s.env.Stdin.(*os.File)
	return in, ok && term.IsTerminal(int(in.Fd()))
}

// IsTerminal reports whether w is a character device other than the null device,
// and so most likely a terminal.
func IsTerminal(w io.Writer) bool {
	if out, ok := w.(*output); ok {
		w = out.to
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	return !isNull(info)
}
