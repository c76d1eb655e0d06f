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

// DataDir is an open data folder: the database, the pepper, the lock, the control
// socket and the files of ACME. Only one process can have it open at a time.
type DataDir struct {
	Path string
	Log  *slog.Logger // receives migrations and warnings about file permissions
	lock *os.File
}

// Names of the files in a data folder.
const (
	storeFile  = "latchkey.db"
	pepperFile = "pepper"
	markFile   = "store.id" // the ID of the store that was created here
	lockFile   = "lock"
	socketFile = "control.sock"
)

// storePath returns the path of the database of a data folder.
func storePath(dir string) string { return filepath.Join(dir, storeFile) }

// pepperPath returns the path of the pepper of a data folder, unless the config
// names another.
func pepperPath(dir string) string { return filepath.Join(dir, pepperFile) }

// markPath returns the path of the file that holds the ID of a data folder's
// store.
func markPath(dir string) string { return filepath.Join(dir, markFile) }

// OpenDataDir locks a data folder and returns it. With create it creates a missing
// folder, readable only by its owner. It fails if another process has the folder
// open; the error names the id of that process, if known. Call Close to release the
// lock.
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

// makeFolder creates path and its missing parents so that they survive a power
// cut.
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

// holder returns the name of the process that holds the lock file at path. A
// process that has just locked it may not have written its id yet, and a crashed
// one leaves its id behind. So holder reads the file for up to a second, until it
// names a running process.
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

// writeID writes the id of this process into a lock file. It overwrites the old id
// before it cuts the file, because that works even if the disk is full.
func writeID(f *os.File) error {
	id := fmt.Sprintf("%d\n", os.Getpid())
	if _, err := f.WriteAt([]byte(id), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(id)))
}

// hasStore reports whether path is a data folder in which a store was created.
func hasStore(path string) bool {
	_, err := os.Stat(markPath(path))
	return err == nil
}

// Socket returns the path of the control socket.
func (f *DataDir) Socket() string { return filepath.Join(f.Path, socketFile) }

// Open returns the store of the folder and its peppers; the caller closes the
// store. In a folder that never held a store, Open creates the database. It also
// creates the pepper there if value and file are "". If a store was created here
// and its database or pepper is missing, Open fails rather than start without the
// keys. The parameters are those of LoadPeppers, but a file of "" means the
// pepper file of the folder.
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

// verify checks that the store belongs to the folder and was made with the pepper.
// It resumes the clock from the stamp of the store.
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
		return err // with a wrong pepper the store must not be changed
	}
	// The stamp is of an earlier boot. If this run stored nothing, the next run
	// would read that stamp and trust a wall clock that was set meanwhile.
	return store.Update(func(tx *Tx) error { return tx.Put("meta", []byte("stamp"), clock.Stamp()) })
}

// owns returns an error if the folder belongs to a store other than id, and nil
// if it has no store yet.
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

// warn logs a warning for each of the paths, and for the folder, if users other
// than the owner have any permission on it.
func (f *DataDir) warn(paths ...string) {
	for _, path := range append(paths, f.Path) {
		info, err := os.Stat(path)
		if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			f.Log.Warn("others may read what only the server should; take the permission away with chmod go-rwx", "path", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		}
	}
}

// Close releases the lock of the folder. It does not close the store.
func (f *DataDir) Close() error { return f.lock.Close() }

// RestoreResult describes a completed restore, or what a dry run would restore.
type RestoreResult struct {
	From      string
	To        string
	Kept      string // new path of the previous database, "" if there was none
	StoreID   string
	Keys      int
	CreatedAt time.Time
	Check     CheckResult
}

// RestoreOptions are the options of RestoreStore.
type RestoreOptions struct {
	Config Config
	Pepper string // the pepper itself; "" to read the pepper file
	From   string
	DryRun bool // check everything and change nothing
	Other  bool // allow a backup of a store other than the folder's
	Tables []Checked
	Now    time.Time
}

// RestoreStore checks a backup completely, replaces the database of the data folder
// with it, and keeps the previous database beside it. There is a database at
// every moment, even after a crash. RestoreStore fails while a server has the
// folder open.
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

// inspect checks all of a backup and that it was made with the pepper of the
// folder. It fills in Check and Keys of result.
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

// replace replaces the database of dir with a compacted copy of f. It returns the
// path under which the previous database is kept, or "" if there was none.
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
		// A second link instead of a rename, so that there is always a database.
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

// fitting returns the tables against which the records of f can be checked: tables,
// or nil if f has an older format.
func fitting(f *File, tables []Checked) []Checked {
	if f.Current() {
		return tables
	}
	return nil
}

// CheckFile checks the database at path. No server may have it open.
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

// CompactStore rewrites the database of a data folder without its free pages. It
// returns its size before and after, in bytes. It fails if dir is missing or a
// server has it open.
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
	// The old file has no record that the new one lacks, and its free pages still
	// contain deleted secrets.
	return before, info.Size(), os.Remove(kept)
}
