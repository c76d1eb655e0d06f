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

// storeFormat is the number of the layout this program writes, and the newest
// that it reads.
const storeFormat = 1

// header is the record that says what kind of file this is.
type header struct {
	Format    int       `json:"format"`
	MinReader int       `json:"min_reader"` // a program reads the file if it knows this format; 0 stands for Format
	Writer    string    `json:"writer"`     // the version of the program that made this format of it
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

// CreateStore makes a new, empty database file with the given id. It fails
// where a file of that name exists. A crash in between leaves no file of that
// name: it is made under another one, synced and renamed.
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
	DB     *bbolt.DB // for Store alone
	Handle *os.File  // that of DB, closed with it; for Store alone
	path   string
	info   os.FileInfo // of the file that is open, whatever its name leads to by now
}

// OpenFile opens an existing database file and reads its header. An empty,
// missing, damaged or foreign file is an error. With readOnly nothing of it is
// changed, and several may read it.
func OpenFile(path string, readOnly bool) (*File, error) {
	return openFormat(path, readOnly, storeFormat)
}

// openFormat is OpenFile for a program that knows the formats up to newest.
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
		opts.InitialMmapSize = 256 << 20 // growing past the map stalls all readers
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

// InPlace says whether the open file is still the one that its path leads to.
// What is written to another one is lost with the process. It fails only where
// that is certain.
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

// Update runs a function that changes the file, in one transaction that is on
// disk when it returns, whole or not at all.
func (f *File) Update(run func(*Tx) error) error {
	return undamaged(f.path, func() error { return f.DB.Update(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b}) }) })
}

// View runs a function on the file's contents. Nothing of the transaction may
// be used after it returns.
func (f *File) View(run func(*Tx) error) error {
	return undamaged(f.path, func() error { return f.DB.View(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b, File: f.Handle}) }) })
}

// undamaged makes an error of what a damaged page or index entry of the file at a
// path panics with: only the pages that are read are looked at.
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

// Current says whether the file has the format of today, which the tables are
// of. An earlier one is checked without them, and migrated at the next start.
func (f *File) Current() bool { return f.Header.Format >= storeFormat }

// CopyTo is Compact of the file.
func (f *File) CopyTo(path string) error { return compact(f.DB, path) }

// Close lets go of the file.
func (f *File) Close() error { return f.DB.Close() }

// is64 says that there is address space to spare.
const is64 = ^uint(0)>>63 == 1

// openChecked turns what bbolt says, or panics with, on a damaged file into
// one clear error.
func openChecked(path string, opts *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open store %s: the file is damaged (%v); restore a backup to this place", path, p)
		}
	}()
	// A page past the end of a file that was cut short is a fault of memory.
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

// readHeader checks that a program that knows the formats up to newest can read
// the file, which has a size.
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

// swapped says whether a file begins as a database does that was written with
// the other byte order: bbolt's mark stands behind the 16 bytes of a page.
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

// compactBatch is how many bytes one transaction of a compaction holds.
const compactBatch = 4 << 20

// compact writes what a database holds at this moment into a new file, without
// the free pages, in which deleted records go on to stand. It fails where a
// file of that name exists. The file is on disk when it returns; on an error
// there is none.
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

// transfer copies what a database holds, in transactions of compactBatch bytes.
func transfer(to, from *bbolt.DB) error {
	// What is put is not copied before it is committed, and pages that nobody
	// reads are written over: so the reading goes on to the end of the last
	// commit. That of bbolt.Compact does not, which is only for a database that
	// nobody changes meanwhile.
	return undamaged(from.Path(), func() error {
		return from.View(func(source *bbolt.Tx) error { return pour(to, source) })
	})
}

// pour is transfer out of one transaction. Buckets stand in no others.
func pour(to *bbolt.DB, source *bbolt.Tx) error {
	into, err := to.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = into.Rollback() }() // of what was committed nothing
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
			b.FillPercent = 1 // no more comes between them
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

// ReadSmall reads a small file, and fails where the path leads to something
// else: to open a pipe would wait for a writer for ever.
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

// migration takes a store from one format to the next. It reads and writes records
// as they are in these two formats, so it uses no table: those are of today,
// and the step has to go on meaning the same.
type migration struct {
	What string // told in the log, such as "calls know their team"
	// MinReader is the oldest format whose programs can still read the result,
	// 0 for none but the new one's.
	MinReader int
	// Run changes the records. The header changes with it, in one transaction.
	Run func(tx *Tx) error
}

// Migrations are the changes of the format up to now: the first one leads from
// format 1 to format 2. There was none yet.
func Migrations() []migration { return nil }

// Migrate brings the database in a file from an earlier format to the one that
// the last of the steps leads to, and says where the copy is that it made
// before, "" where nothing was to be done. A step happens whole or not at all:
// whenever the process ends, the next call goes on from there. After an error
// of the first step there is no copy, and the file is as it was. fits, which may
// be nil, is asked first whether this is the right file. The process must hold
// the folder.
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

// step makes one change, and the header that goes with it.
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

// copyName is the same for one store and format, so that a start that fails
// again and again does not fill the disk. What it replaces is an earlier state
// of that store in that format.
func copyName(path string, h header) string {
	id := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1 // what a foreign file says may be no part of a path
	}, h.StoreID)
	return fmt.Sprintf("%s.format-%d-%s", path, h.Format, id[:min(8, len(id))])
}

// keepCopy makes a compacted copy, which has its name only when it is whole
// and on disk.
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
