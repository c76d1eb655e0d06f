// Bench measures the whole program with wrk and prints tables. It compares the program with a server
// that only returns the same answer (./ceiling), with servers that are libraries (./peers), and with
// nginx and HAProxy, where they are installed. The servers run in turn, each alone on core 0; wrk runs
// on core 1. Compare only numbers of the same run, because other machines have other numbers.
//
//	go run ./bench                         everything but lists, about 40 minutes
//	go run ./bench -rounds 1 -seconds 2    a quick look
//	go run ./bench -only reads             GET /api/v1/agents: about 15 minutes
//	go run ./bench -only reads -stored 0   the same without the million keys
//	go run ./bench -only proxies           a guarded route beside other reverse proxies
//	go run ./bench -only libraries         one handler behind each server that is a library
//	go run ./bench -only neighbours        a quiet owner beside one that does its worst
//	go run ./bench -only lists             lists of a million calls and audit entries, alone: about ten minutes
//	go run ./bench -only lists -scale 0.1  the same lists with a tenth of the records
//	go run ./bench -beside FILE            another build of latchkey in the same rounds
//	go run ./bench -traefik FILE           a program of Traefik among the proxies
//
// It needs Linux with two cores, and wrk and taskset (Debian: wrk, util-linux). Debian's nginx-light and
// haproxy are measured if they are installed. The module of ./peers is fetched at the first run.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
)

// bench is one run of the program.
type bench struct {
	dir     string  // temporary folder for all files of the run
	rounds  int     // number of times that each server is loaded
	seconds int     // duration of each load
	stored  int     // number of keys in the large store; 0 to leave it out
	used    int     // number of keys that requests to the large store use, in turn
	only    string  // part to run; "" for all but lists
	scale   float64 // size of the stores with lists; 1 is 1,000,000 calls
	beside  string  // path of another build of latchkey; "" to leave it out
	failed  bool    // true if a request was refused

	traefikFile string // path of Traefik; "" to leave it out
}

func main() {
	log.SetFlags(0)
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 5, "how often each server is loaded, in turn")
	flag.IntVar(&b.seconds, "seconds", 5, "how long each load lasts")
	flag.IntVar(&b.stored, "stored", 1_000_000, "how many keys the large store has; 0 leaves it out")
	flag.IntVar(&b.used, "used", 1000, "how many of these keys the requests use, in turn")
	flag.StringVar(&b.only, "only", "", "run only this part: reads, proxies, libraries, calls, neighbours or lists")
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

// run builds the programs and measures them.
func (b *bench) run() error {
	for name, pkg := range map[string]string{"latchkey": ".", "ceiling": "./bench/ceiling"} {
		if err := command("go", "build", "-trimpath", "-o", filepath.Join(b.dir, name), pkg).Run(); err != nil {
			return fmt.Errorf("build %s: %w", pkg, err)
		}
	}
	parts := []struct {
		name string
		run  func() error
	}{
		{"reads", b.reads}, {"proxies", b.proxies}, {"libraries", b.libraries}, {"calls", b.calls}, {"neighbours", b.neighbours}, {"lists", b.lists},
	}
	known := false
	for _, part := range parts {
		if b.only != part.name && (b.only != "" || part.name == "lists") {
			continue
		}
		known = true
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if !known {
		return fmt.Errorf("-only must be reads, proxies, libraries, calls, neighbours or lists; got %s", b.only)
	}
	return nil
}

// median returns the median of list, which it sorts.
func median(list []float64) float64 {
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}
