// Bench measures the whole program with wrk and prints a table. It compares the program with a server
// that only returns the same answer (./ceiling). The servers run in turn, each alone on core 0; wrk
// runs on core 1. Compare only numbers of the same run, because other machines have other numbers.
//
//	go run ./bench                         everything, about six minutes
//	go run ./bench -rounds 1 -seconds 2    a quick look
//	go run ./bench -stored 0               without the million keys
//	go run ./bench -only proxies           a guarded route beside a bare reverse proxy
//	go run ./bench -only neighbours        a quiet owner beside one that does its worst
//	go run ./bench -only lists             lists of a million calls and audit entries, alone: about ten minutes
//	go run ./bench -only lists -scale 0.1  the same lists with a tenth of the records
//	go run ./bench -beside FILE            another build of latchkey in the same rounds
//	go run ./bench -traefik FILE           a program of Traefik among the proxies
//
// It needs Linux with two cores, and wrk and taskset (Debian: wrk, util-linux).
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bench is one run of the program.
type bench struct {
	dir     string  // temporary folder for all files of the run
	rounds  int     // number of times that each server is loaded
	seconds int     // duration of each load
	stored  int     // number of keys in the large store; 0 to leave it out
	only    string  // part to run: reads, calls, proxies, neighbours or lists; "" for all but lists
	scale   float64 // size of the stores with lists; 1 is 1,000,000 calls
	beside  string  // path of another build of latchkey; "" to leave it out
	failed  bool    // true if a request was refused

	traefikFile string // path of Traefik; "" to leave it out
}

func main() {
	log.SetFlags(0)
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 3, "how often each server is loaded, in turn")
	flag.IntVar(&b.seconds, "seconds", 8, "how long each load lasts")
	flag.IntVar(&b.stored, "stored", 1_000_000, "how many keys the large store has; 0 leaves it out")
	flag.StringVar(&b.only, "only", "", "run only this part: reads, calls, proxies, neighbours or lists")
	flag.Float64Var(&b.scale, "scale", 1, "size of the stores for -only lists; 1 is 1,000,000 calls")
	flag.StringVar(&b.beside, "beside", "", "path of another build of latchkey to load in the same rounds")
	flag.StringVar(&b.traefikFile, "traefik", "", "path of Traefik, to load it in the same rounds as the proxies")
	flag.Parse()
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		log.Fatal(err)
	}
	b.dir = dir
	err = b.run()
	if removeErr := os.RemoveAll(dir); err == nil {
		err = removeErr
	}
	if err != nil {
		log.Fatal(err)
	}
	if b.failed {
		os.Exit(1)
	}
}

// run builds both programs and measures them.
func (b *bench) run() error {
	for name, pkg := range map[string]string{"latchkey": ".", "ceiling": "./bench/ceiling"} {
		if err := command("go", "build", "-trimpath", "-o", filepath.Join(b.dir, name), pkg).Run(); err != nil {
			return fmt.Errorf("build %s: %w", pkg, err)
		}
	}
	if b.only == "lists" {
		return b.lists()
	}
	var small func() (*server, error)
	var keys string
	if b.only != "neighbours" { // which has keys of its own
		var err error
		if small, keys, err = b.seed("small", 1000); err != nil {
			return err
		}
	}
	parts := []struct {
		name string
		run  func() error
	}{
		{"reads", func() error { return b.reads(small, keys) }},
		{"proxies", func() error { return b.proxies(keys) }},
		{"calls", func() error { return b.calls(small, keys) }},
		{"neighbours", b.neighbours},
	}
	known := b.only == ""
	for _, part := range parts {
		if b.only != "" && b.only != part.name {
			continue
		}
		known = true
		if err := part.run(); err != nil {
			return err
		}
	}
	if !known {
		return fmt.Errorf("-only must be reads, proxies, calls, neighbours or lists; got %s", b.only)
	}
	return nil
}

// contender is a server to measure and its results.
type contender struct {
	name  string
	start func() (*server, error)
	load  loadOptions // what differs from the load of the others; zero for what does not
	runs  []result    // one for each round
}

// reads measures GET /api/v1/agents. small starts the server with few keys. keys is the path of the
// file with these keys.
func (b *bench) reads(small func() (*server, error), keys string) error {
	if err := b.idle(); err != nil {
		return err
	}
	contenders := []*contender{
		{name: "ceiling", start: b.ceiling(serverCore, "/api/v1/agents", "-body", filepath.Join(b.dir, "body"))},
		{name: "latchkey, 1,000 keys", start: small},
	}
	if b.beside != "" {
		contenders = append(contenders, &contender{name: "the other build", start: b.programStarter(b.beside, "small")})
	}
	if b.stored > 0 {
		large, err := b.large(keys)
		if err != nil {
			return err
		}
		contenders = append(contenders, &contender{name: fmt.Sprintf("latchkey, %d keys", b.stored), start: large})
	}
	if err := b.inTurn(contenders, loadOptions{path: "/api/v1/agents", keys: keys, connections: 32}); err != nil {
		return err
	}
	b.table("GET /api/v1/agents, 32 connections", contenders)
	return nil
}

// proxies measures reverse proxies in front of the same upstream.
func (b *bench) proxies(keys string) error {
	const path = "/things"
	upstream, err := b.ceiling(loadCore, path, "-body", filepath.Join(b.dir, "body"))()
	if err != nil {
		return err
	}
	config := filepath.Join(b.dir, "guard.toml")
	text := fmt.Sprintf("[[route]]\npath = %q\nmethods = [\"GET\"]\npermission = \"can_read_agents\"\nupstream = %q\n", path, upstream.url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return upstream.stop(err)
	}
	contenders := []*contender{
		{name: "a bare reverse proxy", start: b.ceiling(serverCore, path, "-proxy", upstream.url)},
		{name: "latchkey, a guarded route", start: b.starter("small", "--config", config)},
	}
	if b.beside != "" {
		contenders = append(contenders, &contender{name: "the other build", start: b.programStarter(b.beside, "small", "--config", config)})
	}
	if b.traefikFile != "" {
		list, err := os.ReadFile(keys)
		if err != nil {
			return upstream.stop(err)
		}
		key, _, _ := strings.Cut(string(list), "\n")
		contenders = append(contenders, &contender{name: "traefik, the key's form and a limit", start: b.traefik(path, upstream.url, key)})
	}
	if err := upstream.stop(b.inTurn(contenders, loadOptions{path: path, keys: keys, connections: 32})); err != nil {
		return err
	}
	b.table("GET through a reverse proxy, 32 connections", contenders)
	return nil
}

// inTurn loads each contender once in each round. Each round begins with another contender, so that
// other activity on the machine affects all contenders equally.
func (b *bench) inTurn(contenders []*contender, o loadOptions) error {
	for round := range b.rounds {
		for i := range contenders {
			c := contenders[(i+round)%len(contenders)]
			s, err := c.start()
			if err != nil {
				return fmt.Errorf("start %s: %w", c.name, err)
			}
			own := o
			own.keys, own.body = cmp.Or(c.load.keys, o.keys), cmp.Or(c.load.body, o.body)
			r, err := b.load(s, own)
			if err := s.stop(err); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			log.Printf("round %d: %-26s %v", round+1, c.name, r)
			c.runs = append(c.runs, r)
			b.failed = b.failed || r.refused > 0
		}
	}
	return nil
}

// table prints the medians of each contender and their ratios to the first contender.
func (b *bench) table(title string, contenders []*contender) {
	fmt.Printf("\n%s, medians of %d rounds of %d s; ratios are to the first in the same round\n\n", title, b.rounds, b.seconds)
	fmt.Println("| server | req/s | ratio | p50 ms | p99 ms | ratio | CPU us/req | ratio | RSS MB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, c := range contenders {
		ratio := func(of func(result) float64) float64 {
			var list []float64
			for i, r := range c.runs {
				list = append(list, of(r)/of(contenders[0].runs[i]))
			}
			return median(list)
		}
		of := func(of func(result) float64) float64 {
			var list []float64
			for _, r := range c.runs {
				list = append(list, of(r))
			}
			return median(list)
		}
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.1f | %.2f | %.0f |\n", c.name, of(result.rate), ratio(result.rate),
			of(result.median), of(result.worst), ratio(result.worst), of(result.cost), ratio(result.cost), of(result.memory))
	}
	fmt.Println()
}

// calls measures POST /api/v1/calls with 64 connections, whose keys are of one owner or of 64. small
// starts the server with keys of one owner. keys is the path of the file with these keys.
func (b *bench) calls(small func() (*server, error), keys string) error {
	many, manyKeys, err := b.seed("owners", 64)
	if err != nil {
		return err
	}
	const body = `{"phone_number": "+4930555044", "agent_id": %s}`
	own := loadOptions{keys: manyKeys, body: fmt.Sprintf(body, "AGENT")}
	contenders := []*contender{{name: "one owner", start: small}, {name: "64 owners", start: many, load: own}}
	if b.beside != "" {
		contenders = append(contenders, &contender{name: "the other build, one owner", start: b.programStarter(b.beside, "small")},
			&contender{name: "the other build, 64 owners", start: b.programStarter(b.beside, "owners"), load: own})
	}
	if err := b.inTurn(contenders, loadOptions{path: "/api/v1/calls", keys: keys, connections: 64, body: fmt.Sprintf(body, "1")}); err != nil {
		return err
	}
	sync, err := b.syncTime()
	if err != nil {
		return err
	}
	b.table("POST /api/v1/calls, 64 connections, each on disk before its answer", contenders)
	fmt.Printf("a 4 KiB write with fsync takes %.2f ms here\n", sync.Seconds()*1000)
	return nil
}

// syncTime returns the median time that the disk needs to write and sync one page of 4 KiB.
func (b *bench) syncTime() (time.Duration, error) {
	f, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	var times []float64
	for range 200 {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(began)))
	}
	return time.Duration(median(times)), nil
}

// median returns the median of list, which it sorts.
func median(list []float64) float64 {
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}
