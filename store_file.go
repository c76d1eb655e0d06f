package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/durable"
)

// storeFormat is the number of the layout that this program writes, and the
// newest one that it reads.
const storeFormat = 1

// header is the record that identifies the file and its format.
type header struct {
	Format    int       `json:"format"`
	MinReader int       `json:"min_reader"` // oldest format whose programs can read the file; 0 means Format
	Writer    string    `json:"writer"`     // version of the program that brought the file to this format
	StoreID   string    `json:"store_id"`
	ByteOrder string    `json:"byte_order"`
	CreatedAt time.Time `json:"created_at"`
}

// Put stores the header.
func (h header) Put(tx *Tx) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Put("meta", []byte("header"), value)
}

// CreateStore creates an empty database file with this id. It fails if path
// exists. It writes path.new, syncs it and renames it, so a crash leaves no
// partial file at path.
func CreateStore(path, id string, now time.Time) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create store %s: the file exists", path)
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("create store: %w", err)
	}
	db, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	h := header{Format: storeFormat, MinReader: storeFormat, Writer: ProgramVersion(), StoreID: id, ByteOrder: nativeOrder(), CreatedAt: now.UTC()}
	err = db.Update(func(b *bbolt.Tx) error { return h.Put(&Tx{Bolt: b}) })
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// File is an open database file.
type File struct {
	Header header
	DB     *bbolt.DB // only for Store
	Handle *os.File  // the file of DB, which closes it; only for Store
	path   string
	info   os.FileInfo // of the open file, which path may no longer lead to
}

// OpenFile opens an existing database file and reads its header. A missing,
// empty, damaged or foreign file is an error. With readOnly it changes nothing
// in the file, and several processes can read it.
func OpenFile(path string, readOnly bool) (*File, error) {
	return openFormat(path, readOnly, storeFormat)
}

// openFormat is OpenFile for a program that reads formats up to newest.
func openFormat(path string, readOnly bool, newest int) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w; restore a backup to this place", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open store %s: this is no regular file (%s); restore a backup to this place", path, info.Mode().Type())
	}
	if info.Size() < int64(2*os.Getpagesize()) {
		return nil, fmt.Errorf("open store %s: the file has %d bytes, too few to be a store; restore a backup to this place", path, info.Size())
	}
	opts := &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true, ReadOnly: readOnly}
	if runtime.GOOS == "linux" && is64 && !readOnly {
		opts.InitialMmapSize = 256 << 20 // a file that outgrows its mapping stalls all readers
	}
	f := &File{path: path, info: info}
	opts.OpenFile = func(name string, flag int, mode os.FileMode) (opened *os.File, err error) {
		if opened, err = os.OpenFile(name, flag, mode); err == nil {
			f.Handle = opened
			f.info, err = opened.Stat()
		}
		return opened, err
	}
	if f.DB, err = openChecked(path, opts); err != nil {
		return nil, err
	}
	err = undamaged(f.path, func() (err error) {
		f.Header, err = readHeader(f.DB, info.Size(), newest)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), f.DB.Close())
	}
	return f, nil
}

// InPlace returns an error if path no longer leads to the open file: what is
// written to a moved or removed file is lost when the process ends. Other
// errors of the look-up are ignored, because they prove nothing.
func (f *File) InPlace() error {
	now, err := os.Stat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s was moved or removed while it was in use; put it back, or restore a backup, and start again", f.path)
	case err == nil && !os.SameFile(now, f.info):
		return fmt.Errorf("%s was replaced while it was in use; see that the right file is there and start again", f.path)
	}
	return nil
}

// Update calls run in one transaction. When it returns, the changes of run are
// on disk, or, with an error, none of them is.
func (f *File) Update(run func(*Tx) error) error {
	return undamaged(f.path, func() error { return f.DB.Update(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b}) }) })
}

// View calls run with the contents of the file. Nothing of the transaction may
// be used after View returns.
func (f *File) View(run func(*Tx) error) error {
	return undamaged(f.path, func() error { return f.DB.View(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b, File: f.Handle}) }) })
}

// undamaged calls run and returns an error if run panics because a page or
// index entry of the file at path is damaged. bbolt checks a page only when it
// reads it. Any other panic becomes such an error too.
func undamaged(path string, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d, ok := p.(damage)
			if err = d.Err; !ok {
				err = fmt.Errorf("%s is damaged (%v); restore a backup", path, p)
			}
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // as in openChecked
	return run()
}

// Current reports whether the format of the file is at least the one that this
// program writes. The tables can be read only then. A file in an older format is
// checked without the tables and is migrated at the next start.
func (f *File) Current() bool { return f.Header.Format >= storeFormat }

// CopyTo writes a compacted copy of the file to path, which must not exist.
func (f *File) CopyTo(path string) error { return compact(f.DB, path) }

// Close closes the file.
func (f *File) Close() error { return f.DB.Close() }

// is64 is true if the address space is large enough for a large mapping.
const is64 = ^uint(0)>>63 == 1

// openChecked opens a database and turns every error or panic of bbolt about a
// damaged file into one clear error.
func openChecked(path string, opts *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open store %s: the file is damaged (%v); restore a backup to this place", path, p)
		}
	}()
	// A page past the end of a truncated file is a memory fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bbolt.Open(path, 0o600, opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process holds the file", path)
	case errors.Is(err, bolterrors.ErrInvalid) && swapped(path):
		return nil, fmt.Errorf("open store %s: it was written on a machine with the other byte order and opens only on such a one", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("open store %s: the file is damaged or no store (%w); restore a backup to this place", path, err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// readHeader returns the header, after it has checked that the file is complete
// and that a program that reads formats up to newest can read it. size is the
// length of the file in bytes.
func readHeader(db *bbolt.DB, size int64, newest int) (h header, err error) {
	err = db.View(func(b *bbolt.Tx) error {
		if b.Size() > size {
			return fmt.Errorf("the file is cut short: it has %d bytes of %d; restore a backup to this place", size, b.Size())
		}
		value, err := (&Tx{Bolt: b}).Get("meta", []byte("header"))
		if err != nil {
			return err
		}
		if value == nil {
			return errors.New("the file has no header record, it is not a store of this program")
		}
		if err := json.Unmarshal(value, &h); err != nil {
			return fmt.Errorf("header record: %w", err)
		}
		if h.MinReader == 0 {
			h.MinReader = h.Format
		}
		if h.MinReader > newest {
			return fmt.Errorf("its format %d was written by latchkey %s and needs a program that reads format %d; this is latchkey %s, which reads up to format %d. "+
				"Run latchkey %[2]s or a later one, or restore a backup from before that upgrade; the file is as it was",
				h.Format, writer(h), h.MinReader, ProgramVersion(), newest)
		}
		return nil
	})
	return h, err
}

func writer(h header) string {
	if h.Writer == "" {
		return "of a later version"
	}
	return h.Writer
}

// swapped reports whether a file begins like a database written with the other
// byte order. bbolt's magic number follows the 16 bytes of the page header.
func swapped(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [20]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false
	}
	const mark = 0xED0CDAED
	return bits.ReverseBytes32(binary.NativeEndian.Uint32(head[16:])) == mark
}

// compactBatch is the most bytes in one transaction of a compaction.
const compactBatch = 4 << 20

// compact writes the current contents of a database to a new file, without the
// free pages, which still hold deleted records. It fails if path exists. The
// file is on disk when compact returns; after an error there is none.
func compact(from *bbolt.DB, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("write %s: the file exists", path)
	}
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoSync: true})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(transfer(to, from), to.Sync(), to.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// transfer copies the contents of a database in transactions of compactBatch
// bytes.
func transfer(to, from *bbolt.DB) error {
	// bbolt does not copy a value before the commit, and it overwrites pages
	// that no transaction reads. So the read transaction must stay open until
	// the last commit. bbolt.Compact closes it before; it is only for a
	// database that nobody changes.
	return undamaged(from.Path(), func() error {
		return from.View(func(source *bbolt.Tx) error { return pour(to, source) })
	})
}

// pour copies everything that source sees. The store has no nested buckets.
func pour(to *bbolt.DB, source *bbolt.Tx) error {
	into, err := to.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = into.Rollback() }() // no effect after a commit
	size := 0
	err = source.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		made, err := into.CreateBucket(name)
		if err == nil {
			err = made.SetSequence(bucket.Sequence())
		}
		if err != nil {
			return err
		}
		return bucket.ForEach(func(key, value []byte) error {
			if size += len(key) + len(value); size > compactBatch {
				if err := into.Commit(); err != nil {
					return err
				}
				next, err := to.Begin(true)
				if err != nil {
					return err
				}
				into, size = next, 0
			}
			b := into.Bucket(name)
			b.FillPercent = 1 // keys arrive in order, so full pages are never split
			return b.Put(key, value)
		})
	})
	if err != nil {
		return err
	}
	return into.Commit()
}

func nativeOrder() string {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return "big"
	}
	return "little"
}

// ReadSmall returns the contents of a small file. It fails if path is not a
// regular file, because opening a pipe could block forever.
func ReadSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (%s)", path, info.Mode().Type())
	}
	return os.ReadFile(path)
}

// migration changes a store from one format to the next. It reads and writes
// the records as they are in those two formats. It uses no Table, because
// tables change with the program and a migration must not.
type migration struct {
	What string // for the log, such as "calls know their team"
	// MinReader is the oldest format whose programs can still read the result.
	// 0 means the new format.
	MinReader int
	// Run changes the records, in the same transaction as the header.
	Run func(tx *Tx) error
}

// Migrations returns all migrations in order. The first one leads from format 1
// to format 2; there are none yet.
func Migrations() []migration { return nil }

// Migrate changes the database file at path to the format that the last step
// leads to. Before that it copies the file and returns the path of the copy, ""
// if there was nothing to do. Each step is one transaction; after a crash the
// next call continues with the next step. If the first step fails, the file is
// unchanged and the copy is removed. fits may be nil; an error from it ends
// Migrate before anything changes. The process must hold the lock on the data
// folder.
func Migrate(path string, steps []migration, fits func(*File) error, log *slog.Logger) (kept string, err error) {
	to := 1 + len(steps)
	f, err := openFormat(path, false, to)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	from := f.Header.Format
	if from >= to {
		return "", nil
	}
	if from < 1 {
		return "", fmt.Errorf("open store %s: the header says format %d, there is none; restore a backup to this place", path, from)
	}
	if fits != nil {
		if err := fits(f); err != nil {
			return "", err
		}
	}
	kept = copyName(path, f.Header)
	log.Warn("the database has an earlier format, it is copied before it is changed", "format", from, "new_format", to, "copy", kept)
	if err := keepCopy(f, kept); err != nil {
		return "", fmt.Errorf("copy the database before its format is changed (free some space, it is as it was): %w", err)
	}
	log.Warn("the copy is made", "copy", kept)
	for n := from; n < to; n++ {
		if err := f.step(steps[n-1]); err != nil {
			err = fmt.Errorf("change the database from format %d to %d (%s): %w", n, n+1, steps[n-1].What, err)
			if n == from {
				return "", errors.Join(err, os.Remove(kept))
			}
			return kept, fmt.Errorf("%w; it has format %d now, the copy of before is %s", err, n, kept)
		}
		log.Warn("the database has a new format", "format", n+1, "what", steps[n-1].What, "copy", kept)
	}
	return kept, nil
}

// step runs one migration and stores the new header in the same transaction.
func (f *File) step(s migration) error {
	h := f.Header
	h.Format++
	h.MinReader, h.Writer = s.MinReader, ProgramVersion()
	if h.MinReader == 0 {
		h.MinReader = h.Format
	}
	err := f.Update(func(tx *Tx) error {
		if err := s.Run(tx); err != nil {
			return err
		}
		return h.Put(tx)
	})
	if err == nil {
		f.Header = h
	}
	return err
}

// copyName returns the path of the copy of a store in a format. The path is
// always the same, so that repeated failed starts do not fill the disk. A file
// that it replaces is an earlier state of the same store in the same format.
func copyName(path string, h header) string {
	id := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1 // the id of a foreign file could otherwise change the path
	}, h.StoreID)
	return fmt.Sprintf("%s.format-%d-%s", path, h.Format, id[:min(8, len(id))])
}

// keepCopy writes a compacted copy to path. The copy gets this name only once
// it is complete and on disk.
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
