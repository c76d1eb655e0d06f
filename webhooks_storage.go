package main

import (
	"errors"
	"log/slog"
	"sync"
	"time"
)

// DiskSpace is the space of the file system with the data folder, in bytes.
type DiskSpace struct {
	Free     int64 // that the program can still use; -1 if not known
	Size     int64 // of the whole file system
	Promised int64 // part of Free that the database file will need, although it has its full length already
}

// Mark returns the free bytes below which keys can store nothing new, or 0 if there is no such mark.
func (d DiskSpace) Mark(b Bounds) int64 {
	return min(b.FreeDiskBytes, d.Size/100*int64(b.FreeDiskPercent))
}

// left returns the bytes that are free for more than what the database file needs already, 0 if there are fewer than
// that.
func (d DiskSpace) left() int64 { return max(0, d.Free-d.Promised) }

// diskState says how much disk space is free.
type diskState int

const (
	diskEnough diskState = iota
	diskScarce           // less than twice DiskSpace.Mark: the operator is warned
	diskLow              // less than DiskSpace.Mark: keys can store nothing new
)

// state returns the state of d, if it was before until now. A state ends only once there is 1/8 more
// space than it needs to begin, so that it does not change with each commit.
func (d DiskSpace) state(b Bounds, before diskState) diskState {
	mark := d.Mark(b)
	below := func(state diskState, bound int64) bool {
		if before >= state {
			bound += bound / 8
		}
		return d.left() < bound
	}
	switch {
	case d.Free < 0 || mark <= 0:
		return diskEnough
	case below(diskLow, mark):
		return diskLow
	case below(diskScarce, 2*mark):
		return diskScarce
	}
	return diskEnough
}

// StorageWatch warns the operator when an owner or the disk has little space left. While the disk is
// nearly full, it makes the store refuse new records of keys. It is safe for concurrent use.
type StorageWatch struct {
	store *Store
	space func() DiskSpace
	log   *slog.Logger

	mu    sync.Mutex
	disk  DiskSpace // as it was last read
	state diskState
	told  diskState // the state of which the operator was told last
}

// NewStorageWatch returns a StorageWatch that reads the disk space with space. It reads it for the
// first time in CheckDisk.
func NewStorageWatch(store *Store, space func() DiskSpace, log *slog.Logger) *StorageWatch {
	w := &StorageWatch{store: store, space: space, log: log}
	store.WatchDisk(w.read)
	return w
}

// read reads the disk space and sets whether the store refuses new records of keys.
func (w *StorageWatch) read() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disk = w.space()
	w.state = w.disk.state(w.store.Bounds(), w.state)
	w.store.SetDiskLow(w.state == diskLow)
}

// Disk returns the disk space as it was last read, and whether it is so little that the operator
// should act (scarce) and that keys can store nothing new (refusing).
func (w *StorageWatch) Disk() (space DiskSpace, scarce, refusing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disk, w.state != diskEnough, w.state == diskLow
}

// CheckDisk reads the disk space. If there is less than before by a whole state, it logs that and
// publishes disk.low. Call it about once a second.
func (w *StorageWatch) CheckDisk(now time.Time) error {
	w.read()
	w.mu.Lock()
	disk, state, told := w.disk, w.state, w.told
	w.told = state
	w.mu.Unlock()
	if state == told {
		return nil
	}
	mark := disk.Mark(w.store.Bounds())
	details := []any{"free_bytes", disk.left(), "mark_bytes", mark}
	switch {
	case state == diskLow:
		w.log.Error("the disk is nearly full: keys can store nothing new until there is more free space; free some disk space", details...)
	case state < told && told == diskLow:
		w.log.Warn("there is enough free disk space again: keys can store records", details...)
	case state == diskScarce:
		w.log.Warn("the disk is becoming full: below mark_bytes keys can store nothing new; free some disk space", details...)
	default:
		w.log.Info("there is enough free disk space again", details...)
	}
	if state < told {
		return nil
	}
	return w.store.Update(func(tx *Tx) error {
		return Publish(tx, WebhookEvent{Type: diskLowEvent, Operator: true, At: now, Body: map[string]any{"disk": map[string]any{
			"free_bytes": disk.left(), "mark_bytes": mark, "refusing": state == diskLow,
		}}})
	})
}

// storageWarning is the stored record of an owner of whose storage the operator was warned.
type storageWarning struct {
	Owner uint64    `json:"owner"`
	At    time.Time `json:"at"`
}

var storageWarningTable = Table[storageWarning]{Name: "storage_warnings", Key: func(w storageWarning) []byte { return IDKey(w.Owner) }}

// StorageWatchTables returns the table of storage warnings, for checks of the store.
func StorageWatchTables() []Checked { return []Checked{&storageWarningTable} }

// An owner's storage is reported when it is 80 % full, and again only after it was less than 75 %
// full in between.
const clearPercent = 75

// CheckOwners logs owners whose storage has become 80 % full, and publishes owner.storage_warning
// for each. Call it about once a minute.
func (w *StorageWatch) CheckOwners(now time.Time) error {
	var full []OwnerStorage
	var over []uint64
	err := w.store.View(func(tx *Tx) (err error) {
		full, over, err = storageChanges(tx)
		return err
	})
	if err != nil || len(full)+len(over) == 0 {
		return err
	}
	return w.store.Update(func(tx *Tx) error {
		full, over, err := storageChanges(tx)
		for _, s := range full[:min(len(full), noticesAtOnce)] {
			if err == nil && !tx.Full() {
				err = w.warn(tx, s, now)
			}
		}
		for _, owner := range over {
			if err == nil && !tx.Full() { // the next call goes on
				err = storageWarningTable.Delete(tx, IDKey(owner))
			}
		}
		return err
	})
}

// storageChanges returns the owners of whom the operator has to be warned, and those whose warning
// is over.
func storageChanges(tx *Tx) (full []OwnerStorage, over []uint64, err error) {
	list, err := FullOwners(tx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range list {
		if !tx.Has(storageWarningTable.Name, IDKey(s.Owner)) {
			full = append(full, s)
		}
	}
	for warned, err := range storageWarningTable.All(tx, Forward) {
		if err != nil {
			return nil, nil, err
		}
		s, err := StorageOf(tx, warned.Owner)
		if err != nil {
			return nil, nil, err
		}
		if !s.Filling(clearPercent) {
			over = append(over, s.Owner)
		}
	}
	return full, over, nil
}

// warn logs and publishes that the storage of an owner is nearly full.
func (w *StorageWatch) warn(tx *Tx, s OwnerStorage, now time.Time) error {
	name := OwnerName(tx, s.Owner)
	tx.After(func() {
		w.log.Warn("the storage of an owner is nearly full; give it more with: latchkey owners update ID --storage SIZE", "owner", name, "id", s.Owner, "bytes", s.Bytes, "limit", s.Limit)
	})
	e := WebhookEvent{Type: storageWarningEvent, Operator: true, At: now, Body: map[string]any{"owner": map[string]any{
		"id": s.Owner, "name": name, "storage": map[string]any{"bytes": s.Bytes, "limit": s.Limit},
	}}}
	return errors.Join(Publish(tx, e), storageWarningTable.Put(tx, storageWarning{Owner: s.Owner, At: now}))
}
