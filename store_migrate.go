package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"latchkey/internal/durable"
)

// migration changes a store from one format to the next. It must not use a Table: the
// record types change with the program, but a migration must always read and write the
// same two formats.
type migration struct {
	What string // what the migration changes, for the log, such as "add the team to calls"
	// MinReader is the MinReader of the new header: the lowest StoreFormat of a program
	// that can read the result. 0 means the new format.
	MinReader int
	// Derive finds the entries of buckets that Run adopts, from the records as they are before Run. They
	// are stored in transactions before that of Run, so that they need little memory. It may be nil.
	Derive deriver
	// Run changes the records. The new header is stored in the same transaction. Derive and Run report to the Progress
	// of the transaction, and end with its error.
	Run func(tx *Tx) error
}

// Migrations returns all migrations in order. The first one changes format 1 to format 2.
func Migrations() []migration {
	return []migration{
		{What: "sign the keys, admin tokens, operators and sessions", Run: signRecords},
		{What: "count the bytes of each owner, store each webhook event once and add the indexes of lists", Derive: deriveLists, Run: format3},
		{What: "add the lists of calls by contact and of events by agent, and let keys be limited to objects", Derive: deriveFormat4, Run: format4},
	}
}

// format3 changes format 2 to format 3.
func format3(tx *Tx) error {
	for _, step := range []func(*Tx) error{
		shareBodies,
		addLists,
		addKeyRows,
		countOwners, // after the steps that change records of owners
	} {
		if err := step(tx); err != nil {
			return err
		}
	}
	return nil
}

// changing reports one record to the Progress of the Run of a migration. It returns the error of the Progress.
func (tx *Tx) changing() error { return tx.Progress.Report("changing records", 0, 0) }

// MigrateOptions are the options of Migrate.
type MigrateOptions struct {
	Keys [][]byte          // the keys of the Authenticator
	Fits func(*File) error // checks the file before anything changes; an error ends Migrate; may be nil
	Log  *slog.Logger
	// NoCopy leaves out the copy that is made before the first step. It is for a file that is a copy itself.
	NoCopy bool
	// Progress receives how much is done. If it returns an error, the step that is being made is undone, and Migrate
	// returns the error.
	Progress Progress
}

// migrationPeriod is the time between two lines of the log about a migration.
const migrationPeriod = 10 * time.Second

// Migrate brings the database file at path to the format that the last of steps
// produces. Before the first step it copies the file. It returns the path of the copy,
// or "" if the file already had that format. Each step is one transaction. After a
// crash, the next call continues with the step that is missing and returns the same copy. If the first step
// fails, the file is unchanged and Migrate removes the copy. If a later step fails,
// Migrate returns the path of the copy together with the error. The process must hold the
// lock on the data folder.
func Migrate(path string, steps []migration, o MigrateOptions) (kept string, err error) {
	f, err := openFormat(path, ReadWrite, 1+len(steps))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	f.Auth = NewAuthenticator(o.Keys, f.Header.StoreID)
	from := f.Header.Format
	if from > len(steps) {
		return "", nil
	}
	if from < 1 {
		return "", fmt.Errorf("open store %s: the header has format %d, which does not exist; restore a backup to this path", path, from)
	}
	if o.Fits != nil {
		if err := o.Fits(f); err != nil {
			return "", err
		}
	}
	defer spareMemory()()
	m := &migrating{File: f, steps: steps, o: o, began: time.Now(), told: time.Now()}
	f.Progress = m.report
	return m.run()
}

// spareMemory makes garbage be collected more often until the returned function is called. A step keeps all that it has
// changed in memory.
func spareMemory() (end func()) {
	const percent = 50
	before := debug.SetGCPercent(percent)
	if before >= 0 && before < percent {
		debug.SetGCPercent(before)
	}
	return func() { debug.SetGCPercent(before) }
}

// migrating is a migration of an open file.
type migrating struct {
	*File
	steps []migration // from format 1 on
	o     MigrateOptions
	began time.Time
	told  time.Time // when the last line was written to the log
}

// report is the Progress of the migration.
func (m *migrating) report(step string, done, total int64) error {
	if now := time.Now(); now.Sub(m.told) >= migrationPeriod {
		details := []any{"step", step}
		if total > 0 {
			details = append(details, "done", done, "total", total)
		}
		m.say("the migration of the database goes on", details...)
	}
	return m.o.Progress.Report(step, done, total)
}

// say writes a line to the log. It is a warning, so that commands show it too.
func (m *migrating) say(text string, details ...any) {
	m.told = time.Now()
	m.o.Log.Warn(text, details...)
}

// run is Migrate for an open file with an earlier format.
func (m *migrating) run() (kept string, err error) {
	from, to := m.Header.Format, 1+len(m.steps)
	begun, stamp, err := m.unfinished()
	if err != nil {
		return "", err
	}
	switch {
	case m.o.NoCopy:
	case begun != "":
		kept = begun
		m.say("a migration of the database was interrupted and goes on", "format", from, "new_format", to, "bytes", m.size(), "copy", kept)
	default:
		kept = copyName(m.path, m.Header)
		m.say("the database is migrated to a new format: copying it first", "format", from, "new_format", to, "bytes", m.size(), "copy", kept)
		if err := keepCopy(m.File, kept); err != nil {
			return "", fmt.Errorf("copy the database before its migration (free some disk space and start again; the database has not been changed): %w", err)
		}
		m.say("database copied", "copy", kept)
	}
	for n := from; n < to; n++ {
		s := m.steps[n-1]
		m.say("migrating the database", "format", n, "new_format", n+1, "what", s.What)
		if err := m.step(s, unfinishedMigration{filepath.Base(kept), stamp}); err != nil {
			err = fmt.Errorf("migrate the database from format %d to %d (%s): %w", n, n+1, s.What, err)
			if n == from && begun == "" && kept != "" && !m.changed() {
				return "", errors.Join(err, os.Remove(kept))
			}
			if m.changed() {
				return kept, fmt.Errorf("%w; it is not known whether the step is stored; the copy of the database from before the migration is %s", err, kept)
			}
			return kept, fmt.Errorf("%w; the database has format %d now; its copy from before the migration is %s", err, n, kept)
		}
		m.say("database migrated", "format", n+1, "what", s.What, "copy", kept)
	}
	m.say("the migration of the database is complete; its copy is for a return to the earlier version",
		"format", to, "bytes", m.size(), "took", time.Since(m.began).Round(100*time.Millisecond).String(), "copy", kept)
	return kept, nil
}

// size returns the size of the database in bytes.
func (m *migrating) size() (size int64) {
	_ = m.View(func(tx *Tx) error { // the function returns no error
		size = tx.Bolt.Size()
		return nil
	})
	return size
}

// unfinishedMigration is the record of a migration that has made a step, but not yet the last one.
type unfinishedMigration struct {
	Copy string `json:"copy"` // name of the copy from before the migration, in the folder of the database
	// Stamp is the stamp of the store as of the copy. Another one shows that a program has used the database since.
	Stamp []byte `json:"stamp"`
}

// migrationKey is the key of the unfinishedMigration in the bucket meta.
var migrationKey = []byte("migration")

// unfinished returns the path of the copy from before the migration that is to go on. It is "" if none has begun, if
// a program has used the database since, or if the copy is gone. stamp is the present stamp of the store.
func (m *migrating) unfinished() (kept string, stamp []byte, err error) {
	var u unfinishedMigration
	err = m.View(func(tx *Tx) error {
		var value []byte
		if stamp, err = tx.Get("meta", StampKey); err != nil {
			return err
		}
		if value, err = tx.Get("meta", migrationKey); err != nil || value == nil {
			return err
		}
		return json.Unmarshal(value, &u)
	})
	if err != nil || u.Copy == "" || u.Copy != filepath.Base(u.Copy) || !bytes.Equal(u.Stamp, stamp) {
		return "", stamp, err
	}
	kept = filepath.Join(filepath.Dir(m.path), u.Copy)
	if _, err := os.Lstat(kept); err != nil {
		return "", stamp, nil
	}
	return kept, stamp, nil
}

// step runs one migration and stores the new header in the same transaction. After an
// error m.Header is unchanged, and so are the records, see changed.
func (m *migrating) step(s migration, u unfinishedMigration) error {
	h := m.Header
	h.Format++
	h.MinReader, h.Writer = s.MinReader, ProgramVersion()
	if h.MinReader == 0 {
		h.MinReader = h.Format
	}
	if s.Derive != nil {
		if err := m.rebuild(s.Derive); err != nil {
			return err
		}
	}
	err := m.Update(func(tx *Tx) error {
		if err := s.Run(tx); err != nil {
			return err
		}
		return errors.Join(tx.dropRebuilt(), DropSeal(tx), h.Put(tx), m.note(tx, h.Format, u))
	})
	switch {
	case err == nil:
		m.Header = h
	case !m.changed():
		err = errors.Join(err, m.dropRebuilt())
	}
	return err
}

// changed reports whether the file has the records of the step that has failed. A commit that fails when the file is synced may
// be on the disk nevertheless.
func (m *migrating) changed() bool {
	h, err := readHeader(m.DB, math.MaxInt64, 1+len(m.steps))
	return err != nil || h.Format != m.Header.Format
}

// note stores that the migration is unfinished at a format, or that it is complete.
func (m *migrating) note(tx *Tx, format int, u unfinishedMigration) error {
	if m.o.NoCopy || format > len(m.steps) {
		return tx.Delete("meta", migrationKey)
	}
	value, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return tx.Put("meta", migrationKey, value)
}

// copyName returns the path of the copy that Migrate makes of the store at path. It
// consists of path, the format and the start of the store id. It is the same for each
// attempt, so that repeated failed starts do not fill the disk with copies. A file that
// the copy replaces is an earlier state of the same store in the same format.
func copyName(path string, h header) string {
	id := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1 // omit it: in a file of unknown origin it could be a path separator
	}, h.StoreID)
	return fmt.Sprintf("%s.format-%d-%s", path, h.Format, id[:min(8, len(id))])
}

// keepCopy writes a compacted copy of f to path. It writes path + ".part" and renames it
// once the copy is complete and on disk. It replaces an existing file at path.
func keepCopy(f *File, path string) error {
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := f.CopyTo(part); err != nil {
		return err
	}
	return errors.Join(os.Rename(part, path), durable.SyncDir(filepath.Dir(path)))
}
