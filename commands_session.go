package main

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

	"github.com/urfave/cli/v3"

	"latchkey/internal/certs"
)

// Environment is what the commands get from outside.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
	// Serve runs the service until the context ends.
	Serve func(ctx context.Context, o ServeOptions) error
	// Open gives the admin endpoint of a data folder that no server has open,
	// and what closes it again.
	Open func(c Config) (http.Handler, func() error, error)
	// Restore puts a backup into a data folder that no server has open.
	Restore func(c Config, from string, dryRun, other bool) (Restored, error)
	// CheckFile checks a database file that no server has open.
	CheckFile func(path string) (CheckResult, error)
}

// ServeOptions say what to serve.
type ServeOptions struct {
	Config         Config
	ConfigFile     string
	Load           func() (Config, error) // loads Config again
	Demo           bool
	Stdout, Stderr io.Writer
}

// UsageError is a command that was called in a way it does not understand.
type UsageError struct {
	Err     error
	Command string
}

// Error says what was not understood.
func (e *UsageError) Error() string { return e.Err.Error() }

// Misused makes an error a usage error of a command.
func Misused(c *cli.Command, err error) error {
	var already *UsageError
	if errors.As(err, &already) {
		return err
	}
	return &UsageError{err, c.FullName()}
}

// Session is what the commands of one call share.
type Session struct{ Env Environment }

// settings are the flags that stand for a key of the configuration.
func settings() map[string]string {
	return map[string]string{
		"data": "server.data", "listen": "server.listen", "admin-listen": "admin.listen",
		"log-level": "log.level", "log-format": "log.format",
	}
}

// Load reads the configuration as the flags say.
func (s *Session) Load(c *cli.Command) (Config, Sources, error) {
	flags := map[string]string{}
	for name, key := range settings() {
		if c.IsSet(name) {
			flags[key] = c.String(name)
		}
	}
	return LoadConfig(c.String("config"), s.Env.Environ, flags)
}

// Reach gives a way to the admin endpoint: the URL that was named, else the
// control socket of the data folder, else the folder itself.
func (s *Session) Reach(ctx context.Context, c *cli.Command) (*Client, func() error, error) {
	nothing := func() error { return nil }
	if c.String("url") != "" {
		token, err := s.token(c)
		if err != nil {
			return nil, nil, err
		}
		client, err := s.Remote(c, token)
		return client, nothing, err
	}
	conf, _, err := s.Load(c)
	if err != nil {
		return nil, nil, err
	}
	dir := conf.Server.Data
	socket := NewSocketClient(SocketPath(filepath.Join(dir, "control.sock")))
	if socket.Alive(ctx) {
		return socket, nothing, nil
	}
	if _, err := os.Stat(filepath.Join(dir, "store.id")); err != nil {
		return nil, nil, fmt.Errorf("there is no data folder at %s: start \"latchkey serve\" first, or name the folder with --data", dir)
	}
	h, closeIt, err := s.Env.Open(conf)
	if err != nil {
		return nil, nil, err
	}
	return NewLocalClient(h), closeIt, nil
}

// Remote gives the way to the server at --url, whose certificate is checked by
// --ca where that is given.
func (s *Session) Remote(c *cli.Command, token string) (*Client, error) {
	var roots *x509.CertPool
	if file := c.String("ca"); file != "" {
		var err error
		if roots, err = certs.ReadRoots(file); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	return NewTCPClient(c.String("url"), token, roots), nil
}

// SocketPath gives the shorter way to a socket: the system takes little more
// than 100 bytes.
func SocketPath(path string) string {
	if wd, err := os.Getwd(); err == nil && len(path) > 100 {
		if short, err := filepath.Rel(wd, path); err == nil && len(short) < len(path) {
			return short
		}
	}
	return path
}

func (s *Session) token(c *cli.Command) (string, error) {
	if file := c.String("token-file"); file != "" { // also LATCHKEY_ADMIN_TOKEN_FILE
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read the admin token: %w", err)
		}
		return strings.TrimSpace(string(data)), nil
	}
	for _, v := range s.Env.Environ {
		if token, ok := strings.CutPrefix(v, "LATCHKEY_ADMIN_TOKEN="); ok {
			return token, nil
		}
	}
	return "", errors.New("--url needs an admin token: set LATCHKEY_ADMIN_TOKEN or name a --token-file")
}

// Call asks the admin endpoint and gives the answer as it is.
func (s *Session) Call(ctx context.Context, c *cli.Command, method, path string, body any) (answer map[string]any, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		data = nil
	}
	return s.Send(ctx, c, method, path, "application/json", data)
}

// Send is Call with a ready body.
func (s *Session) Send(ctx context.Context, c *cli.Command, method, path, contentType string, data []byte) (answer map[string]any, err error) {
	client, done, err := s.Reach(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = client.Send(ctx, method, path, contentType, data, &answer)
	return answer, err
}

// Output is the standard output of a command. It keeps the first error of a
// write, so that RunCommand learns of it even if nobody else looked at it. It is
// not safe for concurrent use.
type Output struct {
	to  io.Writer
	err error
}

// NewOutput returns an Output that writes to another writer.
func NewOutput(to io.Writer) *Output { return &Output{to: to} }

// Write writes to the writer below, until that has failed once.
func (o *Output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(b)
	if err != nil {
		o.err = fmt.Errorf("standard output: %w", err)
	}
	return n, o.err
}

// Result adds the error of a failed write to the error that a command returned,
// unless it is that one.
func (o *Output) Result(err error) error {
	if o.err == nil || errors.Is(err, o.err) {
		return err
	}
	return errors.Join(err, o.err)
}

// Quiet reports whether an error says no more than that the reader of standard
// output has gone, as in "latchkey keys list | head -1". Nobody misses that output.
func (o *Output) Quiet(err error) bool {
	return errors.Is(o.err, syscall.EPIPE) && nothingBut(err, o.err)
}

// nothingBut reports whether an error is another one, wrapped or not, and holds
// nothing beside it.
func nothingBut(err, only error) bool {
	if err == only {
		return true
	}
	switch e := err.(type) {
	case *LostSecret:
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

// kept returns an error if what was written is lost although each write was
// successful: a file that cannot be stored, or no descriptor at all.
func (o *Output) kept() error {
	f, ok := o.to.(*os.File)
	if !ok || o.err != nil {
		return o.err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		// Some file systems have no sync, which is no loss.
		if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	// Go's runtime opens the null device in the place of a closed descriptor, for
	// reading too. A shell's "> /dev/null", which is a choice, is for writing alone.
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

// Secret is a member of an answer that no other answer shows.
type Secret struct {
	Member string // of the answer
	What   string // what the answer is about, such as "key"
	Again  string // how to go on if the secret is lost; every ID is replaced by the id
}

// LostSecret is the error of a command that could not print a secret.
type LostSecret struct {
	Err  error
	What string // what could not be printed
	Next string // how to go on
}

// Error returns what could not be printed, why, and how to go on.
func (e *LostSecret) Error() string {
	return fmt.Sprintf("%s could not be printed, and will not be shown again: %v\n%s", e.What, e.Err, e.Next)
}

// Unwrap returns the error of the write.
func (e *LostSecret) Unwrap() error { return e.Err }

// Kept returns a *LostSecret if a secret could not be written, by the error of the
// write or by what became of standard output.
func Kept(stdout io.Writer, err error, what, next string) error {
	if out, ok := stdout.(*Output); ok && err == nil {
		err = out.kept()
	}
	if err == nil {
		return nil
	}
	return &LostSecret{Err: err, What: what, Next: next}
}

// PrintSecret prints the secret of an answer, or the answer as JSON for scripts.
// It returns a *LostSecret if that could not be written.
func (s *Session) PrintSecret(c *cli.Command, answer map[string]any, secret Secret) error {
	var err error
	if c.Bool("json") {
		err = s.PrintJSON(answer)
	} else {
		_, err = fmt.Fprintln(s.Env.Stdout, answer[secret.Member])
	}
	what := "the " + secret.What
	if id := answer["id"]; id != nil {
		what = fmt.Sprintf("the secret of the %s %s", secret.What, Cell(id))
	}
	if name := answer["name"]; name != nil {
		what += fmt.Sprintf(" (%s)", Cell(name))
	}
	return Kept(s.Env.Stdout, err, what, strings.ReplaceAll(secret.Again, "ID", Cell(answer["id"])))
}

// PrintJSON prints a value for scripts.
func (s *Session) PrintJSON(v any) error {
	enc := json.NewEncoder(s.Env.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// PrintList prints the rows of an answer, or with name "" the answer as one
// row, as a table for people or as JSON for scripts.
func (s *Session) PrintList(c *cli.Command, answer map[string]any, name string, columns []string) error {
	if c.Bool("json") {
		return s.PrintJSON(answer)
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
			cells = append(cells, Short(row[column]))
		}
		rows = append(rows, cells)
	}
	if err := s.PrintTable(head, rows); err != nil {
		return err
	}
	if count, ok := answer["count"].(float64); ok && int(count) > len(rows) {
		_, err := fmt.Fprintf(s.Env.Stderr, "\n%d of %.0f rows, page %v of %v\n", len(rows), count, answer["page"], answer["pages"])
		return err
	}
	return nil
}

// Short is Cell with no more of a list than keeps the table on a screen.
func Short(v any) string {
	if list, ok := v.([]any); ok && len(list) > 2 {
		return fmt.Sprintf("%s +%d", Cell(list[0]), len(list)-1)
	}
	return Cell(v)
}

// PrintTable prints rows in columns, under a head if there is one.
func (s *Session) PrintTable(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(s.Env.Stdout, 0, 0, 2, ' ', 0)
	if head != nil {
		rows = append([][]string{head}, rows...)
	}
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// Cell gives a value of an answer as text that cannot play tricks on a
// terminal.
func Cell(v any) string {
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
			parts = append(parts, Cell(part))
		}
		if len(parts) == 0 {
			return "-"
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}

// ReadFileOr reads a file, or for "-" standard input.
func ReadFileOr(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// IsTerminal says whether a person reads what is written.
func IsTerminal(w io.Writer) bool {
	if out, ok := w.(*Output); ok {
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
