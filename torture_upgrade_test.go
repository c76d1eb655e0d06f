package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"latchkey/tests/program"
)

// The upgrade tests start the real program on grown stores of every format and kill it at random
// moments of the migration: while it copies the database, makes a step or has just finished. Whatever
// the moment, the database has one format or the next, whole, the copy is the store from before, and the next start goes on.
// LATCHKEY_CRASH_UPGRADES sets how many kills there are for each format, and LATCHKEY_UPGRADE_MB the
// size of the stores; a change gets by with few and small ones. LATCHKEY_UPGRADE_EARLIER names a folder
// with the last program of each earlier format, as format-1, format-2, ...: they check the grown stores and take the way back.
const upgradeKills = 4

// smallUpgrade is the size of a grown store in the short form, in bytes.
const smallUpgrade = 400 << 10

// upgrade is a grown store and what it has to become.
type upgrade struct {
	testing.TB
	fixture
	format int
	data   string              // the data folder with the store, which no program has started on
	copy   string              // the name of the copy that the migration makes; "" for the present format
	want   map[int]storeDigest // what is in the store after the migration to a format
	counts map[string]uint64   // the number of records of each table in the old store
	peak   int64               // most memory that a start has needed, in kB
	took   time.Duration       // from the start of the program until it listens, without a kill
}

// newUpgrade grows the fixture of a format to about size bytes and migrates a copy of it without the program.
func newUpgrade(t *testing.T, format int, size int64) *upgrade {
	t.Helper()
	u := &upgrade{TB: t, format: format, want: map[int]storeDigest{}, counts: map[string]uint64{}}
	u.fixture, u.data = readFixture(t, format)
	keys, path := fixtureKeys(t, u.data), storePath(u.data)
	growStore(t, path, size, keys)
	u.want[format] = digestStore(t, path)
	u.view(path, func(tx *Tx) error {
		for table, stored := range tx.Range("counts", nil) {
			value, err := Unseal("counts", table, stored)
			if err != nil {
				return err
			}
			u.counts[string(table)] = binary.BigEndian.Uint64(value)
		}
		return nil
	})
	if format == StoreFormat {
		return u
	}
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	u.copy = filepath.Base(copyName(path, f.Header))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	migrated := storePath(u.folder())
	for to := format + 1; to <= StoreFormat; to++ {
		if _, err := Migrate(migrated, Migrations()[:to-1], MigrateOptions{Keys: keys, Log: slog.New(slog.DiscardHandler), NoCopy: true}); err != nil {
			t.Fatal(err)
		}
		u.want[to] = digestStore(t, migrated)
	}
	u.preserved(migrated)
	dropCopy(t, filepath.Dir(migrated))
	return u
}

// folder returns a new data folder with the old store.
func (u *upgrade) folder() string {
	u.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(u.data), "run-")
	if err != nil {
		u.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		u.Fatal(err)
	}
	for _, name := range []string{storeFile, pepperFile} {
		copyFile(u, filepath.Join(data, name), filepath.Join(u.data, name))
	}
	return data
}

// copyFile copies a file that may be large.
func copyFile(t testing.TB, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// view reads a database file.
func (u *upgrade) view(path string, read func(*Tx) error) (h header) {
	u.Helper()
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		u.Fatal(err)
	}
	if err := errors.Join(f.View(read), f.Close()); err != nil {
		u.Fatal(err)
	}
	return f.Header
}

// storeDigest has a hash of the contents of each bucket.
type storeDigest map[string]string

// digestStore returns the digest of a database file, without what differs between two migrations of the
// same store: the header, the stamp, the record of an unfinished migration and the MAC of a copy.
func digestStore(t testing.TB, path string) storeDigest {
	t.Helper()
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	d := storeDigest{}
	err = f.View(func(tx *Tx) error {
		return tx.Bolt.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if string(name) == rebuildBucket || string(name) == localBucket {
				return nil
			}
			h := sha256.New()
			writePart(h, IDKey(b.Sequence()))
			err := b.ForEach(func(key, value []byte) error {
				if string(name) != "meta" || !slices.Contains([]string{"header", string(StampKey), string(migrationKey), string(sealKey)}, string(key)) {
					writePart(h, key)
					writePart(h, value)
				}
				return nil
			})
			d[string(name)] = fmt.Sprintf("%x", h.Sum(nil))
			return err
		})
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return d
}

// differs returns the buckets in which two digests differ, without some.
func (d storeDigest) differs(other storeDigest, without ...string) (buckets []string) {
	for bucket := range d {
		if d[bucket] != other[bucket] {
			buckets = append(buckets, bucket)
		}
	}
	for bucket := range other {
		if _, ok := d[bucket]; !ok {
			buckets = append(buckets, bucket)
		}
	}
	return slices.DeleteFunc(buckets, func(bucket string) bool { return slices.Contains(without, bucket) })
}

// preserved wants all that the old store says in the migrated one.
func (u *upgrade) preserved(migrated string) {
	u.Helper()
	type delivery struct{ webhook, id, body string }
	old, now := map[delivery]int{}, map[delivery]int{}
	u.view(migrated, func(after *Tx) error {
		u.view(storePath(u.data), func(before *Tx) error {
			return before.Walk(func(bucket string, key, stored []byte) error {
				dropped := []string{"audit/object", "calls/scope", "call_tallies", "contacts/scope", "agents/scope", "webhook_outbox", "webhook_queues"}
				switch {
				case u.format >= 3:
					dropped = nil
				case bucket == "webhook_outbox":
					value, err := Unseal(bucket, key, stored)
					var d delivery2
					err = errors.Join(err, json.Unmarshal(value, &d))
					old[delivery{fmt.Sprint(d.Webhook), d.ID, string(d.Body)}]++
					return err
				}
				if slices.Contains(dropped, bucket) || bucket == "meta" || bucket == "counts" || isListBucket(bucket) && u.format < StoreFormat {
					return nil
				}
				raw := after.stored(bucket, key)
				if strings.Contains(bucket, "/") {
					if !bytes.Equal(raw, stored) {
						u.Errorf("%s/%x: the index entry is %x, it was %x", bucket, key, raw, stored)
					}
					return nil
				}
				want, err := Unseal(bucket, key, stored)
				if err != nil {
					return err
				}
				if got, err := Unseal(bucket, key, raw); err != nil || !bytes.Equal(got, want) {
					u.Errorf("%s/%x: the record is %q, %v; it was %q", bucket, key, got, err, want)
				}
				return nil
			})
		})
		if u.format >= 3 {
			return nil
		}
		return readStored(after, "webhook_events", func(_ []byte, e event3) error {
			var b body3
			value, err := after.Get("webhook_bodies", IDKey(e.ID))
			if err := errors.Join(err, json.Unmarshal(value, &b)); err != nil {
				return err
			}
			for _, own := range e.Pending.Own {
				now[delivery{fmt.Sprint(e.Pending.To[3*own.Index]), own.Delivery, string(b.Body)}]++
			}
			return nil
		})
	})
	if fmt.Sprint(old) != fmt.Sprint(now) || u.format < 3 && len(old) < 10 {
		u.Errorf("%d deliveries are pending after the migration, before it there were %d, or they differ", len(now), len(old))
	}
}

// command is a server on a folder.
func (u *upgrade) command(data string) *exec.Cmd {
	c := program.Command(u.TB, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", data)
	c.Env = append(c.Env, "LATCHKEY_KEYS_PREFIX="+fixturePrefix, "LATCHKEY_LOG_ACCESS=false")
	return c
}

// killMoment is when a server is killed: after has passed since the log contains text, or a file has come or gone.
type killMoment struct {
	text  string // "": the start of the process
	file  string // that exists, in the data folder; "": none has to
	after time.Duration
}

func (m killMoment) String() string { return fmt.Sprintf("%s after %q %s", m.after, m.text, m.file) }

// moment chooses one.
func (u *upgrade) moment(random *rand.Rand) killMoment {
	if random.IntN(2) == 0 {
		return killMoment{after: time.Duration(random.Float64() * 1.05 * float64(u.took))}
	}
	soon := time.Duration(random.ExpFloat64() * float64(10*time.Millisecond))
	all := []killMoment{
		{"copying it first", "", soon}, {"", u.copy + ".part", soon}, {"", u.copy, soon}, {"database copied", "", soon}, {"", storeFile + ".rebuild", soon},
		{"migrating the database", "", soon}, {"database migrated", "", soon}, {fmt.Sprintf(`"database migrated","format":%d`, StoreFormat), "", soon},
		{"migration of the database is complete", "", soon}, {`"listening"`, "", soon},
	}
	if u.format == StoreFormat {
		all = all[len(all)-1:]
	}
	return all[random.IntN(len(all))]
}

// kill starts the program on a folder and kills it at a moment. served reports whether it may have begun its work by then.
func (u *upgrade) kill(data string, m killMoment) (served bool) {
	u.Helper()
	p := program.Launch(u.TB, u.command(data), data, "")
	var reached time.Time
	for begin := time.Now(); !p.Ended(); time.Sleep(200 * time.Microsecond) {
		out := p.Out.String()
		if strings.Contains(out, `"listening"`) && !strings.Contains(m.text, "listening") {
			break // the moment did not come
		}
		if reached.IsZero() && m.text == "" && m.file == "" {
			reached = begin
		}
		if reached.IsZero() {
			_, err := os.Lstat(filepath.Join(data, m.file))
			if strings.Contains(out, m.text) && err == nil {
				reached = time.Now()
			}
		}
		if !reached.IsZero() && time.Since(reached) >= m.after {
			break
		}
	}
	if p.Ended() {
		u.Fatalf("the program has ended: %s", p.Out.Tail())
	}
	p.Kill()
	out := p.Out.String()
	return u.format == StoreFormat || strings.Contains(out, "is complete") || strings.Contains(out, `"listening"`)
}

// inspect wants one format or another in the folder, whole, and the store from before in the copy. It returns the format. of
// the present format it does not compare what a server changes that has begun its work.
func (u *upgrade) inspect(data string, served bool) int {
	u.Helper()
	entries, err := os.ReadDir(data)
	if err != nil {
		u.Fatal(err)
	}
	copied := false
	for _, e := range entries {
		switch e.Name() {
		case storeFile, pepperFile, lockFile, markFile, markFile + ".new", socketFile, u.copy + ".part", storeFile + ".rebuild":
		case u.copy:
			copied = true
			if differ := digestStore(u.TB, filepath.Join(data, u.copy)).differs(u.want[u.format]); len(differ) > 0 {
				u.Errorf("the copy differs from the old store in %v", differ)
			}
		default:
			u.Errorf("%s is left in the data folder", e.Name())
		}
	}
	path := storePath(data)
	h := u.view(path, func(*Tx) error { return nil })
	want, ok := u.want[h.Format]
	if !ok {
		u.Fatalf("the database has format %d", h.Format)
	}
	var without []string
	if served && h.Format == StoreFormat {
		without = servedBuckets
	}
	if differ := digestStore(u.TB, path).differs(want, without...); len(differ) > 0 {
		u.Errorf("the database of format %d differs from one that was migrated without a kill, in %v", h.Format, differ)
	}
	if h.Format > u.format && !copied {
		u.Errorf("the database has format %d, and there is no copy", h.Format)
	}
	return h.Format
}

// servedBuckets lists the buckets that a server changes by itself, or by the requests of the tests. The events are among them
// because of their reminders.
var servedBuckets = []string{
	"counts", "events", "events/remind", "key_activity", "key_places", "key_uses", "keys_list~values", "meters", "owner_bytes",
	"usage_history", "usage_minutes", "webhook_bodies", "webhook_events", "webhook_log", "webhook_queues", "webhook_queues/due",
}

// finish starts the program, wants everything from the old store, and stops it.
func (u *upgrade) finish(data string) {
	u.Helper()
	begin := time.Now()
	p := program.ServeCommand(u.TB, u.command(data), data)
	u.took, u.peak = time.Since(begin), max(u.peak, memoryPeak(p.Cmd.Process.Pid))
	u.ask(p)
	if code := p.Stop(u.TB); code != 0 {
		u.Errorf("got exit code %d: %s", code, p.Out.Tail())
	}
	if format := u.inspect(data, true); format != StoreFormat {
		u.Errorf("got format %d, want %d", format, StoreFormat)
	}
	for _, name := range []string{u.copy + ".part", storeFile + ".rebuild", markFile + ".new"} {
		if _, err := os.Lstat(filepath.Join(data, name)); err == nil {
			u.Errorf("%s is left after a start", name)
		}
	}
	u.check(data, storePath(data))
}

// memoryPeak returns the most memory that a process has had so far, with the part of the database that it has mapped, in kB. It
// is 0 where the system does not tell.
func memoryPeak(pid int) (kB int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	_, _ = fmt.Sscan(rest, &kB) // leaves 0
	return kB
}

// check wants the check to find nothing in a file of the folder.
func (u *upgrade) check(data, file string) {
	u.Helper()
	u.checkWith(program.Path(u.TB), data, file)
}

// checkWith is check by another program.
func (u *upgrade) checkWith(path, data, file string) {
	u.Helper()
	stdout, stderr, err := u.run(path, "check", file, "--data", data)
	if err != nil || !strings.Contains(stdout, " 0 problems") {
		u.Errorf("check %s: %v, %s%s", file, err, stdout, stderr)
	}
}

// run runs a command of a program, which may take long.
func (u *upgrade) run(path string, args ...string) (stdout, stderr string, err error) {
	c := program.Command(u.TB, args...)
	c.Env = append(c.Env, "LATCHKEY_KEYS_PREFIX="+fixturePrefix)
	c.Path, c.Args[0] = path, path
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err = c.Run()
	return out.String(), errs.String(), err
}

// ask asks a server for what the old store had.
func (u *upgrade) ask(p *program.Server) {
	u.Helper()
	for secret, want := range map[string]int{u.Key: 200, u.Revoked: 401} {
		if status, _ := p.Get(u.TB, "/api/v1/agents", secret); status != want {
			u.Errorf("got %d, want %d", status, want)
		}
	}
	_, body := do("GET", p.URL+"/api/v1/key", u.Key, nil)
	var own struct {
		Usage map[string]struct{ Used int }
	}
	if err := json.Unmarshal(body, &own); err != nil || own.Usage[CallsPerDay].Used != 2 || own.Usage[EventsPerDay].Used != 1 {
		u.Errorf("got the usage %s, %v; want 2 calls and 1 event", body, err)
	}
	for path, table := range map[string]string{
		"agents": "agents", "calls": "calls", "contacts": "contacts", "do-not-call": "do_not_call", "events": "events", "keys": "keys", "operators": "operators", "owners": "owners",
		"schedules": "schedules", "teams": "teams", "tokens": "admin_tokens", "webhooks": "webhooks",
	} {
		query := "?limit=1"
		switch path {
		case "events":
			query += "&start_date=2026-02-01&end_date=2026-03-01"
		case "operators": // all at once
			query = ""
		}
		var list struct{ Count uint64 }
		if err := p.Socket().Do(context.Background(), "GET", "/admin/v1/"+path+query, nil, &list); err != nil || list.Count != u.counts[table] {
			u.Errorf("%s: got %d, %v; want %d", path, list.Count, err, u.counts[table])
		}
	}
}

// earlier returns the last program of the format of the old store, or "" if the test has none.
func (u *upgrade) earlier() string {
	dir := os.Getenv("LATCHKEY_UPGRADE_EARLIER")
	if dir == "" || u.format == StoreFormat {
		return ""
	}
	return filepath.Join(dir, fmt.Sprintf("format-%d", u.format))
}

// starts wants the earlier program to find nothing in the old store, and to serve it.
func (u *upgrade) starts(data string) {
	u.Helper()
	path := u.earlier()
	u.checkWith(path, data, storePath(data))
	c := u.command(data)
	c.Path, c.Args[0] = path, path
	p := program.ServeCommand(u.TB, c, data)
	u.ask(p)
	if code := p.Stop(u.TB); code != 0 {
		u.Errorf("format %d: got exit code %d: %s", u.format, code, p.Out.Tail())
	}
	u.checkWith(path, data, storePath(data))
}

// back takes the way back from a migrated folder, and forward again.
func (u *upgrade) back(data string) {
	u.Helper()
	copied := filepath.Join(data, u.copy)
	u.check(data, copied)
	again := u.folder()
	copyFile(u, storePath(again), copied)
	if format := u.inspect(again, false); format != u.format {
		u.Errorf("the copy has format %d, want %d", format, u.format)
	}
	u.finish(again)
	dropCopy(u, again)
	path := u.earlier()
	if path == "" {
		path = program.Path(u.TB)
	}
	if stdout, stderr, err := u.run(path, "restore", copied, "--data", data); err != nil {
		u.Fatalf("restore: %v, %s%s", err, stdout, stderr)
	}
	if u.earlier() != "" {
		u.starts(data)
	}
	p := program.ServeCommand(u.TB, u.command(data), data)
	u.ask(p)
	if code := p.Stop(u.TB); code != 0 {
		u.Errorf("got exit code %d: %s", code, p.Out.Tail())
	}
	u.check(data, storePath(data))
}

// TestProgram_UpgradeStopped asks the program to end during a migration. It does so before the migration is complete, with code 0, and
// leaves nothing of the step.
func TestProgram_UpgradeStopped(t *testing.T) {
	u := newUpgrade(t, 3, 4*smallUpgrade)
	stopped := 0
	for _, m := range []killMoment{{file: lockFile}, {file: u.copy + ".part"}, {text: "database copied"}, {file: storeFile + ".rebuild"}, {text: "database migrated"}} {
		data, text := u.folder(), m.String()
		p := program.Launch(t, u.command(data), data, "")
		for !p.Ended() {
			if _, err := os.Lstat(filepath.Join(data, m.file)); err == nil && strings.Contains(p.Out.String(), m.text) {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		p.Terminate()
		if code := p.Wait(t); code != 0 {
			t.Errorf("%s: got exit code %d: %s", text, code, p.Out.Tail())
		}
		served := strings.Contains(p.Out.String(), "is complete")
		if strings.Contains(p.Out.String(), "was stopped before it had started") {
			stopped++
		} else if !served {
			t.Errorf("%s: the log does not say that the start was interrupted: %s", text, p.Out.Tail())
		}
		format := u.inspect(data, served)
		for _, name := range []string{u.copy + ".part", storeFile + ".rebuild"} {
			if _, err := os.Lstat(filepath.Join(data, name)); err == nil {
				t.Errorf("%s: %s is left", text, name)
			}
		}
		if _, err := os.Lstat(filepath.Join(data, u.copy)); (err == nil) != (format > u.format) {
			t.Errorf("%s: format %d is left; the copy: %v", text, format, err)
		}
		u.finish(data)
		dropCopy(t, data)
	}
	t.Logf("the start was interrupted %d times", stopped)
}

// TestProgram_UpgradeNotices wants systemd to be told that a migration takes its time, which otherwise ends a start after 90 seconds.
func TestProgram_UpgradeNotices(t *testing.T) {
	_, data := readFixture(t, 3)
	notices := program.ListenForNotices(t)
	p := program.Serve(t, data, "NOTIFY_SOCKET="+notices.Path)
	if got := notices.Next(); !strings.HasPrefix(got, "EXTEND_TIMEOUT_USEC=600000000\nSTATUS=migrating the database: copying records, 1 of ") {
		t.Errorf("got the first notice %q", got)
	}
	if got := notices.Next(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("got the second notice %q", got)
	}
	p.Kill()
	p = program.Serve(t, data, "NOTIFY_SOCKET="+notices.Path)
	if got := notices.Next(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("a start without a migration: got the first notice %q", got)
	}
	p.Kill()
}

func TestProgram_UpgradeKilled(t *testing.T) {
	kills := program.Long(t, "LATCHKEY_CRASH_UPGRADES", upgradeKills)
	size := int64(program.Long(t, "LATCHKEY_UPGRADE_MB", 0)) << 20
	for format := 1; format <= StoreFormat; format++ {
		t.Run(fmt.Sprintf("format %d", format), func(t *testing.T) {
			if size == 0 {
				t.Parallel() // it waits most of the time
			}
			u := newUpgrade(t, format, max(size, smallUpgrade))
			data := u.folder()
			if u.earlier() != "" {
				u.starts(data)
				dropCopy(t, data)
				data = u.folder()
			}
			u.finish(data)
			took, peak := u.took, u.peak
			if format < StoreFormat {
				u.back(data)
			}
			dropCopy(t, data)
			data = u.folder()
			seed, left := rand.Uint64(), map[int]int{}
			random := rand.New(rand.NewPCG(seed, 0))
			for n := range kills {
				m := u.moment(random)
				served := u.kill(data, m)
				now := u.inspect(data, served)
				left[now]++
				if t.Logf("kill %d of %d, %s: format %d is left", n+1, kills, m, now); t.Failed() { // a sign of life
					t.Fatalf("seed %d", seed)
				}
				if served || n == kills-1 || random.IntN(4) == 0 {
					u.finish(data)
					dropCopy(t, data)
					data = u.folder()
				}
			}
			t.Logf("%d kills, after which so many stores had each format: %v; without a kill a start takes %s and %d MB of memory",
				kills, left, took.Round(100*time.Millisecond), peak>>10)
		})
	}
}
