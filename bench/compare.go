package main

import (
	"fmt"
	"log"
	"strings"
)

// ours is the name of the contender that is compared with each of the others.
const ours = "latchkey"

// contender is a server to measure and its results.
type contender struct {
	name  string
	start func() (*server, error)
	load  loadOptions // of its requests
	runs  []result    // one for each round
}

// compare loads each contender once in each round, and prints a table. Each round begins with another
// contender, so that other activity on the machine affects all contenders equally.
func (b *bench) compare(title string, contenders []*contender) error {
	for round := range b.rounds {
		for i := range contenders {
			c := contenders[(i+round)%len(contenders)]
			s, err := c.start()
			if err != nil {
				return fmt.Errorf("start %s: %w", c.name, err)
			}
			r, err := b.load(s, c.load)
			if err := s.stop(err); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			log.Printf("%s, round %d: %-26s %v", title, round+1, c.name, r)
			c.runs = append(c.runs, r)
			b.failed = b.failed || r.refused > 0
		}
	}
	b.table(title, contenders)
	return nil
}

// of returns the median of a figure of c.
func (c *contender) of(figure func(result) float64) float64 {
	var list []float64
	for _, r := range c.runs {
		list = append(list, figure(r))
	}
	return median(list)
}

// to returns the median of the ratios of a figure of c to that of another in the same round.
func (c *contender) to(other *contender, figure func(result) float64) float64 {
	var list []float64
	for i, r := range c.runs {
		list = append(list, figure(r)/figure(other.runs[i]))
	}
	return median(list)
}

// table prints the medians of each contender and their ratios to the first contender, and then the
// ratios of our program to each of the others.
func (b *bench) table(title string, contenders []*contender) {
	first := contenders[0]
	fmt.Printf("\n%s, medians of %d rounds of %d s; ratios are to the first in the same round\n\n", title, b.rounds, b.seconds)
	fmt.Println("| server | req/s | ratio | p50 ms | p99 ms | ratio | p99.9 ms | CPU us/req | ratio | RSS MB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, c := range contenders {
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.2f | %.1f | %.2f | %.0f |\n", c.name, c.of(result.rate), c.to(first, result.rate),
			c.of(result.median), c.of(result.high), c.to(first, result.high), c.of(result.highest), c.of(result.cost), c.to(first, result.cost), c.of(result.memory))
	}
	for _, c := range contenders {
		if c.name != ours {
			continue
		}
		fmt.Printf("\n| %s to | req/s | p50 | p99 | p99.9 | CPU |\n|---|---|---|---|---|---|\n", ours)
		for _, other := range contenders {
			if other != c {
				fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", other.name, c.to(other, result.rate), c.to(other, result.median),
					c.to(other, result.high), c.to(other, result.highest), c.to(other, result.cost))
			}
		}
	}
	fmt.Println()
}

// absent notes which contenders a table lacks, and why. It prints nothing if it lacks none.
func absent(reasons []string) {
	if len(reasons) > 0 {
		fmt.Printf("Not measured: %s.\n", strings.Join(reasons, "; "))
	}
}
