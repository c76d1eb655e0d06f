// Bench measures the whole program with wrk, in turn with a bare ceiling that
// gives the same answer (./ceiling), each server alone on core 0 and wrk on
// core 1, and prints a table. Figures of one run may be compared with each
// other, not with those of another machine.
//
//	go run ./bench                         everything, about four minutes
//	go run ./bench -rounds 1 -seconds 2    a quick look
//	go run ./bench -stored 0               without the million keys
//
// It needs Linux with two cores, and wrk and taskset (Debian: wrk, util-linux).
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// bench is one run of the program.
type bench struct {
	dir     string // everything it makes is in here
	rounds  int
	seconds int
	stored  int
	failed  bool
}

func main() {
	log.SetFlags(0)
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 3, "how often each server is loaded, in turn")
	flag.IntVar(&b.seconds, "seconds", 8, "how long each load lasts")
	flag.IntVar(&b.stored, "stored", 1_000_000, "how many keys the large store has; 0 leaves it out")
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
	small, keys, err := b.seed("small", 1000)
	if err != nil {
		return err
	}
	if err := b.idle(); err != nil {
		return err
	}
	contenders := []*contender{{name: "ceiling", start: b.startCeiling}, {name: "latchkey, 1,000 keys", start: small}}
	if b.stored > 0 {
		large, err := b.large(keys)
		if err != nil {
			return err
		}
		contenders = append(contenders, &contender{name: fmt.Sprintf("latchkey, %d keys", b.stored), start: large})
	}
	if err := b.reads(contenders, keys); err != nil {
		return err
	}
	return b.calls(small, keys)
}

// contender is a server under load and what came of each round.
type contender struct {
	name  string
	start func() (*server, error)
	runs  []result
}

// reads loads the contenders with GET /api/v1/agents, in turn.
func (b *bench) reads(contenders []*contender, keys string) error {
	for round := range b.rounds {
		for _, c := range contenders {
			s, err := c.start()
			if err != nil {
				return fmt.Errorf("start %s: %w", c.name, err)
			}
			r, err := b.load(s, loadOptions{path: "/api/v1/agents", keys: keys, connections: 32})
			if err := s.stop(err); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			log.Printf("round %d: %-24s %v", round+1, c.name, r)
			c.runs = append(c.runs, r)
			b.failed = b.failed || r.refused > 0
		}
	}
	fmt.Printf("\nGET /api/v1/agents, 32 connections, medians of %d rounds of %d s\n\n", b.rounds, b.seconds)
	fmt.Println("| server | req/s | of the ceiling | p50 ms | p99 ms | p99 of the ceiling's | CPU us/req | RSS MB |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, c := range contenders {
		ratio := func(of func(result) float64) float64 {
			var list []float64
			for i, r := range c.runs { // of the same round
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
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.1f | %.0f |\n", c.name, of(result.rate), ratio(result.rate),
			of(result.median), of(result.worst), ratio(result.worst), of(result.cost), of(result.memory))
	}
	return nil
}

// calls loads a server with POST /api/v1/calls from 64 clients.
func (b *bench) calls(start func() (*server, error), keys string) error {
	var rates, medians, worst, costs []float64
	for round := range b.rounds {
		s, err := start()
		if err != nil {
			return err
		}
		r, err := b.load(s, loadOptions{path: "/api/v1/calls", keys: keys, connections: 64, body: `{"phone_number": "+4930555044", "agent_id": 1}`})
		if err := s.stop(err); err != nil {
			return err
		}
		log.Printf("round %d: %-24s %v", round+1, "POST /api/v1/calls", r)
		rates, medians, worst, costs = append(rates, r.rate()), append(medians, r.median()), append(worst, r.worst()), append(costs, r.cost())
		b.failed = b.failed || r.refused > 0
	}
	sync, err := b.syncTime()
	if err != nil {
		return err
	}
	fmt.Printf("\nPOST /api/v1/calls, 64 connections, each on disk before its answer: %.0f/s, p50 %.1f ms, p99 %.1f ms, %.0f us CPU each; a 4 KiB write with fsync takes %.2f ms here\n",
		median(rates), median(medians), median(worst), median(costs), sync.Seconds()*1000)
	return nil
}

// syncTime is how long the disk takes to store one page for good.
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

func median(list []float64) float64 {
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}
