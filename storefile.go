package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// storeFormat is the number of the layout this program writes, and the newest
// that it reads.
const storeFormat = 1

// Header is the record that says what kind of file this is.
type Header struct {
	Format    int       `json:"format"`
	StoreID   string    `json:"store_id"`
	ByteOrder string    `json:"byte_order"`
	CreatedAt time.Time `json:"created_at"`
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
	h := Header{Format: storeFormat, StoreID: id, ByteOrder: nativeOrder(), CreatedAt: now.UTC()}
	err = db.Update(func(b *bbolt.Tx) error {
		value, err := json.Marshal(h)
		if err != nil {
			return err
		}
		return (&Tx{Bolt: b}).Put("meta", []byte("header"), value)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create store %s: %w", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// OpenFile opens an existing database file and reads its header. An empty,
// missing, damaged or foreign file is an error. With readOnly nothing of it is
// changed, and several may read it.
func OpenFile(path string, readOnly bool) (*bbolt.DB, Header, error) {
	var h Header
	info, err := os.Stat(path)
	if err != nil {
		return nil, h, fmt.Errorf("open store: %w; restore a backup to this place", err)
	}
	if info.Size() < int64(2*os.Getpagesize()) {
		return nil, h, fmt.Errorf("open store %s: the file has %d bytes, too few to be a store; restore a backup to this place", path, info.Size())
	}
	opts := &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true, ReadOnly: readOnly}
	if runtime.GOOS == "linux" && is64 && !readOnly {
		opts.InitialMmapSize = 256 << 20 // growing past the map stalls all readers
	}
	db, err := openChecked(path, opts)
	if err != nil {
		return nil, h, err
	}
	if h, err = readHeader(db); err != nil {
		return nil, h, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return db, h, nil
}

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
	db, err = bbolt.Open(path, 0o600, opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process holds the file", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("open store %s: the file is damaged or no store (%w); restore a backup to this place", path, err)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// readHeader checks that this program can read the file.
func readHeader(db *bbolt.DB) (h Header, err error) {
	err = db.View(func(b *bbolt.Tx) error {
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
		if h.Format > storeFormat {
			return fmt.Errorf("format %d is newer than %d, the newest this program reads; run the newer program", h.Format, storeFormat)
		}
		return nil
	})
	return h, err
}

func nativeOrder() string {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return "big"
	}
	return "little"
}

// SyncDir makes a rename in a folder last over a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && runtime.GOOS != "windows" {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
