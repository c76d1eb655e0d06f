package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Migration takes a store from one format to the next. It reads and writes records
// as they are in these two formats, so it uses no table: those are of today,
// and the step has to go on meaning the same.
type Migration struct {
	What string // told in the log, such as "calls know their team"
	// MinReader is the oldest format whose programs can still read the result,
	// 0 for none but the new one's.
	MinReader int
	// Run changes the records. The header changes with it, in one transaction.
	Run func(tx *Tx) error
}

// Migrations are the changes of the format up to now: the first one leads from
// format 1 to format 2. There was none yet.
func Migrations() []Migration { return nil }

// Migrate brings the database in a file from an earlier format to the one that
// the last of the steps leads to, and says where the copy is that it made
// before, "" where nothing was to be done. A step happens whole or not at all:
// whenever the process ends, the next call goes on from there. After an error
// of the first step there is no copy, and the file is as it was. fits, which may
// be nil, is asked first whether this is the right file. The process must hold
// the folder.
func Migrate(path string, steps []Migration, fits func(*File) error, log *slog.Logger) (kept string, err error) {
	to := 1 + len(steps)
	f, err := OpenFormat(path, false, to)
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
func (f *File) step(s Migration) error {
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
func copyName(path string, h Header) string {
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
	return errors.Join(os.Rename(part, path), SyncDir(filepath.Dir(path)))
}
