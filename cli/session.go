package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"latchkey/internal/certs"
)

// Environment holds the streams, names and functions that the commands get from
// package main.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string // in the form of os.Environ
	Version        string   // of the program
	Words          Words
	// Load reads the configuration. file is the value of --config, "" if it is not
	// set. flags holds the values of other flags by the configuration key that they
	// set, such as server.listen.
	Load func(file string, flags map[string]string) (Service, error)
	// CheckFile checks a database file that no server has open.
	CheckFile func(path string) (CheckResult, error)
}

// Words are names of the service that commands know without asking a server.
type Words struct {
	Permissions        []string // all built-in ones
	Ordinary           []string // the permissions that --permission all means
	EventTypes         []string // for webhooks of an owner
	OperatorEventTypes []string // for webhooks of the operator
	Outcomes           []string // of requests, in the order of the tables
	// IsEnvironment reports whether a text can be the environment of a key.
	IsEnvironment func(text string) bool
}

// Service is the service that a configuration describes.
type Service interface {
	// DataDir returns the path of the data folder.
	DataDir() string
	// APIURL returns the URL of the API, without a slash at its end.
	APIURL() string
	// AdminURL returns the URL of the admin endpoint, without a slash at its end.
	AdminURL() string
	// Print writes the configuration, each value with its source.
	Print(w io.Writer) error
	// Serve runs the service until the context ends.
	Serve(ctx context.Context, o ServeOptions) error
	// Open opens the data folder, which no server may have open. It returns the
	// admin endpoint and a function that closes the folder.
	Open() (http.Handler, func() error, error)
	// Restore puts a backup into the data folder, which no server may have open.
	Restore(o RestoreOptions) (Restored, error)
	// Compact rewrites the database without its free space. It returns the size
	// before and after, in bytes. No server may have the data folder open.
	Compact() (before, after int64, err error)
}

// ServeOptions are the options of Service.Serve.
type ServeOptions struct {
	Demo           bool // use a temporary folder with sample data
	Stdout, Stderr io.Writer
}

// RestoreOptions are the options of Service.Restore.
type RestoreOptions struct {
	From   string // path of the backup
	DryRun bool   // check everything and change nothing
	Other  bool   // allow a backup of another store than the folder's
}

// Restored describes the database that a restore has put in place. After a dry
// run it describes the one that a restore would.
type Restored struct {
	From      string      `json:"from"`
	To        string      `json:"to"`
	Kept      string      `json:"kept,omitempty"` // where the earlier database is now
	StoreID   string      `json:"store_id"`
	Keys      int         `json:"keys"`
	CreatedAt time.Time   `json:"created_at"`
	Check     CheckResult `json:"check"`
}

// CheckResult is the result of a check of the database.
type CheckResult struct {
	Records  int      `json:"records"`
	Entries  int      `json:"index_entries"`
	Problems []string `json:"problems"`
}

// usageError is the error of a command that was called with wrong flags or
// arguments. command is its full name.
type usageError struct {
	err     error
	command string
}

// Error returns the text of the error within.
func (e *usageError) Error() string { return e.err.Error() }

// misused returns err as a *usageError of c. It returns err unchanged if it is
// one already.
func misused(c *cli.Command, err error) error {
	var already *usageError
	if errors.As(err, &already) {
		return err
	}
	return &usageError{err, c.FullName()}
}

// session holds what the commands of one run share.
type session struct{ env Environment }

// settings returns the configuration keys by the flags that set them.
func settings() map[string]string {
	return map[string]string{
		"data": "server.data", "listen": "server.listen", "admin-listen": "admin.listen",
		"log-level": "log.level", "log-format": "log.format",
	}
}

// load reads the configuration with the file and the settings of the flags.
func (s *session) load(c *cli.Command) (Service, error) {
	flags := map[string]string{}
	for name, key := range settings() {
		if c.IsSet(name) {
			flags[key] = c.String(name)
		}
	}
	return s.env.Load(c.String("config"), flags)
}

// reach returns a client of the admin endpoint, and a function to call after its
// last use. The client uses --url if it is set, else the control socket of the
// data folder if a server answers there, else it opens the folder itself.
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
	socket := NewSocketClient(socketPath(filepath.Join(dir, "control.sock")))
	if socket.Alive(ctx) {
		return socket, nothing, nil
	}
	if _, err := os.Stat(filepath.Join(dir, "store.id")); err != nil {
		return nil, nil, fmt.Errorf("there is no data folder at %s: start \"latchkey serve\" first, or name the folder with --data", dir)
	}
	h, closeIt, err := service.Open()
	if err != nil {
		return nil, nil, err
	}
	return NewLocalClient(h), closeIt, nil
}

// remote returns a client of the server at --url. --ca is the file with the
// authority of its certificate; without it the system's authorities are used.
func (s *session) remote(c *cli.Command, token string) (*Client, error) {
	var roots *x509.CertPool
	if file := c.String("ca"); file != "" {
		var err error
		if roots, err = certs.ReadRoots(file); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	return NewTCPClient(c.String("url"), token, roots), nil
}

// socketPath returns a path of over 100 bytes relative to the working folder if
// that is shorter. The system allows little more than 100 bytes for a socket.
func socketPath(path string) string {
	if wd, err := os.Getwd(); err == nil && len(path) > 100 {
		if short, err := filepath.Rel(wd, path); err == nil && len(short) < len(path) {
			return short
		}
	}
	return path
}

func (s *session) token(c *cli.Command) (string, error) {
	if file := c.String("token-file"); file != "" { // also LATCHKEY_ADMIN_TOKEN_FILE
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read the admin token: %w", err)
		}
		return strings.TrimSpace(string(data)), nil
	}
	for _, v := range s.env.Environ {
		if token, ok := strings.CutPrefix(v, "LATCHKEY_ADMIN_TOKEN="); ok {
			return token, nil
		}
	}
	return "", errors.New("--url needs an admin token: set LATCHKEY_ADMIN_TOKEN or name a --token-file")
}

// call sends body as JSON to the admin endpoint, or no body if it is nil, and
// returns the answer. It returns a *ClientError if the status is not 2xx.
func (s *session) call(ctx context.Context, c *cli.Command, method, path string, body any) (answer map[string]any, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		data = nil
	}
	return s.send(ctx, c, method, path, "application/json", data)
}

// send works as call, but sends data as it is.
func (s *session) send(ctx context.Context, c *cli.Command, method, path, contentType string, data []byte) (answer map[string]any, err error) {
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = client.Send(ctx, method, path, contentType, data, &answer)
	return answer, err
}

// output is the standard output of a command. It keeps the first error of a
// write, so that Run can return it even if the command ignored it. It is not
// safe for concurrent use.
type output struct {
	to  io.Writer
	err error
}

// newOutput returns an output that writes to another writer.
func newOutput(to io.Writer) *output { return &output{to: to} }

// Write writes to the writer within. After the first error it writes nothing and
// returns that error.
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

// result returns err, the error of a command, joined with the error of a failed
// write, unless err already contains that.
func (o *output) result(err error) error {
	if o.err == nil || errors.Is(err, o.err) {
		return err
	}
	return errors.Join(err, o.err)
}

// quiet reports whether the only error is that the reader of standard output has
// closed it, as in "latchkey keys list | head -1". Then no message is printed.
func (o *output) quiet(err error) bool {
	return errors.Is(o.err, syscall.EPIPE) && nothingBut(err, o.err)
}

// nothingBut reports whether err is the error only, or wraps it and no other
// error. It returns false for a *lostSecret: the user must see its text.
func nothingBut(err, only error) bool {
	if err == only {
		return true
	}
	switch e := err.(type) {
	case *lostSecret:
		return false
	case interface{ Unwrap() error }:
		return nothingBut(e.Unwrap(), only)
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !nothingBut(part, only) {
				return false
			}
		}
		return true
	}
	return false
}

// kept returns the error of an earlier write. If there was none, it returns an
// error if the output is lost all the same: if a file cannot be synced to disk,
// or if standard output was closed before the start.
func (o *output) kept() error {
	f, ok := o.to.(*os.File)
	if !ok || o.err != nil {
		return o.err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		// Some file systems do not support sync. That is no error.
		if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	// If standard output is closed, Go's runtime opens the null device instead, for
	// reading and writing. With "> /dev/null", which is the user's choice, a shell
	// opens it only for writing. So a read succeeds only in the first case.
	if isNull(info) {
		if _, err := f.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			o.err = errors.New("standard output is closed")
		}
	}
	return o.err
}

// isNull reports whether a file is the null device.
func isNull(info os.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// shownOnce describes a secret that only one answer shows.
type shownOnce struct {
	member string // the member of the answer that holds the secret
	what   string // what the answer is about, such as "key"
	again  string // what to do if the secret is lost; ID in it is replaced by the id
}

// lostSecret is the error of a command that could not print a secret.
type lostSecret struct {
	err  error
	what string // name of the secret, such as "the key"
	next string // what the user can do
}

// Error names the secret, why it was not printed, and what the user can do.
func (e *lostSecret) Error() string {
	return fmt.Sprintf("%s could not be printed, and will not be shown again: %v\n%s", e.what, e.err, e.next)
}

// Unwrap returns the error of the write.
func (e *lostSecret) Unwrap() error { return e.err }

// Kept returns a *lostSecret if a secret is lost, or nil. err is the error of
// writing it; if that is nil, Kept checks that standard output has kept it. what
// names the secret, and next says what the user can do.
func Kept(stdout io.Writer, err error, what, next string) error {
	if out, ok := stdout.(*output); ok && err == nil {
		err = out.kept()
	}
	if err == nil {
		return nil
	}
	return &lostSecret{err: err, what: what, next: next}
}

// printSecret prints the secret of an answer, or the whole answer as JSON with
// --json. It returns a *lostSecret if that could not be written.
func (s *session) printSecret(c *cli.Command, answer map[string]any, secret shownOnce) error {
	var err error
	if c.Bool("json") {
		err = s.printJSON(answer)
	} else {
		_, err = fmt.Fprintln(s.env.Stdout, answer[secret.member])
	}
	what := "the " + secret.what
	if id := answer["id"]; id != nil {
		what = fmt.Sprintf("the secret of the %s %s", secret.what, cell(id))
	}
	if name := answer["name"]; name != nil {
		what += fmt.Sprintf(" (%s)", cell(name))
	}
	return Kept(s.env.Stdout, err, what, strings.ReplaceAll(secret.again, "ID", cell(answer["id"])))
}

// printJSON prints a value as indented JSON.
func (s *session) printJSON(v any) error {
	enc := json.NewEncoder(s.env.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printList prints the rows in the member name of an answer as a table. If name
// is "", the answer is the only row. With --json it prints the answer as JSON.
func (s *session) printList(c *cli.Command, answer map[string]any, name string, columns []string) error {
	if c.Bool("json") {
		return s.printJSON(answer)
	}
	list := []any{answer}
	if name != "" {
		list, _ = answer[name].([]any)
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
	if count, ok := answer["count"].(float64); ok && int(count) > len(rows) {
		_, err := fmt.Fprintf(s.env.Stderr, "\n%d of %.0f rows, page %v of %v\n", len(rows), count, answer["page"], answer["pages"])
		return err
	}
	return nil
}

// short returns the text of cell, but of a list of more than two values only the
// first one and the number of the others, so that tables stay narrow.
func short(v any) string {
	if list, ok := v.([]any); ok && len(list) > 2 {
		return fmt.Sprintf("%s +%d", cell(list[0]), len(list)-1)
	}
	return cell(v)
}

// printTable prints rows in aligned columns, below head unless it is nil.
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

// cell returns a value of an answer as a text, "-" if it is empty. Control
// characters in a text become "?", so that they cannot control the terminal.
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
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
	case []any:
		var parts []string
		for _, part := range v {
			parts = append(parts, cell(part))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

// readFileOr reads a file, or stdin if file is "-".
func readFileOr(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
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
