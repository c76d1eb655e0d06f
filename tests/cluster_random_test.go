//go:build linux

package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchkey/tests/program"
)

// TestClusterRandom_Faults lets three nodes and three etcd servers fail at random while clients of all nodes create, read and change
// contacts, use and revoke keys, use up limits and make calls. Then it compares what the clients were told with what a
// cluster may tell, and the nodes with each other.
//
// Usually it makes 60 faults. LATCHKEY_CLUSTER_FAULTS sets another number; from 61 on, the program is built with clocks that the
// test can set, and wrong clocks are among the faults. Every 60 faults are a round with a new cluster. With
// LATCHKEY_TEST_PROGRESS an interrupted run goes on. LATCHKEY_CLUSTER_SEED repeats the faults of a run.
func TestClusterRandom_Faults(t *testing.T) {
	faults := program.Long(t, "LATCHKEY_CLUSTER_FAULTS", roundFaults)
	file := program.ProgressFile(t)
	figures := readFigures(t, file)
	t.Logf("LATCHKEY_CLUSTER_SEED=%d, after %d faults", figures.Seed, figures.Faults)
	for figures.Faults < faults && !t.Failed() {
		t.Run(fmt.Sprint("round ", figures.Rounds), func(t *testing.T) {
			n := min(roundFaults, faults-figures.Faults)
			r := newRandomRound(t, rand.New(rand.NewPCG(figures.Seed, figures.Rounds)), faults > roundFaults)
			r.run(n)
			if !t.Failed() {
				figures.add(r)
				figures.write(t, file)
			}
		})
	}
	t.Log(figures)
}

// roundFaults is the number of faults in a round.
const roundFaults = 60

// randomFigures are the figures of the rounds that have passed.
type randomFigures struct {
	Seed      uint64
	Rounds    uint64
	Faults    int
	Kinds     map[string]int // faults, by kind
	Served    map[string]int // requests that were answered with success, by kind
	Requests  int
	Unknown   int           // changes whose fate the client does not know
	Refused   int           // requests without an answer, and those answered with 503
	Deeds     int           // that were checked
	Undecided int           // histories whose check took too long
	Gap       time.Duration // the longest time in which no change was acknowledged on any node
	Silence   time.Duration // the longest time in which one node answered no request, also because it did not run
	Restarts  int           // of processes that had exited without being killed, or that a full disk had stopped
}

// readFigures returns the figures of a run that was interrupted, or those of a new run.
func readFigures(t *testing.T, file string) *randomFigures {
	t.Helper()
	f := &randomFigures{Seed: rand.Uint64(), Kinds: map[string]int{}, Served: map[string]int{}}
	if text := os.Getenv("LATCHKEY_CLUSTER_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("LATCHKEY_CLUSTER_SEED: %v", err)
		}
		f.Seed = seed
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return f
	}
	if err == nil {
		err = json.Unmarshal(data, f)
	}
	if err != nil {
		t.Fatalf("LATCHKEY_TEST_PROGRESS: %v", err)
	}
	return f
}

// write stores the figures.
func (f *randomFigures) write(t *testing.T, file string) {
	t.Helper()
	if file == "" {
		return
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = errors.Join(os.WriteFile(file+".new", data, 0o600), os.Rename(file+".new", file))
	}
	if err != nil {
		t.Error(err)
	}
}

// add adds those of a round.
func (f *randomFigures) add(r *randomRound) {
	l := r.load
	f.Rounds++
	for kind, n := range r.kinds {
		f.Kinds[kind] += n
		f.Faults += n
	}
	for kind, n := range l.kinds {
		f.Served[kind] += n
	}
	f.Requests, f.Unknown, f.Refused = f.Requests+l.requests, f.Unknown+l.unknown, f.Refused+l.refused
	f.Deeds, f.Undecided, f.Restarts = f.Deeds+len(l.deeds), f.Undecided+r.undecided, f.Restarts+r.restarts
	f.Gap = max(f.Gap, l.gap())
	for _, silence := range l.silence {
		f.Silence = max(f.Silence, silence)
	}
}

// String returns the figures for people.
func (f *randomFigures) String() string {
	counts := func(of map[string]int) string {
		var lines []string
		for _, kind := range slices.Sorted(maps.Keys(of)) {
			lines = append(lines, fmt.Sprintf("\n  %6d %s", of[kind], kind))
		}
		return strings.Join(lines, "")
	}
	return fmt.Sprintf("%d faults in %d rounds:%s\n%d requests, of which %d were refused or had no answer, and %d changes whose fate the client does not know. Served:%s\n"+
		"%d deeds were checked, %d histories not decided. Longest time without a change %s, without an answer of one node %s. %d processes were started again that had ended or whose disk was full.",
		f.Faults, f.Rounds, counts(f.Kinds), f.Requests, f.Refused, f.Unknown, counts(f.Served), f.Deeds, f.Undecided, f.Gap, f.Silence, f.Restarts)
}

// randomRound is a cluster with faults.
type randomRound struct {
	*clusterTest
	rng       *rand.Rand
	names     []string
	addresses map[string]string // of the API, by node
	load      *clusterLoad
	disks     bool                   // each node and each etcd server has a small file system of its own
	program   string                 // whose clocks can be set; "": they cannot
	clocks    map[string]*nodeClocks // by node
	suspends  bool                   // the clocks are also set as by a suspension, so that limits cannot be checked

	hurt      map[string]bool // nodes and etcd servers with a fault
	pending   []pendingEnd
	kinds     map[string]int
	undecided int
	restarts  int
}

// pendingEnd is what ends a fault.
type pendingEnd struct {
	at  time.Time
	end func()
}

// newRandomRound starts a cluster with links between everything.
func newRandomRound(t *testing.T, rng *rand.Rand, clocks bool) *randomRound {
	t.Helper()
	r := &randomRound{rng: rng, names: []string{"a", "b", "c"}, addresses: map[string]string{}, hurt: map[string]bool{}, kinds: map[string]int{}}
	r.clusterTest = &clusterTest{T: t, home: t.TempDir(), nodes: map[string]*program.Server{}, links: map[string][]*program.Link{}}
	r.disks = r.mountAll()
	r.etcd = program.StartEtcdWith(t, program.EtcdOptions{Servers: 3, PeerLinks: true, Folder: filepath.Join(r.home, "etcd")})
	for _, name := range r.names {
		for _, endpoint := range r.etcd.Endpoints {
			r.links[name] = append(r.links[name], program.NewLink(t, strings.TrimPrefix(endpoint, "https://")))
		}
	}
	r.init()
	if clocks {
		r.setClocks()
	}
	urls := map[string]string{}
	for i, address := range program.FreeAddresses(t, len(r.names)) {
		name := r.names[i]
		r.addresses[name], urls[name] = address, "http://"+address
		if name != "a" {
			r.copyPepper(name)
		}
		r.launch(name)
	}
	for _, name := range r.names {
		r.await(name, http.StatusOK)
	}
	r.load = newClusterLoad(r.clusterTest, r.names, urls)
	return r
}

// copyPepper copies the pepper to a folder that exists already.
func (r *randomRound) copyPepper(name string) {
	r.Helper()
	pepper, err := os.ReadFile(filepath.Join(r.home, "a", "pepper"))
	if err == nil {
		err = os.WriteFile(filepath.Join(r.folder(name), "pepper"), pepper, 0o600)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// launch starts a node, and does not wait for it.
func (r *randomRound) launch(name string) {
	r.Helper()
	cmd := r.command(name, "serve", "--listen", r.addresses[name], "--admin-listen", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, "LATCHKEY_LOG_ACCESS=false", "LATCHKEY_BOUNDS_FREE_DISK_BYTES=0")
	r.stepped(cmd, name)
	r.nodes[name] = program.Launch(r, cmd, r.folder(name), "http://"+r.addresses[name])
}

// run makes n faults while the load runs, ends them and checks everything.
func (r *randomRound) run(n int) {
	stop := r.load.run(r.rng.Uint64())
	for made := 0; made < n && !r.Failed(); {
		r.endFaults(time.Now())
		if kind := r.begin(); kind != "" {
			r.Logf("%s: %s", r.load.now().Round(time.Millisecond), kind)
			kind, _, _ = strings.Cut(kind, ":")
			r.kinds[kind]++
			made++
		}
		time.Sleep(time.Duration(100+r.rng.IntN(900)) * time.Millisecond)
		r.restartEnded()
	}
	r.endFaults(time.Now().Add(time.Hour))
	r.etcd.Wait()
	for _, name := range r.names {
		r.awaitAgain(name)
	}
	time.Sleep(time.Second) // in which everything works
	stop()
	r.check()
}

// endFaults ends the faults that are due.
func (r *randomRound) endFaults(now time.Time) {
	var left []pendingEnd
	for _, p := range r.pending {
		if p.at.Before(now) {
			p.end()
		} else {
			left = append(left, p)
		}
	}
	r.pending = left
}

// restartEnded starts the nodes and etcd servers again that have ended although nobody has killed them. Only a full disk is a reason
// to end, and an etcd that does not answer while a node starts.
func (r *randomRound) restartEnded() {
	r.Helper()
	for _, name := range r.names {
		n := r.nodes[name]
		if r.hurt[name] || !n.Ended() {
			continue
		}
		said := n.Out.String()
		if !slices.ContainsFunc([]string{"no space left", "none of the etcd servers", "etcd does not answer in time"}, func(reason string) bool { return strings.Contains(said, reason) }) {
			r.Errorf("node %s has ended by itself: %s", name, n.Out.Tail())
		}
		r.restarts++
		r.launch(name)
	}
	for i := range r.etcd.Endpoints {
		if name := memberName(i); !r.hurt[name] && r.etcd.Ended(i) {
			if said := r.etcd.Output(i).String(); !strings.Contains(said, "no space left") {
				r.Errorf("etcd server %d has ended by itself: %s", i, r.etcd.Output(i).Tail())
			}
			r.restarts++
			r.etcd.Launch(i)
		}
	}
}

// awaitAgain waits until a node serves. A node whose disk was full has to be started again.
func (r *randomRound) awaitAgain(name string) {
	r.Helper()
	for until, again := time.Now().Add(2*time.Minute), time.Now(); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(r.nodes[name].URL + "/readyz")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(until) {
			r.Fatalf("node %s does not serve: %s", name, r.nodes[name].Out.Tail())
		}
		if time.Since(again) > time.Second && r.failed(name) {
			r.nodes[name].Kill()
			r.restarts++
			r.launch(name)
			again = time.Now()
		}
		r.restartEnded()
	}
}

// failed reports whether a node serves no longer because it could not write to its disk.
func (r *randomRound) failed(name string) bool {
	return strings.Contains(r.nodes[name].Out.String(), "no space left")
}

// check reads everything from all nodes, checks the histories and compares the nodes.
func (r *randomRound) check() {
	l := r.load
	r.readAll()
	var orders []deed
	records, keys := []deed{}, []deed{}
	for _, d := range l.deeds {
		switch d.Kind {
		case putRecord, readRecord:
			records = append(records, d)
		case createKey, revokeKey, passedKey, refusedKey:
			keys = append(keys, d)
		default:
			orders = append(orders, d)
		}
	}
	problems := slices.Concat(l.problems, checkRevoked(keys), checkUnique(l.given))
	limits := map[string]int{}
	for _, limit := range l.limits {
		limits[fmt.Sprint("limit ", limit)] = limit
	}
	if !r.suspends { // else the minutes of a node are shorter than those of the clients
		problems = append(problems, checkLimits(orders, limits, shortWindow)...)
	}
	recordProblems, late := checkOrder(recordModel, records, 20*time.Second)
	keyProblems, lateKeys := checkOrder(keyModel, keys, 20*time.Second)
	r.undecided = late + lateKeys
	problems = append(problems, slices.Concat(recordProblems, keyProblems)...)
	for _, kind := range []string{"create a contact", "change a contact", "read a contact", "create a key", "use a key", "revoke a key", "use a limited key", "make a call", "verify the audit log"} {
		if l.kinds[kind] == 0 {
			problems = append(problems, "no request of this kind was served, so nothing is shown of it: "+kind)
		}
	}
	for _, name := range r.names {
		if out := r.nodes[name].Out.String(); strings.Contains(out, "panic: ") || strings.Contains(out, "DATA RACE") || strings.Contains(out, "klen_") {
			problems = append(problems, "the log of node "+name+" has a panic or a secret: "+r.nodes[name].Out.Tail())
		}
		if code := r.nodes[name].Stop(r); code != 0 {
			problems = append(problems, fmt.Sprintf("node %s ended with %d: %s", name, code, r.nodes[name].Out.Tail()))
		}
	}
	r.sameRecords(r.names)
	problems = append(problems, compareFiles(r.views())...)
	for i, problem := range problems {
		if r.Error(problem); i > 20 {
			r.Fatalf("and %d more problems", len(problems)-i)
		}
	}
}

// views returns the paths of the files of the nodes.
func (r *randomRound) views() (paths []string) {
	for _, name := range r.names {
		paths = append(paths, filepath.Join(r.folder(name), storeFile))
	}
	return paths
}

// readAll reads everything that was created from all nodes, once they serve again.
func (r *randomRound) readAll() {
	r.Helper()
	l := r.load
	read := map[string]bool{}
	audits := map[string]bool{}
	for _, name := range r.names {
		for _, d := range slices.Clone(l.deeds) {
			if at := name + " " + d.Object; d.Kind == putRecord && !read[at] {
				read[at] = true
				if id := strings.TrimPrefix(d.Object, "contact "); !r.answered(name, func() bool { return l.readRecord(name, id) }) {
					r.Errorf("node %s does not answer about %s", name, d.Object)
				}
			}
		}
		for _, key := range l.keys {
			if !r.answered(name, func() bool { return l.useKey(name, key) }) {
				r.Errorf("node %s does not answer about the key %s", name, key.id)
			}
		}
		l.problems = append(l.problems, r.checkLists(name)...)
		audit := ""
		r.answered(name, func() bool { audit = l.audit(name); return audit != "" })
		audits[audit] = true
	}
	if len(audits) != 1 || audits[""] {
		r.Errorf("the audit logs differ: %v", slices.Sorted(maps.Keys(audits)))
	}
}

// answered reports whether a node answers a request. It asks again if not, because a node can lose its lease for a moment
// if the machine is busy with something else.
func (r *randomRound) answered(name string, ask func() bool) bool {
	r.Helper()
	for range 5 {
		if ask() {
			return true
		}
		r.awaitAgain(name)
	}
	return false
}

// checkLists compares the contacts and the calls of a node with what was asked for, and what was charged for calls.
func (r *randomRound) checkLists(name string) (problems []string) {
	r.Helper()
	l := r.load
	contacts, calls, owners := map[string][]string{}, map[string][]string{}, map[string]int{}
	r.each(name, "contacts", func(data []byte) error {
		var c loadContact
		err := json.Unmarshal(data, &c)
		contacts[c.FirstName] = append(contacts[c.FirstName], c.LastName)
		return err
	})
	r.each(name, "calls", func(data []byte) error {
		var c struct {
			Owner       string
			PhoneNumber string `json:"phone_number"`
		}
		err := json.Unmarshal(data, &c)
		calls[c.PhoneNumber] = append(calls[c.PhoneNumber], c.Owner)
		owners[c.Owner]++
		return err
	})
	problems = append(checkLedger(l.contacts, contacts), checkLedger(l.calls, calls)...)
	for owner, id := range l.ids {
		answer := l.send(clusterAsk{kind: "read a key", node: name, method: "GET", path: "/admin/v1/keys/" + id})
		var key struct {
			Usage map[string]struct{ Used int }
		}
		if err := json.Unmarshal(answer.body, &key); err != nil || answer.status != http.StatusOK {
			r.Errorf("the key %s on %s: %d %s", id, name, answer.status, answer.body)
		}
		if used := key.Usage["calls_per_day_limit"].Used; used != owners[owner] || used > loadCalls {
			problems = append(problems, fmt.Sprintf("on %s, %d calls of %s are stored, and %d were charged; the limit is %d", name, owners[owner], owner, used, loadCalls))
		}
	}
	for i := range problems {
		problems[i] = "on node " + name + ": " + problems[i]
	}
	return problems
}

// each calls visit with each record of a list of the admin endpoint.
func (r *randomRound) each(name, list string, visit func([]byte) error) {
	r.Helper()
	for page := 1; ; page++ {
		answer := r.load.send(clusterAsk{kind: "read a list", node: name, method: "GET", path: fmt.Sprintf("/admin/v1/%s?limit=1000&page=%d", list, page), at: r.load.latest()})
		var all map[string]json.RawMessage
		var rows []json.RawMessage
		err := json.Unmarshal(answer.body, &all)
		if err == nil {
			err = json.Unmarshal(all[list], &rows)
		}
		if answer.status != http.StatusOK || err != nil {
			r.Fatalf("%s of %s: %d %v %s", list, name, answer.status, err, answer.body)
		}
		for _, row := range rows {
			if err := visit(row); err != nil {
				r.Fatal(err)
			}
		}
		if len(rows) == 0 {
			return
		}
	}
}
