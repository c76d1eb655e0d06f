package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A backup under load opens, is whole, and holds everything that was
// acknowledged before it began. LATCHKEY_CRASH_BACKUPS sets how many there are.
func TestProgram_HotBackup(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	l := newLedger(t, p)
	l.load(p, nil, 3)()
	stop := make(chan struct{})
	wait := l.load(p, stop, 0)
	n := long("LATCHKEY_CRASH_BACKUPS", 5)
	for i := range n {
		began := time.Now()
		path := filepath.Join(memoryDir(t), "copy.db")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.socket().Copy(context.Background(), "/admin/v1/backup", f), f.Close()); err != nil {
			t.Fatal(err)
		}
		ended := time.Now()
		if result, err := CheckStoreFile(path); err != nil || len(result.Problems) > 0 {
			t.Errorf("backup %d: %v, %v", i, result.Problems, err)
		}
		// It is put where the database was, as a restore does.
		folder := copyFolder(t, data)
		if err := os.Rename(path, StorePath(folder)); err != nil {
			t.Fatal(err)
		}
		if problems, err := l.inspect(folder, began, ended); err != nil || len(problems) > 0 {
			t.Errorf("backup %d: %v, %v", i, problems, err)
		}
		dropCopy(t, folder)
	}
	close(stop)
	wait()
	if code := p.stop(t); code != 0 {
		t.Errorf("got exit code %d: %s", code, tail(p.out.String()))
	}
	l.complete(t)
	t.Logf("%d backups under load; acknowledged: %s", n, l.counts())
}
