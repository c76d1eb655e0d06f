package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"latchkey/internal/cluster"
	"latchkey/internal/durable"
)

// StoreFormat is the number of the database format that this program writes. It is
// also the newest format that the program can read.
const StoreFormat = 4

// header is the record that identifies a database file and its format.
type header struct {
	Format    int       `json:"format"`     // number of the format of the records
	MinReader int       `json:"min_reader"` // a program can read the file if its StoreFormat is at least this; 0 means Format
	Writer    string    `json:"writer"`     // version of the program that created or last migrated the file
	StoreID   string    `json:"store_id"`   // id of the store; copies and backups have the same id
	ByteOrder string    `json:"byte_order"` // byte order of the machine that created the file: "big" or "little"
	CreatedAt time.Time `json:"created_at"` // when the store was created, in UTC
}

// Put writes the header to the database of tx.
func (h header) Put(tx *Tx) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Put("meta", []byte("header"), value)
}

// CreateStore creates an empty database file at path with the given store id. It
// returns an error if path already exists. It writes the file as path + ".new" and
// renames it once it is on disk, so a crash leaves no partial file at path.
func CreateStore(path, id string, now time.Time) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create store %s: the file exists already", path)
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("create store: %w", err)
	}
	db, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: time.Second, OpenFile: durable.OpenFile})
	if err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	h := header{Format: StoreFormat, MinReader: StoreFormat, Writer: ProgramVersion(), StoreID: id, ByteOrder: nativeOrder(), CreatedAt: now.UTC()}
	err = db.Update(func(b *bbolt.Tx) error { return h.Put(&Tx{Bolt: b}) })
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// File is an open database file. Its methods are safe for concurrent use.
type File struct {
	Header header
	DB     *bbolt.DB      // for use by Store only
	Handle *os.File       // the open file of DB; DB closes it; for use by Store only
	Auth   *Authenticator // signs and verifies the records; nil: no MAC is verified
	Backup *Authenticator // verifies the MAC of a backup; nil: it is not verified
	// Progress receives how much of a copy is done, and is the Progress of the transactions of
	// View. nil: nobody wants to know.
	Progress Progress
	path     string
	info     os.FileInfo // describes the open file; another file may be at path by now
}

// Access determines whether an open database file can be changed.
type Access int

const (
	ReadOnly  Access = iota // no changes; several processes can have the file open
	ReadWrite               // one process can have the file open
)

// OpenFile opens an existing database file and reads its header. It returns an error
// if the file is missing, empty, damaged or not a database of this program.
func OpenFile(path string, access Access) (*File, error) {
	return openFormat(path, access, StoreFormat)
}

// openFormat is like OpenFile, for a program whose newest readable format is newest.
func openFormat(path string, access Access, newest int) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w; restore a backup to this path", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open store %s: this is not a regular file (%s); restore a backup to this path", path, info.Mode().Type())
	}
	if info.Size() < int64(2*os.Getpagesize()) {
		return nil, fmt.Errorf("open store %s: the file has %d bytes, too few for a database; restore a backup to this path", path, info.Size())
	}
	opts := &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true, ReadOnly: access == ReadOnly}
	if runtime.GOOS == "linux" && is64 && access == ReadWrite {
		opts.InitialMmapSize = 256 << 20 // a large mapping, because each enlargement blocks all readers for a moment
	}
	f := &File{path: path, info: info}
	opts.OpenFile = func(name string, flag int, mode os.FileMode) (opened *os.File, err error) {
		if opened, err = os.OpenFile(name, flag&^os.O_CREATE, mode); err == nil {
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
	if err == nil && access == ReadWrite {
		err = f.dropRebuilt()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), f.DB.Close())
	}
	return f, nil
}

// InPlace returns an error if the open file was moved, removed or replaced. Data that is
// written to such a file is lost when the process ends. InPlace ignores other errors of
// the check, because they do not prove that the file is gone.
func (f *File) InPlace() error {
	now, err := os.Stat(f.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s was moved or removed while it was in use; put it back or restore a backup, then start latchkey again", f.path)
	case err == nil && !os.SameFile(now, f.info):
		return fmt.Errorf("%s was replaced while it was in use; put the right file there, then start latchkey again", f.path)
	}
	return nil
}

// Update calls run in one transaction and commits its changes. If it returns nil, the
// changes are on disk. If run or the commit fails, it returns the error and the file
// keeps its previous contents.
func (f *File) Update(run func(*Tx) error) error {
	return undamaged(f.path, func() error {
		return f.DB.Update(func(b *bbolt.Tx) error {
			tx := &Tx{Bolt: b, Auth: f.Auth, Progress: f.Progress}
			if err := counting(Writer{}, run)(tx); err != nil {
				return err
			}
			return tx.flushChunks()
		})
	})
}

// View calls run with a read transaction and returns its error. It returns an error
// that names the damage if a page or index entry is damaged. Do not use the transaction
// after run returns.
func (f *File) View(run func(*Tx) error) error {
	return undamaged(f.path, func() error {
		return f.DB.View(func(b *bbolt.Tx) error { return run(&Tx{Bolt: b, File: f.Handle, Auth: f.Auth, Progress: f.Progress}) })
	})
}

// undamaged calls run and returns its error. bbolt panics when it reads a damaged page.
// So if run panics, for whatever reason, undamaged returns an error that calls the file
// at path damaged.
func undamaged(path string, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d, ok := p.(damage)
			if err = d.Err; !ok {
				err = fmt.Errorf("%s is damaged (%v); restore a backup", path, p)
			}
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // see openChecked
	return run()
}

// Authenticate sets the keys under which the records of the file are verified and its
// copies are signed, see NewAuthenticator. The records of format 1 are not signed, but
// a backup of it can be.
func (f *File) Authenticate(keys [][]byte) {
	f.Backup = NewAuthenticator(keys, f.Header.StoreID)
	if f.Header.Format >= 2 {
		f.Auth = f.Backup
	}
}

// Current reports whether the file has the format that this program writes, or a newer
// one. If it has an older format, its records cannot be read through a Table. The
// server migrates such a file when it starts.
func (f *File) Current() bool { return f.Header.Format >= StoreFormat }

// CopyTo writes a compacted copy of the file to path and returns once the copy is on
// disk. The copy has a MAC if f has an Authenticator. CopyTo returns an error if path
// already exists.
func (f *File) CopyTo(path string) error { return compact(f.DB, path, f.Auth, f.Progress) }

// Rewrite is like CopyTo, for a copy that becomes a database in use: it has no MAC,
// because its contents will change.
func (f *File) Rewrite(path string) error { return compact(f.DB, path, nil, f.Progress) }

// EachShared calls put for each record that the nodes of a cluster share, in the order of cluster.Engine.Load. It reports
// to f.Progress. The memory of a Write is valid only during the call.
func EachShared(f *File, put func(cluster.Write) error) error {
	return f.View(func(tx *Tx) error {
		total, done := int64(0), int64(0)
		for range sharedRecords(tx) {
			total++
		}
		for at, value := range sharedRecords(tx) {
			if err := put(cluster.Write{Bucket: at.bucket, Key: []byte(at.key), Value: value}); err != nil {
				return err
			}
			done++
			if err := f.Progress.Report("storing the records in the cluster", done, total); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close closes the file. It waits for open transactions to end.
func (f *File) Close() error { return f.DB.Close() }

// is64 is true if the program has 64-bit addresses, so that it can map large files into
// memory.
const is64 = ^uint(0)>>63 == 1

// openChecked opens a database with bbolt. If the file is damaged, in use or not a
// database, it returns an error that says so. It also recovers panics of bbolt about
// damage and returns them as errors.
func openChecked(path string, opts *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open store %s: the file is damaged (%v); restore a backup to this path", path, p)
		}
	}()
	// Reading a page beyond the end of a truncated file is a memory fault. This
	// setting makes the fault a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bbolt.Open(path, 0o600, opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process has the file open; stop that process first", path)
	case errors.Is(err, bolterrors.ErrInvalid) && swapped(path):
		return nil, fmt.Errorf("open store %s: it was written on a machine with the opposite byte order and can be opened only on such a machine", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("open store %s: the file is damaged or not a database of latchkey (%w); restore a backup to this path", path, err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// readHeader reads the header of a database. size is the length of the file in bytes;
// newest is the newest format that the program can read. It returns an error if the
// file is truncated, has no header or has a format that the program cannot read.
func readHeader(db *bbolt.DB, size int64, newest int) (h header, err error) {
	err = db.View(func(b *bbolt.Tx) error {
		if b.Size() > size {
			return fmt.Errorf("the file is truncated: it has %d bytes of %d; restore a backup to this path", size, b.Size())
		}
		value, err := (&Tx{Bolt: b}).Get("meta", []byte("header"))
		if err != nil {
			return err
		}
		if value == nil {
			return errors.New("the file has no header record, so it is not a database of latchkey; restore a backup to this path")
		}
		if err := json.Unmarshal(value, &h); err != nil {
			return fmt.Errorf("header record: %w", err)
		}
		if h.MinReader == 0 {
			h.MinReader = h.Format
		}
		if h.MinReader > newest {
			return fmt.Errorf("its format %d was written by latchkey %s and needs a program that reads format %d; this is latchkey %s, which reads up to format %d. "+
				"Run latchkey %[2]s or a later one, or restore a backup from before that upgrade; the file has not been changed",
				h.Format, writer(h), h.MinReader, ProgramVersion(), newest)
		}
		return nil
	})
	return h, err
}

// writer returns the version of the program that wrote a header, for an error message.
func writer(h header) string {
	if h.Writer == "" {
		return "of a later version"
	}
	return h.Writer
}

// swapped reports whether a file is a database that was written on a machine with the
// opposite byte order. It checks bbolt's magic number, which follows the page header of
// 16 bytes.
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

// compactBatch is the largest size of one transaction of a compaction, in bytes of keys
// and values. A single larger record is a transaction of its own.
const compactBatch = 4 << 20

// compact writes the current contents of a database to a new file at path. It leaves
// out the free pages, which still contain deleted records. It returns an error if path
// already exists. If auth is not nil, the new file is a backup and gets a MAC. compact
// returns nil once the new file is on disk, and removes the file after an error, such as
// that of progress.
func compact(from *bbolt.DB, path string, auth *Authenticator, progress Progress) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("write %s: the file exists already; remove it or choose another path", path)
	}
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoSync: true, OpenFile: durable.OpenFile})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = transfer(to, from, progress)
	if err == nil && auth != nil {
		err = auth.signBackup(to, progress)
	}
	if err := errors.Join(err, to.Sync(), to.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// transfer copies the contents of one database to another. It reads them all in one
// transaction, so that they are consistent.
func transfer(to, from *bbolt.DB, progress Progress) error {
	// Put does not copy the value: bbolt reads it at the commit. bbolt may reuse the
	// pages that hold the value once no transaction reads them. So the read transaction
	// must stay open until the last commit. bbolt.Compact closes it earlier, so it can
	// be used only if nobody changes the database.
	return undamaged(from.Path(), func() error {
		return from.View(func(source *bbolt.Tx) error { return copyBuckets(to, source, progress) })
	})
}

// copyBuckets copies all buckets that source sees, in transactions of compactBatch
// bytes. It leaves out rebuildBucket and localBucket; the store has no other nested buckets.
func copyBuckets(to *bbolt.DB, source *bbolt.Tx, progress Progress) error {
	copied := newCounter(progress, source, "copying records")
	into, err := to.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = into.Rollback() }() // no effect after a commit
	size := 0
	err = source.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		if string(name) == rebuildBucket || string(name) == localBucket {
			return nil
		}
		made, err := into.CreateBucket(name)
		if err == nil {
			err = made.SetSequence(bucket.Sequence())
		}
		if err != nil {
			return err
		}
		return bucket.ForEach(func(key, value []byte) error {
			if err := copied.next(); err != nil {
				return err
			}
			if string(name) == "meta" && bytes.Equal(key, sealKey) {
				return nil // the MAC of a backup is not part of its contents
			}
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
			b.FillPercent = 1 // fill the pages: the keys are in order, so no page is split later
			return b.Put(key, value)
		})
	})
	if err != nil {
		return err
	}
	return into.Commit()
}

// nativeOrder returns the byte order of this machine, "big" or "little".
func nativeOrder() string {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return "big"
	}
	return "little"
}

// ReadSmall returns the contents of a small file. It returns an error if path is not a
// regular file, because opening a pipe could block forever.
func ReadSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s)", path, info.Mode().Type())
	}
	return os.ReadFile(path)
}
