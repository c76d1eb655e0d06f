// The folder family has the data folder: its lock, its files, and putting a backup
// in the place of the database. It never opens a database that another process has
// open.

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/durable"
	"latchkey/internal/keytext"
)

// DataDir is the data folder: the database, the pepper, the lock and the
// control socket. Only one process at a time has it open.
type DataDir struct {
	Path string
	Log  *slog.Logger // told of a change of the database's format and of open files
	lock *os.File
}

// The files of a data folder.
const (
	storeFile  = "latchkey.db"
	pepperFile = "pepper"
	markFile   = "store.id" // says that a database was made here, and which
	lockFile   = "lock"
	socketFile = "control.sock"
)

// storePath is where the database of a data folder is.
func storePath(dir string) string { return filepath.Join(dir, storeFile) }

// pepperPath is where the pepper of a data folder is, unless the config says
// otherwise.
func pepperPath(dir string) string { return filepath.Join(dir, pepperFile) }

// markPath is where a data folder says which store is its own.
func markPath(dir string) string { return filepath.Join(dir, markFile) }

// OpenDataDir takes hold of a data folder. With create a missing one is made,
// open to its owner alone. It fails, with the holder's process id, where
// another process has it.
func OpenDataDir(path string, create bool) (*DataDir, error) {
	if create {
		if err := makeFolder(path); err != nil {
			return nil, fmt.Errorf("make the data folder: %w; name another with --data", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data folder is not writable: %w; mend its permissions or name another with --data", err)
	}
	if err := LockExclusive(lock); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("lock the data folder %s: %w; it has to be on a disk that can lock files", path, err), lock.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("the data folder %s is in use by %s; stop it, or name another folder with --data", path, holder(lock.Name())), lock.Close())
	}
	if err := writeID(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("write the lock file: %w", err), lock.Close())
	}
	return &DataDir{Path: path, Log: slog.New(slog.DiscardHandler), lock: lock}, nil
}

// makeFolder makes a folder that is missing, and those above it, so that they
// are still there after a power cut.
func makeFolder(path string) error {
	var made []string
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || !errors.Is(err, os.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		made = append(made, at)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, dir := range made {
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// holder names the process that has a lock file. One that has only just taken
// it has not written its id yet, and an earlier one that crashed left its own,
// so the file is read until it names a process that lives.
func holder(path string) string {
	for range 20 {
		text, _ := os.ReadFile(path)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			p, err := os.FindProcess(pid)
			if err == nil && !errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) {
				return fmt.Sprintf("process %d", pid)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "another process"
}

// writeID writes the process id into a lock file: first over what is there,
// since a disk that is full has room for that, then cut to its length.
func writeID(f *os.File) error {
	id := fmt.Sprintf("%d\n", os.Getpid())
	if _, err := f.WriteAt([]byte(id), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(id)))
}

// hasStore says whether a path holds a data folder of this program.
func hasStore(path string) bool {
	_, err := os.Stat(markPath(path))
	return err == nil
}

// Socket is the path of the control socket.
func (f *DataDir) Socket() string { return filepath.Join(f.Path, socketFile) }

// Open gives the peppers and the store of the folder. In a folder that never
// held a store it makes both; where one was and is gone, it fails rather than
// start without the keys. peppers are as for LoadPeppers, file "" being the
// folder's own.
func (f *DataDir) Open(value, file string, retired []string, clock *clock.Clock) (*Store, Peppers, error) {
	fresh := !hasStore(f.Path)
	own := file == ""
	if own {
		file = pepperPath(f.Path)
	}
	if fresh && own && value == "" {
		if err := CreatePepper(file); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, Peppers{}, err
		}
	}
	peppers, err := LoadPeppers(value, file, retired)
	if err != nil {
		return nil, peppers, err
	}
	path := storePath(f.Path)
	if _, err := os.Stat(path); fresh && errors.Is(err, os.ErrNotExist) {
		if err := CreateStore(path, keytext.RandomHex(16), time.Now()); err != nil {
			return nil, peppers, err
		}
	}
	fits := func(file *File) error { return errors.Join(f.owns(file.Header.StoreID), file.View(peppers.Match)) }
	if _, err := Migrate(path, Migrations(), fits, f.Log); err != nil {
		return nil, peppers, err
	}
	store, err := OpenStore(path, clock.Stamp)
	if err != nil {
		return nil, peppers, err
	}
	f.warn(path, file)
	if err := f.verify(store, peppers, clock); err != nil {
		return nil, peppers, errors.Join(err, store.Close())
	}
	return store, peppers, nil
}

// verify checks that the store is the folder's and goes with the pepper, and
// sets the clock by it.
func (f *DataDir) verify(store *Store, peppers Peppers, clock *clock.Clock) error {
	if err := f.owns(store.ID()); err != nil {
		return err
	}
	if !hasStore(f.Path) {
		if err := durable.WriteFile(markPath(f.Path), store.ID()+"\n"); err != nil {
			return err
		}
	}
	stamp, err := store.Stamp()
	if err != nil {
		return err
	}
	if err := clock.Resume(stamp); err != nil {
		return err
	}
	if err := peppers.Verify(store); err != nil || clock.Continued() {
		return err // with another pepper nothing is changed
	}
	// Or a run that stores nothing would leave the stamp of the boot before,
	// and the next one would trust a wall clock that was set meanwhile.
	return store.Update(func(tx *Tx) error { return tx.Put("meta", []byte("stamp"), clock.Stamp()) })
}

// owns fails where the folder is another store's.
func (f *DataDir) owns(id string) error {
	mark := markPath(f.Path)
	said, err := ReadSmall(mark)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case strings.TrimSpace(string(said)) != id:
		return fmt.Errorf("%s belongs to another data folder than %s; restore the right one, or remove %s if you put it here on purpose", storeFile, f.Path, mark)
	}
	return nil
}

// warn tells of files that others than their owner may read.
func (f *DataDir) warn(paths ...string) {
	for _, path := range append(paths, f.Path) {
		info, err := os.Stat(path)
		if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			f.Log.Warn("others may read what only the server should; take the permission away with chmod go-rwx", "path", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		}
	}
}

// Close lets go of the folder.
func (f *DataDir) Close() error { return f.lock.Close() }

// RestoreResult says what a restore has put in place, or would.
type RestoreResult struct {
	From      string
	To        string
	Kept      string // where what stood there before is now
	StoreID   string
	Keys      int
	CreatedAt time.Time
	Check     CheckResult
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
func RestoreStore(o RestoreOptions) (result RestoreResult, err error) {
	dir := o.Config.Server.Data
	result = RestoreResult{From: o.From, To: storePath(dir)}
	if !o.DryRun || hasStore(dir) {
		folder, err := OpenDataDir(dir, !o.DryRun)
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
	mark, err := ReadSmall(markPath(dir))
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
	return result, durable.WriteFile(markPath(dir), file.Header.StoreID+"\n")
}

// inspect checks a backup through, and that the folder's pepper goes with it.
func (o RestoreOptions) inspect(backup *File, result *RestoreResult) error {
	file := o.Config.Keys.PepperFile
	if file == "" {
		file = pepperPath(o.Config.Server.Data)
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
	path := storePath(dir)
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
	return kept, errors.Join(os.Rename(fresh, path), durable.SyncDir(dir))
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
	folder, err := OpenDataDir(dir, false)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	path := storePath(dir)
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
