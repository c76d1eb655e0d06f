package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Restored says what a restore has put in place, or would.
type Restored struct {
	From      string      `json:"from"`
	To        string      `json:"to"`
	Kept      string      `json:"kept,omitempty"` // where what stood there before is now
	StoreID   string      `json:"store_id"`
	Keys      int         `json:"keys"`
	CreatedAt time.Time   `json:"created_at"`
	Check     CheckResult `json:"check"`
}

// RestoreOptions say what to restore, and where.
type RestoreOptions struct {
	Config Config
	Pepper string // in place of the pepper file, where it is not ""
	From   string
	DryRun bool // check everything and change nothing
	Other  bool // the backup may be of another store than the folder's
	Tables []Checked
	Now    time.Time
}

// RestoreStore puts a backup in the place of a folder's database, once it is
// checked through, and keeps what stood there beside it. At no moment is there
// no database. It fails while a server has the folder.
func RestoreStore(o RestoreOptions) (result Restored, err error) {
	dir := o.Config.Server.Data
	result = Restored{From: o.From, To: StorePath(dir)}
	if !o.DryRun || HasStore(dir) {
		folder, err := OpenFolder(dir, !o.DryRun)
		if err != nil {
			return result, err
		}
		defer func() { err = errors.Join(err, folder.Close()) }()
	}
	file, err := OpenFile(o.From, true)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	result.StoreID, result.CreatedAt = file.Header.StoreID, file.Header.CreatedAt
	if err := o.inspect(file, &result); err != nil {
		return result, err
	}
	mark, err := ReadSmall(MarkPath(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return result, err
	}
	if id := strings.TrimSpace(string(mark)); id != "" && id != file.Header.StoreID && !o.Other {
		return result, fmt.Errorf("%s is a backup of another store than that of %s; with --other it is restored nevertheless", o.From, dir)
	}
	if o.DryRun {
		return result, nil
	}
	result.Kept, err = replace(file, dir, o.Now)
	if err != nil {
		return result, err
	}
	return result, WriteSynced(MarkPath(dir), file.Header.StoreID+"\n")
}

// inspect checks a backup through, and that the folder's pepper goes with it.
func (o RestoreOptions) inspect(backup *File, result *Restored) error {
	file := o.Config.Keys.PepperFile
	if file == "" {
		file = PepperPath(o.Config.Server.Data)
	}
	peppers, err := LoadPeppers(o.Pepper, file, o.Config.Keys.RetiredPepperFiles)
	if err != nil {
		return err
	}
	return backup.View(func(tx *Tx) (err error) {
		if result.Check, err = CheckStore(tx, fitting(backup, o.Tables)); err != nil {
			return err
		}
		if p := result.Check.Problems; len(p) > 0 {
			return fmt.Errorf("%s is damaged, so it is not restored: %s (%d problems)", o.From, p[0], len(p))
		}
		if err := peppers.Match(tx); err != nil {
			return err
		}
		result.Keys, err = KeyTable.Count(tx)
		return err
	})
}

// replace puts a compacted copy of a database in the place of a folder's, and
// says under which name the one before is kept, "" where there was none.
func replace(f *File, dir string, now time.Time) (kept string, err error) {
	path := StorePath(dir)
	fresh := path + ".restored"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := f.CopyTo(fresh); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		kept = path + ".before-" + now.UTC().Format(BackupTime)
		// A second name first, so that there is a database all the time.
		err := os.Link(path, kept)
		for n := 2; errors.Is(err, os.ErrExist); n++ {
			kept = fmt.Sprintf("%s.before-%s-%d", path, now.UTC().Format(BackupTime), n)
			err = os.Link(path, kept)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("keep the database that is there: %w", err), os.Remove(fresh))
		}
	}
	return kept, errors.Join(os.Rename(fresh, path), SyncDir(dir))
}

// fitting gives the tables that a file's records can be held against.
func fitting(f *File, tables []Checked) []Checked {
	if f.Current() {
		return tables
	}
	return nil
}

// CheckFile checks the database in a file that no server has open.
func CheckFile(path string, tables []Checked) (result CheckResult, err error) {
	f, err := OpenFile(path, true)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = f.View(func(tx *Tx) (err error) {
		result, err = CheckStore(tx, fitting(f, tables))
		return err
	})
	return result, err
}

// CompactStore rewrites the database of a folder without its free pages, and
// gives its size before and after, in bytes. It fails while a server has the
// folder.
func CompactStore(dir string, now time.Time) (before, after int64, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, 0, fmt.Errorf("there is no data folder to compact: %w; name it with --data", err)
	}
	folder, err := OpenFolder(dir, false)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	path := StorePath(dir)
	f, err := OpenFile(path, true)
	if err != nil {
		return 0, 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, errors.Join(err, f.Close())
	}
	before = info.Size()
	kept, err := replace(f, dir, now)
	if err := errors.Join(err, f.Close()); err != nil {
		return before, 0, err
	}
	if info, err = os.Stat(path); err != nil {
		return before, 0, err
	}
	// The old file holds nothing that the new one has not, and deleted secrets
	// go on to stand in it.
	return before, info.Size(), os.Remove(kept)
}
