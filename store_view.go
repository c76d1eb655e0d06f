package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"latchkey/internal/cluster"
	"latchkey/internal/durable"
)

// ViewOptions are the options of OpenView.
type ViewOptions struct {
	Engine    cluster.Engine
	StoreID   string    // id of the cluster's store
	CreatedAt time.Time // when the cluster got it; zero if that is not known, then any view of the store will do
	Boot      string    // id of the present boot of the machine; "" if it is not known
	Keys      [][]byte  // the keys of the Authenticator
	Tables    []Checked // all tables
	Fits      func(*File) error
	Now       time.Time
	// Loading is called before the view is loaded, with the reason. It may be nil.
	Loading  func(reason string)
	Progress Progress
}

// ViewMark returns the path of the file that shows that the view at path is in use. Its content is the
// boot of the machine: after another boot, some of what was written to the view may not be on the disk.
func ViewMark(path string) string { return path + ".inuse" }

// IsViewFile reports whether the database in a file is a view of a cluster. It is not if it cannot be read.
func IsViewFile(f *File) (view bool) {
	err := f.View(func(tx *Tx) error {
		view = IsView(tx)
		return nil
	})
	return view && err == nil
}

// IsView reports whether the database is a view of a cluster.
func IsView(tx *Tx) bool { return tx.Has(localBucket, appliedKey) }

// markView writes the file that shows that a view is in use.
func markView(mark, boot string) error { return durable.WriteFile(mark, boot+"\n") }

// OpenView makes sure that there is a view of the cluster's store at path, and marks it as in use. If there is none,
// or if the machine has stopped while it was in use, OpenView loads all records from the cluster. A database that is no view of the
// cluster is kept under another name. Fits checks the records before anything is replaced. Open the view by OpenStore.
func OpenView(ctx context.Context, path string, o ViewOptions) (kept string, err error) {
	reason, lone, err := viewFault(path, o)
	if err != nil {
		return "", err
	}
	if reason == "" {
		return "", markView(ViewMark(path), o.Boot)
	}
	if o.Loading != nil {
		o.Loading(reason)
	}
	if err := loadView(ctx, path+".load", o); err != nil {
		return "", fmt.Errorf("load the records of the cluster: %w", err)
	}
	if err := markView(ViewMark(path), o.Boot); err != nil {
		return "", err
	}
	if lone {
		kept = path + ".before-cluster-" + o.Now.UTC().Format("20060102T150405Z")
		if err := os.Rename(path, kept); err != nil {
			return "", err
		}
	}
	return kept, errors.Join(os.Rename(path+".load", path), durable.SyncDir(filepath.Dir(path)))
}

// viewFault returns why the file at path is not a usable view, or "" if it is one. lone reports whether it
// is a database that belongs to no cluster.
func viewFault(path string, o ViewOptions) (reason string, lone bool, err error) {
	mark, err := os.ReadFile(ViewMark(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return "this node has no records yet", false, nil
	}
	if boot := strings.TrimSpace(string(mark)); mark != nil && (boot != o.Boot || boot == "") {
		return "the machine or the service has stopped while the view was in use", false, nil
	}
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		return "the database cannot be read", true, nil
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if f.Header.StoreID != o.StoreID {
		return "", false, fmt.Errorf("%s belongs to another store (%s) than the cluster (%s): use another data folder, or another etcd", path, f.Header.StoreID, o.StoreID)
	}
	if f.Header.Format != StoreFormat {
		return "the records have another format", false, nil
	}
	head := cluster.Head(0)
	err = f.View(func(tx *Tx) (err error) {
		head, err = appliedHead(tx)
		return err
	})
	switch {
	case err != nil:
		return "the view is damaged", false, nil
	case head == 0:
		return "the database was in use before the cluster was", true, nil
	case !o.CreatedAt.IsZero() && !f.Header.CreatedAt.Equal(o.CreatedAt):
		return "the cluster was made anew since", false, nil // its positions mean something else
	}
	return "", false, o.Fits(f)
}

// loadView makes a new view at path. It replaces a file that an earlier attempt has left there.
func loadView(ctx context.Context, path string, o ViewOptions) (err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := CreateStore(path, o.StoreID, o.CreatedAt); err != nil {
		return err
	}
	f, err := OpenFile(path, ReadWrite)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	f.DB.NoSync = true
	f.Progress = o.Progress
	head, err := f.fill(ctx, o)
	if err != nil {
		return err
	}
	f.Authenticate(o.Keys)
	if err := o.Fits(f); err != nil {
		return err
	}
	if err := f.remake(o.Tables); err != nil {
		return err
	}
	err = f.Update(func(tx *Tx) error { return tx.setApplied(head) })
	return errors.Join(err, f.DB.Sync())
}

// fill stores all records of the cluster in a new file, in transactions of compactBatch bytes.
func (f *File) fill(ctx context.Context, o ViewOptions) (head cluster.Head, err error) {
	tx, err := f.DB.Begin(true)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }() // no effect after a commit
	size, count := 0, int64(0)
	head, err = o.Engine.Load(ctx, func(w cluster.Write) error {
		if size += len(w.Key) + len(w.Value); size > compactBatch {
			if err := tx.Commit(); err != nil {
				return err
			}
			if tx, err = f.DB.Begin(true); err != nil {
				return err
			}
			size = 0
			if err := o.Progress.Report("loading records", count, 0); err != nil {
				return err
			}
		}
		count++
		name, key := w.Bucket, w.Key
		if name == sequenceBucket {
			name = string(key)
		}
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
		if w.Bucket == sequenceBucket {
			return setSequence(b, w)
		}
		b.FillPercent = 0.9 // the keys are in order, so no page is divided
		return b.Put(append([]byte(nil), key...), append([]byte(nil), w.Value...))
	})
	if err != nil {
		return 0, err
	}
	return head, tx.Commit()
}
