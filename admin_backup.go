package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"latchkey/internal/durable"
	"latchkey/internal/keytext"
	"latchkey/internal/strictjson"
)

// Backups copies the store while it is in use, on request and on a schedule. It also checks
// the store. It is safe for concurrent use, with two exceptions: only one call of Due may
// run at a time, and Tidy must not run during a request.
type Backups struct {
	o BackupOptions

	mu      sync.Mutex
	last    backupMade             // the newest scheduled backup; not used in a cluster
	err     error                  // the error of the latest call of Due; nil: it succeeded; not used in a cluster
	checked map[string]checkedFile // results of checks since the start, by the name of the file
	checks  sync.Mutex             // held while a file is checked, so that only one is at a time
}

// checkedFile is the result of the check of a scheduled backup.
type checkedFile struct {
	At     time.Time   // start of the check
	Bytes  int64       // size of the file, as of the check
	Made   time.Time   // when the file was last changed, as of the check
	Result CheckResult // what the check has found
}

// BackupOptions configures Backups.
type BackupOptions struct {
	Store  *Store
	Folder string        // the data folder; a copy is made in it before the copy is sent
	Dir    string        // the folder for scheduled backups; "": none are made
	Every  time.Duration // time between two scheduled backups
	Keep   int           // number of scheduled backups to keep; older backups are deleted
	Node   string        // name of this node in its cluster, whose nodes share one schedule; "": the server is alone
	Tables []Checked     // the tables that a check of the store reads
	Log    *slog.Logger
	// CheckFile checks the file of a backup. It returns an error if the file cannot be read.
	CheckFile func(path string, progress Progress) (CheckResult, error)
}

// NewBackups returns a Backups for o.Store.
func NewBackups(o BackupOptions) *Backups {
	return &Backups{o: o, checked: map[string]checkedFile{}}
}

// AdminRoutes returns the routes for operators.
func (b *Backups) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/backup", Handle: b.send, Slow: true},
		{Method: "POST", Path: "/admin/v1/check", NoBody: true, Handle: b.check, Slow: true},
		{Method: "GET", Path: "/admin/v1/backups", Handle: b.list},
		{Method: "POST", Path: "/admin/v1/backups/:name/check", NoBody: true, Handle: b.checkOne, Slow: true},
	}
}

// BackupTime is the layout, for time.Format, of the time in the file name of a backup. The
// time is in UTC.
const BackupTime = "20060102T150405Z"

// The file name of a backup consists of backupPrefix, its time and backupSuffix.
const (
	backupPrefix = "latchkey-"
	backupSuffix = ".db"
	unsentPrefix = "backup-" // the file name of a copy that is being made or sent begins with it
)

func backupName(now time.Time) string {
	return backupPrefix + now.UTC().Format(BackupTime) + backupSuffix
}

// send answers with a copy of the store. It makes the copy in the data folder and deletes
// it afterwards. For HEAD it makes no copy, so the answer has no Content-Length, and
// records nothing in the audit log.
func (b *Backups) send(w http.ResponseWriter, r *Request) error {
	h := w.Header()
	if r.Method == http.MethodHead {
		if b.o.Store.Failing() {
			return ErrUnavailable
		}
		backupFields(h, r.Now)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	path := filepath.Join(b.o.Folder, unsentPrefix+keytext.RandomHex(8)+".tmp")
	if err := b.o.Store.CopyWatched(path, whileAsked(r)); err != nil {
		return gone(r, err)
	}
	defer os.Remove(path)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := r.Record(b.o.Store); err != nil {
		return err
	}
	backupFields(h, r.Now)
	h.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	if _, err := io.Copy(w, f); err != nil {
		b.o.Log.Warn("backup not sent completely", "id", r.ID, "error", err)
	}
	return nil
}

// backupFields sets the header fields that describe a backup.
func backupFields(h http.Header, now time.Time) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+backupName(now)+`"`)
}

// whileAsked returns a Progress that ends the work when the client has closed its connection.
func whileAsked(r *Request) Progress {
	return func(string, int64, int64) error { return r.Context().Err() }
}

// gone returns err, or ErrUnavailable if err is that of whileAsked: nobody reads the answer, and it
// is no failure of the server.
func gone(r *Request, err error) error {
	if r.Context().Err() != nil && errors.Is(err, r.Context().Err()) {
		return ErrUnavailable.With("The client has closed the connection before the work was done.")
	}
	return err
}

func (b *Backups) check(w http.ResponseWriter, r *Request) error {
	var result CheckResult
	err := b.o.Store.View(func(tx *Tx) (err error) {
		tx.Progress = whileAsked(r)
		result, err = CheckStore(tx, b.o.Tables)
		return err
	})
	if err != nil {
		return gone(r, err)
	}
	return WriteJSON(w, http.StatusOK, result)
}

// list answers with the schedule and the scheduled backups, newest first. A folder that cannot be read
// is a part of the answer.
func (b *Backups) list(w http.ResponseWriter, r *Request) error {
	names, failed := b.files()
	slices.Reverse(names)
	rows := []any{}
	for _, name := range names {
		row, err := b.show(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	last, err := b.Last()
	if err != nil {
		failed = err
	}
	if b.o.Node == "" { // Due may not have run yet
		if last = (backupMade{}); len(names) > 0 {
			last.At = backupTime(names[0])
		}
	}
	shown := map[string]any{
		"dir": TextOrNone(b.o.Dir), "every_seconds": nil, "keep": nil, "last_at": Seconds(last.At), "last_node": TextOrNone(last.Node), "last_error": nil,
		"next_at": nil, "count": len(rows), "backups": rows,
	}
	if failed != nil {
		shown["last_error"] = failed.Error()
	}
	if every := b.Every(); every > 0 {
		shown["every_seconds"], shown["keep"], shown["next_at"] = int64(every/time.Second), b.o.Keep, Seconds(last.next(every, r.Now))
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// show returns the JSON fields of the scheduled backup in the file called name. The result of a check
// counts only for as long as the file stays the same.
func (b *Backups) show(name string) (map[string]any, error) {
	info, err := os.Stat(filepath.Join(b.o.Dir, name))
	if err != nil {
		return nil, err
	}
	shown := map[string]any{"name": name, "created_at": Seconds(backupTime(name)), "bytes": info.Size(), "check": nil}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.checked[name]; ok && c.Bytes == info.Size() && c.Made.Equal(info.ModTime()) {
		shown["check"] = map[string]any{
			"at": Seconds(c.At), "good": len(c.Result.Problems) == 0 && c.Result.NotVerified == "", "records": c.Result.Records, "index_entries": c.Result.Entries,
			"problems": c.Result.Problems, "not_verified": TextOrNone(c.Result.NotVerified),
		}
	}
	return shown, nil
}

// checkOne checks the scheduled backup in the path and answers with it. A file that cannot be read is
// a result too.
func (b *Backups) checkOne(w http.ResponseWriter, r *Request) error {
	name := r.Params.ByName("name")
	names, err := b.files()
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) { // so that no other file can be named
		return ErrNotFound
	}
	b.checks.Lock()
	defer b.checks.Unlock()
	path := filepath.Join(b.o.Dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return ErrNotFound // deleted meanwhile
	}
	if err != nil {
		return err
	}
	result, err := b.o.CheckFile(path, whileAsked(r))
	if err != nil && r.Context().Err() != nil {
		return gone(r, err)
	}
	if err != nil {
		result = CheckResult{Problems: []string{"the file cannot be read: " + err.Error()}}
	}
	b.keepCheck(name, checkedFile{r.Now, info.Size(), info.ModTime(), result}, names)
	shown, err := b.show(name)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// keepCheck stores the result of a check, and forgets those of files that no longer exist.
func (b *Backups) keepCheck(name string, c checkedFile, names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for old := range b.checked {
		if !slices.Contains(names, old) {
			delete(b.checked, old)
		}
	}
	b.checked[name] = c
}

// Tidy deletes copies that an earlier run of the program left in the data folder. Call it
// before the first request is served, because it would also delete a copy that is being
// sent.
func (b *Backups) Tidy() error {
	left, err := filepath.Glob(filepath.Join(b.o.Folder, unsentPrefix+"*.tmp"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// backupMade describes the newest scheduled backup.
type backupMade struct {
	At   time.Time `json:"at,omitzero"`    // zero: there is none, or it is not known
	Node string    `json:"node,omitempty"` // name of the node of a cluster that has made it; "": the server is alone
	// Failed is why the latest attempt after At failed; "": it did not. In a cluster alone.
	Failed     string `json:"failed,omitempty"`
	FailedNode string `json:"failed_node,omitempty"` // name of the node that has made that attempt
}

// next returns when the next scheduled backup is due.
func (m backupMade) next(every time.Duration, now time.Time) time.Time {
	if next := m.At.Add(every); !m.At.IsZero() && next.After(now) && !m.At.After(now) {
		return next
	}
	return now
}

// backupMadeKey is the key in meta of the backupMade of a cluster.
var backupMadeKey = []byte("backup")

// readMade returns the stored backupMade of a cluster.
func readMade(tx *Tx) (m backupMade, err error) {
	value, err := tx.Get("meta", backupMadeKey)
	if err == nil && value != nil {
		err = strictjson.Decode(value, &m)
	}
	return m, err
}

// storedMade is readMade in a transaction of its own.
func (b *Backups) storedMade() (m backupMade, err error) {
	err = b.o.Store.View(func(tx *Tx) (err error) {
		m, err = readMade(tx)
		return err
	})
	return m, err
}

// storeMade changes the stored backupMade of a cluster. It stores nothing if change changes nothing.
func (b *Backups) storeMade(change func(*backupMade)) error {
	return b.o.Store.Update(func(tx *Tx) error {
		m, err := readMade(tx)
		if err != nil {
			return err
		}
		before := m
		if change(&m); m == before {
			return nil
		}
		value, err := strictjson.Encode(m)
		if err != nil {
			return err
		}
		return tx.Put("meta", backupMadeKey, value)
	})
}

// Due makes a scheduled backup if the newest backup is at least Every old, if its
// date is in the future, or if there is none. Then it deletes the oldest backups in Dir beyond
// Keep. It does nothing if Dir is "". Call it about once a minute. A server that is alone finds the
// newest backup in Dir. The nodes of a cluster keep in the store when one of them has made it.
func (b *Backups) Due(now time.Time) error {
	if b.o.Dir == "" {
		return nil
	}
	err := b.due(now)
	if b.o.Node != "" {
		return errors.Join(err, b.storeMade(func(m *backupMade) {
			if m.Failed, m.FailedNode = "", ""; err != nil {
				m.Failed, m.FailedNode = err.Error(), b.o.Node
			}
		}))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	return err
}

// Last returns the newest scheduled backup. failed is the error of the latest call of Due, on any node of a cluster,
// or nil if it succeeded.
func (b *Backups) Last() (made backupMade, failed error) {
	if b.o.Node == "" {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.last, b.err
	}
	made, err := b.storedMade()
	if err == nil && made.Failed != "" {
		err = fmt.Errorf("node %s: %s", made.FailedNode, made.Failed)
	}
	return made, err
}

// Every returns the time between two scheduled backups, or 0 if none are made.
func (b *Backups) Every() time.Duration {
	if b.o.Dir == "" {
		return 0
	}
	return b.o.Every
}

// madeAt records that a scheduled backup was made. last is the newest one before it; if another node has made one
// meanwhile, the later one counts.
func (b *Backups) madeAt(at time.Time, last backupMade) error {
	if b.o.Node != "" {
		return b.storeMade(func(m *backupMade) {
			if m.At.Equal(last.At) || at.After(m.At) {
				m.At, m.Node = at.UTC().Truncate(time.Second), b.o.Node
			}
		})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last.At = at
	return nil
}

// newest returns the newest scheduled backup, given the names of the files in Dir.
func (b *Backups) newest(names []string) (backupMade, error) {
	var m backupMade
	if b.o.Node != "" {
		return b.storedMade()
	}
	if n := len(names); n > 0 {
		m.At = backupTime(names[n-1])
		return m, b.madeAt(m.At, m)
	}
	return m, nil
}

// due is Due without the check of Dir. It does not store its error.
func (b *Backups) due(now time.Time) error {
	made, err := b.made()
	if err != nil {
		return err
	}
	last, err := b.newest(made)
	if err != nil || last.next(b.o.Every, now).After(now) {
		return err
	}
	name := backupName(now)
	part := filepath.Join(b.o.Dir, name+".part")
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := b.o.Store.CopyTo(part); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(part, filepath.Join(b.o.Dir, name)), durable.SyncDir(b.o.Dir)); err != nil {
		return fmt.Errorf("rename the finished backup: %w", err)
	}
	if err := b.madeAt(now, last); err != nil {
		return err
	}
	b.o.Log.Info("backup made", "file", filepath.Join(b.o.Dir, name))
	by := AuditContext{Actor: ActorSelf, Action: "make backup", Now: now, Detail: map[string]any{"file": name}}
	if b.o.Node != "" {
		by.Detail["node"] = b.o.Node
	}
	if err := b.o.Store.Update(by.Append); err != nil {
		return err
	}
	if made, err = b.made(); err != nil {
		return err
	}
	for len(made) > b.o.Keep {
		err = errors.Join(err, os.Remove(filepath.Join(b.o.Dir, made[0])))
		made = made[1:]
	}
	return err
}

// made returns the file names of the scheduled backups, oldest first. It creates the folder
// Dir if it does not exist.
func (b *Backups) made() ([]string, error) {
	if err := durable.MakeFolder(b.o.Dir); err != nil {
		return nil, fmt.Errorf("create the backup folder: %w; set backup.dir to a folder that Latchkey may write to", err)
	}
	return b.files()
}

// files returns the file names of the scheduled backups, oldest first. It returns nil if there is no
// folder.
func (b *Backups) files() (names []string, err error) {
	if b.o.Dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(b.o.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the backup folder: %w", err)
	}
	for _, e := range entries {
		if !backupTime(e.Name()).IsZero() && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// backupTime returns the time in the file name of a scheduled backup, or the zero time if the file is
// something else.
func backupTime(name string) time.Time {
	t, err := time.Parse(BackupTime, strings.TrimSuffix(strings.TrimPrefix(name, backupPrefix), backupSuffix))
	if err != nil || backupName(t) != name {
		return time.Time{}
	}
	return t
}
