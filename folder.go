// The folder family manages the data folder. It locks the folder, creates and opens the
// files in it, and replaces the database by a backup. The lock ensures that only one
// process has the database open.

package main

import (
	"cmp"
	"context"
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

// DataDir is an open data folder. The folder contains the database, the pepper, the lock
// file, the control socket and the files of ACME. Only one process can have it open.
type DataDir struct {
	Path string
	Log  *slog.Logger // for messages about migrations and file permissions
	lock *os.File     // the locked lock file
}

// Names of the files in a data folder.
const (
	storeFile  = "latchkey.db"
	pepperFile = "pepper"
	markFile   = "store.id" // contains the id of the folder's store
	lockFile   = "lock"
	socketFile = "control.sock"
)

// storePath returns the path of the database of a data folder.
func storePath(dir string) string { return filepath.Join(dir, storeFile) }

// pepperPath returns the default path of the pepper file. The configuration can set
// another path.
func pepperPath(dir string) string { return filepath.Join(dir, pepperFile) }

// markPath returns the path of the file that contains the id of a data folder's store.
func markPath(dir string) string { return filepath.Join(dir, markFile) }

// CreateDataDir is like OpenDataDir, but it first creates the folder if it does not exist.
// Only its owner can read a folder that it creates.
func CreateDataDir(path string) (*DataDir, error) {
	if err := makeFolder(path); err != nil {
		return nil, fmt.Errorf("create the data folder: %w; choose another folder with --data", err)
	}
	return OpenDataDir(path)
}

// OpenDataDir locks an existing data folder and returns it. It returns an error if the
// folder does not exist or another process has it open. The error contains the id of
// that process, if it is known. Call Close to unlock the folder.
func OpenDataDir(path string) (*DataDir, error) {
	lock, err := durable.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data folder is not writable: %w; correct its permissions or choose another folder with --data", err)
	}
	if err := LockExclusive(lock); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("lock the data folder %s: %w; it must be on a file system that can lock files", path, err), lock.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("the data folder %s is in use by %s; stop it, or choose another folder with --data", path, holder(lock.Name())), lock.Close())
	}
	if err := writeID(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("write the lock file: %w", err), lock.Close())
	}
	return &DataDir{Path: path, Log: slog.New(slog.DiscardHandler), lock: lock}, nil
}

// CheckFolder returns an error if path is not a folder in which this process can create files, and
// cannot be created as one. It changes nothing.
func CheckFolder(path string) error {
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		_, link := os.Readlink(at)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is not a folder; choose another path", at)
		case err == nil:
			if err := Writable(at); err != nil {
				return fmt.Errorf("the folder is not writable: %w; correct its permissions or choose another folder", err)
			}
			return nil
		case errors.Is(err, os.ErrNotExist) && link == nil:
			return fmt.Errorf("%s is a symbolic link to a path that does not exist; create the folder there, or choose another path", at)
		case !errors.Is(err, os.ErrNotExist) || at == filepath.Dir(at):
			return fmt.Errorf("the folder cannot be used: %w", err)
		}
	}
}

// PepperSource is where the peppers are.
type PepperSource struct {
	Value   string   // the current pepper itself; "" if it is in a file
	File    string   // path of the file with the current pepper; "" for the pepper file of the data folder
	Retired []string // paths of the files with the retired peppers
}

// PeppersOf returns where the peppers of a configuration are. value is the pepper itself, or "".
func PeppersOf(c Config, value string) PepperSource {
	return PepperSource{value, c.Keys.PepperFile, c.Keys.RetiredPepperFiles}
}

// Path returns the path of the file with the current pepper of the data folder dir, or "" if the pepper is in
// no file.
func (s PepperSource) Path(dir string) string {
	if s.Value != "" {
		return ""
	}
	return cmp.Or(s.File, pepperPath(dir))
}

// Load loads the peppers for the data folder dir, see LoadPeppers.
func (s PepperSource) Load(dir string) (Peppers, error) {
	return LoadPeppers(s.Value, cmp.Or(s.File, pepperPath(dir)), s.Retired)
}

// CheckPeppers returns an error if the peppers of the data folder dir cannot be loaded. The first
// start creates the pepper file of a new folder, so that it may be missing there.
func CheckPeppers(dir string, s PepperSource) error {
	if s.File == "" {
		if _, err := os.Stat(pepperPath(dir)); s.Value == "" && !hasStore(dir) && errors.Is(err, os.ErrNotExist) {
			if len(s.Retired) == 0 {
				return nil
			}
			s.File, s.Retired = s.Retired[0], s.Retired[1:]
		}
	}
	_, err := s.Load(dir)
	return err
}

// makeFolder creates a folder, readable only by its owner, and its missing parents. It
// syncs them to disk, so that they still exist after a power failure. It does nothing
// if the folder exists.
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

// holder returns a text that names the process that holds the lock file at path, such as
// "process 123", or "another process" if its id is not known. A process that has just
// locked the file may not have written its id yet, and a crashed process leaves its id
// in the file. So holder reads the file repeatedly, for up to a second, until it
// contains the id of a running process.
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
// first and truncates the file afterwards, because this works even if the disk is full.
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

// Database returns the path of the database.
func (f *DataDir) Database() string { return storePath(f.Path) }

// FolderOptions are the options of DataDir.Open.
type FolderOptions struct {
	Peppers PepperSource
	Clock   *clock.Clock
	Shared  FolderSharing // nil: the store is alone
	// Progress receives how much of a migration of the database is done. If it returns an error, Open ends with it.
	Progress Progress
}

// FolderSharing makes the database of a folder a view of the store of a cluster. It is a *SharedFolder; a program that is in no
// cluster does not contain its methods.
type FolderSharing interface {
	openView(f *DataDir, keys [][]byte, fits func(*File) error) error
	share(store *Store) error
}

// SharedFolder implements FolderSharing.
type SharedFolder struct {
	ShareOptions
	StoreID   string
	CreatedAt time.Time // when the cluster got the store
}

// Open returns the store of the folder and its peppers. The caller closes the store. In
// a folder that never had a store, Open creates the database. It also creates the
// pepper file if from has neither Value nor File. In a folder that had a store, a missing
// database or pepper is an error, because a new one would silently lose all keys. Open
// resumes the clock from the stamp in the store. The database of a node of a cluster is loaded
// from there, see OpenView, and its pepper must exist.
func (f *DataDir) Open(o FolderOptions) (*Store, Peppers, error) {
	from, fresh := o.Peppers, !hasStore(f.Path)
	if fresh && from.File == "" && from.Value == "" && o.Shared == nil {
		if err := CreatePepper(pepperPath(f.Path)); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, Peppers{}, err
		}
	}
	peppers, err := from.Load(f.Path)
	if err != nil && o.Shared != nil && errors.Is(err, os.ErrNotExist) {
		return nil, peppers, fmt.Errorf("%w; all nodes of a cluster have the same pepper: copy the file from another node, readable by the service alone", err)
	}
	if err != nil {
		return nil, peppers, err
	}
	path := storePath(f.Path)
	keys, err := peppers.MACKeys()
	if err != nil {
		return nil, peppers, err
	}
	fits := func(file *File) error { return errors.Join(f.owns(file.Header.StoreID), file.View(peppers.Match)) }
	switch _, err := os.Stat(path); {
	case o.Shared != nil:
		if err := o.Shared.openView(f, keys, fits); err != nil {
			return nil, peppers, err
		}
	case fresh && errors.Is(err, os.ErrNotExist):
		if err := CreateStore(path, keytext.RandomHex(16), time.Now()); err != nil {
			return nil, peppers, err
		}
	}
	if _, err := Migrate(path, Migrations(), MigrateOptions{Keys: keys, Fits: fits, Log: f.Log, Progress: o.Progress}); err != nil {
		return nil, peppers, err
	}
	store, err := OpenStore(path, o.Clock.Stamp)
	if err != nil {
		return nil, peppers, err
	}
	store.LogTo(f.Log)
	store.Authenticate(keys).OnForged(func(bucket string, key []byte) {
		f.Log.Error("record refused: it has no valid MAC, so it was changed without the pepper", "table", bucket, "key", loggedKey(bucket, key))
	})
	f.warn(path, cmp.Or(from.File, pepperPath(f.Path)))
	if err := f.tidy(); err != nil {
		f.Log.Warn("files of interrupted work could not be deleted; delete them from the data folder", "error", err)
	}
	if o.Shared == nil {
		if err := refuseView(store); err != nil {
			return nil, peppers, errors.Join(err, store.Close())
		}
	}
	if err := f.verify(store, peppers, o.Clock); err != nil {
		return nil, peppers, errors.Join(err, store.Close())
	}
	if o.Shared == nil {
		return store, peppers, nil
	}
	if err := o.Shared.share(store); err != nil {
		return nil, peppers, errors.Join(err, store.Close())
	}
	return store, peppers, nil
}

// tidy deletes what a migration, a repair, a restore or a compaction has left that was interrupted. Each of them holds
// the lock of the folder, so none is running.
func (f *DataDir) tidy() error {
	files, err := os.ReadDir(f.Path)
	for _, file := range files {
		rest, ours := strings.CutPrefix(file.Name(), storeFile)
		copied := strings.HasPrefix(rest, ".format-") && strings.HasSuffix(rest, ".part")
		if ours && (copied || rest == ".rebuild" || rest == ".restored" || rest == ".restored.rebuild") {
			err = errors.Join(err, os.Remove(filepath.Join(f.Path, file.Name())))
		}
	}
	return err
}

// refuseView returns an error if the database is a view of a cluster. A server that used it alone would go on from an
// old state, while the nodes of the cluster change theirs.
func refuseView(store *Store) error {
	view := false
	err := store.View(func(tx *Tx) error {
		view = IsView(tx)
		return nil
	})
	if err != nil || !view {
		return err
	}
	return errors.New("the database in this data folder is that of a node of a cluster: set cluster.endpoints and cluster.name as before; " +
		"or, to go on with one server alone, make a backup on a running node and restore it to a new data folder")
}

// share shares the store, which was opened after openView.
func (shared *SharedFolder) share(store *Store) error { return ShareStore(store, shared.ShareOptions) }

// openView makes sure that the folder has a view of the cluster.
func (shared *SharedFolder) openView(f *DataDir, keys [][]byte, fits func(*File) error) error {
	path := storePath(f.Path)
	if err := f.owns(shared.StoreID); err != nil {
		return fmt.Errorf("this data folder belongs to another store than the cluster (%s): use another folder, or another etcd", shared.StoreID)
	}
	shared.Mark = ViewMark(path)
	kept, err := OpenView(context.Background(), path, ViewOptions{
		Engine: shared.Engine, StoreID: shared.StoreID, CreatedAt: shared.CreatedAt, Boot: clock.BootID(), Keys: keys, Tables: shared.Tables, Fits: fits, Now: time.Now(),
		Loading: func(reason string) { f.Log.Warn("loading the records of the cluster", "because", reason) },
	})
	if kept != "" {
		f.Log.Warn("the database from before the cluster was kept", "copy", kept)
	}
	return err
}

// ViewOf returns which store of a cluster the view in a data folder is of. It returns false if there is no view.
func ViewOf(dir string) (id string, created time.Time, ok bool) {
	f, err := OpenFile(storePath(dir), ReadOnly)
	if err != nil {
		return "", time.Time{}, false
	}
	id, created, ok = f.Header.StoreID, f.Header.CreatedAt, IsViewFile(f)
	return id, created, ok && f.Close() == nil
}

// loggedKey returns the key of a record for the log: the id of a key as it is, and other
// keys in hex.
func loggedKey(bucket string, key []byte) string {
	if bucket == KeyTable.Name {
		return string(key)
	}
	return fmt.Sprintf("%x", key)
}

// verify returns an error if the store does not belong to the folder or was not created
// with one of the peppers. In a new folder it writes the file with the store's id. It
// also resumes clock from the stamp in the store.
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
	if err := peppers.Verify(store); err != nil {
		return err // with a wrong pepper the store must not be changed
	}
	if err := store.Update(DropSeal); err != nil || clock.Continued() {
		return err
	}
	// The stored stamp is from before the machine was restarted. Replace it now. If it
	// stayed, the next start would use it and trust the wall clock, which may have been
	// set to a wrong time since.
	return store.Update(func(tx *Tx) error { return tx.Put("meta", StampKey, clock.Stamp()) })
}

// owns returns an error if the folder belongs to a store with an id other than id. It
// returns nil if the folder has no store yet.
func (f *DataDir) owns(id string) error {
	mark := markPath(f.Path)
	text, err := ReadSmall(mark)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case strings.TrimSpace(string(text)) != id:
		return fmt.Errorf("%s belongs to another data folder than %s; restore the right database, or remove %s if you put this database here on purpose", storeFile, f.Path, mark)
	}
	return nil
}

// warn logs a warning for each of the paths, and for the folder itself, that users other
// than its owner have any permission on. It does nothing on Windows.
func (f *DataDir) warn(paths ...string) {
	for _, path := range append(paths, f.Path) {
		info, err := os.Stat(path)
		if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			f.Log.Warn("other users have permissions on this path; remove them with chmod go-rwx", "path", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		}
	}
}

// Close releases the lock of the folder. It does not close the store.
func (f *DataDir) Close() error { return f.lock.Close() }

// RestoreResult describes a completed restore, or the restore that a dry run checked.
type RestoreResult struct {
	From    string   // path of the backup
	To      string   // path of the database
	Kept    string   // new path of the previous database; "" if there was none, and after a dry run
	StoreID string   // id of the store in the backup
	Keys    int      // number of keys in the backup
	Carried []string // what has happened since the backup and was carried over, one sentence each
	// NotCarried is why nothing could be carried over, or "".
	NotCarried string
	// Gone names what was created since the backup and is not in it, one sentence each.
	Gone         []string
	WebhooksHeld bool        // the backup has webhooks, which are held back; false after a dry run
	CreatedAt    time.Time   // when the store in the backup was created
	Check        CheckResult // result of the check of the backup
}

// RestoreOptions are the options of RestoreStore.
type RestoreOptions struct {
	Config Config
	Pepper string // the pepper itself; if "", it is read from the pepper file
	From   string // path of the backup
	DryRun bool   // check the backup and change nothing
	Other  bool   // accept a backup of another store than the folder's
	// Unverified accepts a file without a MAC, or with a MAC that does not match its
	// contents: a plain copy, a backup of an earlier version, or a file that was changed.
	Unverified bool
	// Plan compares the previous database with the backup. It returns what has happened since
	// the backup and must not be undone. It only reads. nil: nothing is carried over.
	Plan func(previous, backup *Tx) ([]Carried, error)
	// Gone compares them too, and returns what was created since the backup, one sentence each. It only reads.
	// It may be nil.
	Gone func(previous, backup *Tx) ([]string, error)
	// Amend makes the other changes that a restore needs, and those of the plan. It runs on
	// the restored database before that replaces the previous one. It may be nil.
	Amend  func(tx *Tx, plan []Carried) error
	Tables []Checked // the tables to check in the backup
	// Progress receives how much is done. If it returns an error, nothing is restored.
	Progress Progress
	Now      time.Time // the present time; part of the name of the previous database
}

// Carried is something that has happened since a backup and that a restore does again, so
// that the restore does not undo it.
type Carried struct {
	What  string             // a sentence for people
	Apply func(tx *Tx) error // changes the restored database
}

// RestoreStore checks a backup and replaces the database of the data folder with it. It
// keeps the previous database in the same folder under another name. At no moment is
// the folder without a database, even if the process crashes. RestoreStore returns an
// error if the backup is damaged, if it does not fit the folder's pepper or store id,
// or if another process has the folder open.
func RestoreStore(o RestoreOptions) (result RestoreResult, err error) {
	dir := o.Config.Server.Data
	result = RestoreResult{From: o.From, To: storePath(dir)}
	if !o.DryRun || hasStore(dir) {
		open := CreateDataDir
		if o.DryRun {
			open = OpenDataDir
		}
		folder, err := open(dir)
		if err != nil {
			return result, err
		}
		defer func() { err = errors.Join(err, folder.Close()) }()
	}
	file, err := OpenFile(o.From, ReadOnly)
	if err != nil {
		return result, err
	}
	file.Progress = o.Progress
	defer func() { err = errors.Join(err, file.Close()) }()
	result.StoreID, result.CreatedAt = file.Header.StoreID, file.Header.CreatedAt
	peppers, err := PeppersOf(o.Config, o.Pepper).Load(dir)
	if err != nil {
		return result, err
	}
	keys, err := peppers.MACKeys()
	if err != nil {
		return result, err
	}
	if err := file.View(peppers.Match); err != nil {
		return result, err
	}
	if err := o.inspect(file, keys, &result); err != nil {
		return result, err
	}
	mark, err := ReadSmall(markPath(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return result, err
	}
	if id := strings.TrimSpace(string(mark)); id != "" && id != file.Header.StoreID && !o.Other {
		return result, fmt.Errorf("%s is a backup of another store than the one in %s; to restore it anyway, add --other", o.From, dir)
	}
	plan, gone, err := o.compare(file, keys)
	if ended := o.Progress.Report("comparing with the previous database", 0, 0); ended != nil {
		return result, ended
	}
	if err != nil {
		result.NotCarried = err.Error()
	}
	result.Gone = gone
	for _, c := range plan {
		result.Carried = append(result.Carried, c.What)
	}
	if o.DryRun {
		return result, nil
	}
	result.Kept, err = replace(file, dir, o.Now, func(path string) error { return o.amend(path, keys, plan) })
	if err != nil {
		return result, err
	}
	return result, durable.WriteFile(markPath(dir), file.Header.StoreID+"\n")
}

// compare calls o.Plan and o.Gone with the previous database and the backup. It returns nil if there is
// no previous database or if it belongs to another store. It returns an error if the
// previous database cannot be read. keys are those of the Authenticator.
func (o RestoreOptions) compare(backup *File, keys [][]byte) (plan []Carried, gone []string, err error) {
	path := storePath(o.Config.Server.Data)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	previous, err := OpenFile(path, ReadOnly)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, previous.Close()) }()
	if previous.Header.StoreID != backup.Header.StoreID {
		return nil, nil, nil
	}
	previous.Authenticate(keys)
	err = previous.View(func(p *Tx) error {
		return backup.View(func(b *Tx) (err error) {
			if o.Plan != nil {
				plan, err = o.Plan(p, b)
			}
			if err == nil && o.Gone != nil {
				gone, err = o.Gone(p, b)
			}
			return err
		})
	})
	return plan, gone, err
}

// amend migrates the restored database at path and calls o.Amend for it. keys are those of
// the Authenticator.
func (o RestoreOptions) amend(path string, keys [][]byte, plan []Carried) (err error) {
	if o.Amend == nil {
		return nil
	}
	if _, err := Migrate(path, Migrations(), MigrateOptions{Keys: keys, Log: slog.New(slog.DiscardHandler), NoCopy: true, Progress: o.Progress}); err != nil {
		return err
	}
	f, err := OpenFile(path, ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	f.Authenticate(keys)
	return f.Update(func(tx *Tx) error { return o.Amend(tx, plan) })
}

// inspect checks the contents of a backup. It returns an error if the backup is damaged or
// is not authentic. keys are those of the Authenticator. It sets Check and Keys of result.
func (o RestoreOptions) inspect(backup *File, keys [][]byte, result *RestoreResult) error {
	backup.Authenticate(keys)
	return backup.View(func(tx *Tx) (err error) {
		if result.Check, err = CheckStore(tx, fitting(backup, o.Tables)); err != nil {
			return err
		}
		if p := result.Check.Problems; len(p) > 0 {
			return fmt.Errorf("%s is damaged, so it is not restored: %s (%d problems)", o.From, p[0], len(p))
		}
		if err := o.authentic(tx, NewAuthenticator(keys, backup.Header.StoreID)); err != nil {
			return err
		}
		result.Keys, err = KeyTable.Count(tx)
		return err
	})
}

// authentic returns an error if the MAC of a backup is missing or does not match its
// contents, unless o.Unverified is set.
func (o RestoreOptions) authentic(tx *Tx, auth *Authenticator) error {
	if o.Unverified {
		return nil
	}
	seal, err := auth.VerifyBackup(tx)
	switch {
	case err != nil || seal == SealValid:
		return err
	case seal == SealInvalid:
		return fmt.Errorf("%s was changed after it was made: its contents do not match its MAC; restore another backup, or add --unverified if you trust the file", o.From)
	}
	return fmt.Errorf("%s has no MAC, so nothing shows that it was not changed: it was made by an earlier version, or it is a plain copy of a database; to restore it anyway, add --unverified", o.From)
}

// replace replaces the database in the data folder dir with a compacted copy of f. It
// keeps the previous database under another name, which contains the time now. It
// reports to f.Progress. It returns that path, or "" if there was no previous database. Before the copy becomes the
// database, replace calls amend with its path; after an error nothing is replaced.
func replace(f *File, dir string, now time.Time, amend func(path string) error) (kept string, err error) {
	path := storePath(dir)
	fresh := path + ".restored"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := f.Rewrite(fresh); err != nil {
		return "", err
	}
	// From here on nothing is undone, so this is the last time at which the work can be ended.
	err = amend(fresh)
	if err == nil {
		err = f.Progress.Report("replacing the database", 0, 0)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(fresh))
	}
	if _, err := os.Stat(path); err == nil {
		kept = path + ".before-" + now.UTC().Format(BackupTime)
		// Use a second link. After a rename there would be no database for a moment.
		err := os.Link(path, kept)
		for n := 2; errors.Is(err, os.ErrExist); n++ {
			kept = fmt.Sprintf("%s.before-%s-%d", path, now.UTC().Format(BackupTime), n)
			err = os.Link(path, kept)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("keep the previous database: %w", err), os.Remove(fresh))
		}
	}
	return kept, errors.Join(os.Rename(fresh, path), durable.SyncDir(dir))
}

// fitting returns the tables that can be checked in f: all of tables, or nil if f has an
// older format than this program writes.
func fitting(f *File, tables []Checked) []Checked {
	if f.Current() {
		return tables
	}
	return nil
}

// CheckFile checks the pages and records of the database at path, tables in it and the
// MAC of a backup. load returns the peppers. Without the right pepper CheckFile verifies
// no MAC and sets NotVerified. It returns an error if the file cannot be opened, for
// example because a server has it open, or if progress returns one.
func CheckFile(path string, tables []Checked, load func() (Peppers, error), progress Progress) (result CheckResult, err error) {
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		return result, err
	}
	f.Progress = progress
	defer func() { err = errors.Join(err, f.Close()) }()
	result.NotVerified, err = f.unverified(load)
	if err != nil {
		return result, err
	}
	why := result.NotVerified
	err = f.View(func(tx *Tx) (err error) {
		if result, err = CheckStore(tx, fitting(f, tables)); err != nil || f.Backup == nil || len(result.Problems) > 0 {
			return err
		}
		seal, err := f.Backup.VerifyBackup(tx)
		switch seal {
		case SealInvalid:
			result.Problems = append(result.Problems, "the contents do not match the MAC of the backup: the file was changed after it was made")
		case SealValid:
			why = "" // also if the records have no MACs
		}
		return err
	})
	result.NotVerified = why
	return result, err
}

// RepairFolder makes what the tables derive from their records in the database in the data folder dir
// anew, see Checked.Repair, and then checks the database as CheckFile does. load returns the peppers.
// Without the right pepper RepairFolder verifies no MAC. It returns an error and changes nothing if
// the folder does not exist, if another process has it open, if the database has an earlier format,
// or if a page or a record is damaged.
func RepairFolder(dir string, tables []Checked, load func() (Peppers, error), progress Progress) (result CheckResult, err error) {
	if _, err := os.Stat(dir); err != nil {
		return result, fmt.Errorf("there is no data folder to repair: %w; set its path with --data", err)
	}
	folder, err := OpenDataDir(dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	f, err := OpenFile(storePath(dir), ReadWrite)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if !f.Current() {
		return result, fmt.Errorf("the database has format %d of an earlier version; start the server, which migrates it and makes the lists", f.Header.Format)
	}
	f.Progress = progress
	why, err := f.unverified(load)
	if err != nil {
		return result, err
	}
	if err := f.Repair(tables); err != nil {
		return result, fmt.Errorf("%w; the database has not been changed", err)
	}
	err = f.View(func(tx *Tx) error {
		result, err = CheckStore(tx, tables)
		return err
	})
	result.NotVerified = why
	return result, err
}

// unverified authenticates the file with the peppers that load returns. It returns why the
// MACs of the file cannot be verified, or "" if they can.
func (f *File) unverified(load func() (Peppers, error)) (why string, err error) {
	peppers, err := load()
	if err == nil {
		err = f.View(peppers.Match)
	}
	if err != nil {
		return err.Error(), nil
	}
	keys, err := peppers.MACKeys()
	if f.Authenticate(keys); f.Auth == nil {
		why = "an earlier version wrote this file, without MACs"
	}
	return why, err
}

// ViewFolder calls run with a read transaction of the database in the data folder dir. load returns the
// peppers. It returns an error if a server has the folder open, and does not call run if there is no
// database yet, or one of an earlier format.
func ViewFolder(dir string, load func() (Peppers, error), run func(*Tx) error) (err error) {
	if !hasStore(dir) {
		return nil
	}
	f, err := OpenFile(storePath(dir), ReadOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	why, err := f.unverified(load)
	if err != nil || !f.Current() {
		return err
	}
	if why != "" {
		return errors.New(why)
	}
	return f.View(run)
}

// CompactStore rewrites the database in the data folder dir without its free pages. It
// returns the size of the file before and after, in bytes. It returns an error if the
// folder does not exist or another process has it open. now is part of the name of a
// temporary file. If progress returns an error, the database is not changed.
func CompactStore(dir string, now time.Time, progress Progress) (before, after int64, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, 0, fmt.Errorf("there is no data folder to compact: %w; set its path with --data", err)
	}
	folder, err := OpenDataDir(dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	path := storePath(dir)
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		return 0, 0, err
	}
	f.Progress = progress
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, errors.Join(err, f.Close())
	}
	before = info.Size()
	kept, err := replace(f, dir, now, func(string) error { return nil })
	if err := errors.Join(err, f.Close()); err != nil {
		return before, 0, err
	}
	if info, err = os.Stat(path); err != nil {
		return before, 0, err
	}
	// Remove the old file. All its records are in the new file, and its free pages
	// still contain deleted secrets.
	return before, info.Size(), os.Remove(kept)
}
