package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dyingLog is a log whose writer ends at its nth record, by function.
type dyingLog struct {
	slog.Handler
	left int
	die  func()
}

func (d *dyingLog) Enabled(context.Context, slog.Level) bool { return true }

func (d *dyingLog) Handle(ctx context.Context, r slog.Record) error {
	if d.left--; d.left == 0 {
		d.die()
	}
	return d.Handler.Handle(ctx, r)
}

// testSteps lead from format 1 to format 3. Only tests know them: word is
// spelled large, and then gets a companion. At the given change of the first
// or second step die is called.
func testSteps(die func(step, change int)) []migration {
	return []migration{
		{What: "words are large", Run: func(tx *Tx) error {
			var keys, values [][]byte
			for key, stored := range tx.Range("words", nil) {
				value, err := Unseal("words", key, stored)
				if err != nil {
					return err
				}
				keys, values = append(keys, bytes.Clone(key)), append(values, bytes.ToUpper(value))
			}
			for i, key := range keys {
				die(1, i)
				if err := tx.Put("words", key, values[i]); err != nil {
					return err
				}
			}
			return nil
		}},
		{What: "words have a companion", MinReader: 1, Run: func(tx *Tx) error {
			for i := range 20 {
				die(2, i)
				if err := tx.Put("companions", IDKey(uint64(i)), []byte("c")); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// oldStore makes a file of format 1 with twenty words.
func oldStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "latchkey.db")
	if err := CreateStore(path, "0123456789abcdef", epoch); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Update(func(tx *Tx) error {
		h := f.Header
		h.Format, h.MinReader = 1, 1
		if err := h.Put(tx); err != nil {
			return err
		}
		for i := range 20 {
			if err := tx.Put("words", IDKey(uint64(i)), []byte("word")); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantFormat checks that a file has everything that its format should contain and nothing of another format. It returns the format.
func wantFormat(t *testing.T, path string) int {
	t.Helper()
	f, err := openFormat(path, ReadOnly, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = f.View(func(tx *Tx) error {
		word, companions := "word", 0
		if f.Header.Format > 1 {
			word = "WORD"
		}
		if f.Header.Format > 2 {
			companions = 20
		}
		for i := range 20 {
			if got, err := tx.Get("words", IDKey(uint64(i))); err != nil || string(got) != word {
				t.Errorf("format %d: word %d is %q, %v", f.Header.Format, i, got, err)
			}
		}
		if n := tx.Count("companions"); n != companions {
			t.Errorf("format %d: %d companions, want %d", f.Header.Format, n, companions)
		}
		result, err := CheckStore(tx, nil)
		if err != nil || len(result.Problems) > 0 {
			t.Errorf("got %v, %v", result, err)
		}
		return nil
	})
	if f.Header.StoreID != "0123456789abcdef" || !f.Header.CreatedAt.Equal(epoch) || f.Header.Writer != ProgramVersion() {
		t.Errorf("got the header %+v", f.Header)
	}
	return f.Header.Format
}

func TestMigrate(t *testing.T) {
	path := oldStore(t)
	var log bytes.Buffer
	kept, err := Migrate(path, testSteps(func(int, int) {}), MigrateOptions{Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if got := wantFormat(t, path); got != 3 {
		t.Errorf("got format %d, want 3", got)
	}
	if got := wantFormat(t, kept); got != 1 || kept != path+".format-1-01234567" {
		t.Errorf("%s has format %d, want 1", kept, got)
	}
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", info, err)
	}
	for _, want := range []string{kept, "words are large", "words have a companion", `"new_format":3`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not tell %q: %s", want, log.String())
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := Migrate(path, testSteps(func(int, int) { t.Error("a step is made again") }), MigrateOptions{Log: slog.New(slog.DiscardHandler)}); err != nil || kept != "" {
		t.Errorf("a second time: got %q, %v", kept, err)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, before) {
		t.Error("a second time: the file was changed")
	}
}

// A step that fails, a disk without room for the copy and a file of another
// folder leave the database as it was, and no copy behind.
func TestMigrate_Refused(t *testing.T) {
	boom := errors.New("boom")
	failing := func(step int) []migration {
		steps := testSteps(func(int, int) {})
		steps[step-1].Run = func(tx *Tx) error { return errors.Join(tx.Put("words", IDKey(1), []byte("half")), boom) }
		return steps
	}
	for _, tt := range []struct {
		name  string
		steps []migration
		fits  func(*File) error
		block bool // the copy cannot be written
		want  string
		left  int // the format afterwards
	}{
		{"first step", failing(1), nil, false, "from format 1 to 2 (words are large): boom", 1},
		{"second step", failing(2), nil, false, "the database has format 2 now; its copy from before the migration is", 2},
		{"another folder's", testSteps(nil), func(*File) error { return boom }, false, "boom", 1},
		{"no room for the copy", testSteps(nil), nil, true, "free some disk space", 1},
	} {
		path := oldStore(t)
		if tt.block {
			if err := os.MkdirAll(filepath.Join(path+".format-1-01234567.part", "in the way"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Migrate(path, tt.steps, MigrateOptions{Fits: tt.fits, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if got := wantFormat(t, path); got != tt.left {
			t.Errorf("%s: got format %d, want %d", tt.name, got, tt.left)
		}
		if _, err := os.Stat(path + ".format-1-01234567"); (err == nil) != (tt.left == 2) {
			t.Errorf("%s: the copy: %v", tt.name, err)
		}
	}
}

// TestMigrate_Killed ends the process by SIGKILL at every message and at
// several changes of every step. The next call must find one format or the
// next, whole, and finish.
func TestMigrate_Killed(t *testing.T) {
	if path := os.Getenv("LATCHKEY_TEST_MIGRATE"); path != "" {
		migrateAndDie(path)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		at   string
		want int // the format that is left
	}{
		{"message 1", 1}, {"message 2", 1}, {"message 3", 1}, {"message 4", 2}, {"message 5", 2}, {"message 6", 3}, {"message 7", 3},
		{"step 1 change 0", 1}, {"step 1 change 10", 1}, {"step 1 change 19", 1},
		{"step 2 change 0", 2}, {"step 2 change 10", 2}, {"step 2 change 19", 2},
	} {
		path := oldStore(t)
		// What a copy that was cut off has left.
		if err := os.WriteFile(path+".format-1-01234567.part", []byte("half a copy"), 0o600); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(self, "-test.run=^TestMigrate_Killed$")
		child.Env = append(os.Environ(), "LATCHKEY_TEST_MIGRATE="+path, "LATCHKEY_TEST_DIE="+tt.at)
		out, err := child.CombinedOutput()
		if err == nil || child.ProcessState.ExitCode() != -1 {
			t.Fatalf("%s: the process was not killed: %v %s", tt.at, err, out)
		}
		if got := wantFormat(t, path); got != tt.want {
			t.Errorf("%s: got format %d, want %d", tt.at, got, tt.want)
		}
		if _, err := Migrate(path, testSteps(func(int, int) {}), MigrateOptions{Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Errorf("%s: %v", tt.at, err)
		}
		if got := wantFormat(t, path); got != 3 {
			t.Errorf("%s: then got format %d, want 3", tt.at, got)
		}
		if got := wantFormat(t, path+".format-1-01234567"); got != 1 {
			t.Errorf("%s: the copy has format %d, want 1", tt.at, got)
		}
	}
}

func migrateAndDie(path string) {
	die := func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		panic(err)
	}
	at := strings.Fields(os.Getenv("LATCHKEY_TEST_DIE"))
	log := &dyingLog{Handler: slog.DiscardHandler, die: die}
	steps := testSteps(func(step, change int) {
		if len(at) == 4 && at[1] == strconv.Itoa(step) && at[3] == strconv.Itoa(change) {
			die()
		}
	})
	if at[0] == "message" {
		log.left, _ = strconv.Atoi(at[1])
	}
	_, err := Migrate(path, steps, MigrateOptions{Log: slog.New(log)})
	panic(err)
}

func TestMigrations_LeadToTheFormat(t *testing.T) {
	if got := 1 + len(Migrations()); got != StoreFormat {
		t.Errorf("the steps lead to format %d, this program writes %d", got, StoreFormat)
	}
	if got := fitting(&File{Header: header{Format: StoreFormat - 1}}, tables()); got != nil {
		t.Errorf("an earlier format is held against the tables of today: %v", got)
	}
	data, err := json.Marshal(header{Format: 1, MinReader: 1, Writer: "v1", StoreID: "x", ByteOrder: "little", CreatedAt: epoch})
	if want := `{"format":1,"min_reader":1,"writer":"v1","store_id":"x","byte_order":"little","created_at":"2026-02-03T09:00:00Z"}`; err != nil || string(data) != want {
		t.Errorf("got %s, %v; want %s: the header is what every version reads", data, err, want)
	}
}

// TestMigrate_Resumed continues a migration that has made a step. It copies the database again only if a program has used it
// since, or if the copy is gone.
func TestMigrate_Resumed(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		between func(t *testing.T, path, kept string)
		want    []string // the copies afterwards
	}{
		{"at once", func(*testing.T, string, string) {}, []string{".format-1-01234567"}},
		{"used since", func(t *testing.T, path, _ string) {
			f, err := openFormat(path, ReadWrite, 3)
			if err == nil {
				err = errors.Join(f.Update(func(tx *Tx) error { return tx.Put("meta", StampKey, []byte("later")) }), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}, []string{".format-1-01234567", ".format-2-01234567"}},
		{"copy gone", func(t *testing.T, _, kept string) {
			if err := os.Remove(kept); err != nil {
				t.Fatal(err)
			}
		}, []string{".format-2-01234567"}},
	} {
		path := oldStore(t)
		failing := testSteps(func(int, int) {})
		failing[1].Run = func(*Tx) error { return boom }
		first, err := Migrate(path, failing, MigrateOptions{Log: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, boom) || wantFormat(t, path) != 2 {
			t.Fatalf("%s: got %v", tt.name, err)
		}
		tt.between(t, path, first)
		if _, err := Migrate(path, failing, MigrateOptions{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, boom) {
			t.Errorf("%s: a second failure: %v", tt.name, err)
		}
		kept, err := Migrate(path, testSteps(func(int, int) {}), MigrateOptions{Log: slog.New(slog.DiscardHandler)})
		if last := tt.want[len(tt.want)-1]; err != nil || kept != path+last {
			t.Errorf("%s: got %s, %v; want %s", tt.name, kept, err, last)
		}
		if got := wantFormat(t, path); got != 3 {
			t.Errorf("%s: got format %d, want 3", tt.name, got)
		}
		var got []string
		left, _ := filepath.Glob(path + ".*")
		for _, file := range left {
			got = append(got, strings.TrimPrefix(file, path))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got the files %q, want %q", tt.name, got, tt.want)
		}
		if value := records(t, path)["meta\x00migration"]; value != "" {
			t.Errorf("%s: %q is left of the migration", tt.name, value)
		}
	}
}

// fixtureKeys returns the keys of the Authenticator for a data folder.
func fixtureKeys(t testing.TB, data string) [][]byte {
	t.Helper()
	peppers, err := LoadPeppers("", pepperPath(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := peppers.MACKeys()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestMigrate_Interrupted ends the migrations of a fixture in the first and in a later report of each of their steps. What was
// begun is undone, nothing is left of it, and the next call goes on.
func TestMigrate_Interrupted(t *testing.T) {
	stop := errors.New("stop")
	_, data := readFixture(t, 1)
	keys, path := fixtureKeys(t, data), storePath(data)
	original, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := defaultConfig()
	config.Server.Data = data
	want := migratedFixture(t, data, keys)
	reports := map[string]int{} // by step
	migrate := func(progress Progress) error {
		_, err := Migrate(path, Migrations(), MigrateOptions{Keys: keys, Log: slog.New(slog.DiscardHandler), Progress: progress})
		return err
	}
	reset := func() {
		copies, _ := filepath.Glob(path + ".*")
		for _, file := range copies {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		overwrite(t, data, storeFile, string(original))
	}
	err = migrate(func(step string, _, _ int64) error {
		reports[step]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"copying records", "computing the MAC", "changing records", "reading calls", "storing indexes and lists"} {
		if reports[step] == 0 {
			t.Errorf("there is no step %q: %v", step, reports)
		}
	}
	for step, n := range reports {
		for _, at := range []int{1, 1 + n/3, n} {
			reset()
			left := at
			err := migrate(func(reported string, _, _ int64) error {
				if reported == step {
					left--
				}
				if left == 0 {
					return stop
				}
				return nil
			})
			if !errors.Is(err, stop) {
				t.Errorf("%s, report %d: got %v", step, at, err)
			}
			result, err := CheckStoreFile(path, config, "", nil)
			if err != nil || len(result.Problems) > 0 {
				t.Errorf("%s, report %d: got %v, %v", step, at, result.Problems, err)
			}
			f, err := OpenFile(path, ReadOnly)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			files, _ := filepath.Glob(path + ".*")
			if copies := min(1, f.Header.Format-1); len(files) != copies {
				t.Errorf("%s, report %d: format %d is left, and the files %q", step, at, f.Header.Format, files)
			}
			if err := migrate(nil); err != nil {
				t.Errorf("%s, report %d: %v", step, at, err)
			}
			if differ := digestStore(t, path).differs(want); len(differ) > 0 {
				t.Errorf("%s, report %d: the migrated store differs in %q", step, at, differ)
			}
		}
	}
}

// migratedFixture returns what is in a store once all migrations were made. It changes a copy.
func migratedFixture(t *testing.T, data string, keys [][]byte) storeDigest {
	t.Helper()
	path := filepath.Join(t.TempDir(), storeFile)
	copyFile(t, path, storePath(data))
	if _, err := Migrate(path, Migrations(), MigrateOptions{Keys: keys, Log: slog.New(slog.DiscardHandler), NoCopy: true}); err != nil {
		t.Fatal(err)
	}
	return digestStore(t, path)
}

// TestMigrate_InOrder wants a migration to store the records of new buckets in the order of their keys. In any other order bbolt
// moves the keys that the transaction has stored, so that twice as many records take four times as long.
func TestMigrate_InOrder(t *testing.T) {
	_, data := readFixture(t, 2)
	keys := fixtureKeys(t, data)
	growStore(t, storePath(data), 800<<10, keys)
	f, err := OpenFile(storePath(data), ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Auth = NewAuthenticator(keys, f.Header.StoreID)
	if err := f.rebuild(deriveLists); err != nil {
		t.Fatal(err)
	}
	stored := map[string]int{}
	err = f.Update(func(tx *Tx) error {
		tx.undo = &undoLog{} // which knows all writes
		if err := format3(tx); err != nil {
			return err
		}
		last := map[string][]byte{}
		for _, e := range tx.undo.entries {
			if e.key == nil || e.existed || e.bucket == "counts" {
				continue // in counts are few
			}
			if bytes.Compare(e.key, last[e.bucket]) < 0 {
				t.Errorf("%s/%x is stored after %x", e.bucket, e.key, last[e.bucket])
			}
			last[e.bucket] = e.key
			stored[e.bucket]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, bucket := range []string{"webhook_bodies", "webhook_events", "owner_bytes", "owner_storage"} {
		if stored[bucket] < 5 {
			t.Errorf("%d new records in %s are too few to show an order: %v", stored[bucket], bucket, stored)
		}
	}
}
